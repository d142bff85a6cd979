"""Of a long recording, only what lies near the edges of spans matters in every detail.

Between them only the energy of a whole stretch counts: for a counter the difference of its ends,
for power the mean of its readings. Holes, resets and the extremes of power stay in detail too, so
that what is said of gaps is the same as with every reading kept.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from joulelab.energy.signal.averaged import is_averaged
from joulelab.energy.signal.counters import counted, is_plain
from joulelab.energy.signal.grid import GAP_FACTOR, REACHES
from joulelab.energy.signal.intervals import (
    NO_BRIDGES,
    Bridges,
    age_s,
    expected_s,
)
from joulelab.energy.signal.variogram import POOL
from joulelab.recording.trace import Readings, each
from joulelab.sensors.sensor import Channel, Quantity

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

LONG = 1 << 17
"""Recordings of fewer readings are kept whole: working them out takes some tens of ms."""
REACH = 24
"""So many readings on either side of an edge are kept, beside those that a window spans."""
GRID_REACH = 32
"""The same for a sensor that stamps its own readings: they tell its grid."""
HOLE_GRID_REACH = REACHES[0]
"""The same for holes and extremes, which are few: as many as a grid is ever told from."""
LEAST_STRETCH = 64
"""Shorter stretches are kept."""
MOST_KEPT = 0.25
"""Where more than this share would be kept, everything is."""
BLOCK = 1 << 17
"""Readings that are gone through at a time: they fit a processor's cache."""
SHARE = 256
RESET_J = 1e9
"""Where it is not known what a counter counted, it goes back by more than it ever counts."""


class Thinned(NamedTuple):
    """The readings that are kept, and what is known of the others.

    Attributes:
        t_ns: Stamps. Shape: (kept,).
        value: Finite, unless nothing was left out. Shape: (kept,).
        wrap: Where a counter still goes back to 0; ``None`` where its wraps were undone.
        after: Position of the reading before each stretch that was left out.
            Shape: (stretches,).
        bridges: What the readings left out come to, where they are power.
    """

    t_ns: NDArray[np.int64]
    value: Floats
    wrap: float | None
    after: Indices
    bridges: Bridges

    def near(self, times_s: Floats) -> NDArray[np.bool_]:
        """Which of the times, given in order, do not lie within a stretch left out."""
        before = np.searchsorted(self.t_ns, np.rint(times_s * 1e9).astype(np.int64)) - 1
        return ~np.isin(before, self.after)


def is_long(readings: Readings) -> bool:
    """Whether it is worth leaving something out."""
    return readings.t_ns.size >= LONG


def thinned(channel: Channel, readings: Readings, interval_s: float, edges_s: Floats) -> Thinned:
    """The readings near these edges in detail, and the stretches between them as sums.

    Args:
        channel: What was read; its quantity is power or energy.
        readings: All of them.
        interval_s: How often it was read.
        edges_s: Times whose surroundings matter. Shape: (edges,).
    """
    t_ns, value = readings
    if not is_long(readings):
        return Thinned(t_ns, value, channel.wrap, NO_BRIDGES.after, NO_BRIDGES)
    late_s = age_s(channel) + channel.window_s / 2
    around = np.searchsorted(t_ns, np.rint((edges_s + late_s) * 1e9).astype(np.int64))
    apart_s = expected_s(channel, interval_s)
    counts = channel.quantity is Quantity.ENERGY
    scans = each(
        lambda first: _scan(channel, readings, first, apart_s), range(0, t_ns.size - 1, BLOCK)
    )
    special = np.concatenate([scan.special for scan in scans])
    windows = POOL / 2 if is_averaged(channel) else 2
    spanned = math.ceil(windows * channel.window_s / apart_s)
    own_stamps = not (channel.polled or counts)
    reaches = (GRID_REACH, HOLE_GRID_REACH) if own_stamps else (REACH, REACH)
    reach = np.repeat(reaches, (around.size, special.size)) + spanned
    starts, stops = _neighbourhoods(np.concatenate((around, special)), reach, t_ns.size)
    if np.sum(stops - starts) > MOST_KEPT * t_ns.size:
        return Thinned(t_ns, value, channel.wrap, NO_BRIDGES.after, NO_BRIDGES)
    kept = np.concatenate([np.arange(a, b) for a, b in zip(starts, stops, strict=True)])
    t_kept, kept_value = t_ns[kept], value[kept]
    if counts:
        wraps, lost = (np.concatenate(one) for one in zip(*(s[1:] for s in scans), strict=True))
        kept_value = kept_value + (channel.wrap or 0.0) * np.searchsorted(wraps, kept)
        kept_value = kept_value - RESET_J * np.searchsorted(lost, kept)
    usable = np.isfinite(kept_value) & (np.diff(t_kept, prepend=t_kept[0] - 1) > 0)
    after = (np.cumsum(usable) - 1)[np.cumsum(stops - starts)[:-1] - 1]
    bridges = NO_BRIDGES
    if not counts:
        # A stretch without values stays a gap.
        seen = np.isfinite(value[stops[:-1]])
        bridges = _bridges(channel, readings, after[seen], stops[:-1][seen], starts[1:][seen])
    return Thinned(t_kept[usable], kept_value[usable], None, after, bridges)


