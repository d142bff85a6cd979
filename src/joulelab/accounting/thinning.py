"""Of a long recording, only what lies near the edges of spans matters in every detail.

Between them only the energy of a whole stretch counts: for a counter the difference of its ends,
for power the mean of its readings. Holes, resets and the extremes of power stay in detail too, so
that what is said of gaps is the same as with every reading kept.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from joulelab.accounting.intervals import (
    GAP_FACTOR,
    NO_BRIDGES,
    Bridges,
    age_s,
    expected_s,
)
from joulelab.recording.trace import Readings
from joulelab.sensors.sensor import Channel, Quantity

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]
T = TypeVar("T")
R = TypeVar("R")

LONG = 1 << 17
"""Recordings of fewer readings are kept whole: working them out takes some tens of ms."""
REACH = 24
"""So many readings on either side of an edge are kept, beside those that a window spans."""
LEAST_STRETCH = 64
"""Shorter stretches are kept."""
MOST_KEPT = 0.25
"""Where more than this share would be kept, everything is."""
BLOCK = 1 << 17
"""Readings that are gone through at a time: they fit a processor's cache."""
SHARE = 256
THREADS = 4


class Thinned(NamedTuple):
    """The readings that are kept, and what is known of the others.

    Attributes:
        t_ns: Stamps. Shape: (kept,).
        value: Finite, unless nothing was left out; a counter's wraps are undone.
            Shape: (kept,).
        after: Position of the reading before each stretch that was left out.
            Shape: (stretches,).
        bridges: What the readings left out come to, where they are power.
    """

    t_ns: NDArray[np.int64]
    value: Floats
    after: Indices
    bridges: Bridges

    def near(self, times_s: Floats) -> Floats:
        """Those of the times, given in order, that do not lie within a stretch left out."""
        if not self.after.size:
            return times_s
        before = np.searchsorted(self.t_ns, np.rint(times_s * 1e9).astype(np.int64)) - 1
        return times_s[~np.isin(before, self.after)]


def thinned(channel: Channel, readings: Readings, interval_s: float, edges_s: Floats) -> Thinned:
    """The readings near these edges in detail, and the stretches between them as sums.

    Args:
        channel: What was read; its quantity is power or energy.
        readings: All of them.
        interval_s: How often it was read.
        edges_s: Times whose surroundings matter. Shape: (edges,).
    """
    t_ns, value = readings
    if t_ns.size < LONG:
        return Thinned(t_ns, value, NO_BRIDGES.after, NO_BRIDGES)
    late_s = age_s(channel) + channel.window_s / 2
    around = np.searchsorted(t_ns, np.rint((edges_s + late_s) * 1e9).astype(np.int64))
    limit_ns = round(GAP_FACTOR * expected_s(channel, interval_s) * 1e9)
    counts = channel.quantity is Quantity.ENERGY
    scans = _each(
        lambda first: _scan(readings, first, limit_ns, counts), range(0, t_ns.size - 1, BLOCK)
    )
    special = np.concatenate([scan.special for scan in scans])
    if not counts:
        least = min(scans, key=lambda scan: scan.least_w)
        most = max(scans, key=lambda scan: scan.most_w)
        special = np.append(special, (least.least_at, most.most_at))
    reach = REACH + math.ceil(2 * channel.window_s / expected_s(channel, interval_s))
    starts, stops = _neighbourhoods(np.concatenate((around, special)), reach, t_ns.size)
    if np.sum(stops - starts) > MOST_KEPT * t_ns.size:
        return Thinned(t_ns, value, NO_BRIDGES.after, NO_BRIDGES)
    kept = np.concatenate([np.arange(a, b) for a, b in zip(starts, stops, strict=True)])
    t_kept, kept_value = t_ns[kept], value[kept]
    if counts:
        kept_value = kept_value + _wrapped_j(channel, value, special, kept)
    usable = np.isfinite(kept_value) & (np.diff(t_kept, prepend=t_kept[0] - 1) > 0)
    after = (np.cumsum(usable) - 1)[np.cumsum(stops - starts)[:-1] - 1]
    bridges = NO_BRIDGES if counts else _bridges(channel, readings, after, stops[:-1], starts[1:])
    return Thinned(t_kept[usable], kept_value[usable], after, bridges)


class _Scan(NamedTuple):
    """What a block of readings has in it that must be kept."""

    special: Indices
    least_w: float
    least_at: int
    most_w: float
    most_at: int


def _scan(readings: Readings, first: int, limit_ns: int, counts: bool) -> _Scan:
    """Looks for holes, missing values, and where a counter went back or power was extreme."""
    t_ns = readings.t_ns[first : first + BLOCK + 1]
    value = readings.value[first : first + BLOCK + 1]
    apart = np.diff(t_ns)
    special = [np.flatnonzero((apart > limit_ns) | (apart <= 0))]
    whole = math.isfinite(float(value.sum()))
    if not whole:
        special.append(np.flatnonzero(~np.isfinite(value)))
    if counts:
        special.append(np.flatnonzero(value[1:] < value[:-1]))
    found = first + np.concatenate(special)
    if counts or not (whole or np.isfinite(value).any()):
        return _Scan(found, math.inf, first, -math.inf, first)
    least, most = (
        (value.argmin(), value.argmax()) if whole else (np.nanargmin(value), np.nanargmax(value))
    )
    return _Scan(
        found, float(value[least]), first + int(least), float(value[most]), first + int(most)
    )


def _neighbourhoods(around: Indices, reach: int, size: int) -> tuple[Indices, Indices]:
    """Stretches of positions to keep, from the first reading to the last, apart from each other.

    Example:
        >>> _neighbourhoods(np.array([300]), 24, 1000)
        (array([  0, 276, 975]), array([  25,  325, 1000]))
    """
    around = np.unique(np.clip(np.concatenate((around, (0, size - 1))), 0, size - 1))
    starts, stops = np.maximum(around - reach, 0), np.minimum(around + reach + 1, size)
    apart = starts[1:] - stops[:-1] >= LEAST_STRETCH
    return starts[np.concatenate(([True], apart))], stops[np.concatenate((apart, [True]))]


def _wrapped_j(channel: Channel, value: Floats, special: Indices, kept: Indices) -> Floats:
    """What the wraps before each kept reading took off its counter; resets take off nothing."""
    if channel.wrap is None:
        return np.zeros(kept.size)
    special = np.unique(special[special < value.size - 1])
    fell = value[special + 1] - value[special]
    wraps = special[(fell < 0) & (fell + channel.wrap >= 0)]
    return channel.wrap * np.searchsorted(wraps, kept).astype(float)


def _bridges(
    channel: Channel, readings: Readings, after: Indices, firsts: Indices, stops: Indices
) -> Bridges:
    """The sums over these stretches, some hundreds of stretches at a time."""
    stretches = list(zip(firsts.tolist(), stops.tolist(), strict=True))
    shares = [stretches[i : i + SHARE] for i in range(0, len(stretches), SHARE)]
    done = _each(lambda share: [_sums(channel, readings, *ends) for ends in share], shares)
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
        power = readings.value[begin:end]
        jump = np.diff(power)
        jump_w2 += float(jump @ jump)
        if channel.polled:
            t_ns = readings.t_ns[begin - 1 : end + 1]
            weight = (t_ns[2:] - t_ns[:-2]).astype(np.float64)
            power_s += float(power @ weight)
            total += float(weight.sum())
        else:
            power_s += float(power.sum())
            total += power.size
    return power_s / total, jump_w2


def _each(work: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """Work on each item, several at a time: NumPy lets go of the interpreter while it counts."""
    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        return list(pool.map(work, items))
