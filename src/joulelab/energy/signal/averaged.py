"""Readings that are averages over many update periods, and the marks at which power changed.

Such a reading (the 1 s average of nvidia-smi, renewed each 0.1 s) shows a step of power as a ramp
as long as its window W, so that energy that belongs after a mark seems to lie before it, and the
other way round: for a step from a to b, (b - a) W / 8. Between marks that follow each other within
W, power is taken as constant, and its levels are those that explain the readings best; before the
first and after the last, a whole window must lie undisturbed. What power does within W otherwise
stays unseen.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from joulelab.energy.signal.least_squares import LEAST_W2, posterior
from joulelab.energy.signal.update_times import Pace, updates
from joulelab.energy.signal.variogram import Variogram, of_windows
from joulelab.sensors.sensor import Channel, Quantity

Floats = NDArray[np.float64]

LEAST_PERIODS = 1.5
"""A window of fewer update periods smears nothing over its neighbours."""
NEAR_PERIODS = 2.5
"""Readings further apart than this are no record of what happened between them."""
MOST_MARKS = 100
"""More marks without an undisturbed window between them are not resolved."""
RESOLVED = 0.01
"""A stretch between marks that shows by less than this share in the readings is not resolved."""
EXACT = 1e-4
"""No reading is exact to less than this share."""
UNEXPLAINED = 0.2
"""See :meth:`_Smooth._levels`."""
NOISE = 2.0
"""The median square of noise's second differences is 2.7 times its variance: this allows five."""


class Sharpened(NamedTuple):
    """An averaging channel with the steps at its marks put back.

    Attributes:
        channel: Its readings no longer overlap each other.
        t_s: Ends of what each reading is the mean of now. Shape: (updates,).
        power_w: Means over one update period each. Shape: (updates,).
        off_w: Standard uncertainty of what was put back; 0 elsewhere. Shape: (updates,).
        wander: How energy wanders between the readings that no mark lies in. Shapes: (updates,).
        could: For each mark whether its step could be put back: a whole window without another
            mark and with readings on either side. Shape: (marks,).
    """

    channel: Channel
    t_s: Floats
    power_w: Floats
    off_w: Floats
    wander: Variogram
    could: NDArray[np.bool_]


def is_averaged(channel: Channel) -> bool:
    """Whether a channel's readings overlap each other."""
    return (
        channel.quantity is Quantity.POWER
        and channel.window_s > LEAST_PERIODS * channel.update_period_s
    )


def groups(marks_s: Floats, window_s: float) -> list[Floats]:
    """Marks with less than a window between them taken together.

    Args:
        marks_s: In order. Shape: (marks,).
        window_s: Of the sensor.

    Example:
        >>> [group.tolist() for group in groups(np.array([1.0, 1.5, 5.0]), 1.0)]
        [[1.0, 1.5], [5.0]]
    """
    return np.split(marks_s, np.flatnonzero(np.diff(marks_s) >= window_s) + 1)


def sharpened(
    channel: Channel, t_s: Floats, value: Floats, interval_s: float, marks_s: Floats
) -> Sharpened:
    """An averaging channel with the steps at its marks put back.

    Args:
        channel: For which :func:`is_averaged` is true.
        t_s: Times of the readings, in order. Shape: (readings,).
        value: Readings; NaN where there is none. Shape: (readings,).
        interval_s: How often they were taken.
        marks_s: Times at which power may have changed, in order. Shape: (marks,).

    """
    seen = np.isfinite(value)
    period_s, window_s = channel.update_period_s, channel.window_s
    # A log slower than the sensor has no more than its own readings.
    pace = Pace(interval_s, period_s, channel.polled and interval_s < period_s)
    u_s, mean_w = updates(t_s[seen], value[seen], pace)
    cell_s = max(period_s, interval_s)
    end_s = u_s - channel.delay_s
    if channel.polled and not pace.polled:
        end_s = end_s - period_s / 2
    late_s = math.hypot(channel.time_uncertainty_s, _stamp_s(pace, channel))
    smooth = _Smooth(end_s, mean_w, window_s, cell_s, late_s)
    sharp_w, off_w = mean_w.copy(), np.zeros_like(mean_w)
    done = [
        np.full(group.size, smooth.put_back(group, sharp_w, off_w))
        for group in groups(marks_s, window_s)
    ]
    sharp = replace(
        channel,
        update_period_s=cell_s,
        window_s=cell_s,
        delay_s=0.0,
        polled=False,
        time_uncertainty_s=late_s,
    )
    times_s = end_s - window_s / 2 + cell_s / 2
    marked = np.searchsorted(marks_s, end_s) > np.searchsorted(marks_s, end_s - window_s)
    wander = of_windows(end_s - window_s / 2, mean_w, ~marked, window_s, cell_s)
    could = np.concatenate(done).astype(bool)
    return Sharpened(sharp, times_s, sharp_w, off_w, wander, could)


