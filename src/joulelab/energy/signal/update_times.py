"""How often a sensor had a new value, by its readings alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LOOKED_AT = 200_000
"""Readings that are enough to tell."""
SAME_PERIOD = 1.5
"""New values less than this many periods apart are one period apart."""
LEAST_CHANGES = 10
"""New values, and different ones, from which their period can be told."""
AVERAGE_S = 1.0
"""The window of nvidia-smi's average power (NVML API reference, nvmlDeviceGetPowerUsage)."""
CONTRAST = 0.2
"""Power that varies by less than this share of its maximum does not show a sensor's window."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How often a log was written and how often the sensor behind it had a new value.

    Attributes:
        interval_s: Median time between two readings.
        period_s: Time between two new values; not less than ``interval_s``.
        polled: The log repeats values, or may miss some: its times are those of the polls.
    """

    interval_s: float
    period_s: float
    polled: bool


def pace_of(t_s: Floats, value: Floats) -> Pace:
    """The pace of a log.

    Args:
        t_s: Times in order. Shape: (readings,), at least two, not all the same.
        value: Readings; NaN where there is none. Shape: (readings,).

    Example:
        >>> t_s = np.arange(0, 10, 0.02)
        >>> pace = pace_of(t_s, np.sin(np.floor(t_s * 10 + 1e-6)))
        >>> round(pace.interval_s, 6), round(pace.period_s, 6), pace.polled
        (0.02, 0.1, True)
    """
    t_s, value = t_s[:LOOKED_AT], value[:LOOKED_AT]
    steps = np.diff(t_s)
    interval_s = float(np.median(steps[steps > 0]))
    changed = np.flatnonzero(np.diff(value) != 0) + 1
    apart = np.diff(t_s[changed])
    apart = apart[apart > 0]
    # Power that steps between a few levels says nothing of the sensor.
    if apart.size < LEAST_CHANGES or np.unique(value[changed]).size < LEAST_CHANGES:
        return Pace(interval_s, interval_s, False)
    # Of a quiet board several updates in a row may be alike: the short distances tell.
    short = np.quantile(apart, 0.1)
    period_s = float(np.median(apart[apart <= SAME_PERIOD * short]))
    if period_s <= SAME_PERIOD * interval_s:
        return Pace(interval_s, interval_s, False)
    return Pace(interval_s, period_s, True)


def updates(t_s: Floats, value: Floats, pace: Pace) -> tuple[Floats, Floats]:
    """The sensor's own updates: when each value was new, and the value.

    A value that is first seen by a poll became new since the poll before it: half way between
    the two. Where a value stays for longer than a period, it was found again once each period.

    Args:
        t_s: As for :func:`pace_of`.
        value: As for :func:`pace_of`, without NaN.
        pace: What :func:`pace_of` found.

    Returns:
        Times and values. Shapes: (updates,) each.
    """
    if not pace.polled:
        return t_s, value
    changed = np.flatnonzero(np.diff(value) != 0) + 1
    # A poll that was late says little of when the value was new.
    late = np.diff(t_s)[changed - 1] > pace.period_s / 2
    new_t = (t_s[changed] + t_s[changed - 1]) / 2
    until = np.append(new_t[1:], t_s[-1])
    again = np.maximum(np.floor((until - new_t) / pace.period_s - 0.5), 0).astype(np.int64)
    again[late] = 0
    count = again + 1
    first = np.repeat(np.cumsum(count) - count, count)
    nth = np.arange(count.sum()) - first
    times = np.repeat(new_t, count) + nth * pace.period_s
    keep = np.repeat(~late, count)
    return times[keep], np.repeat(value[changed], count)[keep]


def averages(t_s: Floats, value: Floats, pace: Pace) -> bool | None:
    """Whether values are averages over :data:`AVERAGE_S`; ``None`` when the log does not show it.

    Such an average moves by at most ``period / AVERAGE_S`` of the range of power between two
    updates.

    Example:
        >>> t_s = np.arange(0, 20, 0.1)
        >>> power = np.where((t_s > 5) & (t_s < 15), 300.0, 100.0)
        >>> smooth = np.convolve(power, np.ones(10) / 10)[: power.size]
        >>> pace = Pace(0.1, 0.1, False)
        >>> averages(t_s, power, pace), averages(t_s[10:], smooth[10:], pace)
        (False, True)
    """
    t_s, value = t_s[:LOOKED_AT], value[:LOOKED_AT]
    seen = np.isfinite(value)
    _, new = updates(t_s[seen], value[seen], pace)
    share = pace.period_s / AVERAGE_S
    if share > CONTRAST or new.size < 2 / share:
        return None
    range_w = float(np.ptp(new))
    if range_w < CONTRAST * float(np.max(np.abs(new))):
        return None
    largest = float(np.max(np.abs(np.diff(new))))
    # Twice, since a poll may have missed an update.
    return largest <= 2.5 * share * range_w
