"""Readings that average over many update periods: their period, their window and their steps.

Such a reading (the 1 s average of nvidia-smi, renewed each 0.1 s) shows a step of power as a ramp
as long as its window W, so that energy that belongs after a change point seems to lie before it,
and the other way round: for a step from a to b, (b - a) W / 8. Between change points that follow
each other within W, power is taken as constant, and its levels are those that explain the readings
best; before the first and after the last, a whole window must be undisturbed. Other changes of
power within W stay hidden.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from joulelab.arrays import Bools, Floats
from joulelab.energy.signal.curve import EnergyCurve
from joulelab.energy.signal.power_states import MIN_VARIANCE_W2, posterior_covariance
from joulelab.energy.signal.variability import (
    EDGE_SHAPE,
    Variogram,
    hidden_within,
    window_variogram,
)
from joulelab.sensors.sensor import Channel, Quantity

INSPECTED_READINGS = 200_000  # Enough to determine how often a sensor updates.
SAME_PERIOD = 1.5  # New values less than this many periods apart are one period apart.
MIN_CHANGES = 10  # New values, and different ones, from which their period can be determined.
AVERAGE_S = 1.0  # Of nvidia-smi's average power (NVML API reference, nvmlDeviceGetPowerUsage).
MIN_CONTRAST = 0.2  # Power must vary by this share of its maximum to reveal a sensor's window.
MIN_PERIODS = 1.5  # A window of fewer update periods does not reach its neighbours.
MAX_SPACING = 2.5  # Readings more periods apart than this do not show what happened between them.
MAX_CHANGE_POINTS = 100  # More of them without an undisturbed window between are not resolved.
RESOLVED = 0.01  # A stretch that contributes less than this share to the readings is not resolved.
EXACT = 1e-4  # No reading is exact to less than this share.
UNEXPLAINED = 0.2  # See :meth:`_Averages._levels`.
NOISE = 2.0  # Noise's median squared second difference is 2.7 times its variance: allow five.


@dataclass(frozen=True, slots=True)
class Pace:
    """How often a log was written and how often the sensor behind it updated."""

    interval_s: float  # Median time between two readings.
    period_s: float  # Time between two new values; not less than ``interval_s``.
    polled: bool  # The log repeats values, or may miss some: its times are those of the polls.


def pace_of(t_s: Floats, value: Floats) -> Pace:
    """Determine the pace of a log with two times or more. Values may be NaN.

    Example:
        >>> t_s = np.arange(0, 10, 0.02)
        >>> pace = pace_of(t_s, np.sin(np.floor(t_s * 10 + 1e-6)))
        >>> round(pace.interval_s, 6), round(pace.period_s, 6), pace.polled
        (0.02, 0.1, True)
    """
    t_s, value = t_s[:INSPECTED_READINGS], value[:INSPECTED_READINGS]
    steps = np.diff(t_s)
    interval_s = float(np.median(steps[steps > 0]))
    changed = np.flatnonzero(np.diff(value) != 0) + 1
    apart = np.diff(t_s[changed])
    apart = apart[apart > 0]
    # Power that steps between a few levels does not reveal the sensor's period.
    if apart.size < MIN_CHANGES or np.unique(value[changed]).size < MIN_CHANGES:
        return Pace(interval_s, interval_s, False)
    # Several updates of a quiet board may be equal: only the short distances are one period.
    short = np.quantile(apart, 0.1)
    period_s = float(np.median(apart[apart <= SAME_PERIOD * short]))
    if period_s <= SAME_PERIOD * interval_s:
        return Pace(interval_s, interval_s, False)
    return Pace(interval_s, period_s, True)


def updates(t_s: Floats, value: Floats, pace: Pace) -> tuple[Floats, Floats]:
    """Return the sensor's own updates: when each value was new, and the value.

    A value that a poll sees first became new since the poll before it: halfway between the two.
    Where a value stays for longer than a period, it was measured again once each period. No value
    may be NaN.
    """
    if not pace.polled:
        return t_s, value
    changed = np.flatnonzero(np.diff(value) != 0) + 1
    # A late poll does not show when the value was new.
    late = np.diff(t_s)[changed - 1] > pace.period_s / 2
    new_t = (t_s[changed] + t_s[changed - 1]) / 2
    until = np.append(new_t[1:], t_s[-1])
    again = np.maximum(np.floor((until - new_t) / pace.period_s - 0.5), 0).astype(np.int64)
    again[late] = 0
    count = again + 1
    first = np.repeat(np.cumsum(count) - count, count)
    nth = np.arange(count.sum()) - first
    times = np.repeat(new_t, count) + nth * pace.period_s
    keep = np.repeat(~late, count)
    return times[keep], np.repeat(value[changed], count)[keep]


def is_moving_average(t_s: Floats, value: Floats, pace: Pace) -> bool | None:
    """Report whether values average :data:`AVERAGE_S`; ``None`` if the log does not show it."""
    t_s, value = t_s[:INSPECTED_READINGS], value[:INSPECTED_READINGS]
    seen = np.isfinite(value)
    _, new = updates(t_s[seen], value[seen], pace)
    share = pace.period_s / AVERAGE_S
    if share > MIN_CONTRAST or new.size < 2 / share:
        return None
    range_w = float(np.ptp(new))
    if range_w < MIN_CONTRAST * float(np.max(np.abs(new))):
        return None
    largest = float(np.max(np.abs(np.diff(new))))
    # It moves by at most this share of the range per update, of which a poll may miss one.
    return largest <= 2.5 * share * range_w


class Sharpened(NamedTuple):
    """An averaging channel with the steps at its change points restored. Shapes: (updates,)."""

    channel: Channel  # Its readings no longer overlap each other.
    t_s: Floats  # Ends of what each reading is now the mean of.
    power_w: Floats  # Means over one update period each.
    off_w: Floats  # Standard uncertainty of restored powers; 0 elsewhere.
    variogram: Variogram  # Of the readings without a change point.
    restored: Bools  # Whether each change point's step was restored.


def is_averaged(channel: Channel) -> bool:
    """Report whether a channel's readings overlap each other."""
    return (
        channel.quantity is Quantity.POWER
        and channel.window_s > MIN_PERIODS * channel.update_period_s
    )


