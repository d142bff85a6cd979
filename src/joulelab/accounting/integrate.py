"""From readings to energy over time.

Every source is brought to one form: intervals that follow each other, each with its mean power.
A sample that is the mean of a window is such an interval; an energy counter's difference is one;
an instantaneous value stands for the time around it. The integral of the paper's Eqs. 4 and 5 is
then the running sum, and the energy of any span is a difference of two values of it, with the
intervals at its edges shared out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from joulelab.accounting.marks import Parts, split_at_marks
from joulelab.sensors.sensor import Channel, Quantity

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

GAP_FACTOR = 2.5
"""Readings further apart than this many expected intervals have a gap between them."""

STEP_FLATNESS = 0.1
"""Power counts as stepping within an interval when its neighbours on either side differ from
their own outer neighbours by less than this share of the step."""

SNAP = 0.2
"""A step within this share of an interval of a mark is that mark's."""

UNRESOLVED_SHARE = 0.3
UNRESOLVED_SCALE_S = 0.1
"""What a sensor's window hides: power within a window of 0.1 s or more may be off its mean by this
share, in proportion less within a shorter one. Training steps and their kernels are that uneven;
readings that are all alike are no proof that power is."""

ALIASING = 0.08
"""Relative standard uncertainty of a sensor that looks none of the time; in proportion to the share
that it does not see. Polled at 25 ms in 100 ms (unseen: 0.75), an H100 under duty-cycled load was
off by up to 12 %, two of these."""

JITTER_REACH = 12
MANY_READINGS = 25

EDGE_SHAPE = 1 / math.sqrt(3)
"""An edge's error lies anywhere within its bound: rectangular distribution (GUM 4.3.7)."""


@dataclass(frozen=True)
class EnergyCurve:
    """Energy since the first reading, as straight pieces.

    A piece is a sensor's interval, or a part of one that was split where power changed.

    Attributes:
        time_s: Where the pieces meet, CLOCK_MONOTONIC seconds. Shape: (n + 1,).
        energy_j: Energy at those times, 0 at the first. Shape: (n + 1,).
        power_w: Mean power of each piece. Shape: (n,).
        spread_w: How far power within a piece may be from its mean. Shape: (n,).
        interval_start_s: Start of the interval that each piece belongs to. Shape: (n,).
        interval_length_s: Length of that interval. Shape: (n,).
        variance_j2: Running sum of the pieces' own variance, independent of each other.
            Shape: (n + 1,).
        gap: Whether a piece has no reading. Shape: (n,).
        smear_s: The sensor's window beyond one interval: power changes show smeared over it.
        time_uncertainty_s: Standard uncertainty of ``time_s``.
        counts: Whether the source counts energy, so that a wrong time is a wrong energy.
        aliasing: Relative standard uncertainty, the same in all pieces, from loads that keep
            step with a sensor that looks only part of the time.
    """

    time_s: Floats
    energy_j: Floats
    power_w: Floats
    spread_w: Floats
    interval_start_s: Floats
    interval_length_s: Floats
    variance_j2: Floats
    gap: Bools
    smear_s: float
    time_uncertainty_s: float
    counts: bool
    aliasing: float

    def energy(self, start_s: ArrayLike, stop_s: ArrayLike) -> tuple[Floats, Floats, Floats]:
        """Energy, standard uncertainty of the edges and gaps, and time without readings.

        Args:
            start_s: Starts of the spans. Shape: (spans,).
            stop_s: Their stops, not before their starts. Shape: (spans,).

        Returns:
            ``energy_j``, ``uncertainty_j`` and ``gap_s``, each of shape (spans,). What lies
            outside the readings counts as a gap at the power of the nearest reading.
        """
        start, stop = np.atleast_1d(np.asarray(start_s, float), np.asarray(stop_s, float))
        energy = self._at(stop) - self._at(start)
        inner = self._variance_at(stop) - self._variance_at(start)
        edges = self._edge_variance(start) + self._edge_variance(stop)
        gap = self._gap_until(stop) - self._gap_until(start)
        outside = (stop - start) - (
            np.clip(stop, self.time_s[0], self.time_s[-1])
            - np.clip(start, self.time_s[0], self.time_s[-1])
        )
        unseen = (outside * self._range_w * EDGE_SHAPE) ** 2
        # A span within one piece cannot be more uncertain than power is within that piece.
        longest = ((stop - start) * self._spread_over(start, stop) * EDGE_SHAPE) ** 2
        variance = np.minimum(np.maximum(inner, 0.0) + edges, longest + inner) + unseen
        return energy, np.sqrt(np.maximum(variance, 0.0)), gap + outside

    @property
    def _range_w(self) -> float:
        return float(np.ptp(self.power_w)) if self.power_w.size > 1 else float(self.power_w[0])

    def _piece(self, t: Floats) -> NDArray[np.intp]:
        found = np.searchsorted(self.time_s, t, side="right") - 1
        return np.clip(found, 0, self.power_w.size - 1)

    def _at(self, t: Floats) -> Floats:
        i = self._piece(t)
        return self.energy_j[i] + (t - self.time_s[i]) * self.power_w[i]

    def _variance_at(self, t: Floats) -> Floats:
        return np.asarray(np.interp(t, self.time_s, self.variance_j2))

    def _gap_until(self, t: Floats) -> Floats:
        lengths = np.diff(self.time_s) * self.gap
        return np.asarray(np.interp(t, self.time_s, np.concatenate(([0.0], np.cumsum(lengths)))))

    def _edge_variance(self, t: Floats) -> Floats:
        """A step of the piece's spread, anywhere in its interval, moves this much past t."""
        i = self._piece(t)
        length = self.interval_length_s[i]
        share = np.clip((t - self.interval_start_s[i]) / length, 0.0, 1.0)
        bound = np.maximum(length * share * (1 - share), self.smear_s / 4) * self.spread_w[i]
        # At a mark the power on either side may be the one that is moved past it.
        before = np.maximum(i - 1, 0)
        at_mark = (self.time_s[i] == t) & (self.interval_start_s[i] < t)
        step = np.where(at_mark, np.abs(self.power_w[i] - self.power_w[before]), 0.0)
        moved = self.time_uncertainty_s * (self.spread_w + self.counts * self.power_w)[i]
        late = self.time_uncertainty_s * step
        return np.asarray((bound * EDGE_SHAPE) ** 2 + moved**2 + late**2)

    def _spread_over(self, start: Floats, stop: Floats) -> Floats:
        i, j = self._piece(start), self._piece(stop)
        within = (i == j) & (self.smear_s == 0) & (not self.counts)
        return np.where(within, self.spread_w[i], np.inf)


