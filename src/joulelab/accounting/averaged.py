"""Readings that are averages over many update periods, and the marks at which power changed.

Such a reading (the 1 s average of nvidia-smi, renewed each 0.1 s) shows a step of power as a ramp
as long as its window W, so that energy that belongs after a mark seems to lie before it, and the
other way round: for a step from a to b, (b - a) W / 8. Between marks that follow each other within
W, power is taken as constant, and its levels are those that explain the readings best (least
squares); before the first and after the last, a whole window must lie undisturbed.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from joulelab.accounting.updates import Pace, updates
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
) -> tuple[Channel, Floats, Floats, NDArray[np.bool_]]:
    """An averaging channel with the steps at its marks put back.

    Args:
        channel: For which :func:`is_averaged` is true.
        t_s: Times of the readings, in order. Shape: (readings,).
        value: Readings; NaN where there is none. Shape: (readings,).
        interval_s: How often they were taken.
        marks_s: Times at which power may have changed, in order. Shape: (marks,).

    Returns:
        The channel, times and values of the readings as means over one update period each; and for
        each mark whether its step could be put back: a whole window without another mark and with
        readings on either side. Shapes: (updates,) twice, (marks,).
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
    middle_s = end_s - window_s / 2
    sharp_w = mean_w.copy()
    done = [
        np.full(group.size, _put_back(end_s, mean_w, sharp_w, group, window_s, cell_s))
        for group in groups(marks_s, window_s)
    ]
    sharp = replace(
        channel,
        update_period_s=cell_s,
        window_s=cell_s,
        delay_s=0.0,
        polled=False,
        time_uncertainty_s=math.hypot(channel.time_uncertainty_s, _stamp_s(pace, channel)),
    )
    return sharp, middle_s + cell_s / 2, sharp_w, np.concatenate(done).astype(bool)


def _stamp_s(pace: Pace, channel: Channel) -> float:
    """How far off the time of an update may be: between two polls, or any time of a period."""
    if pace.polled:
        return pace.interval_s / math.sqrt(12)
    return channel.update_period_s / math.sqrt(12) if channel.polled else 0.0


def _put_back(
    end_s: Floats,
    mean_w: Floats,
    sharp_w: Floats,
    marks_s: Floats,
    window_s: float,
    cell_s: float,
) -> bool:
    """Turns the ramps around marks into steps of the same energy; false when it is not known."""
    if not 0 < marks_s.size <= MOST_MARKS:
        return False
    first_s, last_s = float(marks_s[0]), float(marks_s[-1])
    lo, hi = np.searchsorted(end_s, (first_s - cell_s, last_s + window_s + cell_s))
    shown = slice(max(lo - 1, 0), hi + 1)
    if lo == 0 or hi == end_s.size or np.diff(end_s[shown]).max() > NEAR_PERIODS * cell_s:
        return False
    edges_s = np.concatenate(([-math.inf], marks_s, [math.inf]))
    usual_w = float(mean_w[shown].mean())
    overlap = _shares(end_s[shown] - window_s, end_s[shown], edges_s)
    level_w, *_ = np.linalg.lstsq(overlap, mean_w[shown] - usual_w, rcond=RESOLVED)
    level_w += usual_w
    if level_w.min() < 0 < mean_w[shown].min():
        return False
    middle_s = end_s - window_s / 2
    lo, hi = np.searchsorted(middle_s, (first_s - window_s / 2, last_s + window_s / 2))
    cells = _shares(middle_s[lo:hi] - cell_s / 2, middle_s[lo:hi] + cell_s / 2, edges_s)
    model_w = cells @ level_w
    sharp_w[lo:hi] = model_w + (mean_w[lo:hi].mean() - model_w.mean())
    return True


def _shares(start_s: Floats, stop_s: Floats, edges_s: Floats) -> Floats:
    """The share of each stretch of time that lies between each two edges.

    Shape: (stretches, edges - 1).
    """
    within = np.minimum(stop_s[:, None], edges_s[1:]) - np.maximum(start_s[:, None], edges_s[:-1])
    return np.asarray(np.maximum(within, 0.0) / (stop_s - start_s)[:, None])
