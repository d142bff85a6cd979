"""On which GPUs this process has a CUDA context, for the trace of a job of several processes."""

from __future__ import annotations

import json
import os
from sys import modules
from time import monotonic_ns
from typing import Any

from joulelab.recording.device_clock import cuda_started


class CudaUse:
    """Tells of this process's CUDA contexts whenever they change.

    It only looks: PyTorch is asked once the program has started CUDA with it, and no context is
    made by asking. Where PyTorch does not tell, nothing is said.
    """

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._told: list[int] = []

    def lines(self) -> list[bytes]:
        """A line for the trace; none while nothing has changed."""
        # A forked child can use no CUDA of its parent's.
        if not cuda_started() or os.getpid() != self._pid:
            return []
        indices = _contexts(modules["torch"])
        if indices == self._told:
            return []
        self._told = indices
        uuids = [_uuid(modules["torch"], index) for index in indices]
        gpus = [list(pair) for pair in zip(indices, uuids, strict=True)]
        event = {"event": "cuda", "pid": self._pid, "t_ns": monotonic_ns(), "gpus": gpus}
        return [json.dumps(event).encode() + b"\n"]


def _contexts(torch: Any) -> list[int]:
    """CUDA's indices of the devices with a context."""
    has_context = getattr(torch._C, "_cuda_hasPrimaryContext", None)
    if has_context is None:
        return []
    try:
        return [index for index in range(torch.cuda.device_count()) if has_context(index)]
    except RuntimeError:
        # The program will meet the same error in its own next call.
        return []


def _uuid(torch: Any, index: int) -> str | None:
    """As NVML writes it, without ``GPU-``; ``None`` in a PyTorch that does not tell."""
    try:
        uuid = getattr(torch.cuda.get_device_properties(index), "uuid", None)
    except RuntimeError:
        return None
    return None if uuid is None else str(uuid)
