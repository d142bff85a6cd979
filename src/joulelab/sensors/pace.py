"""How often a sensor has a new value, found out by asking it more often than that."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from statistics import median, quantiles

MOST_S = 0.8
"""Nobody waits for longer than this: eight updates of a sensor that is new each 100 ms."""
UPDATES = 7
"""New values after which a sensor is not asked any more."""
LEAST_UPDATES = 4
ASK_EVERY_S = 0.001
SAME_PERIOD = 1.5
"""New values less than this many periods apart are one period apart: an update may bring the value
that was there before, and then it does not show."""


def update_periods_s(reads: Sequence[Callable[[], float]]) -> list[float | None]:
    """The time between two new values of each sensor.

    Args:
        reads: Each gives one sensor's value now.

    Returns:
        In their order, to the millisecond and never 0; ``None`` for a sensor whose value changed
        too seldom to tell.

    Example:
        >>> update_periods_s([lambda: 42.0])
        [None]
    """
    values: list[float | None] = [None] * len(reads)
    new_s: list[list[float]] = [[] for _ in reads]
    deadline_s = time.monotonic() + MOST_S
    while time.monotonic() < deadline_s and min(map(len, new_s), default=UPDATES) < UPDATES:
        for i, read in enumerate(reads):
            value = read()
            if values[i] is not None and value != values[i]:
                new_s[i].append(time.monotonic())
            values[i] = value
        time.sleep(ASK_EVERY_S)
    return [_period_s(times_s) for times_s in new_s]


def _period_s(new_s: Sequence[float]) -> float | None:
    if len(new_s) < LEAST_UPDATES:
        return None
    apart_s = [later - earlier for earlier, later in pairwise(new_s)]
    short_s = quantiles(apart_s, n=4)[0]
    period_s = median(step for step in apart_s if step <= SAME_PERIOD * short_s)
    return max(round(period_s, 3), ASK_EVERY_S)
