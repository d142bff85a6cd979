"""Meters whose pace is not known beforehand: plugs, power supplies, management controllers.

They are asked once a second and answer with a value that may be many seconds old, and of which
neither the age nor the averaging window is stated. Their readings show how often they update and
how often they could be asked.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from joulelab.energy.signal.averaged_readings import SAME_PERIOD, pace_of
from joulelab.energy.signal.timestamp_alignment import Floats
from joulelab.recording.trace import Readings
from joulelab.sensors.sensor import Channel, Quantity, unknown_window_delay

SLOW_S = 0.5
"""Sensors that update more often are built in, and their pace is known."""
MIN_CHANGES = 4
MIN_READINGS = 3
DISTINCT = 0.75
"""Values of a meter that updates rarely mostly differ; power that steps returns to its levels."""


def with_observed_pace(
    channel: Channel, readings: Readings, interval_s: float
) -> tuple[Channel, float]:
    """Return a channel and the time between two reads as the readings show them."""
    if not (channel.polled and channel.update_period_s >= SLOW_S):
        return channel, interval_s
    seen = np.isfinite(readings.value)
    t_s = np.asarray(readings.t_ns[seen] * 1e-9, dtype=np.float64)
    if t_s.size < MIN_READINGS:
        return channel, interval_s
    usual_s = float(np.median(np.diff(t_s)))
    if usual_s > SAME_PERIOD * max(interval_s, channel.update_period_s):
        interval_s = usual_s
    if channel.quantity is not Quantity.POWER or channel.time_uncertainty_s == 0:
        return channel, interval_s
    period_s, is_sure = _update_period_s(t_s, readings.value[seen])
    longer_s = period_s - channel.update_period_s
    if period_s <= SAME_PERIOD * max(channel.update_period_s, interval_s):
        return channel, interval_s
    if not is_sure:
        off_s = math.hypot(channel.time_uncertainty_s, longer_s / math.sqrt(3))
        return replace(channel, time_uncertainty_s=off_s), interval_s
    later_s, off_s = unknown_window_delay(longer_s)
    slower = replace(
        channel,
        update_period_s=period_s,
        delay_s=channel.delay_s + later_s,
        time_uncertainty_s=math.hypot(channel.time_uncertainty_s, off_s),
    )
    return slower, interval_s


def _update_period_s(t_s: Floats, value: Floats) -> tuple[float, bool]:
    """Return the time between two new values, and whether it is sure.

    A load that steps between a few levels at regular times looks like a meter that updates then.
    """
    pace = pace_of(t_s, value)
    changed = np.flatnonzero(np.diff(value) != 0) + 1
    if pace.polled or changed.size < MIN_CHANGES:
        return pace.period_s, True
    apart_s = np.diff(t_s[changed])
    period_s = float(np.median(apart_s[apart_s <= SAME_PERIOD * apart_s.min()]))
    off_s = np.abs(apart_s - period_s * np.maximum(np.rint(apart_s / period_s), 1))
    if np.any(off_s > 1.5 * pace.interval_s):
        return pace.interval_s, True
    distinct = np.unique(value[np.append(0, changed)]).size
    return period_s, distinct > DISTINCT * changed.size
