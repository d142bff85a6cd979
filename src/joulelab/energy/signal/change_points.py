"""Change points: times at which power may have changed, and how they split a sensor's intervals.

A sensor gives the mean power of an interval. Where a span begins or ends within it, power may have
changed there and nowhere else: the interval is split at its change points. Its parts get the powers
that are nearest to those of the neighbouring intervals and that preserve the interval's energy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from joulelab.arrays import Bools, Floats, Indices

MAX_STATES = 24  # With more states, each would occur too rarely to estimate its power.
MANY_POINTS = 1 << 17  # See :attr:`ChangePoints.show_parts`.
OUTER_WEIGHT = 1.0  # How strongly a part next to another interval is drawn to that one's power.
INNER_WEIGHT = 0.01
"""How strongly a part between two change points is drawn to the interval's mean: nothing else is
known about it."""
AT_EDGE = 0.05
UNEXPLAINED = 0.25  # See :func:`split_at_change_points`.


@dataclass(frozen=True)
class ChangePoints:
    """Times at which power may have changed, and the program's state between them."""

    time_s: Floats  # In order, each once. Shape: (points,).
    state: Indices  # Before the first, and after each. Shape: (points + 1,).
    show_parts: bool = True
    """Whether parts of intervals are worth their memory.

    Where it is not known what changed, the parts of an interval whose neighbours do not constrain
    it have the same power. They only show that the middle ones have no other interval next to
    them; without them, intervals are at most wider.
    """

    @classmethod
    def at(cls, times_s: Floats) -> ChangePoints:
        """Create change points without knowledge of what changed."""
        time_s = np.sort(times_s, kind="stable")
        is_new = _is_new(time_s)
        time_s = time_s if is_new.all() else time_s[is_new]
        state = np.broadcast_to(np.intp(0), time_s.size + 1)
        return cls(time_s, state, show_parts=time_s.size < MANY_POINTS)

    @classmethod
    def of_spans(
        cls, names: Sequence[str], codes: Indices, edges_s: Floats, further_s: Floats
    ) -> ChangePoints:
        """Take the edges of spans and further points; a state is the set of the open spans' names.

        Args:
            names: Names of spans.
            codes: Position of each span's name in these. Shape: (spans,).
            edges_s: Starts and stops, NaN for those that have not happened. Shape: (spans, 2).
            further_s: Further points. Shape: (further,).

        Example:
            >>> edges_s = np.array([[1.0, 2.0], [0.0, 5.0]])
            >>> codes = np.array([0, 1])
            >>> points = ChangePoints.of_spans(["step", "epoch"], codes, edges_s, np.zeros(0))
            >>> points.time_s.tolist(), points.state.tolist()
            ([0.0, 1.0, 2.0, 5.0], [0, 1, 2, 1, 0])
        """
        # Spans are in order, so that few of their starts and of their stops are not.
        edges = np.concatenate((*edges_s.T, further_s))
        is_known = np.isfinite(edges)
        used = sorted(np.flatnonzero(np.bincount(codes)).tolist(), key=lambda code: names[code])
        if len(used) > MAX_STATES:
            return cls.at(edges if is_known.all() else edges[is_known])
        at = np.flatnonzero(is_known)
        at = at[np.argsort(edges[at], kind="stable")]
        edges = edges[at]
        is_new = _is_new(edges)
        time_s, position = edges[is_new], np.cumsum(is_new) - 1
        is_edge = at < edges_s.size
        position, at = position[is_edge], at[is_edge]
        code_of, change = codes[at % len(codes)], np.where(at < len(codes), 1, -1)
        # A bit for each name: the state is the set of those that are open.
        state = np.zeros(time_s.size, dtype=np.int64)
        for code in used:
            own = code_of == code
            changes = np.bincount(position[own], change[own], minlength=time_s.size)
            state = 2 * state + (np.cumsum(changes) > 0)
        states, found = np.unique(np.append(0, state), return_inverse=True)
        if len(states) > MAX_STATES:
            return cls.at(time_s)
        return cls(time_s, np.asarray(found.reshape(-1), dtype=np.intp))

    @property
    def states(self) -> int:
        """How many different states there are."""
        return int(self.state.max()) + 1

    def only(self, keep: Bools) -> ChangePoints:
        """Select change points, with the one before each selected run: it defines the state."""
        keep = keep | np.append(keep[1:], False)
        state = np.concatenate((self.state[:1], self.state[1:][keep]))
        return replace(self, time_s=self.time_s[keep], state=state)

    def between(self, start_s: float, stop_s: float) -> ChangePoints:
        """Return the change points between two times, and the nearest before and after."""
        first = max(int(np.searchsorted(self.time_s, start_s, side="right")) - 1, 0)
        after = int(np.searchsorted(self.time_s, stop_s, side="left")) + 1
        state = self.state[first : after + 1]
        return replace(self, time_s=self.time_s[first:after], state=state)

    def state_shares(self, start_s: Floats, stop_s: Floats, states: int) -> Floats:
        """Return the share of each window that each state took. Shape: (windows, states)."""
        if not self.time_s.size:
            return np.ones((start_s.size, 1))
        # An instantaneous reading is entirely in the state of its moment.
        stop_s = np.maximum(stop_s, start_s + 1e-6)
        after = [np.searchsorted(self.time_s, t_s, side="right") for t_s in (start_s, stop_s)]
        last = [np.maximum(one - 1, 0) for one in after]
        since_s = [t_s - self.time_s[i] for t_s, i in zip((start_s, stop_s), last, strict=True)]
        length_s = np.diff(self.time_s)
        shares, until_s = np.empty((start_s.size, states)), np.zeros(self.time_s.size)
        # One after the other: of a million change points, all of them take half a gigabyte.
        for state in range(states):
            np.multiply(length_s, self.state[1:-1] == state, out=until_s[1:])
            np.cumsum(until_s[1:], out=until_s[1:])
            before_s, done_s = (
                until_s[i] + more_s * (self.state[one] == state)
                for i, more_s, one in zip(last, since_s, after, strict=True)
            )
            shares[:, state] = (done_s - before_s) / (stop_s - start_s)
        return shares


