"""Energy over time as a curve of straight pieces, from which any span's energy is read off."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

EDGE_SHAPE = 1 / math.sqrt(3)
"""An edge's error lies anywhere within its bound: rectangular distribution (GUM 4.3.7)."""


@dataclass(frozen=True)
class EnergyCurve:
    """Energy since the first reading, as straight pieces.

    A piece is a sensor's interval, or a part of one that was split where power changed.

    Attributes:
        time_s: Where the pieces meet, CLOCK_MONOTONIC seconds. Shape: (n + 1,).
        energy_j: Energy at those times, 0 at the first. Shape: (n + 1,).
        power_w: Mean power of each piece. Shape: (n,).
        spread_w: How far power within a piece may be from its mean. Shape: (n,).
        interval_start_s: Start of the interval that each piece belongs to. Shape: (n,).
        interval_length_s: Length of that interval. Shape: (n,).
        variance_j2: Running sum of the pieces' own variance, independent of each other.
            Shape: (n + 1,).
        gap: Whether a piece has no reading. Shape: (n,).
        smear_s: The sensor's window beyond one interval: power changes show smeared over it.
        time_uncertainty_s: Standard uncertainty of ``time_s``.
        counts: Whether the source counts energy, so that a wrong time is a wrong energy.
        aliasing: Relative standard uncertainty, the same in all pieces, from loads that keep
            step with a sensor that looks only part of the time.
    """

    time_s: Floats
    energy_j: Floats
    power_w: Floats
    spread_w: Floats
    interval_start_s: Floats
    interval_length_s: Floats
    variance_j2: Floats
    gap: Bools
    smear_s: float
    time_uncertainty_s: float
    counts: bool
    aliasing: float

    def energy(self, start_s: ArrayLike, stop_s: ArrayLike) -> tuple[Floats, Floats, Floats]:
        """Energy, standard uncertainty of the edges and gaps, and time without readings.

        Args:
            start_s: Starts of the spans. Shape: (spans,).
            stop_s: Their stops, not before their starts. Shape: (spans,).

        Returns:
            ``energy_j``, ``uncertainty_j`` and ``gap_s``, each of shape (spans,). What lies
            outside the readings counts as a gap at the power of the nearest reading.
        """
        start, stop = np.atleast_1d(np.asarray(start_s, float), np.asarray(stop_s, float))
        energy = self._at(stop) - self._at(start)
        inner = self._variance_at(stop) - self._variance_at(start)
        edges = self._edge_variance(start) + self._edge_variance(stop)
        gap = self._gap_until(stop) - self._gap_until(start)
        outside = (stop - start) - (
            np.clip(stop, self.time_s[0], self.time_s[-1])
            - np.clip(start, self.time_s[0], self.time_s[-1])
        )
        unseen = (outside * self._range_w * EDGE_SHAPE) ** 2
        # A span within one piece cannot be more uncertain than power is within that piece.
        longest = ((stop - start) * self._spread_over(start, stop) * EDGE_SHAPE) ** 2
        variance = np.minimum(np.maximum(inner, 0.0) + edges, longest + inner) + unseen
        return energy, np.sqrt(np.maximum(variance, 0.0)), gap + outside

    @property
    def seams_s(self) -> Floats:
        """Where its gaps begin and end, and where it does itself. Shape: (2 gaps + 2,)."""
        starts, stops = self.time_s[:-1][self.gap], self.time_s[1:][self.gap]
        return np.concatenate((self.time_s[[0, -1]], starts, stops))

    @property
    def _range_w(self) -> float:
        return float(np.ptp(self.power_w)) if self.power_w.size > 1 else float(self.power_w[0])

    def _piece(self, t: Floats) -> NDArray[np.intp]:
        found = np.searchsorted(self.time_s, t, side="right") - 1
        return np.clip(found, 0, self.power_w.size - 1)

    def _at(self, t: Floats) -> Floats:
        i = self._piece(t)
        return self.energy_j[i] + (t - self.time_s[i]) * self.power_w[i]

    def _variance_at(self, t: Floats) -> Floats:
        return np.asarray(np.interp(t, self.time_s, self.variance_j2))

    def _gap_until(self, t: Floats) -> Floats:
        lengths = np.diff(self.time_s) * self.gap
        return np.asarray(np.interp(t, self.time_s, np.concatenate(([0.0], np.cumsum(lengths)))))

    def _edge_variance(self, t: Floats) -> Floats:
        """A step of the piece's spread, anywhere in its interval, moves this much past t."""
        i = self._piece(t)
        length = self.interval_length_s[i]
        share = np.clip((t - self.interval_start_s[i]) / length, 0.0, 1.0)
        bound = np.maximum(length * share * (1 - share), self.smear_s / 4) * self.spread_w[i]
        # At a mark the power on either side may be the one that is moved past it.
        before = np.maximum(i - 1, 0)
        at_mark = (self.time_s[i] == t) & (self.interval_start_s[i] < t)
        step = np.where(at_mark, np.abs(self.power_w[i] - self.power_w[before]), 0.0)
        moved = self.time_uncertainty_s * (self.spread_w + self.counts * self.power_w)[i]
        late = self.time_uncertainty_s * step
        return np.asarray((bound * EDGE_SHAPE) ** 2 + moved**2 + late**2)

    def _spread_over(self, start: Floats, stop: Floats) -> Floats:
        i, j = self._piece(start), self._piece(stop)
        within = (i == j) & (self.smear_s == 0) & (not self.counts)
        return np.where(within, self.spread_w[i], np.inf)
