"""Reading a trace: live, finished, cut short by a kill, or made in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from joulelab.errors import TraceError
from joulelab.recording.format import CHECK, EVENTS_FILE, READINGS_FILE, RECORD_SIZE, SCHEMA
from joulelab.sensors.sensor import Absence, Channel, Gap, Reading

RECORD = np.dtype([("t_ns", "<i8"), ("value", "<f8"), ("channel", "<u4"), ("check", "<u4")])
_CHECKED_AT_ONCE = 1 << 20
_ROWS = {
    "spans": (
        "span",
        ("index", "parent", "thread", "name", "attributes", "start_ns", "stop_ns"),
    ),
    "devices": ("device", ("index", "start_ns", "stop_ns")),
}


@dataclass(frozen=True)
class Trace:
    """Every reading of a recording.

    Attributes:
        channels: What was recorded.
        records: Array of :data:`RECORD`, in the order they were written. Shape: (readings,).
        absent: The sources that were not there when the recording began, and why.
        header: Everything else that the recorder said of itself.
        events: Spans, reasons of gaps, and how the recording stopped.
    """

    channels: tuple[Channel, ...]
    records: NDArray[np.void]
    absent: tuple[Absence, ...] = ()
    header: Mapping[str, Any] = field(default_factory=dict)
    events: Sequence[Mapping[str, Any]] = ()

    def series(self, channel: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Stamps (ns) and values of one channel, in order of time; NaN is a gap.

        Shapes: (readings of that channel,) each.
        """
        chosen = self.records[self.records["channel"] == channel]
        t_ns, value = chosen["t_ns"], chosen["value"]
        if t_ns.size and np.any(np.diff(t_ns) < 0):
            order = np.argsort(t_ns, kind="stable")
            t_ns, value = t_ns[order], value[order]
        return np.ascontiguousarray(t_ns), np.ascontiguousarray(value)

    def gap_reasons(self, component: str) -> list[str]:
        """Why that component's channels had gaps, each reason once."""
        named = {i for i, channel in enumerate(self.channels) if channel.component == component}
        reasons = (
            str(event["reason"])
            for event in self.events
            if event.get("event") == "gap" and event.get("channel") in named
        )
        return list(dict.fromkeys(reasons))

    @classmethod
    def of(
        cls,
        channels: Sequence[Channel],
        readings: Sequence[Reading | Gap],
        absent: Sequence[Absence] = (),
    ) -> Trace:
        """A trace made in memory; a reading's ``channel`` is its position in ``channels``."""
        records = np.zeros(len(readings), dtype=RECORD)
        for i, one in enumerate(readings):
            value = one.value if isinstance(one, Reading) else np.nan
            records[i] = (one.t_ns, value, one.channel, 0)
        return cls(tuple(channels), records, tuple(absent))


class TraceReader:
    """Reads a trace that may still be growing.

    Args:
        directory: Holds ``trace.bin`` and ``events.jsonl``.

    Raises:
        TraceError: There is no trace, or it is not one.
    """

    def __init__(self, directory: Path) -> None:
        self._readings = directory / READINGS_FILE
        self._events = directory / EVENTS_FILE
        try:
            with self._readings.open("rb") as file:
                line = file.readline()
            header = json.loads(line) if line.endswith(b"\n") else None
        except (OSError, ValueError) as error:
            raise TraceError(f"cannot read the trace in {directory}", why=str(error)) from error
        if not isinstance(header, dict) or header.get("schema") != SCHEMA:
            raise TraceError(
                f"{self._readings} is not a trace that this version can read",
                why=f"its first line does not name {SCHEMA}",
            )
        self._offset = len(line)
        self._channels = tuple(Channel.from_json(data) for data in header.pop("channels"))
        self._absent = tuple(Absence(**data) for data in header.pop("absent"))
        self._header = header
        self._blocks: list[NDArray[np.void]] = []
        self._events_offset = 0
        self._past_events: list[Mapping[str, Any]] = []

    def read(self) -> Trace:
        """Everything up to the last whole record."""
        fresh = np.fromfile(self._readings, dtype=RECORD, offset=self._offset)
        whole = _whole(fresh)
        if whole:
            self._blocks.append(fresh[:whole])
            self._offset += whole * RECORD_SIZE
        if len(self._blocks) > 1:
            self._blocks = [np.concatenate(self._blocks)]
        records = self._blocks[0] if self._blocks else np.zeros(0, dtype=RECORD)
        self._read_events()
        return Trace(self._channels, records, self._absent, self._header, tuple(self._past_events))

    def _read_events(self) -> None:
        """Whole lines only; a line that a kill or a full disk damaged is left out."""
        with self._events.open("rb") as file:
            file.seek(self._events_offset)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._events_offset += len(line)
                try:
                    event = json.loads(line)
                except ValueError:
                    continue
                if isinstance(event, dict):
                    self._past_events += _expanded(event)


def read_trace(directory: Path) -> Trace:
    """The trace in a directory, up to its last whole record.

    Raises:
        TraceError: There is no trace, or it is not one.
    """
    return TraceReader(directory).read()


def _expanded(event: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """One event for each row of a line of many; any other event as it is."""
    kind, names = _ROWS.get(str(event.get("event")), ("", ()))
    if not names:
        yield event
        return
    for row in event["rows"]:
        yield {"event": kind, "pid": event["pid"], **dict(zip(names, row, strict=True))}


def _whole(records: NDArray[np.void]) -> int:
    """How many records there are before the first damaged one."""
    for start in range(0, len(records), _CHECKED_AT_ONCE):
        block = np.ascontiguousarray(records[start : start + _CHECKED_AT_ONCE])
        # The six 32-bit words of a record, two at a time.
        pairs = block.view("<u8").reshape(-1, RECORD_SIZE // 8)
        both = pairs[:, 0] ^ pairs[:, 1] ^ pairs[:, 2]
        damaged = np.flatnonzero(((both >> 32) ^ both).astype("<u4") != CHECK)
        if damaged.size:
            return start + int(damaged[0])
    return len(records)
