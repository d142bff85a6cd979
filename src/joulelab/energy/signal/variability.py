"""Within-interval variability: how far power may be from its mean within an interval of a sensor.

*Spread* bounds it: by the neighbouring intervals, and by what a sensor's window hides.

The *variogram* estimates it where power changes all the time and faster than it is read. A sensor
reports how much energy went by, not when within its interval. Energy less its steady growth is then
a random function that is known at some points. Its variogram is taken as a power of the distance,
γ(τ) = c τ^a with 0 ≤ a < 2 (Matheron, *Principles of geostatistics*, Economic Geology 58, 1963):
a = 0 for a load that comes and goes much faster than the readings, 1 for power that is independent
from one moment to the next. For weights λ that take a constant and a straight line to zero,
Σ λ_i E(t_i) has the variance -Σ λ_i λ_j γ(t_i - t_j). Omitting readings determines c and a: by how
far energy at one is from the straight line between its neighbours, and between their neighbours.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from joulelab.arrays import Bools, Floats, Indices, sums_around
from joulelab.energy.signal.change_points import Parts
from joulelab.energy.signal.timestamp_alignment import (
    MAD_TO_SIGMA,
    Intervals,
    Stretches,
    blind_s,
)
from joulelab.sensors.sensor import Channel, Quantity

EDGE_SHAPE = 1 / math.sqrt(3)  # An edge's error is rectangular within its bound (GUM 4.3.7).
MIN_READINGS_FOR_NOISE = 25
STEP_FLATNESS = 0.1
"""Power counts as stepping within an interval when its neighbours on either side differ from
their own outer neighbours by less than this share of the step."""
HIDDEN_SHARE = 0.12
HIDDEN_SCALE_S = 0.1
"""What a sensor's window hides: power within a window of 0.1 s may be off its mean by this share,
and by more within longer ones, with the fourth root of their length. While an H100 trained and ran
16 models (93 spans), readings of 20 ms had standard deviations (median of spans) of 7 % about the
means over 0.1 s, and of 11 % over 1 s: rectangular, sqrt(3) of these. Readings that are all equal
do not prove that power is."""

NOTABLE_STEP = 0.01  # A counter's step below this share of an interval's energy does not matter.
SHORTEST_PHASE_S, PHASE_S = 5.0, 20.0
"""Between two steps of a counter as far apart, a machine may work for a while and rest."""
POOL = 32  # Number of intervals, or of windows' lengths, that share a variogram.
MIN_POOL = 8  # With fewer of them, the variogram is unknown.
SAMPLES_PER_WINDOW = 4  # Overlapping windows are sampled this often in each of their lengths.
SIMILAR = 1.6  # Two intervals are similar if neither is this many times as long.
MAX_EXPONENT = 1.9
"""A variogram grows more slowly than the square of the distance: what looks smoother may be a load
that is nearly in step with the readings."""
SAME_S = 1e-9  # Times that are no further apart are the same.
BY_NOISE = 3.0  # Noise rarely explains a difference of more standard deviations.


def interval_spread(power: Floats, reach: int, at_change: Bools) -> Floats:
    """Bound how far power may be from each interval's mean: as far as its neighbours' means are.

    ``reach`` neighbours on either side count; where ``at_change`` says that a change point
    separates an interval and the next, they do so for :data:`STEP_FLATNESS` of the step between
    them.
    """
    spread = np.zeros(power.size)
    for step in range(1, min(reach, power.size - 1) + 1):
        apart = np.abs(power[step:] - power[:-step])
        if step == 1:
            apart = np.where(at_change, STEP_FLATNESS * apart, apart)
        np.maximum(spread[step:], apart, out=spread[step:])
        np.maximum(spread[:-step], apart, out=spread[:-step])
    return spread


def part_spread(parts: Parts) -> Floats:
    """Bound power around each part's mean: by its neighbours, and by what these did not explain."""
    at_change = parts.interval[1:] == parts.interval[:-1]
    return interval_spread(parts.power, 1, at_change) + parts.unexplained[parts.interval]


def end_spread(power: Floats, plain: Bools) -> Floats:
    """Bound power around the means of the first and the last interval. Shape: (intervals,).

    Only one neighbour of these was read. If their mean differs from its power, power stepped within
    them, possibly to any power that was read around; 0 for all other intervals.
    """
    spread = np.zeros(power.size)
    for end, inwards in ((0, 1), (-1, -1)):
        near, known = power[::inwards][: POOL + 1], plain[::inwards][: POOL + 1]
        if known.size < 3 or not known[:2].all():
            continue
        off = near[0] - near[1]
        reached = near[known]
        step = reached.max() - near[1] if off > 0 else near[1] - reached.min()
        spread[end] = step if abs(off) > STEP_FLATNESS * step else 0.0
    return spread


