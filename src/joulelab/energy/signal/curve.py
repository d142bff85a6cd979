"""Energy over time as a curve of straight pieces, which gives the energy of any span."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from joulelab.arrays import Bools, Floats, Indices
from joulelab.energy.signal.missing_readings import Missing, Readable, missing_variance_j2
from joulelab.energy.signal.timestamp_alignment import GAP_FACTOR
from joulelab.energy.signal.variability import EDGE_SHAPE, Variogram

SAME_LENGTH = 0.02  # Lengths of time beyond the readings that differ by less are the same.
Pieces = Indices

SAMPLES_PER_WINDOW = 8  # Number of times that represent all of a window.
VARIOGRAMS_AT_A_TIME = 1 << 12  # Of each span it takes 10 kB.


@dataclass(frozen=True, slots=True)
class Repetition:
    """How surely power is known that repeats each ``window_s``: a moving average does not show it.

    Attributes:
        uncertainty_w: Its standard uncertainty.
    """

    window_s: float = math.inf
    uncertainty_w: float = 0.0

    def variance_j2(self, length_s: Floats) -> Floats:
        """Return the variance of the energy of spans: of a whole number of windows it is none."""
        if self.uncertainty_w == 0:
            return np.zeros_like(length_s)
        rest_s = length_s - self.window_s * np.rint(length_s / self.window_s)
        return np.asarray((self.uncertainty_w * rest_s) ** 2)


NO_REPETITION = Repetition()


@dataclass(frozen=True)
class EnergyCurve:
    """Energy since the first reading, as straight pieces.

    A piece is a sensor's interval, or a part of one that was split where power changed. Shapes:
    (pieces,), one more where pieces meet.
    """

    time_s: Floats  # Where pieces meet, CLOCK_MONOTONIC.
    energy_j: Floats  # Energy at those times, 0 at the first.
    power_w: Floats  # Mean power of each piece.
    spread_w: Floats  # How far power within a piece may be from its mean.
    interval_start_s: Floats  # Start of the interval that each piece belongs to.
    interval_length_s: Floats  # Length of that interval.
    variance_j2: Floats  # Running sum of the pieces' own, independent variance, where they meet.
    gap: Bools  # Whether a piece has no reading.
    hole: Bools  # Whether only the energy of the piece's whole interval is known, not its course.
    smear_s: float  # The sensor's window beyond one interval: it smears changes of power.
    is_counter: bool  # Whether the source counts energy: then a time error is an energy error.
    step_j: float  # Each of a counter's readings is up to this too low; 0 if that does not matter.
    latency_uncertainty_s: float  # Standard uncertainty of the latency that all times share.
    jitter_s: float  # Standard uncertainty of each time relative to the others.
    max_age_s: float  # The age of a polled value is evenly distributed between 0 and this.
    variogram: Variogram  # Within-interval variability around each piece.
    repetition: Repetition = NO_REPETITION

    def energy(self, start_s: ArrayLike, stop_s: ArrayLike) -> tuple[Floats, Floats, Floats]:
        """Return spans' energy, standard uncertainty of edges and gaps, and time without readings.

        What lies outside the readings counts as a gap at the power of the nearest reading.
        """
        start, stop = np.atleast_1d(np.asarray(start_s, float), np.asarray(stop_s, float))
        ends = one, other = self._end(start), self._end(stop)
        energy = self._energy_until(stop, other.piece) - self._energy_until(start, one.piece)
        gap = _between(self._gap_until_s, self.time_s, start, stop)
        first, last = (np.clip(t_s, self.time_s[0], self.time_s[-1]) for t_s in (start, stop))
        outside = (stop - start) - (last - first)
        edges = self._edge_variance(one) + self._edge_variance(other)
        # No span is more uncertain than power around it.
        apart_w = np.abs(other.power_w - one.power_w)
        around_w = functools.reduce(
            np.maximum, (one.spread_w, other.spread_w, apart_w, one.step_w, other.step_w)
        )
        longest = ((stop - start) * around_w * EDGE_SHAPE) ** 2
        bounded = np.minimum(edges + self._latency_variance(*ends), longest)
        bounded = np.maximum(bounded, self._variogram_variance(*ends))
        bounded = np.maximum(bounded, self._late_variance(*ends, energy))
        missing = self._missing_variance(start, stop) + self._step_variance(*ends)
        missing += self.repetition.variance_j2(stop - start)
        variance = self._inner_variance(*ends) + bounded + missing
        return energy, np.sqrt(variance), gap + outside

    def energy_between(self, start_s: Floats, stop_s: Floats) -> Floats:
        """Return spans' energy alone."""
        stop_j = self._energy_until(stop_s, self._piece(stop_s))
        return stop_j - self._energy_until(start_s, self._piece(start_s))

    def unread_s(self, start_s: Floats, stop_s: Floats) -> Floats:
        """Return the time within spans of which only a longer stretch's energy is known."""
        return _between(self._hole_until_s, self.time_s, start_s, stop_s)

    @property
    def seams_s(self) -> Floats:
        """Where the curve and its gaps begin and end. Shape: (2 gaps + 2,)."""
        starts, stops = self.time_s[:-1][self.gap], self.time_s[1:][self.gap]
        return np.concatenate((self.time_s[[0, -1]], starts, stops))

    @cached_property
    def _gap_until_s(self) -> Floats | None:
        return _running(self.gap, self.time_s)

    @cached_property
    def _hole_until_s(self) -> Floats | None:
        return _running(self.hole, self.time_s)

    @cached_property
    def _is_missing(self) -> Bools:
        """Whether the course of energy within a piece was not read."""
        return np.asarray(self.gap | self.hole)

    @cached_property
    def _stretches(self) -> Missing:
        """The holes and gaps, whole."""
        index = np.flatnonzero(self._is_missing)
        is_new = (np.diff(index) > 1) | (np.diff(self.interval_start_s[index]) != 0)
        breaks = np.flatnonzero(is_new) + 1
        first = index[np.append(0, breaks)[: index.size]]
        after = index[np.append(breaks, index.size)[: index.size] - 1] + 1
        from_s, until_s = self.time_s[first], self.time_s[after]
        power_w = (self.energy_j[after] - self.energy_j[first]) / (until_s - from_s)
        has_both = np.ones(first.size, dtype=bool)
        return Missing(from_s, until_s, from_s, until_s, power_w, self.hole[first], has_both)

    @cached_property
    def _stretches_variance_j2(self) -> Floats:
        """Running sum of the stretches' variance."""
        return np.append(0.0, np.cumsum(missing_variance_j2(self._readable, self._stretches)))

    @cached_property
    def _readable(self) -> Readable:
        # Thinning leaves long pieces, which hide the course as well.
        is_long = self.interval_length_s > GAP_FACTOR * np.median(self.interval_length_s)
        hidden = self._is_missing | is_long
        is_thinned = bool(np.any(is_long & ~self._is_missing))
        return Readable(self.time_s, self.energy_j, self.power_w, hidden, is_thinned)

    def _missing_variance(self, start: Floats, stop: Floats) -> Floats:
        """Return the variance from holes and gaps in spans, and from what is outside all readings.

        Of the stretches that a span touches, those between the first and the last are whole.
        """
        variance = self._outside_variance(start, stop)
        stretches = self._stretches
        if not stretches.from_s.size:
            return variance
        first = np.searchsorted(stretches.until_s, start, side="right")
        last = np.searchsorted(stretches.from_s, stop, side="left") - 1
        between = np.flatnonzero(last - first > 1)
        if between.size:
            running = self._stretches_variance_j2
            variance[between] += running[last[between]] - running[first[between] + 1]
        spans = np.concatenate((np.flatnonzero(last >= first), np.flatnonzero(last > first)))
        touched = np.concatenate((first[last >= first], last[last > first]))
        parts = stretches.at(touched)
        parts = parts._replace(
            start_s=np.maximum(parts.from_s, start[spans]),
            stop_s=np.minimum(parts.until_s, stop[spans]),
        )
        np.add.at(variance, spans, missing_variance_j2(self._readable, parts))
        return variance

    def _outside_variance(self, start: Floats, stop: Floats) -> Floats:
        """Return the variance of what lies before the first reading, or after the last."""
        begin_s, end_s = float(self.time_s[0]), float(self.time_s[-1])
        before_s = np.maximum(np.minimum(stop, begin_s) - start, 0.0)
        after_s = np.maximum(stop - np.maximum(start, end_s), 0.0)
        # Each part as if it were next to the readings.
        variance = np.zeros(start.size)
        for length_s, at_s, way, power_w in (
            (before_s, begin_s, -1, self.power_w[0]),
            (after_s, end_s, 1, self.power_w[-1]),
        ):
            spans = np.flatnonzero(length_s)
            if not spans.size:
                continue
            rounded_s = np.exp(np.rint(np.log(length_s[spans]) / SAME_LENGTH) * SAME_LENGTH)
            from_s, until_s = np.sort((np.full(spans.size, at_s), at_s + way * rounded_s), axis=0)
            no = np.zeros(spans.size, dtype=bool)
            parts = Missing(from_s, until_s, from_s, until_s, no + power_w, no, no)
            found = missing_variance_j2(self._readable, parts)
            variance[spans] += found * (length_s[spans] / rounded_s) ** 2
        return variance

    def _piece(self, t: Floats) -> Pieces:
        found = np.searchsorted(self.time_s, t, side="right") - 1
        return np.clip(found, 0, self.power_w.size - 1)

    def _end(self, t: Floats) -> End:
        """Collect what is around some times."""
        piece = self._piece(t)
        from_s = self.time_s[piece]
        begin_s, length_s = self.interval_start_s[piece], self.interval_length_s[piece]
        power_w = self.power_w[piece]
        before_w = self.power_w[np.maximum(piece - (from_s == t), 0)]
        return End(
            t,
            piece,
            from_s,
            begin_s,
            length_s,
            share=np.clip((t - begin_s) / length_s, 0.0, 1.0),
            power_w=power_w,
            before_w=before_w,
            step_w=np.where(begin_s < t, np.abs(power_w - before_w), 0.0),
            spread_w=self.spread_w[piece],
            is_missing=self._is_missing[piece],
        )

    def _energy_until(self, t: Floats, i: Pieces) -> Floats:
        return self.energy_j[i] + (t - self.time_s[i]) * self.power_w[i]

    def _inner_variance(self, start: End, stop: End) -> Floats:
        """Return the variance of whole pieces' means, and of a share of those at either end."""
        if not self.variance_j2[-1]:
            return np.zeros_like(start.t)
        i, j = start.piece, stop.piece
        until_s, after_j2, before_j2 = (
            self.time_s[i + 1], self.variance_j2[i + 1], self.variance_j2[j],
        )  # fmt: skip
        own_s, own_j2 = until_s - start.from_s, after_j2 - self.variance_j2[i]
        last_s, last_j2 = self.time_s[j + 1] - stop.from_s, self.variance_j2[j + 1] - before_j2
        first = np.clip((until_s - start.t) / own_s, 0.0, 1.0)
        last = np.clip((stop.t - stop.from_s) / last_s, 0.0, 1.0)
        between = np.maximum(before_j2 - after_j2, 0.0)
        apart = own_j2 * first**2 + between + last_j2 * last**2
        within = own_j2 * np.clip((stop.t - start.t) / own_s, 0.0, 1.0) ** 2
        return np.where(i == j, within, apart)

    def _edge_variance(self, end: End) -> Floats:
        """A step of the piece's spread, anywhere in its interval, moves this much past t."""
        moved_s = end.length_s * end.share * (1 - end.share)
        bound = np.maximum(moved_s, self.smear_s / 8) * end.spread_w * ~end.is_missing
        # At a change point the power on either side may be the one that is moved past it.
        moved = self.jitter_s * np.maximum(end.spread_w, end.step_w)
        return np.asarray((bound * EDGE_SHAPE) ** 2 + moved**2)

    def _variogram_variance(self, start: End, stop: End) -> Floats:
        """Return the variance of energy between the readings on either side of each edge."""
        variance = np.zeros_like(start.t)
        middle_j2 = self.variogram.middle_j2
        known = middle_j2[start.piece] + middle_j2[stop.piece] != 0
        is_same = (start.begin_s == stop.begin_s) & (self.smear_s == 0)
        for same in (False, True):
            chosen = np.flatnonzero(known & (is_same == same))
            for first in range(0, chosen.size, VARIOGRAMS_AT_A_TIME):
                some = chosen[first : first + VARIOGRAMS_AT_A_TIME]
                variance[some] = self._read_variance(start.at(some), stop.at(some), same=same)
        return variance

    def _read_variance(self, start: End, stop: End, *, same: bool) -> Floats:
        at_s, weight = self._read_at(start, -1.0)
        other_s, other_weight = self._read_at(stop, 1.0)
        if same:
            weight[:-1] += other_weight[:-1]
            other_s, other_weight = other_s[-1:], other_weight[-1:]
        at_s, weight = np.concatenate((at_s, other_s)), np.concatenate((weight, other_weight))
        i, j = start.piece, stop.piece
        one, other = self.variogram.at(i), self.variogram.at(j)
        # Both edges together: the mean of two variances is half of their sum.
        rougher = self.variogram.at(np.where(one.middle_j2 > other.middle_j2, i, j))
        both = rougher._replace(middle_j2=(one.middle_j2 + other.middle_j2) / 2)
        return both.variance_j2(at_s, weight)

    def _read_at(self, end: End, sign: float) -> tuple[Floats, Floats]:
        """Return times and weights of energies that add up to the error of that at an end.

        Shapes: (times, spans). The last is the end.
        """
        if self.smear_s > 0:
            share = (np.arange(SAMPLES_PER_WINDOW) + 0.5) / SAMPLES_PER_WINDOW - 0.5
            at_s = end.t + (self.smear_s + end.length_s) * share[:, None]
            weight = np.full_like(at_s, 1 / SAMPLES_PER_WINDOW)
        else:
            at_s = np.stack((end.begin_s, end.begin_s + end.length_s))
            weight = np.stack((1 - end.share, end.share))
        all_s = np.concatenate((at_s, end.t[None]))
        weight = np.concatenate((weight, np.full((1, end.t.size), -1.0)))
        return all_s, sign * weight * ~end.is_missing

    def _latency_variance(self, start: End, stop: End) -> Floats:
        """A latency D exchanges D times the power before the start for that before the stop."""
        apart_w = np.maximum(
            np.abs(stop.power_w - start.power_w), np.abs(stop.before_w - start.before_w)
        )
        variance = (self.latency_uncertainty_s * apart_w) ** 2
        if self.is_counter:
            return np.asarray(variance + self._age_variance(start, stop))
        return np.asarray(variance + (self.max_age_s * apart_w) ** 2 / 12)

    def _late_variance(self, start: End, stop: End, energy: Floats) -> Floats:
        """Return the variance from a latency that is uncertain by more than an interval.

        Power next to the edges does not bound it: both edges are moved together, to either side.
        """
        variance = np.zeros_like(energy)
        late = np.flatnonzero(self.latency_uncertainty_s > start.length_s)
        if late.size:
            off_s = math.hypot(self.latency_uncertainty_s, self.max_age_s / math.sqrt(12))
            moved = [
                self.energy_between(start.t[late] + sign * off_s, stop.t[late] + sign * off_s)
                for sign in (-1, 1)
            ]
            variance[late] = np.max(np.abs(np.array(moved) - energy[late]), axis=0) ** 2
        return variance

    def _step_variance(self, start: End, stop: End) -> Floats:
        """Return the variance from the rounding of the counter's readings around the edges.

        Each is rectangular. Between two readings they count by their share.
        """
        if self.step_j == 0:
            return np.zeros_like(start.t)
        one, other = start.share, stop.share
        apart = (1 - one) ** 2 + one**2 + (1 - other) ** 2 + other**2
        shares = np.where(start.begin_s == stop.begin_s, 2 * (other - one) ** 2, apart)
        return np.asarray(self.step_j**2 / 12 * shares)

    def _age_variance(self, start: End, stop: End) -> Floats:
        """Return the variance that the ages of a polled counter's readings give its difference.

        Between two readings ages count by their share.
        """
        if self.max_age_s == 0:
            return np.zeros_like(start.t)
        (begin, end), (later_begin, later_end) = start.aged(), stop.aged()
        within = [
            (begin[0], later_begin[1] - begin[1]),
            (end[0], later_end[1] - end[1]),
        ]
        apart = [(begin[0], -begin[1]), (end[0], -end[1]), later_begin, later_end]
        is_same = start.begin_s == stop.begin_s
        return np.where(is_same, self._aged_variance(within), self._aged_variance(apart))

    def _aged_variance(self, readings: Sequence[tuple[Floats, Floats]]) -> Floats:
        """Return the variance of the ages of readings at some times, weighted by some powers.

        Each age is evenly distributed over T, and the same at polls that lie a multiple of T
        apart; where they lie d further, ages differ by d or by d - T, so that their covariance is
        T²/12 - d (T - d) / 2.
        """
        period_s = self.max_age_s
        variance = period_s**2 / 12 * np.sum([power_w for _, power_w in readings], axis=0) ** 2
        for (one_s, one_w), (other_s, other_w) in itertools.combinations(readings, 2):
            apart_s = other_s - one_s
            # The remainder takes ten times as long.
            apart_s -= period_s * np.floor(apart_s / period_s)
            variance -= one_w * other_w * apart_s * (period_s - apart_s)
        return np.asarray(np.maximum(variance, 0.0))


