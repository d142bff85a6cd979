"""From the readings of a component's sensors to its energy over time.

:func:`energy_curve` is the entry, for readings as slow meters' :func:`observed` paces leave them.
In order, it

1. determines from the readings of meters that state an averaging window whether they average
   (``stated_windows``), and restores steps in those that do over many update periods
   (``averaged_readings``),
2. thins long recordings to the surroundings of the spans' edges (``thinning``),
3. aligns timestamps (``timestamp_alignment``) and gives each reading its interval (``intervals``;
   ``counters`` for energy counters, with their wraps and faults),
4. splits the intervals where power changed (``change_points``, ``power_states``),
5. bounds what the readings do not show (``variability``) and what is missing
   (``missing_readings``),
6. integrates to a curve (``curve``),
7. scales it to an energy counter of the same board, and fills its gaps from the component's other
   sources (``reconciliation``).

The integral of the paper's Eqs. 4 and 5 is the running sum over the sensors' intervals. The energy
of any span is a difference of two of its values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from joulelab.arrays import Bools, Floats, Integers
from joulelab.energy.incident import Incident
from joulelab.energy.signal import variability
from joulelab.energy.signal.averaged_readings import (
    AVERAGE_S,
    INSPECTED_READINGS,
    Pace,
    Sharpened,
    is_averaged,
    is_moving_average,
    pace_of,
    sharpen,
    sharpened_curve,
    updates,
)
from joulelab.energy.signal.change_points import (
    NO_CHANGE_POINTS,
    ChangePoints,
    Parts,
    cut_at_change_points,
    joined,
    split_at_change_points,
)
from joulelab.energy.signal.counters import NO_TIMES, counter_faults, counter_intervals, unread
from joulelab.energy.signal.curve import NO_REPETITION, EnergyCurve, Repetition
from joulelab.energy.signal.implausible_power import (
    UsedUntil,
    glitches,
    implausible_power_w,
    insufficient_power,
    without_glitches,
)
from joulelab.energy.signal.polled_meters import SLOW_S, freezes, observed
from joulelab.energy.signal.power_states import split_by_state
from joulelab.energy.signal.reconciliation import (
    CHECK_UPDATES,
    CONTRADICTION,
    can_scale,
    channel_role,
    contradiction,
    fill_gaps,
    scale_to_counter,
    stretch_edges_s,
    widen,
    without_leaps,
)
from joulelab.energy.signal.stated_windows import as_shown
from joulelab.energy.signal.thinning import is_long, thin
from joulelab.energy.signal.timestamp_alignment import (
    NO_STRETCHES,
    Intervals,
    Stretches,
    blind_s,
    power_intervals,
    regular_times,
    spacing_s,
    timestamp_latency,
)
from joulelab.recording.trace import Readings
from joulelab.sensors.sensor import Channel, Quantity

__all__ = [
    "AVERAGE_S", "INSPECTED_READINGS", "NO_CHANGE_POINTS", "ChangePoints", "ComponentCurve",
    "EnergyCurve", "Pace", "Source", "UsedUntil", "channel_role", "counter_faults", "energy_curve",
    "freezes", "glitches", "implausible_power_w", "insufficient_power", "integrate", "is_long",
    "is_moving_average", "observed", "pace_of", "unread", "updates", "without_glitches",
]  # fmt: skip


@dataclass(frozen=True)
class Source:
    """The readings of one channel."""

    channel: Channel  # Its quantity is power or energy.
    readings: Readings  # W or J in order of time; NaN where the channel gave nothing.
    interval_s: float  # Time between two reads.
    points: ChangePoints = NO_CHANGE_POINTS  # Times at which power may have changed.
    repetition: Repetition = NO_REPETITION

    def as_shown(self) -> Source:
        """Return the source as its readings show its window."""
        channel, readings, interval_s, repetition = as_shown(
            self.channel, self.readings, self.interval_s
        )
        return Source(channel, readings, interval_s, self.points, repetition)


class ComponentCurve(NamedTuple):
    """Energy of one component over time, from all its sources."""

    channel: Channel  # The preferred source's; its name lists what else was used.
    curve: EnergyCurve
    sharp: EnergyCurve | None  # With restored steps, if the preferred source averages.
    sharp_at_s: Floats  # The change points at which steps were restored, in order.
    incidents: tuple[Incident, ...] = ()  # What the sources show about each other.

    def energy(self, start_s: Floats, stop_s: Floats) -> tuple[Floats, Floats, Floats]:
        """Return what :meth:`EnergyCurve.energy` does, with restored steps where possible."""
        plain = self.curve.energy(start_s, stop_s)
        if self.sharp is None:
            return plain
        chosen = np.isin(start_s, self.sharp_at_s) & np.isin(stop_s, self.sharp_at_s)
        sharp = self.sharp.energy(start_s, stop_s)
        energy_j, uncertainty_j, gap_s = (
            np.where(chosen, *pair) for pair in zip(sharp, plain, strict=True)
        )
        return energy_j, uncertainty_j, gap_s

    def unread_s(self, start_s: Floats, stop_s: Floats) -> Floats:
        """Return the time within spans of which only a longer stretch's energy is known."""
        return self.curve.unread_s(start_s, stop_s)