def window_spread(channel: Channel, found: Intervals, apart_s: float) -> Floats:
    """Bound power within averages over overlapping windows of length W by what enters these.

    An average rises in τ by τ / W times the difference between the power that enters its window and
    the power that leaves it, W earlier. Differences show what averages hardly do: a load of about
    one period a window. Power may be as far from an interval's mean as it was from itself one W
    away, within W on either side, less what noise explains. τ is two intervals, ``apart_s`` each,
    since a poll may miss an update or repeat one. Shape: (intervals,).
    """
    count = found.power.size
    spread = np.zeros(count)
    each_s = float(np.median(np.diff(found.middle))) if count > 1 else apart_s
    step = max(1, round(2 * apart_s / each_s))
    if count <= step or channel.window_s <= 2 * apart_s:
        return spread
    unusable = np.append(0, np.cumsum(~found.plain))
    known = unusable[step + 1 :] == unusable[: count - step]
    took_s = np.maximum(found.middle[step:] - found.middle[:-step], 2 * apart_s)
    by_noise_w = BY_NOISE * math.sqrt(2) * _noise_w(found.power, found.plain)
    rise_w2 = (found.power[step:] - found.power[:-step]) ** 2 - by_noise_w**2
    differ_w = np.sqrt(np.maximum(rise_w2, 0.0)) * channel.window_s / took_s
    spread[step // 2 : step // 2 + count - step] = np.where(known, differ_w, 0.0)
    return np.asarray(_around(spread, math.ceil(channel.window_s / each_s)).max(axis=1))


def shown_spread(found: Intervals, time_uncertainty_s: float) -> Floats:
    """Bound power around each interval's mean by what a slow meter showed around it.

    Power may be any that was shown within the time by which a reading may be off: sqrt(12) u, with
    the standard uncertainty u of its time (rectangular, GUM 4.3.7). A value may thus also be held
    for longer than readings are apart. In between, power may be any that was shown in
    32 times as long (:data:`POOL`), by the share of :data:`SHORTEST_PHASE_S` that went unseen.
    Shape: (intervals,).
    """
    if not found.plain.any():
        return np.zeros(found.power.size)
    each_s = float(np.median(np.diff(found.edges)[found.plain]))
    apart_s = max(each_s, math.sqrt(3) * time_uncertainty_s)
    known_w = np.where(found.plain, found.power, np.nan)
    near_w, around_w = (
        _largest_distance(known_w, math.ceil(reach_s / each_s))
        for reach_s in (math.sqrt(12) * time_uncertainty_s, POOL * apart_s)
    )
    share = min(apart_s / SHORTEST_PHASE_S, 1.0)
    return np.asarray(np.maximum(near_w, share * around_w))


def _largest_distance(power_w: Floats, reach: int) -> Floats:
    """Return how far each power is from the lowest and the highest within reach."""
    around = _around(power_w, reach)
    low, high = np.fmin.reduce(around, axis=1), np.fmax.reduce(around, axis=1)
    return np.asarray(np.nan_to_num(np.maximum(high - power_w, power_w - low)))


def _around(values: Floats, reach: int) -> Floats:
    """Return the values within reach of each; those at the ends count for what is beyond."""
    reach = min(reach, values.size)
    padded = np.pad(values, reach, mode="edge")
    return np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1)


def hidden_share(channel: Channel, length_s: Floats) -> Floats:
    """Return the share by which power may be off its mean within intervals of this length.

    A power sensor hides what happens within its own window: between windows, readings show it.
    """
    is_counter = channel.quantity is Quantity.ENERGY
    if not is_counter and channel.window_s > 0:
        return np.full_like(length_s, hidden_within(np.array(channel.window_s)))
    hidden = hidden_within(length_s)
    if not is_counter:
        return hidden
    phases = np.minimum(length_s / PHASE_S, 1.0)
    return np.where(length_s > SHORTEST_PHASE_S, np.maximum(hidden, phases), hidden)


def hidden_within(window_s: Floats) -> Floats:
    """Return the share by which power may be off its mean within windows of this length."""
    # Two roots take a fifth of the time of a power.
    root = np.sqrt(np.sqrt(window_s / HIDDEN_SCALE_S))
    return np.asarray(np.minimum(HIDDEN_SHARE * root, 1.0))


def step_j(channel: Channel, found: Intervals) -> float:
    """Return the step of a counter if it matters, J: at most what an interval counts."""
    if channel.resolution == 0 or not found.plain.any():
        return 0.0
    usual_j = float(np.median((np.diff(found.edges) * found.power)[found.plain]))
    step = min(channel.resolution / channel.gain, usual_j)
    return step if step > NOTABLE_STEP * usual_j else 0.0


