"""Energy counters: differences, wraps, faults, and the times of their updates.

A counter loses energy where it goes back without a wrap, jumps, stands still, or is not read for so
long that it may have wrapped more than once. None of these is a value: each becomes a gap.

A counter that updates each T and is polled each T or so shows, now and then, the energy of two
updates in one poll, or of none. When that happens reveals where in T the updates fall: of all
phases the true one makes power least rough.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from joulelab.arrays import Bools, Floats, Indices, Integers
from joulelab.energy.signal.implausible_power import MAX_LATENCY_S
from joulelab.energy.signal.polled_meters import SLOW_S, observed
from joulelab.energy.signal.timestamp_alignment import (
    GAP_FACTOR,
    Intervals,
    max_age_s,
    mean_age_s,
    spacing_s,
)
from joulelab.format import duration
from joulelab.parallel import each
from joulelab.recording.trace import Readings
from joulelab.sensors.plausibility import max_power_w, more_than_possible
from joulelab.sensors.sensor import Channel

MAX_SUSTAINED_W = 1000.0
"""No component with a counter that wraps draws more for long: until it could have wrapped twice at
this power, it wrapped at most once. RAPL is read often enough for that."""
STUCK_S = 2.0
STUCK_PERIODS = 20
"""A counter without a new value for this time and this number of update periods is stuck: any
device that is switched on draws more than one step of a counter in that time."""
READINGS_PER_BLOCK = 1 << 17
NO_TIMES = np.zeros(0)

POLLS_PER_PHASE = 256  # Enough to estimate a phase, which moves: clocks drift by some 10 ppm.
COHERENCE_S = 60.0  # Polls further apart than this do not share a phase.
AMBIGUOUS_SIGMAS = 2.0  # Polls this many standard uncertainties from an update may not show it.
MIN_POLLS = 32
MIN_ROUGHNESS = 1e-6  # Readings are rounded: no power is smoother than this share of itself.
MAX_UPDATES_PER_POLL = 20.0  # With more updates per poll, the age of a value does not matter.
PHASE_KNOWN = 0.5  # Largest uncertainty of a usable phase, in that of an unknown age.
MAX_AMBIGUOUS_UPDATES = 10  # How long a run of ambiguous polls may last, in updates or polls.


def counter_intervals(
    channel: Channel,
    t: Floats,
    energy: Floats,
    interval_s: float,
    left_out_s: Floats = NO_TIMES,
) -> Intervals | None:
    """Turn counter readings (finite, J) into intervals, between updates where polls reveal them.

    After the times ``left_out_s`` thinning left out readings; elsewhere, a long wait for the next
    reading is a hole: the counter shows its energy, and not when it was used.
    """
    if t.size < 2:
        return None
    rises = np.concatenate(([True], np.diff(t) > 0))
    t, energy = t[rises], energy[rises]
    spacing = spacing_s(channel, interval_s)
    steps = counter_steps(channel, t, energy, spacing)
    holes = unread(np.diff(t), spacing) & ~np.isin(t[:-1], left_out_s)
    unread_at_s = (t[:-1] + t[1:])[holes] / 2
    # The time for which a counter was stuck is one interval, with what it caught up, or a gap.
    within = np.zeros(t.size, dtype=bool)
    for stuck in (steps.caught_up, steps.stuck):
        within[1:-1] |= stuck[:-1] & stuck[1:]
    t = t[~within]
    difference = np.diff(np.concatenate(([0.0], np.cumsum(steps.energy_j)))[~within])
    gap = steps.unknown[~within[:-1]]
    if np.all(gap):
        return None
    power = difference / np.diff(t)
    if np.any(gap):
        known = np.flatnonzero(~gap)
        power = np.interp(np.arange(gap.size), known, power[known])
        difference = np.where(gap, power * np.diff(t), difference)
    if channel.polled:
        risen = np.concatenate(([0.0], np.cumsum(difference)))
        found = update_times(t - channel.delay_s, risen, channel.update_period_s, gap)
        if found is not None:
            kept = np.flatnonzero(found.keep)
            power = np.diff(risen[kept]) / np.diff(found.time_s)
            gap = np.logical_or.reduceat(gap[: kept[-1]], kept[:-1])
            new = _counter_intervals(found.time_s, power, gap, unread_at_s)
            return replace(new, latency_uncertainty_s=found.uncertainty_s)
    t = t - mean_age_s(channel)
    if channel.polled and channel.update_period_s > spacing / GAP_FACTOR:
        t, power, gap = _merge_unchanged(t, power, gap, difference)
    found_intervals = _counter_intervals(t, power, gap, unread_at_s)
    return replace(found_intervals, max_age_s=max_age_s(channel))


def unread(apart_s: Floats, spacing: float) -> Bools:
    """Find where a counter was not read for much longer than is usual."""
    if apart_s.max(initial=0.0) <= GAP_FACTOR * spacing:
        return np.zeros(apart_s.size, dtype=bool)
    usual_s = max(spacing, float(np.median(apart_s)))
    return np.asarray(apart_s > GAP_FACTOR * usual_s)


def _counter_intervals(t: Floats, power: Floats, gap: Bools, unread_at_s: Floats) -> Intervals:
    hole = np.zeros(power.size, dtype=bool)
    at = np.searchsorted(t, unread_at_s, side="right") - 1
    hole[at[(at >= 0) & (at < power.size)]] = True
    hole &= ~gap
    return Intervals(t, power, gap, np.full(power.size, -1), (t[:-1] + t[1:]) / 2, hole)


def _merge_unchanged(
    t: Floats, power: Floats, gap: Bools, difference: Floats
) -> tuple[Floats, Floats, Bools]:
    """Merge intervals without a new value into the next one that has one; drop those at the end."""
    shown = np.flatnonzero((difference != 0) | gap)
    if shown.size == 0:
        return t, power, gap
    ends = np.concatenate(([0], shown + 1))
    sums = np.add.reduceat(difference, ends[:-1])
    merged_t = t[ends]
    return merged_t, sums / np.diff(merged_t), np.logical_or.reduceat(gap, ends[:-1])


class CounterSteps(NamedTuple):
    """Energy between consecutive counter readings, and faults. Shapes: (readings - 1,)."""

    energy_j: Floats  # Differences, wraps undone.
    wrapped: Bools
    reset: Bools  # It went back without a wrap.
    jumped: Bools  # It counted more than any device can draw.
    unread: Bools  # It was not read for so long that it may have wrapped more than once.
    stuck: Bools  # It stood still and did not catch up.
    caught_up: Bools  # It stood still, and then counted what it had not shown.
    astray: Bools  # It showed another number for a while, and then went on as before.

    @property
    def unknown(self) -> Bools:
        """Where the energy is unknown."""
        return np.asarray(self.reset | self.jumped | self.unread | self.stuck | self.astray)


def counter_steps(channel: Channel, t_s: Floats, value: Floats, spacing: float) -> CounterSteps:
    """Return what a counter counted between readings that are usually ``spacing`` seconds apart."""
    energy, length = np.diff(value), np.diff(t_s)
    fell = energy < 0
    unwrapped = energy if channel.wrap is None else np.where(fell, energy + channel.wrap, energy)
    if is_faultless(channel, length, unwrapped, spacing, 1.0):
        return CounterSteps(unwrapped, fell, *[np.zeros(energy.size, dtype=bool)] * 6)
    # It may not have shown what it counted since it last changed.
    changed = np.where(energy != 0, np.arange(1, energy.size + 1), 0)
    since = np.maximum.accumulate(np.concatenate(([0], changed)))[:-1]
    counted_s = t_s[1:] - t_s[since] + channel.update_period_s
    most = max_power_w(channel) * (counted_s + _late_s(length, spacing))
    if channel.wrap is None:
        wrapped = unread = np.zeros(energy.size, dtype=bool)
    else:
        wrapped = fell & (unwrapped >= 0) & (unwrapped <= most)
        unread = (length > GAP_FACTOR * spacing) & (MAX_SUSTAINED_W * length >= channel.wrap)
        energy = np.where(wrapped, unwrapped, energy)
    stuck, caught_up = _stuck(channel, energy, length)
    reset, jumped = fell & ~wrapped, energy > most
    astray = _astray(channel, t_s, value, np.flatnonzero(reset | jumped))
    return CounterSteps(energy, wrapped, reset, jumped, unread, stuck, caught_up, astray)


def _late_s(length: Floats, spacing: float) -> Floats:
    """Bound by how much the timestamps at the ends of each step may be later than their values.

    Readings are made in turn: a late timestamp shows as a step that is longer, or shorter, than
    usual.
    """
    off_s = np.minimum(np.abs(length - spacing), MAX_LATENCY_S)
    late_s = off_s.copy()
    late_s[1:] = np.maximum(late_s[1:], off_s[:-1])
    late_s[:-1] = np.maximum(late_s[:-1], off_s[1:])
    return late_s


def _astray(channel: Channel, t_s: Floats, value: Floats, broken: Indices) -> Bools:
    """Find where a counter left its course at one ``broken`` step and came back at the next."""
    astray = np.zeros(max(value.size - 1, 0), dtype=bool)
    for left, back in pairwise(broken.tolist()):
        counted_j = value[back + 1] - value[left]
        took_s = t_s[back + 1] - t_s[left]
        if 0 <= counted_j <= max_power_w(channel) * (took_s + MAX_LATENCY_S):
            astray[left : back + 1] = True
    return astray


def is_faultless(
    channel: Channel,
    length: Floats | Integers,
    energy: Floats,
    spacing: float,
    unit_s: float = 1e-9,
) -> bool:
    """Report whether a counter plainly rose, from times and energies between its readings.

    The lengths of these times are in units of ``unit_s``.
    """
    if energy.size == 0:
        return True
    in_time = channel.wrap is None or float(length.max()) * unit_s <= GAP_FACTOR * spacing
    # No step may count less: see :func:`_late_s`.
    rises = float(energy.min()) > 0 and float(energy.max()) <= max_power_w(channel) * spacing
    return rises and in_time and float(length.min()) > 0


def _stuck(channel: Channel, energy: Floats, length: Floats) -> tuple[Bools, Bools]:
    """Find where a counter was stuck for good, and where it caught up afterwards.

    A counter that counted nothing resumes with the power of its neighbours; one that only did not
    show it resumes with all that it had not shown, which is no more than can have been used.
    """
    stuck, caught_up = (np.zeros(energy.size, dtype=bool) for _ in range(2))
    since = np.concatenate(([0.0], np.cumsum(length)))
    long_s = max(STUCK_S, STUCK_PERIODS * channel.update_period_s)
    for start, stop in _runs(energy == 0):
        length_s = since[stop] - since[start]
        if length_s < long_s:
            continue
        rising = [i for i in (start - 1, stop + 1) if 0 <= i < energy.size and energy[i] > 0]
        if stop < energy.size and rising:
            neighbours_w = np.mean([energy[i] / length[i] for i in rising])
            most_j = max_power_w(channel) * (length_s + length[stop] + MAX_LATENCY_S)
            if neighbours_w * (length[stop] + length_s / 2) < energy[stop] <= most_j:
                caught_up[start : stop + 1] = True
                continue
        stuck[start:stop] = True
    return stuck, caught_up


def _runs(flags: Bools) -> list[tuple[int, int]]:
    """Return the start and the end of each run of true values."""
    ends = np.diff(np.concatenate(([False], flags, [False])).astype(np.int8))
    starts, stops = np.flatnonzero(ends > 0), np.flatnonzero(ends < 0)
    return list(zip(starts.tolist(), stops.tolist(), strict=True))


def counter_faults(
    channel: Channel, readings: Readings, interval_s: float
) -> Iterator[tuple[float, float, str]]:
    """Yield each stretch in which a counter lost energy: start, stop and what happened."""
    channel, readings, interval_s = observed(channel, readings, interval_s)
    spacing = max(channel.update_period_s, interval_s)
    firsts = range(0, readings.t_ns.size - 1, READINGS_PER_BLOCK)
    for found in each(lambda first: _faults_in_block(channel, readings, first, spacing), firsts):
        yield from found


def _faults_in_block(
    channel: Channel, readings: Readings, first: int, spacing: float
) -> list[tuple[float, float, str]]:
    t_ns = np.ascontiguousarray(readings.t_ns[first : first + READINGS_PER_BLOCK + 1])
    value = np.ascontiguousarray(readings.value[first : first + READINGS_PER_BLOCK + 1])
    if is_faultless(channel, np.diff(t_ns), np.diff(value), spacing):
        return []
    use = np.isfinite(value) & (np.diff(t_ns, prepend=t_ns[0] - 1) > 0)
    t_s = np.asarray(t_ns[use] * 1e-9, dtype=np.float64)
    steps = counter_steps(channel, t_s, value[use], spacing)
    found = []
    for flags, text in (
        (steps.reset, "was reset"),
        (steps.jumped & ~steps.unread, f"jumped by {more_than_possible(channel)}"),
        (steps.unread, "was read too late to detect every wrap"),
        (steps.stuck, "did not advance for {}"),
    ):
        for start, stop in _runs(flags):
            start_s, stop_s = float(t_s[start]), float(t_s[stop])
            found.append((start_s, stop_s, text.format(duration(stop_s - start_s))))
    return found


class CounterUpdates(NamedTuple):
    """The updates of a polled counter."""

    keep: Bools  # Whether a poll certainly showed a new update. Shape: (polls,).
    time_s: Floats  # When these updates were. Shape: (polls kept,).
    uncertainty_s: float  # Standard uncertainty of these times, nearly the same for all.


def update_times(
    t: Floats, energy: Floats, period_s: float, gap: Bools | bool = False
) -> CounterUpdates | None:
    """Estimate the times of a counter's updates from its polled values.

    Between two polls there are n(phase) updates, and power was P = ΔE / (n T). Differences of
    consecutive powers are taken to follow Laplace's distribution, so that steps of the load do not
    count for much; its scale unknown, a phase has the likelihood (Σ |ΔP|)^-m for m differences.
    Half of them are counted, since each power is in two. Polls so near to an update that it may lie
    on either side are left out. A ``gap`` between two polls separates two phases. ``None`` where
    the polls are in step with the updates or the load is too uneven to find the phase, or where the
    phase is unknown for too long.
    """
    if t.size < MIN_POLLS or np.median(np.diff(t)) > MAX_UPDATES_PER_POLL * period_s:
        return None
    time_s = np.empty_like(t)
    sure = np.empty(t.size, dtype=bool)
    variances = []
    runs = np.split(np.arange(t.size), np.flatnonzero(gap | (np.diff(t) > COHERENCE_S)) + 1)
    for run in runs:
        for block in np.array_split(run, math.ceil(run.size / POLLS_PER_PHASE)):
            phase_s, uncertainty_s = _phase(t[block], energy[block], period_s)
            if uncertainty_s > PHASE_KNOWN * period_s / math.sqrt(12):
                return None
            updates = (t[block] - phase_s) / period_s
            time_s[block] = phase_s + period_s * np.floor(updates)
            from_update_s = np.abs(updates - np.rint(updates)) * period_s
            sure[block] = from_update_s > AMBIGUOUS_SIGMAS * uncertainty_s
            variances.append(uncertainty_s**2)
    # Between two sure polls, or at an end, there may be polls that are not.
    position = np.concatenate(([0], np.flatnonzero(sure), [t.size - 1]))
    left_out_s = np.diff(t[position])[np.diff(position) > 1]
    longest_s = MAX_AMBIGUOUS_UPDATES * max(period_s, float(np.median(np.diff(t))))
    if not sure.any() or np.max(left_out_s, initial=0.0) > longest_s:
        return None
    at_ends_s = max(t[position[1]] - t[0], t[-1] - t[position[-2]])
    if period_s >= SLOW_S and at_ends_s > GAP_FACTOR * max(period_s, float(np.median(np.diff(t)))):
        # What a slow meter counted after its last sure update is seconds of energy.
        return None
    keep = sure.copy()
    keep[sure] = np.diff(time_s[sure], prepend=-math.inf) > period_s / 2
    return CounterUpdates(keep, time_s[keep], math.sqrt(float(np.mean(variances))))


def _phase(t: Floats, energy: Floats, period_s: float) -> tuple[float, float]:
    """Estimate where in T the updates fall, and its standard uncertainty (circular statistics)."""
    if t.size < MIN_POLLS:
        return 0.0, period_s
    # Between two polls, modulo T, all phases are equally likely.
    rests_s = np.sort(t % period_s)
    widths_s = np.diff(rests_s, append=rests_s[0] + period_s)
    phases_s = rests_s + widths_s / 2
    count = np.diff(np.floor((t - phases_s[:, None]) / period_s), axis=1)
    gained = np.diff(energy)
    # A poll without an update shows no energy; one that does rules the phase out.
    impossible = np.any((count == 0) & (gained > 0), axis=1)
    if impossible.all():
        return 0.0, period_s
    power_w = gained / np.maximum(count, 1) / period_s
    rough_w = np.abs(np.diff(power_w, axis=1)).mean(axis=1)
    least_w = MIN_ROUGHNESS * float(np.abs(power_w).mean()) + np.finfo(float).tiny
    log_likelihood = -(t.size - 2) / 2 * np.log(rough_w + least_w)
    log_likelihood[impossible] = -np.inf
    weight = widths_s * np.exp(log_likelihood - log_likelihood.max())
    weight /= weight.sum()
    mean = weight @ np.exp(2j * np.pi * phases_s / period_s)
    length = min(max(float(abs(mean)), 1e-12), 1.0)
    between_s = period_s / (2 * math.pi) * math.sqrt(-2 * math.log(length))
    within_s = math.sqrt(float(weight @ widths_s**2) / 12)
    return float(np.angle(mean)) / (2 * math.pi) * period_s, math.hypot(between_s, within_s)
