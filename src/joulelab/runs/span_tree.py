"""The spans of a run by name and nesting: how often, how long, and the energy of each by itself."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from joulelab.arrays import Integers
from joulelab.energy.energy import Energy
from joulelab.energy.estimator import (
    EnergyEstimator,
    energies_of_spans,
    energy_of_union,
)
from joulelab.energy.window_union import WindowUnion
from joulelab.format import finite_or_none
from joulelab.recording.span_blocks import NONE
from joulelab.recording.span_columns import SpanColumns
from joulelab.recording.trace import Trace, read_trace
from joulelab.runs.record import Run, SpanTotal, is_recording
from joulelab.validation import MOST_NS


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanNode:
    """All finished spans of one name within the spans of one parent."""

    name: str  # Name of the spans.
    total: SpanTotal  # Number, total duration and energies, with what the spans contain.
    # Mean duration of one span. With several of them at the same time it is not the total duration
    # over the number.
    mean_s: float
    self_j: float  # Gross energy of the time in which no span below was open, J.
    self_interval_j: tuple[float, float]  # 95 % interval of ``self_j``.
    self_s: float  # That time.
    own: Energy | None = None  # The energy in that time; ``None`` if nesting is unknown.
    children: tuple[SpanNode, ...] = ()  # The spans directly within these, the most energy first.

    def walk(self, depth: int = 0) -> Iterator[tuple[int, SpanNode]]:
        """Yield this node and all below with their depth, parents first."""
        yield depth, self
        for child in self.children:
            yield from child.walk(depth + 1)

    def to_json(self) -> dict[str, Any]:
        """Return plain values; NaN becomes ``None``."""
        total = self.total
        values: dict[str, Any] = {
            "name": self.name,
            "count": total.count,
            "duration_s": total.duration_s,
            "mean_s": self.mean_s,
            "gross_j": total.gross_j,
            "low_j": total.low_j,
            "high_j": total.high_j,
            "net_j": total.net_j,
            "self_s": self.self_s,
            "self_j": self.self_j,
            "self_low_j": self.self_interval_j[0],
            "self_high_j": self.self_interval_j[1],
        }
        plain: dict[str, Any] = finite_or_none(values)
        return plain | {"children": [one.to_json() for one in self.children]}


def run_trace(run: Run) -> Trace | None:
    """Read the trace that has a run's readings; ``None`` if it is gone.

    Raises:
        TraceError: It is damaged.
    """
    directory = run.inside or run.directory
    return read_trace(directory) if is_recording(directory) else None


def run_extent(run: Run) -> tuple[int, int]:
    """Return start and end of a run within its trace, CLOCK_MONOTONIC nanoseconds."""
    if run.start_ns is None or math.isnan(run.duration_s):
        return 0, MOST_NS
    return run.start_ns, run.start_ns + math.ceil(run.duration_s * 1e9)


def flat_tree(spans: Sequence[SpanTotal]) -> tuple[SpanNode, ...]:
    """Return the totals of a record, whose nesting is unknown without its trace."""
    nodes = [
        SpanNode(
            name=one.name,
            total=one,
            mean_s=one.duration_s / one.count,
            self_j=math.nan,
            self_interval_j=(math.nan, math.nan),
            self_s=math.nan,
        )
        for one in spans
    ]
    return _by_energy(nodes)


def span_tree(
    trace: Trace, estimator: EnergyEstimator, start_ns: int, stop_ns: int
) -> tuple[SpanNode, ...]:
    """Group the finished spans between two times by their names and those of their parents.

    Time in which several threads or processes are in such a span counts once. Energies of the spans
    of one parent add up to at most the parent's, except for spans of other names that overlap.

    Args:
        trace: Readings and spans.
        estimator: Computes energies from this trace.
        start_ns: Leave out spans that began before this time, CLOCK_MONOTONIC.
        stop_ns: Leave out spans that ended after this time.

    Returns:
        The outermost spans, the most energy first.
    """
    spans = SpanColumns.of(trace.spans).within(start_ns, stop_ns)
    if not len(spans):
        return ()
    codes, parents = _paths(spans)
    order = np.argsort(codes, kind="stable")
    groups = [spans.where(at) for at in np.split(order, np.cumsum(np.bincount(codes))[:-1])]
    energies = energies_of_spans(estimator, groups)
    children: dict[int, list[int]] = {}
    for path, parent in enumerate(parents):
        children.setdefault(parent, []).append(path)
    nodes: dict[int, SpanNode] = {}
    # Paths are numbered from the outermost on, so children have larger numbers.
    for path in reversed(range(len(parents))):
        group, below = groups[path], children.get(path, [])
        own = energies[path]
        if below:
            own = _energy_outside(estimator, group, [groups[child] for child in below])
        name = group.names[int(group.spans["name"][0])]
        nodes[path] = SpanNode(
            name=name,
            total=SpanTotal.of(name, len(group), energies[path]),
            mean_s=float(group.windows.duration_s.mean()),
            self_s=own.duration_s,
            self_j=own.gross_j,
            self_interval_j=own.interval_j,
            own=own,
            children=_by_energy([nodes[child] for child in below]),
        )
    return _by_energy([nodes[path] for path in children[-1]])


def _paths(spans: SpanColumns) -> tuple[Integers, list[int]]:
    """Number the distinct paths of names; return each span's path and each path's parent.

    The parent is -1 for outermost spans, and for those whose parent is not among the spans.
    """
    rows = spans.spans
    order = np.lexsort((rows["index"], rows["pid"]))
    parent = np.full(len(rows), -1)
    for pid in np.unique(rows["pid"]):
        own = order[rows["pid"][order] == pid]
        inner = np.flatnonzero((rows["pid"] == pid) & (rows["parent"] != NONE))
        at = np.searchsorted(rows["index"][own], rows["parent"][inner]).clip(max=len(own) - 1)
        is_known = rows["index"][own[at]] == rows["parent"][inner]
        parent[inner[is_known]] = own[at[is_known]]
    codes = np.full(len(rows), -1)
    parents: list[int] = []
    level = np.flatnonzero(parent < 0)
    while len(level):
        above = np.where(parent[level] < 0, -1, codes[parent[level]])
        pairs = np.column_stack((above, rows["name"][level]))
        distinct, inverse = np.unique(pairs, axis=0, return_inverse=True)
        codes[level] = len(parents) + inverse.reshape(-1)
        parents += distinct[:, 0].tolist()
        level = np.flatnonzero((codes < 0) & (codes[parent] >= 0))
    return codes, parents


def _energy_outside(
    estimator: EnergyEstimator, spans: SpanColumns, parts: Sequence[SpanColumns]
) -> Energy:
    """Return the energy of the time in spans in which none of their parts was open."""
    whole, *within = (WindowUnion.of(one.windows) for one in (spans, *parts))
    return energy_of_union(estimator, whole.outside(within))


def _by_energy(nodes: Sequence[SpanNode]) -> tuple[SpanNode, ...]:
    """Sort by energy, or by duration if energies are unknown."""
    return tuple(
        sorted(nodes, key=lambda one: (np.nan_to_num(one.total.gross_j), one.total.duration_s))
    )[::-1]
