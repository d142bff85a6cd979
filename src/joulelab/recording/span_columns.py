"""All spans of a trace, or of a program, as columns: a million take 60 MB and a second to read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from joulelab.arrays import Bools, Floats, Indices, Integers
from joulelab.recording.span_blocks import NONE, SPAN, Attributes, Block, Row
from joulelab.recording.trace_format import SPAN_COLUMNS
from joulelab.recording.trace_spans import SPAN_EVENTS, Key, TraceSpan, Window

ROWS_PER_BLOCK = 1024
"""Rows are turned into a block when there are this many with equal names of attributes."""
FEW_SPANS, MANY_SPANS = 1 << 10, 1 << 20
"""Room is made for this many spans at first, and then each time. It is memory when it is used."""
_ITERATED = 4096
_S_PER_NS = 1e-9


@dataclass(frozen=True)
class Windows(Sequence[Window]):
    """Many windows (:class:`~joulelab.recording.trace_spans.Window`) as columns."""

    start_ns: Integers  # Shape: (windows,).
    stop_ns: Integers  # Shape: (windows,).
    device: Integers | None = None
    """Start, stop and their uncertainty on the GPU; ``NONE`` where unknown. Shape: (windows, 3)."""

    @classmethod
    def of(cls, windows: Sequence[Window]) -> Windows:
        """Make columns of a sequence of windows."""
        if isinstance(windows, Windows):
            return windows
        times = np.array([(one.start_ns, one.stop_ns) for one in windows], np.int64).reshape(-1, 2)
        device = None
        if any(one.device_start_ns is not None for one in windows):
            device = np.array([_device(one) for one in windows], np.int64)
        return cls(times[:, 0], times[:, 1], device)

    @classmethod
    def joined(cls, parts: Sequence[Windows]) -> Windows:
        """Put windows behind each other."""
        device = None
        if any(one.device is not None for one in parts):
            device = np.concatenate([_device_columns(one.device, len(one)) for one in parts])
        starts, stops = ([getattr(one, name) for one in parts] for name in ("start_ns", "stop_ns"))
        none = [np.zeros(0, np.int64)]
        return cls(np.concatenate(none + starts), np.concatenate(none + stops), device)

    def compact(self) -> Windows:
        """Copy the columns out of those of the spans that they were taken from."""
        starts, stops = self.start_ns.copy(), self.stop_ns.copy()
        return Windows(starts, stops, self.device)

    def __len__(self) -> int:
        return len(self.start_ns)

    @overload
    def __getitem__(self, i: int) -> Window: ...
    @overload
    def __getitem__(self, i: slice | Indices) -> Windows: ...
    def __getitem__(self, i: int | slice | Indices) -> Window | Windows:
        if isinstance(i, (slice, np.ndarray)):
            device = None if self.device is None else self.device[i]
            return Windows(self.start_ns[i], self.stop_ns[i], device)
        window = Window(int(self.start_ns[i]), int(self.stop_ns[i]))
        if self.device is None or self.device[i, 0] == NONE:
            return window
        return Window(window.start_ns, window.stop_ns, *self.device[i].tolist())

    @property
    def duration_s(self) -> Floats:
        """Length of each on the host's clock."""
        return np.asarray((self.stop_ns - self.start_ns) * _S_PER_NS, np.float64)

    @property
    def are_apart(self) -> bool:
        """Whether none of them overlap on the host's clock."""
        order = np.argsort(self.start_ns, kind="stable")
        return bool(np.all(self.start_ns[order][1:] >= self.stop_ns[order][:-1]))

    def on_device_ns(self) -> Integers:
        """Return starts and stops on the GPU, or the host's. Shape: (windows, 2)."""
        times = np.column_stack((self.start_ns, self.stop_ns))
        if self.device is not None:
            known = self.device[:, 0] != NONE
            times[known] = self.device[known, :2]
        return times

    def seconds(self, component: str) -> Floats:
        """Return starts and stops on the clock that a component works by. Shape: (windows, 2)."""
        if component.startswith("gpu"):
            return _seconds(*self.on_device_ns().T)
        return _seconds(self.start_ns, self.stop_ns)

    def whole_s(self) -> Floats:
        """Return the host's starts and the ends of the last work. Shape: (windows, 2)."""
        stop_ns = self.stop_ns
        if self.device is not None:
            stop_ns = np.maximum(stop_ns, self.device[:, 1])
        return _seconds(self.start_ns, stop_ns)

    @property
    def device_uncertainty_s(self) -> Floats | None:
        """Standard uncertainty of the times on the GPU; ``None`` if it is zero for all."""
        if self.device is None:
            return None
        off_ns = np.where(self.device[:, 0] == NONE, 0, self.device[:, 2])
        return np.asarray(off_ns * _S_PER_NS, np.float64)

    @property
    def latest_ns(self) -> int:
        """End of the last work on host or GPU."""
        latest_ns = int(self.stop_ns.max())
        return latest_ns if self.device is None else max(latest_ns, int(self.device[:, 1].max()))


