"""Reading a trace: growing, finished, cut short by a kill, or made in memory."""

from __future__ import annotations

import bisect
import mmap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from joulelab.arrays import Floats, Integers
from joulelab.errors import TraceError
from joulelab.format import count
from joulelab.parallel import each
from joulelab.recording.span_columns import SpanColumns, SpanTable
from joulelab.recording.trace_format import CHECK, EVENTS_FILE, READINGS_FILE, RECORD_SIZE
from joulelab.recording.trace_schema import parse_event, parse_header, read_header_line
from joulelab.recording.trace_spans import SpanFold, TraceSpan
from joulelab.sensors.sensor import Absence, Channel, Gap, Reading
from joulelab.storage import open_regular
from joulelab.validation import MOST, MOST_NS, InvalidData

RECORD = np.dtype([("t_ns", "<i8"), ("value", "<f8"), ("channel", "<u4"), ("check", "<u4")])
BLOCK = 1 << 18
"""Number of records that are read and checked at a time: they fit a processor's cache."""
RECORDS_AT_A_TIME = 1 << 16
"""Number of records that are divided by channel at a time: larger arrays are new memory each."""
Timestamps = Integers


class Readings(NamedTuple):
    """One channel's timestamps (CLOCK_MONOTONIC) in order, and its values; NaN is a gap."""

    t_ns: Timestamps
    value: Floats


@dataclass(frozen=True)
class Trace:
    """Everything that a recording has.

    Attributes:
        channels: What was recorded.
        series: The readings of each channel.
        absent: The sources that were missing when the recording began, and why.
        header: What else the recorder stated about itself.
        events: Reasons of gaps, processes that joined and left, why the recording stopped.
        spans: The program's spans, in the order in which they began.
        damage: What of the recording could not be read, as sentences without a full stop.
    """

    channels: tuple[Channel, ...]
    series: Sequence[Readings]
    absent: tuple[Absence, ...] = ()
    header: Mapping[str, Any] = field(default_factory=dict)
    events: Sequence[Mapping[str, Any]] = ()
    spans: Sequence[TraceSpan] = ()
    damage: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """The number of readings, gaps included."""
        return sum(one.t_ns.size for one in self.series)

    @property
    def finished_spans(self) -> SpanColumns:
        """The spans that have ended."""
        spans = SpanColumns.of(self.spans)
        return spans.where(spans.is_finished)

    def gap_reasons(self, component: str) -> list[str]:
        """Return why that component's channels had gaps, each reason once."""
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
        """Make a trace in memory. A reading's ``channel`` is its position in ``channels``."""
        series = []
        for position in range(len(channels)):
            own = [one for one in readings if one.channel == position]
            t_ns = np.array([one.t_ns for one in own], dtype=np.int64)
            value = np.array([one.value if isinstance(one, Reading) else np.nan for one in own])
            series.append(in_order(t_ns, value))
        return cls(tuple(channels), tuple(series), tuple(absent))


def in_order(t_ns: Timestamps, value: Floats) -> Readings:
    """Sort readings by their timestamps; those with equal timestamps keep their order."""
    order = np.argsort(t_ns, kind="stable")
    return Readings(t_ns[order], value[order])


