"""Matrix products that keep all GPUs busy."""

from __future__ import annotations

from collections.abc import Callable

import torch

SIZE = 4096


def gpu_load() -> Callable[[], None] | None:
    """Return a function that keeps all visible GPUs busy for some milliseconds.

    Returns:
        ``None`` if PyTorch sees no GPU.
    """
    if not torch.cuda.is_available():
        return None
    devices = [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    factors = [torch.randn(SIZE, SIZE, device=device, dtype=torch.bfloat16) for device in devices]

    def work() -> None:
        for factor in factors:
            torch.mm(factor, factor)
        for device in devices:
            torch.cuda.synchronize(device)

    work()
    return work
