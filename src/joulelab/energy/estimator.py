"""Energy of spans: a pure function of a trace, the spans' times and a baseline."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from joulelab.energy.attribution import NOT_USED, Attribution, Shares, foreign_gpus
from joulelab.energy.baseline import Baseline
from joulelab.energy.component_use import used_until
from joulelab.energy.energy import ROLES, ComponentEnergy, Energy
from joulelab.energy.incident import Incident, notes_within_spans
from joulelab.energy.incidents import find_incidents, reason_for_absence
from joulelab.energy.nesting import Nesting, may_contain
from joulelab.energy.signal import (
    ChangePoints,
    ComponentCurve,
    Source,
    energy_curve,
    implausible_power_w,
    insufficient_power,
    is_long,
    observed,
    without_glitches,
)
from joulelab.energy.signal.span_energies import SpanEnergies, SpanTimes, span_energies
from joulelab.energy.window_union import WindowUnion
from joulelab.format import percent
from joulelab.recording.span_columns import SpanColumns, Windows
from joulelab.recording.trace import Readings, Trace
from joulelab.recording.trace_spans import TraceSpan, Window
from joulelab.sensors.plausibility import implausible
from joulelab.sensors.sensor import Channel, Quantity

Floats = NDArray[np.float64]

READINGS_AT_A_TIME = 1 << 14
LARGE_CURVE = 1 << 20  # Pieces above which a curve is not cached: it takes 100 MB.
MIN_COVERAGE = 0.5  # A component whose readings cover a smaller share of a span is absent.


class EnergyEstimator:
    """Estimates the energy of any number of spans of one trace.

    Without a baseline (CLOCK_MONOTONIC) idle energy is NaN. At ``change_points_ns`` power may have
    changed, as at the edges of the trace's own spans.

    Example:
        >>> from joulelab.sensors.sensor import Provenance, Reading
        >>> channel = Channel(component="gpu:0", quantity=Quantity.ENERGY, source="counter",
        ...     provenance=Provenance.MEASURED, update_period_s=0.1)
        >>> trace = Trace.of([channel], [Reading(i * 10**8, 0, 30.0 * i) for i in range(100)])
        >>> estimator = EnergyEstimator(trace)
        >>> round(estimator.energies([Window(10**9, 3 * 10**9)])[0].gross_j, 6)
        600.0
    """

    def __init__(
        self,
        trace: Trace,
        baseline: Baseline | None = None,
        change_points_ns: Sequence[int] | NDArray[np.int64] = (),
    ) -> None:
        self.baseline = baseline
        self._trace = trace
        self._incidents = find_incidents(trace)
        self._attribution = Attribution(trace)
        self._left_out = foreign_gpus(trace)
        self._sources: dict[str, list[Source]] = {}
        self._refused: dict[str, list[Incident]] = {}
        self._failures: dict[str, str] = {}
        self._curves: dict[str, ComponentCurve | None] = {}
        usable: list[tuple[Channel, Readings]] = []
        on_host, on_device = _change_points(trace, change_points_ns)
        intervals_s = trace.header.get("intervals_s")
        for _, i in sorted((channel.priority, i) for i, channel in enumerate(trace.channels)):
            channel = trace.channels[i]
            if channel.component in self._left_out:
                usable.append((channel, trace.series[i]))
            elif channel.gives_energy:
                interval_s = intervals_s[i] if intervals_s else channel.update_period_s
                points = on_device if channel.component.startswith("gpu") else on_host
                channel, readings, interval_s = observed(channel, trace.series[i], interval_s)
                reason = _reason_not_to_believe(trace, channel, readings, interval_s)
                if reason:
                    refused = Incident(-math.inf, math.inf, f"{channel.component}: {reason}")
                    self._refused.setdefault(channel.component, []).append(refused)
                    continue
                readings = without_glitches(channel, readings)
                source = Source(channel, readings, interval_s, points)
                self._sources.setdefault(channel.component, []).append(source)
                usable.append((channel, readings))
        for sources in self._sources.values():
            # What slow meters show may have changed their order.
            sources.sort(key=lambda source: source.channel.priority)
        self._nesting = Nesting.of(channel for channel, one in usable if _can_count(channel, one))
        for component in [*self._sources]:
            if may_contain(component) and component not in self._nesting.inside:
                reason = reason_for_absence(trace, self._incidents, component)
            elif (inside := self._inside(component)) and inside <= self._left_out.keys():
                reason = NOT_USED
            else:
                continue
            self._left_out[component] = reason
            del self._sources[component]

    def _inside(self, component: str) -> frozenset[str]:
        return self._nesting.inside.get(component, frozenset())

    @property
    def sources(self) -> dict[str, Channel]:
        """The channel that each component's energy comes from."""
        found = {name: self._curve(name, np.zeros(0)) for name in sorted(self._sources)}
        return {name: one.channel for name, one in found.items() if one}

    def energies(self, windows: Sequence[Window]) -> list[Energy]:
        """Estimate the energy of each span, in the same order."""
        windows = Windows.of(windows)
        return self._totals(windows, [slice(i, i + 1) for i in range(len(windows))])

    def total(self, windows: Sequence[Window]) -> Energy:
        """Add up the energy of spans, like :func:`~joulelab.energy.energy.total` but faster.

        A span that the readings do not cover is a gap in the sum: its energy is that of the power
        around it, with an interval as wide, and a note states how many spans have readings.
        """
        (energy,) = self.totals([windows])
        return energy

    def totals(self, groups: Sequence[Sequence[Window]]) -> list[Energy]:
        """Return :meth:`total` of each of several groups of spans."""
        parts = [Windows.of(one) for one in groups]
        ends = np.cumsum([len(one) for one in parts]).tolist()
        chosen = [slice(end - len(one), end) for one, end in zip(parts, ends, strict=True)]
        return self._totals(Windows.joined(parts), chosen)

    def _totals(self, windows: Windows, chosen: Sequence[slice]) -> list[Energy]:
        """Add up the energy of groups of spans that follow each other."""
        groups = [windows[one] for one in chosen]
        found = [
            _Sums({}, {}, dict.fromkeys(notes_within_spans(self._incidents, one.whole_s())))
            for one in groups
        ]
        reasons: dict[str, str] = {}
        # One component at a time: a million spans take 30 MB for each.
        for every in self._read(windows, reasons):
            for part, sums in zip(map(every.part, chosen), found, strict=True):
                self._add_up(part, sums)
            del every, part
        return [
            self.nested(
                Energy(
                    duration_s=float(np.sum(one.duration_s)),
                    components=sums.components,
                    absent=reasons | sums.absent,
                    notes=tuple(sums.notes),
                )
            )
            for one, sums in zip(groups, found, strict=True)
        ]

    def nested(self, energy: Energy) -> Energy:
        """Move what is not added from the components of an energy to where it belongs."""
        roles: dict[str, Any] = {role: {} for role in ROLES}
        for name, part in energy.components.items():
            roles[self._nesting.role(name)][name] = part
        notes = dict.fromkeys(energy.notes)
        notes |= dict.fromkeys(self._nesting.total_notes(roles["components"]))
        energy = replace(energy, **roles)
        notes |= dict.fromkeys(one.contradiction for one in energy.enclosures)
        return replace(energy, notes=tuple(filter(None, notes)))

    def _add_up(self, spans: _Spans, sums: _Sums) -> None:
        component = spans.channel.component
        if reason := spans.reason_for_absence():
            sums.absent[component] = reason
            return
        sums.components[component] = self._component(spans)
        shares = (self._attribution.note(component, one) for one in spans.shares.examples())
        notes = [*spans.notes(), *spans.coverage_notes(), *filter(None, shares)]
        sums.notes.update(dict.fromkeys([*notes, *self._idle_notes(spans.channel)]))

    def _curve(self, component: str, edges_s: Floats) -> ComponentCurve | None:
        if component not in self._curves:
            sources = self._sources[component]
            try:
                curve = energy_curve(sources, edges_s)
            except (ArithmeticError, ValueError) as error:
                # Absent with a reason is better than the program's end by what numbers do.
                curve = None
                self._failures[component] = f"its readings cannot be integrated: {error}"
            is_large = curve is not None and curve.curve.power_w.size > LARGE_CURVE
            if is_large or any(is_long(source.readings) for source in sources):
                return curve
            self._curves[component] = curve
        return self._curves[component]

    def _read(self, windows: Windows, reasons: dict[str, str]) -> Iterator[_Spans]:
        """Read the energy of the spans off each component's curve; add why others have none."""
        reasons |= {absence.component: absence.brief for absence in self._trace.absent}
        for name, refused in self._refused.items():
            reasons[name] = "; ".join(one.text.removeprefix(f"{name}: ") for one in refused)
        reasons |= self._left_out
        on_host = SpanTimes(windows.seconds("host"))
        for component in sorted(self._sources):
            on_device = component.startswith("gpu") and windows.device is not None
            times = on_host
            if on_device:
                times = SpanTimes(windows.seconds(component), windows.device_uncertainty_s)
            spans = self._spans_of(component, times, reasons)
            if spans is not None:
                yield spans
            # Not while the next component is read.
            del spans

    def _spans_of(self, component: str, times: SpanTimes, reasons: dict[str, str]) -> _Spans | None:
        curve_of = functools.partial(self._curve, component)
        found = span_energies(self._sources[component], curve_of, times)
        if found is None:
            reasons[component] = self._failures.get(component) or reason_for_absence(
                self._trace, self._incidents, component
            )
            return None
        # One source was absent, but another gave readings.
        reasons.pop(component, None)
        reasons.pop(component.partition(":")[0], None)
        if not len(times):
            return None
        curve, energies = found
        shares = self._attribution.shares(component, times.times_s)
        incidents = [*self._refused.get(component, ()), *curve.incidents]
        return _Spans(curve.channel, times.times_s, energies, shares, incidents)

    def _component(self, spans: _Spans) -> ComponentEnergy:
        """Add up: gain, offset and baseline are one error in all spans, edges are independent."""
        channel = spans.channel
        idle_j, idle_uncertainty_j = math.nan, 0.0
        if self.baseline is not None:
            middle_s = (spans.times_s[:, 0] + spans.times_s[:, 1]) / 2
            idle_w, off_w = self.baseline.powers(channel.component, channel.source, middle_s)
            idle_j = float(np.sum(idle_w * spans.duration_s))
            idle_uncertainty_j = float(np.sum(np.nan_to_num(off_w * spans.duration_s)))
        return ComponentEnergy(
            component=channel.component,
            source=channel.source,
            provenance=channel.provenance,
            duration_s=float(np.sum(spans.duration_s)),
            gross_j=float(np.sum(spans.energies.gross_j)),
            idle_j=idle_j,
            gain_uncertainty=channel.gain_uncertainty,
            offset_uncertainty_w=channel.offset_uncertainty_w,
            edge_uncertainty_j=math.sqrt(np.sum(spans.energies.uncertainty_j**2)),
            idle_uncertainty_j=idle_uncertainty_j,
            gap_s=float(np.sum(spans.energies.gap_s + spans.energies.unread_s)),
            share=spans.shares.combined(spans.energies.gross_j),
            contains=tuple(sorted(self._inside(channel.component))),
        )

    def _idle_notes(self, channel: Channel) -> list[str]:
        """Return why a component's idle power is doubtful; nothing if it is not."""
        return self.baseline.notes(channel.component, channel.source) if self.baseline else []


