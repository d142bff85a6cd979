"""The spans of a process, and how they come to the trace."""

from __future__ import annotations

import itertools
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from sys import modules
from time import monotonic_ns
from typing import TYPE_CHECKING, Any

from joulelab.recording.device_clock import (
    DeviceClock,
    DeviceTime,
    DeviceWindow,
    device_clock,
    tell_when_cuda_starts,
)
from joulelab.recording.past_spans import PastSpans
from joulelab.recording.spans import Span
from joulelab.recording.trace_format import encode, span_lines

if TYPE_CHECKING:
    from joulelab.energy.energy import Energy

FLUSH_INTERVAL_S = 0.25
"""Spans are handed to the recorder this often; a program that is killed loses no more of them."""

INDICES_A_LOG = 1 << 32
"""Logs of one process that share a trace number their spans this far apart."""
MOST_UNRESOLVED = 1 << 16
"""So many marks may wait for their device times to be worked out, which costs some µs each."""


class SpanLog:
    """Every span of a process, in memory and on its way to the trace.

    Beginning and ending a span only notes it; a thread formats what was noted and hands it over
    a few times a second. What is over and handed over is kept as :class:`PastSpans`.

    Args:
        mark: Takes finished lines for the trace without waiting; false when it cannot now.
        energy_of: Works out a span's energy.
        shared: This process may have other logs in the same trace, before or beside this one.
        further: Gives further lines for the trace whenever spans are handed over.

    Attributes:
        begun: Spans that have no index yet, in the order they began.
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
        self.begun: list[Span] = []
        self._first_index = next(_SHARED) * INDICES_A_LOG if shared else 0
        self.energy_of = energy_of
        self._mark = mark
        self._further = further
        self._count = 0
        self._kept: list[Span] = []
        self._new: list[Span] = []
        self._open: list[Span] = []
        self._on_device: deque[Span] = deque()
        self._past = PastSpans()
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
        self._past.mend()
        self.place()
        self._unended.clear()
        self._kept += (*self._new, *self._open, *self._on_device)
        self._new, self._open, self._on_device = [], [], deque()
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
            begun = self.begun.copy()
            for span in begun:
                if span._index < 0:
                    around = self._unended.setdefault(span.thread, [])
                    while around and around[-1].ended_by(span.start_ns):
                        around.pop()
                    span._parent = around[-1]._index if around else None
                    around.append(span)
                    self._count += 1
                    span._index = self._first_index + self._count - 1
            self._new += begun
            del self.begun[: len(begun)]

    def spans(self, name: str | None = None) -> list[Span]:
        """Those of a name, or all, in the order they began."""
        with self._lock:
            self.place()
            found = {span.index: span for span in self._past.spans(self, name)}
            objects = itertools.chain(self._kept, self._on_device, self._open, self._new)
            found |= {span.index: span for span in objects if name is None or span.name == name}
        return [found[index] for index in sorted(found)]

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
            rows, ended, is_open = [], [], []
            for span in self._open:
                row = _row(span)
                if row[-1] is None:
                    is_open.append(span)
                else:
                    rows.append(row)
                    ended.append(span)
            for span in self._new:
                # Whether it is open is asked once: it may be ended at any moment.
                row = _row(span)
                rows.append(row)
                (is_open if row[-1] is None else ended).append(span)
            self._open, self._new = is_open, []
            self._backlog += span_lines("spans", rows)
            if self.device is not None:
                self.device.resolve(leave_unresolved, wait=wait)
            self._kept += self._past.add(span for span in ended if span._device_stop is None)
            self._on_device += (span for span in ended if span._device_stop is not None)
            self._backlog += span_lines("devices", self._devices())
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
        rows, done = [], []
        while self._on_device:
            last = self._on_device[0]._device_stop
            failed = self.device is None or self.device.failure
            if not failed and (last is None or last.time is None):
                break
            span = self._on_device.popleft()
            window = self.device_window(span)
            if window is not None:
                rows.append((span.index, *window))
            done.append(span)
        self._kept += self._past.add(done)
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
    return (
        span._index,
        span._parent,
        span.thread,
        span.name,
        span.attributes,
        span.start_ns,
        span.stop_ns,
    )
