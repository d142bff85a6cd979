"""Energy in Transformers: ``trainer.add_callback(EnergyCallback(trainer))``."""

from __future__ import annotations

import contextlib
import math
import os
from functools import partial
from typing import Any

from joulelab.integrations.figures import Epoch, stage_energy, stage_figures
from joulelab.integrations.fit import CHECKPOINT, FIT, STEP, VALIDATE, Fit
from joulelab.integrations.hooks import EnergyHooks
from joulelab.integrations.stages import bracket, takes_part
from joulelab.meter import Meter
from joulelab.recording.launcher import current_launch

try:
    from transformers import (
        Trainer,
        TrainerCallback,
        TrainerControl,
        TrainerState,
        TrainingArguments,
    )
except ImportError as error:
    raise ImportError(
        "Transformers' Trainer cannot be imported; run pip install 'joulelab[integrations]'"
    ) from error

BRACKETED = {"evaluate": VALIDATE, "predict": "predict", "_save_checkpoint": CHECKPOINT}
"""Methods of a trainer, and the spans around them."""

PREFIX = "energy_"


class EnergyCallback(EnergyHooks, TrainerCallback):
    """Marks what a trainer does, and logs its energy as the trainer logs its loss.

    Spans are ``fit`` > ``epoch`` > ``step``, with ``validate`` and ``checkpoint`` where they
    happen; with the trainer also ``validate`` and ``predict`` of their own. A ``step`` is one step
    of the optimiser, with all the batches that it accumulates.

    A callback is told neither of the trainer that it belongs to nor of a failure. So without the
    trainer, as ``Trainer(callbacks=[EnergyCallback()])``, energies go to ``state.log_history``
    alone, and the spans that an exception leaves open end with :meth:`close`, with the ``with``
    block of which this is the context, or when the next training begins.

    Of the processes on one host the first logs, and what it logs is the host's.

    Args:
        trainer: Whose callback this will be.
        meter: The caller's own; ``None``: one is opened for each call of the trainer.
        steps: Whether to mark steps. A span takes about 0.5 kB of memory.
        forecast: Whether to log what all epochs will take; needs SciPy.
    """

    def __init__(
        self,
        trainer: Trainer | None = None,
        meter: Meter | None = None,
        *,
        steps: bool = True,
        forecast: bool = True,
    ) -> None:
        super().__init__(meter, steps=steps, forecast=forecast)
        self._trainer = trainer
        self._index = self._first_step = 0
        if trainer is not None:
            bracket(trainer, "train", lambda: None, self.close)
            for method, name in BRACKETED.items():
                bracket(trainer, method, partial(self._begin, name), partial(self._end, name))

    def close(self) -> None:
        """Ends whatever is open, logs what can be, and ends the recording."""
        if self._trainer is not None:
            self._finish(self._trainer.state, self._trainer.control)
        super().close()

    # Training.

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Begins a fit; one that failed before ends."""
        self.close()
        if not takes_part(first=state.is_local_process_zero):
            return
        self._index = int((state.epoch or 0.0) + 1e-6)
        total_steps = state.max_steps - state.global_step if self._forecast else math.inf
        self._fit = Fit(self._stages, logs=state.is_local_process_zero, total_steps=total_steps)

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Logs the epochs whose energies are worked out now, and begins the next."""
        if self._fit is not None:
            self._log_epochs(state, control)
            self._fit.begin_epoch(self._index, state.global_step)
            self._index, self._first_step = self._index + 1, state.global_step

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Begins a step, with the first batch of those that it accumulates."""
        if self._fit is not None and self._steps:
            self._stages.begin(STEP, index=state.global_step)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Ends the step."""
        if self._fit is not None:
            self._stages.end(STEP)
            self._foresee(control)

    def on_epoch_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        train_dataloader: Any = None,
        **_: Any,
    ) -> None:
        """Ends the epoch; its validation and checkpoint are still to come."""
        if self._fit is None:
            return
        steps = state.global_step - self._first_step
        samples = _samples(args, state, steps, train_dataloader)
        self._fit.end_epoch(state.epoch or math.nan, state.global_step, samples)
        self._foresee(control)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Ends the fit with the trainer's last words, before loggers are told of its end."""
        if logs is not None and "train_runtime" in logs:
            self._finish(state, control)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Ends the recording."""
        self._finish(state, control)
        self.close()

    # Validation and checkpoints.

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Begins the validation on a further data set."""
        if self._fit is not None and self._trainer is None:
            self._fit.begin_validation()

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Ends a validation."""
        if self._fit is not None and self._trainer is None:
            self._fit.end_validation()
            self._foresee(control)

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Ends a checkpoint."""
        if self._trainer is None:
            self._stages.end(CHECKPOINT)

    def _foresee(self, control: TrainerControl) -> None:
        """Begins what comes next, where the trainer cannot be asked to tell when it does."""
        if self._trainer is not None or self._fit is None:
            return
        if control.should_evaluate:
            self._fit.begin_validation()
        elif control.should_save:
            self._stages.begin(CHECKPOINT)

    def _begin(self, name: str) -> None:
        assert self._trainer is not None
        if self._fit is not None and name == VALIDATE:
            self._fit.begin_validation()
        elif takes_part(first=self._trainer.is_local_process_zero()):
            self._stages.begin(name)

    def _end(self, name: str) -> None:
        assert self._trainer is not None
        if self._fit is not None and name == VALIDATE:
            self._fit.end_validation()
            return
        span = self._stages.end(name)
        if self._fit is None and span is not None:
            if self._trainer.is_local_process_zero():
                row = stage_figures(name, stage_energy(span))
                self._log(self._trainer.state, self._trainer.control, row)
            self._stages.close()

    # Logging.

    def _log_epochs(
        self, state: TrainerState, control: TrainerControl, *, at_once: bool = False
    ) -> None:
        assert self._fit is not None
        for epoch, row in self._fit.due(at_once=at_once):
            self._log(state, control, row, epoch)

    def _log(
        self,
        state: TrainerState,
        control: TrainerControl,
        row: dict[str, float],
        epoch: Epoch | None = None,
    ) -> None:
        """Logs a row as of now, or as of the end of an epoch."""
        if not row:
            return
        now = state.epoch, state.global_step, control.should_log
        if epoch is not None:
            state.epoch, state.global_step = epoch.epoch, epoch.step
        named = {PREFIX + name: value for name, value in row.items()}
        try:
            if self._trainer is not None:
                self._trainer.log(named)
            else:
                place = {"epoch": state.epoch, "step": state.global_step}
                state.log_history.append({**named, **place})
        finally:
            # That it has logged our row is no reason for it not to log its own.
            state.epoch, state.global_step, control.should_log = now

    def _finish(self, state: TrainerState, control: TrainerControl) -> None:
        fit = self._fit
        if fit is None:
            return
        self._stages.end_all()
        self._log_epochs(state, control, at_once=True)
        self._fit = None  # the trainer tells of what is logged now as well
        self._log(state, control, stage_figures(FIT, fit.end()))


def _samples(args: TrainingArguments, state: TrainerState, steps: int, loader: Any) -> float:
    """How many samples this host trained on in so many steps, of which the last may be smaller."""
    a_step = (state.train_batch_size or args.train_batch_size) * args.gradient_accumulation_steps
    samples = steps * a_step * args.world_size
    with contextlib.suppress(TypeError, AttributeError):
        samples = min(samples, len(loader.dataset))
    return float(samples * _share_of_host(args.world_size))


def _share_of_host(world_size: int) -> float:
    """The share of the job's processes that are on this host; NaN where that is not told."""
    if world_size == 1:
        return 1.0
    if "LOCAL_WORLD_SIZE" in os.environ:
        return int(os.environ["LOCAL_WORLD_SIZE"]) / world_size
    launch = current_launch()
    return 1 / launch.nodes if launch is not None and launch.nodes else math.nan
