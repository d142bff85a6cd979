"""Energy of spans: a pure function of a trace, the spans' times and a baseline."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from joulelab.energy.attribution import Attribution, Share, combine_shares, foreign_gpus
from joulelab.energy.baseline import Baseline
from joulelab.energy.energy import ComponentEnergy, Energy
from joulelab.energy.incident import Incident, notes_within
from joulelab.energy.incidents import find_incidents, reason_for_absence
from joulelab.energy.signal import (
    ChangePoints,
    ComponentCurve,
    EnergyCurve,
    Source,
    energy_curve,
    implausible_power_w,
    is_long,
    without_glitches,
)
from joulelab.format import percent
from joulelab.recording.trace import Trace
from joulelab.recording.trace_spans import TraceSpan, Window
from joulelab.sensors.plausibility import implausible
from joulelab.sensors.sensor import Channel, Quantity

Floats = NDArray[np.float64]
TimeRanges = NDArray[np.int64]

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
        self._foreign_gpus = foreign_gpus(trace)
        self._sources: dict[str, list[Source]] = {}
        self._refused: dict[str, list[Incident]] = {}
        self._failures: dict[str, str] = {}
        self._curves: dict[str, ComponentCurve | None] = {}
        on_host, on_device = _change_points(trace, change_points_ns)
        intervals_s = trace.header.get("intervals_s")
        for _, i in sorted((channel.priority, i) for i, channel in enumerate(trace.channels)):
            channel = trace.channels[i]
            if channel.gives_energy and channel.component not in self._foreign_gpus:
                interval_s = intervals_s[i] if intervals_s else channel.update_period_s
                points = on_device if channel.component.startswith("gpu") else on_host
                power_w = implausible_power_w(channel, trace.series[i], interval_s)
                if power_w is not None:
                    text = f"{channel.component}: {implausible(channel, power_w)}"
                    refused = Incident(-math.inf, math.inf, text)
                    self._refused.setdefault(channel.component, []).append(refused)
                    continue
                readings = without_glitches(channel, trace.series[i])
                source = Source(channel, readings, interval_s, points)
                self._sources.setdefault(channel.component, []).append(source)

    @property
    def sources(self) -> dict[str, Channel]:
        """The channel that each component's energy comes from."""
        found = {name: self._curve(name, np.zeros(0)) for name in sorted(self._sources)}
        return {name: one.channel for name, one in found.items() if one}

    def energies(self, windows: Sequence[Window]) -> list[Energy]:
        """Estimate the energy of each span, in the same order."""
        readings, reasons = self._read(windows)
        components: list[dict[str, ComponentEnergy]] = [{} for _ in windows]
        absent = [dict(reasons) for _ in windows]
        notes = [dict.fromkeys(notes_within(self._incidents, *one.whole())) for one in windows]
        for one in readings:
            component = one.channel.component
            for i, uncovered in enumerate(one.uncovered.tolist()):
                if uncovered:
                    absent[i][component] = one.reason_for_absence(slice(i, i + 1))
                    continue
                components[i][component] = self._component(one, slice(i, i + 1))
                share_note = self._attribution.note(component, one.shares[i])
                found = (*one.notes(slice(i, i + 1)), share_note, self._idle_note(one.channel))
                notes[i] |= dict.fromkeys(filter(None, found))
        return [
            Energy(
                duration_s=(window.stop_ns - window.start_ns) * 1e-9,
                components=components[i],
                absent=absent[i],
                notes=tuple(notes[i]),
            )
            for i, window in enumerate(windows)
        ]

    def total(self, windows: Sequence[Window]) -> Energy:
        """Add up the energy of spans, like :func:`~joulelab.energy.energy.total` but faster.

        A span that the readings do not cover is a gap in the sum: its energy is that of the power
        around it, with an interval as wide, and a note states how many spans have readings.
        """
        readings, absent = self._read(windows)
        components = {}
        notes = dict.fromkeys(
            note for window in windows for note in notes_within(self._incidents, *window.whole())
        )
        for one in readings:
            component = one.channel.component
            if reason := one.reason_for_absence(slice(None)):
                absent[component] = reason
                continue
            components[component] = self._component(one, slice(None))
            notes |= dict.fromkeys([*one.notes(slice(None)), *one.coverage_notes()])
            # Notes differ between three cases only: alone, shared and unknown.
            cases = {share if share is None else share.is_whole: share for share in one.shares}
            found = (self._attribution.note(component, share) for share in cases.values())
            notes |= dict.fromkeys(filter(None, [*found, self._idle_note(one.channel)]))
        return Energy(
            duration_s=math.fsum((one.stop_ns - one.start_ns) * 1e-9 for one in windows),
            components=components,
            absent=absent,
            notes=tuple(notes),
        )

    def _curve(self, component: str, edges_s: Floats) -> ComponentCurve | None:
        if component not in self._curves:
            sources = self._sources[component]
            try:
                curve = energy_curve(sources, edges_s)
            except (ArithmeticError, ValueError) as error:
                # Absent with a reason is better than the program's end by what numbers do.
                curve = None
                self._failures[component] = f"its readings cannot be integrated: {error}"
            if any(is_long(source.readings) for source in sources):
                return curve
            self._curves[component] = curve
        return self._curves[component]

    def _read(self, windows: Sequence[Window]) -> tuple[list[_Spans], dict[str, str]]:
        """Read the energy of the spans off each component's curve; and why others have none."""
        reasons = {absence.component: str(absence) for absence in self._trace.absent}
        for name, refused in self._refused.items():
            reasons[name] = "; ".join(one.text.removeprefix(f"{name}: ") for one in refused)
        reasons |= self._foreign_gpus
        found = []
        for component in sorted(self._sources):
            times_s = np.array([window.of(component) for window in windows], dtype=float)
            curve = self._curve(component, times_s.reshape(-1))
            if curve is None:
                reasons[component] = self._failures.get(component) or reason_for_absence(
                    self._trace, self._incidents, component
                )
                continue
            # One source was absent, but another gave readings.
            reasons.pop(component, None)
            reasons.pop(component.partition(":")[0], None)
            if times_s.size == 0:
                continue
            gross_j, uncertainty_j, gap_s = curve.energy(times_s[:, 0], times_s[:, 1])
            if component.startswith("gpu"):
                clock_j = _device_clock_uncertainty_j(windows, times_s, curve.curve)
                uncertainty_j = np.hypot(uncertainty_j, clock_j)
            shares = self._attribution.shares(component, times_s)
            unread_s = curve.unread_s(times_s[:, 0], times_s[:, 1])
            incidents = [*self._refused.get(component, ()), *curve.incidents]
            found.append(
                _Spans(
                    curve.channel,
                    times_s,
                    gross_j,
                    uncertainty_j,
                    gap_s,
                    unread_s,
                    shares,
                    incidents,
                )
            )
        return found, reasons

    def _component(self, spans: _Spans, chosen: slice) -> ComponentEnergy:
        """Add up: gain, offset and baseline are one error in all spans, edges are independent."""
        times_s, gross_j = spans.times_s[chosen], spans.gross_j[chosen].tolist()
        channel = spans.channel
        idle_j, idle_uncertainty_j = math.nan, 0.0
        if self.baseline is not None:
            idle = [self._idle(channel, *one) for one in times_s.tolist()]
            idle_j, idle_uncertainty_j = (math.fsum(column) for column in zip(*idle, strict=True))
        return ComponentEnergy(
            component=channel.component,
            source=channel.source,
            provenance=channel.provenance,
            duration_s=math.fsum((times_s[:, 1] - times_s[:, 0]).tolist()),
            gross_j=math.fsum(gross_j),
            idle_j=idle_j,
            gain_uncertainty=channel.gain_uncertainty,
            offset_uncertainty_w=channel.offset_uncertainty_w,
            edge_uncertainty_j=math.hypot(*spans.uncertainty_j[chosen].tolist()),
            idle_uncertainty_j=idle_uncertainty_j,
            gap_s=math.fsum((spans.gap_s + spans.unread_s)[chosen].tolist()),
            share=combine_shares(spans.shares[chosen], gross_j),
        )

    def _idle_note(self, channel: Channel) -> str:
        """Return why a component's idle power is doubtful; empty if it is not."""
        return self.baseline.note(channel.component, channel.source) if self.baseline else ""

    def _idle(self, channel: Channel, start_s: float, stop_s: float) -> tuple[float, float]:
        """Return a span's idle energy and its standard uncertainty; NaN and 0 if unknown."""
        assert self.baseline is not None
        middle_s = (start_s + stop_s) / 2
        idle_w, off_w = self.baseline.power(channel.component, channel.source, middle_s)
        duration_s = stop_s - start_s
        return idle_w * duration_s, 0.0 if math.isnan(idle_w) else off_w * duration_s