class _Scan(NamedTuple):
    """What a block of readings has in it, as positions in the whole series.

    Attributes:
        special: What must be kept.
        wraps: Of a counter, the readings after which it wrapped.
        lost: Of a counter, the readings after which it does not tell what it counted.
    """

    special: Indices
    wraps: Indices
    lost: Indices


def _scan(channel: Channel, readings: Readings, first: int, apart_s: float) -> _Scan:
    """Looks for holes, missing values, what a counter does not tell, and power's extremes.

    Args:
        channel: What was read.
        readings: All of them.
        first: Where the block begins.
        apart_s: How far apart readings are when none is missing.
    """
    t_ns = np.ascontiguousarray(readings.t_ns[first : first + BLOCK + 1])
    value = np.ascontiguousarray(readings.value[first : first + BLOCK + 1])
    apart = np.diff(t_ns)
    special = [np.flatnonzero((apart > round(GAP_FACTOR * apart_s * 1e9)) | (apart <= 0))]
    wraps = lost = np.zeros(0, dtype=np.intp)
    finite = None
    if not math.isfinite(float(value.sum())):
        finite = np.isfinite(value)
        special.append(np.flatnonzero(finite[1:] != finite[:-1]))
    if channel.quantity is Quantity.ENERGY:
        if is_plain(channel, apart, np.diff(value), apart_s):
            return _Scan(first + np.concatenate(special), wraps, lost)
        usable = np.diff(t_ns, prepend=t_ns[0] - 1) > 0
        at = np.flatnonzero(usable if finite is None else usable & finite)
        found = counted(channel, np.asarray(t_ns[at] * 1e-9, dtype=np.float64), value[at], apart_s)
        unsure = found.lost | found.caught_up
        changes = np.flatnonzero(np.diff(unsure.astype(np.int8), prepend=0, append=0))
        wraps, lost = at[:-1][found.wrapped], at[:-1][found.lost]
        special.append(at[changes])
    else:
        if finite is not None:
            value = np.where(finite, value, np.nanmean(value) if finite.any() else 0.0)
        special.append(np.array([value.argmin(), value.argmax()]))
    return _Scan(first + np.concatenate(special), first + wraps, first + lost)


def _neighbourhoods(around: Indices, reach: Indices, size: int) -> tuple[Indices, Indices]:
    """Stretches of positions to keep, from the first reading to the last, apart from each other.

    Args:
        around: Positions whose neighbourhood is kept. Shape: (positions,).
        reach: How much on either side of each. Shape: (positions,).
        size: How many readings there are.

    Example:
        >>> _neighbourhoods(np.array([300]), np.array([24]), 1000)
        (array([  0, 276, 975]), array([  25,  325, 1000]))
    """
    around = np.clip(np.concatenate((around, (0, size - 1))), 0, size - 1)
    reach = np.concatenate((reach, (REACH, REACH)))
    order = np.argsort(around - reach, kind="stable")
    starts = np.maximum(around - reach, 0)[order]
    stops = np.maximum.accumulate(np.minimum(around + reach + 1, size)[order])
    apart = starts[1:] - stops[:-1] >= LEAST_STRETCH
    return starts[np.concatenate(([True], apart))], stops[np.concatenate((apart, [True]))]


def _bridges(
    channel: Channel, readings: Readings, after: Indices, firsts: Indices, stops: Indices
) -> Bridges:
    """The sums over these stretches, some hundreds of stretches at a time."""
    stretches = list(zip(firsts.tolist(), stops.tolist(), strict=True))
    shares = [stretches[i : i + SHARE] for i in range(0, len(stretches), SHARE)]
    done = each(lambda share: [_sums(channel, readings, *ends) for ends in share], shares)
    power_w, jump_w2 = np.array([one for share in done for one in share]).reshape(-1, 2).T
    return Bridges(after, power_w, (stops - firsts).astype(np.float64), jump_w2)


def _sums(channel: Channel, readings: Readings, first: int, stop: int) -> tuple[float, float]:
    """Mean power of a stretch without holes, and the sum of its squared jumps.

    Readings of a regular sensor stand for one period each, whatever their stamps; polled ones for
    the time half way to their neighbours.
    """
    power_s = jump_w2 = total = 0.0
    for begin in range(first, stop, BLOCK):
        end = min(begin + BLOCK, stop)
        power = np.ascontiguousarray(readings.value[begin:end])
        jump = np.diff(power)
        # No BLAS: its threads would wait for those that already share the stretches out.
        jump_w2 += float(np.einsum("i,i->", jump, jump))
        if channel.polled:
            t_ns = readings.t_ns[begin - 1 : end + 1]
            weight = (t_ns[2:] - t_ns[:-2]).astype(np.float64)
            power_s += float(np.einsum("i,i->", power, weight))
            total += float(weight.sum())
        else:
            power_s += float(power.sum())
            total += power.size
    return power_s / total, jump_w2
