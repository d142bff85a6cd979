"""Readings as intervals that follow each other, each with its mean power.

A sample that is the mean of a window is such an interval; an energy counter's difference is one;
an instantaneous value stands for the time around it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from joulelab.energy.signal.counters import counted
from joulelab.energy.signal.grid import GAP_FACTOR
from joulelab.energy.signal.update_phase import update_times
from joulelab.sensors.sensor import Channel, Quantity

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Indices = NDArray[np.intp]


@dataclass(frozen=True)
class Intervals:
    """Intervals that follow each other.

    Attributes:
        edges: Where they meet, seconds. Shape: (intervals + 1,).
        power: Mean power of each, W. Shape: (intervals,).
        gap: Whether an interval has no reading. Shape: (intervals,).
        bridged: Which bridge an interval is; -1 for any other. Shape: (intervals,).
        middle: Middle of the time in which the sensor looked. Shape: (intervals,).
        oldest_s: A polled value is evenly distributed between new and this old.
        late_uncertainty_s: Standard uncertainty of how late all edges are, beyond the channel's.
    """

    edges: Floats
    power: Floats
    gap: Bools
    bridged: Indices
    middle: Floats
    oldest_s: float = 0.0
    late_uncertainty_s: float = 0.0


NO_INTERVALS = Intervals(
    edges=np.zeros(0),
    power=np.zeros(0),
    gap=np.zeros(0, dtype=bool),
    bridged=np.zeros(0, dtype=np.intp),
    middle=np.zeros(0),
)


@dataclass(frozen=True)
class Bridges:
    """Stretches of readings without a gap of which only their sums are kept.

    Attributes:
        after: Position of the reading before each. Shape: (stretches,), as of all others.
        power_w: Mean power.
        readings: How many there were.
        jump_w2: Sum of the squared differences between readings that follow each other.
    """

    after: Indices
    power_w: Floats
    readings: Floats
    jump_w2: Floats


NO_BRIDGES = Bridges(np.zeros(0, dtype=np.intp), np.zeros(0), np.zeros(0), np.zeros(0))


def power_intervals(
    channel: Channel,
    t: Floats,
    power: Floats,
    interval_s: float,
    change: Floats,
    bridges: Bridges = NO_BRIDGES,
) -> Intervals:
    """Each reading from half way to the reading before it to half way to the one after it.

    Half ways are between the middles of the readings' windows. Where power changed once between
    two readings, each stands for its own side of the change.

    Args:
        channel: What was read; its quantity is power.
        t: Stamps in order, seconds. Shape: (readings,).
        power: W. Shape: (readings,).
        interval_s: How often it was read.
        change: Times at which power is known to have changed. Shape: (changes,).
        bridges: What lies between readings that are far apart, if anything; then stamps are
            all different.
    """
    if t.size == 0:
        return NO_INTERVALS
    expected = expected_s(channel, interval_s)
    middle = t - age_s(channel) - channel.window_s / 2
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
    found = _with_gaps(starts, stops, power, middle, gap_after, bridges)
    return replace(found, oldest_s=oldest_s(channel))


def counter_intervals(channel: Channel, t: Floats, energy: Floats, interval_s: float) -> Intervals:
    """Differences of a counter; where it does not tell what it counted, a gap.

    Where polls tell when the counter had its new values, intervals lie between these.
    """
    if t.size < 2:
        return NO_INTERVALS
    keep = np.concatenate(([True], np.diff(t) > 0))
    expected = expected_s(channel, interval_s)
    t, difference, gap = _known(channel, t[keep], energy[keep], expected)
    if np.all(gap):
        return NO_INTERVALS
    if channel.polled and not np.any(gap):
        risen = np.concatenate(([0.0], np.cumsum(difference)))
        found = update_times(t - channel.delay_s, risen, channel.update_period_s)
        if found is not None:
            difference = np.diff(risen[found.keep])
            new = _counted(found.time_s, difference / np.diff(found.time_s), gap[: difference.size])
            return replace(new, late_uncertainty_s=found.uncertainty_s)
    power = _filled(np.where(gap, np.nan, difference / np.diff(t)))
    t = t - age_s(channel)
    if channel.polled and channel.update_period_s > expected / GAP_FACTOR:
        t, power, gap = _merge_unchanged(t, power, gap, difference)
    return replace(_counted(t, power, gap), oldest_s=oldest_s(channel))


def _known(
    channel: Channel, t: Floats, energy: Floats, expected: float
) -> tuple[Floats, Floats, Bools]:
    """Readings, what was counted between them, and where that is not known.

    A counter that was not read for a while has still counted. The time for which one stood still is
    one interval, with what it caught up then, or a gap.
    """
    found = counted(channel, t, energy, expected)
    within = np.zeros(t.size, dtype=bool)
    for run in (found.caught_up, found.still):
        within[1:-1] |= run[:-1] & run[1:]
    risen = np.concatenate(([0.0], np.cumsum(found.energy_j)))[~within]
    return t[~within], np.diff(risen), found.lost[~within[:-1]]


def _counted(t: Floats, power: Floats, gap: Bools) -> Intervals:
    return Intervals(t, power, gap, np.full(power.size, -1), (t[:-1] + t[1:]) / 2)


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
    starts: Floats,
    stops: Floats,
    power: Floats,
    middle: Floats,
    gap_after: Bools,
    bridges: Bridges,
) -> Intervals:
    """Intervals with the time between them as gaps, or as the bridges that are known."""
    where = np.flatnonzero(gap_after)
    between = (power[where] + power[where + 1]) / 2 if where.size else np.zeros(0)
    known = np.isin(where, bridges.after)
    bridge = np.where(known, np.searchsorted(bridges.after, where), -1)
    between[known] = bridges.power_w[bridge[known]]
    edges = np.concatenate((starts, stops[-1:]))
    return Intervals(
        edges=np.insert(edges, where + 1, stops[where]),
        power=np.insert(power, where + 1, between),
        gap=np.insert(np.zeros(power.size, dtype=bool), where + 1, ~known),
        bridged=np.insert(np.full(power.size, -1), where + 1, bridge),
        middle=np.insert(middle, where + 1, (stops[where] + starts[where + 1]) / 2),
    )


def unseen_s(channel: Channel, interval_s: float) -> float:
    """The part of each interval in which the sensor does not look."""
    if channel.quantity is Quantity.ENERGY:
        return 0.0
    return max(0.0, expected_s(channel, interval_s) - channel.window_s)


def expected_s(channel: Channel, interval_s: float) -> float:
    """How far apart readings are when none is missing."""
    return max(channel.update_period_s, interval_s) if channel.polled else channel.update_period_s


def oldest_s(channel: Channel) -> float:
    """How old a polled value may be: anything up to one update period. 0 for own stamps."""
    return channel.update_period_s if channel.polled else 0.0


def age_s(channel: Channel) -> float:
    """How long before its stamp a value was new, on average."""
    return channel.delay_s + oldest_s(channel) / 2
