"""Spans: named stretches of time, nested as the program nests them."""

from __future__ import annotations

import itertools
import json
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from joulelab.recording.device_clock import DeviceClock, DeviceMark
from joulelab.recording.link import ATOMIC_WRITE_BYTES

if TYPE_CHECKING:
    from joulelab.accounting.energy import Energy

FLUSH_INTERVAL_S = 0.25
"""Spans are handed to the recorder this often; a program that is killed loses no more of them."""

ROWS_A_LINE = 24
MOST_UNRESOLVED = 1 << 16
"""So many spans may wait for their device times to be worked out, which costs some µs each."""

_encode = json.JSONEncoder(default=str, separators=(",", ":")).encode


class Span:
    """A named stretch of time. Made by :meth:`joulelab.Meter.begin`.

    Attributes:
        name: As the program gave it.
        attributes: Whatever else the program said of it.
        index: Counts the spans of this process.
        parent: Index of the span that was open in the same thread when this one began.
        thread: The thread's native id.
        start_ns: CLOCK_MONOTONIC.
        stop_ns: CLOCK_MONOTONIC; ``None`` while it is open.
    """

    __slots__ = (
        "_device_start",
        "_device_stop",
        "_device_window_ns",
        "_log",
        "attributes",
        "index",
        "name",
        "parent",
        "start_ns",
        "stop_ns",
        "thread",
    )

    def __init__(
        self,
        name: str,
        attributes: dict[str, Any],
        index: int,
        parent: int | None,
        thread: int,
        log: SpanLog,
    ) -> None:
        self.name = name
        self.attributes = attributes
        self.index = index
        self.parent = parent
        self.thread = thread
        self.stop_ns: int | None = None
        self._log = log
        self._device_start: DeviceMark | None = None
        self._device_stop: DeviceMark | None = None
        self._device_window_ns: tuple[int, int] | None = None
        self.start_ns = 0

    @property
    def duration_s(self) -> float:
        """Its length on the host's clock; up to now while it is open."""
        stop_ns = time.monotonic_ns() if self.stop_ns is None else self.stop_ns
        return (stop_ns - self.start_ns) * 1e-9

    @property
    def energy(self) -> Energy:
        """Its energy. Waits at most until the sensors have covered it.

        Raises:
            ValueError: The span is still open.
        """
        return self._log.energy_of(self)

    def device_window_ns(self) -> tuple[int, int] | None:
        """When the GPU began and finished its work, where it had any. Waits until it has."""
        return self._log.device_window_ns(self)

    def __repr__(self) -> str:
        state = "open" if self.stop_ns is None else f"{self.duration_s:.6g} s"
        return f"<Span {self.name!r} {self.attributes or ''} {state}>"


