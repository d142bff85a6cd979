"""Spans of a process: named stretches of time, nested the way the program nests them.

Beginning and ending a span only notes the time. A thread passes what was noted to the recorder a
few times a second, and stores finished spans compactly.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from sys import modules
from threading import get_ident
from time import monotonic_ns, sleep
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from joulelab.recording.device_clock import (
    DeviceClock,
    DeviceEvent,
    DeviceTime,
    DeviceWindow,
    call_when_cuda_starts,
    device_clock,
)
from joulelab.recording.span_blocks import NONE, Block, Row
from joulelab.recording.span_columns import SpanColumns, SpanTable
from joulelab.recording.trace_format import encode, span_lines

if TYPE_CHECKING:
    from joulelab.energy.energy import Energy
    from joulelab.recording.trace import Trace
    from joulelab.recording.trace_spans import TraceSpan

FLUSH_INTERVAL_S = 0.25
"""Spans are passed to the recorder this often: a program that is killed loses no more of them."""
INDICES_PER_LOG = 1 << 32
"""Logs of one process that share a trace number their spans this far apart."""
MOST_UNRESOLVED = 1 << 16
"""Number of device events that may wait for their times, which take several µs each."""
SPANS_PER_PASS = 1 << 13
"""Number of spans passed on at a time: they take 10 ms and 4 MB on the way."""
SPANS_OF_BURST = 1 << 10
"""Number of new spans since the last time from which on spans are passed on more often."""
BURST_INTERVAL_S = 0.01
MOST_WAITING = 1 << 16
"""Number of new spans, which take 30 MB, from which on a thread that makes more waits a moment."""
PAUSE_S = 0.001
LEAST_OF_BLOCK = 32
"""Fewer spans than this are passed on as rows, which are made faster."""


class Span:
    """A named stretch of time, for example ``with meter.span("epoch", index=3) as span``.

    Made by :meth:`joulelab.Meter.span`, which leaves it to ``with`` to begin it, or by
    :meth:`joulelab.Meter.begin`.

    Attributes:
        name: The name given by the program.
        attributes: Whatever else the program attached to the span.
        start_ns: CLOCK_MONOTONIC; 0 before the span began.
        stop_ns: CLOCK_MONOTONIC; ``None`` while the span is open.
        thread: Thread in which the span began, as ``threading.get_ident`` names it; 0 before.
    """

    # Beginning and ending a span delays the program, so both do only what cannot be done later.

    __slots__ = (
        "_device_start",
        "_device_stop",
        "_device_window",
        "_index",
        "_log",
        "_outer",
        "_parent",
        "attributes",
        "name",
        "start_ns",
        "stop_ns",
        "thread",
    )

    def __init__(self, log: SpanLog, name: str, attributes: dict[str, Any]) -> None:
        self.name = name
        self.attributes = attributes
        self.start_ns = 0
        self.stop_ns: int | None = None
        self.thread = 0
        self._log = log
        self._index = -1
        self._outer: Span | None = None
        self._parent: int | None = None
        self._device_start: DeviceEvent | None = None
        self._device_stop: DeviceEvent | None = None
        self._device_window: DeviceWindow | None = None

    def __enter__(self) -> Self:
        """Begin the span now.

        Raises:
            ValueError: It began before.
        """
        if self.start_ns:
            raise ValueError(f"span {self.name!r} began already; make a span for each block")
        log = self._log
        self.thread = get_ident()
        outer = _INNERMOST.get()
        while outer is not None and outer.stop_ns is not None:
            outer = outer._outer
        self._outer = outer
        _INNERMOST.set(self)
        if log.device is not None:
            self._device_start = log.device.record()
        self.start_ns = monotonic_ns()
        log.begun.append(self)
        if len(log.begun) > MOST_WAITING:
            log.let_others_catch_up()
        return self

    def __exit__(self, *_: object) -> None:
        """End the span however its block ended, unless the block has ended it already."""
        if self.stop_ns is not None:
            return
        stop_ns = monotonic_ns()
        log = self._log
        if log.device is not None:
            self._device_stop = log.device.record()
        self.stop_ns = stop_ns
        if _INNERMOST.get() is self:
            _INNERMOST.set(self._outer)
        if log.forked:
            log.flush(leave_unresolved=0, wait=True)

    def end(self, stop_ns: int | None = None) -> None:
        """End the span.

        Args:
            stop_ns: When it ended, CLOCK_MONOTONIC, if that was noticed too late. Default: now.

        Raises:
            ValueError: It ended before, or has not begun.
        """
        if self.stop_ns is not None or not self.start_ns:
            what = "was already ended" if self.start_ns else "has not begun"
            raise ValueError(f"span {self.name!r} {what}")
        if stop_ns is None:
            self.__exit__()
        else:
            self.stop_ns = max(self.start_ns, stop_ns)

    @property
    def index(self) -> int:
        """Number of the span in its process, in the order in which spans began; -1 before."""
        if self._index < 0:
            self._log.assign_indices()
        return self._index

    @property
    def parent(self) -> int | None:
        """Index of the span that was open in the same thread or task when this one began."""
        if self._index < 0:
            self._log.assign_indices()
        return self._parent

    @property
    def duration_s(self) -> float:
        """Duration on the host's clock; until now while the span is open."""
        stop_ns = monotonic_ns() if self.stop_ns is None else self.stop_ns
        return (stop_ns - self.start_ns) * 1e-9

    @property
    def energy(self) -> Energy:
        """Energy of the span. Waits at most until the sensors have covered it.

        Raises:
            ValueError: The span is still open.
        """
        return self._log.energy_of(self)

    def device_window(self) -> DeviceWindow | None:
        """Return when the GPU started and finished the span's work, if it had any.

        Waits until the GPU has finished.
        """
        return self._log.device_window(self)

    def __eq__(self, other: object) -> bool:
        """Return whether both are the same stretch of time of the same meter."""
        if self is other or not isinstance(other, Span):
            return self is other
        return self._log is other._log and self.index == other.index >= 0

    def __hash__(self) -> int:
        return hash(self.start_ns)

    def __repr__(self) -> str:
        state = "open" if self.stop_ns is None else f"{self.duration_s:.6g} s"
        return f"<Span {self.name!r} {self.attributes or ''} {state}>"


