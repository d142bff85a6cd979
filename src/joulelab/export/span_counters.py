"""Counters of the energy and time in which spans of a name were open."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import psutil

from joulelab.energy.energy import Energy
from joulelab.energy.window_union import TimeRanges, merge_ranges
from joulelab.recording.span_columns import Windows
from joulelab.recording.trace_spans import SpanFold, TraceSpan

OTHER = "other"
"""Name of all spans beyond the largest number of names."""
LONGEST_NAME = 100
EnergyAndTime = tuple[float, float]
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
        self.edge_ns, self._most_names = since_ns, most_names
        self._names: set[str] = set()
        self._ended: dict[str, list[tuple[int, int]]] = {}
        self._settled: dict[str, EnergyAndTime] = {}
        self._shown: dict[str, EnergyAndTime] = {}
        self.fold = SpanFold(
            since_ns=since_ns,
            most_per_name=LATE_SPANS,
            on_finish=self._add,
            label=self._label,
        )

    def parts(self) -> list[SpanPart]:
        """Return what was counted, by name."""
        return [
            SpanPart(name, *shown, self.fold.finished[name])
            for name, shown in sorted(self._shown.items())
        ]

    def plan(self, settled_ns: int, until_ns: int) -> list[SpanStretch]:
        """Plan the energies to measure since the edge; those before ``settled_ns`` for good."""
        return [
            SpanStretch(name, Windows(times[:, 0], times[:, 1]), is_settled)
            for start_ns, stop_ns, is_settled in (
                (self.edge_ns, settled_ns, True),
                (settled_ns, until_ns, False),
            )
            for name, times in self._between(start_ns, stop_ns).items()
        ]

    def count(
        self, plan: Sequence[SpanStretch], energies: Sequence[Energy], components: Collection[str]
    ) -> None:
        """Count what was planned, of the components of the total; what is shown only grows."""
        for stretch, energy in zip(plan, energies, strict=True):
            found = (energy.all_parts.get(name) for name in components)
            parts_j = [part.gross_j for part in found if part is not None]
            settled_j, settled_s = self._settled.get(stretch.name, (0.0, 0.0))
            total_j, total_s = settled_j + math.fsum(parts_j), settled_s + energy.duration_s
            shown_j, shown_s = self._shown.get(stretch.name, (math.nan, 0.0))
            if parts_j:
                shown_j = float(np.fmax(shown_j, total_j))  # NaN before the first.
            self._shown[stretch.name] = shown_j, max(shown_s, total_s)
            if stretch.is_settled:
                self._settled[stretch.name] = total_j, total_s

    def settle(self, edge_ns: int) -> None:
        """Go on from another edge, and forget the spans that ended before."""
        self.edge_ns = edge_ns
        for name, ranges in self._ended.items():
            self._ended[name] = [one for one in ranges if one[1] > edge_ns]

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
