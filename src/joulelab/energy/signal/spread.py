"""How far power may be from what a sensor's intervals say, and what that means for energy."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from joulelab.energy.signal.change_points import Parts
from joulelab.energy.signal.curve import EDGE_SHAPE, EnergyCurve
from joulelab.energy.signal.grid import MAD_TO_SIGMA, MANY_READINGS
from joulelab.energy.signal.intervals import Bridges, Intervals, oldest_s, unseen_s
from joulelab.sensors.sensor import Channel, Quantity

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

STEP_FLATNESS = 0.1
"""Power counts as stepping within an interval when its neighbours on either side differ from
their own outer neighbours by less than this share of the step."""

UNRESOLVED_SHARE = 0.12
UNRESOLVED_SCALE_S = 0.1
UNRESOLVED_EXPONENT = 0.25
"""What a sensor's window hides: power within a window of 0.1 s may be off its mean by this share,
and by more within longer ones. While an H100 trained and ran 16 models (93 spans), readings of
20 ms had standard deviations (median of spans) of 7 % about the means over 0.1 s, and of 11 % over
1 s: rectangular, sqrt(3) of these. Readings that are all alike are no proof that power is."""


def of_intervals(power: Floats, gap: Bools, reach: int, at_change: Bools) -> Floats:
    """How far power may be from an interval's mean: as far as its neighbours' means are.

    Within a gap: anything that was seen at all.

    Args:
        power: Mean power of each. Shape: (intervals,).
        gap: Whether it has no reading. Shape: (intervals,).
        reach: How many neighbours on either side count.
        at_change: Whether a known change of power sets an interval and the next apart: beyond it
            by :data:`STEP_FLATNESS` of the step. Shape: (intervals - 1,).
    """
    away = np.zeros(power.size)
    for step in range(1, min(reach, power.size - 1) + 1):
        apart = np.abs(power[step:] - power[:-step])
        if step == 1:
            apart = np.where(at_change, STEP_FLATNESS * apart, apart)
        np.maximum(away[step:], apart, out=away[step:])
        np.maximum(away[:-step], apart, out=away[:-step])
    return np.where(gap, np.ptp(power), away)


def of_parts(parts: Parts, gap: Bools) -> Floats:
    """How far power may be from a part's mean: see :func:`of_intervals`.

    Parts of one interval are set apart by a change; what the changes did not explain is added.
    """
    at_change = parts.interval[1:] == parts.interval[:-1]
    away = of_intervals(parts.power, gap[parts.interval], 1, at_change)
    return away + np.where(gap, 0.0, parts.left_over)[parts.interval]


def unresolved(channel: Channel, length_s: Floats) -> Floats:
    """The share by which power may be off its mean within intervals of this length.

    A power sensor hides what goes on within its own window: between windows, readings show it.
    Shape: (intervals,).
    """
    counts = channel.quantity is Quantity.ENERGY or channel.window_s == 0
    return hidden_within(length_s if counts else np.full_like(length_s, channel.window_s))


def hidden_within(window_s: Floats) -> Floats:
    """The share by which power may be off its mean within windows of this length."""
    scale = (window_s / UNRESOLVED_SCALE_S) ** UNRESOLVED_EXPONENT
    return np.asarray(np.minimum(UNRESOLVED_SHARE * scale, 1.0))


def still_averaged(curve: EnergyCurve, off_w: Floats, window_s: float) -> EnergyCurve:
    """A curve whose steps were put back: beside them power may be as uneven as its window hides.

    Args:
        curve: With its steps.
        off_w: Standard uncertainty of the powers beside them. Shape: (pieces,).
        window_s: Of the sensor.
    """
    hidden_w = hidden_within(np.array(window_s)) * np.abs(curve.power_w)
    spread_w = np.hypot(hidden_w, off_w / EDGE_SHAPE)
    smear_s = window_s - float(np.median(curve.interval_length_s))
    return replace(curve, spread_w=np.maximum(curve.spread_w, spread_w), smear_s=max(smear_s, 0.0))


def variance_j2(
    channel: Channel,
    interval_s: float,
    found: Intervals,
    parts: Parts,
    spread: Floats,
    bridges: Bridges,
) -> Floats:
    """The variance of each part's own energy, independent of the others'. Shape: (parts,).

    Args:
        channel: What was read.
        interval_s: How often.
        found: The intervals.
        parts: Their parts.
        spread: How far power may be from each part's mean. Shape: (parts,).
        bridges: Stretches of which only sums are known.
    """
    gap = found.gap[parts.interval]
    length = np.diff(parts.edges)
    blind_s = unseen_s(channel, interval_s)
    variance = (np.where(gap, length, np.minimum(blind_s, length)) * spread * EDGE_SHAPE) ** 2
    if channel.quantity is Quantity.ENERGY:
        return variance
    plain = ~found.gap & (found.bridged < 0)
    reading_w2 = _noise_w(found.power, ~plain) ** 2 + (channel.resolution / channel.gain) ** 2 / 12
    # A polled value is of any age up to the oldest, which moves the boundary between two powers.
    moved_s2 = oldest_s(channel) ** 2 / 12
    jump = np.diff(parts.power, prepend=parts.power[:1])
    variance += length**2 * reading_w2 + moved_s2 * jump**2
    at = np.flatnonzero(found.bridged[parts.interval] >= 0)
    bridge = found.bridged[parts.interval[at]]
    readings, jump_w2 = bridges.readings[bridge], bridges.jump_w2[bridge] / channel.gain**2
    each_s = length[at] / readings
    hidden_w = unresolved(channel, each_s) * parts.power[at]
    # Of each reading's two neighbours the one further from it counts: at most both.
    spread_w2 = 2 * jump_w2 + readings * hidden_w**2
    variance[at] = readings * each_s**2 * reading_w2 + moved_s2 * jump_w2
    variance[at] += (np.minimum(blind_s, each_s) * EDGE_SHAPE) ** 2 * spread_w2
    return variance


def _noise_w(power: Floats, gap: Bools) -> float:
    """Standard deviation of the readings' own noise: that of their second differences.

    By the median, so that loads that come and go do not count (Gasser, Sroka, Jennen-Steinmetz,
    Biometrika 73, 1986, for the pseudo-residuals; variance 6 for weights 1, -2, 1).
    """
    if power.size < MANY_READINGS:
        return 0.0
    residual = np.abs(np.diff(power, 2))[~(gap[:-2] | gap[1:-1] | gap[2:])]
    return MAD_TO_SIGMA * float(np.median(residual)) / math.sqrt(6) if residual.size else 0.0