def sharpen(
    channel: Channel, t_s: Floats, value: Floats, interval_s: float, points_s: Floats
) -> Sharpened:
    """Restore the steps at the change points of a channel for which :func:`is_averaged` is true.

    A step can be restored if there is a whole window without another change point and with readings
    on either side. ``interval_s`` is the time between two reads; values may be NaN.
    """
    seen = np.isfinite(value)
    period_s, window_s = channel.update_period_s, channel.window_s
    # A log slower than the sensor has no more than its own readings.
    pace = Pace(interval_s, period_s, channel.polled and interval_s < period_s)
    u_s, mean_w = updates(t_s[seen], value[seen], pace)
    cell_s = max(period_s, interval_s)
    end_s = u_s - channel.delay_s
    timing_s = 0.0
    if pace.polled:
        # An update is between two polls, or at any time of a period.
        timing_s = interval_s / math.sqrt(12)
    elif channel.polled:
        end_s = end_s - period_s / 2
        timing_s = period_s / math.sqrt(12)
    timing_s = math.hypot(channel.time_uncertainty_s, timing_s)
    averages = _Averages(end_s, mean_w, window_s, cell_s, timing_s)
    sharp_w, off_w = mean_w.copy(), np.zeros_like(mean_w)
    restored = [
        np.full(group.size, averages.restore_steps(group, sharp_w, off_w))
        for group in groups(points_s, window_s)
    ]
    sharp = replace(
        channel,
        update_period_s=cell_s,
        window_s=cell_s,
        delay_s=0.0,
        polled=False,
        time_uncertainty_s=timing_s,
    )
    times_s = end_s - window_s / 2 + cell_s / 2
    changed = np.searchsorted(points_s, end_s) > np.searchsorted(points_s, end_s - window_s)
    variogram = window_variogram(end_s - window_s / 2, mean_w, ~changed, window_s, cell_s)
    return Sharpened(
        sharp, times_s, sharp_w, off_w, variogram, np.concatenate(restored).astype(bool)
    )


def sharpened_curve(curve: EnergyCurve, found: Sharpened, window_s: float) -> EnergyCurve:
    """Add what the original window hides to the curve of sharpened readings."""
    start_s = curve.time_s[:-1]
    off_w = np.interp(start_s, found.t_s - found.channel.window_s / 2, found.off_w)
    hidden_w = hidden_within(np.array(window_s)) * np.abs(curve.power_w)
    at = np.minimum(np.searchsorted(found.t_s, start_s), found.t_s.size - 1)
    return replace(
        curve,
        spread_w=np.maximum(curve.spread_w, np.hypot(hidden_w, off_w / EDGE_SHAPE)),
        smear_s=max(window_s - float(np.median(curve.interval_length_s)), 0.0),
        variogram=found.variogram.at(at),
    )


