"""Timestamp alignment: when a sensor measured, and the interval that each reading stands for.

A sample that averages a window is an interval with a mean power, and so is the difference of two
counter readings. An instantaneous value stands for the time around it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from joulelab.arrays import Bools, Floats, Indices
from joulelab.sensors.sensor import Channel, Quantity

GAP_FACTOR = 2.5  # Readings more than this many intervals apart have a gap between them.
MAD_TO_SIGMA = 1.4826  # Standard deviation over the median absolute deviation, normal distribution.

MIN_GRID_READINGS = 25  # With fewer readings, a grid cannot be determined.
GRID_REACHES = (250, 50, 12)  # Readings on either side to estimate a grid's time from.
MAX_AUTOCORRELATION = 0.2
"""Timestamps whose distances from the grid have a greater lag-1 autocorrelation drift with it."""
CLIP_SIGMAS = 2.0  # Timestamps further off, in standard deviations, are clipped to this.
ROUNDS = 2
MAX_RUN = 1 << 16  # A grid is followed over at most this many readings before it is fitted again.
LEVEL_READINGS = 12  # Readings on either side that show whether a reading is missing between them.
LEVELS_AT_A_TIME = 1 << 12
MISSING = 0.7  # A reading is missing where timestamps stay later by this share of a period.

MAX_CHANGE_POINTS = 2000  # More change points would not change the estimate.
MAX_SIGMAS = 4.0  # Latencies further off than this many standard uncertainties are not considered.
LATENCIES = 161
EXPLAINED = {0.0: 0.5, 0.5: 0.1, 0.7: 0.1, 0.85: 0.1, 0.95: 0.1, 0.99: 0.1}
"""Shares of change points at which power did step, and their prior probabilities: change points are
unrelated to steps, or most of them are steps."""
SCATTERS_S = np.array([0.0, 0.0005, 0.002])
"""Possible standard deviations of the delay between a change point and its step: a GPU begins its
work some time after it was launched."""


@dataclass(frozen=True)
class Intervals:
    """Consecutive intervals with a mean power each. Shapes: (intervals,)."""

    edges: Floats  # Where they meet, s. Shape: (intervals + 1,).
    power: Floats  # Mean power, W.
    gap: Bools  # Whether an interval has no reading.
    stretch: Indices  # Which of the summarised stretches it is; -1 for none.
    middle: Floats  # Middle of the sensor's averaging window, s.
    hole: Bools  # Whether a counter was not read for so long that its course is unknown.
    max_age_s: float = 0.0  # The age of a polled value is evenly distributed between 0 and this.
    latency_uncertainty_s: float = 0.0  # Of the edges' common latency, besides the channel's.

    @property
    def plain(self) -> Bools:
        """Whether an interval is one reading: no gap, no hole, no summarised stretch."""
        return ~self.gap & ~self.hole & (self.stretch < 0)


@dataclass(frozen=True)
class Stretches:
    """Stretches of gapless power readings of which only sums are kept. Shapes: (stretches,)."""

    after: Indices  # Position of the reading before each stretch.
    power_w: Floats  # Mean power.
    readings: Floats  # Number of readings.
    jump_w2: Floats  # Sum of the squared differences between consecutive readings.


NO_STRETCHES = Stretches(np.zeros(0, dtype=np.intp), np.zeros(0), np.zeros(0), np.zeros(0))


def power_intervals(
    channel: Channel,
    t: Floats,
    power: Floats,
    interval_s: float,
    change: Floats,
    stretches: Stretches = NO_STRETCHES,
) -> Intervals | None:
    """Give each power reading the time up to halfway to its neighbours.

    Halfway is between the middles of the readings' windows. Where power changed once between two
    readings, as ``change`` says, each stands for its own side of the change. ``interval_s`` is the
    time between two reads; with any summarised ``stretches``, all timestamps are distinct.
    """
    if t.size == 0:
        return None
    spacing = spacing_s(channel, interval_s)
    middle = t - mean_age_s(channel) - channel.window_s / 2
    order = np.concatenate(([True], np.diff(middle) > 0))
    middle, power = middle[order], power[order]
    apart = np.diff(middle)
    gap_after = apart > GAP_FACTOR * spacing
    half = np.where(gap_after, spacing / 2, apart / 2)
    stops = middle[:-1] + half
    starts = middle[1:] - half
    if change.size:
        first = np.searchsorted(change, middle[:-1], side="right")
        once = (np.searchsorted(change, middle[1:], side="left") - first == 1) & ~gap_after
        stops[once] = starts[once] = change[first[once]]
    starts = np.concatenate(([middle[0] - spacing / 2], starts))
    stops = np.concatenate((stops, [middle[-1] + spacing / 2]))
    # The time between two intervals is a gap, unless it is a summarised stretch.
    where = np.flatnonzero(gap_after)
    between = (power[where] + power[where + 1]) / 2
    summarised = np.isin(where, stretches.after)
    stretch = np.where(summarised, np.searchsorted(stretches.after, where), -1)
    between[summarised] = stretches.power_w[stretch[summarised]]
    return Intervals(
        edges=np.insert(np.concatenate((starts, stops[-1:])), where + 1, stops[where]),
        power=np.insert(power, where + 1, between),
        gap=np.insert(np.zeros(power.size, dtype=bool), where + 1, ~summarised),
        stretch=np.insert(np.full(power.size, -1), where + 1, stretch),
        middle=np.insert(middle, where + 1, (stops[where] + starts[where + 1]) / 2),
        hole=np.zeros(power.size + where.size, dtype=bool),
        max_age_s=max_age_s(channel),
    )


def blind_s(channel: Channel, interval_s: float) -> float:
    """Return the part of each interval outside the sensor's averaging window."""
    if channel.quantity is Quantity.ENERGY:
        return 0.0
    return max(0.0, spacing_s(channel, interval_s) - channel.window_s)