class _Spans(NamedTuple):
    """The energy of spans by one component's readings. Shapes: (spans,), times (spans, 2)."""

    channel: Channel
    times_s: Floats
    gross_j: Floats
    uncertainty_j: Floats
    gap_s: Floats
    unread_s: Floats  # Further time without readings, whose energy is known.
    shares: list[Share | None]
    incidents: Sequence[Incident]  # What was found about the component's sources.

    def reason_for_absence(self, chosen: slice) -> str:
        """Return why spans have no energy; empty if the readings cover enough of them."""
        duration_s, gap_s = self._duration_s[chosen].sum(), self.gap_s[chosen].sum()
        if self.gross_j[chosen].sum() < 0:
            return f"{self.channel.source} has negative readings"
        if duration_s <= 0 or gap_s <= (1 - MIN_COVERAGE) * duration_s:
            return ""
        covered = percent(max(1 - float(gap_s / duration_s), 0.0), 1)
        spans = "the span" if self._duration_s[chosen].size == 1 else "the spans"
        return f"{self.channel.source} covers only {covered} of {spans}"

    @property
    def uncovered(self) -> NDArray[np.bool_]:
        """Whether the readings cover too little of each span."""
        duration_s = self._duration_s
        return (duration_s > 0) & (self.gap_s > (1 - MIN_COVERAGE) * duration_s)

    def coverage_notes(self) -> list[str]:
        """Return how many spans have readings, if some have none."""
        missing, n = int(np.count_nonzero(self.uncovered)), self.gap_s.size
        if not missing:
            return []
        return [
            f"{self.channel.component}: {n - missing} of {n} spans have readings; the others are "
            "estimated from the power around them (included in the interval)"
        ]

    @property
    def _duration_s(self) -> Floats:
        return self.times_s[:, 1] - self.times_s[:, 0]

    def notes(self, chosen: slice) -> list[str]:
        """Return what was found about the sources within the chosen spans."""
        if not self.incidents:
            return []
        spans_s = self.times_s[chosen].tolist()
        return [text for span_s in spans_s for text in notes_within(self.incidents, *span_s)]


