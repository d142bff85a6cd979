"""Incidents during a recording that affect energies: what happened, and when.

The energy of a span lists those that fall into it, in addition to the gaps that widen its interval.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np

from joulelab.arrays import Bools
from joulelab.energy.incident import Incident
from joulelab.energy.signal import counter_faults, freezes, glitches, unread
from joulelab.format import duration
from joulelab.recording.trace import Readings, Trace
from joulelab.sensors.plausibility import more_than_possible
from joulelab.sensors.sensor import Quantity

CLOCK_STEP_S = 0.05  # Clocks that differ by more than this between two readings did not drift.
MAX_DRIFT = 500e-6  # The wall clock is never slewed faster against CLOCK_MONOTONIC (adjtimex(2)).
MISSED_READS = 2.5  # The recording ended this many intervals after the last reading of any channel.
MIN_SILENCE_S = 1.0
READINGS_PER_SEARCH = 4096


def find_incidents(trace: Trace) -> tuple[Incident, ...]:
    """Find everything that happened to a recording, in no order."""
    return (
        *(Incident(-math.inf, math.inf, text) for text in trace.damage),
        *_gaps(trace),
        *_faulty_readings(trace),
        *_holes(trace),
        *_clock_changes(trace),
        *_device_failures(trace),
        *_obstacles(trace),
        *_end(trace),
    )


def reason_for_absence(trace: Trace, incidents: Iterable[Incident], component: str) -> str:
    """Explain why a component has too few readings for an energy."""
    own = (one.text for one in incidents if one.text.startswith(f"{component}: "))
    reasons = trace.gap_reasons(component) or dict.fromkeys(text.partition(": ")[2] for text in own)
    return "; ".join(reasons) or "too few readings, or too few steps of its counter"


def _gaps(trace: Trace) -> Iterator[Incident]:
    """Yield the times from a failure of an energy source to its next reading."""
    for event in trace.events:
        if event.get("event") != "gap":
            continue
        if event["channel"] >= len(trace.channels):
            continue
        channel, readings = trace.channels[event["channel"]], trace.series[event["channel"]]
        if channel.gives_energy:
            stop_s = _next_reading_s(readings, event["t_ns"])
            text = f"{channel.component}: gap in {channel.source} ({event['reason']})"
            yield Incident(event["t_ns"] * 1e-9, stop_s, text)


def _next_reading_s(readings: Readings, t_ns: int) -> float:
    first = int(np.searchsorted(readings.t_ns, t_ns, side="right"))
    while first < readings.t_ns.size:
        seen = np.flatnonzero(np.isfinite(readings.value[first : first + READINGS_PER_SEARCH]))
        if seen.size:
            return float(readings.t_ns[first + seen[0]]) * 1e-9
        first += READINGS_PER_SEARCH
    return math.inf


def _faulty_readings(trace: Trace) -> Iterator[Incident]:
    intervals_s = trace.header.get("intervals_s")
    for i, channel in enumerate(trace.channels):
        if not channel.gives_energy:
            continue
        readings = trace.series[i]
        named = f"{channel.component}: {channel.source}"
        if channel.quantity is Quantity.ENERGY:
            interval_s = intervals_s[i] if intervals_s else channel.update_period_s
            for start_s, stop_s, what in counter_faults(channel, readings, interval_s):
                yield Incident(start_s, stop_s, f"{named} {what}")
            continue
        for first, after in _runs(freezes(channel, readings.value)):
            start_s, stop_s = (readings.t_ns[[first, after - 1]] * 1e-9).tolist()
            what = f"did not change for {duration(stop_s - start_s)}, which it otherwise does"
            yield Incident(start_s, stop_s, f"{named} {what}")
        found = glitches(channel, readings.value)
        for first, after in _runs(found):
            is_high = readings.value[first] > 0
            what = more_than_possible(channel) if is_high else "negative power, which nothing draws"
            around = [max(first - 1, 0), min(after, readings.t_ns.size - 1)]
            start_s, stop_s = (readings.t_ns[around] * 1e-9).tolist()
            yield Incident(start_s, stop_s, f"{named} read {what}")


def _runs(flags: Bools) -> list[list[int]]:
    """Return the first position of each run of true values, and that after it."""
    if not flags.any():
        return []
    edges = np.flatnonzero(np.diff(flags.astype(np.int8), prepend=0, append=0))
    return list(edges.reshape(-1, 2).tolist())


def _holes(trace: Trace) -> Iterator[Incident]:
    """Yield the times in which the sensor that a component's energy comes from was not read."""
    intervals_s = trace.header.get("intervals_s")
    first: dict[str, int] = {}
    for i in sorted(range(len(trace.channels)), key=lambda i: trace.channels[i].priority):
        if trace.channels[i].gives_energy:
            first.setdefault(trace.channels[i].component, i)
    for component, i in first.items():
        channel, t_ns = trace.channels[i], trace.series[i].t_ns
        if not channel.polled:
            # A sensor that timestamps its readings has a gap where some are missing.
            continue
        interval_s = intervals_s[i] if intervals_s else channel.update_period_s
        usual_s = max(channel.update_period_s, interval_s)
        for k in np.flatnonzero(unread(np.diff(t_ns) * 1e-9, usual_s)):
            start_s, stop_s = (t_ns[k : k + 2] * 1e-9).tolist()
            what = "was not read for a while"
            if channel.quantity is Quantity.ENERGY:
                what += ": only that time's whole energy is known"
            yield Incident(start_s, stop_s, f"{component}: {channel.source} {what}")


