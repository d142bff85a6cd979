"""What can be chosen about a training or an inference phase. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from joulelab.errors import UserError, nearest

OPTIMIZERS = ("sgd", "adam", "adamw")
PRECISIONS = ("fp32", "tf32", "bf16")
MEMORY_FORMATS = ("contiguous", "channels_last")
INPUT_PATHS = ("device", "loader")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings:
    """Settings of a training phase. The defaults are the paper's hyperparameters (section IV).

    Attributes:
        batch_size: Images a step, at least 1.
        epochs: Passes over the training set. When none of ``epochs``, ``steps`` and ``seconds``
            is given, 1.
        steps: Optimiser steps; the last epoch may be incomplete.
        seconds: Time in epochs, without validation; ends with the first step that reaches it.
        warmup_steps: Discarded steps before the measured ones; 0 for none.
        optimizer: ``"sgd"``, ``"adam"`` or ``"adamw"``.
        learning_rate: Constant; > 0.
        momentum: For ``sgd`` only; in [0, 1).
        weight_decay: At least 0.
        precision: ``"fp32"`` (TF32 off everywhere), ``"tf32"`` (matrix products and convolutions
            on a CUDA device) or ``"bf16"`` (autocast).
        memory_format: ``"contiguous"`` or ``"channels_last"``.
        compile: Whether the model goes through :func:`torch.compile`.
        input_path: ``"device"`` holds the data set on the device and augments it there;
            ``"loader"`` uses a DataLoader and torchvision's transforms, as the paper did.
        loader_workers: Processes of the loader; 0 loads in the training thread.
        augment: Random crop with 4 pixels of padding, and a horizontal flip where it keeps the
            label.
        validate: Whether accuracy on the test set is measured after each epoch.
        seed: Of the order of images, augmentation and dropout; at least 0.
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
        cudnn_benchmark: Whether cuDNN searches for its fastest algorithm (during warm-up).

    Raises:
        UserError: A value is out of its range, or two lengths are given.

    Example:
        >>> TrainSettings().epochs
        1
        >>> TrainSettings(steps=20).epochs is None
        True
    """

    batch_size: int = 128
    epochs: int | None = None
    steps: int | None = None
    seconds: float | None = None
    warmup_steps: int = 5
    optimizer: str = "sgd"
    learning_rate: float = 0.001
    momentum: float = 0.9
    weight_decay: float = 5e-4
    precision: str = "fp32"
    memory_format: str = "contiguous"
    compile: bool = False
    input_path: str = "device"
    loader_workers: int = 2
    augment: bool = True
    validate: bool = True
    seed: int = 0
    device: str = "cpu"
    cudnn_benchmark: bool = True

    def __post_init__(self) -> None:
        if self.epochs is None and self.steps is None and self.seconds is None:
            object.__setattr__(self, "epochs", 1)
        _check_common(self, epochs_name="epochs")
        _choice("optimizer", self.optimizer, OPTIMIZERS)
        _number("learning_rate", self.learning_rate, above=0)
        _number("momentum", self.momentum, least=0, below=1)
        _number("weight_decay", self.weight_decay, least=0)
        _whole("seed", self.seed, least=0)
        _flag("augment", self.augment)
        _flag("validate", self.validate)


@dataclass(frozen=True, slots=True, kw_only=True)
class InferSettings:
    """Settings of an inference phase.

    Attributes:
        batch_size: Images a step, at least 1.
        passes: Times that the whole test set is inferred. When none of ``passes``, ``steps`` and
            ``seconds`` is given, 5, as in the paper: CIFAR-10 gives 50,000 images in both phases.
        steps: Batches; the last pass may be incomplete.
        seconds: Time in passes; ends with the first step that reaches it.
        warmup_steps: Discarded steps before the measured ones; 0 for none.
        precision: As in :class:`TrainSettings`.
        memory_format: As in :class:`TrainSettings`.
        compile: As in :class:`TrainSettings`.
        input_path: As in :class:`TrainSettings`.
        loader_workers: As in :class:`TrainSettings`.
        device: As in :class:`TrainSettings`.
        cudnn_benchmark: As in :class:`TrainSettings`.

    Raises:
        UserError: A value is out of its range, or two lengths are given.

    Example:
        >>> InferSettings().passes
        5
    """

    batch_size: int = 128
    passes: int | None = None
    steps: int | None = None
    seconds: float | None = None
    warmup_steps: int = 5
    precision: str = "fp32"
    memory_format: str = "contiguous"
    compile: bool = False
    input_path: str = "device"
    loader_workers: int = 2
    device: str = "cpu"
    cudnn_benchmark: bool = True

    def __post_init__(self) -> None:
        if self.passes is None and self.steps is None and self.seconds is None:
            object.__setattr__(self, "passes", 5)
        _check_common(self, epochs_name="passes")


def _check_common(settings: TrainSettings | InferSettings, *, epochs_name: str) -> None:
    lengths = (epochs_name, "steps", "seconds")
    given = [name for name in lengths if getattr(settings, name) is not None]
    if len(given) > 1:
        raise UserError(
            f"{' and '.join(given)} are both given",
            why="a phase has one length",
            hint=f"give exactly one of {', '.join(lengths)}",
        )
    if given[0] == "seconds":
        _number("seconds", settings.seconds, above=0)
    else:
        _whole(given[0], getattr(settings, given[0]), least=1)
    _whole("batch_size", settings.batch_size, least=1)
    _whole("warmup_steps", settings.warmup_steps, least=0)
    _whole("loader_workers", settings.loader_workers, least=0)
    _choice("precision", settings.precision, PRECISIONS)
    _choice("memory_format", settings.memory_format, MEMORY_FORMATS)
    _choice("input_path", settings.input_path, INPUT_PATHS)
    _flag("compile", settings.compile)
    _flag("cudnn_benchmark", settings.cudnn_benchmark)
    _device(settings.device)
    if settings.precision == "tf32" and settings.device == "cpu":
        raise UserError(
            "precision 'tf32' on device 'cpu'",
            why="TF32 is a number format of CUDA devices",
            hint="choose fp32 or bf16, or a CUDA device",
        )


def _whole(name: str, value: Any, *, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UserError(f"{name} is {value!r}", why=f"it must be a whole number from {least} up")


def _number(
    name: str,
    value: Any,
    *,
    least: float = -math.inf,
    above: float = -math.inf,
    below: float = math.inf,
) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (is_number and math.isfinite(value) and value >= least and above < value < below):
        limits = [f"at least {least}"] if least > -math.inf else []
        limits += [f"more than {above}"] if above > -math.inf else []
        limits += [f"less than {below}"] if below < math.inf else []
        raise UserError(f"{name} is {value!r}", why=f"it must be a number, {' and '.join(limits)}")


def _flag(name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise UserError(f"{name} is {value!r}", why="it must be true or false")


def _choice(name: str, value: Any, known: Sequence[str]) -> None:
    if value not in known:
        raise UserError(f"{name} is {value!r}", hint=nearest(str(value), known))


def _device(value: Any) -> None:
    kind, _, index = value.partition(":") if isinstance(value, str) else ("", "", "")
    if value in ("cpu", "cuda") or (kind == "cuda" and index.isascii() and index.isdigit()):
        return
    raise UserError(f"device is {value!r}", hint="choose cpu, cuda or cuda:N")
