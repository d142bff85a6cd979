"""Counters of the energy and time in which spans of a name were open."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import psutil

from joulelab.energy.energy import Energy
from joulelab.energy.estimator import TimeRanges, merge_ranges
from joulelab.recording.span_columns import Windows
from joulelab.recording.trace_spans import SpanFold, TraceSpan

OTHER = "other"
"""Name of all spans beyond the largest number of names."""
LONGEST_NAME = 100
LATE_SPANS = 64
"""Number of finished spans of a name whose beginning may arrive after their end."""


@dataclass(frozen=True, slots=True)
class SpanPart:
    """Energy and time in which at least one span of a name was open, and how many have ended."""

    name: str
    energy_j: float
    duration_s: float
    finished: int


class SpanStretch(NamedTuple):
    """The times of the spans of a name whose energy is to be measured."""

    name: str
    windows: Windows
    is_settled: bool


class SpanCounters:
    """Counts the spans of each name; those of several processes at one time count once.

    Times are those of the host, also of work on a GPU.

    Args:
        since_ns: Spans that began earlier are left out.
        most_names: Spans of further names are counted together as :data:`OTHER`.
    """

    def __init__(self, since_ns: int, most_names: int) -> None:
        self._most_names = most_names
        self._names: set[str] = set()
        self._ended: dict[str, list[tuple[int, int]]] = {}
        self._totals: dict[str, _Total] = {}
        self.fold = SpanFold(
            since_ns=since_ns,
            most_per_name=LATE_SPANS,
            on_finish=self._add,
            label=self._label,
        )

    def parts(self) -> list[SpanPart]:
        """Return what was counted, by name."""
        return [
            SpanPart(name, one.energy_j, one.duration_s, self.fold.finished[name])
            for name, one in sorted(self._totals.items())
        ]

    def plan(self, start_ns: int, settled_ns: int, stop_ns: int) -> list[SpanStretch]:
        """Plan the energies to measure in a stretch; what is before ``settled_ns`` for good."""
        return [
            SpanStretch(name, Windows(times[:, 0], times[:, 1]), is_settled)
            for edges, is_settled in (
                ((start_ns, settled_ns), True),
                ((settled_ns, stop_ns), False),
            )
            for name, times in self._between(*edges).items()
        ]

    def count(
        self, plans: Sequence[SpanStretch], energies: Sequence[Energy], components: Collection[str]
    ) -> None:
        """Count what was planned, of the components of the total."""
        for stretch, energy in zip(plans, energies, strict=True):
            total = self._totals.setdefault(stretch.name, _Total())
            found = (energy.all_parts.get(name) for name in components)
            total.show(energy.duration_s, [part.gross_j for part in found if part is not None])
            if stretch.is_settled:
                total.keep()

    def forget(self, until_ns: int) -> None:
        """Forget the spans that ended before a time, which are settled."""
        for name, ranges in self._ended.items():
            self._ended[name] = [one for one in ranges if one[1] > until_ns]

    def _label(self, name: str) -> str:
        name = name[:LONGEST_NAME]
        if name not in self._names and len(self._names) >= self._most_names:
            return OTHER
        self._names.add(name)
        return name

    def _add(self, span: TraceSpan) -> None:
        assert span.stop_ns is not None
        self._ended.setdefault(span.name, []).append((span.start_ns, span.stop_ns))

    def _between(self, start_ns: int, stop_ns: int) -> dict[str, TimeRanges]:
        """Return when spans of each name were open between two times, as disjoint ranges."""
        found = {name: list(ranges) for name, ranges in self._ended.items()}
        # A process that was killed leaves its spans open.
        is_alive = {pid: psutil.pid_exists(pid) for pid in {key[0] for key in self.fold.open}}
        for span in self.fold.open.values():
            if is_alive[span.key[0]] and span.start_ns < stop_ns:
                found.setdefault(span.name, []).append((span.start_ns, stop_ns))
        merged = {}
        for name, ranges in found.items():
            times = merge_ranges(ranges)
            inside = times[(times[:, 0] < stop_ns) & (times[:, 1] > start_ns)]
            if len(inside):
                merged[name] = inside.clip(start_ns, stop_ns)
        return merged


class _Total:
    """What is settled of a name, and the most that was ever shown."""

    def __init__(self) -> None:
        self._settled = self._latest = 0.0, 0.0  # Joules and seconds.
        self.energy_j, self.duration_s = math.nan, 0.0

    def show(self, duration_s: float, parts_j: Sequence[float]) -> None:
        """Show the energy with a stretch that is not settled."""
        settled_j, settled_s = self._settled
        self._latest = settled_j + math.fsum(parts_j), settled_s + duration_s
        self.duration_s = max(self.duration_s, self._latest[1])
        if parts_j:
            self.energy_j = max(
                self._latest[0], 0.0 if math.isnan(self.energy_j) else self.energy_j
            )

    def keep(self) -> None:
        """Settle what was shown last."""
        self._settled = self._latest