def energy_curve(sources: Sequence[Source], edges_s: Floats) -> ComponentCurve | None:
    """Return the energy of one component over time; ``None`` if there are too few readings.

    The preferred source (:attr:`Channel.priority`) is the first and gives the shape. A counter next
    to samples of power gives their scale; where the preferred source has a gap, another fills it. A
    counter that contradicts the power is left out, or the power is. Of a long recording the curve
    is exact near the ``edges_s`` of spans.
    """
    sources, contradictions = _without_contradictions([one.as_shown() for one in sources])
    for position, first in enumerate(sources):
        others = [
            other
            for other in sources[position + 1 :]
            if other.channel.provenance is first.channel.provenance
        ]
        combined = _combine(first, others, edges_s)
        if combined is None:
            continue
        channel, curve, leaps = combined
        incidents = (*contradictions, *leaps)
        if not is_averaged(first.channel):
            return ComponentCurve(channel, curve, None, np.zeros(0), incidents)
        readings, points_s = first.readings, first.points.time_s
        t_s = np.asarray(readings.t_ns * 1e-9, dtype=np.float64)
        sharpened = sharpen(first.channel, t_s, readings.value, first.interval_s, points_s)
        sharp = _combine(first, others, edges_s, sharpened)
        restored_s = points_s[sharpened.restored]
        return ComponentCurve(channel, curve, sharp and sharp[1], restored_s, incidents)
    return None


def _without_contradictions(
    sources: Sequence[Source],
) -> tuple[Sequence[Source], list[Incident]]:
    """Compare the sources of a component, and keep one of two that contradict each other.

    Power is compared with every counter, and what is left of each quantity with its first.
    """
    kept: list[Source | None] = [*sources]
    counters, powers = (
        [i for i, one in enumerate(sources) if one.channel.quantity is quantity]
        for quantity in (Quantity.ENERGY, Quantity.POWER)
    )
    pairs = [(powers[0], i) for i in counters if powers]
    pairs += [(some[0], i) for some in (counters, powers) for i in some[1:]]
    incidents: list[Incident] = []
    for i, k in pairs:
        one, other = kept[i], kept[k]
        found = one and other and _contradiction(one, other)
        if found:
            incidents.append(found.incident)
            used, left_out = (i, k) if found.used is one else (k, i)
            wider = widen(found.used.channel, found.ratio)
            kept[used], kept[left_out] = replace(found.used, channel=wider), None
    return [one for one in kept if one], incidents


class _Contradiction(NamedTuple):
    """What two sources of a component show that contradict each other."""

    used: Source
    ratio: float  # The other's energy over that of the source that is used.
    incident: Incident