def _seconds(start_ns: Integers, stop_ns: Integers) -> Floats:
    times_s = np.empty((len(start_ns), 2))
    np.multiply(start_ns, _S_PER_NS, out=times_s[:, 0])
    np.multiply(stop_ns, _S_PER_NS, out=times_s[:, 1])
    return times_s


def _device(window: Window) -> tuple[int, int, int]:
    if window.device_start_ns is None or window.device_stop_ns is None:
        return NONE, NONE, 0
    return window.device_start_ns, window.device_stop_ns, window.device_uncertainty_ns


def _device_columns(device: Integers | None, n: int) -> Integers:
    return np.tile(np.array([NONE, NONE, 0]), (n, 1)) if device is None else device


class SpanColumns(Sequence[TraceSpan]):
    """Spans as columns. Each is made an object when it is asked for.

    Attributes:
        names: Of the spans, in the order of their codes.
        spans: See :data:`~joulelab.recording.span_blocks.SPAN`. Shape: (spans,).
        device: Like :attr:`Windows.device`.
    """

    def __init__(
        self,
        names: Sequence[str],
        spans: NDArray[np.void],
        attributes: Sequence[Attributes],
        device: Integers | None = None,
    ) -> None:
        self.names, self.spans, self.device = names, spans, device
        self._attributes = attributes

    @classmethod
    def of(cls, spans: Sequence[TraceSpan]) -> SpanColumns:
        """Make columns of a sequence of spans, in its order."""
        if isinstance(spans, SpanColumns):
            return spans
        codes: dict[str, int] = {}
        columns = np.zeros(len(spans), SPAN)
        for i, one in enumerate(spans):
            columns[i] = (
                one.key[0],
                codes.setdefault(one.name, len(codes)),
                one.key[1],
                NONE if one.parent is None else one.parent[1],
                one.thread,
                one.start_ns,
                NONE if one.stop_ns is None else one.stop_ns,
                i,
                0,
            )
        device = None
        if any(one.device_start_ns is not None for one in spans):
            device = np.array(
                [(NONE, NONE, 0) if one.device_start_ns is None else one[7:] for one in spans],
                np.int64,
            )
        attributes = [
            Attributes(tuple(one.attributes), tuple([value] for value in one.attributes.values()))
            for one in spans
        ]
        return cls(list(codes), columns, attributes, device)

    def __len__(self) -> int:
        return len(self.spans)

    @overload
    def __getitem__(self, i: int) -> TraceSpan: ...
    @overload
    def __getitem__(self, i: slice) -> list[TraceSpan]: ...
    def __getitem__(self, i: int | slice) -> TraceSpan | list[TraceSpan]:
        if isinstance(i, slice):
            return list(self.where(np.arange(len(self))[i]))
        device = None if self.device is None else self.device[i].tolist()
        return self._span(self.spans[i].item(), device)

    def __iter__(self) -> Iterator[TraceSpan]:
        for first in range(0, len(self), _ITERATED):
            some = self.spans[first : first + _ITERATED].tolist()
            if self.device is None:
                yield from map(self._span, some)
            else:
                yield from map(self._span, some, self.device[first : first + _ITERATED].tolist())

    def where(self, chosen: Bools | Indices) -> SpanColumns:
        """Select spans by an array of Booleans or of positions."""
        if chosen.dtype == np.bool_:
            if chosen.all():
                return self
            chosen = np.flatnonzero(chosen)
        device = None if self.device is None else self.device[chosen]
        # Indexing would copy the spans field by field, which takes four times as long.
        return SpanColumns(self.names, self.spans.take(chosen), self._attributes, device)

    @property
    def is_finished(self) -> Bools:
        """Whether each span has ended."""
        return np.asarray(self.spans["stop_ns"] != NONE)

    def within(self, start_ns: int, stop_ns: int) -> SpanColumns:
        """Select the spans that began and ended between two times."""
        rows = self.spans
        chosen = (rows["start_ns"] >= start_ns) & (rows["stop_ns"] <= stop_ns)
        return self.where(chosen & self.is_finished)

    def named(self, name: str) -> SpanColumns:
        """Select the spans of a name."""
        code = self.names.index(name) if name in self.names else -1
        return self.where(self.spans["name"] == code)

    def by_name(self) -> dict[str, SpanColumns]:
        """Group the spans by name; names are in the order in which they appear first."""
        return {name: self.where(at) for name, at in self.positions().items()}

    def positions(self) -> dict[str, Indices]:
        """Return where the spans of each name are; names are in the order of :meth:`by_name`."""
        order = np.argsort(self.spans["name"], kind="stable")
        counts = np.bincount(self.spans["name"], minlength=len(self.names))
        at = np.split(order, np.cumsum(counts)[:-1]) if len(self.names) else []
        known = [(int(one[0]), code) for code, one in enumerate(at) if one.size]
        return {self.names[code]: at[code] for _, code in sorted(known)}

    def with_attributes(self, wanted: Mapping[str, Any]) -> SpanColumns:
        """Select the spans that have all these attributes."""
        if not wanted:
            return self
        pairs = zip(self.spans["block"].tolist(), self.spans["row"].tolist(), strict=True)
        items = wanted.items()
        found = (self._attributes[block].of(row) for block, row in pairs)
        return self.where(np.fromiter((items <= one.items() for one in found), bool, len(self)))

    @property
    def windows(self) -> Windows:
        """The windows of the spans, which must have ended."""
        return Windows(self.spans["start_ns"], self.spans["stop_ns"], self.device)

    def _span(self, values: tuple[int, ...], device: Sequence[int] | None = None) -> TraceSpan:
        pid, name, index, parent, thread, start_ns, stop_ns, block, row = values
        of_device = (None, None, 0) if device is None or device[0] == NONE else device
        return TraceSpan(
            self.names[name],
            start_ns,
            None if stop_ns == NONE else stop_ns,
            (pid, index),
            None if parent == NONE else (pid, parent),
            thread,
            self._attributes[block].of(row),
            *of_device,
        )


