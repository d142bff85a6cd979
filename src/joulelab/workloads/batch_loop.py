"""Run batches through a model: length of a phase, sums on the device, deadlines."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch.nn import functional

from joulelab.errors import WorkloadError
from joulelab.workloads.input_paths import Batch, Batches
from joulelab.workloads.phases import Observer, announced
from joulelab.workloads.torch_runtime import StepLimiter, synchronize, torch_failures

Clock = Callable[[], float]


class Outcome(NamedTuple):
    """The logits and the mean loss of a step, still on the device."""

    batch: Batch
    logits: torch.Tensor
    loss: torch.Tensor


Model = Callable[[torch.Tensor], Any]
"""A module, or the result of :func:`torch.compile`."""
Step = Callable[[Batch], Outcome]


class Tally:
    """Sums over a pass, which stay on the device so that no step waits for them."""

    def __init__(self, device: torch.device) -> None:
        self.samples = 0
        self.steps = 0
        self._loss_sum = torch.zeros((), dtype=torch.float64, device=device)
        self._correct = torch.zeros((), dtype=torch.int64, device=device)

    def add(self, outcome: Outcome) -> None:
        """Count a step."""
        labels = outcome.batch.labels
        self.samples += len(labels)
        self.steps += 1
        self._loss_sum += outcome.loss.detach() * len(labels)
        self._correct += (outcome.logits.detach().argmax(dim=1) == labels).sum()

    def mean_loss(self) -> float:
        """Return the mean over the images, which must be finite. Waits for the device."""
        loss = self._loss_sum.item() / self.samples
        if not math.isfinite(loss):
            raise WorkloadError(
                f"the loss became {loss}",
                kind="non_finite_loss",
                why="the weights or the activations overflowed",
                hint="use a smaller learning_rate or a wider precision",
            )
        return loss

    def accuracy_pct(self) -> float:
        """Return the percentage of images classified correctly. Waits for the device."""
        return 100 * self._correct.item() / self.samples


@dataclass
class PhaseLength:
    """The length of a phase: exactly one of ``epochs``, ``steps`` and ``seconds`` is given.

    Seconds count only within epochs, by the host's clock. ``is_over`` may end it after any step.
    """

    epochs: int | None
    steps: int | None
    seconds: float | None
    clock: Clock = time.monotonic
    is_over: Callable[[], bool] = lambda: False
    _epochs_done: int = field(default=0, init=False)
    _steps_done: int = field(default=0, init=False)
    _spent_s: float = field(default=0.0, init=False)
    _epoch_began_s: float | None = field(default=None, init=False)

    def begin_epoch(self) -> None:
        """Start an epoch now."""
        self._epoch_began_s = self.clock()

    def count_step(self) -> None:
        """Count a queued step."""
        self._steps_done += 1

    def end_epoch(self) -> float:
        """End the epoch, after the device has finished, and return its duration."""
        assert self._epoch_began_s is not None
        duration_s = self.clock() - self._epoch_began_s
        self._epoch_began_s = None
        self._spent_s += duration_s
        self._epochs_done += 1
        return duration_s

    @property
    def reached(self) -> bool:
        """Whether the phase is complete."""
        if self.is_over():
            return True
        if self.epochs is not None:
            return self._epochs_done >= self.epochs
        if self.steps is not None:
            return self._steps_done >= self.steps
        assert self.seconds is not None
        running_s = 0.0 if self._epoch_began_s is None else self.clock() - self._epoch_began_s
        return self._spent_s + running_s >= self.seconds


def classify(model: Model, batch: Batch, num_classes: int, precision: str) -> Outcome:
    """Run the forward pass, require one row of logits per image, and compute the mean loss."""
    device_type = batch.images.device.type
    with (
        torch_failures("the model's forward pass"),
        torch.autocast(device_type, torch.bfloat16) if precision == "bf16" else nullcontext(),
    ):
        logits = model(batch.images)
        _require_logits(logits, batch, num_classes)
        loss = functional.cross_entropy(logits, batch.labels)
    return Outcome(batch, logits, loss)


def _require_logits(logits: Any, batch: Batch, num_classes: int) -> None:
    rows = len(batch.labels)
    is_tensor = isinstance(logits, torch.Tensor)
    if is_tensor and logits.ndim == 2 and len(logits) == rows and logits.shape[1] >= num_classes:
        return
    found = f"of shape {tuple(logits.shape)}" if is_tensor else f"a {type(logits).__name__}"
    raise WorkloadError(
        f"the model's output is {found}",
        kind="model_failed",
        why=f"it should be a tensor of shape ({rows}, {num_classes})",
    )


def run_batches(
    batches: Batches,
    step: Step,
    device: torch.device,
    *,
    length: PhaseLength | None = None,
    observer: Observer | None = None,
    phase: str = "",
) -> Tally:
    """Run the step on each batch until the batches or the length end, and wait for the device.

    Announce each ``step`` if there is an observer, and close the batches at the end.
    """
    tally = Tally(device)
    limiter = StepLimiter(device) if length is not None and length.seconds is not None else None
    with closing(batches):
        while True:
            with torch_failures("making a batch"):
                batch = next(batches, None)
            if batch is None:
                break
            size = len(batch.labels)
            with announced(observer, "step", phase=phase, index=tally.steps, samples=size):
                outcome = step(batch)
                tally.add(outcome)
            if limiter is not None:
                limiter.count_step()
            if length is not None:
                length.count_step()
                if length.reached:
                    break
    with torch_failures("the device's work"):
        synchronize(device)
    return tally
