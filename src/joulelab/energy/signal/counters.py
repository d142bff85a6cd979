"""What an energy counter's readings tell, and where they do not.

A counter loses energy where it goes back without having wrapped, leaps, stands still, or is not
read for so long that it may have wrapped more than once. None of these is a figure: each is a gap.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from joulelab.energy.signal.grid import GAP_FACTOR
from joulelab.recording.trace import Readings, each
from joulelab.sensors.sensor import Channel

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Indices = NDArray[np.intp]

MOST_W = 2000.0
"""No package, memory or board draws more: what went back further than that explains was reset."""
FULL_W = 1000.0
"""What a part with a counter that wraps may draw for long: until then it has wrapped once at most.
RAPL is read so often that it cannot wrap unseen at this power."""
LEAP_W = 1e5
"""Nothing with one counter draws more, a rack of accelerators included."""
LATE_S = 1.0
"""On a starved machine a counter's stamp may be later than its reading by so much."""
STILL_S = 2.0
STILL_PERIODS = 20
"""A counter without a new value for so long, and for so many of its update periods, stands still:
whatever is switched on draws more than one step of a counter in that time."""
AT_ONCE = 1 << 17


class Counted(NamedTuple):
    """What was counted between readings that follow each other.

    Attributes:
        energy_j: Differences, wraps undone. Shape: (readings - 1,).
        wrapped: Where the counter wrapped. Shape: (readings - 1,).
        back: Where it was reset. Shape: (readings - 1,).
        leapt: Where it counted more than can be. Shape: (readings - 1,).
        unread: Where it may have wrapped more than once. Shape: (readings - 1,).
        still: Where it stood still and did not catch up. Shape: (readings - 1,).
        caught_up: Where it stood still, and then counted what it had not shown.
            Shape: (readings - 1,).
    """

    energy_j: Floats
    wrapped: Bools
    back: Bools
    leapt: Bools
    unread: Bools
    still: Bools
    caught_up: Bools

    @property
    def lost(self) -> Bools:
        """Where the energy is not known."""
        return np.asarray(self.back | self.leapt | self.unread | self.still)


def counted(channel: Channel, t_s: Floats, value: Floats, expected_s: float) -> Counted:
    """What a counter counted from reading to reading.

    Args:
        channel: The counter.
        t_s: Times that rise. Shape: (readings,).
        value: Finite, J. Shape: (readings,).
        expected_s: How far apart readings are when none is missing.

    Example:
        >>> from joulelab.sensors.sensor import Provenance, Quantity
        >>> channel = Channel(component="cpu:0", quantity=Quantity.ENERGY, source="rapl",
        ...     provenance=Provenance.MEASURED, update_period_s=1e-3, wrap=1000.0)
        >>> t_s = np.array([0.0, 0.1, 0.2, 5.2])
        >>> found = counted(channel, t_s, np.array([990.0, 998.0, 6.0, 400.0]), 0.1)
        >>> found.energy_j.tolist(), found.unread.tolist()
        ([8.0, 8.0, 394.0], [False, False, True])
    """
    energy, length = np.diff(value), np.diff(t_s)
    fell = energy < 0
    if channel.wrap is None:
        wrapped = unread = np.zeros(energy.size, dtype=bool)
        most = LEAP_W * (length + LATE_S)
    else:
        most = MOST_W * (length + LATE_S)
        wrapped = fell & (energy + channel.wrap >= 0) & (energy + channel.wrap <= most)
        unread = (length > GAP_FACTOR * expected_s) & (FULL_W * length >= channel.wrap)
        energy = np.where(wrapped, energy + channel.wrap, energy)
    back, leapt = fell & ~wrapped, energy > most
    still, caught_up = _stood_still(channel, energy, length)
    return Counted(energy, wrapped, back, leapt, unread, still, caught_up)


