"""The device that a workload runs on: is it there, is it done, can it do this precision."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

from joulelab.errors import UserError


def resolve_device(name: str) -> torch.device:
    """The device of that name, with its index.

    Raises:
        UserError: It is not on this machine.

    Example:
        >>> resolve_device("cpu")
        device(type='cpu')
    """
    device = torch.device(name)
    if device.type == "cpu":
        return device
    if not torch.cuda.is_available():
        raise UserError(
            f"device {name!r} is not there",
            why="PyTorch finds no CUDA device",
            hint="choose device cpu, or see what joulelab doctor says of the GPU",
        )
    index = torch.cuda.current_device() if device.index is None else device.index
    if index >= torch.cuda.device_count():
        raise UserError(
            f"device {name!r} is not there",
            hint=f"choose from {', '.join(f'cuda:{n}' for n in range(torch.cuda.device_count()))}",
        )
    return torch.device("cuda", index)


def synchronize(device: torch.device) -> None:
    """Returns when the device has done all that was queued."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def numerics(precision: str, device: torch.device, *, cudnn_benchmark: bool) -> Iterator[None]:
    """Sets how float32 is computed and whether cuDNN searches; puts the settings back.

    Args:
        precision: ``"tf32"`` allows TF32 in matrix products, convolutions and recurrent layers;
            ``"fp32"`` and ``"bf16"`` forbid it in all three. (PyTorch's own default allows it in
            the last two.)
        device: Where it will run.
        cudnn_benchmark: cuDNN's search for the fastest algorithm.

    Raises:
        UserError: The device has no hardware for the precision.
    """
    _require_hardware(precision, device)
    wanted = "tf32" if precision == "tf32" else "ieee"
    before = _Numerics.current()
    _Numerics(wanted, before.cpu_matmul, wanted, wanted, cudnn_benchmark).apply()
    try:
        yield
    finally:
        before.apply()


class _Numerics(NamedTuple):
    matmul: str
    cpu_matmul: str
    conv: str
    rnn: str
    cudnn_benchmark: bool

    @classmethod
    def current(cls) -> _Numerics:
        backends: Any = torch.backends  # its types lack the newer settings
        return cls(
            backends.cuda.matmul.fp32_precision,
            backends.mkldnn.matmul.fp32_precision,
            backends.cudnn.conv.fp32_precision,
            backends.cudnn.rnn.fp32_precision,
            backends.cudnn.benchmark,
        )

    def apply(self) -> None:
        backends: Any = torch.backends
        # torch.compile up to PyTorch 2.11 reads the older matmul setting, and refuses to go on
        # when it contradicts the newer one (pytorch/pytorch#166387): so both are set, the older
        # first, since it overwrites the newer ones. PyTorch 2.9 warns of the older.
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Please use the new API settings")
            torch.set_float32_matmul_precision("high" if self.matmul == "tf32" else "highest")
        backends.cuda.matmul.fp32_precision = self.matmul
        backends.mkldnn.matmul.fp32_precision = self.cpu_matmul
        backends.cudnn.conv.fp32_precision = self.conv
        backends.cudnn.rnn.fp32_precision = self.rnn
        backends.cudnn.benchmark = self.cudnn_benchmark


def _require_hardware(precision: str, device: torch.device) -> None:
    if device.type != "cuda" or precision == "fp32":
        return
    # TF32 and bfloat16 came with compute capability 8.0 (NVIDIA, CUDA C++ Programming Guide,
    # "Arithmetic Instructions"); older devices would silently compute something else.
    major, minor = torch.cuda.get_device_capability(device)
    if major < 8:
        raise UserError(
            f"precision {precision!r} on {torch.cuda.get_device_name(device)}",
            why=f"it needs compute capability 8.0 and the device has {major}.{minor}",
            hint="choose fp32",
        )


class InFlight:
    """Keeps the host at most ``limit`` steps ahead of a CUDA device; does nothing on the CPU.

    Without it a deadline read on the host's clock would be met long before the queued work is.
    """

    def __init__(self, device: torch.device, limit: int = 4) -> None:
        self._device, self._limit = device, limit
        self._events: deque[torch.cuda.Event] = deque()

    def step_queued(self) -> None:
        """A step was queued. Waits while too many are unfinished."""
        if self._device.type != "cuda":
            return
        self._events.append(torch.cuda.current_stream(self._device).record_event())
        if len(self._events) > self._limit:
            self._events.popleft().synchronize()
