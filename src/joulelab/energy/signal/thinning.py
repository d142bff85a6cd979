"""Thinning of long recordings: full detail near the edges of spans, sums everywhere else.

Between edges only the energy of a whole stretch counts: for a counter the difference of its ends,
for power the mean of its readings. Holes, resets and the extremes of power keep their detail too,
so that gaps are reported as if every reading were kept.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from joulelab.arrays import Bools, Floats, Indices, Integers
from joulelab.energy.signal.averaged_readings import is_averaged
from joulelab.energy.signal.counters import counter_steps, is_faultless
from joulelab.energy.signal.timestamp_alignment import (
    GAP_FACTOR,
    GRID_REACHES,
    NO_STRETCHES,
    Stretches,
    mean_age_s,
    spacing_s,
)
from joulelab.energy.signal.variability import POOL
from joulelab.parallel import each
from joulelab.recording.trace import Readings
from joulelab.sensors.sensor import Channel, Quantity

MIN_READINGS = 1 << 17  # Shorter recordings are not thinned: integrating them takes tens of ms.
REACH = 24  # Readings kept on either side of an edge, in addition to those that a window spans.
GRID_REACH = 32  # The same for a sensor that timestamps its own readings: they determine its grid.
HOLE_GRID_REACH = GRID_REACHES[0]
"""The same for holes and extremes, which are few: as many as a grid is ever estimated from."""
MIN_STRETCH = 64  # Shorter stretches are kept.
MAX_KEPT = 0.25  # Where more than this share would be kept, everything is.
BLOCK = 1 << 17  # Readings that are processed at a time: they fit a processor's cache.
STRETCHES_PER_THREAD = 256
RESET_J = 1e9  # A counter that lost what it counted is made to go back by more than any count.


class Thinned(NamedTuple):
    """The readings that are kept, and sums of the others."""

    t_ns: Integers  # Shape: (kept,).
    value: Floats  # Finite, unless nothing was left out. Shape: (kept,).
    wrap: float | None  # Where a counter still wraps; ``None`` if its wraps were undone.
    after: Indices  # Position of the reading before each omitted stretch. Shape: (stretches,).
    stretches: Stretches  # The sums over the omitted stretches of a power channel.

    def near(self, times_s: Floats) -> Bools:
        """Report which of the times, given in order, lie outside the omitted stretches."""
        ends_ns = self.t_ns[np.stack((self.after, self.after + 1), axis=1).reshape(-1)]
        ends = np.searchsorted(times_s, (ends_ns + 0.5) * 1e-9)
        is_kept = np.resize((True, False), ends.size + 1)
        return np.repeat(is_kept, np.diff(ends, prepend=0, append=times_s.size))


def is_long(readings: Readings) -> bool:
    """Report whether readings are worth thinning."""
    return readings.t_ns.size >= MIN_READINGS


def thin(channel: Channel, readings: Readings, interval_s: float, edges_s: Floats) -> Thinned:
    """Keep the readings near these edges, and sum up the stretches between them."""
    t_ns, value = readings
    everything = Thinned(t_ns, value, channel.wrap, NO_STRETCHES.after, NO_STRETCHES)
    if not is_long(readings):
        return everything
    latency_s = mean_age_s(channel) + channel.window_s / 2
    around = np.searchsorted(t_ns, np.rint((edges_s + latency_s) * 1e9).astype(np.int64))
    apart_s = spacing_s(channel, interval_s)
    is_counter = channel.quantity is Quantity.ENERGY
    scans = each(
        lambda first: _scan(channel, readings, first, apart_s), range(0, t_ns.size - 1, BLOCK)
    )
    special, wraps, lost = (np.concatenate(positions) for positions in zip(*scans, strict=True))
    spanned = window_readings(channel, interval_s)
    on_grid = not (channel.polled or is_counter)
    reaches = (GRID_REACH, HOLE_GRID_REACH) if on_grid else (REACH, REACH)
    reach = np.repeat(reaches, (around.size, special.size)) + spanned
    starts, stops = _neighbourhoods(np.concatenate((around, special)), reach, t_ns.size)
    if np.sum(stops - starts) > MAX_KEPT * t_ns.size:
        return everything
    kept = np.concatenate([np.arange(a, b) for a, b in zip(starts, stops, strict=True)])
    t_kept, kept_value = t_ns[kept], value[kept]
    if is_counter:
        kept_value = kept_value + (channel.wrap or 0.0) * np.searchsorted(wraps, kept)
        kept_value = kept_value - RESET_J * np.searchsorted(lost, kept)
    usable = np.isfinite(kept_value) & (np.diff(t_kept, prepend=t_kept[0] - 1) > 0)
    after = (np.cumsum(usable) - 1)[np.cumsum(stops - starts)[:-1] - 1]
    stretches = NO_STRETCHES
    if not is_counter:
        # A stretch without values stays a gap.
        seen = np.isfinite(value[stops[:-1]])
        stretches = _sum_up(channel, readings, after[seen], stops[:-1][seen], starts[1:][seen])
    return Thinned(t_kept[usable], kept_value[usable], None, after, stretches)


def window_readings(channel: Channel, interval_s: float) -> int:
    """Return how many readings the windows span that matter on one side of an edge."""
    windows = POOL / 2 if is_averaged(channel) else 2
    return math.ceil(windows * channel.window_s / spacing_s(channel, interval_s))


def _scan(
    channel: Channel, readings: Readings, first: int, apart_s: float
) -> tuple[Indices, Indices, Indices]:
    """Find the readings of a block to keep, and those before a counter's wraps and faults."""
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
        if is_faultless(channel, apart, np.diff(value), apart_s):
            return first + np.concatenate(special), wraps, lost
        usable = np.diff(t_ns, prepend=t_ns[0] - 1) > 0
        at = np.flatnonzero(usable if finite is None else usable & finite)
        t_s = np.asarray(t_ns[at] * 1e-9, dtype=np.float64)
        steps = counter_steps(channel, t_s, value[at], apart_s)
        unsure = steps.unknown | steps.caught_up
        changes = np.flatnonzero(np.diff(unsure.astype(np.int8), prepend=0, append=0))
        wraps, lost = at[:-1][steps.wrapped], at[:-1][steps.unknown]
        special.append(at[changes])
    else:
        if finite is not None:
            value = np.where(finite, value, np.nanmean(value) if finite.any() else 0.0)
        special.append(np.array([value.argmin(), value.argmax()]))
    return first + np.concatenate(special), first + wraps, first + lost


