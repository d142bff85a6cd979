"""Consecutive intervals with a mean power each: what the readings of a power channel stand for.

A sample that averages a window is such an interval, and so is the difference of two counter
readings. An instantaneous value stands for the time around it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from joulelab.sensors.sensor import Channel, Quantity

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Indices = NDArray[np.intp]

GAP_FACTOR = 2.5
"""Readings further apart than this many expected intervals have a gap between them."""


@dataclass(frozen=True)
class Intervals:
    """Consecutive intervals with a mean power each.

    Attributes:
        edges: Where the intervals meet, seconds. Shape: (intervals + 1,).
        power: Mean power of each, W. Shape: (intervals,).
        gap: Whether an interval has no reading. Shape: (intervals,).
        stretch: Index of the summarised stretch that the interval is; -1 for any other interval.
            Shape: (intervals,).
        middle: Middle of the sensor's averaging window. Shape: (intervals,).
        max_age_s: The age of a polled value is evenly distributed between 0 and this.
        latency_uncertainty_s: Standard uncertainty of the common latency of all edges, beyond the
            channel's own.
    """

    edges: Floats
    power: Floats
    gap: Bools
    stretch: Indices
    middle: Floats
    max_age_s: float = 0.0
    latency_uncertainty_s: float = 0.0

    @property
    def plain(self) -> Bools:
        """Whether an interval is one reading: no gap, no summarised stretch."""
        return ~self.gap & (self.stretch < 0)


NO_INTERVALS = Intervals(
    edges=np.zeros(0),
    power=np.zeros(0),
    gap=np.zeros(0, dtype=bool),
    stretch=np.zeros(0, dtype=np.intp),
    middle=np.zeros(0),
)


@dataclass(frozen=True)
class Stretches:
    """Stretches of gapless power readings of which only sums are kept. Shapes: (stretches,).

    Attributes:
        after: Position of the reading before each stretch.
        power_w: Mean power.
        readings: Number of readings.
        jump_w2: Sum of the squared differences between consecutive readings.
    """

    after: Indices
    power_w: Floats
    readings: Floats
    jump_w2: Floats


NO_STRETCHES = Stretches(np.zeros(0, dtype=np.intp), np.zeros(0), np.zeros(0), np.zeros(0))


def power_intervals(
    channel: Channel,
    t: Floats,
    power: Floats,
    interval_s: float,
    change: Floats,
    stretches: Stretches = NO_STRETCHES,
) -> Intervals:
    """Give each power reading the time up to halfway to its neighbours.

    Halfway is between the middles of the readings' windows. Where power changed once between two
    readings, each stands for its own side of the change.

    Args:
        channel: The channel; its quantity is power.
        t: Timestamps in order, seconds. Shape: (readings,).
        power: W. Shape: (readings,).
        interval_s: Time between two reads.
        change: Times at which power is known to have changed. Shape: (changes,).
        stretches: Summarised readings between readings that are far apart. With any, all
            timestamps are distinct.
    """
    if t.size == 0:
        return NO_INTERVALS
    spacing = spacing_s(channel, interval_s)
    middle = t - mean_age_s(channel) - channel.window_s / 2
    order = np.concatenate(([True], np.diff(middle) > 0))
    middle, power = middle[order], power[order]
    apart = np.diff(middle)
    gap_after = apart > GAP_FACTOR * spacing
    half = np.where(gap_after, spacing / 2, apart / 2)
    stops = middle[:-1] + half
    starts = middle[1:] - half
    first = np.searchsorted(change, middle[:-1], side="right")
    once = (np.searchsorted(change, middle[1:], side="left") - first == 1) & ~gap_after
    if once.any():
        stops[once] = starts[once] = change[first[once]]
    starts = np.concatenate(([middle[0] - spacing / 2], starts))
    stops = np.concatenate((stops, [middle[-1] + spacing / 2]))
    # The time between two intervals is a gap, unless it is a summarised stretch.
    where = np.flatnonzero(gap_after)
    between = (power[where] + power[where + 1]) / 2
    summarised = np.isin(where, stretches.after)
    stretch = np.where(summarised, np.searchsorted(stretches.after, where), -1)
    between[summarised] = stretches.power_w[stretch[summarised]]
    return Intervals(
        edges=np.insert(np.concatenate((starts, stops[-1:])), where + 1, stops[where]),
        power=np.insert(power, where + 1, between),
        gap=np.insert(np.zeros(power.size, dtype=bool), where + 1, ~summarised),
        stretch=np.insert(np.full(power.size, -1), where + 1, stretch),
        middle=np.insert(middle, where + 1, (stops[where] + starts[where + 1]) / 2),
        max_age_s=max_age_s(channel),
    )


def blind_s(channel: Channel, interval_s: float) -> float:
    """Return the part of each interval outside the sensor's averaging window."""
    if channel.quantity is Quantity.ENERGY:
        return 0.0
    return max(0.0, spacing_s(channel, interval_s) - channel.window_s)


def spacing_s(channel: Channel, interval_s: float) -> float:
    """Return the time between two readings when none is missing."""
    return max(channel.update_period_s, interval_s) if channel.polled else channel.update_period_s


def max_age_s(channel: Channel) -> float:
    """Return how old a polled value can be; 0 for a sensor that timestamps its readings."""
    return channel.update_period_s if channel.polled else 0.0


def mean_age_s(channel: Channel) -> float:
    """Return how long before its timestamp a value was new, on average."""
    return channel.delay_s + max_age_s(channel) / 2
