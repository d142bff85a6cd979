"""Random streams that depend on a seed and on nothing that ran before."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch

T = TypeVar("T")


def stream_seed(seed: int, *path: int) -> int:
    """A seed for one stream among many, well apart from its neighbours.

    Args:
        seed: At least 0.
        path: Which stream, as ``(epoch,)``; each at least 0.

    Example:
        >>> stream_seed(0, 1) == stream_seed(0, 1), stream_seed(0, 1) == stream_seed(1, 0)
        (True, False)
    """
    return int(np.random.SeedSequence([seed, *path]).generate_state(1, np.uint32)[0])


def build_seeded(factory: Callable[[], T], seed: int) -> T:
    """What the factory builds, with PyTorch's CPU generator at ``seed``, which is then put back.

    Example:
        >>> a = build_seeded(lambda: torch.nn.Linear(2, 2), seed=3)
        >>> b = build_seeded(lambda: torch.nn.Linear(2, 2), seed=3)
        >>> torch.equal(a.weight, b.weight)
        True
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return factory()
