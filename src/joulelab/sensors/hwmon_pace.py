"""How often hwmon meters are read: as often as they update, and as a small part of a core allows.

Power that makes up the total is polled twice as often as that of meters around it: one waking up
serves both. Power that steps in time with the polls would be seen equally late at each step up, and
at each step down: intervals have lengths that a load's period is hardly a multiple of.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from enum import Enum, auto

from joulelab.sensors.hwmon_devices import Meter
from joulelab.sensors.sensor import Channel, Quantity
from joulelab.sensors.sysfs_files import read_number_or_none

COUNTER_INTERVAL_S = 0.05
TELEMETRY_INTERVAL_S = 1.0
LEAST_INTERVAL_S, USUAL_INTERVAL_S, SLOWEST_INTERVAL_S = 0.023, 0.046, 0.1
READS_PER_PERIOD = 2.2
POLLING_CPU_SHARE = 0.009
"""Power that makes up the total is polled as often as this share of a core allows."""
WAKE_S, RECORD_S = 150e-6, 4e-6
"""CPU time of the recorder to wake up and begin to read, and for each value besides reading it:
measured while it polled 1 to 16 meters, on a virtual machine whose timers alone cost 50 us."""
COST_READINGS = 5
SLOW_SHARE = 0.9
"""Intervals that are nearly the slowest are it: other sensors are read then, too."""


class ReadRate(Enum):
    """How often a meter is read."""

    TELEMETRY = auto()
    COUNTER = auto()
    POWER = auto()
    ENCLOSING_POWER = auto()


def read_rate(channel: Channel, parts: Collection[str]) -> ReadRate:
    """Return how often a channel is read where these components are measured."""
    if not channel.gives_energy:
        return ReadRate.TELEMETRY
    if channel.quantity is Quantity.ENERGY:
        return ReadRate.COUNTER
    inside = {*channel.contains}
    is_around = any(part in inside or part.partition(":")[0] in inside for part in parts)
    return ReadRate.ENCLOSING_POWER if is_around else ReadRate.POWER


def polling_cost_s(meters: Collection[Meter]) -> float:
    """Measure the CPU time of polling these meters once."""
    return WAKE_S + sum(RECORD_S + _read_cost_s(one) for one in meters)


def interval_s(meters: Sequence[Meter], rate: ReadRate, cost_s: float) -> float:
    """Return how often meters are read, if polling what makes up the total takes this CPU time."""
    if rate is ReadRate.TELEMETRY:
        return TELEMETRY_INTERVAL_S
    if rate is ReadRate.COUNTER:
        return COUNTER_INTERVAL_S
    useful_s = min(one.channel.update_period_s for one in meters) / READS_PER_PERIOD
    affordable_s = max(cost_s / POLLING_CPU_SHARE, LEAST_INTERVAL_S)
    each_s = max(min(useful_s, USUAL_INTERVAL_S), affordable_s)
    if rate is ReadRate.ENCLOSING_POWER:
        each_s *= 2
    return each_s if each_s < SLOW_SHARE * SLOWEST_INTERVAL_S else SLOWEST_INTERVAL_S


def _read_cost_s(meter: Meter) -> float:
    """Measure the CPU time of a reading, the least of several."""
    times_s = []
    for _ in range(COST_READINGS):
        start_s = time.thread_time()
        for file in meter.files:
            read_number_or_none(meter.device.path / file)
        times_s.append(time.thread_time() - start_s)
    return min(times_s)
