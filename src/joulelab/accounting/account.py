"""The energy of spans: from a trace, their times and a baseline, and from nothing else."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from joulelab.accounting.baseline import Baseline
from joulelab.accounting.energy import ComponentEnergy, Energy
from joulelab.accounting.fill import filled
from joulelab.accounting.integrate import EnergyCurve, energy_curve
from joulelab.recording.trace import Trace
from joulelab.sensors.sensor import Channel, Quantity

LEAST_COVERAGE = 0.5
"""A component whose readings cover less than this share of a span is absent from its energy."""


@dataclass(frozen=True, slots=True)
class Window:
    """When a span began and ended, CLOCK_MONOTONIC nanoseconds.

    Attributes:
        start_ns: On the host.
        stop_ns: On the host.
        device_start_ns: When the GPU came to the work of the span, where that is known.
        device_stop_ns: When the GPU was done with it.
    """

    start_ns: int
    stop_ns: int
    device_start_ns: int | None = None
    device_stop_ns: int | None = None

    def of(self, component: str) -> tuple[float, float]:
        """Start and stop in seconds, on the clock by which that component works."""
        if (
            component.startswith("gpu")
            and self.device_start_ns is not None
            and self.device_stop_ns is not None
        ):
            return self.device_start_ns * 1e-9, self.device_stop_ns * 1e-9
        return self.start_ns * 1e-9, self.stop_ns * 1e-9


class Accounts:
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
        >>> accounts = Accounts(trace)
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
        marks = _Marks.of(trace, marks_ns)
        self._curves: dict[str, tuple[Channel, EnergyCurve]] = {}
        self._absent = {absence.component: str(absence) for absence in trace.absent}
        intervals_s = trace.header.get("intervals_s")
        by_priority = sorted(
            (channel.priority, i)
            for i, channel in enumerate(trace.channels)
            if channel.gives_energy
        )
        for _, i in by_priority:
            channel = trace.channels[i]
            preferred = self._curves.get(channel.component)
            if preferred and preferred[0].provenance is not channel.provenance:
                continue
            interval_s = intervals_s[i] if intervals_s else channel.update_period_s
            curve = energy_curve(channel, *trace.series(i), interval_s, marks.of_component(channel))
            if curve is not None:
                self._curves[channel.component] = (
                    (preferred[0], filled(preferred[1], curve)) if preferred else (channel, curve)
                )
            elif preferred is None:
                reasons = trace.gap_reasons(channel.component)
                self._absent[channel.component] = "; ".join(reasons) or "too few readings"
        for component in self._curves:
            # What one source could not give, another did.
            self._absent.pop(component, None)
            self._absent.pop(component.partition(":")[0], None)

    @property
    def sources(self) -> dict[str, Channel]:
        """The channel that each component's energy comes from."""
        return {component: channel for component, (channel, _) in sorted(self._curves.items())}

    def energies(self, windows: Sequence[Window]) -> list[Energy]:
        """The energy of each span, in their order."""
        components: list[dict[str, ComponentEnergy]] = [{} for _ in windows]
        absent = [dict(self._absent) for _ in windows]
        for component, (channel, curve) in sorted(self._curves.items()):
            times = np.array([window.of(component) for window in windows], dtype=float)
            if times.size == 0:
                continue
            gross, uncertainty, gap = curve.energy(times[:, 0], times[:, 1])
            for i, (start_s, stop_s) in enumerate(times):
                duration_s = float(stop_s - start_s)
                if duration_s > 0 and gap[i] > (1 - LEAST_COVERAGE) * duration_s:
                    covered_pct = 100 * (1 - gap[i] / duration_s)
                    absent[i][component] = (
                        f"{channel.source} covered only {covered_pct:.0f} % of the span"
                    )
                    continue
                components[i][component] = self._component(
                    replace(
                        channel,
                        gain_uncertainty=math.hypot(channel.gain_uncertainty, curve.aliasing),
                    ),
                    start_s,
                    stop_s,
                    float(gross[i]),
                    float(uncertainty[i]),
                    float(gap[i]),
                )
        return [
            Energy(
                duration_s=(window.stop_ns - window.start_ns) * 1e-9, components=parts, absent=why
            )
            for window, parts, why in zip(windows, components, absent, strict=True)
        ]

    def _component(
        self,
        channel: Channel,
        start_s: float,
        stop_s: float,
        gross_j: float,
        edge_uncertainty_j: float,
        gap_s: float,
    ) -> ComponentEnergy:
        duration_s = stop_s - start_s
        idle_w, idle_uncertainty_w = (
            self.baseline.power(channel.component, channel.source, (start_s + stop_s) / 2)
            if self.baseline
            else (math.nan, math.nan)
        )
        known = not math.isnan(idle_w)
        return ComponentEnergy(
            component=channel.component,
            source=channel.source,
            provenance=channel.provenance,
            duration_s=duration_s,
            gross_j=gross_j,
            idle_j=idle_w * duration_s,
            gain_uncertainty=channel.gain_uncertainty,
            offset_uncertainty_w=channel.offset_uncertainty_w,
            edge_uncertainty_j=edge_uncertainty_j,
            idle_uncertainty_j=idle_uncertainty_w * duration_s if known else 0.0,
            gap_s=gap_s,
        )


@dataclass(frozen=True, slots=True)
class _Marks:
    """The edges of a trace's spans, seconds, in order: on the host, and where the GPU was."""

    host_s: NDArray[np.float64]
    device_s: NDArray[np.float64]

    @classmethod
    def of(cls, trace: Trace, further_ns: Sequence[int] | NDArray[np.int64]) -> _Marks:
        spans: dict[tuple[int, int], Mapping[str, Any]] = {}
        devices: dict[tuple[int, int], Mapping[str, Any]] = {}
        for event in trace.events:
            known = {"span": spans, "device": devices}.get(event["event"])
            if known is not None:
                known[event["pid"], event["index"]] = event
        host: list[int] = []
        device: list[int] = []
        for key, span in spans.items():
            host += _times_ns(span)
            device += _times_ns(devices.get(key, span))
        further = np.asarray(further_ns, dtype=np.float64)
        return cls(_seconds(host, further), _seconds(device, further))

    def of_component(self, channel: Channel) -> NDArray[np.float64]:
        """Those that matter to the component of a channel."""
        return self.device_s if channel.component.startswith("gpu") else self.host_s


def _times_ns(event: Mapping[str, Any]) -> list[int]:
    return [t_ns for t_ns in (event["start_ns"], event["stop_ns"]) if t_ns is not None]


def _seconds(times_ns: list[int], further_ns: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.unique(np.concatenate((np.asarray(times_ns, dtype=np.float64), further_ns)) * 1e-9)


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
        t_ns, value = trace.series(i)
        inside = np.zeros(t_ns.size, dtype=bool)
        for window in windows:
            inside |= (t_ns >= window.start_ns) & (t_ns <= window.stop_ns)
        inside &= np.isfinite(value)
        if inside.any():
            return float(value[inside].mean())
    return math.nan
