"""What a recording of a pause and of a known load shows about the sensors of a machine.

Energies, their intervals and idle power are those of :mod:`joulelab.energy`, of all sources of a
component together or of one of them alone. Two sources contradict each other if their energies
differ by more than :data:`~joulelab.energy.signal.reconciliation.CONTRADICTION` and by more than
three standard uncertainties, in the pause, under load or in all.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import combinations

import numpy as np

from joulelab.arrays import Floats
from joulelab.doctor.load_pattern import LoadPattern
from joulelab.energy.energy import ComponentEnergy, Energy
from joulelab.energy.estimator import EnergyEstimator
from joulelab.energy.nesting import kind_of
from joulelab.energy.signal import pace_of
from joulelab.energy.signal.reconciliation import CONTRADICTION
from joulelab.energy.uncertainty import component_gross
from joulelab.format import duration, number, percent, quantity
from joulelab.recording.trace import Readings, Trace
from joulelab.recording.trace_spans import Window
from joulelab.sensors.sensor import Channel, Provenance, Quantity
from joulelab.uncertain import COVERAGE_FACTOR, UncertainValue

SIGMAS = 3.0
LENGTHS_S = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Lengths of the spans whose intervals are tried."""
MOST_SPANS = 40
TYPICAL = 0.9
"""The interval of a length is the one that this part of the spans does not exceed."""
AS_GOOD = 1.25
"""A length is long enough if its interval is at most this many times that of long spans."""
USEFUL = 0.25
"""A wider interval is nothing to trust."""
LEAST_RISE = 0.02
"""A smaller rise of power under load could be anything."""
MOST_DELAY_S = 3.0
DELAY_STEP_S = 0.02
WINDOWS_S = (0.0, 0.02, 0.1, 0.25, 0.5, 1.0, 2.0)
"""Averaging windows that are tried."""
CLEAR = 0.7
"""Readings show their delay if the load explains this part of their variance."""
MIN_READINGS = 8
LATE_S = 0.3
"""Readings that are later than stated by more than this are worth a note."""


class Verdict(StrEnum):
    """What the energies of a component can be used for."""

    TRUST = "trust"
    ESTIMATE = "estimate only"
    DOUBT = "doubtful"
    CONTRADICTION = "contradiction"


@dataclass(frozen=True, kw_only=True)
class SourceCheck:
    """What the readings of one source show. What they do not show is NaN."""

    component: str  # What it measures.
    source: str  # Its channel.
    provenance: Provenance  # Measured, estimated or simulated.
    quantity: Quantity  # Power or energy.
    readings: int  # Number of readings, gaps excluded.
    gaps: int  # Number of failed readings.
    # Time between two new values, as observed; not shorter than between two readings.
    update_period_s: float = math.nan
    resolution: float = math.nan  # Smallest step of the value, W or J.
    # Standard deviation of single readings in the pause; for a counter, of the power between two.
    # An estimate has none.
    noise_w: float = math.nan
    delay_s: float = math.nan  # How late readings follow the load, beyond their averaging window.
    window_s: float = math.nan  # Averaging window with which the load explains the readings best.


@dataclass(frozen=True, kw_only=True)
class ComponentCheck:
    """What can be trusted of one component."""

    component: str  # Its name.
    source: str  # The sources that its energy comes from.
    verdict: Verdict  # The kind of the verdict.
    text: str  # The verdict as text.
    shortest_span_s: float = math.nan  # Longer spans have about the same relative interval.
    uncertainty: float = math.nan  # Relative half-width of the 95 % interval of their energy.
    idle_w: float = math.nan  # Mean power in the pause.
    load_w: float = math.nan  # Mean power under load.
    follows_load: bool | None = None  # Whether a load on it raised its power; ``None`` if unknown.


@dataclass(frozen=True)
class Examination:
    """What a recording shows."""

    components: tuple[ComponentCheck, ...]
    sources: tuple[SourceCheck, ...]
    absent: Mapping[str, str]
    notes: tuple[str, ...]

    @property
    def contradicts(self) -> bool:
        """Whether a sensor contradicts another."""
        return any(one.verdict is Verdict.CONTRADICTION for one in self.components)


