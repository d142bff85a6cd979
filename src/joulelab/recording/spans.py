"""Spans: named stretches of time, nested as the program nests them."""

from __future__ import annotations

import itertools
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from sys import modules
from threading import get_ident
from time import monotonic_ns
from typing import TYPE_CHECKING, Any, Self

from joulelab.recording.device_clock import (
    DeviceClock,
    DeviceMark,
    DeviceTime,
    DeviceWindow,
    device_clock,
    tell_when_cuda_starts,
)
from joulelab.recording.span_lines import encode, lines

if TYPE_CHECKING:
    from joulelab.accounting.energy import Energy

FLUSH_INTERVAL_S = 0.25
"""Spans are handed to the recorder this often; a program that is killed loses no more of them."""

INDICES_A_LOG = 1 << 32
"""Logs of one process that share a trace number their spans this far apart."""
MOST_UNRESOLVED = 1 << 16
"""So many marks may wait for their device times to be worked out, which costs some µs each."""


class Span:
    """A named stretch of time, as ``with meter.span("epoch", index=3) as span``.

    Made by :meth:`joulelab.Meter.span`, which leaves it to ``with`` to begin it, or by
    :meth:`joulelab.Meter.begin`.

    Beginning and ending one is on the program's way, so each does what must be done at that moment
    and no more: the number of a span and the one around it are worked out when they are wanted.

    Attributes:
        name: As the program gave it.
        attributes: Whatever else the program said of it.
        start_ns: CLOCK_MONOTONIC; 0 before it began.
        stop_ns: CLOCK_MONOTONIC; ``None`` while it is open.
        thread: In which it began, as ``threading.get_ident`` has it; 0 before.
    """

    __slots__ = (
        "_device_start",
        "_device_stop",
        "_index",
        "_log",
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
        self._parent: Span | None = None
        self._device_start: DeviceMark | None = None
        self._device_stop: DeviceMark | None = None

    def __enter__(self) -> Self:
        """Begins it now.

        Raises:
            ValueError: It began before.
        """
        if self.start_ns:
            raise ValueError(f"span {self.name!r} began already; each block needs one of its own")
        log = self._log
        self.thread = get_ident()
        if log.device is not None:
            self._device_start = log.device.mark()
        self.start_ns = monotonic_ns()
        log.spans.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        """Ends it however its block ended, unless the block has done so itself."""
        if self.stop_ns is not None:
            return
        stop_ns = monotonic_ns()
        log = self._log
        if log.device is not None:
            self._device_stop = log.device.mark()
        self.stop_ns = stop_ns
        if log.forked:
            log.flush(leave_unresolved=0, wait=True)

    def end(self) -> None:
        """Ends it now.

        Raises:
            ValueError: It ended before, or has not begun.
        """
        if self.stop_ns is not None or not self.start_ns:
            what = "was already ended" if self.start_ns else "has not begun"
            raise ValueError(f"span {self.name!r} {what}")
        self.__exit__()

    @property
    def index(self) -> int:
        """Counts the spans of this process in the order they began; -1 before it began."""
        if self._index < 0:
            self._log.place()
        return self._index

    @property
    def parent(self) -> int | None:
        """Index of the span that was open in the same thread when this one began."""
        if self._index < 0:
            self._log.place()
        return None if self._parent is None else self._parent.index

    @property
    def duration_s(self) -> float:
        """Its length on the host's clock; up to now while it is open."""
        stop_ns = monotonic_ns() if self.stop_ns is None else self.stop_ns
        return (stop_ns - self.start_ns) * 1e-9

    @property
    def energy(self) -> Energy:
        """Its energy. Waits at most until the sensors have covered it.

        Raises:
            ValueError: The span is still open.
        """
        return self._log.energy_of(self)

    def ended_by(self, t_ns: int) -> bool:
        """Whether it was over at that time, CLOCK_MONOTONIC."""
        return self.stop_ns is not None and self.stop_ns <= t_ns

    def device_window(self) -> DeviceWindow | None:
        """When the GPU began and finished its work, where it had any. Waits until it has."""
        return self._log.device_window(self)

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
        shared: This process may have other logs in the same trace, before or beside this one.
        further: Gives further lines for the trace whenever spans are handed over.

    Attributes:
        spans: In the order they began.
        device: The clock of the GPUs, once the program has started CUDA.
        forked: This process is a child that was forked, and its spans are handed over as they end.
    """

    def __init__(
        self,
        mark: Callable[[bytes], bool],
        energy_of: Callable[[Span], Energy],
        *,
        shared: bool = False,
        further: Callable[[], Sequence[bytes]] = tuple,
    ) -> None:
        self.spans: list[Span] = []
        self._first_index = next(_SHARED) * INDICES_A_LOG if shared else 0
        self.energy_of = energy_of
        self._mark = mark
        self._further = further
        self._placed = 0
        self.start_anew(forked=False)
        _LOGS[id(self)] = self
        tell_when_cuda_starts(_notice_cuda)

    def start_anew(self, *, forked: bool) -> None:
        """Forgets what is on its way: in a child just forked that is its parent's to hand over.

        A child may end at any moment without a word, as those of multiprocessing do, so it hands
        over each span as it ends, and has no thread for it. Nor can it use its parent's CUDA.
        """
        self.device: DeviceClock | None = device_clock()
        self.forked = forked
        self._told_failure = False
        self._lock = threading.RLock()
        self._unended: dict[int, list[Span]] = {}
        self.place()
        self._unended.clear()
        self._seen = len(self.spans)
        self._open: list[Span] = []
        self._on_device: deque[Span] = deque()
        self._backlog: deque[bytes] = deque()
        self._finished = threading.Event()
        self._thread: threading.Thread | None = None
        if not forked:
            self._thread = threading.Thread(
                target=_flush_often,
                args=(weakref.ref(self), self._finished),
                name="joulelab-spans",
                daemon=True,
            )
            self._thread.start()

    def place(self) -> None:
        """Gives the spans that have none yet their index and the span around them.

        That is told by the times, as one may have ended since another began in it.
        """
        with self._lock:
            for position in range(self._placed, len(self.spans)):
                span = self.spans[position]
                around = self._unended.setdefault(span.thread, [])
                while around and around[-1].ended_by(span.start_ns):
                    around.pop()
                span._parent = around[-1] if around else None
                around.append(span)
                span._index = self._first_index + position
                self._placed = position + 1

    def device_window(self, span: Span) -> DeviceWindow | None:
        """See :meth:`Span.device_window`."""
        device, first, last = self.device, span._device_start, span._device_stop
        if device is None or last is None:
            return None
        with self._lock:
            # Where CUDA was started only after the span began, so did its work on the device.
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
        """Hands over what was noted so far; false when the recorder had no room for all.

        Args:
            leave_unresolved: Of the marks whose device times are not worked out, leave this many.
            wait: Also work out those to which the device has not come yet.
        """
        tell_when_cuda_starts(_notice_cuda)
        with self._lock:
            self.device = self.device or device_clock()
            self.place()
            rows, is_open = [], []
            for span in self._open:
                row = _row(span)
                if row[-1] is None:
                    is_open.append(span)
                    continue
                rows.append(row)
                if span._device_stop is not None:
                    self._on_device.append(span)
            for span in self.spans[self._seen : self._placed]:
                # Whether it is open is asked once: it may be ended at any moment.
                row = _row(span)
                rows.append(row)
                if row[-1] is None:
                    is_open.append(span)
                elif span._device_stop is not None:
                    self._on_device.append(span)
            self._open, self._seen = is_open, self._placed
            self._backlog += lines("spans", rows)
            if self.device is not None:
                self.device.resolve(leave_unresolved, wait=wait)
            self._backlog += lines("devices", self._devices())
            self._backlog += self._device_failure()
            self._backlog += self._further()
            while self._backlog:
                if not self._mark(self._backlog[0]):
                    return False
                self._backlog.popleft()
        return True

    def refer(self) -> None:
        """Keeps the device's clock beside the host's. For the thread of :func:`_flush_often`."""
        with self._lock:
            if self.device is not None:
                self.device.refer()

    def finish(self) -> None:
        """Ends the thread and hands over everything, waiting for GPUs where it must."""
        self._finished.set()
        if self._thread is not None:
            self._thread.join()
        self.flush(leave_unresolved=0, wait=True)

    def _device_failure(self) -> list[bytes]:
        """A line, once, that says why there are no more device times."""
        if self.device is None or not self.device.failure or self._told_failure:
            return []
        self._told_failure = True
        event = {"event": "device_failed", "pid": os.getpid(), "t_ns": monotonic_ns()}
        return [encode({**event, "reason": self.device.failure}).encode() + b"\n"]

    def _devices(self) -> list[tuple[int, int, int, int]]:
        """Rows of the ended spans whose marks' times are known, in the order they ended."""
        rows = []
        while self._on_device:
            last = self._on_device[0]._device_stop
            if last is None or last.time is None:
                break
            span = self._on_device.popleft()
            window = self.device_window(span)
            if window is not None:
                rows.append((span.index, *window))
        return rows


_SHARED = itertools.count()
_LOGS: weakref.WeakValueDictionary[int, SpanLog] = weakref.WeakValueDictionary()


def _logs() -> list[SpanLog]:
    """Those that live, also while other threads make some."""
    return [log for reference in _LOGS.valuerefs() if (log := reference()) is not None]


def _notice_cuda() -> None:
    for log in _logs():
        log.device = log.device or DeviceClock(modules["torch"])


def _after_fork() -> None:
    for log in _logs():
        log.start_anew(forked=True)


os.register_at_fork(after_in_child=_after_fork)


def _flush_often(log: weakref.ref[SpanLog], finished: threading.Event) -> None:
    while not finished.wait(FLUSH_INTERVAL_S):
        living = log()
        if living is None:
            return
        living.refer()
        living.flush()
        del living


def _row(span: Span) -> tuple[Any, ...]:
    """A numbered span as it is known now; a later row of the same index has more.

    See ``format.py``. Not by properties, which would take as long as all else.
    """
    parent = span._parent
    return (
        span._index,
        None if parent is None else parent._index,
        span.thread,
        span.name,
        span.attributes,
        span.start_ns,
        span.stop_ns,
    )