class _Sums(NamedTuple):
    """What is known of a group of spans, by component."""

    components: dict[str, ComponentEnergy]
    absent: dict[str, str]
    notes: dict[str, None]


class _Spans(NamedTuple):
    """The energy of spans by one component's readings. Shapes: (spans,), times (spans, 2)."""

    channel: Channel
    times_s: Floats
    energies: SpanEnergies
    shares: Shares
    incidents: Sequence[Incident]  # What was found about the component's sources.

    def part(self, chosen: slice) -> _Spans:
        """Select spans that follow each other."""
        return self._replace(
            times_s=self.times_s[chosen],
            energies=SpanEnergies(*(column[chosen] for column in self.energies)),
            shares=self.shares[chosen],
        )

    @property
    def duration_s(self) -> Floats:
        """Length of each span on the component's clock."""
        return self.times_s[:, 1] - self.times_s[:, 0]

    def reason_for_absence(self) -> str:
        """Return why the spans have no energy; empty if the readings cover enough of them."""
        duration_s, gap_s = self.duration_s.sum(), self.energies.gap_s.sum()
        if self.energies.gross_j.sum() < 0:
            return f"{self.channel.source} has negative readings"
        if duration_s <= 0 or gap_s <= (1 - MIN_COVERAGE) * duration_s:
            return ""
        covered = percent(max(1 - float(gap_s / duration_s), 0.0), 1)
        spans = "the span" if self.energies.gap_s.size == 1 else "the spans"
        return f"{self.channel.source} covers only {covered} of {spans}"

    def coverage_notes(self) -> list[str]:
        """Return how many spans have readings, if some have none."""
        duration_s = self.duration_s
        uncovered = (duration_s > 0) & (self.energies.gap_s > (1 - MIN_COVERAGE) * duration_s)
        missing, n = int(np.count_nonzero(uncovered)), self.energies.gap_s.size
        if not missing:
            return []
        return [
            f"{self.channel.component}: {n - missing} of {n} spans have readings; the others are "
            "estimated from the power around them (included in the interval)"
        ]

    def notes(self) -> tuple[str, ...]:
        """Return what was found about the sources within the spans."""
        return notes_within_spans(self.incidents, self.times_s)


