"""The energy of spans: from a trace, their times and a baseline, and from nothing else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from joulelab.energy.attribution import Shares
from joulelab.energy.baseline import Baseline
from joulelab.energy.energy import ComponentEnergy, Energy
from joulelab.energy.incidents import incidents, notes_of, why_nothing
from joulelab.energy.job_gpus import foreign_gpus
from joulelab.energy.share import Share, together
from joulelab.energy.signal.curve import EnergyCurve
from joulelab.energy.signal.power_states import Marks
from joulelab.energy.signal.sources import ComponentSources, Source
from joulelab.recording.trace import Trace
from joulelab.recording.trace_spans import Window
from joulelab.sensors.sensor import Channel, Quantity

Floats = NDArray[np.float64]

_NO_EDGES = np.zeros(0)

LEAST_COVERAGE = 0.5
"""A component whose readings cover less than this share of a span is absent from its energy."""


class EnergyEstimator:
    """Works out the energy of any number of spans of one trace.

    Args:
        trace: The readings.
        baseline: Idle power on CLOCK_MONOTONIC seconds; without it nothing is known of idle.
        marks_ns: Further times at which power may have changed, beside the edges of the spans
            that the trace holds.

    Example:
        >>> from joulelab.sensors.sensor import Provenance, Reading
        >>> channel = Channel(component="gpu:0", quantity=Quantity.ENERGY, source="counter",
        ...     provenance=Provenance.MEASURED, update_period_s=0.1)
        >>> trace = Trace.of([channel], [Reading(i * 10**8, 0, 30.0 * i) for i in range(100)])
        >>> accounts = EnergyEstimator(trace)
        >>> round(accounts.energies([Window(10**9, 3 * 10**9)])[0].gross_j, 6)
        600.0
    """

    def __init__(
        self,
        trace: Trace,
        baseline: Baseline | None = None,
        marks_ns: Sequence[int] | NDArray[np.int64] = (),
    ) -> None:
        self.baseline = baseline
        marks = _Clocks.of(trace, marks_ns)
        self._trace = trace
        self._incidents = incidents(trace)
        self._shares = Shares(trace)
        self._foreign_gpus = foreign_gpus(trace)
        sources: dict[str, list[Source]] = {}
        intervals_s = trace.header.get("intervals_s")
        for _, i in sorted((channel.priority, i) for i, channel in enumerate(trace.channels)):
            channel = trace.channels[i]
            if channel.gives_energy and channel.component not in self._foreign_gpus:
                interval_s = intervals_s[i] if intervals_s else channel.update_period_s
                source = Source(channel, trace.series[i], interval_s, marks.of_component(channel))
                sources.setdefault(channel.component, []).append(source)
        self._sources = {name: ComponentSources(sources[name]) for name in sorted(sources)}

    @property
    def sources(self) -> dict[str, Channel]:
        """The channel that each component's energy comes from."""
        found = {name: one.reconciled(_NO_EDGES) for name, one in self._sources.items()}
        return {name: one.channel for name, one in found.items() if one}

    def energies(self, windows: Sequence[Window]) -> list[Energy]:
        """The energy of each span, in their order."""
        seen, reasons = self._seen(windows)
        components: list[dict[str, ComponentEnergy]] = [{} for _ in windows]
        missing: list[dict[str, str]] = [{} for _ in windows]
        sharing: list[dict[str, None]] = [{} for _ in windows]
        for one in seen:
            for i, uncovered in enumerate(one.uncovered.tolist()):
                if uncovered:
                    missing[i][one.component] = one.why_not(i)
                    continue
                components[i][one.component] = self._component(one, i)
                if note := self._shares.note(one.component, one.shares[i]):
                    sharing[i][note] = None
        return [
            Energy(
                duration_s=(window.stop_ns - window.start_ns) * 1e-9,
                components=parts,
                absent=reasons | why,
                notes=(*notes_of(self._incidents, *window.whole()), *others),
            )
            for window, parts, why, others in zip(
                windows, components, missing, sharing, strict=True
            )
        ]

    def total(self, windows: Sequence[Window]) -> Energy:
        """The sum over the spans, as :func:`~joulelab.energy.energy.total` of each gives it.

        Many spans are added up as columns, without an energy for each.

        Args:
            windows: At least one.
        """
        seen, absent = self._seen(windows)
        components = {}
        notes = dict.fromkeys(
            note for window in windows for note in notes_of(self._incidents, *window.whole())
        )
        for one in seen:
            if one.uncovered.any():
                absent[one.component] = one.why_not(int(one.uncovered.argmax()))
                continue
            components[one.component] = self._sum(one)
            # There is a note for each of three cases, and not for each share.
            cases = {share if share is None else share.is_whole: share for share in one.shares}
            told = (self._shares.note(one.component, share) for share in cases.values())
            notes |= dict.fromkeys(note for note in told if note)
        return Energy(
            duration_s=math.fsum((one.stop_ns - one.start_ns) * 1e-9 for one in windows),
            components=components,
            absent=absent,
            notes=tuple(notes),
        )

    def _seen(self, windows: Sequence[Window]) -> tuple[list[_Seen], dict[str, str]]:
        """What each component's sensors saw of the spans, and why those that saw nothing did not.

        Of no spans nothing was seen.
        """
        reasons = {absence.component: str(absence) for absence in self._trace.absent}
        reasons |= self._foreign_gpus
        seen = []
        for component, sources in self._sources.items():
            times = np.array([window.of(component) for window in windows], dtype=float)
            found = sources.reconciled(times.reshape(-1))
            if found is None:
                reasons[component] = why_nothing(self._trace, self._incidents, component)
                continue
            # What one source could not give, another did.
            reasons.pop(component, None)
            reasons.pop(component.partition(":")[0], None)
            if times.size == 0:
                continue
            gross_j, uncertainty_j, gap_s = found.energy(times[:, 0], times[:, 1])
            if component.startswith("gpu"):
                off_j = _of_device_clock(windows, times, found.curve)
                uncertainty_j = np.hypot(uncertainty_j, off_j)
            shares = self._shares.of(component, times)
            seen.append(
                _Seen(component, found.channel, times, gross_j, uncertainty_j, gap_s, shares)
            )
        return seen, reasons

    def _idle(self, seen: _Seen, i: int) -> tuple[float, float]:
        """Idle energy of a span, and its standard uncertainty; NaN and 0 without a baseline."""
        if self.baseline is None:
            return math.nan, 0.0
        start_s, stop_s = seen.times_s[i].tolist()
        channel = seen.channel
        middle_s = (start_s + stop_s) / 2
        idle_w, off_w = self.baseline.power(channel.component, channel.source, middle_s)
        duration_s = stop_s - start_s
        return idle_w * duration_s, 0.0 if math.isnan(idle_w) else off_w * duration_s

    def _component(self, seen: _Seen, i: int) -> ComponentEnergy:
        """Of one span."""
        start_s, stop_s = seen.times_s[i].tolist()
        idle_j, idle_uncertainty_j = self._idle(seen, i)
        return seen.energy(
            duration_s=stop_s - start_s,
            gross_j=float(seen.gross_j[i]),
            idle_j=idle_j,
            edge_uncertainty_j=float(seen.uncertainty_j[i]),
            idle_uncertainty_j=idle_uncertainty_j,
            gap_s=float(seen.gap_s[i]),
            share=seen.shares[i],
        )

    def _sum(self, seen: _Seen) -> ComponentEnergy:
        """Of all spans: gain, offset and baseline are one error in all, edges are independent."""
        count = len(seen.times_s)
        idle = [self._idle(seen, i) for i in range(count)] if self.baseline else [(math.nan, 0.0)]
        return seen.energy(
            duration_s=math.fsum((seen.times_s[:, 1] - seen.times_s[:, 0]).tolist()),
            gross_j=math.fsum(seen.gross_j.tolist()),
            idle_j=sum(idle_j for idle_j, _ in idle),
            edge_uncertainty_j=math.hypot(*seen.uncertainty_j.tolist()),
            idle_uncertainty_j=math.fsum(off_j for _, off_j in idle),
            gap_s=math.fsum(seen.gap_s.tolist()),
            share=together(seen.shares, seen.gross_j.tolist()),
        )