def _is_new(in_order: Floats) -> Bools:
    """Report which times are not the same as the one before."""
    return np.concatenate((np.ones(min(1, in_order.size), bool), in_order[1:] != in_order[:-1]))


NO_CHANGE_POINTS = ChangePoints.at(np.zeros(0))


@dataclass(frozen=True)
class Parts:
    """Intervals that were split into parts."""

    edges: Floats  # Where the parts meet. Shape: (parts + 1,).
    power: Floats  # Mean power of each part. Shape: (parts,).
    interval: Indices  # The interval that each part belongs to. Shape: (parts,).
    unexplained: Floats  # What neighbours leave of an interval's mean. Shape: (intervals,).
    unresolved: Bools  # Whether no neighbour constrains an interval. Shape: (intervals,).


def count_within(edges: Floats, usable: Bools, times: Floats) -> tuple[Indices, Indices]:
    """Return the number of change points in each usable interval, and the first of them.

    The times are in order, each once.
    """
    if not times.size:
        return np.zeros(usable.size, np.intp), np.zeros(usable.size, np.intp)
    after = np.searchsorted(times, edges, side="right")
    first, last = after[:-1], after[1:] - (times[after[1:] - 1] == edges[1:])
    return np.where(usable, np.maximum(last - first, 0), 0), first


def cut(edges: Floats, counts: Indices, first: Indices, times: Floats) -> tuple[Floats, Indices]:
    """Cut intervals at change points, see :func:`count_within`; return edges and intervals."""
    if not counts.any():
        return edges, np.arange(counts.size)
    interval = np.repeat(np.arange(counts.size), counts)
    before = np.cumsum(counts) - counts
    within = times[(first - before)[interval] + np.arange(interval.size)]
    return np.insert(edges, interval + 1, within), np.repeat(np.arange(counts.size), counts + 1)


def joined(in_order: Floats, further: Floats) -> Floats:
    """Add times to others that are in order, each once."""
    further = np.unique(further)
    at = np.searchsorted(in_order, further)
    known = at < in_order.size
    known[known] = in_order[at[known]] == further[known]
    return in_order if known.all() else np.insert(in_order, at[~known], further[~known])


