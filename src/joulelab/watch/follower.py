"""Read a trace while it grows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from joulelab.recording.trace import Trace, TraceReader
from joulelab.recording.trace_spans import TraceSpan

NOW_S = 1.0
"""Current power is the mean over this time, or over two readings of a slower sensor."""
MARGIN_NS = 5 * 10**9
"""Readings from this long before and after a stretch are read with it."""
LOST_S, LOST_INTERVALS = 5.0, 4.0
"""A sensor counts as lost if it is silent for this time and for this many of its intervals."""
ALWAYS_NS = 1 << 62
"""Later than any reading."""
PROCESS_EVENTS = frozenset({"joined", "left", "cuda"})
"""Events that state which GPUs the job's processes use; they count for the whole recording."""


class Timing(NamedTuple):
    """How long a sensor may be silent, and the time of which its current power is the mean."""

    patience_ns: int
    current_ns: int


class TraceFollower(TraceReader):
    """Reads a trace while it grows: its new events, and stretches of its readings.

    Attributes:
        timings: Of each channel.
        stop: The event with which the recording ended; ``None`` before.
    """

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        periods_s = [one.update_period_s for one in self.channels]
        intervals_s = self.header.get("intervals_s") or periods_s
        self.timings = [
            Timing(
                round(1e9 * max(LOST_S, LOST_INTERVALS * max(interval_s, one.update_period_s))),
                round(1e9 * max(NOW_S, 2 * max(interval_s * one.polled, one.update_period_s))),
            )
            for one, interval_s in zip(self.channels, intervals_s, strict=True)
        ]
        self.stop: Mapping[str, Any] | None = None
        self._kept_events: list[Mapping[str, Any]] = []

    def energy_timings(self) -> dict[str, Timing]:
        """Return the timing of each component's energy, by the slowest of its sensors."""
        found: dict[str, Timing] = {}
        for channel, timing in zip(self.channels, self.timings, strict=True):
            if channel.gives_energy:
                before = found.get(channel.component, timing)
                found[channel.component] = Timing(*map(max, before, timing))
        return found

    def read_events(self) -> None:
        """Read new events and spans."""
        events = self.new_events()
        self._kept_events += events
        self.stop = next((one for one in events if one.get("event") == "stop"), self.stop)

    def stretch(
        self,
        start_ns: int,
        stop_ns: int,
        spans: Sequence[TraceSpan] = (),
        *,
        margin_ns: int | None = None,
    ) -> Trace:
        """Read between two times with a margin (default: :data:`MARGIN_NS`), with their events."""
        margin_ns = MARGIN_NS if margin_ns is None else margin_ns
        events = self._events_since(start_ns - margin_ns)
        return self.read_between(start_ns - margin_ns, stop_ns + margin_ns, events, spans)

    def forget_events(self, until_ns: int) -> None:
        """Forget the events before a time, from which on stretches begin."""
        self._kept_events = self._events_since(until_ns)

    def _events_since(self, since_ns: int) -> list[Mapping[str, Any]]:
        return [
            one
            for one in self._kept_events
            if one.get("event") in PROCESS_EVENTS or one.get("t_ns", since_ns) >= since_ns
        ]
