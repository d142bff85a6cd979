"""How energy wanders between readings, told from how it wanders from reading to reading.

A sensor says how much energy went by, not when within its interval. Where power changes all the
time and faster than it is read, energy less its steady growth is a random function of which some
points are known. Its variogram is taken as a power of the distance, γ(τ) = c τ^a with 0 ≤ a < 2
(Matheron, *Principles of geostatistics*, Economic Geology 58, 1963): a = 0 for a load that comes
and goes much faster than the readings, 1 for power that is independent from one moment to the next.
For weights λ that take a constant and a straight line to zero, Σ λ_i E(t_i) has the variance
-Σ λ_i λ_j γ(t_i - t_j). Readings that are passed over tell c and a: how far energy at one is from
the straight line between those on either side, and between those two away.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Indices = NDArray[np.intp]

POOL = 32
"""Intervals, or windows' lengths, that share a law."""
LEAST = 8
"""Fewer of them tell nothing."""
WITHIN = 4
"""Overlapping windows are looked at so many times in each of their lengths."""
ALIKE = 1.6
"""Intervals on either side of a reading are alike when none is this many times as long."""
STEEPEST = 1.9
"""A variogram grows more slowly than the square of the distance: what looks smoother may be a load
that nearly keeps step with the readings."""
SAME_S = 1e-9
"""Times that are no further apart are the same."""


class Variogram(NamedTuple):
    """The law by which energy wanders. Shapes: (places,) each.

    Attributes:
        middle_j2: Variance of energy half way through L when it is known at both ends, J²; 0
            where readings do not tell.
        exponent: a.
        length_s: L.
    """

    middle_j2: Floats
    exponent: Floats
    length_s: Floats

    def at(self, index: Indices) -> Variogram:
        """That of some places."""
        return Variogram(*(column[index] for column in self))

    def variance_j2(self, at_s: Floats, weight: Floats) -> Floats:
        """The variance of the sum of energies at some times by their weights. Shape: (places,).

        Args:
            at_s: Times. Shape: (places, times).
            weight: They take a constant and a straight line to zero. Shape: (places, times).

        Example:
            >>> law = Variogram(np.array([4.0]), np.array([1.0]), np.array([2.0]))
            >>> ends_and_middle = np.array([[0.0, 2.0, 1.0]]), np.array([[0.5, 0.5, -1.0]])
            >>> law.variance_j2(*ends_and_middle).round(9).tolist()
            [4.0]
        """
        apart_s = np.abs(at_s[:, :, None] - at_s[:, None, :])
        share = np.maximum(apart_s, SAME_S) / self.length_s[:, None, None]
        grown = np.where(apart_s > SAME_S, share ** self.exponent[:, None, None], 0.0)
        variance = -np.einsum("pi,pij,pj->p", weight, grown, weight)
        return np.asarray(self.middle_j2 * np.maximum(variance, 0.0) / _of_middle(self.exponent))


def unknown(count: int) -> Variogram:
    """Readings tell nothing of it."""
    return Variogram(np.zeros(count), np.ones(count), np.ones(count))


def of_intervals(edges_s: Floats, power_w: Floats, usable: Bools) -> Variogram:
    """The law around intervals that follow each other.

    Args:
        edges_s: Where they meet. Shape: (intervals + 1,).
        power_w: Mean power of each. Shape: (intervals,).
        usable: Those that show what power does by itself: no gap, no mark. Shape: (intervals,).
    """
    single_j = _off_line(edges_s, power_w, usable, 1)
    double_j = _off_line(edges_s, power_w, usable, 2)
    return _law(single_j, double_j, float(np.median(np.diff(edges_s))), 1)