@dataclass(frozen=True, slots=True)
class _Seen:
    """What one component's sensors saw of some spans, one row a span.

    Attributes:
        component: As ``"gpu:0"``.
        channel: That it comes from.
        times_s: Starts and stops on the component's clock. Shape: (spans, 2).
        gross_j: Shape: (spans,).
        uncertainty_j: Standard uncertainty of the edges, gaps and noise. Shape: (spans,).
        gap_s: Time without readings. Shape: (spans,).
        shares: The job's.
    """

    component: str
    channel: Channel
    times_s: Floats
    gross_j: Floats
    uncertainty_j: Floats
    gap_s: Floats
    shares: list[Share | None]

    @property
    def uncovered(self) -> NDArray[np.bool_]:
        """Which spans the readings cover too little of. Shape: (spans,)."""
        duration_s = self.times_s[:, 1] - self.times_s[:, 0]
        return (duration_s > 0) & (self.gap_s > (1 - LEAST_COVERAGE) * duration_s)

    def why_not(self, i: int) -> str:
        """Of an uncovered span."""
        start_s, stop_s = self.times_s[i].tolist()
        covered_pct = 100 * (1 - float(self.gap_s[i]) / (stop_s - start_s))
        return f"{self.channel.source} covered only {covered_pct:.0f} % of the span"

    def energy(self, **figures: Any) -> ComponentEnergy:
        """These figures with what the channel says of all."""
        return ComponentEnergy(
            component=self.channel.component,
            source=self.channel.source,
            provenance=self.channel.provenance,
            gain_uncertainty=self.channel.gain_uncertainty,
            offset_uncertainty_w=self.channel.offset_uncertainty_w,
            **figures,
        )