class SpanLog:
    """Every span of a process, in memory and on its way to the trace.

    ``send`` takes lines, as many as it can, and returns their number; ``more_lines`` adds others to
    each flush. A log is ``shared`` if the process may have others in the same trace.
    """

    def __init__(
        self,
        send: Callable[[Sequence[bytes]], int],
        energy_of: Callable[[Span], Energy],
        *,
        shared: bool = False,
        more_lines: Callable[[], Sequence[bytes]] = tuple,
    ) -> None:
        self.begun: list[Span] = []  # They have no index yet.
        self.energy_of = energy_of
        self._send = send
        self._more_lines = more_lines
        self._first_index = self._next_index = next(_SHARED) * INDICES_PER_LOG if shared else 0
        self._n_finished = 0
        self._new: list[Span] = []
        self._open: list[Span] = []
        self._on_device: deque[Span] = deque()
        # A step a span, a day long, is a million spans: as objects they would take half a gigabyte
        # in the memory of the measured program, and as columns an eighth of that.
        self._stored = SpanTable()
        self._objects: list[Span] = []  # Those with names that columns cannot have.
        self.restart(forked=False)
        _LOGS[id(self)] = self
        # At exit this precedes the end of the connection, which was opened earlier.
        weakref.finalize(self, _flush_at_exit, weakref.ref(self))
        call_when_cuda_starts(_notice_cuda)

    def restart(self, *, forked: bool) -> None:
        """Drop what is on its way: in a forked child, that is for the parent to pass on.

        A child may end at any moment without notice, like those of multiprocessing, so it passes on
        each span as it ends and has no thread for that.
        """
        self.device: DeviceClock | None = device_clock()
        self.forked = forked
        self._reported_failure = False
        self._lock = threading.RLock()
        self.assign_indices()
        self._objects += (*self._new, *self._open, *self._on_device)
        self._new, self._open, self._on_device = [], [], deque()
        self._pid = os.getpid()
        self._backlog: list[bytes] = []
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        if not forked:
            self._thread = threading.Thread(
                target=_flush_regularly,
                args=(weakref.ref(self), self._stopping),
                name="joulelab-spans",
                daemon=True,
            )
            self._thread.start()

    def assign_indices(self, most: int | None = None) -> None:
        """Give new spans, or the first n of them, their index and their parent."""
        with self._lock:
            begun = self.begun[:most]
            for span in begun:
                if span._index < 0:
                    outer = span._outer
                    while outer is not None and outer._log is not self:
                        outer = outer._outer
                    span._parent = None if outer is None else outer._index
                    span._index = self._next_index
                    self._next_index += 1
            self._new += begun
            del self.begun[: len(begun)]

    def let_others_catch_up(self) -> None:
        """Pause while spans are passed on: several threads make them faster than one can do that.

        Memory is then the same however a busy machine divides its time between the threads.
        """
        thread = self._thread
        if thread is not None and thread.is_alive() and thread.ident != get_ident():
            sleep(PAUSE_S)

    def spans(self, name: str | None = None) -> list[Span]:
        """Return the spans of a name, or all, in the order in which they began."""
        with self._lock:
            self.assign_indices()
            stored = self._stored.spans()
            chosen = stored if name is None else stored.named(name)
            found = {one.key[1]: self._stored_span(one) for one in chosen}
            found |= {span.index: span for span in self._as_objects() if name in (None, span.name)}
        return [found[index] for index in sorted(found)]

    def finished(self, name: str, attributes: Mapping[str, Any]) -> tuple[SpanColumns, list[Span]]:
        """Return the finished spans of a name that have all these attributes.

        Most are columns. Those whose times on the GPU may be unknown are objects.
        """
        with self._lock:
            self.assign_indices()
            stored = self._stored.spans().named(name).with_attributes(attributes)
            objects = [
                span
                for span in self._as_objects()
                if span.name == name
                and span.stop_ns is not None
                and attributes.items() <= span.attributes.items()
            ]
        return stored, objects

    def names(self) -> set[str]:
        """Return the names of all spans."""
        with self._lock:
            names = {str(span.name) for span in (*self._as_objects(), *self.begun)}
            return names.union(self._stored.spans().names)

    def _as_objects(self) -> list[Span]:
        return [*self._objects, *self._on_device, *self._open, *self._new]

    def device_window(self, span: Span) -> DeviceWindow | None:
        """See :meth:`Span.device_window`."""
        device, first, last = self.device, span._device_start, span._device_stop
        if device is None or last is None:
            return span._device_window
        with self._lock:
            # If CUDA was started after the span began, its work on the GPU was, too.
            start = device.time(first) if first else DeviceTime(span.start_ns, 0)
            stop = device.time(last)
        if start is None or stop is None:
            return None
        return DeviceWindow(
            start.t_ns,
            max(start.t_ns, stop.t_ns),
            max(start.uncertainty_ns, stop.uncertainty_ns),
        )

    def flush(self, *, leave_unresolved: int = MOST_UNRESOLVED, wait: bool = False) -> bool:
        """Pass on what was noted so far. Return whether all of it was taken."""
        call_when_cuda_starts(_notice_cuda)
        for _ in range(0, max(1, len(self.begun)), SPANS_PER_PASS):
            with self._lock:
                self.device = self.device or device_clock()
                self.assign_indices(SPANS_PER_PASS)
                self._pass_on()
                if self.device is not None:
                    self.device.resolve(leave_unresolved, wait=wait)
                self._backlog += span_lines("devices", self._resolved())
                self._backlog += self._device_failure()
                self._backlog += self._more_lines()
                # Several lines in one call: with each, the interpreter turns to another thread.
                del self._backlog[: self._send(self._backlog)]
        return not self._backlog

    def add_event(self, event: Mapping[str, Any]) -> None:
        """Pass on an event with the next spans."""
        with self._lock:
            self._backlog.append(encode(event).encode() + b"\n")

    def lost(self, trace: Trace) -> tuple[int, int]:
        """Return how many of this process's finished spans a trace lacks, and of how many."""
        spans = SpanColumns.of(trace.spans).spans
        own = (spans["pid"] == self._pid) & (spans["stop_ns"] != NONE)
        own &= (spans["index"] >= self._first_index) & (spans["index"] < self._next_index)
        return self._n_finished - int(np.count_nonzero(own)), self._n_finished

    def _pass_on(self) -> None:
        """Make lines of the spans that have begun or ended, and store those that have ended."""
        sent = len(self._open)
        spans = [*self._open, *self._new]
        # They are read once: a span may end at any moment.
        stops = [span.stop_ns for span in spans]
        self._open = [span for span, stop in zip(spans, stops, strict=True) if stop is None]
        self._new = []
        begun = zip(spans[sent:], stops[sent:], strict=True)
        others = [_row(span, None) for span, stop in begun if stop is None]
        ended = [span for span, stop in zip(spans, stops, strict=True) if stop is not None]
        self._n_finished += len(ended)
        on_device = [span for span in ended if span._device_stop is not None]
        self._on_device += on_device
        others += [_row(span, span.stop_ns) for span in on_device]
        if on_device:
            ended = [span for span in ended if span._device_stop is None]
        for names, similar in _grouped(ended).items():
            block = self._store(names, similar)
            line = None if block is None else block.line()
            if line is None:
                others += [_row(span, span.stop_ns) for span in similar]
            else:
                self._backlog.append(line)
        self._backlog += span_lines("spans", others)

    def record_reference(self) -> None:
        """Relate the GPU's clock to the host's. Only :func:`_flush_regularly` calls it."""
        with self._lock:
            if self.device is not None:
                self.device.record_references()
                self.device.collect()

    def finish(self) -> None:
        """End the thread and pass on everything, waiting for GPUs if necessary."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
        self.flush(leave_unresolved=0, wait=True)

    def _store(self, names: tuple[str, ...] | None, similar: Sequence[Span]) -> Block | None:
        """Store finished spans whose attributes have these names; as a block, if of many."""
        if names is not None and len(similar) < LEAST_OF_BLOCK:
            # The program may change its attributes later.
            rows = [_row(span, span.stop_ns, dict(span.attributes)) for span in similar]
            self._stored.add_rows(self._pid, rows)
            return None
        if names is not None:
            # Another thread may be changing attributes.
            with contextlib.suppress(ValueError):
                block = _block(self._pid, similar)
                self._stored.add_block(block)
                return block
        self._objects += similar
        return None

    def _stored_span(self, one: TraceSpan) -> Span:
        (_, index), parent = one.key, one.parent and one.parent[1]
        span = Span(self, one.name, dict(one.attributes))
        span._index, span._parent, span.thread = index, parent, one.thread
        span.start_ns, span.stop_ns = one.start_ns, one.stop_ns
        if one.device_start_ns is not None and one.device_stop_ns is not None:
            device = one.device_start_ns, one.device_stop_ns, one.device_uncertainty_ns
            span._device_window = DeviceWindow(*device)
        return span

    def _resolved(self) -> list[tuple[int, int, int, int]]:
        """Return rows of the finished spans whose device times are now known, in order of ends."""
        windows: list[tuple[int, int, int, int]] = []
        done: list[Span] = []
        while self._on_device:
            span = self._on_device[0]
            last = span._device_stop
            failed = self.device is None or self.device.failure
            if not failed and (last is None or last.time is None):
                break
            self._on_device.popleft()
            window = span._device_window = self.device_window(span)
            span._device_start = span._device_stop = None
            if window is not None:
                windows.append((span._index, *window))
            done.append(span)
        for names, similar in _grouped(done).items():
            self._store(names, similar)
        self._stored.add_devices(self._pid, windows)
        return windows

    def _device_failure(self) -> list[bytes]:
        """Return a line, once, that states why there are no more device times."""
        if self.device is None or not self.device.failure or self._reported_failure:
            return []
        self._reported_failure = True
        event = {"event": "device_failed", "pid": os.getpid(), "t_ns": monotonic_ns()}
        return [encode({**event, "reason": self.device.failure}).encode() + b"\n"]


_INNERMOST: ContextVar[Span | None] = ContextVar("_INNERMOST", default=None)
"""Each thread and each asyncio task has its own innermost span; it may have ended."""
_SHARED = itertools.count()
_LOGS: weakref.WeakValueDictionary[int, SpanLog] = weakref.WeakValueDictionary()


def _logs() -> list[SpanLog]:
    """Return the existing logs, also while other threads make some."""
    return [log for reference in _LOGS.valuerefs() if (log := reference()) is not None]


def innermost_log() -> SpanLog | None:
    """Return the log of the innermost span of this thread or asyncio task that is still open."""
    span = _INNERMOST.get()
    while span is not None and span.stop_ns is not None:
        span = span._outer
    return None if span is None else span._log


def _notice_cuda() -> None:
    for log in _logs():
        log.device = log.device or DeviceClock(modules["torch"])


def _after_fork() -> None:
    _INNERMOST.set(None)
    for log in _logs():
        log.restart(forked=True)


os.register_at_fork(after_in_child=_after_fork)


def _flush_at_exit(log: weakref.ref[SpanLog]) -> None:
    """Pass on the last spans of a meter that is not closed, without waiting for GPUs."""
    existing = log()
    if existing is not None:
        existing.flush(leave_unresolved=0)


def _flush_regularly(log: weakref.ref[SpanLog], stopping: threading.Event) -> None:
    wait_s = FLUSH_INTERVAL_S
    while not stopping.wait(wait_s):
        existing = log()
        if existing is None:
            return
        existing.record_reference()
        # Spans of a burst take several times as much memory until they are passed on.
        is_burst = len(existing.begun) > SPANS_OF_BURST
        existing.flush()
        wait_s = BURST_INTERVAL_S if is_burst else FLUSH_INTERVAL_S
        del existing


def _row(span: Span, stop_ns: int | None, attributes: dict[str, Any] | None = None) -> Row:
    given = span.attributes if attributes is None else attributes
    return span._index, span._parent, span.thread, span.name, given, span.start_ns, stop_ns


def _block(pid: int, spans: Sequence[Span]) -> Block:
    """Make a block of finished spans; see :meth:`Block.of`."""
    # One list for each column: a tuple for each span would set off the garbage collector, which
    # takes longer than everything else.
    return Block.of_columns(
        pid,
        [span._index for span in spans],
        [span._parent for span in spans],
        [span.thread for span in spans],
        [span.name for span in spans],
        [span.attributes for span in spans],
        [span.start_ns for span in spans],
        [span.stop_ns for span in spans],
    )


def _grouped(spans: Sequence[Span]) -> dict[tuple[str, ...] | None, list[Span]]:
    """Group spans by the names of their attributes; ``None`` are those columns cannot have."""
    groups: dict[tuple[str, ...] | None, list[Span]] = {}
    for span in spans:
        can_join = type(span.name) is str and type(span.attributes) is dict
        groups.setdefault(tuple(span.attributes) if can_join else None, []).append(span)
    others = [names for names in groups if names and not {str}.issuperset(map(type, names))]
    for names in others:
        groups.setdefault(None, []).extend(groups.pop(names))
    return groups
