"""Meters of power that state how long they average, but not how often, and not always rightly.

An ACPI meter states a window W. Its readings show which of three kinds it is:

- A *mean of each W in turn* is new once each W.
- A *moving average* ramps for W when power steps. As what was W ago leaves the mean A,
  P(t) = P(t - W) + W dA/dt: the energy of each W is W A(t), and power is known but for a part that
  repeats each W. It is taken to be none on average: power that is out of step with W has none.
- A *momentary value* steps between two readings, at times that have nothing to do with W.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from joulelab.arrays import Bools, Floats, Indices
from joulelab.energy.signal.averaged_readings import Pace, updates
from joulelab.energy.signal.curve import NO_REPETITION, Repetition
from joulelab.energy.signal.polled_meters import SLOW_S
from joulelab.energy.signal.timestamp_alignment import GAP_FACTOR
from joulelab.energy.signal.variability import STEP_FLATNESS, hidden_within
from joulelab.recording.trace import Readings
from joulelab.sensors.sensor import Channel

MIN_READINGS, MIN_STEPS = 4, 3
LARGE = 0.2  # Changes by this share of the range of all readings are large.
MOSTLY = 4  # Steps are this many times as frequent as other large changes.
SMOOTH = 1.75
"""Mean square of second differences over that of first ones: 2 for steps, 3 for noise, and less for
ramps that are longer than a reading."""
MIN_CELLS = {1: 1.9, 2: 3.8, 4: 3.8}
"""How many cells of how many readings a window must have to show ramps. A meter may be read more
often than it updates."""
SAME_TIME = 1.5  # Times that differ by at most this many reads may be the same.
CLOCK_OFF = 0.002  # A meter's clock may be off by this share.
NEGATIVE_SHARE = 0.03
"""Where more of the power than this would be negative, its course is not resolved: the meter may
weigh what it averages, or show it late."""
REACH = 32  # Windows on either side in which power is taken to be out of step with W.

Shown = tuple[Channel, Readings, float, Repetition]
"""A channel, its readings, the time between two, and what its window hides."""


def as_shown(channel: Channel, readings: Readings, interval_s: float) -> Shown:
    """Return a channel and its readings as these show its window if it is unverified."""
    stated = channel, readings, interval_s, NO_REPETITION
    window_s = channel.window_s
    if not channel.unverified_window or window_s != channel.update_period_s:
        return stated
    seen = np.isfinite(readings.value)
    t_s = np.asarray(readings.t_ns[seen] * 1e-9, dtype=np.float64)
    value = readings.value[seen]
    if value.size < MIN_READINGS or np.ptp(value) <= channel.resolution:
        return stated
    sizes = [n for n, least in MIN_CELLS.items() if n * interval_s * least <= window_s]
    smooth = [n for n in sizes if _is_smooth(t_s[::n], value[::n], n * interval_s)]
    if smooth:
        found = (_unaveraged(channel, t_s, value, n * interval_s) for n in smooth)
        averaged = replace(channel, update_period_s=interval_s / 2)
        return next(filter(None, found), (averaged, readings, interval_s, NO_REPETITION))
    steps, others = _large_changes(t_s, value, interval_s)
    has_steps = steps.size >= max(MIN_STEPS, MOSTLY * others.size)
    is_renewed = has_steps and _are_updates(t_s[steps], window_s, interval_s)
    if is_renewed and window_s >= SLOW_S:
        new_s, new_w = updates(t_s, value, Pace(interval_s, window_s, True))
        return replace(channel, polled=False), _readings(new_s, new_w), window_s, NO_REPETITION
    changes_often = bool(sizes) and np.count_nonzero(np.diff(value)) > value.size / 2
    if not is_renewed and (has_steps or changes_often):
        channel = replace(channel, window_s=0.0, update_period_s=interval_s / 2)
    return channel, readings, interval_s, NO_REPETITION


def _readings(t_s: Floats, value: Floats) -> Readings:
    return Readings(np.rint(t_s * 1e9).astype(np.int64), value)


def _is_smooth(t_s: Floats, value: Floats, each_s: float) -> bool:
    """Report whether values ramp."""
    change = np.where(np.diff(t_s) > GAP_FACTOR * each_s, 0.0, np.diff(value))
    bend = np.diff(change)
    return float(bend @ bend) < SMOOTH * float(change @ change)


def _large_changes(t_s: Floats, value: Floats, interval_s: float) -> tuple[Indices, Indices]:
    """Find large changes between two readings: steps, with hardly any before and after; others."""
    size = np.abs(np.diff(value))
    size[np.diff(t_s) > GAP_FACTOR * interval_s] = 0.0
    around = np.maximum(np.append(0.0, size[:-1]), np.append(size[1:], 0.0))
    is_large, is_step = size >= LARGE * np.ptp(value), around <= STEP_FLATNESS * size
    return np.flatnonzero(is_large & is_step), np.flatnonzero(is_large & ~is_step)


def _are_updates(step_s: Floats, window_s: float, interval_s: float) -> bool:
    """Report whether steps are where a value is new once each window, and often the next is too."""
    apart_s = np.diff(step_s)
    off_s = SAME_TIME * interval_s
    is_next = np.abs(apart_s - window_s) <= off_s
    follows = np.append(is_next, False) | np.append(False, is_next)
    count = np.maximum(np.rint(apart_s / window_s), 1).sum()
    drift_s = abs(float(apart_s.sum() - window_s * count))
    return bool(follows.mean() >= 0.5 and drift_s <= CLOCK_OFF * window_s * count + off_s)


def _unaveraged(channel: Channel, t_s: Floats, value: Floats, each_s: float) -> Shown | None:
    """Return the power of cells as long as readings are apart, from those of a moving average.

    ``None`` if too much of it would be negative.
    """
    window_s, count = channel.window_s, round(channel.window_s / each_s)
    cell_s = window_s / count
    breaks = np.flatnonzero(np.diff(t_s) > GAP_FACTOR * each_s) + 1
    ends: list[Floats] = []
    powers: list[Floats] = []
    variances: list[tuple[float, int]] = []
    for run in np.split(np.arange(t_s.size), breaks):
        first_s, last_s = t_s[run[[0, -1]]].tolist()
        after_s = cell_s * np.arange(math.floor((last_s - first_s) / cell_s + 0.5) + 1)
        power_w, off_w2 = _course(np.interp(first_s + after_s, t_s[run], value[run]), count)
        end_s = first_s + cell_s * (np.arange(power_w.size) - (count - 1))
        # A gap may be shorter than the window that ends after it.
        is_new = end_s > (ends[-1][-1] if ends else -math.inf) + cell_s / 2
        ends.append(end_s[is_new])
        powers.append(power_w[is_new])
        variances.append((off_w2, run.size))
    power_w, usual_w = np.concatenate(powers), float(np.abs(value).mean())
    if np.maximum(-power_w, 0.0).mean() > NEGATIVE_SHARE * usual_w:
        return None
    off_w2, weight = np.transpose(variances)
    hidden_w = float(hidden_within(np.array(window_s))) * usual_w
    off_w = max(math.sqrt(float(np.average(off_w2, weights=weight))), hidden_w)
    cells = replace(
        channel,
        window_s=cell_s,
        update_period_s=cell_s,
        polled=False,
        # It may be as old as that when it is read.
        time_uncertainty_s=cell_s / math.sqrt(12),
    )
    readings = _readings(np.concatenate(ends), np.maximum(power_w, 0.0))
    return cells, readings, cell_s, Repetition(window_s, off_w)


def _course(mean_w: Floats, cells: int) -> tuple[Floats, float]:
    """Return the power of each cell of a moving average over ``cells``, from the first window on.

    Also the variance of what repeats in each window.
    """
    count = cells + mean_w.size - 1
    rows = math.ceil(count / cells)
    rise_w = np.zeros(rows * cells)
    rise_w[cells:count] = cells * np.diff(mean_w)
    known: Bools = (np.arange(rows * cells) < count).reshape(rows, cells)
    # Power minus that in the first window.
    above_w = np.cumsum(rise_w.reshape(rows, cells), axis=0) * known
    low = np.clip(np.arange(rows) - REACH, 0, max(rows - 2 * REACH - 1, 0))
    high = np.minimum(low + 2 * REACH + 1, rows)
    usual_w = _means(above_w, known, low, high)
    flat_w = usual_w.ravel()
    before, after = cells // 2, cells - 1 - cells // 2
    around_w = np.concatenate((flat_w[cells - before : cells], flat_w, flat_w[-cells:][:after]))
    level_w = np.convolve(around_w, np.full(cells, 1 / cells), mode="valid")
    power_w = above_w.ravel() - flat_w + level_w + mean_w[0]
    middle = (low + high + 1) // 2
    apart_w = _means(above_w, known, middle, high) - _means(above_w, known, low, middle)
    # A common change of both halves is one of the level.
    repeated_w2 = float(np.mean(apart_w.var(axis=1)))
    return power_w[:count], repeated_w2 / 4


def _means(values: Floats, known: Bools, low: Indices, high: Indices) -> Floats:
    """Return the means of known values in the rows from ``low`` to before ``high``."""
    none = np.zeros((1, values.shape[1]))
    total: Floats = np.concatenate((none, np.cumsum(values, axis=0)))
    count: Floats = np.concatenate((none, np.cumsum(known, axis=0)))
    return np.asarray((total[high] - total[low]) / np.maximum(count[high] - count[low], 1))