def examine(
    trace: Trace,
    pause: Window,
    loads: Mapping[str, LoadPattern],
    busy: Collection[str] = (),
) -> Examination:
    """Examine the recording of a pause and of loads.

    Args:
        trace: The recording.
        pause: When the program paused.
        loads: The loads by the kind of component that they use, ``cpu`` or ``gpu``.
        busy: What other processes used in the pause, ``cpu`` or ``gpu:N``: the power of these need
            not rise under a load.
    """
    edges_ns = [edge_ns for pattern in loads.values() for edge_ns in pattern.edges_ns]
    whole = Window(pause.start_ns, max([pause.stop_ns, *edges_ns]))
    estimator = EnergyEstimator(trace, change_points_ns=edges_ns)
    energy, at_pause = estimator.energies([whole, pause])
    on = {kind: estimator.total(pattern.on) for kind, pattern in loads.items()}
    off = {kind: estimator.total(pattern.off) for kind, pattern in loads.items()}
    intervals = _relative_intervals(estimator, whole)
    differing, failures = compare_sources(trace, whole, pause, loads)
    for name, text in _contradictions_of_meters((energy, at_pause, *on.values())).items():
        differing.setdefault(name, []).append(text)
    checks, sources, notes = [], [], [*energy.notes, *failures]
    affected = {name: _load_on(part, loads) for name, part in energy.all_parts.items()}
    for position, channel in enumerate(trace.channels):
        if channel.gives_energy:
            pattern = loads.get(affected.get(channel.component, ""))
            sources.append(_source(channel, trace.series[position], pause, pattern))
    for name, part in energy.all_parts.items():
        load = affected[name]
        follows = None
        if load in loads and part.provenance is not Provenance.SIMULATED:
            follows = _rises(on[load], off[load], name)
        # A slow meter of more than the load may not show it.
        if not follows and (kind_of(name) != load or not {name, load}.isdisjoint(busy)):
            follows = None
        checks.append(
            _component(
                part,
                intervals.get(name, {}),
                differing.get(name, []),
                _power_w(at_pause, name),
                _power_w(on[load], name) if load in on else math.nan,
                follows,
            )
        )
    notes += [
        f"{one.component}: {one.source} follows the load {duration(one.delay_s)} late: spans "
        "shorter than a few times this get energy of what came before them"
        for one in sources
        if one.delay_s > LATE_S
    ]
    return Examination(tuple(checks), tuple(sources), energy.absent, tuple(dict.fromkeys(notes)))


def compare_sources(
    trace: Trace, whole: Window, pause: Window, loads: Mapping[str, LoadPattern]
) -> tuple[dict[str, list[str]], list[str]]:
    """Compare the sources of each component, each as if it were the only one.

    Returns:
        Contradictions by component, and which sources give no energy.
    """
    contradictions: dict[str, list[str]] = {}
    failures: list[str] = []
    by_component: dict[str, list[int]] = {}
    for position, channel in enumerate(trace.channels):
        if channel.gives_energy:
            by_component.setdefault(channel.component, []).append(position)
    groups = [[whole], [pause], *(pattern.on for pattern in loads.values())]
    for name, positions in by_component.items():
        if len(positions) < 2:
            continue
        alone: dict[Channel, list[Energy]] = {}
        for position in positions:
            channel = trace.channels[position]
            alone[channel] = EnergyEstimator(_alone(trace, position)).totals(groups)
            if name not in alone[channel][0].components:
                reason = alone[channel][0].absent.get(name, "it has no readings")
                failures.append(f"{name}: {channel.source} gives no energy: {reason}")
        for (one, first), (other, second) in combinations(alone.items(), 2):
            if one.provenance is not other.provenance:
                continue
            pairs = (
                (mine.components[name], theirs.components[name])
                for mine, theirs in zip(first, second, strict=True)
                if name in mine.components and name in theirs.components
            )
            text = next(filter(None, (_contradiction(*pair) for pair in pairs)), "")
            if text:
                contradictions.setdefault(name, []).append(text)
    return contradictions, failures


def _contradiction(one: ComponentEnergy, other: ComponentEnergy) -> str:
    """Return by how much two energies of the same time differ; empty if they agree."""
    values = [component_gross(part, part.component) for part in (one, other)]
    if not _differ(*values):
        return ""
    more, less = sorted((one, other), key=lambda part: -part.gross_j)
    return (
        f"{more.source} gives {number(more.gross_j / less.gross_j)} times the energy of "
        f"{less.source} ({_watts(more)} and {_watts(less)})"
    )