def _device_clock_uncertainty_j(
    windows: Sequence[Window], times_s: Floats, curve: EnergyCurve
) -> Floats:
    """Return the energy uncertainty from the device's clock, whose error moves both edges.

    They are moved by the uncertainty to the side that changes more (GUM 5.1.3, note 2).
    """
    off_s = np.array([window.device_uncertainty_ns for window in windows])[:, None] * 1e-9
    if not off_s.any():
        return np.zeros(len(windows))
    early, here, late = (curve.energy(*(times_s + sign * off_s).T)[0] for sign in (-1, 0, 1))
    return np.maximum(np.abs(early - here), np.abs(late - here))


def _change_points(
    trace: Trace, further_ns: Sequence[int] | NDArray[np.int64]
) -> tuple[ChangePoints, ChangePoints]:
    """Return the edges of a trace's spans on the host, and on the GPU."""
    names = np.array([span.name for span in trace.spans], dtype=np.str_)
    further_s = np.asarray(further_ns, dtype=np.float64) * 1e-9
    on_host = [(span.start_ns, span.stop_ns) for span in trace.spans]
    on_device = [
        edges if span.device_start_ns is None else (span.device_start_ns, span.device_stop_ns)
        for span, edges in zip(trace.spans, on_host, strict=True)
    ]
    host, device = (
        # The stop of an open span is NaN.
        ChangePoints.of_spans(names, np.array(edges_ns, float).reshape(-1, 2) * 1e-9, further_s)
        for edges_ns in (on_host, on_device)
    )
    return host, device


