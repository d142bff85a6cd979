"""The spans of a trace that grows: those that are open, and those that ended."""

from __future__ import annotations

import itertools
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from joulelab.forecast.from_spans import EPOCH
from joulelab.forecast.live import TOTAL
from joulelab.recording.trace_spans import TraceSpan, read_spans
from joulelab.watch.model import OpenSpan, Stack

Event = Mapping[str, Any]
Key = tuple[int, int]

MOST_KEPT = 2000
"""Of each name the latest spans are kept."""
MOST_DEVICES = 10 * MOST_KEPT
"""So many times of GPUs are kept."""


class SpanBook:
    """What a trace's events tell of spans, kept small however many there are.

    Args:
        start_ns: Spans that began before are another's, CLOCK_MONOTONIC.
    """

    def __init__(self, start_ns: int = 0) -> None:
        self._start_ns = start_ns
        self.open: dict[Key, Event] = {}
        self._ended: dict[str, deque[Event]] = {}
        self._counts: Counter[str] = Counter()
        self._new: list[Event] = []
        self._devices: OrderedDict[Key, Event] = OrderedDict()
        self._others: list[Event] = []

    def add(self, events: Iterable[Event]) -> None:
        """Takes events in the order in which the trace has them."""
        for event in events:
            kind = event.get("event")
            if kind == "span":
                if event["start_ns"] >= self._start_ns:
                    self._add_span(event)
            elif kind == "device":
                self._devices[event["pid"], event["index"]] = event
                if len(self._devices) > MOST_DEVICES:
                    self._devices.popitem(last=False)
            else:
                self._others.append(event)

    def _add_span(self, span: Event) -> None:
        key = span["pid"], span["index"]
        if span["stop_ns"] is None:
            self.open[key] = span
            return
        self.open.pop(key, None)
        name = str(span["name"])
        self._ended.setdefault(name, deque(maxlen=MOST_KEPT)).append(span)
        self._counts[name] += 1
        self._new.append(span)

    def newly_ended(self) -> list[TraceSpan]:
        """The spans that ended since it was last asked, in the order in which they began."""
        new, self._new = self._new, []
        return read_spans([*new, *self._devices_of(new)])

    @property
    def stop(self) -> Event | None:
        """How the recording came to its end; ``None`` while it has not said so."""
        return next((one for one in reversed(self._others) if one.get("event") == "stop"), None)

    def events(self, since_ns: int = 0) -> list[Event]:
        """Events for a trace that begins at that time."""
        spans = [
            span
            for name in self._ended.values()
            for span in itertools.takewhile(lambda one: one["stop_ns"] >= since_ns, reversed(name))
        ]
        spans += self.open.values()
        others = [one for one in self._others if one.get("t_ns", since_ns) >= since_ns]
        return [*spans, *self._devices_of(spans), *others]

    def complete(self) -> list[TraceSpan]:
        """The spans of which all of that name are kept, in the order in which they began."""
        return [span for span in read_spans(self.events()) if self._counts[span.name] <= MOST_KEPT]

    def _devices_of(self, spans: Iterable[Event]) -> list[Event]:
        keys = ((span["pid"], span["index"]) for span in spans)
        return [self._devices[key] for key in keys if key in self._devices]

    @property
    def epochs(self) -> int | None:
        """How many epochs there will be, where the program says so."""
        totals = [span["attributes"].get(TOTAL) for span in self._epochs()]
        return next((one for one in totals if isinstance(one, int) and one > 0), None)

    @property
    def has_epochs(self) -> bool:
        """Whether there are epochs at all."""
        return bool(self._epochs())

    def _epochs(self) -> list[Event]:
        """The last epoch that ended and those that are open."""
        last = list(self._ended.get(EPOCH, ()))[-1:]
        return [*last, *(span for span in self.open.values() if span["name"] == EPOCH)]

    def stacks(self, now_ns: int, is_alive: Callable[[int], bool]) -> tuple[Stack, ...]:
        """The open spans of each thread whose process is there.

        Args:
            now_ns: CLOCK_MONOTONIC.
            is_alive: Tells of a process whether it is there: one that was killed ends no spans.
        """
        by_thread: dict[tuple[int, int], list[Event]] = {}
        for span in self.open.values():
            by_thread.setdefault((span["pid"], span["thread"] or 0), []).append(span)
        return tuple(
            Stack(pid=pid, spans=tuple(_open(span, now_ns) for span in sorted(spans, key=_start)))
            for (pid, _), spans in sorted(by_thread.items())
            if is_alive(pid)
        )


def _start(span: Event) -> int:
    return int(span["start_ns"])


def _open(span: Event, now_ns: int) -> OpenSpan:
    index, total = (span["attributes"].get(name) for name in ("index", TOTAL))
    return OpenSpan(
        name=str(span["name"]),
        index=index if isinstance(index, int) else None,
        total=total if isinstance(total, int) else None,
        elapsed_s=max(0.0, (now_ns - span["start_ns"]) * 1e-9),
    )
