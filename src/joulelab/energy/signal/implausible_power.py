"""Readings that no component can draw: glitches, which become gaps, and sources not to be believed.

The bounds are those of :mod:`joulelab.sensors.plausibility`. Energy per time counts over stretches
of seconds, since a busy machine stamps readings late. A single leap counts for no more than the
bound allows, so that it alone does not discredit a source. Energy that is less than a component
needs for its work counts over a whole recording: a wrong unit is wrong all the time.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from joulelab.arrays import Bools, Floats
from joulelab.energy.signal.timestamp_alignment import GAP_FACTOR, spacing_s
from joulelab.parallel import each
from joulelab.recording.trace import Readings
from joulelab.sensors.plausibility import max_power_w
from joulelab.sensors.sensor import Channel, Quantity

LEAST_USE_S = 1.0  # Shorter use is lost between the kernel's ticks and the times of readings.
MAX_LATENCY_S = 1.0  # How much later than its value a timestamp may be on a busy machine.
STRETCHES_S = (5.0, 60.0)  # Over which a source is judged; a shorter recording as a whole.
NEGATIVE_SHARE = 0.01  # Zero is uncertain by this share of the largest reading,
NEGATIVE_W = 1.0  # or by this.
READINGS_PER_BLOCK = 1 << 17
UsedUntil = Callable[[Floats], Floats]
"""Returns the use of a component until each time, in seconds of full use."""


def glitches(channel: Channel, value: Floats) -> Bools:
    """Find power readings that the component cannot draw."""
    if channel.quantity is not Quantity.POWER or not value.size:
        return np.zeros(value.size, dtype=bool)
    # NaN compares as false.
    if value.min() >= 0 and value.max() <= max_power_w(channel):
        return np.zeros(value.size, dtype=bool)
    high = value > max_power_w(channel)
    usual_w = float(np.max(value, initial=0.0, where=np.isfinite(value) & ~high))
    return np.asarray(high | (value < -max(NEGATIVE_W, NEGATIVE_SHARE * usual_w)))


def without_glitches(channel: Channel, readings: Readings) -> Readings:
    """Return readings with gaps in place of glitches."""
    found = glitches(channel, readings.value)
    if not found.any():
        return readings
    return Readings(readings.t_ns, np.where(found, np.nan, readings.value))


def implausible_power_w(channel: Channel, readings: Readings, interval_s: float) -> float | None:
    """Return the power over seconds that shows a source to be wrong; ``None`` if none does."""
    blocks = range(0, max(readings.t_ns.size - 1, 0), READINGS_PER_BLOCK)
    if all(each(lambda first: _is_plausible(channel, readings, first), blocks)):
        return None
    seen = np.isfinite(readings.value) & (np.diff(readings.t_ns, prepend=-1) > 0)
    t_s = np.asarray(readings.t_ns[seen] * 1e-9, dtype=np.float64)
    value = readings.value[seen]
    if t_s.size < 2:
        return None
    length_s = np.diff(t_s)
    energy_j = _energy_j(channel, t_s, value, interval_s)
    if np.mean(glitches(channel, value) & (value < 0)) > 0.5:
        return float(np.median(value))
    bound_w = max_power_w(channel)
    most_j = np.clip(energy_j, 0.0, bound_w * (length_s + MAX_LATENCY_S))
    counted_j = np.concatenate(([0.0], np.cumsum(most_j)))
    for stretch_s in STRETCHES_S:
        stop = np.minimum(np.searchsorted(t_s, t_s + stretch_s), t_s.size - 1)
        took_s = t_s[stop] - t_s
        above = counted_j[stop] - counted_j > bound_w * (took_s + MAX_LATENCY_S)
        above[1:] &= took_s[1:] >= stretch_s
        if above.any():
            first = int(above.argmax())
            last = int(stop[first])
            return float(energy_j[first:last].sum() / took_s[first])
    return None


def insufficient_power(
    channel: Channel, readings: Readings, interval_s: float, used: UsedUntil
) -> tuple[float, float] | None:
    """Return the mean power and use that show a source to be wrong; ``None`` if they do not.

    Times in which a counter did not count are left out.
    """
    energy_j = used_s = length_s = 0.0
    blocks = range(0, max(readings.t_ns.size - 1, 0), READINGS_PER_BLOCK)
    for first in blocks if channel.least_use_w else ():
        block = slice(first, first + READINGS_PER_BLOCK + 1)
        seen = np.isfinite(readings.value[block])
        t_s = np.asarray(readings.t_ns[block][seen] * 1e-9, dtype=np.float64)
        each_s = np.diff(t_s)
        counted_j = _energy_j(channel, t_s, readings.value[block][seen], interval_s)
        rose = (counted_j > 0) & (each_s > 0)
        if channel.quantity is Quantity.POWER:
            rose &= each_s <= GAP_FACTOR * spacing_s(channel, interval_s)
        energy_j += float(counted_j[rose].sum())
        used_s += float(np.diff(used(t_s))[rose].sum())
        length_s += float(each_s[rose].sum())
    if used_s < LEAST_USE_S or energy_j >= channel.least_use_w * used_s:
        return None
    return energy_j / length_s, used_s / length_s


def _is_plausible(channel: Channel, readings: Readings, first: int) -> bool:
    """Report whether a block of readings never exceeds the bound."""
    block = slice(first, first + READINGS_PER_BLOCK + 1)
    value = readings.value[block]
    if channel.quantity is Quantity.POWER:
        return not glitches(channel, value).any()
    length_s = np.diff(readings.t_ns[block]) * 1e-9
    return not np.any(_counted_j(channel, value) > max_power_w(channel) * length_s)


def _energy_j(channel: Channel, t_s: Floats, value: Floats, interval_s: float) -> Floats:
    """Return the energy between readings; power is not believed for longer than it is new."""
    if channel.quantity is Quantity.ENERGY:
        return _counted_j(channel, value)
    length_s, spacing = np.diff(t_s), spacing_s(channel, interval_s)
    return value[1:] * np.where(length_s > GAP_FACTOR * spacing, spacing, length_s)


def _counted_j(channel: Channel, value: Floats) -> Floats:
    energy_j = np.diff(value)
    if channel.wrap is None:
        return energy_j
    return np.where(energy_j < 0, energy_j + channel.wrap, energy_j)
