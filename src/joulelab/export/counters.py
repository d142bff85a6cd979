"""Counters of energy that only grow, from a trace that grows.

What lies a few seconds behind the latest reading is settled: it is added up and not read again.
Both sides of a settled edge see the same readings, so stretches add up to the energy of the whole.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from joulelab.energy.energy import ComponentEnergy, Energy, sensor_of
from joulelab.energy.estimator import EnergyEstimator
from joulelab.energy.nesting import Nesting
from joulelab.export.span_counters import SpanCounters, SpanPart
from joulelab.recording.span_columns import Windows
from joulelab.recording.trace import Timestamps, Trace
from joulelab.recording.trace_spans import Window
from joulelab.sensors.sensor import Provenance
from joulelab.watch.follower import MARGIN_NS, TraceFollower

SETTLE_NS = 30 * 10**9
"""A stretch is settled when it is as long as this."""
LONGEST_NS = 900 * 10**9
"""Longest stretch that one update reads, of a recording that began long before."""
RECENT_NS = 5 * 10**9
"""Sensors with a younger reading are integrated up to one common time, that of the latest."""

Edges = tuple[int, int]


class Key(NamedTuple):
    """What one counter counts: the energy of a component from one sensor, in one role.

    Parts add up to the machine. An ``"enclosing"`` meter includes parts, and a part includes what
    is ``"enclosed"`` (:mod:`joulelab.energy.nesting`).
    """

    component: str
    role: str
    source: str
    provenance: Provenance


@dataclass(frozen=True, slots=True)
class Part:
    """Energy and power of a component whose sensor answers. Unknown values are NaN.

    ``uncertainty`` is half the width of the 95 % interval over the energy.
    """

    key: Key
    energy_j: float
    uncertainty: float
    power_w: float


class EnergyCounters:
    """Counts the energy of each component of a trace, and of the spans of each name.

    Args:
        trace: Where the readings are.
        start_ns: Since when, CLOCK_MONOTONIC.
        most_span_names: Number of names of spans that are counted by themselves; with 0, spans are
            not counted.
        after: Counters of an earlier trace, which go on in this one.

    Attributes:
        is_behind: Whether a part of the recording is still to be read; nothing is shown until then.
        is_up: Whether the sensors of each component answer.
        errors: Number of failed readings by component and source.
        margin_ns: How much more than a stretch is read before and after it.
    """

    def __init__(
        self,
        trace: TraceFollower,
        start_ns: int,
        *,
        most_span_names: int = 0,
        after: EnergyCounters | None = None,
    ) -> None:
        self._trace, self._start_ns, self._newest_ns = trace, start_ns, start_ns
        self._timings = trace.energy_timings()
        self.slowest_ns = max((one.current_ns for one in self._timings.values()), default=0)
        self.margin_ns = max(MARGIN_NS, self.slowest_ns)
        self._spans: SpanCounters | None = None
        if most_span_names:
            self._spans = SpanCounters(start_ns, most_span_names)
            trace.spans = self._spans.fold
        self._edges_ns = dict.fromkeys(self._timings, start_ns)
        self._totals: dict[Key, _Total] = {} if after is None else after._totals
        self._powers_w: dict[Key, float] = {}
        self._seen: set[str] = set()
        self._nesting = Nesting.of(())
        self.is_behind = True
        self.is_up: dict[str, bool] = {} if after is None else after.is_up
        self.errors: Counter[tuple[str, str]] = Counter() if after is None else after.errors

    @property
    def is_complete(self) -> bool:
        """Whether the recording has ended."""
        return self._trace.stop is not None

    @property
    def parts(self) -> list[Part]:
        """The components that are measured now."""
        shown = () if self.is_behind else sorted(self._powers_w.items())
        return [
            Part(key, self._totals[key].energy_j, self._totals[key].uncertainty, power_w)
            for key, power_w in shown
        ]

    @property
    def is_measured(self) -> dict[str, bool]:
        """Whether each component is measured now: its sensor answers, and not with nonsense."""
        measured = {part.key.component for part in self.parts}
        return {name: name in measured for name in self.is_up}

    @property
    def spans(self) -> list[SpanPart]:
        """The spans so far, by name."""
        return [] if self._spans is None or self.is_behind else self._spans.parts()

    @property
    def total_j(self) -> float:
        """Energy of all parts since the start, without enclosing meters; it never decreases."""
        return math.fsum(one.energy_j for key, one in self._totals.items() if key.role == "part")

    def lose(self) -> None:
        """Note that nothing is recorded any more, and keep what was counted."""
        self._powers_w = {}
        self.is_up = dict.fromkeys(self.is_up, False)
        for total in self._totals.values():
            total.keep()

    def update(self, now_ns: int, *, settle_ns: int | None = None) -> None:
        """Count up to the latest readings, or up to now if they are later.

        Args:
            now_ns: A sensor whose latest reading is much older has stopped answering.
            settle_ns: Settle everything up to this time, from which on another trace is read.
        """
        self._trace.read_events()
        newest_ns = self._trace.latest_ns()
        if self.is_complete:
            # At its end, all sensors answered.
            now_ns = min(now_ns, newest_ns)
        tail_ns = max((MARGIN_NS, *(one.patience_ns for one in self._timings.values())))
        tail = self._read(min(newest_ns - tail_ns, self._newest_ns), newest_ns)
        self._count_errors(tail)
        self._newest_ns = max(newest_ns, self._newest_ns)
        times_ns = _times_ns(tail)
        self._note_nesting(tail, {name for name, t_ns in times_ns.items() if t_ns.size})
        latest_ns = [int(t_ns[-1]) for t_ns in times_ns.values() if t_ns.size]
        recent_ns = [t_ns for t_ns in latest_ns if now_ns - t_ns <= RECENT_NS]
        common_ns = min([*recent_ns, now_ns]) if recent_ns else 0
        self.is_behind = False
        plans = [
            self._plan(name, t_ns, now_ns, common_ns, settle_ns) for name, t_ns in times_ns.items()
        ]
        self._powers_w = {}
        self._measure(plans, common_ns, settle_ns)
        self._trace.forget_events(self._needed_ns() - self.margin_ns)

    def _needed_ns(self) -> int:
        """Return since when stretches may still be read."""
        # Of a sensor that is lost for longer than this, nothing before its return is read.
        oldest_ns = self._newest_ns - LONGEST_NS
        edges_ns = [
            edge_ns if self.is_up[name] else max(edge_ns, oldest_ns)
            for name, edge_ns in self._edges_ns.items()
        ]
        if self._spans is not None:
            edges_ns.append(self._spans.edge_ns)
        return min(edges_ns, default=0)

    def _read(self, start_ns: int, stop_ns: int) -> Trace:
        return self._trace.stretch(start_ns, stop_ns, margin_ns=self.margin_ns)

    def _count_errors(self, tail: Trace) -> None:
        for channel, readings in zip(tail.channels, tail.series, strict=True):
            new = readings.value[np.searchsorted(readings.t_ns, self._newest_ns, "right") :]
            if failed := int(np.count_nonzero(np.isnan(new))):
                self.errors[channel.component, channel.source] += failed

    def _note_nesting(self, tail: Trace, answering: set[str]) -> None:
        """Decide which components are added. Those that are lost later remain parts."""
        if not answering <= self._seen:
            self._seen |= answering
            self._nesting = Nesting.of(
                one for one in tail.channels if one.gives_energy and one.component in self._seen
            )

    def _plan(
        self, name: str, t_ns: Timestamps, now_ns: int, common_ns: int, settle_ns: int | None
    ) -> _Plan:
        """Plan what to measure of a component, from the times of its readings."""
        timing, edge_ns = self._timings[name], self._edges_ns[name]
        latest_ns = int(t_ns[-1]) if t_ns.size else 0
        was_up = self.is_up.get(name)
        self.is_up[name] = t_ns.size > 0 and now_ns - latest_ns <= timing.patience_ns
        if not self.is_up[name]:
            # What was read before the sensor was lost.
            return _Plan(name, [(edge_ns, latest_ns)] if was_up and latest_ns > edge_ns else [])
        settled = []
        if was_up is False:
            # A counter knows the energy of the time without readings; others do not.
            later_ns = t_ns[np.searchsorted(t_ns, edge_ns, "right") :]
            first_ns = int(later_ns[0]) if later_ns.size else edge_ns
            if 0 < first_ns - edge_ns <= LONGEST_NS:
                settled.append((edge_ns, first_ns))
            edge_ns = first_ns
        if now_ns - latest_ns <= RECENT_NS:
            latest_ns = common_ns
        until_ns = min(latest_ns, edge_ns + LONGEST_NS)
        self.is_behind |= until_ns < latest_ns
        if (settled_ns := _settled_until_ns(edge_ns, until_ns, settle_ns)) > edge_ns:
            settled.append((edge_ns, settled_ns))
        live = max(edge_ns, settled_ns), max(until_ns, edge_ns, settled_ns)
        # At first, and after a loss, power is that since the first reading.
        since_ns = max(until_ns - timing.current_ns, self._start_ns, int(t_ns[0]))
        return _Plan(name, settled, live, current=(min(since_ns, until_ns), until_ns))

    def _measure(self, plans: Sequence[_Plan], common_ns: int, settle_ns: int | None) -> None:
        """Measure what was planned, and the spans up to the time that all fast sensors reached."""
        edges = list(dict.fromkeys(one for plan in plans for one in plan.edges()))
        if not edges:
            return
        ranges, stretches, settled_ns = edges, [], 0
        if self._spans is not None:
            start_ns = self._spans.edge_ns
            until_ns = max(start_ns, min(common_ns, start_ns + LONGEST_NS))
            settled_ns = max(start_ns, _settled_until_ns(start_ns, until_ns, settle_ns))
            stretches = self._spans.plan(settled_ns, max(until_ns, settled_ns))
            ranges = [*edges, (start_ns, max(until_ns, settled_ns))]
        starts_ns, stops_ns = zip(*ranges, strict=True)
        windows = [one.windows for one in stretches]
        of_spans = Windows.joined(windows)
        estimator = EnergyEstimator(
            self._read(min(starts_ns), max(stops_ns)),
            change_points_ns=np.concatenate((of_spans.start_ns, of_spans.stop_ns)),
        )
        energies = estimator.totals([*([Window(*one)] for one in edges), *windows])
        found = dict(zip(edges, energies, strict=False))
        for plan in plans:
            self._count(plan, found)
        if self._spans is not None:
            self._spans.count(stretches, energies[len(edges) :], self._nesting.added)
            self._spans.settle(settled_ns)

    def _count(self, plan: _Plan, energies: Mapping[Edges, Energy]) -> None:
        for one in plan.settled:
            self._edges_ns[plan.component] = one[1]
            if (part := energies[one].all_parts.get(plan.component)) is not None:
                total = self._totals.setdefault(self._key(part), _Total())
                total.show(part)
                total.keep()
        if plan.live is None or plan.current is None:
            return
        part = energies[plan.live].all_parts.get(plan.component)
        current = energies[plan.current].all_parts.get(plan.component)
        if part is not None:
            key = self._key(part)
            self._totals.setdefault(key, _Total()).show(part)
            self._powers_w[key] = math.nan if current is None else current.mean_power_w

    def _key(self, part: ComponentEnergy) -> Key:
        field = self._nesting.role(part.component)
        role = "part" if field == "components" else field
        return Key(part.component, role, sensor_of(part.source), part.provenance)


class _Total:
    """A component's settled energy, and the largest energy that was shown."""

    def __init__(self) -> None:
        self._settled: ComponentEnergy | None = None
        self._latest: ComponentEnergy | None = None
        self.energy_j, self.uncertainty = 0.0, math.nan

    def show(self, part: ComponentEnergy) -> None:
        """Show the energy with a part that is not settled; later readings may lower that part."""
        self._latest = total = part if self._settled is None else self._settled + part
        self.energy_j = max(self.energy_j, total.gross_j)
        half_j = total.interval_j[1] - total.gross_j
        self.uncertainty = half_j / total.gross_j if total.gross_j > 0 else math.nan

    def keep(self) -> None:
        """Settle what was shown last: it will not be measured again."""
        self._settled = self._latest


class _Plan(NamedTuple):
    """Stretches of a component to measure: to settle, since then, and for the current power."""

    component: str
    settled: Sequence[Edges]
    live: Edges | None = None
    current: Edges | None = None

    def edges(self) -> Iterator[Edges]:
        """Return the edges of all stretches."""
        yield from self.settled
        yield from filter(None, (self.live, self.current))


def _times_ns(trace: Trace) -> dict[str, Timestamps]:
    """Return the times of the readings of each component, by the sensor that has the latest."""
    found: dict[str, Timestamps] = {}
    for channel, readings in zip(trace.channels, trace.series, strict=True):
        if channel.gives_energy:
            t_ns = readings.t_ns[np.isfinite(readings.value)]
            before = found.get(channel.component)
            if before is None or (t_ns.size and (not before.size or t_ns[-1] > before[-1])):
                found[channel.component] = t_ns
    return found


def _settled_until_ns(edge_ns: int, until_ns: int, settle_ns: int | None) -> int:
    """Return the time up to which a stretch is settled; its beginning if it is too short."""
    if settle_ns is not None:
        return settle_ns
    return until_ns - MARGIN_NS if until_ns - MARGIN_NS - edge_ns >= SETTLE_NS else edge_ns