def energy_curve(
    channel: Channel,
    t_ns: NDArray[np.int64],
    value: Floats,
    interval_s: float,
    marks_s: Floats | None = None,
) -> EnergyCurve | None:
    """The energy over time that one channel's readings stand for.

    Args:
        channel: What was read; its quantity is power or energy.
        t_ns: Stamps in order of time. Shape: (readings,).
        value: Readings in W or J; NaN where the channel gave nothing. Shape: (readings,).
        interval_s: How often it was read.
        marks_s: Times at which power may have changed, in order. Shape: (marks,).

    Returns:
        The curve, or ``None`` when there are too few readings to say anything.
    """
    marks = np.zeros(0) if marks_s is None else marks_s
    seen = np.isfinite(value)
    t = np.asarray(t_ns[seen] * 1e-9, dtype=np.float64)
    value = value[seen]
    unseen_s = _unseen(channel, interval_s)
    time_uncertainty_s = _time_uncertainty_s(channel)
    if channel.quantity is Quantity.ENERGY:
        edges, power, gap = _counter_intervals(channel, t, value, interval_s)
    else:
        # Where the sensor does not look all the time, power is taken to change at a mark.
        change = marks if unseen_s > 0 else marks[:0]
        if not channel.polled:
            t, jitter_s = regular_times(t, channel.update_period_s)
            time_uncertainty_s = math.hypot(time_uncertainty_s, jitter_s)
        edges, power, gap = _power_intervals(channel, t, value, interval_s, change)
    if power.size == 0:
        return None
    power = (power - channel.offset_w) / channel.gain
    smear_s = max(0.0, channel.window_s - channel.update_period_s)
    spread = _spread(power, gap, reach=1 + math.ceil(smear_s / channel.update_period_s))
    if smear_s == 0 and unseen_s == 0:
        times = _change_times(edges, power, gap, marks, time_uncertainty_s)
        parts = split_at_marks(edges, power, ~gap, times)
        spread = _spread_of_parts(parts, spread, gap)
    else:
        parts = split_at_marks(edges, power, ~gap, marks[:0])
    noise_w = _noise_w(power, gap) if channel.quantity is Quantity.POWER else 0.0
    gap = gap[parts.interval]
    length = np.diff(parts.edges)
    blind_s = np.maximum(np.diff(edges)[parts.interval], channel.window_s)
    unresolved = UNRESOLVED_SHARE * np.minimum(blind_s / UNRESOLVED_SCALE_S, 1.0)
    spread = np.maximum(spread, unresolved * np.abs(parts.power))
    variance = np.where(
        gap,
        (length * spread * EDGE_SHAPE) ** 2,
        (np.minimum(unseen_s, length) * spread * EDGE_SHAPE) ** 2,
    )
    if channel.quantity is Quantity.POWER:
        step_w = channel.resolution / channel.gain
        variance += length**2 * (noise_w**2 + step_w**2 / 12)
        # A stamp that is wrong moves the boundary between two powers.
        jump = np.diff(parts.power, prepend=parts.power[:1])
        variance += (time_uncertainty_s * jump) ** 2
    return EnergyCurve(
        time_s=parts.edges,
        energy_j=np.concatenate(([0.0], np.cumsum(length * parts.power))),
        power_w=parts.power,
        spread_w=spread,
        interval_start_s=edges[:-1][parts.interval],
        interval_length_s=np.diff(edges)[parts.interval],
        variance_j2=np.concatenate(([0.0], np.cumsum(variance))),
        gap=gap,
        smear_s=smear_s,
        counts=channel.quantity is Quantity.ENERGY,
        time_uncertainty_s=time_uncertainty_s,
        aliasing=ALIASING * unseen_s / _expected_s(channel, interval_s),
    )