class End(NamedTuple):
    """The starts or the stops of spans, and what is around them. Shapes: (spans,)."""

    t: Floats
    piece: Pieces
    from_s: Floats  # Start of the piece.
    begin_s: Floats  # Start of the interval that the piece belongs to.
    length_s: Floats  # Length of that interval.
    share: Floats  # Share of that interval which is before ``t``.
    power_w: Floats  # Power after ``t``.
    before_w: Floats  # Power before it.
    step_w: Floats  # Step of power at a change point within an interval; 0 elsewhere.
    spread_w: Floats  # How far power within the piece may be from its mean.
    is_missing: Bools  # Whether the course of energy within the piece was not read.

    def at(self, index: Indices) -> End:
        """Select some of them."""
        return End._make(column[index] for column in self)

    def aged(self) -> tuple[tuple[Floats, Floats], tuple[Floats, Floats]]:
        """Return the readings around: their times, and the power by which their ages count."""
        before = self.begin_s, (1 - self.share) * self.power_w
        return before, (self.begin_s + self.length_s, self.share * self.power_w)


def _running(pieces: Bools, time_s: Floats) -> Floats | None:
    """Return the time in some pieces until each time; ``None`` if there are none."""
    return np.append(0.0, np.cumsum(np.diff(time_s) * pieces)) if pieces.any() else None


def _between(running: Floats | None, time_s: Floats, start: Floats, stop: Floats) -> Floats:
    """Return by how much a running sum grows within spans."""
    if running is None:
        return np.zeros(start.size)
    return np.asarray(np.interp(stop, time_s, running) - np.interp(start, time_s, running))