def split_at_change_points(
    edges: Floats, power: Floats, usable: Bools, times: Floats, *, show_parts: bool = True
) -> Parts:
    """Split intervals at the change points within them, with the powers of their neighbours.

    An interval of mean p with parts of share f_i gets the powers x_i that minimise
    Σ w_i (x_i - c_i)² under Σ f_i x_i = p (Lagrange). The first part's c is the power of the
    interval before it, the last part's that of the one after it, both heavily weighted. Parts in
    between are hardly constrained, so that they get what the neighbours do not explain: a burst
    within one interval gets its joules.

    Intervals that stay whole because of their neighbours are cut only to ``show_parts``
    (:attr:`ChangePoints.show_parts`).

    A change point need not be a change. An interval stays whole where a neighbour is not ``usable``
    or has change points itself and constrains nothing, where its mean is that of a neighbour
    (within :data:`AT_EDGE` of the step between the two: power changed at the interval's edge),
    where a single change point leaves more than :data:`UNEXPLAINED` of the step unexplained, and
    where a power would be negative.

    Example:
        >>> parts = split_at_change_points(np.array([0.0, 1, 2, 3]), np.array([100.0, 250, 500]),
        ...     np.ones(3, dtype=bool), np.array([1.625]))
        >>> parts.power.tolist(), parts.unexplained.tolist()
        ([100.0, 100.0, 500.0, 500.0], [0.0, 0.0, 0.0])
    """
    counts, point = count_within(edges, usable, times)
    split = counts > 0
    is_steady = np.pad(usable & ~split, 1)
    constrained = split & is_steady[:-2] & is_steady[2:]
    new_edges, interval = cut(edges, counts if show_parts else counts * constrained, point, times)
    new_power, unexplained = power[interval], np.zeros(power.size)
    unresolved = split & ~constrained
    if not constrained.any():
        return Parts(new_edges, new_power, interval, unexplained, unresolved)

    at, part = np.flatnonzero(constrained), np.flatnonzero(constrained[interval])
    own = np.searchsorted(at, interval[part])
    mean, before, after = power[at], power[at - 1], power[at + 1]
    share = np.diff(new_edges)[part] / np.diff(edges)[at][own]
    wanted, weight = mean[own], np.full(part.size, INNER_WEIGHT)
    begins = np.append(0, np.flatnonzero(np.diff(own)) + 1)
    for outer, neighbour in ((begins, before), (np.append(begins[1:], own.size) - 1, after)):
        wanted[outer], weight[outer] = neighbour, OUTER_WEIGHT
    missing = mean - np.add.reduceat(share * wanted, begins)
    stiffness = np.add.reduceat(share**2 / weight, begins)
    found = wanted + (missing / stiffness)[own] * share / weight
    impossible = np.minimum.reduceat(found, begins) < 0
    step = np.abs(after - before)
    at_edge = np.minimum(np.abs(mean - before), np.abs(mean - after)) <= AT_EDGE * step
    single = counts[at] == 1
    unlikely = single & (np.abs(missing) > UNEXPLAINED * step)
    whole = impossible | at_edge | unlikely
    new_power[part] = np.where(whole[own], mean[own], found)
    unexplained[at] = np.where(single & ~whole, np.abs(missing), 0.0)
    unresolved[at[impossible]] = True
    return Parts(new_edges, new_power, interval, unexplained, unresolved)


def cut_at_change_points(
    edges: Floats,
    power: Floats,
    usable: Bools,
    times: Floats,
    windows: tuple[Floats, Floats],
    *,
    show_parts: bool = True,
) -> Parts:
    """Cut the intervals of a sensor that averages over a window other than the interval.

    An interval is unresolved if a change point lies in it or in its reading's averaging window,
    the begin and end of which are ``windows``. The rest is as in :func:`split_at_change_points`.
    """
    shown = times if show_parts else times[:0]
    new_edges, interval = cut(edges, *count_within(edges, usable, shown), shown)
    first = np.searchsorted(times, np.minimum(windows[0], edges[:-1]), side="right")
    last = np.searchsorted(times, np.maximum(windows[1], edges[1:]), side="left")
    none = np.zeros(power.size)
    return Parts(new_edges, power[interval], interval, none, usable & (last > first))