def is_plain(
    channel: Channel, apart_ns: NDArray[np.int64], energy: Floats, expected_s: float
) -> bool:
    """Whether a counter rose from each reading to the next by what there can be: nothing to undo.

    Args:
        channel: The counter.
        apart_ns: From reading to reading. Shape: (readings - 1,).
        energy: The same, J; NaN where a value is missing. Shape: (readings - 1,).
        expected_s: How far apart readings are when none is missing.
    """
    if energy.size == 0:
        return True
    most_w = LEAP_W if channel.wrap is None else MOST_W
    longest_s = float(apart_ns.max()) * 1e-9
    in_time = channel.wrap is None or longest_s <= GAP_FACTOR * expected_s
    rises = float(energy.min()) > 0 and float(energy.max()) <= most_w * LATE_S
    return rises and in_time and int(apart_ns.min()) > 0


def _stood_still(channel: Channel, energy: Floats, length: Floats) -> tuple[Bools, Bools]:
    """Where a counter stood still for good, and where it caught up afterwards.

    A counter that counted nothing resumes with the power of its neighbours; one that only showed
    nothing resumes with all that it had not shown.
    """
    still, caught_up = (np.zeros(energy.size, dtype=bool) for _ in range(2))
    unchanged = energy == 0
    if np.count_nonzero(unchanged) < 1:
        return still, caught_up
    ends = np.diff(np.concatenate(([False], unchanged, [False])).astype(np.int8))
    since = np.concatenate(([0.0], np.cumsum(length)))
    starts, stops = np.flatnonzero(ends > 0), np.flatnonzero(ends < 0)
    long_s = max(STILL_S, STILL_PERIODS * channel.update_period_s)
    for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
        length_s = since[stop] - since[start]
        if length_s < long_s:
            continue
        beside = [i for i in (start - 1, stop + 1) if 0 <= i < energy.size and energy[i] > 0]
        if stop < energy.size and beside:
            neighbours_w = np.mean([energy[i] / length[i] for i in beside])
            if energy[stop] > neighbours_w * (length[stop] + length_s / 2):
                caught_up[start : stop + 1] = True
                continue
        still[start:stop] = True
    return still, caught_up


class Doubt(NamedTuple):
    """A stretch of a counter's readings that is no energy.

    Attributes:
        start_s: The last reading before it.
        stop_s: The first after it.
        text: What happened, without a subject.
    """

    start_s: float
    stop_s: float
    text: str


def doubts(channel: Channel, readings: Readings, interval_s: float) -> Iterator[Doubt]:
    """What a counter does not tell, stretch by stretch.

    Args:
        channel: The counter.
        readings: All of them.
        interval_s: How often it was read.
    """
    expected_s = max(channel.update_period_s, interval_s)
    firsts = range(0, readings.t_ns.size - 1, AT_ONCE)
    for found in each(lambda first: _doubts_from(channel, readings, first, expected_s), firsts):
        yield from found


def _doubts_from(
    channel: Channel, readings: Readings, first: int, expected_s: float
) -> list[Doubt]:
    """Of one block."""
    t_ns = np.ascontiguousarray(readings.t_ns[first : first + AT_ONCE + 1])
    value = np.ascontiguousarray(readings.value[first : first + AT_ONCE + 1])
    if is_plain(channel, np.diff(t_ns), np.diff(value), expected_s):
        return []
    use = np.isfinite(value) & (np.diff(t_ns, prepend=t_ns[0] - 1) > 0)
    t_s = np.asarray(t_ns[use] * 1e-9, dtype=np.float64)
    return list(_doubts(counted(channel, t_s, value[use], expected_s), t_s))


def _doubts(found: Counted, t_s: Floats) -> Iterator[Doubt]:
    for what, text in (
        (found.back, "went back without having wrapped: it was reset"),
        (found.leapt & ~found.unread, "leapt further than anything can draw"),
        (found.unread, "was read so late that it may have wrapped unseen"),
        (found.still, "stood still for {:.3g} s, in which it measured nothing"),
    ):
        ends = np.diff(np.concatenate(([False], what, [False])).astype(np.int8))
        for start, stop in zip(np.flatnonzero(ends > 0), np.flatnonzero(ends < 0), strict=True):
            start_s, stop_s = float(t_s[start]), float(t_s[stop])
            yield Doubt(start_s, stop_s, text.format(stop_s - start_s))
