"""What happened to a recording that a person should know of: in words, and when.

The account of a span names those that fall into it, beside the gaps that widen its interval.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from joulelab.energy.signal.counters import doubts
from joulelab.recording.trace import Readings, Trace
from joulelab.sensors.sensor import Quantity

CLOCK_STEP_S = 0.05
"""Clocks that part by more than this between two readings did not drift."""
DRIFT = 500e-6
"""The wall clock is never slewed faster against CLOCK_MONOTONIC (adjtimex(2))."""
LATE = 2.5
"""So many intervals after the last reading of all, the recording is taken to have ended."""
AT_LEAST_S = 1.0
AT_ONCE = 4096


@dataclass(frozen=True, slots=True)
class Incident:
    """Something that happened.

    Attributes:
        start_s: CLOCK_MONOTONIC; it lies between the two times.
        stop_s: CLOCK_MONOTONIC.
        text: What it was.
    """

    start_s: float
    stop_s: float
    text: str


def incidents(trace: Trace) -> tuple[Incident, ...]:
    """Everything that happened to a recording, in no order.

    Example:
        >>> from joulelab.sensors.sensor import Channel, Provenance, Reading
        >>> def clock(name):
        ...     return Channel(component="clock", quantity=Quantity.CLOCK_OFFSET, source=name,
        ...         provenance=Provenance.MEASURED, update_period_s=10.0)
        >>> readings = [Reading(i * 10**10, k, 60.0 if k and i > 1 else 0.0)
        ...     for i in range(4) for k in (0, 1)]
        >>> trace = Trace.of([clock("clock.boottime"), clock("clock.realtime")], readings)
        >>> for one in incidents(trace):
        ...     print(round(one.start_s), one.stop_s, one.text)
        10 20.0 the wall clock was set forward by 60 s
        31 inf the recording had ended
    """
    return (
        *_gaps(trace),
        *_counters(trace),
        *_clock_changes(trace),
        *_device_failures(trace),
        *_end(trace),
    )


def why_nothing(trace: Trace, happened: Iterable[Incident], component: str) -> str:
    """Why a component has too few readings for an energy."""
    counters = (one.text for one in happened if one.text.startswith(f"{component}: "))
    found = trace.gap_reasons(component) or dict.fromkeys(
        text.partition(": ")[2] for text in counters
    )
    return "; ".join(found) or "too few readings"


def notes_of(happened: Iterable[Incident], start_s: float, stop_s: float) -> tuple[str, ...]:
    """What happened within a span, each thing once.

    Args:
        happened: As :func:`incidents` gives it.
        start_s: CLOCK_MONOTONIC.
        stop_s: CLOCK_MONOTONIC.
    """
    texts = (one.text for one in happened if one.start_s < stop_s and one.stop_s > start_s)
    return tuple(dict.fromkeys(texts))


def _gaps(trace: Trace) -> Iterator[Incident]:
    """From where a channel that gives energy began to give nothing to where it gave again."""
    for event in trace.events:
        if event.get("event") != "gap":
            continue
        channel, readings = trace.channels[event["channel"]], trace.series[event["channel"]]
        if channel.gives_energy:
            stop_s = _next_s(readings, event["t_ns"])
            text = f"{channel.component}: {channel.source} gave nothing for a while"
            yield Incident(event["t_ns"] * 1e-9, stop_s, f"{text} ({event['reason']})")


def _counters(trace: Trace) -> Iterator[Incident]:
    """Where a counter did not tell what it counted."""
    intervals_s = trace.header.get("intervals_s")
    for i, (channel, readings) in enumerate(zip(trace.channels, trace.series, strict=True)):
        if channel.quantity is Quantity.ENERGY:
            interval_s = intervals_s[i] if intervals_s else channel.update_period_s
            for one in doubts(channel, readings, interval_s):
                text = f"{channel.component}: {channel.source} {one.text}"
                yield Incident(one.start_s, one.stop_s, text)


def _next_s(readings: Readings, t_ns: int) -> float:
    """When the next value was read."""
    first = int(np.searchsorted(readings.t_ns, t_ns, side="right"))
    while first < readings.t_ns.size:
        seen = np.flatnonzero(np.isfinite(readings.value[first : first + AT_ONCE]))
        if seen.size:
            return float(readings.t_ns[first + seen[0]]) * 1e-9
        first += AT_ONCE
    return math.inf


def _clock_changes(trace: Trace) -> Iterator[Incident]:
    """CLOCK_BOOTTIME gains on CLOCK_MONOTONIC in a suspend, and so does the wall clock."""
    boot, wall = (_clock(trace, name) for name in ("clock.boottime", "clock.realtime"))
    if boot is None or wall is None:
        return
    count = min(boot.t_ns.size, wall.t_ns.size)
    t_s = boot.t_ns[:count] * 1e-9
    slept_s = np.diff(boot.value[:count])
    set_s = np.diff(wall.value[:count]) - slept_s
    for i in np.flatnonzero(slept_s > CLOCK_STEP_S):
        text = (
            f"the machine was suspended for {slept_s[i]:.3g} s, "
            "which neither duration nor energy include"
        )
        yield Incident(float(t_s[i]), float(t_s[i + 1]), text)
    for i in np.flatnonzero(np.abs(set_s) > CLOCK_STEP_S + DRIFT * np.diff(t_s)):
        way = "forward" if set_s[i] > 0 else "back"
        text = f"the wall clock was set {way} by {abs(set_s[i]):.6g} s"
        yield Incident(float(t_s[i]), float(t_s[i + 1]), text)


def _clock(trace: Trace, source: str) -> Readings | None:
    for i, channel in enumerate(trace.channels):
        if channel.quantity is Quantity.CLOCK_OFFSET and channel.source == source:
            return trace.series[i]
    return None


def _device_failures(trace: Trace) -> Iterator[Incident]:
    for event in trace.events:
        if event.get("event") == "device_failed":
            text = f"{event['reason']}: GPUs are accounted by the host's times from then on"
            yield Incident(event["t_ns"] * 1e-9, math.inf, text)


def _end(trace: Trace) -> Iterator[Incident]:
    """A recorder that died says nothing; its readings end."""
    last_ns = [int(readings.t_ns[-1]) for readings in trace.series if readings.t_ns.size]
    if last_ns:
        slack_s = max(AT_LEAST_S, LATE * _slowest_s(trace))
        yield Incident(max(last_ns) * 1e-9 + slack_s, math.inf, "the recording had ended")


def _slowest_s(trace: Trace) -> float:
    """The longest interval at which a channel that gives energy was read."""
    periods_s = [channel.update_period_s for channel in trace.channels]
    pairs = zip(trace.channels, trace.header.get("intervals_s", periods_s), strict=True)
    return max((period_s for channel, period_s in pairs if channel.gives_energy), default=0.0)
