"""The spans of a trace that grows: those that are open, and those that ended."""

from __future__ import annotations

import itertools
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from joulelab.accounting.marked import Marked, marked
from joulelab.watch.model import OpenSpan, Stack

Event = Mapping[str, Any]
Key = tuple[int, int]

EPOCH = "epoch"
TOTAL = "total"
"""The attribute of an epoch that says how many there will be."""
MOST_KEPT = 2000
"""Of so many ended spans of one name the energies are added up; of more, the latest are kept."""
MOST_DEVICES = 10 * MOST_KEPT
"""So many times of GPUs are kept."""


class EndedSpans:
    """The spans of one name that ended.

    Attributes:
        count: How many.
        duration_s: Of all together.
    """

    def __init__(self) -> None:
        self.count = 0
        self.duration_s = 0.0
        self._latest: deque[Event] = deque(maxlen=MOST_KEPT)

    def add(self, span: Event) -> None:
        """Takes one more."""
        self._latest.append(span)
        self.count += 1
        self.duration_s += (span["stop_ns"] - span["start_ns"]) * 1e-9

    @property
    def complete(self) -> bool:
        """Whether all of them are kept."""
        return self.count == len(self._latest)

    @property
    def latest(self) -> Event:
        """The one that ended last."""
        return self._latest[-1]

    def since(self, t_ns: int) -> Iterable[Event]:
        """Those that ended after that time, as far as they are kept, the last first."""
        return itertools.takewhile(lambda span: span["stop_ns"] >= t_ns, reversed(self._latest))


class SpanBook:
    """What a trace's events tell of spans, kept small however many there are.

    Args:
        start_ns: Spans that began before are another's, CLOCK_MONOTONIC.
    """

    def __init__(self, start_ns: int = 0) -> None:
        self._start_ns = start_ns
        self.open: dict[Key, Event] = {}
        self.ended: dict[str, EndedSpans] = {}
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
        self.ended.setdefault(str(span["name"]), EndedSpans()).add(span)

    @property
    def stop(self) -> Event | None:
        """How the recording came to its end; ``None`` while it has not said so."""
        return next((one for one in reversed(self._others) if one.get("event") == "stop"), None)

    def events(self, since_ns: int = 0) -> list[Event]:
        """Events for a trace that begins at that time."""
        spans = [span for name in self.ended.values() for span in name.since(since_ns)]
        spans += self.open.values()
        keys = ((span["pid"], span["index"]) for span in spans)
        devices = [self._devices[key] for key in keys if key in self._devices]
        others = [one for one in self._others if one.get("t_ns", since_ns) >= since_ns]
        return [*spans, *devices, *others]

    def complete(self) -> list[Marked]:
        """The spans of which all of that name are kept, in the order in which they began."""
        left_out = {name for name, ended in self.ended.items() if not ended.complete}
        return [span for span in marked(self.events()) if span.name not in left_out]

    @property
    def epochs(self) -> int | None:
        """How many epochs there will be, where the program says so."""
        ended = self.ended.get(EPOCH)
        latest = [ended.latest] if ended else []
        for span in (*latest, *self.open.values()):
            total = span["attributes"].get(TOTAL)
            if span["name"] == EPOCH and isinstance(total, int) and total > 0:
                return total
        return None

    @property
    def has_epochs(self) -> bool:
        """Whether there are epochs at all."""
        return EPOCH in self.ended or any(span["name"] == EPOCH for span in self.open.values())

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

    def latest(self) -> list[Marked]:
        """The last span of each name that ended."""
        events = [one.latest for one in self.ended.values()]
        keys = ((event["pid"], event["index"]) for event in events)
        devices = [self._devices[key] for key in keys if key in self._devices]
        return marked([*events, *devices])


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
