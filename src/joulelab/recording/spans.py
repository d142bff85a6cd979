"""Spans: named stretches of time, nested as the program nests them."""

from __future__ import annotations

from threading import get_ident
from time import monotonic_ns
from typing import TYPE_CHECKING, Any, Self

from joulelab.recording.device_clock import DeviceMark, DeviceWindow

if TYPE_CHECKING:
    from joulelab.energy.energy import Energy
    from joulelab.recording.span_log import SpanLog


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
        self._parent: int | None = None
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
        log.begun.append(self)
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
        return self._parent

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

    def __eq__(self, other: object) -> bool:
        """Whether it is the same stretch of time of the same meter."""
        if self is other or not isinstance(other, Span):
            return self is other
        return self._log is other._log and self.index == other.index >= 0

    def __hash__(self) -> int:
        return hash(self.start_ns)

    def __repr__(self) -> str:
        state = "open" if self.stop_ns is None else f"{self.duration_s:.6g} s"
        return f"<Span {self.name!r} {self.attributes or ''} {state}>"