def of_windows(
    middle_s: Floats, power_w: Floats, usable: Bools, window_s: float, each_s: float
) -> Variogram:
    """The law around means over windows that overlap: those a whole window apart do not.

    Args:
        middle_s: Middles of the windows, in order. Shape: (windows,).
        power_w: Means over them. Shape: (windows,).
        usable: Those that show what power does by itself. Shape: (windows,).
        window_s: How long each is.
        each_s: How far they are apart.
    """
    apart = max(1, round(window_s / each_s))
    known_w = np.where(usable, power_w, np.nan)
    single_j, double_j = (
        _windows_off_line(middle_s, known_w, window_s, each_s, [k * apart for k in range(count)])
        for count in (2, 4)
    )
    every = max(1, apart // WITHIN)
    law = _law(single_j[::every], double_j[::every], window_s, apart // every)
    return law.at(np.arange(power_w.size) // every)


def _off_line(edges_s: Floats, power_w: Floats, usable: Bools, reach: int) -> Floats:
    """How far energy at the end of each interval is from a straight line, J.

    The line goes from so many intervals before it to as many after it. NaN where these are not
    usable, or not alike. Shape: (intervals,).
    """
    count = power_w.size
    off_j = np.full(count, np.nan)
    if count < 2 * reach:
        return off_j
    energy_j = np.append(0.0, np.cumsum(np.diff(edges_s) * power_w))
    unusable = np.append(0, np.cumsum(~usable))
    first, middle, last = (slice(k * reach, count + 1 - (2 - k) * reach) for k in range(3))
    before_s, after_s = edges_s[middle] - edges_s[first], edges_s[last] - edges_s[middle]
    share = before_s / (before_s + after_s)
    line_j = energy_j[first] + share * (energy_j[last] - energy_j[first])
    alike = np.maximum(before_s, after_s) < ALIKE * np.minimum(before_s, after_s)
    told = (unusable[last] == unusable[first]) & alike
    off_j[reach - 1 : count - reach] = np.where(told, energy_j[middle] - line_j, np.nan)
    return off_j


def _windows_off_line(
    middle_s: Floats, power_w: Floats, window_s: float, each_s: float, offsets: list[int]
) -> Floats:
    """How far energy in the middle of some windows side by side is from a straight line, J.

    NaN where one of them is missing. Shape: (windows,).
    """
    off_j = np.full(power_w.size, np.nan)
    reach = offsets[-1]
    count = power_w.size - reach
    if count <= 0:
        return off_j
    parts = [power_w[offset : offset + count] for offset in offsets]
    half = len(parts) // 2
    told_j = window_s / 2 * (np.sum(parts[:half], axis=0) - np.sum(parts[half:], axis=0))
    took_s = middle_s[reach:] - middle_s[:count]
    told_j[np.abs(took_s - reach * each_s) > each_s] = np.nan
    off_j[reach // 2 : reach // 2 + count] = told_j
    return off_j


def _law(single_j: Floats, double_j: Floats, length_s: float, each: int) -> Variogram:
    """C and a, from how far energy is from straight lines over L on either side, and over 2 L.

    Args:
        single_j: Over L; NaN where it is not known. Shape: (places,).
        double_j: Over 2 L. Shape: (places,).
        length_s: L.
        each: Places within L.
    """
    single_j2, double_j2 = _typical_j2(single_j, each), _typical_j2(double_j, each)
    known = (single_j2 > 0) & np.isfinite(double_j2)
    ratio = np.divide(double_j2, single_j2, out=np.ones_like(single_j2), where=known)
    exponent = np.clip(np.log2(np.maximum(ratio, 1.0)), 0.0, STEEPEST)
    # What is known is the middle of 2 L.
    middle_j2 = np.where(known, single_j2 * 2.0**-exponent, 0.0)
    return Variogram(middle_j2, exponent, np.full(single_j.size, length_s))


def _typical_j2(off_j: Floats, each: int) -> Floats:
    """The variance of what is known around each place, J²; of all where that is too little.

    Rare steps count for little: (mean |x|^(1/2))^4 / (0.457 + 0.494 / N), N the number of x
    (Cressie and Hawkins, *Robust estimation of the variogram I*, Math. Geol. 12, 1980). NaN where
    too little is known at all. Shape: (places,).
    """
    known = np.isfinite(off_j)
    root = np.sqrt(np.abs(np.where(known, off_j, 0.0)))
    place, reach = np.arange(off_j.size), POOL * each // 2
    low, high = np.maximum(place - reach, 0), np.minimum(place + reach, off_j.size)
    count = _between(known.astype(float), low, high)
    few = count < LEAST * each
    total = np.where(few, root.sum(), _between(root, low, high))
    count = np.where(few, np.count_nonzero(known), count)
    mean = np.maximum(total, 0.0) / np.maximum(count, 1.0)
    variance_j2 = mean**4 / (0.457 + 0.494 / np.maximum(count, 1.0))
    return np.where(count >= LEAST * each, variance_j2, np.nan)


def _between(values: Floats, low: Indices, high: Indices) -> Floats:
    total = np.append(0.0, np.cumsum(values))
    return np.asarray(total[high] - total[low])


def _of_middle(exponent: Floats) -> Floats:
    """The variance half way between two known points one apart, for γ(τ) = τ^a."""
    return np.asarray(2 * 2.0**-exponent - 0.5)
