"""From readings to energy over time.

The integral of the paper's Eqs. 4 and 5 is the running sum over the sensors' intervals, and the
energy of any span is a difference of two values of it, with the intervals at its edges shared out.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from joulelab.accounting.curve import EDGE_SHAPE, EnergyCurve
from joulelab.accounting.intervals import (
    MANY_READINGS,
    NO_BRIDGES,
    Bridges,
    counter_intervals,
    expected_s,
    power_intervals,
    regular_times,
    stamp_uncertainty_s,
    unseen_s,
)
from joulelab.accounting.marks import Parts, cut_everywhere, split_at_marks, split_by_state
from joulelab.accounting.states import NO_MARKS, Marks
from joulelab.sensors.sensor import Channel, Quantity

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

STEP_FLATNESS = 0.1
"""Power counts as stepping within an interval when its neighbours on either side differ from
their own outer neighbours by less than this share of the step."""

SNAP = 0.2
"""A step within this share of an interval of a mark is that mark's."""

UNRESOLVED_SHARE = 0.3
UNRESOLVED_SCALE_S = 0.1
"""What a sensor's window hides: power within a window of 0.1 s or more may be off its mean by this
share, in proportion less within a shorter one. Training steps and their kernels are that uneven;
readings that are all alike are no proof that power is."""

ALIASING = 0.08
"""Relative standard uncertainty of a sensor that looks none of the time; in proportion to the share
that it does not see. Polled at 25 ms in 100 ms (unseen: 0.75), an H100 under duty-cycled load was
off by up to 12 %, two of these."""


def energy_curve(
    channel: Channel,
    t_ns: NDArray[np.int64],
    value: Floats,
    interval_s: float,
    marks: Marks = NO_MARKS,
    bridges: Bridges = NO_BRIDGES,
) -> EnergyCurve | None:
    """The energy over time that one channel's readings stand for.

    Args:
        channel: What was read; its quantity is power or energy.
        t_ns: Stamps in order of time. Shape: (readings,).
        value: Readings in W or J; NaN where the channel gave nothing. Shape: (readings,).
        interval_s: How often it was read.
        marks: Times at which power may have changed.
        bridges: Stretches of power readings that were left out of ``t_ns`` and ``value``; then
            every value is finite and every stamp later than the one before it.

    Returns:
        The curve, or ``None`` when there are too few readings to say anything.
    """
    seen = np.isfinite(value)
    t = np.asarray(t_ns[seen] * 1e-9, dtype=np.float64)
    value = value[seen]
    blind_s = unseen_s(channel, interval_s)
    time_uncertainty_s = stamp_uncertainty_s(channel)
    if channel.quantity is Quantity.ENERGY:
        found = counter_intervals(channel, t, value, interval_s)
    else:
        # Where the sensor does not look all the time, power is taken to change at a mark.
        change = marks.time_s if blind_s > 0 else marks.time_s[:0]
        if not channel.polled:
            t, jitter_s = regular_times(t, channel.update_period_s)
            time_uncertainty_s = math.hypot(time_uncertainty_s, jitter_s)
        found = power_intervals(channel, t, value, interval_s, change, bridges)
    if found.power.size == 0:
        return None
    edges, gap = found.edges, found.gap
    power = (found.power - channel.offset_w) / channel.gain
    smear_s = max(0.0, channel.window_s - channel.update_period_s)
    spread = _spread(power, gap, reach=1 + math.ceil(smear_s / channel.update_period_s))
    plain = ~gap & (found.bridged < 0)
    if smear_s == 0 and blind_s == 0:
        looks = edges[:-1], edges[1:]
        times = _change_times(edges, power, ~plain, marks.time_s, time_uncertainty_s)
        parts = split_at_marks(edges, power, plain, times)
        spread = _spread_of_parts(parts, spread, gap)
    else:
        looks = found.middle - channel.window_s / 2, found.middle + channel.window_s / 2
        parts = cut_everywhere(edges, power, plain, marks.time_s, looks)
        spread = spread[parts.interval]
    if parts.unresolved.any():
        parts, spread = split_by_state(
            parts, spread, power, plain, looks, marks, time_uncertainty_s
        )
    noise_w = _noise_w(power, ~plain) if channel.quantity is Quantity.POWER else 0.0
    gap = gap[parts.interval]
    length = np.diff(parts.edges)
    window_s = np.maximum(np.diff(edges)[parts.interval], channel.window_s)
    unresolved = UNRESOLVED_SHARE * np.minimum(window_s / UNRESOLVED_SCALE_S, 1.0)
    spread = np.maximum(spread, unresolved * np.abs(parts.power))
    variance = np.where(
        gap,
        (length * spread * EDGE_SHAPE) ** 2,
        (np.minimum(blind_s, length) * spread * EDGE_SHAPE) ** 2,
    )
    if channel.quantity is Quantity.POWER:
        reading_w2 = noise_w**2 + (channel.resolution / channel.gain) ** 2 / 12
        # A stamp that is wrong moves the boundary between two powers.
        jump = np.diff(parts.power, prepend=parts.power[:1])
        variance += length**2 * reading_w2 + (time_uncertainty_s * jump) ** 2
        at = np.flatnonzero(found.bridged[parts.interval] >= 0)
        bridge = found.bridged[parts.interval[at]]
        readings = bridges.readings[bridge]
        jump_w2 = bridges.jump_w2[bridge] / channel.gain**2
        each_s = length[at] / readings
        # Of each reading's two neighbours the one further from it counts: at most both.
        spread_w2 = 2 * jump_w2 + readings * (unresolved[at] * parts.power[at]) ** 2
        variance[at] = readings * each_s**2 * reading_w2 + time_uncertainty_s**2 * jump_w2
        variance[at] += (np.minimum(blind_s, each_s) * EDGE_SHAPE) ** 2 * spread_w2
    return EnergyCurve(
        time_s=parts.edges,
        energy_j=np.concatenate(([0.0], np.cumsum(length * parts.power))),
        power_w=parts.power,
        spread_w=spread,
        interval_start_s=edges[:-1][parts.interval],
        interval_length_s=np.diff(edges)[parts.interval],
        variance_j2=np.concatenate(([0.0], np.cumsum(variance))),
        gap=gap,
        smear_s=smear_s,
        counts=channel.quantity is Quantity.ENERGY,
        time_uncertainty_s=time_uncertainty_s,
        aliasing=ALIASING * blind_s / expected_s(channel, interval_s),
    )


