"""The regular grid on which a sensor works, from stamps that jitter about it."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

GAP_FACTOR = 2.5
"""Readings further apart than this many expected intervals have a gap between them."""
MANY_READINGS = 25
"""From so many on, a grid can be told."""
REACHES = (250, 50, 12)
"""Readings on either side from which a grid's time is worked out, the longest first."""
WHITE = 0.2
"""Stamps whose distances from the grid have a greater lag-1 autocorrelation wander with it."""
CLIP = 2.0
"""Stamps further off than so many standard deviations count as if they were there."""
ROUNDS = 2
LONGEST = 1 << 16
"""A grid is followed over at most so many readings without looking anew."""
LEVEL = 12
"""Readings on either side that tell whether a reading was left out between them."""
LEFT_OUT = 0.7
"""Stamps that stay later by more than this share of a period have had one left out."""
MAD_TO_SIGMA = 1.4826
"""Standard deviation over the median absolute deviation, normal distribution."""


class _Runs(NamedTuple):
    """Readings that follow each other without a gap: first and after the last, for each reading."""

    first: Indices
    after: Indices


def regular_times(t: Floats, period_s: float) -> tuple[Floats, float]:
    """The times at which a regular sensor worked, from stamps that jitter.

    NVML's samples are taken each 20 ms by a clock that keeps time to some 10 ppm, but many are
    stamped up to 13 ms late, and now and then one is left out (an H100, 19,400 stamps). Stamps are
    counted on that grid; the grid is a straight line through those of up to :data:`REACHES`
    readings on either side, least squares with outliers pulled in (winsorised). Where stamps wander
    more than independent jitter does, fewer are used.

    Args:
        t: Stamps in order, seconds. Shape: (readings,).
        period_s: The nominal distance.

    Returns:
        The times, and the standard uncertainty that is left of each, seconds.

    Example:
        >>> rng = np.random.default_rng(1)
        >>> stamps = 0.02 * np.arange(1000) + 0.005 * rng.standard_normal(1000)
        >>> times, uncertainty_s = regular_times(stamps, 0.02)
        >>> float(np.abs(times - 0.02 * np.arange(1000))[100:900].max()) < 0.001
        True
    """
    apart = np.diff(t)
    usual = apart[np.abs(apart - period_s) < 0.75 * period_s]
    if usual.size < MANY_READINGS:
        return t, 0.0
    period_s = float(usual.mean())
    runs = _runs(apart > GAP_FACTOR * period_s)
    count = np.arange(t.size) + _left_out(t, period_s, runs)
    expected = count * period_s
    off = t - expected
    for reach in REACHES:
        smooth, left = _line(off, runs, reach)
        jitter_s = float(left.std())
        if jitter_s == 0 or _lag1(left) < WHITE * jitter_s**2:
            times = np.maximum.accumulate(expected + smooth)
            told = min(2 * reach + 1, float(np.median(runs.after - runs.first)))
            return times, jitter_s / math.sqrt(told)
    return t, 0.0


def _runs(gap_after: NDArray[np.bool_]) -> _Runs:
    """Runs between gaps, none longer than :data:`LONGEST`."""
    index = np.arange(gap_after.size + 1)
    start = np.append(True, gap_after)
    since = index - np.maximum.accumulate(np.where(start, index, 0))
    number = np.cumsum(since % LONGEST == 0)
    return _Runs(
        np.searchsorted(number, number, side="left"), np.searchsorted(number, number, side="right")
    )


def _left_out(t: Floats, period_s: float, runs: _Runs) -> Indices:
    """How many readings were left out before each one, since the first.

    One stamp that is late by most of a period is no reading left out; when all after it are, one
    is.
    """
    left_out = np.zeros(t.size, dtype=np.intp)
    if t.size < 2 * LEVEL:
        return left_out
    index = np.arange(LEVEL, t.size - LEVEL + 1)
    inside = (index - LEVEL >= runs.first[index]) & (index + LEVEL <= runs.after[index])
    apart = np.diff(t)
    # Of two that are close to each other the second is found when the first is known.
    for _ in range(ROUNDS):
        off = t - (np.arange(t.size) + left_out) * period_s
        level = np.median(np.lib.stride_tricks.sliding_window_view(off, LEVEL), axis=1)
        later = level[LEVEL:] - level[:-LEVEL]
        found = np.flatnonzero(inside & (later > LEFT_OUT * period_s))
        if not found.size:
            break
        for group in np.split(found, np.flatnonzero(np.diff(found) > LEVEL) + 1):
            candidates = index[group]
            where = int(candidates[np.argmax(apart[candidates - 1])])
            left_out[where:] += round(float(later[group].max()) / period_s)
    return left_out


def _line(off: Floats, runs: _Runs, reach: int) -> tuple[Floats, Floats]:
    """Local straight lines through what lies within reach, and what is left, winsorised."""
    smooth = _local_line(off, runs, reach)
    left = off - smooth
    for _ in range(ROUNDS):
        middle = float(np.median(left))
        limit = CLIP * MAD_TO_SIGMA * float(np.median(np.abs(left - middle)))
        pulled = smooth + np.clip(left, middle - limit, middle + limit)
        smooth = _local_line(pulled, runs, reach)
        left = off - smooth
    return smooth, pulled - smooth


def _local_line(off: Floats, runs: _Runs, reach: int) -> Floats:
    """Least-squares line through the readings within reach in the same run, at each reading."""
    index = np.arange(off.size)
    low = np.maximum(index - reach, runs.first)
    high = np.minimum(index + reach + 1, runs.after)
    count = high - low
    into = index - runs.first
    origin = off[runs.first]
    own = off - origin
    total = _between(own, low, high)
    moment = _between(into * own, low, high)
    middle = (low + high - 1) / 2 - runs.first
    spread = count * (count**2 - 1.0) / 12
    slope = np.divide(
        moment - middle * total, spread, out=np.zeros_like(total), where=count > MANY_READINGS
    )
    return np.asarray(origin + total / count + slope * (into - middle))


def _between(values: Floats, low: Indices, high: Indices) -> Floats:
    running = np.concatenate(([0.0], np.cumsum(values)))
    return np.asarray(running[high] - running[low])


def _lag1(left: Floats) -> float:
    """Autocovariance of readings that follow each other."""
    return float((left[1:] * left[:-1]).mean())
