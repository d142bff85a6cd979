"""How often something may be done that takes a while."""

from __future__ import annotations

import time
from typing import Self


class Pace:
    """Keeps what is done within its context to a share of one processor's time.

    Args:
        share: Of that time.
        least_s: Nor is it due sooner than so long after the last time.

    Example:
        >>> pace = Pace(0.01, 60.0)
        >>> pace.due
        True
        >>> with pace:
        ...     total = sum(range(1000))
        >>> pace.due
        False
    """

    def __init__(self, share: float, least_s: float) -> None:
        self._share, self._least_s = share, least_s
        self._next_s = self._begin_s = 0.0

    @property
    def due(self) -> bool:
        """Whether it may be done again."""
        return time.monotonic() >= self._next_s

    def __enter__(self) -> Self:
        self._begin_s = time.thread_time()
        return self

    def __exit__(self, *_: object) -> None:
        cost_s = time.thread_time() - self._begin_s
        self._next_s = time.monotonic() + max(self._least_s, cost_s / self._share)