class TraceReader:
    """Reads the trace in a directory, which may still be growing.

    Attributes:
        channels: What is recorded.
        absent: The sources that were missing when the recording began, and why.
        header: What else the recorder stated about itself.
        spans: Those of the events read so far; replace it at first to keep fewer of them.

    Raises:
        TraceError: There is no trace, or it cannot be read.
    """

    def __init__(self, directory: Path) -> None:
        self._readings = directory / READINGS_FILE
        self._events = directory / EVENTS_FILE
        try:
            with open_regular(self._readings) as file:
                line = read_header_line(file)
            header = parse_header(line)
        except OSError as error:
            raise TraceError(f"cannot read the trace in {directory}", why=str(error)) from error
        except ValueError as error:
            raise TraceError(
                f"{self._readings} is not a trace that this version can read", why=str(error)
            ) from error
        self._begin = len(line)
        self.channels, self.absent = tuple(header["channels"]), tuple(header["absent"])
        self.header: Mapping[str, Any] = {
            name: value for name, value in header.items() if name not in ("channels", "absent")
        }
        self._damaged_lines = self._unread_records = 0
        self._is_shorter = self._has_no_events = False
        self._map: mmap.mmap | None = None
        self._counts = np.zeros(len(self.channels), dtype=np.int64)
        self._events_offset = 0
        self._past_events: list[Mapping[str, Any]] = []
        self.spans: SpanTable | SpanFold = SpanTable()

    def read(self) -> Trace:
        """Read everything up to the last whole record."""
        series = _MappedSeries(
            self._whole_records(), self._counts.copy(), self._size, self._release
        )
        self._past_events += self.new_events()
        return self._trace(series, tuple(self._past_events), self.spans.spans())

    def read_between(
        self,
        start_ns: int,
        stop_ns: int,
        events: Sequence[Mapping[str, Any]] = (),
        spans: Sequence[TraceSpan] = (),
    ) -> Trace:
        """Read only the readings between two times (CLOCK_MONOTONIC).

        The file has readings in the order in which they arrived, so a few may be slightly older.
        The trace gets the given events (see :meth:`new_events`) and spans.
        """
        records = self._whole_records()
        first = bisect.bisect_left(records["t_ns"], start_ns)
        last = bisect.bisect_right(records["t_ns"], stop_ns, first)
        counts = np.bincount(records["channel"][first:last], minlength=self._counts.size)
        series = _MappedSeries(
            records[first:last], counts, lambda: self._size() - first, self._release
        )
        return self._trace(series, events, spans)

    def latest_ns(self) -> int:
        """Return the timestamp of the last reading; 0 if there is none."""
        records = self._whole_records()
        return int(records["t_ns"][-1]) if records.size else 0

    def new_events(self) -> list[Mapping[str, Any]]:
        """Return the events since the last call or :meth:`read`; those of spans go to ``spans``.

        Only whole lines are read; damaged ones are skipped and counted.
        """
        found: list[Mapping[str, Any]] = []
        try:
            file = open_regular(self._events)
        except FileNotFoundError:
            self._has_no_events = True
            return found
        with file:
            file.seek(self._events_offset)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._events_offset += len(line)
                try:
                    event = parse_event(line)
                    if not self.spans.add(event):
                        found.append(event)
                except InvalidData:
                    self._damaged_lines += 1
        return found

    def _whole_records(self) -> NDArray[np.void]:
        """Map the file up to its last whole record."""
        size = self._size()
        if size < self._counts.sum():
            self._is_shorter = True
            self._counts[:] = 0
        if not size:
            return np.zeros(0, dtype=RECORD)
        with open_regular(self._readings) as file:
            length = self._begin + size * RECORD_SIZE
            self._map = mmap.mmap(file.fileno(), length, access=mmap.ACCESS_READ)
        records = np.frombuffer(self._map, RECORD, size, self._begin)
        self._check(records)
        return records[: self._counts.sum()]

    def _release(self) -> None:
        """Give back the memory of the mapped pages; they are read again when they are used."""
        if self._map is not None:
            self._map.madvise(mmap.MADV_DONTNEED)

    def _size(self) -> int:
        """Return the number of records in the file now, damaged ones included."""
        return max(0, self._readings.stat().st_size - self._begin) // RECORD_SIZE

    def _trace(
        self,
        series: Sequence[Readings],
        events: Sequence[Mapping[str, Any]],
        spans: Sequence[TraceSpan],
    ) -> Trace:
        damage = []
        if self._unread_records:
            unread = count(self._unread_records, "reading is", "readings are")
            damage.append(f"{self._readings.name} is damaged: its last {unread} left out")
        if self._is_shorter:
            damage.append(f"{self._readings.name} was cut short while it was read")
        lines = self._damaged_lines + self.spans.damaged
        if lines:
            entries = count(lines, "damaged entry is", "damaged entries are")
            damage.append(f"{entries} left out of {self._events.name}")
        if self._has_no_events:
            damage.append(f"there is no {self._events.name}, so spans and gaps are unknown")
        return Trace(self.channels, series, self.absent, self.header, events, spans, tuple(damage))

    def _check(self, records: NDArray[np.void]) -> None:
        """Count the whole records after those already counted; stop at a damaged one."""
        firsts = range(int(self._counts.sum()), len(records), BLOCK)
        blocks = [records[first : first + BLOCK] for first in firsts]
        self._unread_records = 0

        def whole_in(block: NDArray[np.void]) -> int:
            found = _whole(block)
            self._release()
            return found

        for block, whole in zip(blocks, each(whole_in, blocks), strict=True):
            if whole and int(block["channel"][:whole].max()) >= self._counts.size:
                raise TraceError(
                    f"{self._readings} is damaged",
                    why="it has readings of a channel that its header does not name",
                )
            self._counts += np.bincount(block["channel"][:whole], minlength=self._counts.size)
            self._release()
            if whole < len(block):
                rest = records[int(self._counts.sum()) :]
                # After a power failure, a file ends in zeros.
                self._unread_records = int(np.count_nonzero(rest["check"]))
                break