class SpanLog:
    """Every span of a process, in memory and on its way to the trace.

    Beginning and ending a span only notes it; a thread formats what was noted and hands it over
    a few times a second.

    Args:
        mark: Takes finished lines for the trace without waiting; false when it cannot now.
        energy_of: Works out a span's energy.
    """

    def __init__(self, mark: Callable[[bytes], bool], energy_of: Callable[[Span], Energy]) -> None:
        self.spans: list[Span] = []
        self.energy_of = energy_of
        self._mark = mark
        self._clock = DeviceClock()
        self._count = itertools.count()
        self._local = threading.local()
        self.start_anew(forked=False)
        _LOGS.add(self)

    def start_anew(self, *, forked: bool) -> None:
        """Forgets what is on its way: in a child just forked that is its parent's to hand over.

        A child may end at any moment without a word, as those of multiprocessing do, so it hands
        over each span as it ends.
        """
        self._at_once = forked
        self._begun: deque[Span] = deque()
        self._ended: deque[Span] = deque()
        self._unresolved: deque[Span] = deque()
        self._backlog: deque[bytes] = deque()
        self._lock = threading.RLock()
        self._finished = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self, name: str, attributes: dict[str, Any]) -> Span:
        """Opens a span now."""
        local = self._local
        try:
            stack = local.stack
        except AttributeError:
            stack = self._new_stack()
        parent = stack[-1].index if stack else None
        span = Span(name, attributes, next(self._count), parent, local.thread, self)
        stack.append(span)
        self.spans.append(span)
        self._begun.append(span)
        if self._thread is None and not self._at_once:
            self._start()
        span._device_start = self._clock.mark()
        span.start_ns = time.monotonic_ns()
        return span

    def end(self, span: Span) -> None:
        """Closes a span now.

        Raises:
            ValueError: It was closed before.
        """
        stop_ns = time.monotonic_ns()
        if span.stop_ns is not None:
            raise ValueError(f"span {span.name!r} was already ended")
        if span._device_start is not None:
            span._device_stop = self._clock.mark()
        span.stop_ns = stop_ns
        stack = self._local.__dict__.get("stack", ())
        if stack and stack[-1] is span:
            stack.pop()
        elif span in stack:
            stack.remove(span)
        self._ended.append(span)
        if self._at_once:
            self.flush(leave_unresolved=0, wait=True)

    def device_window_ns(self, span: Span) -> tuple[int, int] | None:
        """See :meth:`Span.device_window_ns`."""
        with self._lock:
            first, last = span._device_start, span._device_stop
            if span._device_window_ns is None and first is not None and last is not None:
                start_ns, stop_ns = first.time_ns(), last.time_ns()
                span._device_window_ns = (start_ns, max(start_ns, stop_ns))
                span._device_start = span._device_stop = None
                self._clock.give_back(first)
                self._clock.give_back(last)
        return span._device_window_ns

    def flush(self, *, leave_unresolved: int = MOST_UNRESOLVED, wait: bool = False) -> bool:
        """Hands over what was noted so far; false when the recorder had no room for all.

        Args:
            leave_unresolved: Of the spans whose device times are not worked out, leave this many.
            wait: Also work out those to whose end the device has not come yet.
        """
        with self._lock:
            spans: list[Span] = []
            while self._ended:
                spans.append(self._ended.popleft())
            self._unresolved.extend(span for span in spans if span._device_stop)
            while self._begun:
                span = self._begun.popleft()
                if span.stop_ns is None:
                    spans.append(span)
            self._backlog += lines("spans", [_row(span) for span in spans])
            devices = []
            while len(self._unresolved) > leave_unresolved:
                last = self._unresolved[0]._device_stop
                if last is not None and not wait and not last.reached():
                    break
                span = self._unresolved.popleft()
                window_ns = self.device_window_ns(span)
                if window_ns is not None:
                    devices.append((span.index, *window_ns))
            self._backlog += lines("devices", devices)
            while self._backlog:
                if not self._mark(self._backlog[0]):
                    return False
                self._backlog.popleft()
        return True

    def finish(self) -> None:
        """Ends the thread and hands over everything, waiting for GPUs where it must."""
        self._finished.set()
        if self._thread is not None:
            self._thread.join()
        self.flush(leave_unresolved=0, wait=True)

    def _new_stack(self) -> list[Span]:
        self._local.thread = threading.get_native_id()
        self._local.stack = []
        stack: list[Span] = self._local.stack
        return stack

    def _start(self) -> None:
        with self._lock:
            if self._thread is None and not self._finished.is_set():
                self._thread = threading.Thread(
                    target=_flush_often,
                    args=(weakref.ref(self), self._finished),
                    name="joulelab-spans",
                    daemon=True,
                )
                self._thread.start()


class SpanBlock:
    """A span around a block. Made by :meth:`joulelab.Meter.span`.

    Not a generator: that would take as long as the span itself.
    """

    __slots__ = ("_attributes", "_log", "_name", "_span")

    def __init__(self, log: SpanLog, name: str, attributes: dict[str, Any]) -> None:
        self._log = log
        self._name = name
        self._attributes = attributes

    def __enter__(self) -> Span:
        self._span = self._log.begin(self._name, self._attributes)
        return self._span

    def __exit__(self, *_: object) -> None:
        if self._span.stop_ns is None:
            self._log.end(self._span)


_LOGS: weakref.WeakSet[SpanLog] = weakref.WeakSet()


def _after_fork() -> None:
    for log in _LOGS:
        log.start_anew(forked=True)


os.register_at_fork(after_in_child=_after_fork)


def _flush_often(log: weakref.ref[SpanLog], finished: threading.Event) -> None:
    while not finished.wait(FLUSH_INTERVAL_S):
        living = log()
        if living is None:
            return
        living.flush()
        del living


def _row(span: Span) -> tuple[Any, ...]:
    """A span as it is known now; a later row of the same index has more. See ``format.py``."""
    return (
        span.index,
        span.parent,
        span.thread,
        span.name,
        span.attributes,
        span.start_ns,
        span.stop_ns,
    )


def lines(kind: str, rows: Sequence[tuple[Any, ...]]) -> list[bytes]:
    """Lines for the trace, none longer than one write to a pipe that stays whole (pipe(7)).

    Rows are encoded many at a time: that is one call which holds the interpreter for a moment,
    where a call for each would keep taking it from the program's own threads.
    """
    done: list[bytes] = []
    for first in range(0, len(rows), ROWS_A_LINE):
        some = rows[first : first + ROWS_A_LINE]
        line = _encode({"event": kind, "pid": os.getpid(), "rows": some}).encode() + b"\n"
        if len(line) <= ATOMIC_WRITE_BYTES:
            done.append(line)
        elif len(some) > 1:
            half = len(some) // 2
            done += lines(kind, some[:half]) + lines(kind, some[half:])
        else:
            # The span itself keeps what is too long for the trace.
            index, parent, thread, name, _, *times = some[0]
            short = (index, parent, thread, str(name)[:256], {"attributes_omitted": True}, *times)
            done += lines(kind, [short])
    return done