def _reason_not_to_believe(
    trace: Trace, channel: Channel, readings: Readings, interval_s: float
) -> str:
    """Return why a source reports what its component cannot draw; empty if it may be right."""
    power_w = implausible_power_w(channel, readings, interval_s)
    if power_w is not None:
        return implausible(channel, power_w)
    used = used_until(trace, channel.component) if channel.least_use_w else None
    found = used and insufficient_power(channel, readings, interval_s, used)
    return implausible(channel, *found) if found else ""


def _can_count(channel: Channel, readings: Readings) -> bool:
    """Report whether a channel has readings: two, if it may take the place of what it contains."""
    if not channel.gives_energy:
        return False
    found, least = 0, 2 if may_contain(channel.component) else 1
    for first in range(0, readings.value.size, READINGS_AT_A_TIME):
        some = readings.value[first : first + READINGS_AT_A_TIME]
        found += int(np.count_nonzero(np.isfinite(some)))
        if found >= least:
            return True
    return False


def _change_points(
    trace: Trace, further_ns: Sequence[int] | NDArray[np.int64]
) -> tuple[ChangePoints, ChangePoints]:
    """Return the edges of a trace's spans on the host, and on the GPU."""
    spans = SpanColumns.of(trace.spans)
    further_s = np.asarray(further_ns, dtype=np.float64) * 1e-9
    is_open = ~spans.is_finished

    def points(component: str) -> ChangePoints:
        edges_s = spans.windows.seconds(component)
        edges_s[is_open, 1] = math.nan
        return ChangePoints.of_spans(spans.names, spans.spans["name"], edges_s, further_s)

    on_host = points("host")
    return on_host, on_host if spans.device is None else points("gpu")


