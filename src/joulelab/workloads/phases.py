"""Settings, progress and results of a training or inference phase. Imports no torch."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol, Self

from joulelab.errors import UserError, nearest

OPTIMIZERS = ("sgd", "adam", "adamw")
PRECISIONS = ("fp32", "tf32", "bf16")
MEMORY_FORMATS = ("contiguous", "channels_last")
INPUT_PATHS = ("device", "loader")
CACHES = ("dynamic", "static", "none")


@dataclass(frozen=True, kw_only=True)
class PhaseSettings:
    """Settings that all phases share."""

    LENGTH: ClassVar[tuple[str, int]] = ("passes", 5)
    """Name of the length in passes over the data, and its default."""

    batch_size: int = 128  # Samples per step, at least 1.
    steps: int | None = None  # Number of steps; the last epoch or pass may be incomplete.
    # Longest time in epochs, without validation; ends with the first step that reaches it. Without
    # another length it is the length.
    seconds: float | None = None
    warmup_steps: int = 5  # Discarded steps before the measured ones; 0 for none.
    # ``"fp32"`` (TF32 off everywhere), ``"tf32"`` (matrix products and convolutions on a CUDA
    # device), ``"bf16"`` or ``"fp16"``, as far as the workload knows it.
    precision: str = "fp32"
    compile: bool = False  # Whether to use :func:`torch.compile`.
    device: str = "cpu"  # ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.

    def endless(self, seconds: float) -> Self:
        """Return the same settings for a phase that something else ends before these seconds."""
        changes: dict[str, Any] = {self.LENGTH[0]: None, "steps": None, "seconds": seconds}
        if hasattr(self, "validate"):
            changes["validate"] = False
        return replace(self, **changes)

    def is_cut_short(self, result: PhaseResult) -> bool:
        """Report whether ``seconds`` ended a phase before it reached its other length."""
        passes: int | None = getattr(self, self.LENGTH[0])
        if self.seconds is None or result.duration_s < self.seconds:
            return False
        if passes is not None:
            return sum(epoch.complete for epoch in result.epochs) < passes
        return self.steps is not None and result.steps < self.steps

    def _check(self, *precisions: str) -> None:
        """Give the phase its default length, and check what all phases share."""
        name, default = self.LENGTH
        given = [length for length in (name, "steps") if getattr(self, length) is not None]
        if not given and self.seconds is None:
            object.__setattr__(self, name, default)
            given = [name]
        if len(given) > 1:
            raise UserError(
                f"{' and '.join(given)} are both given",
                why="a phase has one length",
                hint="keep one; seconds may bound it",
            )
        if self.seconds is not None:
            _require_number(self, "seconds", lambda value: value > 0, "above 0")
        require_whole(self, 1, *given)
        require_whole(self, 1, "batch_size")
        require_whole(self, 0, "warmup_steps")
        require_choice(self, "precision", precisions)
        _require_flags(self, "compile")
        device = self.device
        if not (isinstance(device, str) and re.fullmatch(r"cpu|cuda(:\d+)?", device, re.ASCII)):
            raise UserError(f"device is {device!r}", hint="choose cpu, cuda or cuda:N")
        if self.precision == "tf32" and device == "cpu":
            raise UserError(
                "precision 'tf32' on device 'cpu'",
                why="TF32 is a number format of CUDA devices",
                hint="choose fp32 or bf16, or a CUDA device",
            )


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings(PhaseSettings):
    """Settings of a training phase, whatever it trains."""

    LENGTH: ClassVar[tuple[str, int]] = ("epochs", 1)

    # Passes over the training set; 1 if none of ``epochs``, ``steps`` and ``seconds`` is given.
    epochs: int | None = None
    optimizer: str = "sgd"  # ``"sgd"``, ``"adam"`` or ``"adamw"``.
    learning_rate: float = 0.001  # Constant learning rate; > 0.
    momentum: float = 0.9  # For ``sgd`` only; in [0, 1).
    weight_decay: float = 5e-4  # At least 0.
    seed: int = 0  # Seed of everything random; at least 0.

    def _check(self, *precisions: str) -> None:
        super()._check(*precisions)
        require_choice(self, "optimizer", OPTIMIZERS)
        _require_number(self, "learning_rate", lambda value: value > 0, "above 0")
        _require_number(self, "momentum", lambda value: 0 <= value < 1, "from 0 to below 1")
        _require_number(self, "weight_decay", lambda value: value >= 0, "from 0 up")
        require_whole(self, 0, "seed")


@dataclass(frozen=True, kw_only=True)
class ImageSettings(PhaseSettings):
    """Settings of phases that process images; ``bf16`` is autocast.

    Raises:
        UserError: A value is out of range, or two lengths are given.
    """

    memory_format: str = "contiguous"  # ``"contiguous"`` or ``"channels_last"``.
    # ``"device"`` keeps the data set on the device and augments it there; ``"loader"`` uses a
    # DataLoader and torchvision's transforms, as the paper did.
    input_path: str = "device"
    loader_workers: int = 2  # Processes of the loader; 0 loads in the calling thread.
    # Whether cuDNN searches for its fastest algorithm (during warm-up).
    cudnn_benchmark: bool = True

    def _check(self, *precisions: str) -> None:
        super()._check(*precisions)
        require_whole(self, 0, "loader_workers")
        require_choice(self, "memory_format", MEMORY_FORMATS)
        require_choice(self, "input_path", INPUT_PATHS)
        _require_flags(self, "cudnn_benchmark")


@dataclass(frozen=True, kw_only=True)
class TrainSettings(ImageSettings, OptimizerSettings):
    """Settings of training on images. The defaults are the paper's hyperparameters (section IV).

    Example:
        >>> TrainSettings().epochs, TrainSettings(steps=20).epochs
        (1, None)
    """

    # Random crop with 4 pixels of padding, and a horizontal flip if it preserves the label.
    augment: bool = True
    validate: bool = True  # Whether to measure the accuracy on the test set after each epoch.

    def __post_init__(self) -> None:
        self._check(*PRECISIONS)
        _require_flags(self, "augment", "validate")


@dataclass(frozen=True, kw_only=True)
class InferSettings(ImageSettings):
    """Settings of an inference phase.

    Example:
        >>> InferSettings().passes
        5
    """

    # Passes over the test set; 5 if none of ``passes``, ``steps`` and ``seconds`` is given, as in
    # the paper: with CIFAR-10 both phases process 50,000 images.
    passes: int | None = None

    def __post_init__(self) -> None:
        self._check(*PRECISIONS)


class Observer(Protocol):
    """Receives the start and end of every phase, epoch and step, for example a ``Meter``."""

    def begin(self, name: str, /, **attributes: Any) -> Any:
        """Start a span now and return it."""

    def end(self, span: Any) -> None:
        """End a span that :meth:`begin` returned."""


@contextmanager
def announced(observer: Observer | None, name: str, **attributes: Any) -> Iterator[None]:
    """Announce the block to the observer, if there is one; its end also if the block raises."""
    if observer is None:
        yield
        return
    span = observer.begin(name, **attributes)
    try:
        yield
    finally:
        observer.end(span)


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochResult:
    """One pass over the training set, or over the test set in inference."""

    index: int  # from 0
    samples: int
    steps: int
    tokens: int | None = None  # of language models
    duration_s: float  # by the host's clock, including the device's work but no validation
    loss: float | None  # mean cross-entropy; in training, before each step's update
    train_accuracy_pct: float | None  # on the augmented training images; None in inference
    accuracy_pct: float | None  # on the test set; None in training without validation
    data_wait_s: float | None  # time spent waiting for the loader; None on the device path
    complete: bool  # whether every image of the set was processed


@dataclass(frozen=True, slots=True)
class PhaseResult:
    """A whole phase, without warm-up and validation.

    The peak is that of :func:`torch.cuda.max_memory_allocated`, and includes the data set on the
    device path; it is ``None`` on the CPU.
    """

    phase: str  # "train", "infer", "prefill" or "decode"
    epochs: tuple[EpochResult, ...]
    vram_peak_bytes: int | None
    cudnn_benchmark: bool  # whether cuDNN searched for its fastest algorithms

    @property
    def samples(self) -> int:
        """Images or sequences processed."""
        return sum(epoch.samples for epoch in self.epochs)

    @property
    def tokens(self) -> int | None:
        """Tokens processed, in a prefill read and in decoding written; ``None`` for images."""
        counts = [epoch.tokens for epoch in self.epochs if epoch.tokens is not None]
        return sum(counts) if counts else None

    @property
    def steps(self) -> int:
        """Batches."""
        return sum(epoch.steps for epoch in self.epochs)

    @property
    def duration_s(self) -> float:
        """Time in epochs."""
        return sum(epoch.duration_s for epoch in self.epochs)

    @property
    def data_wait_s(self) -> float | None:
        """Time spent waiting for the loader; ``None`` on the device path."""
        waits = [epoch.data_wait_s for epoch in self.epochs if epoch.data_wait_s is not None]
        return sum(waits) if waits else None

    @property
    def loss(self) -> float | None:
        """Loss of the last epoch, if the phase has one."""
        return self.epochs[-1].loss

    @property
    def accuracy_pct(self) -> float | None:
        """Accuracy of the last epoch on the test set; ``None`` if it was not measured."""
        return self.epochs[-1].accuracy_pct


def require_whole(settings: Any, least: int, *names: str, most: int | None = None) -> None:
    """Raise a UserError unless these settings are whole numbers in a range."""
    for name in names:
        value = getattr(settings, name)
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not (whole and value >= least and (most is None or value <= most)):
            limits = f"from {least} up" if most is None else f"from {least} to {most}"
            raise UserError(f"{name} is {value!r}", why=f"it must be a whole number {limits}")


def require_choice(settings: Any, name: str, known: Sequence[str]) -> None:
    """Raise a UserError that suggests the nearest choice unless this setting is one of them."""
    value = getattr(settings, name)
    if value not in known:
        raise UserError(f"{name} is {value!r}", hint=nearest(str(value), known))


def _require_number(
    settings: PhaseSettings, name: str, valid: Callable[[float], bool], limits: str
) -> None:
    value = getattr(settings, name)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (is_number and math.isfinite(value) and valid(value)):
        raise UserError(f"{name} is {value!r}", why=f"it must be a number {limits}")


def _require_flags(settings: PhaseSettings, *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        if not isinstance(value, bool):
            raise UserError(f"{name} is {value!r}", why="it must be true or false")
