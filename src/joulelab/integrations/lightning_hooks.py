"""What Lightning's trainer is followed by, whichever of its two packages it comes from."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any, ClassVar, TypeAlias

from joulelab.integrations.batches import first_length
from joulelab.integrations.figures import stage_energy, stage_figures
from joulelab.integrations.fit import CHECKPOINT, FIT, STEP, VALIDATE, Fit
from joulelab.integrations.hooks import EnergyHooks
from joulelab.integrations.stages import bracket, takes_part
from joulelab.meter import Meter

# Of either package, whose types have nothing in common.
Trainer: TypeAlias = Any
LightningModule: TypeAlias = Any

SANITY_CHECK = "sanity_check"
PREFIX = "energy/"


class LightningHooks(EnergyHooks):
    """Marks what a Lightning trainer does, and logs its energy to the trainer's loggers.

    Spans are ``fit`` > ``epoch`` > ``step``, with ``sanity_check``, ``validate`` and
    ``checkpoint`` where they happen; and ``validate``, ``test`` and ``predict`` of their own. A
    ``step`` is one step of the optimiser, with all the batches that it accumulates.

    Of the processes on one host the first logs, and what it logs is the host's.

    Args:
        meter: The caller's own; ``None``: one is opened for each call of the trainer.
        steps: Whether to mark steps. A span takes about 0.5 kB of memory.
        forecast: Whether to log what all epochs will take; needs SciPy.
        samples_in: Counts the samples of a batch; ``None``: the length of its first tensor.

    Attributes:
        history: The figures of every row that was logged.
    """

    _lightnings_log: ClassVar[logging.Logger]

    def __init__(
        self,
        meter: Meter | None = None,
        *,
        steps: bool = True,
        forecast: bool = True,
        samples_in: Callable[[Any], float] | None = None,
    ) -> None:
        super().__init__(meter, steps=steps, forecast=forecast)
        self.history: list[dict[str, float]] = []
        self._samples_in = samples_in or first_length
        self._active = self._logs = False
        self._step_at: int | None = None
        self._samples = 0.0
        self._undo: Callable[[], None] | None = None

    # The trainer's calls.

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begins to record."""
        self.close()
        self._logs = trainer.local_rank == 0
        self._active = takes_part(first=self._logs)
        if not self._active:
            return
        if stage == FIT:
            self._stages.begin(FIT)
        self._undo = bracket(
            trainer,
            "save_checkpoint",
            lambda: self._stages.begin(CHECKPOINT),
            lambda: self._stages.end(CHECKPOINT),
        )

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Logs what is left to log, and ends the recording."""
        self._finish(trainer)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """As :meth:`teardown`, which does not come then."""
        self._finish(trainer)

    # Training.

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes note of how long the fit will be."""
        if not self._active:
            return
        total_epochs = total_steps = math.inf
        if self._forecast and trainer.max_epochs is not None and trainer.max_epochs >= 0:
            total_epochs = trainer.max_epochs - trainer.current_epoch
        if self._forecast and trainer.max_steps >= 0:
            total_steps = trainer.max_steps - trainer.global_step
        self._fit = Fit(
            self._stages, logs=self._logs, total_epochs=total_epochs, total_steps=total_steps
        )

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begins an epoch."""
        if self._fit is not None:
            self._samples = 0.0
            self._fit.begin_epoch(trainer.current_epoch, trainer.global_step)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Begins a step, with the first batch of those that it accumulates."""
        if self._fit is None:
            return
        if not self._fit.in_epoch:  # resumed within one, which Lightning does not announce
            self.on_train_epoch_start(trainer, pl_module)
        if self._steps and self._step_at is None:
            self._step_at = trainer.global_step
            self._stages.begin(STEP, index=self._step_at)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Ends the step, once the optimiser has made it."""
        if self._fit is None:
            return
        self._samples += self._samples_in(batch)
        if self._step_at is not None and trainer.global_step != self._step_at:
            self._end_step()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ends the epoch, and logs those whose energies are worked out now."""
        if self._fit is None:
            return
        self._end_step()
        sampler = trainer.distributed_sampler_kwargs or {"num_replicas": 1}
        on_host = sampler["num_replicas"] / trainer.num_nodes
        self._fit.end_epoch(trainer.current_epoch, trainer.global_step, self._samples * on_host)
        self._log_epochs(trainer)

    # Validation, test, prediction.

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begins the check, which is no validation."""
        if self._active:
            self._stages.begin(SANITY_CHECK)

    def on_sanity_check_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ends it."""
        self._stages.end(SANITY_CHECK)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begins a validation, in a fit or of its own."""
        if self._fit is not None:
            self._step_at = None
            self._fit.begin_validation()
        elif self._active and not trainer.sanity_checking:
            self._stages.begin(VALIDATE)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ends it."""
        if self._fit is not None:
            self._fit.end_validation()
        elif not trainer.sanity_checking:
            self._end_stage(trainer, VALIDATE)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begins a test."""
        if self._active:
            self._stages.begin("test")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ends it."""
        self._end_stage(trainer, "test")

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begins a prediction."""
        if self._active:
            self._stages.begin("predict")

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ends it."""
        self._end_stage(trainer, "predict")

    # Logging.

    def _end_step(self) -> None:
        if self._step_at is not None:
            self._step_at = None
            self._stages.end(STEP)

    def _end_stage(self, trainer: Trainer, name: str) -> None:
        span = self._stages.end(name)
        if span is not None and self._logs:
            self._log(trainer, stage_figures(name, stage_energy(span)), trainer.global_step)

    def _log_epochs(self, trainer: Trainer, *, at_once: bool = False) -> None:
        assert self._fit is not None
        for epoch, row in self._fit.due(at_once=at_once):
            # Lightning logs the end of an epoch under its last step, counted from 0.
            self._log(trainer, {**row, "epoch": epoch.epoch}, max(0, epoch.step - 1))

    def _log(self, trainer: Trainer, row: dict[str, float], step: int) -> None:
        if not row:
            return
        named = {name if name == "epoch" else PREFIX + name: row[name] for name in row}
        self.history.append({**named, "step": step})
        for logger in trainer.loggers:
            logger.log_metrics(named, step=step)
            logger.save()

    def _finish(self, trainer: Trainer) -> None:
        self._stages.end_all()
        if self._fit is not None:
            self._log_epochs(trainer, at_once=True)
            energy = self._fit.end()
            if energy is not None:
                self._lightnings_log.info("energy of the fit: %s", energy)
            self._log(trainer, stage_figures(FIT, energy), max(0, trainer.global_step - 1))
        self.close()

    def close(self) -> None:
        """Ends whatever is open, and the recording; nothing is logged."""
        super().close()
        self._step_at = None
        if self._undo is not None:
            self._undo()
            self._undo = None
