"""The spans of a trace that grows: those that are open, and those that ended."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from joulelab.forecast.loop import TOTAL
from joulelab.forecast.sources import EPOCH
from joulelab.recording.trace_spans import SpanFold, TraceSpan
from joulelab.watch.model import OpenSpan, Stack

Event = Mapping[str, Any]

MOST_KEPT = 2000
"""Of each name the latest spans are kept."""


class SpanBook:
    """What a trace's events state about spans, kept small however many there are.

    Args:
        start_ns: Leave out spans that began before, CLOCK_MONOTONIC.

    Attributes:
        fold: The spans; give it to the reader of the trace.
    """

    def __init__(self, start_ns: int = 0) -> None:
        self.fold = SpanFold(
            since_ns=start_ns, most_per_name=MOST_KEPT, on_finish=self._add_finished
        )
        self._new: list[TraceSpan] = []
        self._last_epoch: TraceSpan | None = None
        self._others: list[Event] = []

    def add(self, events: Iterable[Event]) -> None:
        """Takes events in the order in which the trace has them."""
        self._others += (event for event in events if not self.fold.add(event))

    def _add_finished(self, span: TraceSpan) -> None:
        self._new.append(span)
        if span.name == EPOCH:
            self._last_epoch = span

    def newly_ended(self) -> list[TraceSpan]:
        """The spans that ended since it was last asked, in the order in which they began."""
        new, self._new = self._new, []
        return sorted((self.fold.get(span) for span in new), key=_start)

    @property
    def stop(self) -> Event | None:
        """How the recording came to its end; ``None`` while it has not said so."""
        return next((one for one in reversed(self._others) if one.get("event") == "stop"), None)

    def events(self, since_ns: int = 0) -> list[Event]:
        """Events for a trace that begins at that time."""
        return [one for one in self._others if one.get("t_ns", since_ns) >= since_ns]

    def spans(self, since_ns: int) -> list[TraceSpan]:
        """Spans for a trace that begins at that time."""
        return [
            span for span in self.fold.spans() if span.stop_ns is None or span.stop_ns >= since_ns
        ]

    def complete(self) -> list[TraceSpan]:
        """The spans of which all of that name are kept, in the order in which they began."""
        counts = self.fold.finished
        return [span for span in self.fold.spans() if counts[span.name] <= MOST_KEPT]

    @property
    def epochs(self) -> int | None:
        """How many epochs there will be, where the program says so."""
        totals = [span.attributes.get(TOTAL) for span in self._epochs()]
        return next((one for one in totals if isinstance(one, int) and one > 0), None)

    @property
    def has_epochs(self) -> bool:
        """Whether there are epochs at all."""
        return bool(self._epochs())

    def _epochs(self) -> list[TraceSpan]:
        """The last epoch that ended and those that are open."""
        last = [] if self._last_epoch is None else [self._last_epoch]
        return [*last, *(span for span in self.fold.open.values() if span.name == EPOCH)]

    def stacks(self, now_ns: int, is_alive: Callable[[int], bool]) -> tuple[Stack, ...]:
        """The open spans of each thread whose process is there.

        Args:
            now_ns: CLOCK_MONOTONIC.
            is_alive: Tells of a process whether it is there: one that was killed ends no spans.
        """
        by_thread: dict[tuple[int, int], list[TraceSpan]] = {}
        for span in self.fold.open.values():
            by_thread.setdefault((span.key[0], span.thread), []).append(span)
        return tuple(
            Stack(pid=pid, spans=tuple(_open(span, now_ns) for span in sorted(spans, key=_start)))
            for (pid, _), spans in sorted(by_thread.items())
            if is_alive(pid)
        )


def _start(span: TraceSpan) -> int:
    return span.start_ns


def _open(span: TraceSpan, now_ns: int) -> OpenSpan:
    index, total = (span.attributes.get(name) for name in ("index", TOTAL))
    return OpenSpan(
        name=span.name,
        index=index if isinstance(index, int) else None,
        total=total if isinstance(total, int) else None,
        elapsed_s=max(0.0, (now_ns - span.start_ns) * 1e-9),
    )