def _contradictions_of_meters(energies: Sequence[Energy]) -> dict[str, str]:
    """Return which meters report less than what they contain, by name."""
    return {
        name: enclosure.contradiction.removeprefix(f"{name}: ")
        for energy in energies
        for enclosure in energy.enclosures
        if enclosure.contradiction
        for name in enclosure.meters
    }


def _load_on(part: ComponentEnergy, loads: Collection[str]) -> str:
    """Return the kind of the load that a component feels; empty if it feels none."""
    felt = (kind_of(name) for name in (part.component, *part.contains))
    return next((kind for kind in felt if kind in loads), "")


def _differ(one: UncertainValue, other: UncertainValue) -> bool:
    allowed = math.hypot(
        CONTRADICTION * min(one.value, other.value), SIGMAS * (one - other).uncertainty
    )
    return abs(one.value - other.value) > allowed


def _watts(part: ComponentEnergy) -> str:
    return quantity(part.mean_power_w, "W")


def _alone(trace: Trace, position: int) -> Trace:
    """Return the recording as if this channel were its only one."""
    intervals_s = trace.header.get("intervals_s")
    header = {"intervals_s": [intervals_s[position]]} if intervals_s else {}
    return replace(
        trace,
        channels=(trace.channels[position],),
        series=(trace.series[position],),
        header=header,
        events=(),
        absent=(),
    )


def _relative_intervals(estimator: EnergyEstimator, whole: Window) -> dict[str, dict[float, float]]:
    """Return the relative half-widths of the intervals of spans by component and length."""
    found: dict[str, dict[float, float]] = {}
    for length_s in LENGTHS_S:
        length_ns = round(length_s * 1e9)
        latest_ns = whole.stop_ns - length_ns
        if latest_ns <= whole.start_ns:
            break
        starts_ns = np.linspace(whole.start_ns, latest_ns, MOST_SPANS).round().astype(int).tolist()
        energies = estimator.energies([Window(ns, ns + length_ns) for ns in starts_ns])
        parts: dict[str, list[float]] = {}
        for energy in energies:
            for name, part in energy.all_parts.items():
                if part.gross_j > 0:
                    relative = COVERAGE_FACTOR * part.uncertainty_j / part.gross_j
                    parts.setdefault(name, []).append(relative)
        for name, widths in parts.items():
            if len(widths) > MOST_SPANS / 2:
                found.setdefault(name, {})[length_s] = float(np.quantile(widths, TYPICAL))
    return found


def _component(
    part: ComponentEnergy,
    intervals: Mapping[float, float],
    differing: Sequence[str],
    idle_w: float,
    load_w: float,
    follows: bool | None,
) -> ComponentCheck:
    shortest_s, uncertainty = math.nan, math.nan
    if intervals:
        enough = AS_GOOD * intervals[max(intervals)]
        shortest_s = min(length_s for length_s, half in intervals.items() if half <= enough)
        uncertainty = intervals[shortest_s]
    spans = f"energy of spans from {duration(shortest_s)} within {percent(uncertainty, 2)}"
    if differing:
        verdict, text = Verdict.CONTRADICTION, "; ".join(differing)
    elif follows is False:
        verdict = Verdict.DOUBT
        text = "its power did not rise under a full load"
    elif part.provenance is Provenance.ESTIMATED:
        verdict, text = Verdict.ESTIMATE, f"within {percent(uncertainty, 2)}"
    elif uncertainty <= USEFUL:
        verdict, text = Verdict.TRUST, spans
    else:
        verdict, text = Verdict.DOUBT, spans
    return ComponentCheck(
        component=part.component,
        source=part.source,
        verdict=verdict,
        text=text,
        shortest_span_s=shortest_s,
        uncertainty=uncertainty,
        idle_w=idle_w,
        load_w=load_w,
        follows_load=follows,
    )


def _power_w(energy: Energy, name: str) -> float:
    part = energy.all_parts.get(name)
    return math.nan if part is None else part.mean_power_w


