"""Spans that are over, in a fifth of the memory that they take as objects."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from struct import Struct
from typing import TYPE_CHECKING, Any

from joulelab.recording.device_clock import DeviceMark, DeviceTime
from joulelab.recording.spans import Span

if TYPE_CHECKING:
    from joulelab.recording.span_log import SpanLog

TIMES = Struct("=5q")
"""Index, parent (-1: none), thread, start, stop."""
MARKS = Struct("=4q")
"""Time and uncertainty of both marks on the device; -1 where there is none at the start."""


class PastSpans:
    """Spans that have ended and will not change, by name and names of their attributes.

    A step a span, a day long, is a million of them: as objects they would take half a kilobyte
    each in the memory of the program that is measured.

    Example:
        >>> from joulelab.recording.span_log import SpanLog
        >>> log = SpanLog(lambda line: True, energy_of=lambda span: None)
        >>> with Span(log, "step", {"index": 7}) as step:
        ...     pass
        >>> log.place()
        >>> past = PastSpans()
        >>> past.add([step])
        []
        >>> [again] = past.spans(log, "step")
        >>> again == step, again.attributes
        (True, {'index': 7})
        >>> log.finish()
    """

    def __init__(self) -> None:
        self._kinds: dict[tuple[Any, ...], _Kind] = {}

    def add(self, spans: Iterable[Span]) -> list[Span]:
        """Keeps spans that have their index.

        Many at a time: it is done beside the program's own threads.

        Returns:
            Those that cannot be kept so, as where a name is a list.
        """
        left = []
        for span in spans:
            attributes, stop_mark, parent = span.attributes, span._device_stop, span._parent
            on_device = stop_mark is not None and stop_mark.time is not None
            names, values = tuple(attributes), tuple(attributes.values())
            key = (on_device, span.name, names)
            try:
                kind = self._kinds.get(key)
            except TypeError:
                left.append(span)
                continue
            if len(names) != len(values):  # The program is adding one at this moment.
                left.append(span)
                continue
            if kind is None:
                kind = self._kinds[key] = _Kind(span.name, names)
            kind.values.extend(values)
            if on_device:
                kind.marks += MARKS.pack(*_time(span._device_start), *_time(stop_mark))
            # Last: what has no times is not there, should another thread fork at this moment.
            kind.times += TIMES.pack(
                span._index,
                -1 if parent is None else parent,
                span.thread,
                span.start_ns,
                span.stop_ns,
            )
        return left

    def spans(self, log: SpanLog, name: str | None = None) -> Iterator[Span]:
        """Those of a name, or all, as objects again; kind by kind."""
        for kind in self._kinds.values():
            if name is None or kind.name == name:
                yield from kind.spans(log)

    def mend(self) -> None:
        """In a forked child: drops what another thread was writing down."""
        for kind in self._kinds.values():
            kind.mend()


class _Kind:
    """Spans with one name, and attributes of the same names.

    Attributes:
        name: Of each of them.
        attributes: Their names.
        values: The attributes' values, span after span.
        times: Likewise, as :data:`TIMES`.
        marks: Likewise, as :data:`MARKS`; empty where the spans have none.
    """

    __slots__ = ("attributes", "marks", "name", "times", "values")

    def __init__(self, name: str, attributes: tuple[str, ...]) -> None:
        self.name = name
        self.attributes = attributes
        self.values: list[Any] = []
        self.times = bytearray()
        self.marks = bytearray()

    def spans(self, log: SpanLog) -> Iterator[Span]:
        """Each as an object."""
        values = iter(self.values)
        marks = MARKS.iter_unpack(self.marks)
        for times in TIMES.iter_unpack(self.times):
            span = Span(log, self.name, dict(zip(self.attributes, values, strict=False)))
            span._index, parent, span.thread, span.start_ns, span.stop_ns = times
            span._parent = None if parent < 0 else parent
            for both in itertools.islice(marks, 1):
                span._device_start, span._device_stop = _mark(*both[:2]), _mark(*both[2:])
            yield span

    def mend(self) -> None:
        """See :meth:`PastSpans.mend`."""
        count = len(self.times) // TIMES.size
        del self.marks[count * MARKS.size :]
        del self.values[count * len(self.attributes) :]


def _time(mark: DeviceMark | None) -> tuple[int, int]:
    return (-1, -1) if mark is None or mark.time is None else mark.time


def _mark(t_ns: int, uncertainty_ns: int) -> DeviceMark | None:
    if t_ns < 0:
        return None
    mark = DeviceMark(device=0, stream=0, event=None)
    mark.time = DeviceTime(t_ns, uncertainty_ns)
    return mark