def regular_times(t: Floats, period_s: float) -> tuple[Floats, float]:
    """The times at which a regular sensor worked, from stamps that jitter.

    NVML's samples are taken each 20 ms, but stamped up to some milliseconds off: on an H100 the
    stamps' distances have a lag-1 autocorrelation of -0.46 (-0.5 for independent jitter about a
    regular grid). Stamps are counted on that grid, and their distance from it is replaced by its
    mean over :data:`JITTER_REACH` neighbours on either side.

    Args:
        t: Stamps in order, seconds. Shape: (readings,).
        period_s: The nominal distance.

    Returns:
        The times, and the standard uncertainty that is left of each, seconds.

    Example:
        >>> stamps = 0.02 * np.arange(100) + 0.002 * (-1.0) ** np.arange(100)
        >>> times, uncertainty_s = regular_times(stamps, 0.02)
        >>> float(np.abs(times - 0.02 * np.arange(100))[20:80].max()) < 0.0002
        True
    """
    apart = np.diff(t)
    usual = apart[np.abs(apart - period_s) < 0.75 * period_s]
    if usual.size < MANY_READINGS:
        return t, 0.0
    period = float(apart[apart <= GAP_FACTOR * period_s].mean())
    # One reading a step: a stamp that is late by half a period is no reading left out. Across a
    # gap the grid starts anew, where the stamp says.
    count = np.arange(t.size, dtype=np.float64)
    off = t - count * period
    runs = np.concatenate(([0], np.cumsum(apart > GAP_FACTOR * period_s)))
    first = np.searchsorted(runs, runs, side="left")
    last = np.searchsorted(runs, runs, side="right")
    index = np.arange(t.size)
    low = np.maximum(index - JITTER_REACH, first)
    high = np.minimum(index + JITTER_REACH + 1, last)
    running = np.concatenate(([0.0], np.cumsum(off - off[0])))
    smooth = (running[high] - running[low]) / (high - low) + off[0]
    jitter_s = 1.4826 * float(np.median(np.abs(off - smooth)))
    times = np.maximum.accumulate(count * period + smooth)
    return times, jitter_s / math.sqrt(2 * JITTER_REACH + 1)


