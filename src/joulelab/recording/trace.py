"""Reading a trace: live, finished, cut short by a kill, or made in memory."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from joulelab.errors import TraceError
from joulelab.recording.format import CHECK, EVENTS_FILE, READINGS_FILE, RECORD_SIZE, SCHEMA
from joulelab.sensors.sensor import Absence, Channel, Gap, Reading

RECORD = np.dtype([("t_ns", "<i8"), ("value", "<f8"), ("channel", "<u4"), ("check", "<u4")])
BLOCK = 1 << 18
"""So many records are read and checked at a time: they fit a processor's cache."""
THREADS = 4
"""Blocks that are checked side by side; a third and a fourth only help where there are cores."""
Stamps = NDArray[np.int64]
Values = NDArray[np.float64]
_ROWS = {
    "spans": (
        "span",
        ("index", "parent", "thread", "name", "attributes", "start_ns", "stop_ns"),
    ),
    "devices": ("device", ("index", "start_ns", "stop_ns")),
}


class Readings(NamedTuple):
    """One channel's readings in order of time.

    Attributes:
        t_ns: Stamps, CLOCK_MONOTONIC. Shape: (readings,).
        value: In the unit of the channel's quantity; NaN is a gap. Shape: (readings,).
    """

    t_ns: NDArray[np.int64]
    value: NDArray[np.float64]


@dataclass(frozen=True)
class Trace:
    """Every reading of a recording.

    Attributes:
        channels: What was recorded.
        series: The readings of each channel.
        absent: The sources that were not there when the recording began, and why.
        header: Everything else that the recorder said of itself.
        events: Spans, reasons of gaps, and how the recording stopped.
    """

    channels: tuple[Channel, ...]
    series: tuple[Readings, ...]
    absent: tuple[Absence, ...] = ()
    header: Mapping[str, Any] = field(default_factory=dict)
    events: Sequence[Mapping[str, Any]] = ()

    @property
    def size(self) -> int:
        """How many readings there are, gaps included."""
        return sum(one.t_ns.size for one in self.series)

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
        series = []
        for position in range(len(channels)):
            own = [one for one in readings if one.channel == position]
            t_ns = np.array([one.t_ns for one in own], dtype=np.int64)
            value = np.array([one.value if isinstance(one, Reading) else np.nan for one in own])
            series.append(in_order(t_ns, value))
        return cls(tuple(channels), tuple(series), tuple(absent))


def in_order(t_ns: NDArray[np.int64], value: NDArray[np.float64]) -> Readings:
    """Readings in order of their stamps; those of one stamp keep theirs.

    Example:
        >>> in_order(np.array([2, 1]), np.array([20.0, 10.0])).value.tolist()
        [10.0, 20.0]
    """
    order = np.argsort(t_ns, kind="stable")
    return Readings(t_ns[order], value[order])


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
        self._columns = [_Column() for _ in self._channels]
        self._events_offset = 0
        self._past_events: list[Mapping[str, Any]] = []

    def read(self) -> Trace:
        """Everything up to the last whole record."""
        self._read_readings()
        self._read_events()
        series = tuple(column.series() for column in self._columns)
        return Trace(self._channels, series, self._absent, self._header, tuple(self._past_events))

    def _read_readings(self) -> None:
        """Whole records only, a block at a time; what follows a damaged one is left out."""
        left = (self._readings.stat().st_size - self._offset) // RECORD_SIZE
        if left <= 0:
            return
        places = [self._offset + RECORD_SIZE * first for first in range(0, left, BLOCK)]
        threads = min(THREADS, len(places), os.cpu_count() or 1)
        with ThreadPoolExecutor(threads) as pool:
            blocks = pool.map(self._block, places) if threads > 1 else map(self._block, places)
            for parts, whole, is_all in blocks:
                for channel, t_ns, value in parts:
                    self._columns[channel].append(t_ns, value, left / whole)
                self._offset += whole * RECORD_SIZE
                left -= whole
                if not is_all:
                    break

    def _block(self, offset: int) -> tuple[list[tuple[int, Stamps, Values]], int, bool]:
        """Up to :data:`BLOCK` records by channel, how many are whole, and whether all are."""
        records = np.fromfile(self._readings, dtype=RECORD, count=BLOCK, offset=offset)
        whole = _whole(records)
        records, is_all = records[:whole], whole == len(records)
        counts = np.bincount(records["channel"], minlength=len(self._channels))
        if counts.size > len(self._channels):
            raise TraceError(
                f"{self._readings} is damaged",
                why="it has readings of a channel that its header does not name",
            )
        parts = []
        for channel in np.flatnonzero(counts):
            own = records if counts[channel] == whole else records[records["channel"] == channel]
            parts.append((int(channel), own["t_ns"], own["value"]))
        return parts, whole, is_all

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


class _Column:
    """One channel's readings as they come, in arrays with room for more.

    What was handed out stays as it was: readings are only added after its end.
    """

    def __init__(self) -> None:
        self._t_ns: Stamps = np.empty(0, dtype=np.int64)
        self._value: Values = np.empty(0)
        self._size = 0
        self._in_order = True

    def append(self, t_ns: Stamps, value: Values, share: float) -> None:
        """Adds readings; about ``share`` times as many are to come at once, these included."""
        begin, end = self._size, self._size + t_ns.size
        if end > self._t_ns.size:
            room = max(begin + int(1.02 * share * t_ns.size), 2 * begin, end)
            self._t_ns = _with_room(self._t_ns, begin, room)
            self._value = _with_room(self._value, begin, room)
        self._t_ns[begin:end] = t_ns
        self._value[begin:end] = value
        self._size = end
        since = self._t_ns[max(begin - 1, 0) : end]
        self._in_order = self._in_order and not np.any(since[1:] < since[:-1])

    def series(self) -> Readings:
        t_ns, value = self._t_ns[: self._size], self._value[: self._size]
        return Readings(t_ns, value) if self._in_order else in_order(t_ns, value)


def _with_room(array: NDArray[Any], used: int, room: int) -> NDArray[Any]:
    larger = np.empty(room, dtype=array.dtype)
    larger[:used] = array[:used]
    return larger


def _whole(records: NDArray[np.void]) -> int:
    """How many records there are before the first damaged one."""
    # The six 32-bit words of a record, two at a time.
    pairs = records.view("<u8").reshape(-1, RECORD_SIZE // 8)
    both = pairs[:, 0] ^ pairs[:, 1]
    both ^= pairs[:, 2]
    words = both.view("<u4")
    damaged = np.flatnonzero((words[::2] ^ words[1::2]) != CHECK)
    return int(damaged[0]) if damaged.size else len(records)