def missing_trace(reason: str) -> Trace:
    """Return a trace in which everything is absent, for this reason."""
    return Trace((), (), (Absence("recording", "trace", reason),))


def read_trace(directory: Path) -> Trace:
    """Read the trace in a directory, up to its last whole record.

    Raises:
        TraceError: There is no trace, or it cannot be read.
    """
    reader = TraceReader(directory)
    try:
        return reader.read()
    except OSError as error:
        raise TraceError(f"cannot read the trace in {directory}", why=str(error)) from error


class _MappedSeries(Sequence[Readings]):
    """The readings of each channel, extracted from the mapped file when one is first used.

    A process that touches a mapped page behind the end of its file is killed, so a file that has
    become shorter gives only what is left. Values that cannot be measured are gaps.

    Args:
        records: The mapped records.
        counts: Number of records of each channel.
        size: Returns the number of those records that are still in the file.
        release: Gives back the memory of the mapped pages.
    """

    def __init__(
        self,
        records: NDArray[np.void],
        counts: Integers,
        size: Callable[[], int],
        release: Callable[[], None],
    ) -> None:
        self._records = records
        self._size, self._release = size, release
        self._counts = counts

    def __len__(self) -> int:
        return len(self._counts)

    def __getitem__(self, channel: Any) -> Any:
        return self._extracted[channel]

    @cached_property
    def _extracted(self) -> list[Readings]:
        records, counts = self._records, self._counts
        left = self._left()
        if left < len(records):
            records = records[:left]
            counts = np.bincount(records["channel"], minlength=counts.size)
        series = [Readings(np.empty(n, np.int64), np.empty(n)) for n in counts.tolist()]
        done = np.zeros(counts.size, np.intp)
        # Small integers are sorted in time that grows with their number.
        kind = np.min_scalar_type(counts.size)
        for first in range(0, len(records), RECORDS_AT_A_TIME):
            block = records[first : first + RECORDS_AT_A_TIME]
            channels = block["channel"].astype(kind)
            order = np.argsort(channels, kind="stable")
            t_ns, value = block["t_ns"][order], block["value"][order]
            self._release()
            value[~(np.abs(value) <= MOST)] = np.nan
            ends = np.cumsum(np.bincount(channels, minlength=counts.size))
            for channel, (begin, end) in enumerate(pairwise([0, *ends.tolist()])):
                own = slice(done[channel], done[channel] + end - begin)
                series[channel].t_ns[own] = t_ns[begin:end]
                series[channel].value[own] = value[begin:end]
                done[channel] = own.stop
        return [_in_order(*one) for one in series]

    def _left(self) -> int:
        try:
            return max(0, self._size())
        except OSError:
            # A removed file keeps its pages for those who have mapped it.
            return len(self._records)


def _in_order(t_ns: Timestamps, value: Floats) -> Readings:
    """Sort readings by their timestamps if they are not."""
    blocks = [t_ns[first : first + BLOCK + 1] for first in range(0, t_ns.size, BLOCK)]
    return Readings(t_ns, value) if all(each(_rises, blocks)) else in_order(t_ns, value)


def _rises(t_ns: Timestamps) -> bool:
    return not np.any(t_ns[1:] < t_ns[:-1])


def _whole(records: NDArray[np.void]) -> int:
    """Count the records before the first damaged one."""
    # The six 32-bit words of a record, two at a time.
    pairs = records.view("<u8").reshape(-1, RECORD_SIZE // 8)
    both = pairs[:, 0] ^ pairs[:, 1]
    both ^= pairs[:, 2]
    words = both.view("<u4")
    damaged = np.flatnonzero(
        ((words[::2] ^ words[1::2]) != CHECK) | (records["t_ns"].view("<u8") > MOST_NS)
    )
    return int(damaged[0]) if damaged.size else len(records)
