"""Meters whose pace is not known beforehand: plugs, power supplies, management controllers.

They are asked once a second and answer with a value that may be many seconds old, and of which
neither the age nor the averaging window is stated. Their readings show how often they update and
how often they could be asked.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from joulelab.arrays import Bools, Floats
from joulelab.energy.signal.averaged_readings import SAME_PERIOD, Pace, pace_of, updates
from joulelab.energy.signal.timestamp_alignment import GAP_FACTOR
from joulelab.energy.signal.variability import PHASE_S
from joulelab.recording.trace import Readings
from joulelab.sensors.sensor import Channel, Quantity, unknown_window_delay

SLOW_S = 0.5
"""Sensors that update more often are built in, and their pace is known."""
MIN_CHANGES = 4
MIN_READINGS = 4
MIN_POLLS = 2.5  # With fewer polls per update a late one hides when its value was new.
DISTINCT = 0.75
"""Values of a meter that updates rarely mostly differ; power that steps returns to its levels."""
COARSE_PRIORITY = 10  # Power shows the course of energy between the steps of a coarse counter.
FREEZE_PROBABILITY = 1e-9
MIN_FREEZE = 20
FINE = 0.005
"""A meter is frozen if as many equal readings in a row are this improbable, by how often others
repeat; there are at least this many; and its step is at most this share of the value."""


def observed(
    channel: Channel, readings: Readings, interval_s: float
) -> tuple[Channel, Readings, float]:
    """Return a channel, its readings and the time between two as a slow meter's readings show them.

    Readings of other channels are returned as they are.
    """
    if not (channel.polled and channel.update_period_s >= SLOW_S):
        return channel, readings, interval_s
    seen = np.isfinite(readings.value)
    t_s = np.asarray(readings.t_ns[seen] * 1e-9, dtype=np.float64)
    if t_s.size < MIN_READINGS:
        return channel, readings, interval_s
    expected_s = max(interval_s, channel.update_period_s)
    interval_s = float(np.median(np.diff(t_s)))
    if interval_s <= 0:
        return channel, readings, expected_s
    if interval_s > SAME_PERIOD * expected_s and channel.time_uncertainty_s > 0:
        # It takes long to answer, and its value is of any time between question and answer.
        off_s = math.hypot(channel.time_uncertainty_s, (interval_s - expected_s) / math.sqrt(12))
        channel = replace(channel, time_uncertainty_s=off_s)
    if channel.quantity is Quantity.ENERGY:
        return _at_its_steps(channel, readings, seen, interval_s)
    frozen = freezes(channel, readings.value)
    if frozen.any():
        readings = Readings(readings.t_ns, np.where(frozen, np.nan, readings.value))
    if channel.time_uncertainty_s == 0:
        return channel, readings, interval_s
    return _at_its_updates(channel, readings, interval_s)


def freezes(channel: Channel, value: Floats) -> Bools:
    """Find where a meter of power repeats one value for so long that it is frozen."""
    frozen = np.zeros(value.size, dtype=bool)
    if not (channel.polled and channel.update_period_s >= SLOW_S and channel.resolution > 0):
        return frozen
    known = np.flatnonzero(np.isfinite(value))
    is_same = np.diff(value[known]) == 0
    breaks = np.flatnonzero(~is_same)
    starts, ends = np.append(0, breaks + 1), np.append(breaks, is_same.size)
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        count = end - start
        if count < MIN_FREEZE or value[known[start]] * FINE < channel.resolution:
            continue
        others = is_same.size - count
        repeated = (float(np.count_nonzero(is_same)) - count + 1) / (others + 2)
        if others >= MIN_FREEZE and count * math.log(repeated) < math.log(FREEZE_PROBABILITY):
            frozen[known[start + 1 : end + 1]] = True
    return frozen


def _at_its_steps(
    channel: Channel, readings: Readings, seen: Bools, interval_s: float
) -> tuple[Channel, Readings, float]:
    """Keep the readings at which a counter rose, if it rests for several readings between.

    Only then it is known how much was counted: a counter of whole watt-hours that is read 3 s
    before its first step has not counted 1 Wh in 3 s, and its next step may be a minute away.
    """
    t_ns, value = readings.t_ns[seen], readings.value[seen]
    poll_s = max(channel.update_period_s, interval_s)
    changed = np.flatnonzero(np.diff(value) != 0) + 1
    apart_s = np.diff(t_ns[changed]) * 1e-9
    rests_s = float(np.median(apart_s)) if apart_s.size else math.inf
    if rests_s <= GAP_FACTOR * poll_s:
        return channel, readings, interval_s
    steps = Readings(t_ns[changed], value[changed])
    channel = replace(channel, priority=channel.priority + COARSE_PRIORITY)
    if not apart_s.size:
        return channel, steps, interval_s
    # A step is seen by the next poll: it is as old as that, and has counted as much since.
    counted_j = float(np.median(np.abs(np.diff(steps.value)))) * poll_s / rests_s
    own_times = replace(
        channel,
        polled=False,
        update_period_s=rests_s,
        delay_s=channel.delay_s + poll_s / 2,
        time_uncertainty_s=math.hypot(channel.time_uncertainty_s, poll_s / math.sqrt(12)),
        resolution=counted_j,
    )
    return own_times, steps, rests_s


def _at_its_updates(
    channel: Channel, readings: Readings, interval_s: float
) -> tuple[Channel, Readings, float]:
    """Keep the readings of power at which its value was new, if it repeats values between.

    Where the meter's period is not sure, its values may be up to one older.
    """
    seen = np.isfinite(readings.value)
    t_s, value = np.asarray(readings.t_ns[seen] * 1e-9, dtype=np.float64), readings.value[seen]
    if t_s.size < MIN_READINGS:
        return channel, readings, interval_s
    period_s, is_sure = _update_period_s(t_s, value)
    period_s = max(period_s, channel.update_period_s)
    longer_s = period_s - channel.update_period_s
    if not is_sure:
        off_s = math.hypot(channel.time_uncertainty_s, longer_s / math.sqrt(3))
        channel = replace(channel, time_uncertainty_s=off_s)
        period_s, longer_s = channel.update_period_s, 0.0
    if period_s <= SAME_PERIOD * interval_s:
        return channel, readings, interval_s
    later_s, off_s = unknown_window_delay(longer_s)
    slower = replace(
        channel,
        update_period_s=period_s,
        delay_s=channel.delay_s + later_s,
        time_uncertainty_s=math.hypot(channel.time_uncertainty_s, off_s),
    )
    if period_s < MIN_POLLS * interval_s:
        return slower, readings, interval_s
    pace = Pace(interval_s, period_s, True)
    runs = np.split(np.arange(t_s.size), np.flatnonzero(np.diff(t_s) > GAP_FACTOR * interval_s) + 1)
    found = [
        # The first value was new at the first reading, as far as is known.
        updates(
            np.append(t_s[run[0]] - interval_s, t_s[run]),
            np.append(value[run[0]] + 1.0, value[run]),
            pace,
        )
        for run in runs
    ]
    new_s, new_w = (np.concatenate(column) for column in zip(*found, strict=True))
    if new_s.size < MIN_READINGS:
        return slower, readings, interval_s
    new = Readings(np.rint(new_s * 1e9).astype(np.int64), new_w)
    return replace(slower, polled=False), new, period_s


def _update_period_s(t_s: Floats, value: Floats) -> tuple[float, bool]:
    """Return the time between two new values, and whether it is sure.

    A load that steps between a few levels at regular times looks like a meter that updates then.
    """
    pace = pace_of(t_s, value)
    changed = np.flatnonzero(np.diff(value) != 0) + 1
    if pace.polled or not changed.size:
        return pace.period_s, True
    apart_s = np.diff(t_s[changed])
    if changed.size < MIN_CHANGES:
        rests_s = min(t_s[changed[0]] - t_s[0], t_s[-1] - t_s[changed[-1]], *apart_s)
        return float(min(max(rests_s, pace.interval_s), PHASE_S)), False
    shortest_s = float(np.median(apart_s[apart_s <= SAME_PERIOD * apart_s.min()]))
    distinct = np.unique(value[np.append(0, changed)]).size
    # A load nearly in step with the meter may show changes two and three updates apart only.
    for updates_between in (1, 2):
        period_s = shortest_s / updates_between
        off_s = np.abs(apart_s - period_s * np.maximum(np.rint(apart_s / period_s), 1))
        if np.all(off_s <= min(1.5 * pace.interval_s, period_s / 4)):
            return period_s, distinct > DISTINCT * changed.size
    return pace.interval_s, True
