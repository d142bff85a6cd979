"""A span of a trace, and the fold of a growing trace's events into its latest spans.

:mod:`joulelab.recording.span_columns` has all spans of a trace.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import attrgetter
from types import MappingProxyType
from typing import Any, NamedTuple

from joulelab.recording.span_blocks import Block
from joulelab.recording.trace_format import SPAN_COLUMNS

Key = tuple[int, int]
"""A span's process and its index there."""
SPAN_EVENTS = frozenset({"spans", SPAN_COLUMNS, "devices"})


@dataclass(frozen=True, slots=True)
class Window:
    """Start and stop of a span on the host and, if known, of its work on the GPU.

    All are CLOCK_MONOTONIC nanoseconds. The device times share one error, whose standard
    uncertainty (k = 1) is given.
    """

    start_ns: int
    stop_ns: int
    device_start_ns: int | None = None
    device_stop_ns: int | None = None
    device_uncertainty_ns: int = 0

    def of(self, component: str) -> tuple[float, float]:
        """Return start and stop in seconds, on the clock that the component works by."""
        if (
            component.startswith("gpu")
            and self.device_start_ns is not None
            and self.device_stop_ns is not None
        ):
            return self.device_start_ns * 1e-9, self.device_stop_ns * 1e-9
        return self.start_ns * 1e-9, self.stop_ns * 1e-9

    def whole(self) -> tuple[float, float]:
        """Return the host's start and the end of the last work on host or GPU, in seconds."""
        return self.start_ns * 1e-9, max(self.stop_ns, self.device_stop_ns or 0) * 1e-9


class TraceSpan(NamedTuple):
    """A span as a trace has it. For its times see :class:`Window`."""

    name: str
    start_ns: int
    stop_ns: int | None  # ``None`` while the span is open.
    key: Key  # Process and index; unique within a trace.
    parent: Key | None = None  # Key of the enclosing span; ``None`` for an outermost span.
    thread: int = 0  # Thread in which the span began, as ``threading.get_ident`` names it.
    attributes: Mapping[str, Any] = MappingProxyType({})  # What else the program attached to it.
    device_start_ns: int | None = None
    device_stop_ns: int | None = None
    device_uncertainty_ns: int = 0

    @property
    def phase(self) -> str | None:
        """The attribute ``phase``, for example ``"train"``."""
        return self.attributes.get("phase")

    @property
    def window(self) -> Window:
        """Start and stop on host and GPU. The span must be finished."""
        assert self.stop_ns is not None
        return Window(self.start_ns, self.stop_ns, *self[7:])


class SpanFold:
    """Folds the events of a trace into its spans, one event at a time.

    A span has an event when it begins and another when it ends (or one for both), and a third when
    its times on the GPU are known.

    Args:
        since_ns: Leave out spans that began before this time (CLOCK_MONOTONIC).
        most_per_name: Keep only the latest finished spans of each name; ``None`` keeps all.
        on_finish: Called once with each span that ends, in the order of the trace.
        label: Returns the name under which a span counts, from its own name.

    Attributes:
        open: The spans that have not ended.
        finished: Number of finished spans by name, including those that are no longer kept.
        damaged: Number of spans that were left out because they end before they begin.
    """

    def __init__(
        self,
        *,
        since_ns: int = 0,
        most_per_name: int | None = None,
        on_finish: Callable[[TraceSpan], None] | None = None,
        label: Callable[[str], str] = str,
    ) -> None:
        self.open: dict[Key, TraceSpan] = {}
        self.damaged = 0
        self.finished: Counter[str] = Counter()
        self._since_ns = since_ns
        self._most_per_name = most_per_name
        self._on_finish = on_finish
        self._label = label
        self._spans: dict[Key, TraceSpan] = {}
        self._latest: dict[str, deque[Key]] = {}

    def add(self, event: Mapping[str, Any]) -> bool:
        """Fold one event into the spans. Return whether the event is about spans."""
        kind = event.get("event")
        if kind == "spans":
            for row in event["rows"]:
                self._add_span(event["pid"], *row)
        elif kind == SPAN_COLUMNS:
            for row in Block.of_event(event).rows():
                self._add_span(event["pid"], *row)
        elif kind == "devices":
            for index, start_ns, stop_ns, uncertainty_ns in event["rows"]:
                self._add_device((event["pid"], index), start_ns, stop_ns, uncertainty_ns)
        return kind in SPAN_EVENTS

    def spans(self) -> list[TraceSpan]:
        """Return the spans in the order in which they began."""
        return sorted(self._spans.values(), key=attrgetter("start_ns"))

    def get(self, span: TraceSpan) -> TraceSpan:
        """Return the span as it is known now; the given one if it is no longer kept."""
        return self._spans.get(span.key, span)

    def _add_span(
        self,
        pid: int,
        index: int,
        parent: int | None,
        thread: int,
        name: str,
        attributes: Mapping[str, Any],
        start_ns: int,
        stop_ns: int | None,
    ) -> None:
        if start_ns < self._since_ns:
            return
        if stop_ns is not None and stop_ns < start_ns:
            self.damaged += 1
            return
        key = pid, index
        # The enclosing span has begun before, so it has a smaller index.
        around = None if parent is None or parent >= index else (pid, parent)
        name = self._label(str(name))
        span = TraceSpan(name, start_ns, stop_ns, key, around, thread or 0, attributes)
        before = self._spans.get(key)
        if before is not None and before.stop_ns is not None and stop_ns is None:
            return  # It was passed on in another way, which took longer.
        if before is not None:
            span = TraceSpan(*span[:7], *before[7:])
        self._spans[key] = span
        if stop_ns is None:
            self.open[key] = span
        elif before is None or before.stop_ns is None:
            self.open.pop(key, None)
            self._finish(span)

    def _finish(self, span: TraceSpan) -> None:
        self.finished[span.name] += 1
        if self._on_finish is not None:
            self._on_finish(span)
        if self._most_per_name is not None:
            latest = self._latest.setdefault(span.name, deque())
            latest.append(span.key)
            if len(latest) > self._most_per_name:
                del self._spans[latest.popleft()]

    def _add_device(self, key: Key, start_ns: int, stop_ns: int, uncertainty_ns: int) -> None:
        span = self._spans.get(key)
        is_whole = None in (start_ns, stop_ns) or start_ns <= stop_ns
        if span is not None and is_whole:
            self._spans[key] = TraceSpan(*span[:7], start_ns, stop_ns, uncertainty_ns)