def energies_of(trace: Trace, windows: Sequence[Window]) -> list[Energy]:
    """Estimate the energy of spans that the trace itself does not have, on its clock."""
    edges_ns = [edge for one in windows for edge in (one.start_ns, one.stop_ns)]
    return EnergyEstimator(trace, change_points_ns=edges_ns).energies(windows)


def energy_of_spans(estimator: EnergyEstimator, spans: Sequence[TraceSpan]) -> Energy:
    """Add up the energy of finished spans. Time in several of them counts once."""
    (energy,) = energies_of_spans(estimator, [spans])
    return energy


def energies_of_spans(
    estimator: EnergyEstimator, groups: Iterable[Sequence[TraceSpan]]
) -> list[Energy]:
    """Return :func:`energy_of_spans` of each of several groups."""
    return totals_of(estimator, [SpanColumns.of(one).windows.compact() for one in groups])


def totals_of(estimator: EnergyEstimator, groups: Sequence[Windows]) -> list[Energy]:
    """Add up the energy of each of several groups. Time in several windows of one counts once.

    Windows overlap if they are of threads or processes, or within each other.
    """
    are_apart = [one.are_apart for one in groups]
    apart = [one for one, is_apart in zip(groups, are_apart, strict=True) if is_apart]
    totals = iter(estimator.totals(apart))
    return [
        next(totals) if is_apart else energy_of_union(estimator, WindowUnion.of(one))
        for one, is_apart in zip(groups, are_apart, strict=True)
    ]


def energy_of_union(estimator: EnergyEstimator, union: WindowUnion) -> Energy:
    """Return the energy of a union: GPUs by its device times, all else by the host's."""
    on_host = estimator.total(Windows(union.host[:, 0], union.host[:, 1]))
    uncertainty_ns = union.device_uncertainty_ns
    if np.array_equal(union.host, union.device) and uncertainty_ns == 0:
        return on_host
    uncertainties = np.full(len(union.device), uncertainty_ns)
    device = np.column_stack((union.device, uncertainties))
    on_device = estimator.total(Windows(union.device[:, 0], union.device[:, 1], device))
    parts = {
        name: part
        for energy, gpus in ((on_host, False), (on_device, True))
        for name, part in energy.all_parts.items()
        if name.startswith("gpu") is gpus
    }
    absent = {**on_host.absent, **on_device.absent}
    energy = replace(
        on_host,
        components=dict(sorted(parts.items())),
        absent={name: why for name, why in absent.items() if name not in parts},
        notes=tuple(dict.fromkeys((*on_host.notes, *on_device.notes))),
    )
    return estimator.nested(energy)


def mean_reading(
    trace: Trace, component: str, quantity: Quantity, windows: Sequence[Window]
) -> float:
    """Return the mean of a quantity's readings within spans; NaN if there are none."""
    for i, channel in enumerate(trace.channels):
        if (channel.component, channel.quantity) != (component, quantity):
            continue
        t_ns, value = trace.series[i]
        inside = np.zeros(t_ns.size, dtype=bool)
        for one in windows:
            inside |= (t_ns >= one.start_ns) & (t_ns <= one.stop_ns) & np.isfinite(value)
        if inside.any():
            return float(value[inside].mean())
    return math.nan