def _noise_w(power: Floats, gap: Bools) -> float:
    """Standard deviation of the readings' own noise: that of their second differences.

    By the median, so that loads that come and go do not count (Gasser, Sroka, Jennen-Steinmetz,
    Biometrika 73, 1986, for the pseudo-residuals; variance 6 for weights 1, -2, 1).
    """
    if power.size < MANY_READINGS:
        return 0.0
    residual = np.abs(np.diff(power, 2))[~(gap[:-2] | gap[1:-1] | gap[2:])]
    return 1.4826 * float(np.median(residual)) / math.sqrt(6) if residual.size else 0.0


def _spread(power: Floats, gap: Bools, reach: int) -> Floats:
    """How far power may be from an interval's mean: as far as its neighbours' means are.

    Looks at ``reach`` neighbours on either side. Within a gap: anything that was seen at all.
    """
    highest, lowest = power.copy(), power.copy()
    for away in range(1, min(reach, power.size - 1) + 1):
        for here, there in ((np.s_[away:], np.s_[:-away]), (np.s_[:-away], np.s_[away:])):
            np.maximum(highest[here], power[there], out=highest[here])
            np.minimum(lowest[here], power[there], out=lowest[here])
    return np.where(gap, np.ptp(power), np.maximum(highest - power, power - lowest))


def _change_times(
    edges: Floats, power: Floats, gap: Bools, marks: Floats, time_uncertainty_s: float
) -> Floats:
    """The marks, and the times of plain steps that no mark explains, in order.

    An interval of mean p between steady neighbours at a and b, p between a and b, had a at first
    and b after the share x of its length for which p = x a + (1 - x) b.
    """
    if power.size < 5:
        return marks
    a2, a, p, b, b2 = (power[i : power.size - 4 + i] for i in range(5))
    step = np.abs(b - a)
    steady = (np.abs(a - a2) + np.abs(b2 - b)) <= STEP_FLATNESS * step
    inside = (np.minimum(a, b) < p) & (p < np.maximum(a, b))
    near_gap = np.logical_or.reduce([gap[i : power.size - 4 + i] for i in range(5)])
    at = np.flatnonzero(steady & inside & ~near_gap & (step > 0)) + 2
    a, p, b = power[at - 1], power[at], power[at + 1]
    length = edges[at + 1] - edges[at]
    times = edges[at] + (p - b) / (a - b) * length
    if marks.size:
        nearest = np.searchsorted(marks, times)
        apart = np.minimum(
            np.abs(marks[np.minimum(nearest, marks.size - 1)] - times),
            np.abs(marks[np.maximum(nearest - 1, 0)] - times),
        )
        times = times[apart > np.maximum(SNAP * length, 3 * time_uncertainty_s)]
    return np.sort(np.concatenate((marks, times)))


def _spread_of_parts(parts: Parts, spread: Floats, gap: Bools) -> Floats:
    """How far power may be from a part's mean.

    As far as the parts beside it that no change point sets apart; beyond a change point only by
    :data:`STEP_FLATNESS` of the step; and by what the change points did not explain.
    """
    if parts.power.size < 2:
        return spread
    jump = np.abs(np.diff(parts.power))
    at_change = parts.interval[1:] == parts.interval[:-1]
    jump = np.where(at_change, STEP_FLATNESS * jump, jump)
    near = np.maximum(np.concatenate(([0.0], jump)), np.concatenate((jump, [0.0])))
    near += parts.left_over[parts.interval]
    return np.where(gap[parts.interval], spread[parts.interval], near)