def _of_device_clock(windows: Sequence[Window], times: Floats, curve: EnergyCurve) -> Floats:
    """What the uncertainty of the device's clock does to energies: both edges move together.

    Worked out by moving them, to the side where it does more (GUM 5.1.3, note 2). Shape: (spans,).

    Args:
        windows: The spans.
        times: Their starts and stops on the device, s. Shape: (spans, 2).
        curve: Energy over time.
    """
    off_s = np.array([window.device_uncertainty_ns for window in windows])[:, None] * 1e-9
    if not off_s.any():
        return np.zeros(len(windows))
    early, here, late = (curve.energy(*(times + sign * off_s).T)[0] for sign in (-1, 0, 1))
    return np.maximum(np.abs(early - here), np.abs(late - here))


@dataclass(frozen=True, slots=True)
class _Clocks:
    """The marks of a trace's spans on the host, and where the GPU was."""

    host: Marks
    device: Marks

    @classmethod
    def of(cls, trace: Trace, further_ns: Sequence[int] | NDArray[np.int64]) -> _Clocks:
        spans = trace.spans
        names = np.array([span.name for span in spans], dtype=np.str_)
        further_s = np.asarray(further_ns, dtype=np.float64) * 1e-9
        on_host = [(span.start_ns, span.stop_ns) for span in spans]
        on_device = [
            edges if span.device_start_ns is None else (span.device_start_ns, span.device_stop_ns)
            for span, edges in zip(spans, on_host, strict=True)
        ]
        (start_s, stop_s), (device_start_s, device_stop_s) = map(_seconds, (on_host, on_device))
        host = Marks.of_spans(names, start_s, stop_s, further_s)
        device = Marks.of_spans(names, device_start_s, device_stop_s, further_s)
        return cls(host, device)

    def of_component(self, channel: Channel) -> Marks:
        """Those that matter to the component of a channel."""
        return self.device if channel.component.startswith("gpu") else self.host


def _seconds(edges_ns: Sequence[tuple[int, int | None]]) -> Floats:
    """Starts and stops; a stop is NaN while the span is open. Shape: (2, spans)."""
    return np.array(edges_ns, dtype=np.float64).reshape(-1, 2).T * 1e-9


def energies_of(trace: Trace, windows: Sequence[Window]) -> list[Energy]:
    """The energy of each span of a trace in which they are marks, beside those that it holds.

    Args:
        trace: The readings.
        windows: The spans, on the trace's clock.
    """
    edges_ns = [edge for one in windows for edge in (one.start_ns, one.stop_ns)]
    return EnergyEstimator(trace, marks_ns=edges_ns).energies(windows)


def mean_reading(
    trace: Trace, component: str, quantity: Quantity, windows: Sequence[Window]
) -> float:
    """The mean of a quantity's readings within the spans; NaN when there are none.

    Args:
        trace: The readings.
        component: As ``"gpu:0"``.
        quantity: As ``Quantity.UTILIZATION``.
        windows: The spans; readings at either edge count.
    """
    for i, channel in enumerate(trace.channels):
        if (channel.component, channel.quantity) != (component, quantity):
            continue
        t_ns, value = trace.series[i]
        inside = np.zeros(t_ns.size, dtype=bool)
        for window in windows:
            inside |= (t_ns >= window.start_ns) & (t_ns <= window.stop_ns)
        inside &= np.isfinite(value)
        if inside.any():
            return float(value[inside].mean())
    return math.nan
