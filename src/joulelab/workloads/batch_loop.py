"""Run batches through a model: epochs, length of a phase, sums on the device, deadlines."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch.nn import functional

from joulelab.errors import WorkloadError
from joulelab.workloads.input_paths import Batch
from joulelab.workloads.phases import EpochResult, Observer, OptimizerSettings, announced
from joulelab.workloads.torch_runtime import StepLimiter, synchronize, torch_failures

Clock = Callable[[], float]


class Outcome(NamedTuple):
    """What a step processed, its mean loss and its correct answers, still on the device."""

    samples: int
    loss: torch.Tensor | None = None
    correct: torch.Tensor | None = None
    tokens: int | None = None


Model = Callable[..., Any]
"""A module, or the result of :func:`torch.compile`."""
Step = Callable[[Any], Outcome]
"""Runs a batch: a tuple whose first element has a row for each sample."""


class Tally:
    """Sums over a pass, which stay on the device so that no step waits for them."""

    def __init__(self, device: torch.device) -> None:
        self.samples = 0
        self.steps = 0
        self.tokens: int | None = None
        self._has_loss = self._has_answers = False
        self._loss_sum = torch.zeros((), dtype=torch.float64, device=device)
        self._correct = torch.zeros((), dtype=torch.int64, device=device)

    def add(self, outcome: Outcome) -> None:
        """Count a step."""
        self.samples += outcome.samples
        self.steps += 1
        if outcome.tokens is not None:
            self.tokens = (self.tokens or 0) + outcome.tokens
        if outcome.loss is not None:
            self._has_loss = True
            self._loss_sum += outcome.loss.detach() * outcome.samples
        if outcome.correct is not None:
            self._has_answers = True
            self._correct += outcome.correct

    def mean_loss(self) -> float | None:
        """Return the mean over the samples, which must be finite. Waits for the device."""
        if not self._has_loss:
            return None
        loss = self._loss_sum.item() / self.samples
        if not math.isfinite(loss):
            raise WorkloadError(
                f"the loss became {loss}",
                kind="non_finite_loss",
                why="the weights or the activations overflowed",
                hint="use a smaller learning_rate or a wider precision",
            )
        return loss

    def accuracy_pct(self) -> float | None:
        """Return the percentage of images classified correctly. Waits for the device."""
        return 100 * self._correct.item() / self.samples if self._has_answers else None


@dataclass
class PhaseLength:
    """The length of a phase: ``epochs`` or ``steps``, which ``seconds`` may bound, or ``seconds``.

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
        if self.epochs is not None and self._epochs_done >= self.epochs:
            return True
        if self.steps is not None and self._steps_done >= self.steps:
            return True
        if self.seconds is None:
            return False
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
    correct = (logits.detach().argmax(dim=1) == batch.labels).sum()
    return Outcome(len(batch.labels), loss, correct)


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
    batches: Generator[Any, None, None],
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
            size = len(batch[0])
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


@dataclass(frozen=True)
class EpochRunner:
    """Runs and announces the epochs of a phase; ``waited_s`` is how long its input kept it."""

    phase: str
    device: torch.device
    length: PhaseLength
    observer: Observer | None
    announce_steps: bool
    waited_s: Callable[[], float | None] = lambda: None

    def run(
        self, index: int, batches: Generator[Any, None, None], count: int, step: Step
    ) -> EpochResult:
        """Run the ``count`` batches, or as many as the length allows."""
        waited_before_s = self.waited_s()
        with announced(self.observer, "epoch", phase=self.phase, index=index):
            self.length.begin_epoch()
            tally = run_batches(
                batches,
                step,
                self.device,
                length=self.length,
                observer=self.observer if self.announce_steps else None,
                phase=self.phase,
            )
            duration_s = self.length.end_epoch()
        waited_s = self.waited_s()
        if waited_s is not None and waited_before_s is not None:
            waited_s -= waited_before_s
        loss, accuracy_pct = tally.mean_loss(), tally.accuracy_pct()
        training = self.phase == "train"
        return EpochResult(
            index=index,
            samples=tally.samples,
            steps=tally.steps,
            tokens=tally.tokens,
            duration_s=duration_s,
            loss=loss,
            train_accuracy_pct=accuracy_pct if training else None,
            accuracy_pct=None if training else accuracy_pct,
            data_wait_s=waited_s,
            complete=tally.steps == count,
        )


def new_optimizer(model: torch.nn.Module, settings: OptimizerSettings) -> torch.optim.Optimizer:
    """Make an optimiser of the parameters that are not frozen."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    options: dict[str, Any] = {"lr": settings.learning_rate, "weight_decay": settings.weight_decay}
    if settings.optimizer == "sgd":
        options["momentum"] = settings.momentum
    kinds: dict[str, type[torch.optim.Optimizer]] = {
        "sgd": torch.optim.SGD,
        "adam": torch.optim.Adam,
        "adamw": torch.optim.AdamW,
    }
    return kinds[settings.optimizer](parameters, **options)


@contextmanager
def restored(model: torch.nn.Module) -> Iterator[None]:
    """Restore parameters and buffers afterwards, and drop gradients."""
    tensors = [*model.parameters(), *model.buffers()]
    # Saved on the host, so that the device's memory stays as the workload needs it.
    saved = [tensor.detach().to("cpu", copy=True) for tensor in tensors]
    yield
    with torch.no_grad():
        for tensor, before in zip(tensors, saved, strict=True):
            tensor.copy_(before)
    model.zero_grad(set_to_none=True)