def part_variance_j2(
    channel: Channel,
    interval_s: float,
    found: Intervals,
    parts: Parts,
    spread: Floats,
    stretches: Stretches,
) -> Floats:
    """Return the variance of each part's own energy, independent of the others'.

    That of gaps is added for each span (:mod:`~joulelab.energy.signal.missing_readings`).
    """
    length = np.diff(parts.edges)
    if channel.quantity is Quantity.ENERGY:
        return np.zeros_like(length)
    unseen_s = np.where(found.gap[parts.interval], 0.0, blind_s(channel, interval_s))
    variance = (np.minimum(unseen_s, length) * spread * EDGE_SHAPE) ** 2
    noise_w = _noise_w(found.power, found.plain)
    reading_w2 = noise_w**2 + (channel.resolution / channel.gain) ** 2 / 12
    # A polled value is of any age up to the maximum, which moves the boundary between two powers.
    moved_s2 = found.max_age_s**2 / 12
    jump = np.diff(parts.power, prepend=parts.power[:1])
    variance += length**2 * reading_w2 + moved_s2 * jump**2
    if not stretches.after.size:
        return variance
    at = np.flatnonzero(found.stretch[parts.interval] >= 0)
    stretch = found.stretch[parts.interval[at]]
    readings, jump_w2 = stretches.readings[stretch], stretches.jump_w2[stretch] / channel.gain**2
    each_s = length[at] / readings
    hidden_w = hidden_share(channel, each_s) * parts.power[at]
    # Of each reading's two neighbours the one further from it counts: at most both.
    spread_w2 = 2 * jump_w2 + readings * hidden_w**2
    variance[at] = readings * each_s**2 * reading_w2 + moved_s2 * jump_w2
    variance[at] += (np.minimum(unseen_s[at], each_s) * EDGE_SHAPE) ** 2 * spread_w2
    return variance


def _noise_w(power: Floats, plain: Bools) -> float:
    """Return the standard deviation of the readings' own noise: that of their second differences.

    By the median, so that loads that come and go do not count (Gasser, Sroka, Jennen-Steinmetz,
    Biometrika 73, 1986, for the pseudo-residuals; variance 6 for weights 1, -2, 1).
    """
    if power.size < MIN_READINGS_FOR_NOISE:
        return 0.0
    residual = np.abs(np.diff(power, 2))[plain[:-2] & plain[1:-1] & plain[2:]]
    return MAD_TO_SIGMA * float(np.median(residual)) / math.sqrt(6) if residual.size else 0.0


class Variogram(NamedTuple):
    """Variogram of energy around some points. Shapes: (points,)."""

    middle_j2: Floats  # Variance halfway through L, when both ends are known; 0 if unknown.
    exponent: Floats  # a
    length_s: Floats  # L

    def at(self, index: Indices) -> Variogram:
        """Select points."""
        return Variogram(*(column[index] for column in self))

    def variance_j2(self, at_s: Floats, weight: Floats) -> Floats:
        """Return the variance of weighted sums of energies at some times. Shapes: (times, points).

        The weights take a constant and a straight line to zero.
        """
        one, other = np.triu_indices(len(at_s), 1)
        apart_s = np.abs(at_s[one] - at_s[other])
        share = np.maximum(apart_s, SAME_S) / self.length_s
        grown = np.where(apart_s > SAME_S, share**self.exponent, 0.0)
        variance = -2 * np.einsum("kp,kp,kp->p", weight[one], weight[other], grown)
        # The variance halfway between two known points one apart, for γ(τ) = τ^a.
        halfway = 2 * np.exp2(-self.exponent) - 0.5
        return np.asarray(self.middle_j2 * np.maximum(variance, 0.0) / halfway)


def unknown_variogram(count: int) -> Variogram:
    """Return a variogram that adds no variance."""
    return Variogram(np.zeros(count), np.ones(count), np.ones(count))


def interval_variogram(edges_s: Floats, power_w: Floats, usable: Bools) -> Variogram:
    """Estimate the variogram around consecutive intervals from the ``usable`` ones."""
    unusable = np.append(0, np.cumsum(~usable))
    # A deviation from a line needs two intervals on either side.
    if np.count_nonzero(unusable[4:] == unusable[:-4]) < MIN_POOL:
        return unknown_variogram(power_w.size)
    length_s = np.diff(edges_s)
    energy_j = np.append(0.0, np.cumsum(length_s * power_w))
    single, double = (_interval_deviations(edges_s, energy_j, unusable, reach) for reach in (1, 2))
    return _fit(single, double, float(np.median(length_s)), 1)