def groups(points_s: Floats, window_s: float) -> list[Floats]:
    """Group change points with less than a window between them."""
    return np.split(points_s, np.flatnonzero(np.diff(points_s) >= window_s) + 1)


class _Averages(NamedTuple):
    """Readings that are averages. Shapes: (updates,)."""

    end_s: Floats  # End of each averaging window.
    mean_w: Floats
    window_s: float  # Length of the window.
    cell_s: float  # Distance between two updates.
    timing_s: float  # Standard uncertainty of ``end_s``.

    def restore_steps(self, points_s: Floats, sharp_w: Floats, off_w: Floats) -> bool:
        """Turn ramps around change points into steps of the same energy, in place, if possible."""
        if not 0 < points_s.size <= MAX_CHANGE_POINTS:
            return False
        first_s, last_s = float(points_s[0]), float(points_s[-1])
        window_s, cell_s = self.window_s, self.cell_s
        lo, hi = np.searchsorted(self.end_s, (first_s - cell_s, last_s + window_s + cell_s))
        shown = slice(max(lo - 1, 0), hi + 1)
        end_s, mean_w = self.end_s[shown], self.mean_w[shown]
        if lo == 0 or hi == self.end_s.size or np.diff(end_s).max() > MAX_SPACING * cell_s:
            return False
        edges_s = np.concatenate(([-math.inf], points_s, [math.inf]))
        levels = self._levels(_shares(end_s - window_s, end_s, edges_s), mean_w)
        if levels is None or levels[0].min() < 0 < mean_w.min():
            return False
        middle_s = self.end_s - window_s / 2
        lo, hi = np.searchsorted(middle_s, (first_s - window_s / 2, last_s + window_s / 2))
        if lo == hi:
            return False
        cells = _shares(middle_s[lo:hi] - cell_s / 2, middle_s[lo:hi] + cell_s / 2, edges_s)
        model_w = cells @ levels[0]
        sharp_w[lo:hi] = model_w + (self.mean_w[lo:hi].mean() - model_w.mean())
        off_w[lo:hi] = cells @ levels[1]
        return True

    def _levels(self, overlap: Floats, mean_w: Floats) -> tuple[Floats, Floats] | None:
        """Estimate the powers between change points, and their standard uncertainties.

        Bayesian least squares; the prior of each is the readings' mean, with a standard uncertainty
        as large. A reading is off by its noise, and by what its time is uncertain along a ramp.
        Where the powers leave more unexplained than that, or a share :data:`UNEXPLAINED` of how
        readings differ, power changed elsewhere, and nothing is estimated. ``overlap`` is the share
        of each reading's window between each two change points. Shape: (readings, levels).
        """
        usual_w = float(mean_w.mean())
        plain_w, *_ = np.linalg.lstsq(overlap, mean_w - usual_w, rcond=RESOLVED)
        left_w = mean_w - usual_w - overlap @ plain_w
        ramp_w = float(np.ptp(plain_w)) * self.timing_s / self.window_s
        left_w2 = float(left_w @ left_w) / max(mean_w.size - overlap.shape[1], 1)
        noise_w2 = NOISE * float(np.median(np.diff(mean_w, 2) ** 2)) if mean_w.size > 2 else 0.0
        if left_w2 > noise_w2 + ramp_w**2 + UNEXPLAINED**2 * float(mean_w.var()):
            return None
        reading_w2 = max(left_w2 + ramp_w**2 + (EXACT * usual_w) ** 2, MIN_VARIANCE_W2)
        covariance = posterior_covariance(overlap.T @ overlap, reading_w2, usual_w**2)
        power_w = usual_w + covariance @ (overlap.T @ (mean_w - usual_w)) / reading_w2
        # Power differed within the levels at least by what they leave unexplained.
        return np.asarray(power_w), np.sqrt(np.diag(covariance) + left_w2)


def _shares(start_s: Floats, stop_s: Floats, edges_s: Floats) -> Floats:
    """Return the share of each window between each two edges. Shape: (windows, edges - 1)."""
    within = np.minimum(stop_s[:, None], edges_s[1:]) - np.maximum(start_s[:, None], edges_s[:-1])
    return np.asarray(np.maximum(within, 0.0) / (stop_s - start_s)[:, None])