def _contradiction(one: Source, other: Source) -> _Contradiction | None:
    """Compare two sources, of which the second is a counter if they differ in quantity."""
    if one.channel.provenance is not other.channel.provenance or _seem_to_agree(one, other):
        return None
    first_s, last_s = (other.readings.t_ns[[0, -1]] * 1e-9).tolist()
    edges_s = stretch_edges_s(other.channel, first_s, last_s, CHECK_UPDATES)
    curves = [_source_curve(source, edges_s) for source in (one, other)]
    if curves[0] is None or curves[1] is None:
        return None
    found = contradiction(one.channel, curves[0], other.channel, curves[1])
    if found is None:
        return None
    ratio, is_first, incident = found
    used = one if is_first else other
    return _Contradiction(used, ratio if is_first else 1 / ratio, incident)


def _seem_to_agree(one: Source, other: Source) -> bool:
    """Report at little cost whether a closer comparison of two sources is needless."""
    known = [_finite(source.readings) for source in (one, other)]
    if any(readings.t_ns.size < 2 for readings in known):
        return True
    first_ns = max(int(readings.t_ns[0]) for readings in known)
    last_ns = min(int(readings.t_ns[-1]) for readings in known)
    # Of a counter, only what is between two of its readings is known.
    for source, readings in zip((one, other), known, strict=True):
        inside = _within(readings, first_ns, last_ns)
        if source.channel.quantity is Quantity.ENERGY:
            if inside.t_ns.size < 2:
                return True
            first_ns, last_ns = int(inside.t_ns[0]), int(inside.t_ns[-1])
    means_w = []
    for source, readings in zip((one, other), known, strict=True):
        inside = _within(readings, first_ns, last_ns)
        if not inside.t_ns.size:
            return False
        if source.channel.quantity is Quantity.POWER:
            means_w.append(float(inside.value.mean()))
        else:
            took_s = float(inside.t_ns[-1] - inside.t_ns[0]) * 1e-9
            means_w.append(float(inside.value[-1] - inside.value[0]) / max(took_s, 1e-9))
    return abs(means_w[1] / max(means_w[0], 1e-9) - 1) < CONTRADICTION / 2


def _finite(readings: Readings) -> Readings:
    seen = np.isfinite(readings.value)
    return Readings(readings.t_ns[seen], readings.value[seen])


def _within(readings: Readings, first_ns: int, last_ns: int) -> Readings:
    start = np.searchsorted(readings.t_ns, first_ns)
    stop = np.searchsorted(readings.t_ns, last_ns, side="right")
    return Readings(readings.t_ns[start:stop], readings.value[start:stop])


def _combine(
    first: Source, others: Sequence[Source], edges_s: Floats, sharpened: Sharpened | None = None
) -> tuple[Channel, EnergyCurve, list[Incident]] | None:
    """Scale a source to the first counter among the others, and fill its gaps from all of them."""
    counter = next((one for one in others if can_scale(first.channel, one.channel)), None)
    if counter and (t_ns := counter.readings.t_ns).size:
        extent_s = float(t_ns[0]) * 1e-9, float(t_ns[-1]) * 1e-9
        edges_s = np.concatenate((edges_s, stretch_edges_s(counter.channel, *extent_s)))
    if sharpened:
        readings = Readings(np.rint(sharpened.t_s * 1e9).astype(np.int64), sharpened.power_w)
        channel = sharpened.channel
        source = Source(channel, readings, channel.update_period_s, first.points)
        curve = _source_curve(source, edges_s)
        curve = curve and sharpened_curve(curve, sharpened, first.channel.window_s)
    else:
        channel, curve = first.channel, _source_curve(first, edges_s)
    if curve is None:
        return None
    leaps: list[Incident] = []
    if counter and (counted := _source_curve(counter, edges_s)):
        counted, leaps = without_leaps(curve, counter.channel, counted)
        channel, curve = scale_to_counter(channel, curve, counter.channel, counted)
    for other in others:
        patch = _source_curve(other, np.concatenate((edges_s, curve.seams_s)))
        if patch:
            curve = fill_gaps(curve, patch)
    return channel, curve, leaps