def _rises(on: Energy, off: Energy, name: str) -> bool | None:
    """Report whether power is higher under load; ``None`` if it was not measured."""
    loaded, unloaded = on.all_parts.get(name), off.all_parts.get(name)
    if loaded is None or unloaded is None:
        return None
    rise_w = loaded.mean_power_w - unloaded.mean_power_w
    off_w = math.hypot(*(one.edge_uncertainty_j / one.duration_s for one in (loaded, unloaded)))
    return rise_w > max(SIGMAS * off_w, LEAST_RISE * unloaded.mean_power_w)


def _source(
    channel: Channel, readings: Readings, pause: Window, pattern: LoadPattern | None
) -> SourceCheck:
    seen = np.isfinite(readings.value)
    t_s, value = np.asarray(readings.t_ns[seen] * 1e-9), readings.value[seen]
    check = SourceCheck(
        component=channel.component,
        source=channel.source,
        provenance=channel.provenance,
        quantity=channel.quantity,
        readings=int(seen.sum()),
        gaps=int((~seen).sum()),
        resolution=channel.resolution or _smallest_step(value),
    )
    if t_s.size < MIN_READINGS or not np.any(np.diff(t_s) > 0):
        return check
    start_s, stop_s, power_w = _powers(channel, t_s, value)
    in_pause = (start_s >= pause.start_ns * 1e-9) & (stop_s <= pause.stop_ns * 1e-9)
    noise_w = math.nan
    if in_pause.sum() >= MIN_READINGS and channel.provenance is not Provenance.ESTIMATED:
        noise_w = float(np.std(power_w[in_pause]))
    delay_s, window_s = math.nan, math.nan
    if pattern is not None and channel.provenance is not Provenance.SIMULATED:
        delay_s, window_s = response(channel, start_s, stop_s, power_w, pattern)
    return replace(
        check,
        update_period_s=pace_of(t_s, value).period_s,
        noise_w=noise_w,
        delay_s=delay_s,
        window_s=window_s,
    )


def _smallest_step(value: Floats) -> float:
    steps = np.abs(np.diff(value))
    return float(steps[steps > 0].min()) if np.any(steps > 0) else math.nan


def _powers(channel: Channel, t_s: Floats, value: Floats) -> tuple[Floats, Floats, Floats]:
    """Return the powers that readings state, and the times that they are means of."""
    if channel.quantity is Quantity.POWER:
        return t_s, t_s, value
    length_s, energy_j = np.diff(t_s), np.diff(value)
    plain = (length_s > 0) & (energy_j >= 0)
    return t_s[:-1][plain], t_s[1:][plain], energy_j[plain] / length_s[plain]


def response(
    channel: Channel, start_s: Floats, stop_s: Floats, power_w: Floats, pattern: LoadPattern
) -> tuple[float, float]:
    """Find the delay and the averaging window with which readings follow a load.

    Returns:
        Both in seconds; NaN if the readings do not follow the load clearly.
    """
    edges_s = np.array(pattern.edges_s)
    during = (start_s >= edges_s[0]) & (stop_s <= edges_s[-1])
    start_s, stop_s, power_w = start_s[during], stop_s[during], power_w[during]
    if power_w.size < MIN_READINGS or not np.ptp(power_w) > 0:
        return math.nan, math.nan
    lengths_s = np.diff(edges_s)
    lengths_s[1::2] = 0
    on_until_s = np.concatenate(([0.0], np.cumsum(lengths_s)))
    is_counter = channel.quantity is Quantity.ENERGY
    best = CLEAR, math.nan, math.nan
    for window_s in WINDOWS_S[:1] if is_counter else WINDOWS_S:
        average_s = np.maximum(stop_s - start_s + window_s, 1e-3)
        for delay_s in np.arange(0.0, MOST_DELAY_S, DELAY_STEP_S).tolist():
            ends_s = stop_s - delay_s
            on_s = np.interp(ends_s, edges_s, on_until_s)
            expected = (on_s - np.interp(ends_s - average_s, edges_s, on_until_s)) / average_s
            if np.ptp(expected) > 0:
                explained = float(np.corrcoef(expected, power_w)[0, 1])
                if explained > 0 and explained**2 > best[0]:
                    best = explained**2, delay_s, window_s
    return best[1], math.nan if is_counter else best[2]
