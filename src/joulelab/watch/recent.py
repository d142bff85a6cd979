"""What the last readings of a trace say: how far they reach, and what is no power."""

from __future__ import annotations

import math
import re

import numpy as np

from joulelab.recording.trace import Readings, Trace
from joulelab.sensors.sensor import Channel, Quantity
from joulelab.watch.model import Gauge

LOST_S = 5.0
STALE = 4.0
"""What is older than this, and than so many intervals, is of the past."""
_SHOWN = (
    Quantity.UTILIZATION,
    Quantity.MEMORY_UTILIZATION,
    Quantity.MEMORY_USED,
    Quantity.TEMPERATURE,
    Quantity.SM_CLOCK,
    Quantity.MEMORY_CLOCK,
)
_KINDS = ("gpu", "cpu", "dram")


def in_order(component: str) -> tuple[int, str, int]:
    """By which components are sorted: GPUs by their number, then CPUs and DRAM.

    Example:
        >>> sorted(["dram:0", "cpu:0", "gpu:10", "gpu:9"], key=in_order)
        ['gpu:9', 'gpu:10', 'cpu:0', 'dram:0']
    """
    kind, _, number = component.partition(":")
    place = _KINDS.index(kind) if kind in _KINDS else len(_KINDS)
    return place, component.rstrip("0123456789"), int(re.sub(r"\D", "", number) or 0)


def covered_ns(trace: Trace, *, was_seen: bool = False) -> int:
    """Up to when every energy that is still measured is known, CLOCK_MONOTONIC; 0 for never.

    Where none is measured any more, what else is read says how late it is.

    Args:
        trace: Its last readings.
        was_seen: Whether energy was measured before.
    """
    energies: dict[str, int] = {}
    newest_ns = 0
    for channel, readings in zip(trace.channels, trace.series, strict=True):
        last_ns = _last(readings)[0]
        newest_ns = max(newest_ns, last_ns)
        if channel.gives_energy:
            energies[channel.component] = max(energies.get(channel.component, 0), last_ns)
    if not was_seen and not any(energies.values()):
        return 0
    lost_ns = newest_ns - round(lost_s(trace) * 1e9)
    return min((t_ns for t_ns in energies.values() if t_ns >= lost_ns), default=lost_ns)


def lost_s(trace: Trace) -> float:
    """A component whose readings are so far behind the others' is not waited for."""
    return max(LOST_S, STALE * slowest_s(trace))


def slowest_s(trace: Trace) -> float:
    """The longest time between two readings of a channel that gives energy."""
    pairs = zip(trace.channels, _intervals_s(trace), strict=True)
    return max(
        (max(s, channel.update_period_s) for channel, s in pairs if channel.gives_energy),
        default=0.0,
    )


def grain_s(trace: Trace) -> float:
    """The longest time that a single reading of an energy stands for."""
    pairs = zip(trace.channels, _intervals_s(trace), strict=True)
    return max(
        (
            max(interval_s, channel.update_period_s) if channel.polled else channel.update_period_s
            for channel, interval_s in pairs
            if channel.gives_energy
        ),
        default=0.0,
    )


def gauges(trace: Trace) -> tuple[Gauge, ...]:
    """The last reading of each channel that gives no energy, one a component and quantity."""
    latest_ns = max((int(one.t_ns[-1]) for one in trace.series if one.t_ns.size), default=0)
    found: dict[tuple[str, Quantity], float] = {}
    for channel, readings, interval_s in zip(
        trace.channels, trace.series, _intervals_s(trace), strict=True
    ):
        key = channel.component, channel.quantity
        if channel.quantity not in _SHOWN or math.isfinite(found.get(key, math.nan)):
            continue
        t_ns, value = _last(readings)
        patience_s = max(LOST_S, STALE * max(interval_s, channel.update_period_s))
        found[key] = value if latest_ns - t_ns <= patience_s * 1e9 else math.nan
    order = sorted(found, key=lambda key: (*in_order(key[0]), _SHOWN.index(key[1])))
    return tuple(Gauge(component=key[0], quantity=key[1], value=found[key]) for key in order)


def source_of(component: str, channels: tuple[Channel, ...]) -> Channel:
    """The channel that the component's energy comes from as long as it works."""
    own = [one for one in channels if one.gives_energy and one.component == component]
    return min(own, key=lambda channel: channel.priority)


def _intervals_s(trace: Trace) -> list[float]:
    return trace.header.get("intervals_s") or [one.update_period_s for one in trace.channels]


def _last(readings: Readings) -> tuple[int, float]:
    """The last value and its time; 0 and NaN when there is none."""
    t_ns, value = readings
    for first in range(t_ns.size, 0, -_AT_ONCE):
        begin = max(first - _AT_ONCE, 0)
        seen = np.flatnonzero(np.isfinite(value[begin:first]))
        if seen.size:
            return int(t_ns[begin + seen[-1]]), float(value[begin + seen[-1]])
    return 0, math.nan


_AT_ONCE = 4096
