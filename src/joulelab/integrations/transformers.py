"""Energy in Transformers: ``trainer.add_callback(EnergyCallback(trainer))``."""

from __future__ import annotations

import contextlib
import math
import os
import sys
import weakref
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

from joulelab.batches import TokenCounter, count_tokens
from joulelab.integrations.callback import EnergyHooks, should_record
from joulelab.integrations.fit import Fit
from joulelab.integrations.hook_spans import wrap_method, wrap_step
from joulelab.integrations.metrics import Epoch, Metrics, stage_energy, stage_metrics
from joulelab.meter import Meter
from joulelab.recording.launcher import current_launch

try:
    from transformers import Trainer, TrainerCallback
    from transformers import TrainerControl as Control
    from transformers import TrainerState as State
    from transformers import TrainingArguments as Arguments
except ImportError as error:
    message = "Transformers' Trainer cannot be imported; run pip install 'joulelab[integrations]'"
    raise ImportError(message) from error

SPANS_OF_METHODS = {
    "train": "fit",
    "evaluate": "validate",
    "predict": "predict",
    "_save_checkpoint": "checkpoint",
}
STEPS = ("training_step", "prediction_step")
"""Methods that process a batch: their second argument."""
PREFIX = "energy_"


class EnergyCallback(EnergyHooks, TrainerCallback):
    """Records what a trainer does, and logs its energy as the trainer logs its loss.

    The spans are ``fit`` > ``epoch`` > ``step``, with ``validate`` and ``checkpoint`` where they
    happen, and ``validate`` and ``predict`` on their own. A ``step`` is one step of the optimiser,
    with all the batches that it accumulates. With ``auto_find_batch_size`` there is a span
    ``attempt`` within the fit for each batch size. What the trainer does after its last log, for
    example loading the best model, is a span ``finish`` if the trainer was given.

    Of several processes on one host the first one logs, for the whole host. Further arguments are
    those of :class:`~joulelab.integrations.callback.EnergyHooks`.

    Args:
        trainer: The trainer, if the callback is added after the trainer was made.
        meter: Meter to use. Default: a new one for each call of the trainer.
        tokens_in: Counts the tokens of a batch. Default: those of its ``input_ids``, without
            padding if there is an ``attention_mask``.
        **options: Further arguments.
    """

    def __init__(
        self,
        trainer: Trainer | None = None,
        meter: Meter | None = None,
        tokens_in: TokenCounter | None = None,
        **options: Any,
    ) -> None:
        super().__init__(meter, **options)
        self._spans.tokens_in = tokens_in or count_tokens
        self._restore_steps: list[Callable[[], None]] = []
        self._is_wrapped = False  # whether the end of the running train() will be noticed
        self._trainer: Trainer | None = None
        self._state: State | None = None
        self._outer: list[Fit | None] = []  # of calls within which another trainer's runs
        self._attached: weakref.WeakSet[Trainer] = weakref.WeakSet()
        self._index = self._first_step = 0
        if trainer is not None:
            self._attach(trainer)

    def close(self) -> None:
        """End all open spans and the recording, and log the remaining metrics."""
        if self._trainer is not None:
            self._finish(self._trainer.state, self._trainer.control, failed=True)
        super().close()
        self._restore()

    def on_init_end(self, args: Arguments, state: State, control: Control, **_: Any) -> None:
        self._attach(_calling_trainer(self))

    def on_train_begin(self, args: Arguments, state: State, control: Control, **_: Any) -> None:
        if self._trainer is None:  # it was added to the trainer later
            self._begin_call()
            self._attach(_calling_trainer(self))
        if self._outer or not should_record(first=state.is_local_process_zero):
            return
        if self._trainer is not None:
            self._count_steps(self._trainer)
        if self._fit is not None and state is self._state:
            return  # the trainer has this callback twice
        self._index, self._state = int((state.epoch or 0.0) + 1e-6), state
        total_steps = state.max_steps - state.global_step if self._forecast else math.inf
        is_repeated = self._fit is not None
        if self._fit is None:
            logs = state.is_local_process_zero
            self._fit = self._begin_fit(logs=logs, total_steps=total_steps)
        if is_repeated or args.auto_find_batch_size:
            self._fit.begin_attempt(total_steps=total_steps)

    def on_epoch_begin(self, args: Arguments, state: State, control: Control, **_: Any) -> None:
        if self._fit is not None and not self._fit.in_epoch:
            self._log_epochs(state, control)
            self._fit.begin_epoch(self._index, state.global_step)
            self._index, self._first_step = self._index + 1, state.global_step

    def on_step_begin(self, args: Arguments, state: State, control: Control, **_: Any) -> None:
        if self._fit is not None and self._steps and self._spans.find("step") is None:
            self._spans.begin("step", index=state.global_step)

    def on_step_end(self, args: Arguments, state: State, control: Control, **_: Any) -> None:
        if self._fit is not None:
            self._spans.end("step")

    def on_epoch_end(self, args: Arguments, state: State, control: Control, **more: Any) -> None:
        # Validation and checkpoint come later.
        if self._fit is not None:
            steps = state.global_step - self._first_step
            samples = _samples(args, state, steps, more.get("train_dataloader"))
            step = state.global_step
            self._fit.end_epoch(state.epoch or math.nan, step, samples, step)

    def on_log(self, args: Arguments, state: State, control: Control, **more: Any) -> None:
        logs = more.get("logs") or {}
        if "train_runtime" in logs:
            # The trainer's last log; loggers are closed after it.
            self._finish(state, control)
        elif "loss" in logs and self._fit is not None:
            self._log(state, control, self._fit.recent_metrics())

    def on_train_end(self, args: Arguments, state: State, control: Control, **_: Any) -> None:
        self._finish(state, control)
        if not self._is_wrapped:
            self.close()

    def _attach(self, trainer: Trainer | None) -> None:
        """Measure the calls of a trainer, which reports no failures to its callbacks."""
        if trainer is None or trainer in self._attached:
            return
        if not self._is_wrapped:
            self._trainer = trainer
        self._attached.add(trainer)
        for method, name in SPANS_OF_METHODS.items():
            begin, end = partial(self._begin, trainer, name), partial(self._end, trainer, name)
            wrap_method(trainer, method, begin, end)

    def _count_steps(self, trainer: Trainer) -> None:
        """Count the tokens of the batches that a trainer processes until :meth:`close`."""
        if self._restore_steps:
            return
        share, accelerator = _share_of_host(trainer.args.world_size), trainer.accelerator
        self._spans.processes = trainer.args.world_size * share
        parallel = getattr(accelerator, "parallelism_config", None)
        sizes = (getattr(parallel, name, None) or 1 for name in ("tp_size", "cp_size"))
        self._spans.replicas = self._spans.processes / math.prod(sizes)
        self._restore_steps = [wrap_step(trainer, method, self._spans) for method in STEPS]

    def _begin(self, trainer: Trainer, name: str) -> None:
        if self._outer or (self._is_wrapped and (name == "fit" or trainer is not self._trainer)):
            # What another trainer does within a training is part of that.
            self._outer.append(self._fit)
            self._fit = None
            return
        if name == "fit":
            self._begin_call()
            self._is_wrapped = True
        self._trainer = trainer
        self._track_with(trainer.callback_handler.callbacks)
        if name != "checkpoint" and should_record(first=trainer.is_local_process_zero()):
            self._count_steps(trainer)
        if self._fit is not None and name == "validate":
            self._fit.begin_validation()
        elif should_record(first=trainer.is_local_process_zero()):
            self._spans.begin(name)

    def _end(self, trainer: Trainer, name: str) -> None:
        if self._outer:
            self._fit = self._outer.pop()
            return
        if name == "fit":
            self._is_wrapped = False
            span = self._spans.end("finish")
            if span is not None and trainer.is_local_process_zero():
                # Loggers are closed by now.
                self.history.append(self._named(stage_metrics("finish", span, stage_energy(span))))
            self.close()
            return
        if self._fit is not None and name == "validate":
            self._fit.end_validation()
            return
        span = self._spans.end(name)
        if span is not None and self._spans.find("fit") is None:
            if trainer.is_local_process_zero():
                [tokens] = self._spans.host_tokens([span])
                row = stage_metrics(name, span, stage_energy(span), tokens)
                self._log(trainer.state, trainer.control, row)
            self._restore()
            self._spans.close()

    def _log_epochs(self, state: State, control: Control, *, now: bool = False) -> None:
        assert self._fit is not None
        for epoch, row in self._fit.new_metrics(now=now):
            self._log(state, control, row, epoch)

    def _log(
        self, state: State, control: Control, row: Metrics, epoch: Epoch | None = None
    ) -> None:
        if not row:
            return
        now = state.epoch, state.global_step, control.should_log
        if epoch is not None:
            state.epoch, state.global_step = epoch.epoch, epoch.step
        named = self._named(row)
        self.history.append({**named, "epoch": state.epoch, "step": state.global_step})
        try:
            if self._trainer is not None:
                self._trainer.log(named)
            else:
                state.log_history.append(self.history[-1])
        finally:
            # The trainer must still log its own metrics.
            state.epoch, state.global_step, control.should_log = now

    def _named(self, row: Metrics) -> dict[str, Any]:
        return {PREFIX + name: value for name, value in self._in_units(row).items()}

    def _restore(self) -> None:
        """End the counting of tokens."""
        while self._restore_steps:
            self._restore_steps.pop()()

    def _finish(self, state: State, control: Control, *, failed: bool = False) -> None:
        if not self._outer and self._has_fit(logs=state.is_local_process_zero):
            self._spans.end_all()
            if self._is_wrapped and not failed:
                self._spans.begin("finish")
            self._log_epochs(state, control, now=True)
            self._log(state, control, self._end_fit(failed=failed))


def _calling_trainer(callback: EnergyCallback) -> Trainer | None:
    """Find the trainer whose hook is running, which hooks are not given."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, Trainer) and callback in owner.callback_handler.callbacks:
            return owner
        frame = frame.f_back
    return None


def _samples(args: Arguments, state: State, steps: int, loader: Any) -> float:
    """Count the samples that this host trained on in some steps; the last one may be smaller."""
    per_step = (state.train_batch_size or args.train_batch_size) * args.gradient_accumulation_steps
    samples = steps * per_step * args.world_size
    with contextlib.suppress(TypeError, AttributeError):
        samples = min(samples, len(loader.dataset))
    return float(samples * _share_of_host(args.world_size))


def _share_of_host(world_size: int) -> float:
    """Return the fraction of the job's processes that run on this host; NaN if unknown."""
    if world_size == 1:
        return 1.0
    if "LOCAL_WORLD_SIZE" in os.environ:
        return int(os.environ["LOCAL_WORLD_SIZE"]) / world_size
    launch = current_launch()
    return 1 / launch.nodes if launch is not None and launch.nodes else math.nan