def _source_curve(source: Source, edges_s: Floats) -> EnergyCurve | None:
    """Integrate the readings of one source, exactly near these edges."""
    kept = thin(source.channel, source.readings, source.interval_s, edges_s)
    points = source.points
    if kept.after.size:
        points = points.only(kept.near(points.time_s))
    channel = replace(source.channel, wrap=kept.wrap)
    left_out_s = np.asarray(kept.t_ns[kept.after] * 1e-9, dtype=np.float64)
    curve = integrate(
        channel, kept.t_ns, kept.value, source.interval_s, points, kept.stretches, left_out_s
    )
    return curve and replace(curve, repetition=source.repetition)


def integrate(
    channel: Channel,
    t_ns: Integers,
    value: Floats,
    interval_s: float,
    points: ChangePoints = NO_CHANGE_POINTS,
    stretches: Stretches = NO_STRETCHES,
    left_out_s: Floats = NO_TIMES,
) -> EnergyCurve | None:
    """Integrate the readings of one channel; ``None`` if there are too few.

    ``value`` is in W or J, NaN where the channel gave nothing; ``interval_s`` is the time between
    two reads, and ``stretches`` are power readings that thinning left out, after ``left_out_s``.
    """
    seen = np.isfinite(value)
    t = np.asarray(t_ns[seen] * 1e-9, dtype=np.float64)
    value = value[seen]
    is_counter = channel.quantity is Quantity.ENERGY
    unseen_s, jitter_s = blind_s(channel, interval_s), 0.0
    if is_counter:
        found = counter_intervals(channel, t, value, interval_s, left_out_s)
    else:
        # A sensor that is blind at times sees a power on either side of a change point.
        change = points.time_s if unseen_s > 0 else points.time_s[:0]
        if not channel.polled:
            t, jitter_s = regular_times(t, channel.update_period_s)
        found = power_intervals(channel, t, value, interval_s, change, stretches)
    if found is None:
        return None
    found = replace(found, power=(found.power - channel.offset_w) / channel.gain)
    smear_s = max(0.0, channel.window_s - channel.update_period_s)
    if smear_s == 0 and unseen_s == 0:
        split = _split(channel, found, points, jitter_s)
    else:
        split = _cut(channel, found, points, smear_s, spacing_s(channel, interval_s))
    parts, spread_w, latency_s, latency_uncertainty_s = split
    if smear_s == 0:
        at_end_w = variability.end_spread(found.power, found.plain)[parts.interval]
        spread_w = np.maximum(spread_w, at_end_w)
    length_s = np.diff(found.edges)[parts.interval]
    hidden_w = variability.hidden_share(channel, length_s) * np.abs(parts.power)
    spread_w = np.maximum(spread_w, hidden_w)
    if channel.update_period_s >= SLOW_S and unseen_s > 0:
        shown_w = variability.shown_spread(found, channel.time_uncertainty_s)
        spread_w = np.maximum(spread_w, shown_w[parts.interval])
        jitter_s = math.hypot(jitter_s, channel.time_uncertainty_s)
    variance_j2 = variability.part_variance_j2(
        channel, interval_s, found, parts, spread_w, stretches
    )
    return EnergyCurve(
        time_s=parts.edges,
        energy_j=np.concatenate(([0.0], np.cumsum(np.diff(parts.edges) * parts.power))),
        power_w=parts.power,
        spread_w=spread_w,
        interval_start_s=found.edges[:-1][parts.interval] - latency_s,
        interval_length_s=length_s,
        variance_j2=np.concatenate(([0.0], np.cumsum(variance_j2))),
        gap=found.gap[parts.interval],
        hole=found.hole[parts.interval],
        smear_s=smear_s,
        is_counter=is_counter,
        step_j=variability.step_j(channel, found) if is_counter else 0.0,
        latency_uncertainty_s=latency_uncertainty_s,
        jitter_s=jitter_s,
        max_age_s=found.max_age_s,
        variogram=_variogram(channel, found, points, smear_s, interval_s).at(parts.interval),
    )