def _clock_changes(trace: Trace) -> Iterator[Incident]:
    """CLOCK_BOOTTIME gains on CLOCK_MONOTONIC in a suspend, and so does the wall clock."""
    boot, wall = (clock_readings(trace, name) for name in ("clock.boottime", "clock.realtime"))
    if boot is None or wall is None:
        return
    count = min(boot.t_ns.size, wall.t_ns.size)
    t_s = boot.t_ns[:count] * 1e-9
    slept_s = np.diff(boot.value[:count])
    set_s = np.diff(wall.value[:count]) - slept_s
    for i in np.flatnonzero(slept_s > CLOCK_STEP_S):
        text = (
            f"the machine was suspended for {duration(slept_s[i])}, "
            "which is not part of duration and energy"
        )
        yield Incident(float(t_s[i]), float(t_s[i + 1]), text)
    for i in np.flatnonzero(np.abs(set_s) > CLOCK_STEP_S + MAX_DRIFT * np.diff(t_s)):
        way = "forward" if set_s[i] > 0 else "back"
        text = f"the wall clock was set {way} by {duration(abs(set_s[i]))}"
        yield Incident(float(t_s[i]), float(t_s[i + 1]), text)


def clock_readings(trace: Trace, source: str) -> Readings | None:
    """Return how far a clock was ahead of CLOCK_MONOTONIC, in seconds."""
    for i, channel in enumerate(trace.channels):
        if channel.quantity is Quantity.CLOCK_OFFSET and channel.source == source:
            return trace.series[i]
    return None


def _device_failures(trace: Trace) -> Iterator[Incident]:
    for event in trace.events:
        if event.get("event") == "device_failed":
            text = f"{event['reason']}: from then on, GPU energy uses the span times of the host"
            yield Incident(event["t_ns"] * 1e-9, math.inf, text)


def _obstacles(trace: Trace) -> Iterator[Incident]:
    for event in trace.events:
        if event.get("event") == "obstacle":
            yield Incident(-math.inf, math.inf, str(event.get("reason", "")))


def _end(trace: Trace) -> Iterator[Incident]:
    """Yield the end of the readings: a recorder that was killed cannot report it."""
    last_ns = [int(readings.t_ns[-1]) for readings in trace.series if readings.t_ns.size]
    if last_ns:
        periods_s = [channel.update_period_s for channel in trace.channels]
        pairs = zip(trace.channels, trace.header.get("intervals_s", periods_s), strict=True)
        fastest_s = min(
            (period_s for channel, period_s in pairs if channel.gives_energy), default=0.0
        )
        silence_s = max(MIN_SILENCE_S, MISSED_READS * fastest_s)
        yield Incident(max(last_ns) * 1e-9 + silence_s, math.inf, "the recording ended early")