def spacing_s(channel: Channel, interval_s: float) -> float:
    """Return the time between two readings when none is missing."""
    return max(channel.update_period_s, interval_s) if channel.polled else channel.update_period_s


def max_age_s(channel: Channel) -> float:
    """Return how old a polled value can be; 0 for a sensor that timestamps its readings."""
    return channel.update_period_s if channel.polled else 0.0


def mean_age_s(channel: Channel) -> float:
    """Return how long before its timestamp a value was new, on average."""
    return channel.delay_s + max_age_s(channel) / 2


def regular_times(t: Floats, period_s: float) -> tuple[Floats, float]:
    """Estimate when a regular sensor measured; return the times and their remaining jitter.

    NVML's samples are taken each 20 ms by a clock that keeps time to some 10 ppm, but many are
    stamped up to 13 ms late, and now and then one is missing (an H100, 19,400 timestamps).
    Timestamps are counted on that grid; the grid is a straight line through those of up to
    :data:`GRID_REACHES` readings on either side, least squares with outliers pulled in
    (winsorised). Where timestamps drift more than independent jitter does, fewer are used.
    """
    apart = np.diff(t)
    usual = apart[np.abs(apart - period_s) < 0.75 * period_s]
    if usual.size < MIN_GRID_READINGS:
        return t, 0.0
    period_s = float(usual.mean())
    first, after = _runs(apart > GAP_FACTOR * period_s)
    count = np.arange(t.size) + _missing_before(t, period_s, first, after)
    expected = count * period_s
    off = t - expected
    for reach in GRID_REACHES:
        smooth, left = _robust_line(off, first, after, reach)
        jitter_s = float(left.std())
        autocovariance = float((left[1:] * left[:-1]).mean())
        if jitter_s == 0 or autocovariance < MAX_AUTOCORRELATION * jitter_s**2:
            times = np.maximum.accumulate(expected + smooth)
            used = float(2 * reach + 1)
            if (after - first).min() < used:
                used = min(used, float(np.median(after - first)))
            return times, jitter_s / math.sqrt(used)
    return t, 0.0