def _variogram(
    channel: Channel, found: Intervals, points: ChangePoints, smear_s: float, interval_s: float
) -> variability.Variogram:
    """Estimate how energy varies between the readings, where they show it."""
    if blind_s(channel, interval_s) > 0:
        return variability.unknown_variogram(found.power.size)
    if smear_s > 0:
        apart_s = spacing_s(channel, interval_s)
        return variability.window_variogram(
            found.middle, found.power, found.plain, channel.window_s, apart_s
        )
    steady_s = np.diff(points.time_s, prepend=found.edges[:1], append=found.edges[-1:])
    if steady_s.max() < np.min(found.edges[4:] - found.edges[:-4], initial=math.inf):
        # No four intervals are without a change point.
        return variability.unknown_variogram(found.power.size)
    before = np.searchsorted(points.time_s, found.edges)
    return variability.interval_variogram(
        found.edges, found.power, found.plain & (before[1:] == before[:-1])
    )


_Split = tuple[Parts, Floats, float, float]
"""Parts on the clock of the change points; how far power may be from each part's mean; the latency
of the readings' own times, and its standard uncertainty."""


def _split(channel: Channel, found: Intervals, points: ChangePoints, jitter_s: float) -> _Split:
    """Split the intervals of a sensor that averages just these, by their neighbours' powers."""
    power, plain = found.power, found.plain
    steps = _steps(found.edges, power, ~plain)
    unknown_s = math.hypot(channel.time_uncertainty_s, found.latency_uncertainty_s)
    latency_s, left_s = timestamp_latency(steps, points.time_s, unknown_s, jitter_s)
    edges = found.edges - latency_s
    times = joined(points.time_s, steps - latency_s)
    parts = split_at_change_points(edges, power, plain, times, show_parts=points.show_parts)
    spread_w = variability.part_spread(parts)
    if points.show_parts and parts.unresolved.any():
        windows = edges[:-1], edges[1:]
        off_s = math.hypot(left_s, jitter_s, found.max_age_s / math.sqrt(12))
        parts, spread_w = split_by_state(parts, spread_w, power, plain, windows, points, off_s)
    return parts, spread_w, latency_s, left_s


def _cut(
    channel: Channel, found: Intervals, points: ChangePoints, smear_s: float, apart_s: float
) -> _Split:
    """Split the intervals of a sensor that averages less or more than these, by state."""
    power, plain = found.power, found.plain
    windows = found.middle - channel.window_s / 2, found.middle + channel.window_s / 2
    parts = cut_at_change_points(
        found.edges, power, plain, points.time_s, windows, show_parts=points.show_parts
    )
    reach = 1 + math.ceil(smear_s / apart_s)
    at_change = np.isin(found.edges[1:-1], points.time_s) & (smear_s == 0)
    neighbours_w = variability.interval_spread(power, reach, at_change)
    entering_w = variability.window_spread(channel, found, apart_s)
    spread_w = np.maximum(neighbours_w, entering_w)[parts.interval]
    if points.show_parts and parts.unresolved.any():
        off_s = math.hypot(channel.time_uncertainty_s, found.max_age_s / math.sqrt(12))
        parts, spread_w = split_by_state(parts, spread_w, power, plain, windows, points, off_s)
    return parts, spread_w, 0.0, channel.time_uncertainty_s


def _steps(edges: Floats, power: Floats, gap: Bools) -> Floats:
    """Return the times of plain steps.

    An interval of mean p between steady neighbours at a and b, p between a and b, had a at first
    and b after the share x of its length for which p = x a + (1 - x) b.
    """
    if power.size < 5:
        return np.zeros(0)
    a2, a, p, b, b2 = (power[i : power.size - 4 + i] for i in range(5))
    step = np.abs(b - a)
    steady = (np.abs(a - a2) + np.abs(b2 - b)) <= variability.STEP_FLATNESS * step
    inside = (np.minimum(a, b) < p) & (p < np.maximum(a, b))
    near_gap = np.logical_or.reduce([gap[i : power.size - 4 + i] for i in range(5)])
    at = np.flatnonzero(steady & inside & ~near_gap & (step > 0)) + 2
    a, p, b = power[at - 1], power[at], power[at + 1]
    return np.asarray(edges[at] + (p - b) / (a - b) * (edges[at + 1] - edges[at]))