def window_variogram(
    middle_s: Floats, power_w: Floats, usable: Bools, window_s: float, each_s: float
) -> Variogram:
    """Estimate the variogram around means over overlapping windows, ``each_s`` apart."""
    apart = max(1, round(window_s / each_s))  # Windows this far apart do not overlap.
    known_w = np.where(usable, power_w, np.nan)
    every = max(1, apart // SAMPLES_PER_WINDOW)
    single, double = (
        _Deviations.of(
            _window_deviation_j(
                middle_s, known_w, window_s, each_s, [k * apart for k in range(count)]
            )[::every]
        )
        for count in (2, 4)
    )
    law = _fit(single, double, window_s, apart // every)
    return law.at(np.arange(power_w.size) // every)


class _Deviations(NamedTuple):
    """How far energy at some points is from straight lines between others."""

    root: Floats  # Square root of its amount, 0 where it is unknown. Shape: (points,).
    is_known: Bools

    @classmethod
    def of(cls, off_j: Floats) -> _Deviations:
        """Take those that are not NaN."""
        is_known = np.isfinite(off_j)
        return cls(np.sqrt(np.abs(np.where(is_known, off_j, 0.0))), is_known)


def _interval_deviations(
    edges_s: Floats, energy_j: Floats, unusable: Indices, reach: int
) -> _Deviations:
    """Return how far energy after each interval is from a line between those ``reach`` away.

    Energy and the number of unusable intervals are running sums at the edges.
    """
    count = edges_s.size - 1
    found = _Deviations(np.zeros(count), np.zeros(count, dtype=bool))
    middle = np.flatnonzero(unusable[2 * reach :] == unusable[: -2 * reach]) + reach
    first, last = middle - reach, middle + reach
    before_s, after_s = edges_s[middle] - edges_s[first], edges_s[last] - edges_s[middle]
    similar = np.maximum(before_s, after_s) < SIMILAR * np.minimum(before_s, after_s)
    share = before_s / (before_s + after_s)
    line_j = energy_j[first] + share * (energy_j[last] - energy_j[first])
    at = middle[similar] - 1
    found.root[at] = np.sqrt(np.abs(energy_j[middle] - line_j)[similar])
    found.is_known[at] = True
    return found


def _window_deviation_j(
    middle_s: Floats, power_w: Floats, window_s: float, each_s: float, offsets: list[int]
) -> Floats:
    """Return how far energy amid windows is from a straight line, J; NaN if one is missing."""
    off_j = np.full(power_w.size, np.nan)
    reach = offsets[-1]
    count = power_w.size - reach
    if count <= 0:
        return off_j
    parts = [power_w[offset : offset + count] for offset in offsets]
    half = len(parts) // 2
    found_j = window_s / 2 * (np.sum(parts[:half], axis=0) - np.sum(parts[half:], axis=0))
    took_s = middle_s[reach:] - middle_s[:count]
    found_j[np.abs(took_s - reach * each_s) > each_s] = np.nan
    off_j[reach // 2 : reach // 2 + count] = found_j
    return off_j


def _fit(single: _Deviations, double: _Deviations, length_s: float, each: int) -> Variogram:
    """Fit c and a to deviations of energy from lines over L and 2 L, with ``each`` points in L."""
    single_j2, double_j2 = _pooled_variance_j2(single, each), _pooled_variance_j2(double, each)
    known = (single_j2 > 0) & np.isfinite(double_j2)
    ratio = np.divide(double_j2, single_j2, out=np.ones_like(single_j2), where=known)
    exponent = np.clip(np.log2(np.maximum(ratio, 1.0)), 0.0, MAX_EXPONENT)
    # The deviation is known at the middle of 2 L.
    middle_j2 = np.where(known, single_j2 * np.exp2(-exponent), 0.0)
    return Variogram(middle_j2, exponent, np.full(single_j2.size, length_s))


def _pooled_variance_j2(off: _Deviations, each: int) -> Floats:
    """Return the variance of the known deviations around each point, or of all if too few are.

    Rare steps count for little: (mean |x|^(1/2))^4 / (0.457 + 0.494 / N), N the number of x
    (Cressie and Hawkins, *Robust estimation of the variogram I*, Math. Geol. 12, 1980). NaN where
    too few are known at all. J².
    """
    reach = POOL * each // 2
    count, total = (sums_around(values, reach, reach) for values in (off.is_known, off.root))
    few = count < MIN_POOL * each
    if few.any():
        count = np.where(few, np.count_nonzero(off.is_known), count)
        total = np.where(few, off.root.sum(), total)
    at_least_one = np.maximum(count, 1.0)
    mean = np.maximum(total, 0.0) / at_least_one
    variance_j2 = np.square(np.square(mean)) / (0.457 + 0.494 / at_least_one)
    return np.where(count >= MIN_POOL * each, variance_j2, np.nan)