def _runs(gap_after: Bools) -> tuple[Indices, Indices]:
    """Return where each reading's gapless run, of up to :data:`MAX_RUN`, begins and ends."""
    starts = np.append(0, np.flatnonzero(gap_after) + 1)
    lengths = np.diff(starts, append=gap_after.size + 1)
    parts = -(-lengths // MAX_RUN)
    part = np.arange(parts.sum()) - np.repeat(np.cumsum(parts) - parts, parts)
    firsts = np.repeat(starts, parts) + MAX_RUN * part
    lengths = np.diff(firsts, append=gap_after.size + 1)
    return np.repeat(firsts, lengths), np.repeat(firsts + lengths, lengths)


def _missing_before(t: Floats, period_s: float, first: Indices, after: Indices) -> Indices:
    """Count the readings missing before each one: where all later ones, not just one, are late."""
    missing = np.zeros(t.size, dtype=np.intp)
    if t.size < 2 * LEVEL_READINGS:
        return missing
    # Of two that are close to each other the second is found when the first is known.
    for _ in range(ROUNDS):
        off = t - (np.arange(t.size) + missing) * period_s
        later = _later(off, MISSING * period_s)
        found = np.flatnonzero(later > MISSING * period_s)
        index = found + LEVEL_READINGS
        inside = (found >= first[index]) & (index + LEVEL_READINGS <= after[index])
        found = found[inside]
        if not found.size:
            break
        for group in np.split(found, np.flatnonzero(np.diff(found) > LEVEL_READINGS) + 1):
            candidates = group + LEVEL_READINGS
            where = int(candidates[np.argmax(t[candidates] - t[candidates - 1])])
            missing[where:] += round(float(later[group].max()) / period_s)
    return missing


def _later(off: Floats, least_s: float) -> Floats:
    """Return by how much the readings after each time are later than those before it.

    Changes of less than ``least_s`` may count as none.
    """
    later = np.zeros(off.size - 2 * LEVEL_READINGS + 1)
    for first in range(0, later.size, LEVELS_AT_A_TIME):
        some = off[first : first + LEVELS_AT_A_TIME + 2 * LEVEL_READINGS - 1]
        if np.ptp(some) <= least_s:
            continue
        level = np.median(np.lib.stride_tricks.sliding_window_view(some, LEVEL_READINGS), axis=1)
        changes = level[LEVEL_READINGS:] - level[:-LEVEL_READINGS]
        later[first : first + LEVELS_AT_A_TIME] = changes
    return later


def _robust_line(off: Floats, first: Indices, after: Indices, reach: int) -> tuple[Floats, Floats]:
    """Fit local straight lines within reach; return them and the winsorised residuals."""
    parts = _parts(first, after, reach)
    smooth = _local_lines(off, parts)
    left = off - smooth
    for _ in range(ROUNDS):
        middle = float(np.median(left))
        limit = CLIP_SIGMAS * MAD_TO_SIGMA * float(np.median(np.abs(left - middle)))
        pulled = smooth + np.clip(left, middle - limit, middle + limit)
        smooth = _local_lines(pulled, parts)
        left = off - smooth
    return smooth, pulled - smooth


class _Neighbours(NamedTuple):
    """The readings within reach of each reading of some runs. Shapes: (readings,)."""

    some: slice
    first: Indices  # Of the run. These and all other positions are those within the slice.
    low: Indices  # The first within reach.
    high: Indices  # After the last within reach.
    into: Floats  # How many readings of the run are before.
    uneven: Indices  # Readings with fewer neighbours on one side than on the other.

    @classmethod
    def of(cls, some: slice, first: Indices, after: Indices, reach: int) -> _Neighbours:
        """Find the neighbours."""
        index = np.arange(first.size)
        low, high = np.maximum(index - reach, first), np.minimum(index + reach + 1, after)
        is_uneven = (low + high != 2 * index + 1) & (high - low > MIN_GRID_READINGS)
        into = (index - first).astype(np.float64)
        return cls(some, first, low, high, into, np.flatnonzero(is_uneven))

    def lines(self, off: Floats) -> Floats:
        """Fit a least-squares line to the neighbours of each reading; return its value there."""
        origin = off[self.first]
        # Two running sums take as long as one if they are those of complex numbers.
        running = np.zeros(off.size + 1, np.complex128)
        running.real[1:] = off - origin
        running.imag[1:] = self.into * running.real[1:]
        running = np.cumsum(running)
        total = running.real[self.high] - running.real[self.low]
        line = origin + total / (self.high - self.low)
        # A line in the middle of its readings is their mean.
        at = self.uneven
        first, low, high = self.first[at], self.low[at], self.high[at]
        count, middle = high - low, (low + high - 1) / 2
        moment = running.imag[high] - running.imag[low]
        spread = count * (count**2 - 1.0) / 12
        line[at] += (moment - (middle - first) * total[at]) / spread * (at - middle)
        return np.asarray(line)


def _parts(first: Indices, after: Indices, reach: int) -> list[_Neighbours]:
    """Find the neighbours some runs at a time: of all of a day, lines take a gigabyte."""
    parts, begin = [], 0
    while begin < first.size:
        end = int(after[min(begin + MAX_RUN, first.size) - 1])
        some = slice(begin, end)
        parts.append(_Neighbours.of(some, first[some] - begin, after[some] - begin, reach))
        begin = end
    return parts


def _local_lines(off: Floats, parts: list[_Neighbours]) -> Floats:
    return np.concatenate([part.lines(off[part.some]) for part in parts])


def timestamp_latency(
    steps_s: Floats, points_s: Floats, uncertainty_s: float, jitter_s: float
) -> tuple[float, float]:
    """Estimate the latency of timestamps from steps of power and the change points they belong to.

    A change point with a step of power within reach may be that step, or next to it by chance. The
    step lies d after the change point; if it belongs to it, d is the latency D, with a scatter s;
    otherwise it is anywhere within reach r. With a share q of such change points the likelihood of
    each is

        q N(d; D, s) + (1 - q) / (2 r),

    with the prior D ~ N(0, u), u = ``uncertainty_s``, and q and s any of some values. Change points
    at which power does not step leave the prior unchanged. ``jitter_s`` is the standard uncertainty
    of a step's time relative to the readings. Return D's posterior mean and standard deviation.
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
