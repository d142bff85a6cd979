"""Timestamp alignment: the regular grid of a sensor's timestamps, and their latency."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from joulelab.energy.signal.intervals import GAP_FACTOR

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

MAD_TO_SIGMA = 1.4826
"""Standard deviation over the median absolute deviation, normal distribution."""

MIN_GRID_READINGS = 25
"""With fewer readings, a grid cannot be determined."""
GRID_REACHES = (250, 50, 12)
"""Readings on either side from which a grid's time is estimated, the longest first."""
MAX_AUTOCORRELATION = 0.2
"""Timestamps whose distances from the grid have a greater lag-1 autocorrelation drift with it."""
CLIP_SIGMAS = 2.0
"""Timestamps further off than this many standard deviations count as if they were there."""
ROUNDS = 2
MAX_RUN = 1 << 16
"""A grid is followed over at most this many readings before it is estimated anew."""
LEVEL_READINGS = 12
"""Readings on either side that show whether a reading is missing between them."""
MISSING = 0.7
"""Where timestamps stay later by more than this share of a period, a reading is missing."""

MAX_CHANGE_POINTS = 2000
"""More change points would not change the estimate."""
MAX_SIGMAS = 4.0
"""Latencies further off than this many standard uncertainties are not considered."""
LATENCIES = 161
EXPLAINED = {0.0: 0.5, 0.5: 0.1, 0.7: 0.1, 0.85: 0.1, 0.95: 0.1, 0.99: 0.1}
"""Shares of change points at which power did step, and their prior probabilities: change points are
unrelated to steps, or most of them are steps."""
SCATTERS_S = np.array([0.0, 0.0005, 0.002])
"""Possible standard deviations of the delay between a change point and its step: a GPU begins its
work some time after it was launched."""


class _Runs(NamedTuple):
    """Gapless runs of readings: position of the first and after the last, for each reading."""

    first: Indices
    after: Indices


def regular_times(t: Floats, period_s: float) -> tuple[Floats, float]:
    """Estimate when a regular sensor measured, from timestamps with jitter.

    NVML's samples are taken each 20 ms by a clock that keeps time to some 10 ppm, but many are
    stamped up to 13 ms late, and now and then one is missing (an H100, 19,400 timestamps).
    Timestamps are counted on that grid; the grid is a straight line through those of up to
    :data:`GRID_REACHES` readings on either side, least squares with outliers pulled in
    (winsorised). Where timestamps drift more than independent jitter does, fewer are used.

    Args:
        t: Timestamps in order, seconds. Shape: (readings,).
        period_s: The nominal distance.

    Returns:
        The times, and the standard uncertainty that remains of each, seconds.

    Example:
        >>> rng = np.random.default_rng(1)
        >>> stamps = 0.02 * np.arange(1000) + 0.005 * rng.standard_normal(1000)
        >>> times, uncertainty_s = regular_times(stamps, 0.02)
        >>> float(np.abs(times - 0.02 * np.arange(1000))[100:900].max()) < 0.001
        True
    """
    apart = np.diff(t)
    usual = apart[np.abs(apart - period_s) < 0.75 * period_s]
    if usual.size < MIN_GRID_READINGS:
        return t, 0.0
    period_s = float(usual.mean())
    runs = _runs(apart > GAP_FACTOR * period_s)
    count = np.arange(t.size) + _missing_before(t, period_s, runs)
    expected = count * period_s
    off = t - expected
    for reach in GRID_REACHES:
        smooth, left = _robust_line(off, runs, reach)
        jitter_s = float(left.std())
        autocovariance = float((left[1:] * left[:-1]).mean())
        if jitter_s == 0 or autocovariance < MAX_AUTOCORRELATION * jitter_s**2:
            times = np.maximum.accumulate(expected + smooth)
            used = min(2 * reach + 1, float(np.median(runs.after - runs.first)))
            return times, jitter_s / math.sqrt(used)
    return t, 0.0


def _runs(gap_after: NDArray[np.bool_]) -> _Runs:
    """Return the runs between gaps, none longer than :data:`MAX_RUN`."""
    index = np.arange(gap_after.size + 1)
    start = np.append(True, gap_after)
    since = index - np.maximum.accumulate(np.where(start, index, 0))
    number = np.cumsum(since % MAX_RUN == 0)
    return _Runs(
        np.searchsorted(number, number, side="left"), np.searchsorted(number, number, side="right")
    )


def _missing_before(t: Floats, period_s: float, runs: _Runs) -> Indices:
    """Count the readings that are missing before each one, since the first.

    One timestamp that is late by most of a period is no missing reading; if all after it are, one
    is missing.
    """
    missing = np.zeros(t.size, dtype=np.intp)
    if t.size < 2 * LEVEL_READINGS:
        return missing
    index = np.arange(LEVEL_READINGS, t.size - LEVEL_READINGS + 1)
    inside = index - LEVEL_READINGS >= runs.first[index]
    inside &= index + LEVEL_READINGS <= runs.after[index]
    apart = np.diff(t)
    # Of two that are close to each other the second is found when the first is known.
    for _ in range(ROUNDS):
        off = t - (np.arange(t.size) + missing) * period_s
        level = np.median(np.lib.stride_tricks.sliding_window_view(off, LEVEL_READINGS), axis=1)
        later = level[LEVEL_READINGS:] - level[:-LEVEL_READINGS]
        found = np.flatnonzero(inside & (later > MISSING * period_s))
        if not found.size:
            break
        for group in np.split(found, np.flatnonzero(np.diff(found) > LEVEL_READINGS) + 1):
            candidates = index[group]
            where = int(candidates[np.argmax(apart[candidates - 1])])
            missing[where:] += round(float(later[group].max()) / period_s)
    return missing