def _stamp_s(pace: Pace, channel: Channel) -> float:
    """How far off the time of an update may be: between two polls, or any time of a period."""
    if pace.polled:
        return pace.interval_s / math.sqrt(12)
    return channel.update_period_s / math.sqrt(12) if channel.polled else 0.0


class _Levels(NamedTuple):
    """Powers between marks, and their standard uncertainties. Shapes: (levels,) each."""

    power_w: Floats
    uncertainty_w: Floats


class _Smooth(NamedTuple):
    """Readings that are averages.

    Attributes:
        end_s: When the time that each is the mean of ended. Shape: (updates,).
        mean_w: Shape: (updates,).
        window_s: How long that time is.
        cell_s: The distance of two updates.
        late_s: Standard uncertainty of ``end_s``.
    """

    end_s: Floats
    mean_w: Floats
    window_s: float
    cell_s: float
    late_s: float

    def put_back(self, marks_s: Floats, sharp_w: Floats, off_w: Floats) -> bool:
        """Turns the ramps around marks into steps of the same energy; false when it cannot be.

        Args:
            marks_s: Marks with less than a window between them, in order. Shape: (marks,).
            sharp_w: Changed in place. Shape: (updates,).
            off_w: Gets the standard uncertainty of what was changed. Shape: (updates,).
        """
        if not 0 < marks_s.size <= MOST_MARKS:
            return False
        first_s, last_s = float(marks_s[0]), float(marks_s[-1])
        window_s, cell_s = self.window_s, self.cell_s
        lo, hi = np.searchsorted(self.end_s, (first_s - cell_s, last_s + window_s + cell_s))
        shown = slice(max(lo - 1, 0), hi + 1)
        end_s, mean_w = self.end_s[shown], self.mean_w[shown]
        if lo == 0 or hi == self.end_s.size or np.diff(end_s).max() > NEAR_PERIODS * cell_s:
            return False
        edges_s = np.concatenate(([-math.inf], marks_s, [math.inf]))
        levels = self._levels(_shares(end_s - window_s, end_s, edges_s), mean_w)
        if levels is None or levels.power_w.min() < 0 < mean_w.min():
            return False
        middle_s = self.end_s - window_s / 2
        lo, hi = np.searchsorted(middle_s, (first_s - window_s / 2, last_s + window_s / 2))
        if lo == hi:
            return False
        cells = _shares(middle_s[lo:hi] - cell_s / 2, middle_s[lo:hi] + cell_s / 2, edges_s)
        model_w = cells @ levels.power_w
        sharp_w[lo:hi] = model_w + (self.mean_w[lo:hi].mean() - model_w.mean())
        off_w[lo:hi] = cells @ levels.uncertainty_w
        return True

    def _levels(self, overlap: Floats, mean_w: Floats) -> _Levels | None:
        """The powers between marks that explain the readings best; ``None`` when none do.

        Bayesian least squares; beforehand each is the readings' mean, with a standard uncertainty
        as large. A reading is off by its noise, and by what its time is uncertain along a ramp.
        Where the powers leave more unexplained than that, or a share :data:`UNEXPLAINED` of how
        readings differ, power changed elsewhere.

        Args:
            overlap: The share of each reading's window between each two marks.
                Shape: (readings, levels).
            mean_w: The readings. Shape: (readings,).
        """
        usual_w = float(mean_w.mean())
        plain_w, *_ = np.linalg.lstsq(overlap, mean_w - usual_w, rcond=RESOLVED)
        left_w = mean_w - usual_w - overlap @ plain_w
        ramp_w = float(np.ptp(plain_w)) * self.late_s / self.window_s
        left_w2 = float(left_w @ left_w) / max(mean_w.size - overlap.shape[1], 1)
        noise_w2 = NOISE * float(np.median(np.diff(mean_w, 2) ** 2)) if mean_w.size > 2 else 0.0
        if left_w2 > noise_w2 + ramp_w**2 + UNEXPLAINED**2 * float(mean_w.var()):
            return None
        reading_w2 = max(left_w2 + ramp_w**2 + (EXACT * usual_w) ** 2, LEAST_W2)
        covariance = posterior(overlap.T @ overlap, reading_w2, usual_w**2)
        power_w = usual_w + covariance @ (overlap.T @ (mean_w - usual_w)) / reading_w2
        # What the powers leave unexplained, power differed by within them at least.
        return _Levels(np.asarray(power_w), np.sqrt(np.diag(covariance) + left_w2))


def _shares(start_s: Floats, stop_s: Floats, edges_s: Floats) -> Floats:
    """The share of each stretch of time that lies between each two edges.

    Shape: (stretches, edges - 1).
    """
    within = np.minimum(stop_s[:, None], edges_s[1:]) - np.maximum(start_s[:, None], edges_s[:-1])
    return np.asarray(np.maximum(within, 0.0) / (stop_s - start_s)[:, None])