def _noise_w(power: Floats, gap: Bools) -> float:
    """Standard deviation of the readings' own noise: that of their second differences.

    By the median, so that loads that come and go do not count (Gasser, Sroka, Jennen-Steinmetz,
    Biometrika 73, 1986, for the pseudo-residuals; variance 6 for weights 1, -2, 1).
    """
    if power.size < MANY_READINGS:
        return 0.0
    residual = np.abs(np.diff(power, 2))[~(gap[:-2] | gap[1:-1] | gap[2:])]
    return 1.4826 * float(np.median(residual)) / math.sqrt(6) if residual.size else 0.0


def _time_uncertainty_s(channel: Channel) -> float:
    """A polled value is anywhere between 0 and one update period old (rectangular)."""
    stale_s = channel.update_period_s / math.sqrt(12) if channel.polled else 0.0
    return math.hypot(stale_s, channel.time_uncertainty_s)


def _unseen(channel: Channel, interval_s: float) -> float:
    """The part of each interval in which the sensor does not look."""
    if channel.quantity is Quantity.ENERGY:
        return 0.0
    return max(0.0, _expected_s(channel, interval_s) - channel.window_s)


def _expected_s(channel: Channel, interval_s: float) -> float:
    return max(channel.update_period_s, interval_s) if channel.polled else channel.update_period_s


def _age_s(channel: Channel) -> float:
    """How long before its stamp a value was new, on average."""
    return channel.delay_s + (channel.update_period_s / 2 if channel.polled else 0.0)


def _power_intervals(
    channel: Channel, t: Floats, power: Floats, interval_s: float, change: Floats
) -> tuple[Floats, Floats, Bools]:
    """Each reading from half way to the reading before it to half way to the one after it.

    Half ways are between the middles of the readings' windows. Where power changed once between
    two readings, each stands for its own side of the change.
    """
    if t.size == 0:
        return t, power, np.zeros(0, dtype=bool)
    expected = _expected_s(channel, interval_s)
    middle = t - _age_s(channel) - channel.window_s / 2
    order = np.concatenate(([True], np.diff(middle) > 0))
    middle, power = middle[order], power[order]
    apart = np.diff(middle)
    gap_after = apart > GAP_FACTOR * expected
    half = np.where(gap_after, expected / 2, apart / 2)
    stops = middle[:-1] + half
    starts = middle[1:] - half
    first = np.searchsorted(change, middle[:-1], side="right")
    once = (np.searchsorted(change, middle[1:], side="left") - first == 1) & ~gap_after
    if once.any():
        stops[once] = starts[once] = change[first[once]]
    starts = np.concatenate(([middle[0] - expected / 2], starts))
    stops = np.concatenate((stops, [middle[-1] + expected / 2]))
    return _with_gaps(starts, stops, power, gap_after)


def _counter_intervals(
    channel: Channel, t: Floats, energy: Floats, interval_s: float
) -> tuple[Floats, Floats, Bools]:
    """Differences of a counter; one that went back has wrapped, or was reset (a gap)."""
    empty = np.zeros(0)
    if t.size < 2:
        return empty, empty, np.zeros(0, dtype=bool)
    t = t - _age_s(channel)
    keep = np.concatenate(([True], np.diff(t) > 0))
    t, energy = t[keep], energy[keep]
    difference = np.diff(energy)
    length = np.diff(t)
    back = difference < 0
    if channel.wrap is not None:
        difference = np.where(back, difference + channel.wrap, difference)
        back = difference < 0
    expected = _expected_s(channel, interval_s)
    # A counter that was not read for a while has still counted: only a reset loses energy.
    gap = back
    power = np.where(back, np.nan, difference / length)
    if np.all(back):
        return empty, empty, np.zeros(0, dtype=bool)
    power = _filled(power)
    if channel.polled and channel.update_period_s > expected / GAP_FACTOR:
        t, power, gap = _merge_unchanged(t, power, gap, difference)
    return t, power, gap