def _robust_line(off: Floats, runs: _Runs, reach: int) -> tuple[Floats, Floats]:
    """Fit local straight lines within reach; return them and the winsorised residuals."""
    smooth = _local_line(off, runs, reach)
    left = off - smooth
    for _ in range(ROUNDS):
        middle = float(np.median(left))
        limit = CLIP_SIGMAS * MAD_TO_SIGMA * float(np.median(np.abs(left - middle)))
        pulled = smooth + np.clip(left, middle - limit, middle + limit)
        smooth = _local_line(pulled, runs, reach)
        left = off - smooth
    return smooth, pulled - smooth


def _local_line(off: Floats, runs: _Runs, reach: int) -> Floats:
    """Fit a least-squares line to the readings within reach in the same run, at each reading."""
    index = np.arange(off.size)
    low = np.maximum(index - reach, runs.first)
    high = np.minimum(index + reach + 1, runs.after)
    count = high - low
    into = index - runs.first
    origin = off[runs.first]
    own = off - origin
    total = sum_between(own, low, high)
    moment = sum_between(into * own, low, high)
    middle = (low + high - 1) / 2 - runs.first
    spread = count * (count**2 - 1.0) / 12
    slope = np.divide(
        moment - middle * total, spread, out=np.zeros_like(total), where=count > MIN_GRID_READINGS
    )
    return np.asarray(origin + total / count + slope * (into - middle))


def sum_between(values: Floats, low: Indices, high: Indices) -> Floats:
    """Return the sums of the values at positions from ``low`` to before ``high``."""
    running = np.append(0.0, np.cumsum(values))
    return np.asarray(running[high] - running[low])


def timestamp_latency(
    steps_s: Floats, points_s: Floats, uncertainty_s: float, jitter_s: float
) -> tuple[float, float]:
    """Estimate the latency of timestamps from steps of power and the change points they belong to.

    A change point with a step of power within reach may be that step, or next to it by chance. The
    step lies d after the change point; if it belongs to it, d is the latency D, with a scatter s;
    otherwise it is anywhere within reach r. With a share q of such change points the likelihood of
    each is

        q N(d; D, s) + (1 - q) / (2 r),

    with the prior D ~ N(0, u), and q and s any of some values. Change points at which power does
    not step leave the prior unchanged.

    Args:
        steps_s: Where readings show a plain step. Shape: (steps,).
        points_s: Change points. Shape: (change points,). Both in order.
        uncertainty_s: Prior standard uncertainty u of the latency.
        jitter_s: Standard uncertainty of each step's time relative to the other readings.

    Returns:
        Posterior mean and standard deviation of D.

    Example:
        >>> points = np.arange(1.0, 9.0)
        >>> latency_s, left_s = timestamp_latency(points + 0.002, points, 0.003, 0.0001)
        >>> round(latency_s, 3), left_s < 0.0003
        (0.002, True)
        >>> timestamp_latency(np.arange(1.3, 9.0), points, 0.003, 0.0001)
        (0.0, 0.003)
    """
    reach_s = MAX_SIGMAS * uncertainty_s
    if not (steps_s.size and points_s.size and reach_s > 0):
        return 0.0, uncertainty_s
    points_s = points_s[:: math.ceil(points_s.size / MAX_CHANGE_POINTS)]
    nearest = np.clip(np.searchsorted(steps_s, points_s), 1, max(steps_s.size - 1, 1))
    before, after = steps_s[nearest - 1], steps_s[np.minimum(nearest, steps_s.size - 1)]
    apart_s = np.where(points_s - before < after - points_s, before, after) - points_s
    apart_s = apart_s[np.abs(apart_s) < reach_s]
    if not apart_s.size:
        return 0.0, uncertainty_s
    latency_s = np.linspace(-reach_s, reach_s, LATENCIES)
    log_weight = []
    for scatter_s in np.maximum(np.hypot(SCATTERS_S, jitter_s), latency_s[1] - latency_s[0]):
        off = (apart_s[:, None] - latency_s) / scatter_s
        density = np.exp(-(off**2) / 2) / (scatter_s * math.sqrt(2 * math.pi))
        for share, probability in EXPLAINED.items():
            likelihood = share * density + (1 - share) / (2 * reach_s)
            log_weight.append(np.log(likelihood).sum(axis=0) + math.log(probability))
    log_posterior = np.array(log_weight) - (latency_s / uncertainty_s) ** 2 / 2
    weight = np.exp(log_posterior - log_posterior.max()).sum(axis=0)
    weight /= weight.sum()
    mean_s = float(weight @ latency_s)
    left_s = math.sqrt(float(weight @ (latency_s - mean_s) ** 2))
    return mean_s, min(left_s, uncertainty_s)
