"""Known change points within a sensor's interval.

A sensor gives the mean power of an interval. Where the program said that something began or ended
within it, power may have changed there and nowhere else: the interval is split at its marks, with
the powers that are nearest to those of the neighbouring intervals and keep the interval's energy.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from joulelab.energy.signal.power_states import Marks, state_powers

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Indices = NDArray[np.intp]

OUTER_WEIGHT = 1.0
"""How much a part next to a neighbouring interval is held to that neighbour's power."""
SAME = 0.05
"""See :func:`split_at_marks`."""
EXPLAINED = 0.25
"""See :func:`split_at_marks`."""
NEAR = 16
BELIEVED = 0.75
"""See :func:`_explained`."""
MOST_SCALED = 3.0
"""A sensor that looks elsewhere scales the powers of states by no more than this."""
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
        unresolved: The intervals with marks to which no neighbour bears witness.
            Shape: (intervals,).
    """

    edges: Floats
    power: Floats
    interval: Indices
    left_over: Floats
    unresolved: Bools


def cut_at_marks(edges: Floats, usable: Bools, marks: Floats) -> tuple[Floats, Indices]:
    """Where parts meet when intervals are cut at the marks within them, and each one's interval.

    Args:
        edges: Where the intervals meet. Shape: (intervals + 1,).
        usable: Whether an interval may be cut. Shape: (intervals,).
        marks: Times of the marks, sorted. Shape: (marks,).

    Returns:
        ``edges`` of shape (parts + 1,) and ``interval`` of shape (parts,).
    """
    inside = np.searchsorted(edges, marks, side="right") - 1
    within = (inside >= 0) & (inside < usable.size)
    marks, inside = marks[within], inside[within]
    proper = (marks > edges[inside]) & usable[inside]
    marks, inside = marks[proper], inside[proper]
    counts = np.bincount(inside, minlength=usable.size)
    return np.insert(edges, inside + 1, marks), np.repeat(np.arange(usable.size), counts + 1)


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
    new_edges, interval = cut_at_marks(edges, usable, marks)
    counts = np.bincount(interval, minlength=power.size) - 1
    if interval.size == power.size:
        return Parts(edges, power, interval, np.zeros(power.size), counts > 0)
    split = counts > 0
    before, clean_before = _witness(power, usable & ~split, -1)
    after, clean_after = _witness(power, usable & ~split, +1)

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
    unresolved = split & (~witnessed | impossible)
    return Parts(new_edges, new_power, interval, left_over, unresolved)


def cut_everywhere(
    edges: Floats, power: Floats, usable: Bools, marks: Floats, looks: tuple[Floats, Floats]
) -> Parts:
    """Intervals of a sensor that does not see just them, cut at their marks.

    An interval is unresolved where a mark lies in it or in the time that the sensor looked at.

    Args:
        edges: Where the intervals meet. Shape: (intervals + 1,).
        power: The sensor's reading for each. Shape: (intervals,).
        usable: Whether an interval may be cut. Shape: (intervals,).
        marks: Times of the marks, sorted. Shape: (marks,).
        looks: Begin and end of what each reading is the mean of. Shapes: (intervals,) each.
    """
    new_edges, interval = cut_at_marks(edges, usable, marks)
    first = np.searchsorted(marks, np.minimum(looks[0], edges[:-1]), side="right")
    last = np.searchsorted(marks, np.maximum(looks[1], edges[1:]), side="left")
    return Parts(
        new_edges, power[interval], interval, np.zeros(power.size), usable & (last > first)
    )


def split_by_state(
    parts: Parts,
    spread: Floats,
    power: Floats,
    usable: Bools,
    looks: tuple[Floats, Floats],
    marks: Marks,
    time_uncertainty_s: float,
) -> tuple[Parts, Floats]:
    """Gives the parts of unresolved intervals the powers of the states that they are in.

    The states' powers come from all readings around, see
    :func:`~joulelab.energy.signal.power_states.state_powers`, and are scaled so that they come to
    what the sensor read. How far they may be off, and how far they differ from one time to the
    next, becomes the parts' spread.

    Args:
        parts: Intervals that were cut at every mark.
        spread: How far power may be from each part's mean. Shape: (parts,).
        power: What the sensor read for each interval. Shape: (intervals,).
        usable: Whether an interval has a reading. Shape: (intervals,).
        looks: Begin and end of what each reading is the mean of. Shapes: (intervals,) each.
        marks: The marks, and the program's state between them.
        time_uncertainty_s: Standard uncertainty of ``looks``.

    Returns:
        The parts, and their spread.
    """
    shares = marks.shares(*looks)
    off = [
        np.abs(marks.shares(looks[0] + late_s, looks[1] + late_s) - shares)
        for late_s in (-time_uncertainty_s, time_uncertainty_s)
    ]
    found = state_powers(shares, power, usable, np.maximum(*off))
    length = np.diff(parts.edges)
    middle = parts.edges[:-1] + length / 2
    state = marks.state[np.searchsorted(marks.time_s, middle, side="right")]
    predicted = (shares * found.power_w).sum(axis=1)
    scale = np.divide(power, predicted, out=np.ones_like(power), where=predicted > 0)
    at = np.flatnonzero(parts.unresolved[parts.interval])
    interval = parts.interval[at]
    told = found.power_w[interval, state[at]] * np.clip(scale[interval], 0, MOST_SCALED)
    believed = _explained(power, predicted, usable)[interval] & (predicted[interval] > 0)
    new_power = parts.power.copy()
    new_power[at] = np.where(believed, told, power[interval])
    # States that do not account for the readings do not tell how far their powers scatter.
    off_w = np.where(believed, found.scatter_w[interval], told - power[interval])
    off_w2 = found.uncertainty_w[interval, state[at]] ** 2 + off_w**2
    # Of the interval's length, by share: a moment between two spans counts for nothing.
    total = np.bincount(interval, length[at], minlength=power.size)
    mean_w2 = np.bincount(interval, length[at] * off_w2, minlength=power.size)[interval]
    # Rectangular, and of the difference between the powers on either side of an edge.
    new_spread = spread.copy()
    new_spread[at] = np.maximum(spread[at], np.sqrt(6 * mean_w2 / total[interval]))
    return replace(parts, power=new_power), new_spread


def _explained(power: Floats, predicted: Floats, usable: Bools) -> Bools:
    """Where the states account for how readings differ from their neighbours.

    That is, where they leave less than :data:`BELIEVED` of the sum of squares over :data:`NEAR`
    readings on either side: spans that have nothing to do with power leave all of it.
    """

    def around(values: Floats) -> Floats:
        total = np.concatenate(([0.0], np.cumsum(np.where(usable, values, 0.0))))
        index = np.arange(power.size)
        return np.asarray(
            total[np.minimum(index + NEAR + 1, power.size)] - total[np.maximum(index - NEAR, 0)]
        )

    count = np.maximum(around(np.ones_like(power)), 1.0)
    usual = float(power[usable].mean()) if usable.any() else 0.0
    about = power - usual
    differ = around(about**2) - around(about) ** 2 / count
    return np.asarray(around((power - predicted) ** 2) < BELIEVED * differ)


def _witness(power: Floats, clean: Bools, step: int) -> tuple[Floats, Bools]:
    """The neighbour's power on one side, and whether it can be relied on."""
    there = np.roll(clean, -step)
    there[-1 if step > 0 else 0] = False
    return np.roll(power, -step), there
