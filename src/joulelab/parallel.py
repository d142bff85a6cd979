"""Work on several CPUs at a time."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

MOST_THREADS = 4
"""Number of items that :func:`each` works on at a time, if there are as many CPUs."""
T = TypeVar("T")
R = TypeVar("R")


def usable_cpus() -> int:
    """Return the number of hardware threads that this process may use, at least 1."""
    # macOS does not say which ones a process may use.
    has_affinity = hasattr(os, "sched_getaffinity")
    return len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1


def each(work: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """Work on several items at a time. NumPy releases the interpreter lock while it counts."""
    threads = min(MOST_THREADS, len(items), usable_cpus())
    # While the interpreter exits, there are no new threads.
    if threads < 2 or not threading.main_thread().is_alive():
        return [work(item) for item in items]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, items))
