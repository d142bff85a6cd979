"""Known change points within a sensor's interval.

A sensor gives the mean power of an interval. Where the program said that something began or ended
within it, power may have changed there and nowhere else: the interval is split at its marks, with
the powers that are nearest to those of the neighbouring intervals and keep the interval's energy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Indices = NDArray[np.intp]

OUTER_WEIGHT = 1.0
"""How much a part next to a neighbouring interval is held to that neighbour's power."""
SAME = 0.05
"""See :func:`split_at_marks`."""
EXPLAINED = 0.25
"""See :func:`split_at_marks`."""
INNER_WEIGHT = 0.01
"""How much a part between two marks is held to the interval's mean: of it nothing else is known."""


@dataclass(frozen=True)
class Parts:
    """Intervals that were split.

    Attributes:
        edges: Where the parts meet. Shape: (parts + 1,).
        power: Mean power of each part. Shape: (parts,).
        interval: The interval that each part belongs to. Shape: (parts,).
        left_over: How far the neighbours' powers were from explaining the interval's mean, for
            each interval; 0 where it was not split. Shape: (intervals,).
    """

    edges: Floats
    power: Floats
    interval: Indices
    left_over: Floats


def split_at_marks(edges: Floats, power: Floats, usable: Bools, marks: Floats) -> Parts:
    """Splits intervals at the marks within them.

    An interval of mean p with parts of share f_i gets the powers x_i that minimise
    Σ w_i (x_i - c_i)² under Σ f_i x_i = p (Lagrange). The first part's c is the power of the
    interval before it, the last part's that of the one after it, both heavily weighted; parts in
    between are held to p by almost nothing, so that what the neighbours do not explain is theirs:
    a burst within one interval gets its joules.

    A mark need not be a change. An interval stays whole where a neighbour has marks itself and is
    no witness, where its mean is that of a neighbour (within :data:`SAME` of the step between the
    two: power changed at the interval's edge), where a single mark does not explain its mean (but
    for :data:`EXPLAINED` of the step), and where a power would be negative.

    Args:
        edges: Where the intervals meet. Shape: (intervals + 1,).
        power: Mean power of each. Shape: (intervals,).
        usable: Whether an interval may be split or be a witness; gaps may not.
            Shape: (intervals,).
        marks: Times of the marks, sorted. Shape: (marks,).

    Example:
        >>> parts = split_at_marks(np.array([0.0, 1, 2, 3]), np.array([100.0, 250, 500]),
        ...     np.ones(3, dtype=bool), np.array([1.625]))
        >>> parts.power.tolist(), parts.left_over.tolist()
        ([100.0, 100.0, 500.0, 500.0], [0.0, 0.0, 0.0])
    """
    inside = np.searchsorted(edges, marks, side="right") - 1
    within = (inside >= 0) & (inside < power.size)
    marks, inside = marks[within], inside[within]
    proper = (marks > edges[inside]) & usable[inside]
    marks, inside = marks[proper], inside[proper]
    if marks.size == 0:
        return Parts(edges, power, np.arange(power.size), np.zeros(power.size))
    counts = np.bincount(inside, minlength=power.size)
    split = counts > 0
    before, clean_before = _witness(power, usable & ~split, -1)
    after, clean_after = _witness(power, usable & ~split, +1)

    new_edges = np.insert(edges, inside + 1, marks)
    interval = np.repeat(np.arange(power.size), counts + 1)
    length = np.diff(new_edges)
    share = length / np.diff(edges)[interval]
    first = np.r_[True, interval[1:] != interval[:-1]]
    last = np.r_[interval[1:] != interval[:-1], True]
    wanted = power[interval]
    weight = np.full(interval.size, INNER_WEIGHT)
    for outer, neighbour in ((first, before), (last, after)):
        held = outer & split[interval]
        wanted = np.where(held, neighbour[interval], wanted)
        weight = np.where(held, OUTER_WEIGHT, weight)
    missing = power - np.bincount(interval, share * wanted, minlength=power.size)
    stiffness = np.bincount(interval, share**2 / weight, minlength=power.size)
    new_power = wanted + (missing / stiffness)[interval] * share / weight
    impossible = np.bincount(interval, new_power < 0, minlength=power.size) > 0
    step = np.abs(after - before)
    near = np.minimum(np.abs(power - before), np.abs(power - after)) <= SAME * step
    explained = (counts > 1) | (np.abs(missing) <= EXPLAINED * step)
    witnessed = clean_before & clean_after
    whole = impossible | ~witnessed | near | ~explained | ~split
    new_power = np.where(whole[interval], power[interval], new_power)
    left_over = np.where(whole | (counts > 1), 0.0, np.abs(missing))
    return Parts(new_edges, new_power, interval, left_over)


def _witness(power: Floats, clean: Bools, step: int) -> tuple[Floats, Bools]:
    """The neighbour's power on one side, and whether it can be relied on."""
    there = np.roll(clean, -step)
    there[-1 if step > 0 else 0] = False
    return np.roll(power, -step), there