class SpanTable:
    """Folds the events of a trace into all its spans, whether it is finished or still growing.

    A span has an event when it begins and another when it ends (or one for both), and a third when
    its times on the GPU are known. These come in any order.

    Attributes:
        damaged: Number of spans that were left out because they end before they begin.
    """

    def __init__(self) -> None:
        self.damaged = 0
        self._open: dict[Key, Row] = {}
        self._rows: dict[tuple[str, ...], list[tuple[int, Row]]] = {}
        self._codes: dict[str, int] = {}
        self._attributes: list[Attributes] = []
        self._sorted = np.zeros(0, SPAN)
        self._full: list[NDArray[np.void]] = []
        self._chunk, self._used = np.empty(FEW_SPANS, SPAN), 0
        self._device: Integers | None = None
        self._device_rows: list[Integers] = []

    def add(self, event: Mapping[str, Any]) -> bool:
        """Fold one event, as it was checked, into the spans.

        Returns:
            Whether the event is about spans.

        Raises:
            InvalidData: A block of columns is damaged.
        """
        kind = event.get("event")
        if kind == "spans":
            rows = [(*row[:3], str(row[3]), *row[4:]) for row in event["rows"]]
            self.add_rows(event["pid"], rows)
        elif kind == SPAN_COLUMNS:
            self.add_block(Block.of_event(event))
        elif kind == "devices":
            rows = [row for row in event["rows"] if None not in row and row[1] <= row[2]]
            self.add_devices(event["pid"], rows)
        return kind in SPAN_EVENTS

    def add_devices(self, pid: int, rows: Sequence[Sequence[int]]) -> None:
        """Add times on the GPU: rows of index, start, stop and uncertainty."""
        if rows:
            columns = np.array([(pid, *row) for row in rows], np.int64)
            self._device_rows.append(columns.reshape(len(rows), 5))

    def add_rows(self, pid: int, rows: Iterable[Row]) -> None:
        """Add spans of a process that have ended or are open."""
        for row in rows:
            key, stop_ns = (pid, row[0]), row[6]
            if stop_ns is None:
                self._open[key] = row
                continue
            if stop_ns < row[5]:
                self.damaged += 1
                continue
            self._open.pop(key, None)
            similar = self._rows.setdefault(tuple(row[4]), [])
            similar.append((pid, row))
            if len(similar) >= ROWS_PER_BLOCK:
                self._add_similar(similar)
                similar.clear()

    def add_block(self, block: Block) -> None:
        """Add finished spans."""
        is_whole = block.spans["stop_ns"] >= block.spans["start_ns"]
        self.damaged += int(np.count_nonzero(~is_whole))
        spans = block.spans[is_whole]
        # The enclosing span has begun before, so it has a smaller index.
        spans["parent"][spans["parent"] >= spans["index"]] = NONE
        codes = [self._codes.setdefault(name, len(self._codes)) for name in block.names]
        spans["name"] = np.array(codes, np.int32)[spans["name"]]
        spans["block"] = len(self._attributes)
        self._attributes.append(block.attributes)
        self._append(spans)

    def _append(self, spans: NDArray[np.void]) -> None:
        """Copy spans into large arrays: the memory of many small ones would stay in use as gaps."""
        while len(spans):
            if self._used == len(self._chunk):
                self._full.append(self._chunk)
                self._chunk, self._used = np.empty(MANY_SPANS, SPAN), 0
            some = spans[: len(self._chunk) - self._used]
            self._chunk[self._used : self._used + len(some)] = some
            self._used += len(some)
            spans = spans[len(some) :]

    def spans(self) -> SpanColumns:
        """Return the spans in the order in which they began."""
        for similar in self._rows.values():
            if similar:
                self._add_similar(similar)
        self._rows.clear()
        if self._used:
            known = len(self._sorted)
            self._sorted = np.concatenate((self._sorted, *self._full, self._chunk[: self._used]))
            self._full, self._chunk, self._used = [], np.empty(FEW_SPANS, SPAN), 0
            if self._device is not None:
                later = _device_columns(None, len(self._sorted) - known)
                self._device = np.concatenate((self._device, later))
            self._sort()
        self._resolve_devices()
        found = SpanColumns(list(self._codes), self._sorted, list(self._attributes), self._device)
        return found if not self._open else self._with_open(found)

    def _add_similar(self, similar: Sequence[tuple[int, Row]]) -> None:
        pids, rows = zip(*similar, strict=True)
        self.add_block(Block.of(pids, rows))

    def _sort(self) -> None:
        order = _order(self._sorted)
        if order is None:
            return
        self._sorted = self._sorted[order]
        if self._device is not None:
            self._device = self._device[order]

    def _resolve_devices(self) -> None:
        """Give the spans their times on the GPU. Times of spans that have not ended wait."""
        if not self._device_rows:
            return
        spans = self._sorted
        if self._device is None:
            self._device = _device_columns(None, len(spans))
        else:
            self._device = self._device.copy()
        rows = np.concatenate(self._device_rows)
        waiting = []
        for pid in np.unique(rows[:, 0]).tolist():
            own = rows[rows[:, 0] == pid]
            of_process = np.flatnonzero(spans["pid"] == pid)
            order = of_process[np.argsort(spans["index"][of_process], kind="stable")]
            index = spans["index"][order]
            found = np.searchsorted(index, own[:, 1])
            known = found < index.size
            known[known] = index[found[known]] == own[known, 1]
            self._device[order[found[known]]] = own[known, 2:]
            waiting.append(own[~known])
        self._device_rows = [one for one in waiting if len(one)]

    def _with_open(self, finished: SpanColumns) -> SpanColumns:
        """Add the spans that have not ended, and forget those that have."""
        indices = [index for _, index in self._open]
        ended = finished.spans[np.isin(finished.spans["index"], indices)]
        for key in zip(ended["pid"].tolist(), ended["index"].tolist(), strict=True):
            self._open.pop(key, None)
        still_open = SpanColumns.of(
            [
                TraceSpan(
                    name,
                    start_ns,
                    None,
                    (pid, index),
                    None if parent is None or parent >= index else (pid, parent),
                    thread or 0,
                    attributes,
                )
                for (pid, index), (_, parent, thread, name, attributes, start_ns, _) in (
                    self._open.items()
                )
            ]
        )
        if not still_open:
            return finished
        table = [*finished._attributes, *still_open._attributes]
        own, codes = still_open.spans, dict(self._codes)
        new_codes = [codes.setdefault(name, len(codes)) for name in still_open.names]
        own["name"] = np.array(new_codes)[own["name"]]
        own["block"] += len(finished._attributes)
        # One copy of a million spans is enough.
        own = own[np.argsort(own["start_ns"], kind="stable")]
        at = np.searchsorted(finished.spans["start_ns"], own["start_ns"])
        device = finished.device
        if device is not None:
            device = np.insert(device, at, _device_columns(None, len(own)), axis=0)
        return SpanColumns(list(codes), np.insert(finished.spans, at, own), table, device)


def _order(spans: NDArray[np.void]) -> Indices | None:
    """Return the order in which spans began; ``None`` if they are in it. Outer spans are first."""
    start_ns, index = spans["start_ns"], spans["index"]
    later = start_ns[1:] > start_ns[:-1]
    if np.all(later | ((start_ns[1:] == start_ns[:-1]) & (index[1:] >= index[:-1]))):
        return None
    return np.lexsort((index, start_ns))