def _merge_unchanged(
    t: Floats, power: Floats, gap: Bools, difference: Floats
) -> tuple[Floats, Floats, Bools]:
    """Joins intervals in which a slow counter had no new value to the one that follows.

    The energy that they drew shows in the next new value. Unchanged intervals at the end have
    not shown theirs yet and are left out.
    """
    shown = np.flatnonzero((difference != 0) | gap)
    if shown.size == 0:
        return t, power, gap
    ends = np.concatenate(([0], shown + 1))
    sums = np.add.reduceat(np.where(gap, power * np.diff(t), difference), ends[:-1])
    new_t = t[ends]
    joined_gap = np.logical_or.reduceat(gap, ends[:-1])
    return new_t, sums / np.diff(new_t), joined_gap


def _filled(power: Floats) -> Floats:
    """Missing powers become the mean of their nearest neighbours."""
    known = np.flatnonzero(np.isfinite(power))
    index = np.arange(power.size)
    return np.asarray(np.interp(index, known, power[known]))


def _with_gaps(
    starts: Floats, stops: Floats, power: Floats, gap_after: Bools
) -> tuple[Floats, Floats, Bools]:
    """Intervals without the time between them become intervals with gaps between them."""
    where = np.flatnonzero(gap_after)
    between = (power[where] + power[where + 1]) / 2 if where.size else np.zeros(0)
    edges = np.concatenate((starts, stops[-1:]))
    edges = np.insert(edges, where + 1, stops[where])
    gap = np.insert(np.zeros(power.size, dtype=bool), where + 1, True)
    return edges, np.insert(power, where + 1, between), gap


def _spread(power: Floats, gap: Bools, reach: int) -> Floats:
    """How far power may be from an interval's mean: as far as its neighbours' means are.

    Looks at ``reach`` neighbours on either side. Within a gap: anything that was seen at all.
    """
    highest, lowest = power.copy(), power.copy()
    for away in range(1, min(reach, power.size - 1) + 1):
        for here, there in ((np.s_[away:], np.s_[:-away]), (np.s_[:-away], np.s_[away:])):
            np.maximum(highest[here], power[there], out=highest[here])
            np.minimum(lowest[here], power[there], out=lowest[here])
    return np.where(gap, np.ptp(power), np.maximum(highest - power, power - lowest))


def _change_times(
    edges: Floats, power: Floats, gap: Bools, marks: Floats, time_uncertainty_s: float
) -> Floats:
    """The marks, and the times of plain steps that no mark explains, in order.

    An interval of mean p between steady neighbours at a and b, p between a and b, had a at first
    and b after the share x of its length for which p = x a + (1 - x) b.
    """
    if power.size < 5:
        return marks
    a2, a, p, b, b2 = (power[i : power.size - 4 + i] for i in range(5))
    step = np.abs(b - a)
    steady = (np.abs(a - a2) + np.abs(b2 - b)) <= STEP_FLATNESS * step
    inside = (np.minimum(a, b) < p) & (p < np.maximum(a, b))
    near_gap = np.logical_or.reduce([gap[i : power.size - 4 + i] for i in range(5)])
    at = np.flatnonzero(steady & inside & ~near_gap & (step > 0)) + 2
    a, p, b = power[at - 1], power[at], power[at + 1]
    length = edges[at + 1] - edges[at]
    times = edges[at] + (p - b) / (a - b) * length
    if marks.size:
        nearest = np.searchsorted(marks, times)
        apart = np.minimum(
            np.abs(marks[np.minimum(nearest, marks.size - 1)] - times),
            np.abs(marks[np.maximum(nearest - 1, 0)] - times),
        )
        times = times[apart > np.maximum(SNAP * length, 3 * time_uncertainty_s)]
    return np.sort(np.concatenate((marks, times)))


def _spread_of_parts(parts: Parts, spread: Floats, gap: Bools) -> Floats:
    """How far power may be from a part's mean.

    As far as the parts beside it that no change point sets apart; beyond a change point only by
    :data:`STEP_FLATNESS` of the step; and by what the change points did not explain.
    """
    if parts.power.size < 2:
        return spread
    jump = np.abs(np.diff(parts.power))
    at_change = parts.interval[1:] == parts.interval[:-1]
    jump = np.where(at_change, STEP_FLATNESS * jump, jump)
    near = np.maximum(np.concatenate(([0.0], jump)), np.concatenate((jump, [0.0])))
    near += parts.left_over[parts.interval]
    return np.where(gap[parts.interval], spread[parts.interval], near)
