"""Spans: named stretches of time, nested as the program nests them."""

from __future__ import annotations

import itertools
import json
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from joulelab.recording.device_clock import DeviceClock, DeviceMark
from joulelab.recording.link import ATOMIC_WRITE_BYTES

if TYPE_CHECKING:
    from joulelab.accounting.energy import Energy

LONGEST_QUEUE = 1024
"""Spans whose device times are worked out together at the latest when so many have ended."""


class Span:
    """A named stretch of time. Made by :meth:`joulelab.Meter.begin`.

    Attributes:
        name: As the program gave it.
        attributes: Whatever else the program said of it.
        index: Counts the spans of this process.
        parent: Index of the span that was open in the same thread when this one began.
        start_ns: CLOCK_MONOTONIC.
        stop_ns: CLOCK_MONOTONIC; ``None`` while it is open.
    """

    __slots__ = (
        "_device_start",
        "_device_stop",
        "_device_window_ns",
        "_energy",
        "attributes",
        "index",
        "name",
        "parent",
        "start_ns",
        "stop_ns",
    )

    def __init__(
        self,
        name: str,
        attributes: dict[str, Any],
        index: int,
        parent: int | None,
        energy: Callable[[Span], Energy],
    ) -> None:
        self.name = name
        self.attributes = attributes
        self.index = index
        self.parent = parent
        self.stop_ns: int | None = None
        self._energy = energy
        self._device_start: DeviceMark | None = None
        self._device_stop: DeviceMark | None = None
        self._device_window_ns: tuple[int, int] | None = None
        self.start_ns = time.monotonic_ns()

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
        return self._energy(self)

    def device_window_ns(self) -> tuple[int, int] | None:
        """When the GPU began and finished its work, where it had any. Waits until it has."""
        if self._device_window_ns is None and self._device_start and self._device_stop:
            start_ns, stop_ns = self._device_start.time_ns(), self._device_stop.time_ns()
            self._device_window_ns = (start_ns, max(start_ns, stop_ns))
            self._device_start = self._device_stop = None
        return self._device_window_ns

    def __repr__(self) -> str:
        state = "open" if self.stop_ns is None else f"{self.duration_s:.6g} s"
        return f"<Span {self.name!r} {self.attributes or ''} {state}>"


class SpanLog:
    """Every span of a process, in memory and on its way to the trace.

    Args:
        mark: Takes a finished line for the trace without waiting; false when it cannot now.
        energy: Works out a span's energy.
    """

    def __init__(self, mark: Callable[[bytes], bool], energy: Callable[[Span], Energy]) -> None:
        self.spans: list[Span] = []
        self._mark = mark
        self._energy = energy
        self._clock = DeviceClock()
        self._count = itertools.count()
        self._open = threading.local()
        self._backlog: deque[bytes] = deque()
        self._unresolved: deque[Span] = deque()

    def begin(self, name: str, attributes: dict[str, Any]) -> Span:
        """Opens a span now."""
        stack = self._stack()
        parent = stack[-1].index if stack else None
        device = self._clock.mark()
        span = Span(name, attributes, next(self._count), parent, self._energy)
        span._device_start = device
        stack.append(span)
        self.spans.append(span)
        self._write(_begin_line(span))
        return span

    def end(self, span: Span) -> None:
        """Closes a span now.

        Raises:
            ValueError: It was closed before.
        """
        stop_ns = time.monotonic_ns()
        if span.stop_ns is not None:
            raise ValueError(f"span {span.name!r} was already ended")
        span.stop_ns = stop_ns
        if span._device_start is not None:
            span._device_stop = self._clock.mark()
            self._unresolved.append(span)
        stack = self._stack()
        if span in stack:
            stack.remove(span)
        self._write(
            b'{"event":"end","pid":%d,"index":%d,"t_ns":%d}\n' % (os.getpid(), span.index, stop_ns)
        )
        if len(self._unresolved) > LONGEST_QUEUE:
            self.resolve(len(self._unresolved) // 2)

    def resolve(self, count: int | None = None) -> None:
        """Works out the device times of the oldest ``count`` spans that lack them, or of all."""
        for _ in range(len(self._unresolved) if count is None else count):
            span = self._unresolved.popleft()
            window = span.device_window_ns()
            if window is not None:
                self._write(
                    b'{"event":"device","pid":%d,"index":%d,"start_ns":%d,"stop_ns":%d}\n'
                    % (os.getpid(), span.index, *window)
                )

    def flush(self) -> bool:
        """Hands over the lines that the pipe had no room for; false when some are left."""
        while self._backlog:
            if not self._mark(self._backlog[0]):
                return False
            self._backlog.popleft()
        return True

    def _stack(self) -> list[Span]:
        try:
            stack: list[Span] = self._open.stack
        except AttributeError:
            stack = self._open.stack = []
        return stack

    def _write(self, line: bytes) -> None:
        """Keeps the order of lines when the pipe is full for a while."""
        if not self.flush() or not self._mark(line):
            self._backlog.append(line)


def _begin_line(span: Span) -> bytes:
    event = {
        "event": "begin",
        "pid": os.getpid(),
        "index": span.index,
        "parent": span.parent,
        "thread": threading.get_native_id(),
        "name": span.name,
        "attributes": span.attributes,
        "t_ns": span.start_ns,
    }
    line = json.dumps(event, default=str).encode() + b"\n"
    if len(line) > ATOMIC_WRITE_BYTES:
        # Longer lines could be torn apart by another thread's. The span itself keeps them.
        event |= {"name": span.name[:256], "attributes": {}, "attributes_omitted": True}
        line = json.dumps(event).encode() + b"\n"
    return line
