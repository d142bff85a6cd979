"""One pass of batches through a model: lengths, sums on the device, deadlines."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn import functional

from joulelab.errors import WorkloadError
from joulelab.workloads.batches import Batch, Batches
from joulelab.workloads.devices import InFlight, synchronize
from joulelab.workloads.failures import torch_failures
from joulelab.workloads.observer import Observer, Silent, announced

Clock = Callable[[], float]


class Outcome:
    """What a step found out, still on the device: the mean loss and the logits."""

    __slots__ = ("batch", "logits", "loss")

    def __init__(self, batch: Batch, logits: torch.Tensor, loss: torch.Tensor) -> None:
        self.batch, self.logits, self.loss = batch, logits, loss


Model = Callable[[torch.Tensor], Any]
"""A module, or what :func:`torch.compile` made of it."""
Step = Callable[[Batch], Outcome]


class Tally:
    """Sums over a pass, kept on the device so that no step waits for one."""

    def __init__(self, device: torch.device) -> None:
        self.samples = 0
        self.steps = 0
        self._loss_sum = torch.zeros((), dtype=torch.float64, device=device)
        self._correct = torch.zeros((), dtype=torch.int64, device=device)

    def add(self, outcome: Outcome) -> None:
        """Counts a step."""
        labels = outcome.batch.labels
        self.samples += len(labels)
        self.steps += 1
        self._loss_sum += outcome.loss.detach() * len(labels)
        self._correct += (outcome.logits.detach().argmax(dim=1) == labels).sum()

    def mean_loss(self) -> float:
        """Over the images. Waits for the device.

        Raises:
            WorkloadError: It is not a finite number; of kind ``"non_finite_loss"``.
        """
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
        """Share of the images whose highest logit is their label. Waits for the device."""
        return 100 * self._correct.item() / self.samples


@dataclass
class Length:
    """How long a phase goes on. Exactly one of ``epochs``, ``steps``, ``seconds`` is given.

    Seconds count within epochs only, on the host's clock.
    """

    epochs: int | None
    steps: int | None
    seconds: float | None
    clock: Clock = time.monotonic
    _epochs_done: int = field(default=0, init=False)
    _steps_done: int = field(default=0, init=False)
    _spent_s: float = field(default=0.0, init=False)
    _epoch_began_s: float | None = field(default=None, init=False)

    def epoch_begins(self) -> None:
        """An epoch starts now."""
        self._epoch_began_s = self.clock()

    def step_done(self) -> None:
        """A step was queued."""
        self._steps_done += 1

    def epoch_ends(self) -> float:
        """The epoch is over, and the device is done. Returns its duration in seconds."""
        assert self._epoch_began_s is not None
        duration_s = self.clock() - self._epoch_began_s
        self._epoch_began_s = None
        self._spent_s += duration_s
        self._epochs_done += 1
        return duration_s

    @property
    def reached(self) -> bool:
        """Whether no further step is due."""
        if self.epochs is not None:
            return self._epochs_done >= self.epochs
        if self.steps is not None:
            return self._steps_done >= self.steps
        assert self.seconds is not None
        running_s = 0.0 if self._epoch_began_s is None else self.clock() - self._epoch_began_s
        return self._spent_s + running_s >= self.seconds


def classify(model: Model, batch: Batch, num_classes: int, *, autocast: bool) -> Outcome:
    """The forward pass and the mean cross-entropy.

    Raises:
        WorkloadError: The model does not take the images, or does not give one row of logits an
            image.
    """
    device_type = batch.images.device.type
    with (
        torch_failures("the model's forward pass"),
        torch.autocast(device_type, torch.bfloat16) if autocast else nullcontext(),
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


def _next(batches: Batches) -> Batch | None:
    with torch_failures("making a batch"):
        return next(batches, None)


def run_batches(
    batches: Batches,
    step: Step,
    device: torch.device,
    *,
    length: Length | None = None,
    observer: Observer | None = None,
    phase: str = "",
) -> Tally:
    """Runs the step on each batch until they or the length are at an end, and the device is done.

    Args:
        batches: Closed at the end.
        step: Queues the work on one batch.
        device: Where it runs.
        length: Told of each step; ``None`` to run all batches.
        observer: Told of each step as ``step``; ``None`` to announce none.
        phase: Attribute of the announcements.
    """
    tally = Tally(device)
    told = observer or Silent()
    in_flight = InFlight(device) if length is not None and length.seconds is not None else None
    with closing(batches):
        while (batch := _next(batches)) is not None:
            with announced(told, "step", phase=phase, index=tally.steps):
                outcome = step(batch)
                tally.add(outcome)
            if in_flight is not None:
                in_flight.step_queued()
            if length is not None:
                length.step_done()
                if length.reached:
                    break
    with torch_failures("the device's work"):
        synchronize(device)
    return tally
