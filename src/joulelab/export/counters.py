"""Counters of energy that only grow, from a trace that grows.

What lies a few seconds behind the latest reading is settled: it is added up and not read again.
Both sides of a settled edge see the same readings, so stretches add up to the energy of the whole.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from joulelab.energy.energy import ComponentEnergy, Energy, sensor_of
from joulelab.energy.estimator import EnergyEstimator
from joulelab.energy.nesting import Nesting
from joulelab.export.span_counters import SpanCounters, SpanPart
from joulelab.recording.trace import Timestamps, Trace, TraceReader
from joulelab.recording.trace_spans import Window
from joulelab.sensors.sensor import Provenance
from joulelab.watch.follower import LOST_INTERVALS, LOST_S, MARGIN_NS, NOW_S

SETTLE_NS = 30 * 10**9
"""A stretch is settled when it is as long as this."""
LONGEST_NS = 900 * 10**9
"""Longest stretch that one update reads, of a recording that began long before."""
RECENT_NS = 5 * 10**9
"""Sensors with a younger reading are integrated up to one common time, that of the latest."""
PROCESS_EVENTS = frozenset({"joined", "left", "cuda"})
"""Events that state which GPUs a job uses; they count for the whole recording."""
ALWAYS_NS = 1 << 62
"""Later than any reading."""

Role = Literal["part", "enclosing", "enclosed"]
"""Parts add up to the machine. An enclosing meter includes parts, and a part includes what is
enclosed (:mod:`joulelab.energy.nesting`)."""
ROLES: Mapping[str, Role] = {
    "components": "part",
    "enclosing": "enclosing",
    "enclosed": "enclosed",
}
"""The role of each field of an energy."""
Edges = tuple[int, int]


class Key(NamedTuple):
    """What one counter counts: the energy of a component from one sensor, in one role."""

    component: str
    role: Role
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
    """Counts the energy of each component, and of the spans of each name, since a time.

    Args:
        start_ns: Since when, CLOCK_MONOTONIC.
        most_span_names: Number of names of spans that are counted by themselves; with 0, spans are
            not counted.

    Attributes:
        is_behind: Whether a part of the recording is still to be read; nothing is shown until then.
        is_complete: Whether the recording has ended.
        slowest_ns: The time of two readings of the slowest sensor.
        is_up: Whether the sensors of each component answer.
        errors: Number of failed readings by component and source.
    """

    def __init__(self, start_ns: int, *, most_span_names: int = 0) -> None:
        self._start_ns = self._newest_ns = self._span_edge_ns = start_ns
        self._edges_ns: dict[str, int] = {}
        self._totals: dict[Key, _Total] = {}
        self._spans = SpanCounters(start_ns, most_span_names) if most_span_names else None
        self._events: list[Mapping[str, Any]] = []
        self._powers_w: dict[Key, float] = {}
        self._seen: set[str] = set()
        self._nesting = Nesting.of(())
        self.slowest_ns = 0
        self.is_behind, self.is_complete = True, False
        self.is_up: dict[str, bool] = {}
        self.errors: Counter[tuple[str, str]] = Counter()

    def attach(self, reader: TraceReader, since_ns: int | None = None) -> None:
        """Follow a trace: the first, or another from ``since_ns`` on, when its recording began."""
        if self._spans is not None:
            reader.spans = self._spans.fold
        self._events = []
        if since_ns is not None:
            self._newest_ns = self._span_edge_ns = since_ns
            self._edges_ns = dict.fromkeys(self._edges_ns, since_ns)
            self._seen.clear()

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

    @property
    def margin_ns(self) -> int:
        """How much more than a stretch is read before and after it."""
        return max(MARGIN_NS, self.slowest_ns)

    def lose(self) -> None:
        """Note that nothing is recorded any more, and keep what was counted."""
        self._powers_w = {}
        self.is_up = dict.fromkeys(self.is_up, False)
        for total in self._totals.values():
            total.keep()

    def update(self, reader: TraceReader, now_ns: int, *, settle_ns: int | None = None) -> None:
        """Count up to the latest readings, or up to now if they are later.

        Args:
            reader: The trace that was attached.
            now_ns: A sensor whose latest reading is much older has stopped answering.
            settle_ns: Settle everything up to this time, from which on another trace is read.
        """
        events = reader.new_events()
        self._events += events
        self.is_complete |= any(one.get("event") == "stop" for one in events)
        newest_ns = reader.latest_ns()
        if self.is_complete:
            # At its end, all sensors answered.
            now_ns = min(now_ns, newest_ns)
        timings = _timings(reader.read_between(ALWAYS_NS, ALWAYS_NS))
        tail_ns = max((MARGIN_NS, *(one.patience_ns for one in timings.values())))
        self.slowest_ns = max((one.current_ns for one in timings.values()), default=0)
        tail = self._read(reader, min(newest_ns - tail_ns, self._newest_ns), newest_ns)
        self._count_errors(tail)
        self._newest_ns = max(newest_ns, self._newest_ns)
        times_ns = _times_ns(tail)
        latest_ns = {name: int(t_ns[-1]) for name, t_ns in times_ns.items() if t_ns.size}
        recent_ns = [t_ns for t_ns in latest_ns.values() if now_ns - t_ns <= RECENT_NS]
        common_ns = min([*recent_ns, now_ns]) if recent_ns else 0
        plans, self.is_behind = [], False
        for name, timing in timings.items():
            is_up = now_ns - latest_ns.get(name, 0) <= timing.patience_ns
            if is_up:
                is_recent = now_ns - latest_ns[name] <= RECENT_NS
                until_ns = common_ns if is_recent else latest_ns[name]
                plans.append(self._plan(name, times_ns[name], until_ns, timing, settle_ns))
            elif self.is_up.get(name) and latest_ns.get(name, 0) > self._edges_ns[name]:
                # What was read before the sensor was lost.
                plans.append(_Plan(name, [(self._edges_ns[name], latest_ns[name])]))
            self.is_up[name] = is_up
        self._note_nesting(tail, latest_ns)
        self._powers_w = {}
        if plans:
            self._measure(reader, plans, common_ns, settle_ns)
        oldest_ns = min([self._span_edge_ns, *self._edges_ns.values()]) - self.margin_ns
        self._events = [
            one
            for one in self._events
            if one.get("event") in PROCESS_EVENTS or one.get("t_ns", 0) >= oldest_ns
        ]

    def _read(self, reader: TraceReader, start_ns: int, stop_ns: int) -> Trace:
        start_ns, stop_ns = start_ns - self.margin_ns, stop_ns + self.margin_ns
        return reader.read_between(start_ns, stop_ns, self._events)

    def _count_errors(self, tail: Trace) -> None:
        for channel, readings in zip(tail.channels, tail.series, strict=True):
            new = readings.value[np.searchsorted(readings.t_ns, self._newest_ns, "right") :]
            if failed := int(np.count_nonzero(np.isnan(new))):
                self.errors[channel.component, channel.source] += failed

    def _note_nesting(self, trace: Trace, answering: Iterable[str]) -> None:
        """Decide what is added. That holds for a recording: what is lost stays a part."""
        if not self._seen.issuperset(answering):
            self._seen.update(answering)
            self._nesting = Nesting.of(
                one for one in trace.channels if one.gives_energy and one.component in self._seen
            )

    def _plan(
        self, name: str, t_ns: Timestamps, latest_ns: int, timing: _Timing, settle_ns: int | None
    ) -> _Plan:
        """Plan what to measure of a component whose sensor answers."""
        edge_ns = self._edges_ns.setdefault(name, self._start_ns)
        settled = []
        if self.is_up.get(name) is False:
            # A counter knows the energy of the time without readings; others do not.
            later_ns = t_ns[np.searchsorted(t_ns, edge_ns, "right") :]
            first_ns = int(later_ns[0]) if later_ns.size else edge_ns
            if 0 < first_ns - edge_ns <= LONGEST_NS:
                settled.append((edge_ns, first_ns))
            edge_ns = first_ns
        until_ns = min(latest_ns, edge_ns + LONGEST_NS)
        self.is_behind |= until_ns < latest_ns
        if (settled_ns := _settled_until_ns(edge_ns, until_ns, settle_ns)) > edge_ns:
            settled.append((edge_ns, settled_ns))
        live = max(edge_ns, settled_ns), max(until_ns, edge_ns, settled_ns)
        current = max(until_ns - timing.current_ns, self._start_ns), until_ns
        return _Plan(name, settled, live, current)

    def _measure(
        self, reader: TraceReader, plans: Sequence[_Plan], common_ns: int, settle_ns: int | None
    ) -> None:
        """Measure what was planned, and the spans up to the time that all fast sensors reached."""
        start_ns = self._span_edge_ns
        until_ns = max(start_ns, min(common_ns, start_ns + LONGEST_NS))
        settled_ns = max(start_ns, _settled_until_ns(start_ns, until_ns, settle_ns))
        until_ns = max(until_ns, settled_ns)
        spans = [] if self._spans is None else self._spans.plan(start_ns, settled_ns, until_ns)
        edges = list(dict.fromkeys(one for plan in plans for one in plan.edges()))
        groups = [[Window(*one)] for one in edges] + [one.windows for one in spans]
        starts_ns, stops_ns = zip(*edges, (start_ns, until_ns), strict=True)
        points_ns = [
            points for one in spans for points in (one.windows.start_ns, one.windows.stop_ns)
        ]
        estimator = EnergyEstimator(
            self._read(reader, min(starts_ns), max(stops_ns)),
            change_points_ns=np.concatenate(points_ns) if points_ns else (),
        )
        energies = estimator.totals(groups)
        for plan in plans:
            self._apply(plan, dict(zip(edges, energies, strict=False)))
        if self._spans is not None:
            self._spans.count(spans, energies[len(edges) :], self._nesting.added)
            self._spans.forget(settled_ns)
        self._span_edge_ns = settled_ns

    def _apply(self, plan: _Plan, energies: Mapping[Edges, Energy]) -> None:
        name = plan.component
        for one in plan.settled:
            self._edges_ns[name] = one[1]
            if (part := energies[one].all_parts.get(name)) is not None:
                self._total(part).settle(part)
        if plan.live is None or plan.current is None:
            return
        part = energies[plan.live].all_parts.get(name)
        current = energies[plan.current].all_parts.get(name)
        if part is not None:
            self._total(part).show(part)
            self._powers_w[self._key(part)] = math.nan if current is None else current.mean_power_w

    def _total(self, part: ComponentEnergy) -> _Total:
        return self._totals.setdefault(self._key(part), _Total())

    def _key(self, part: ComponentEnergy) -> Key:
        role = ROLES[self._nesting.role(part.component)]
        return Key(part.component, role, sensor_of(part.source), part.provenance)


class _Total:
    """What is settled of a component's energy, and the most that was ever shown."""

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

    def settle(self, part: ComponentEnergy) -> None:
        """Add a part that will not be measured again."""
        self.show(part)
        self.keep()

    def keep(self) -> None:
        """Settle what was shown last."""
        self._settled = self._latest


class _Plan(NamedTuple):
    """What to measure of a component: stretches to settle, the stretch after them, the power."""

    component: str
    settled: Sequence[Edges]
    live: Edges | None = None
    current: Edges | None = None

    def edges(self) -> Iterator[Edges]:
        """Return the edges of all stretches."""
        yield from self.settled
        yield from filter(None, (self.live, self.current))


class _Timing(NamedTuple):
    """How long a component may be silent, and the time of which its current power is the mean."""

    patience_ns: int
    current_ns: int


def _timings(trace: Trace) -> dict[str, _Timing]:
    found: dict[str, _Timing] = {}
    intervals_s = trace.header.get("intervals_s") or [one.update_period_s for one in trace.channels]
    for channel, interval_s in zip(trace.channels, intervals_s, strict=True):
        if not channel.gives_energy:
            continue
        patience_s = max(LOST_S, LOST_INTERVALS * max(interval_s, channel.update_period_s))
        current_s = max(NOW_S, 2 * max(interval_s * channel.polled, channel.update_period_s))
        before = found.get(channel.component, _Timing(0, 0))
        found[channel.component] = _Timing(
            max(before.patience_ns, round(patience_s * 1e9)),
            max(before.current_ns, round(current_s * 1e9)),
        )
    return found


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
