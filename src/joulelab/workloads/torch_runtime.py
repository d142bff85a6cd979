"""Devices, number formats, random streams and errors of PyTorch."""

from __future__ import annotations

import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar

import numpy as np
import torch

from joulelab.errors import JoulelabError, UserError, WorkloadError
from joulelab.workloads.phases import Observer, announced

T = TypeVar("T")


def resolve_device(name: str) -> torch.device:
    """Return the device of that name, with its index.

    Example:
        >>> resolve_device("cpu")
        device(type='cpu')
    """
    device = torch.device(name)
    if device.type == "cpu":
        return device
    if not torch.cuda.is_available():
        raise UserError(
            f"device {name!r} does not exist",
            why="PyTorch finds no CUDA device",
            hint="choose device cpu, or run joulelab doctor",
        )
    index = torch.cuda.current_device() if device.index is None else device.index
    if index >= torch.cuda.device_count():
        raise UserError(
            f"device {name!r} does not exist",
            hint=f"choose from {', '.join(f'cuda:{n}' for n in range(torch.cuda.device_count()))}",
        )
    return torch.device("cuda", index)


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished all queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def reset_peak(device: torch.device) -> None:
    """Forget the device's peak memory so far, after all queued work."""
    synchronize(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_bytes(device: torch.device) -> int | None:
    """Return the device's peak memory since :func:`reset_peak`; ``None`` on the CPU."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


@contextmanager
def number_formats(
    precision: str, device: torch.device, *, cudnn_benchmark: bool
) -> Iterator[None]:
    """Set how float32 is computed and whether cuDNN searches; restore the settings afterwards.

    ``"tf32"`` allows TF32 in matrix products, convolutions and recurrent layers; ``"fp32"`` and
    ``"bf16"`` forbid it in all three. (PyTorch's default allows it in the last two.)
    """
    _require_hardware(precision, device)
    backends: Any = torch.backends  # its types lack the newer settings
    wanted = "tf32" if precision == "tf32" else "ieee"
    before = backends.cudnn.benchmark, [one.fp32_precision for one in _formatted(backends)]
    # Matrix products on the CPU keep their format.
    _set_formats(cudnn_benchmark, [wanted, wanted, wanted, backends.mkldnn.matmul.fp32_precision])
    try:
        yield
    finally:
        _set_formats(*before)


def idle(
    seconds: float,
    observer: Observer | None,
    *,
    device: str = "cpu",
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Announce ``idle`` and sleep, for the idle baseline (the paper's T_m).

    A GPU with a CUDA context draws more power than one without. Therefore the context of a CUDA
    device is created first, as in the runs that the baseline is subtracted from.
    """
    if not seconds > 0:
        raise UserError(f"cannot idle for {seconds} s", why="the time must be positive")
    resolved = resolve_device(device)
    if resolved.type != "cpu":
        torch.zeros(1, device=resolved)
        synchronize(resolved)
    with announced(observer, "idle"):
        sleep(seconds)


def stream_seed(seed: int, *path: int) -> int:
    """Derive the seed of a numbered random stream, independent of its neighbours.

    Example:
        >>> stream_seed(0, 1) == stream_seed(0, 1), stream_seed(0, 1) == stream_seed(1, 0)
        (True, False)
    """
    return int(np.random.SeedSequence([seed, *path]).generate_state(1, np.uint32)[0])


def build_seeded(factory: Callable[[], T], seed: int, device: str = "cpu") -> T:
    """Build with PyTorch's generators at ``seed``, and restore them afterwards.

    Those of the CPU and of a CUDA ``device`` are restored; new tensors are on that device.

    Example:
        >>> a = build_seeded(lambda: torch.nn.Linear(2, 2), seed=3)
        >>> b = build_seeded(lambda: torch.nn.Linear(2, 2), seed=3)
        >>> torch.equal(a.weight, b.weight)
        True
    """
    on_host = device == "cpu"
    with (
        torch.random.fork_rng(devices=[] if on_host else [device]),
        nullcontext() if on_host else torch.device(device),
    ):
        torch.manual_seed(seed)
        return factory()


@contextmanager
def torch_failures(doing: str) -> Iterator[None]:
    """Map errors in the block to a WorkloadError of kind "out_of_memory" or "model_failed"."""
    try:
        yield
    except JoulelabError:
        raise
    except Exception as error:
        # PyTorch's CPU allocator raises a plain RuntimeError, recognisable only by its message.
        if isinstance(error, torch.OutOfMemoryError | MemoryError) or (
            isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
        ):
            raise WorkloadError(
                f"out of memory in {doing}",
                kind="out_of_memory",
                why=first_line(error),
                hint="use a smaller batch_size or a smaller model",
            ) from error
        raise WorkloadError(
            f"{doing} failed", kind="model_failed", why=first_line(error)
        ) from error


def first_line(error: BaseException) -> str:
    """Return the error's class and the first line of its message that is not empty.

    Example:
        >>> first_line(ValueError("bad shape\\nsecond line"))
        'ValueError: bad shape'
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _formatted(backends: Any) -> list[Any]:
    """Return the settings whose number format can be set, the CPU's last."""
    return [backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn, backends.mkldnn.matmul]


def _set_formats(cudnn_benchmark: bool, formats: list[str]) -> None:
    # torch.compile up to PyTorch 2.11 reads the older matmul setting, and fails if it contradicts
    # the newer one (pytorch/pytorch#166387). So set both, and the older one first, because it
    # overwrites the newer ones. PyTorch 2.9 warns about the older one.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Please use the new API settings")
        torch.set_float32_matmul_precision("high" if formats[0] == "tf32" else "highest")
    backends: Any = torch.backends
    for setting, number_format in zip(_formatted(backends), formats, strict=True):
        setting.fp32_precision = number_format
    backends.cudnn.benchmark = cudnn_benchmark


def _require_hardware(precision: str, device: torch.device) -> None:
    if device.type != "cuda" or precision == "fp32":
        return
    # TF32 and bfloat16 came with compute capability 8.0 (NVIDIA, CUDA C++ Programming Guide,
    # "Arithmetic Instructions"); older devices would silently compute in another format.
    major, minor = torch.cuda.get_device_capability(device)
    if major < 8:
        raise UserError(
            f"precision {precision!r} on {torch.cuda.get_device_name(device)}",
            why=f"it needs compute capability 8.0 and the device has {major}.{minor}",
            hint="choose fp32",
        )


MOST_QUEUED_STEPS = 4


class StepLimiter:
    """Keeps the host a few steps ahead of a CUDA device; does nothing on the CPU.

    Without it, the host would reach a deadline long before the device finishes the queued work.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._events: deque[torch.cuda.Event] = deque()

    def count_step(self) -> None:
        """Count a queued step, and wait while too many are unfinished."""
        if self._device.type != "cuda":
            return
        self._events.append(torch.cuda.current_stream(self._device).record_event())
        if len(self._events) > MOST_QUEUED_STEPS:
            self._events.popleft().synchronize()
