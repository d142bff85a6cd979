"""Energy in Lightning (the package ``lightning``): ``Trainer(callbacks=[EnergyCallback()])``."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Sequence
from functools import partial, wraps
from typing import Any, ClassVar

from joulelab.batches import UNKNOWN_TOKENS, TokenCounter, batch_size, count_tokens
from joulelab.integrations.callback import EnergyHooks, should_record
from joulelab.integrations.hook_spans import wrap_method
from joulelab.integrations.metrics import Metrics, stage_energy, stage_metrics
from joulelab.meter import Meter

SampleCounter = Callable[[Any], float]
Trainer = Any
"""A trainer of either package; they have no type in common."""

PREFIX = "energy/"


class LightningHooks(EnergyHooks):
    """Records what a Lightning trainer does, and logs its energy to the trainer's loggers.

    The spans are ``fit`` > ``epoch`` > ``step``, with ``sanity_check``, ``validate`` and
    ``checkpoint`` where they happen, and ``validate``, ``test`` and ``predict`` on their own. A
    ``step`` is one step of the optimiser, with all the batches that it accumulates. What other
    trainers with this callback do within a call of one is part of that call. Of several processes
    on one host the first one logs, for the whole host.

    Args:
        meter: Meter to use. Default: a new one for each call of the trainer.
        samples_in: Counts the samples of a batch. Default: the length of its first tensor.
        tokens_in: Counts the tokens of a batch. Default: those of all ``input_ids`` in it, without
            padding if there is an ``attention_mask``.
        **options: Further arguments of :class:`~joulelab.integrations.callback.EnergyHooks`. The
            summary at the end of a fit goes to Lightning's log.
    """

    _logger: ClassVar[logging.Logger]

    def __init__(
        self,
        meter: Meter | None = None,
        samples_in: SampleCounter | None = None,
        tokens_in: TokenCounter | None = None,
        **options: Any,
    ) -> None:
        super().__init__(meter, **options)
        self._spans.tokens_in = tokens_in or count_tokens
        self._batch_tokens = UNKNOWN_TOKENS
        self._samples_in = samples_in or batch_size
        self._is_recording = self._logs = False
        self._step_at: int | None = None
        self._logged_at = 0
        self._samples = 0.0
        self._trainer: Trainer | None = None
        self._restore_trainer: Callable[[], None] | None = None

    def setup(self, trainer: Trainer, _: Any, stage: str) -> None:
        outer = self._trainer
        if outer is not None and outer is not trainer and not outer.state.stopped:
            return
        if trainer.callbacks.count(self) > 1:
            # The loop over the callbacks that called this continues with the old list.
            trainer.callbacks = [*trainer.callbacks]
            trainer.callbacks.remove(self)
            return
        self._begin_call()
        self._trainer = trainer
        self._logs = trainer.local_rank == 0
        self._is_recording = should_record(first=self._logs)
        if not self._is_recording:
            return
        # Processes that share a batch, for example by tensor parallelism, count it once.
        sampler = trainer.distributed_sampler_kwargs or {"num_replicas": 1}
        self._spans.replicas = sampler["num_replicas"] / trainer.num_nodes
        self._spans.processes = trainer.world_size / trainer.num_nodes
        self._track_with(trainer.loggers)
        if stage == "fit":
            self._spans.begin("fit")
        begin, end = (
            partial(self._spans.begin, "checkpoint"),
            partial(self._spans.end, "checkpoint"),
        )
        self._restore_trainer = wrap_method(trainer, "save_checkpoint", begin, end)

    def teardown(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        self._finish(trainer)

    on_exception = teardown

    def on_train_start(self, trainer: Trainer, *_: Any) -> None:
        if not self._is_recording:
            return
        totals = {}
        if self._forecast and (trainer.max_epochs or -1) >= 0:
            totals["total_epochs"] = trainer.max_epochs - trainer.current_epoch
        if self._forecast and trainer.max_steps >= 0:
            totals["total_steps"] = trainer.max_steps - trainer.global_step
        self._fit = self._begin_fit(logs=self._logs, **totals)

    def on_train_epoch_start(self, trainer: Trainer, *_: Any) -> None:
        if self._fit is not None:
            self._samples = 0.0
            self._fit.begin_epoch(trainer.current_epoch, trainer.global_step)

    def on_train_batch_start(self, trainer: Trainer, _: Any, batch: Any, *__: Any) -> None:
        if self._fit is None:
            return
        self._batch_tokens = self._spans.count(batch)
        if not self._fit.in_epoch:  # resumed within an epoch, without a hook
            self.on_train_epoch_start(trainer)
        if self._steps and self._step_at is None:
            self._step_at = trainer.global_step
            self._spans.begin("step", index=self._step_at)

    def on_train_batch_end(self, trainer: Trainer, _: Any, __: Any, batch: Any, *___: Any) -> None:
        if self._fit is None:
            return
        self._samples += self._samples_in(batch)
        self._spans.add(self._batch_tokens)
        step = trainer.global_step
        if self._step_at is not None and step != self._step_at:
            self._end_step()
        every = trainer.log_every_n_steps
        if every and step % every == 0 and step != self._logged_at:
            self._logged_at = step
            self._log(trainer, self._fit.recent_metrics(), _logged_at(step))

    def on_train_epoch_end(self, trainer: Trainer, *_: Any) -> None:
        if self._fit is None:
            return
        self._end_step()
        samples, step = self._samples * self._spans.replicas, trainer.global_step
        self._fit.end_epoch(trainer.current_epoch, step, samples, _logged_at(step))
        self._log_epochs(trainer)

    def on_sanity_check_start(self, *_: Any) -> None:
        self._begin_stage("sanity_check")

    def on_sanity_check_end(self, *_: Any) -> None:
        self._spans.end("sanity_check")

    def on_validation_start(self, trainer: Trainer, *_: Any) -> None:
        if self._fit is not None:
            self._step_at = None
            self._fit.begin_validation()
        elif not trainer.sanity_checking:
            self._begin_stage("validate")

    def on_validation_end(self, trainer: Trainer, *_: Any) -> None:
        if self._fit is not None:
            self._fit.end_validation()
        elif not trainer.sanity_checking:
            self._end_stage(trainer, "validate")

    def on_validation_batch_start(self, trainer: Trainer, _: Any, batch: Any, *__: Any) -> None:
        self._spans.add(self._spans.count(batch))

    on_test_batch_start = on_predict_batch_start = on_validation_batch_start

    def on_test_start(self, *_: Any) -> None:
        self._begin_stage("test")

    def on_test_end(self, trainer: Trainer, *_: Any) -> None:
        self._end_stage(trainer, "test")

    def on_predict_start(self, *_: Any) -> None:
        self._begin_stage("predict")

    def on_predict_end(self, trainer: Trainer, *_: Any) -> None:
        self._end_stage(trainer, "predict")

    def _begin_stage(self, name: str) -> None:
        if self._is_recording:
            self._spans.begin(name)

    def _end_stage(self, trainer: Trainer, name: str) -> None:
        span = self._spans.end(name)
        if span is not None and self._logs:
            [tokens] = self._spans.host_tokens([span])
            row = stage_metrics(name, span, stage_energy(span), tokens)
            self._log(trainer, row, trainer.global_step)

    def _end_step(self) -> None:
        if self._step_at is not None:
            self._step_at = None
            self._spans.end("step")

    def _log_epochs(self, trainer: Trainer, *, now: bool = False) -> None:
        assert self._fit is not None
        for epoch, row in self._fit.new_metrics(now=now):
            self._log(trainer, {**row, "epoch": epoch.epoch}, _logged_at(epoch.step))

    def _log(self, trainer: Trainer, row: Metrics, step: int) -> None:
        if not row:
            return
        row = self._in_units(row)
        named = {name if name == "epoch" else PREFIX + name: row[name] for name in row}
        self.history.append({**named, "step": step})
        for logger in trainer.loggers:
            logger.log_metrics(named, step=step)
            logger.save()

    def _finish(self, trainer: Trainer) -> None:
        has_fit = self._has_fit(logs=self._logs)
        self._spans.end_all()
        if has_fit:
            self._log_epochs(trainer, now=True)
            self._log(trainer, self._end_fit(), _logged_at(trainer.global_step))
        self.close()

    def _show(self, lines: Sequence[str]) -> None:
        self._logger.info("energy of the fit: %s", "\n    ".join(lines))

    def close(self) -> None:
        """End all open spans and the recording, without logging."""
        super().close()
        self._trainer = self._step_at = None
        if self._restore_trainer is not None:
            self._restore_trainer()
            self._restore_trainer = None


def _logged_at(step: int) -> int:
    """Return the step under which Lightning logs what is known after a number of steps."""
    return max(0, step - 1)


def _ignore_others(hook: Callable[..., None]) -> Callable[..., None]:
    """Leave out calls of a hook by other trainers than the one that is measured."""

    @wraps(hook)
    def of_one(self: LightningHooks, trainer: Trainer, *args: Any, **options: Any) -> None:
        if trainer is self._trainer:
            hook(self, trainer, *args, **options)

    return of_one


def make_callback(package: str, install: str) -> Any:
    """Make the callback class for one of Lightning's two packages."""
    name = package.partition(".")[0]
    try:
        base = importlib.import_module(f"{package}.callbacks").Callback
    except ModuleNotFoundError as error:
        message = f"the package {name} is not installed; run pip install {install}"
        raise ImportError(message) from error
    module, logger = f"joulelab.integrations.{name}", logging.getLogger(package)
    contents = {"__doc__": LightningHooks.__doc__, "__module__": module, "_logger": logger}
    hooks = {
        name: _ignore_others(hook)
        for name, hook in vars(LightningHooks).items()
        if name.startswith("on_") or name == "teardown"
    }
    return type("EnergyCallback", (LightningHooks, base), contents | hooks)


EnergyCallback: Any
"""The callback, made on first use: with ``pytorch_lightning`` alone it cannot be made."""


def __getattr__(name: str) -> Any:
    """Make ``EnergyCallback`` on first use."""
    if name != "EnergyCallback":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = make_callback("lightning.pytorch", install="'joulelab[integrations]'")
    return globals()[name]