def _neighbourhoods(around: Indices, reach: Indices, size: int) -> tuple[Indices, Indices]:
    """Return disjoint ranges of positions around these, and around the first and the last."""
    around = np.clip(np.concatenate((around, (0, size - 1))), 0, size - 1)
    reach = np.concatenate((reach, (REACH, REACH)))
    order = np.argsort(around - reach, kind="stable")
    starts = np.maximum(around - reach, 0)[order]
    stops = np.maximum.accumulate(np.minimum(around + reach + 1, size)[order])
    apart = starts[1:] - stops[:-1] >= MIN_STRETCH
    return starts[np.concatenate(([True], apart))], stops[np.concatenate((apart, [True]))]


def _sum_up(
    channel: Channel, readings: Readings, after: Indices, firsts: Indices, stops: Indices
) -> Stretches:
    ends = list(zip(firsts.tolist(), stops.tolist(), strict=True))
    shares = [ends[i : i + STRETCHES_PER_THREAD] for i in range(0, len(ends), STRETCHES_PER_THREAD)]
    done = each(lambda share: [_sums(channel, readings, *one) for one in share], shares)
    power_w, jump_w2 = np.array([one for share in done for one in share]).reshape(-1, 2).T
    return Stretches(after, power_w, (stops - firsts).astype(np.float64), jump_w2)


def _sums(channel: Channel, readings: Readings, first: int, stop: int) -> tuple[float, float]:
    """Return the mean power of a stretch without holes, and the sum of its squared jumps.

    Readings of a regular sensor stand for one period each, whatever their timestamps; polled ones
    for the time halfway to their neighbours.
    """
    power_s = jump_w2 = total = 0.0
    for begin in range(first, stop, BLOCK):
        end = min(begin + BLOCK, stop)
        power = np.ascontiguousarray(readings.value[begin:end])
        jump = np.diff(power)
        # No BLAS: its threads would wait for those that already share the stretches.
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