def energies_of(trace: Trace, windows: Sequence[Window]) -> list[Energy]:
    """Estimate the energy of spans that the trace itself does not have, on its clock."""
    edges_ns = [edge for one in windows for edge in (one.start_ns, one.stop_ns)]
    return EnergyEstimator(trace, change_points_ns=edges_ns).energies(windows)


@dataclass(frozen=True, slots=True)
class WindowUnion:
    """Times that lie in at least one of several windows, in disjoint ranges. Shapes: (ranges, 2).

    Ranks of a job are in the same epoch at the same time, and sensors read the whole host: adding
    up the energies of their spans would count it once for each rank.
    """

    host: TimeRanges  # Starts and stops on the host, CLOCK_MONOTONIC nanoseconds.
    device: TimeRanges  # The same on the GPUs.
    device_uncertainty_ns: int = 0  # Standard uncertainty of the latter.

    @classmethod
    def of(cls, windows: Sequence[Window]) -> Self:
        """Unite windows, at least one."""
        return cls(
            merge_ranges([(window.start_ns, window.stop_ns) for window in windows]),
            merge_ranges([_on_device(window) for window in windows]),
            max(window.device_uncertainty_ns for window in windows),
        )

    def within(self, start_ns: int, stop_ns: int) -> Self | None:
        """Return the part between two times on the host; ``None`` if there is none."""
        host, device = (_clip(one, start_ns, stop_ns) for one in (self.host, self.device))
        if not len(host):
            return None
        if not len(device):
            # The GPUs did this work before or after.
            device = np.full((1, 2), host[0, 0])
        return replace(self, host=host, device=device)


def energy_of_spans(estimator: EnergyEstimator, spans: Sequence[TraceSpan]) -> Energy:
    """Add up the energy of finished spans: their sum for one process, the union for several."""
    windows = [span.window for span in spans]
    if len({span.key[0] for span in spans}) == 1:
        return estimator.total(windows)
    return energy_of_union(estimator, WindowUnion.of(windows))


def energy_of_union(estimator: EnergyEstimator, union: WindowUnion) -> Energy:
    """Return the energy of a union: GPUs by its device times, all else by the host's."""
    on_host = estimator.total([Window(start, stop) for start, stop in union.host.tolist()])
    uncertainty_ns = union.device_uncertainty_ns
    if np.array_equal(union.host, union.device) and uncertainty_ns == 0:
        return on_host
    device = union.device.tolist()
    on_device = estimator.total([Window(a, b, a, b, uncertainty_ns) for a, b in device])
    parts = {
        name: part
        for energy, gpus in ((on_host, False), (on_device, True))
        for name, part in energy.components.items()
        if name.startswith("gpu") is gpus
    }
    absent = {**on_host.absent, **on_device.absent}
    return replace(
        on_host,
        components=dict(sorted(parts.items())),
        absent={name: why for name, why in absent.items() if name not in parts},
        notes=tuple(dict.fromkeys((*on_host.notes, *on_device.notes))),
    )


def _on_device(window: Window) -> tuple[int, int]:
    if window.device_start_ns is None or window.device_stop_ns is None:
        return window.start_ns, window.stop_ns
    return window.device_start_ns, window.device_stop_ns


def merge_ranges(ranges: Sequence[tuple[int, int]]) -> TimeRanges:
    """Merge overlapping ranges into disjoint ones, in order. Shape: (ranges, 2)."""
    times = np.array(sorted(ranges), dtype=np.int64).reshape(-1, 2)
    if not len(times):
        return times
    latest = np.maximum.accumulate(times[:, 1])
    begins = np.flatnonzero(np.concatenate(([True], times[1:, 0] > latest[:-1])))
    return np.column_stack((times[begins, 0], np.maximum.reduceat(times[:, 1], begins)))


def _clip(ranges: TimeRanges, start_ns: int, stop_ns: int) -> TimeRanges:
    """Return the ranges between two times. An empty range counts where it begins."""
    starts, stops = ranges[:, 0], ranges[:, 1]
    inside = (starts < stop_ns) & ((stops > start_ns) | (starts >= start_ns))
    return ranges[inside].clip(start_ns, stop_ns)


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
