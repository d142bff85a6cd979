"""From readings to energy over time.

The integral of the paper's Eqs. 4 and 5 is the running sum over the sensors' intervals, and the
energy of any span is a difference of two values of it, with the intervals at its edges shared out.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from joulelab.energy.signal import spread, variogram
from joulelab.energy.signal.alignment import lateness
from joulelab.energy.signal.change_points import (
    Parts,
    cut_everywhere,
    split_at_marks,
    split_by_state,
)
from joulelab.energy.signal.curve import EnergyCurve
from joulelab.energy.signal.grid import regular_times
from joulelab.energy.signal.intervals import (
    NO_BRIDGES,
    Bridges,
    Intervals,
    counter_intervals,
    expected_s,
    power_intervals,
    unseen_s,
)
from joulelab.energy.signal.power_states import NO_MARKS, Marks
from joulelab.sensors.sensor import Channel, Quantity

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def energy_curve(
    channel: Channel,
    t_ns: NDArray[np.int64],
    value: Floats,
    interval_s: float,
    marks: Marks = NO_MARKS,
    bridges: Bridges = NO_BRIDGES,
) -> EnergyCurve | None:
    """The energy over time that one channel's readings stand for.

    Args:
        channel: What was read; its quantity is power or energy.
        t_ns: Stamps in order of time. Shape: (readings,).
        value: Readings in W or J; NaN where the channel gave nothing. Shape: (readings,).
        interval_s: How often it was read.
        marks: Times at which power may have changed.
        bridges: Stretches of power readings that were left out of ``t_ns`` and ``value``; then
            every value is finite and every stamp later than the one before it.

    Returns:
        The curve, or ``None`` when there are too few readings to say anything.
    """
    seen = np.isfinite(value)
    t = np.asarray(t_ns[seen] * 1e-9, dtype=np.float64)
    value = value[seen]
    counts = channel.quantity is Quantity.ENERGY
    blind_s = unseen_s(channel, interval_s)
    located_s = 0.0
    if counts:
        found = counter_intervals(channel, t, value, interval_s)
    else:
        # Where the sensor does not look all the time, power is taken to change at a mark.
        change = marks.time_s if blind_s > 0 else marks.time_s[:0]
        if not channel.polled:
            t, located_s = regular_times(t, channel.update_period_s)
        found = power_intervals(channel, t, value, interval_s, change, bridges)
    if found.power.size == 0:
        return None
    found = replace(found, power=(found.power - channel.offset_w) / channel.gain)
    smear_s = max(0.0, channel.window_s - channel.update_period_s)
    apart_s = expected_s(channel, interval_s)
    if smear_s == 0 and blind_s == 0:
        split = _split(channel, found, marks, located_s)
    else:
        split = _cut(channel, found, marks, smear_s, apart_s)
    parts, gap = split.parts, found.gap[split.parts.interval]
    interval_length_s = np.diff(found.edges)[parts.interval]
    hidden_w = spread.unresolved(channel, interval_length_s) * np.abs(parts.power)
    spread_w = np.maximum(split.spread_w, hidden_w)
    variance_j2 = spread.variance_j2(channel, interval_s, found, parts, spread_w, bridges)
    law = _wander(channel, found, marks, smear_s, blind_s, apart_s)
    return EnergyCurve(
        time_s=parts.edges,
        energy_j=np.concatenate(([0.0], np.cumsum(np.diff(parts.edges) * parts.power))),
        power_w=parts.power,
        spread_w=spread_w,
        interval_start_s=found.edges[:-1][parts.interval] - split.late_s,
        interval_length_s=interval_length_s,
        variance_j2=np.concatenate(([0.0], np.cumsum(variance_j2))),
        gap=gap,
        smear_s=smear_s,
        counts=counts,
        late_uncertainty_s=split.late_uncertainty_s,
        located_uncertainty_s=located_s,
        oldest_s=found.oldest_s,
        wander=law.at(parts.interval),
    )


def _wander(
    channel: Channel,
    found: Intervals,
    marks: Marks,
    smear_s: float,
    blind_s: float,
    apart_s: float,
) -> variogram.Variogram:
    """How energy wanders between the readings, where they tell."""
    plain = ~found.gap & (found.bridged < 0)
    if blind_s > 0:
        return variogram.unknown(found.power.size)
    if smear_s > 0:
        return variogram.of_windows(found.middle, found.power, plain, channel.window_s, apart_s)
    marked = np.searchsorted(marks.time_s, found.edges)
    plain &= marked[1:] == marked[:-1]
    return variogram.of_intervals(found.edges, found.power, plain)


class _Split(NamedTuple):
    """Intervals split where power changed.

    Attributes:
        parts: On the clock of the marks.
        spread_w: How far power may be from each part's mean. Shape: (parts,).
        late_s: How much later the readings' own times are than the parts'.
        late_uncertainty_s: Standard uncertainty of that.
    """

    parts: Parts
    spread_w: Floats
    late_s: float
    late_uncertainty_s: float


def _split(channel: Channel, found: Intervals, marks: Marks, located_s: float) -> _Split:
    """Where the sensor sees just its intervals: neighbours tell the powers beside a mark."""
    power, plain = found.power, ~found.gap & (found.bridged < 0)
    steps = _steps(found.edges, power, ~plain)
    unknown_s = math.hypot(channel.time_uncertainty_s, found.late_uncertainty_s)
    late_s, left_s = lateness(steps, marks.time_s, unknown_s, located_s)
    edges = found.edges - late_s
    parts = split_at_marks(edges, power, plain, np.union1d(marks.time_s, steps - late_s))
    spread_w = spread.of_parts(parts, found.gap)
    if parts.unresolved.any():
        looks = edges[:-1], edges[1:]
        off_s = math.hypot(left_s, located_s, found.oldest_s / math.sqrt(12))
        parts, spread_w = split_by_state(parts, spread_w, power, plain, looks, marks, off_s)
    return _Split(parts, spread_w, late_s, left_s)


def _cut(
    channel: Channel, found: Intervals, marks: Marks, smear_s: float, apart_s: float
) -> _Split:
    """Where the sensor sees less or more than its intervals: only states tell the powers."""
    power, plain = found.power, ~found.gap & (found.bridged < 0)
    looks = found.middle - channel.window_s / 2, found.middle + channel.window_s / 2
    parts = cut_everywhere(found.edges, power, plain, marks.time_s, looks)
    reach = 1 + math.ceil(smear_s / apart_s)
    at_change = np.isin(found.edges[1:-1], marks.time_s) & (smear_s == 0)
    spread_w = spread.of_intervals(power, found.gap, reach, at_change)[parts.interval]
    if parts.unresolved.any():
        off_s = math.hypot(channel.time_uncertainty_s, found.oldest_s / math.sqrt(12))
        parts, spread_w = split_by_state(parts, spread_w, power, plain, looks, marks, off_s)
    return _Split(parts, spread_w, 0.0, channel.time_uncertainty_s)


def _steps(edges: Floats, power: Floats, gap: Bools) -> Floats:
    """The times of plain steps.

    An interval of mean p between steady neighbours at a and b, p between a and b, had a at first
    and b after the share x of its length for which p = x a + (1 - x) b.
    """
    if power.size < 5:
        return np.zeros(0)
    a2, a, p, b, b2 = (power[i : power.size - 4 + i] for i in range(5))
    step = np.abs(b - a)
    steady = (np.abs(a - a2) + np.abs(b2 - b)) <= spread.STEP_FLATNESS * step
    inside = (np.minimum(a, b) < p) & (p < np.maximum(a, b))
    near_gap = np.logical_or.reduce([gap[i : power.size - 4 + i] for i in range(5)])
    at = np.flatnonzero(steady & inside & ~near_gap & (step > 0)) + 2
    a, p, b = power[at - 1], power[at], power[at + 1]
    return np.asarray(edges[at] + (p - b) / (a - b) * (edges[at + 1] - edges[at]))
