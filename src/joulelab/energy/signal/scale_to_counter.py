"""Samples of power pinned to an energy counter of the same board.

Both read one sensor (on an H100 their totals over 350 s agree within 0.01 %), but samples may be
left out, or weighted otherwise. Over stretches long enough for the counter's update period the
counter says what samples are worth; within them, samples say when.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from joulelab.energy.signal.curve import EnergyCurve
from joulelab.sensors.sensor import Channel, Quantity

Floats = NDArray[np.float64]

STRETCH_UPDATES = 300
"""A stretch is so many updates of the counter long: when one was is then known to 0.1 % of it."""
MOST_STRETCHES = 1000
LIKELY = 0.01
"""Relative standard uncertainty of the samples' scale against the counter's, beforehand: they agree
within 1 to 3 % over spans of 2 s, most of which are the counter's 0.1 s."""
CONTRADICTION = 0.1
"""Sources that differ by more than this, beyond their uncertainty (k = 3), do not read the same."""


def can_pin(channel: Channel, counter: Channel) -> bool:
    """Whether a counter says how much a source's power is worth.

    Not where the source's own scale is known better, as after a calibration.
    """
    return (
        channel.quantity is Quantity.POWER
        and counter.quantity is Quantity.ENERGY
        and counter.gain_uncertainty <= channel.gain_uncertainty
    )


def pins_s(counter: Channel, extent_s: tuple[float, float]) -> Floats:
    """Times that divide a recording into stretches.

    Args:
        counter: It says how long they are.
        extent_s: The first and the last of its readings' times.

    Example:
        >>> from joulelab.sensors.sensor import Provenance
        >>> counter = Channel(component="gpu:0", quantity=Quantity.ENERGY, source="counter",
        ...     provenance=Provenance.MEASURED, update_period_s=0.1)
        >>> pins_s(counter, (0.0, 100.0)).round(1).tolist()
        [0.0, 33.3, 66.7, 100.0]
    """
    first_s, last_s = extent_s
    stretches = (last_s - first_s) / (STRETCH_UPDATES * counter.update_period_s)
    return np.linspace(first_s, last_s, int(np.clip(stretches, 1, MOST_STRETCHES)) + 1)


def pinned(
    channel: Channel, curve: EnergyCurve, counter_channel: Channel, counter: EnergyCurve
) -> tuple[Channel, EnergyCurve]:
    """The curve scaled to the counter, and its channel, which names both.

    Over each stretch the counter's energy is r times the samples', with a standard uncertainty u
    from the counter's times and the samples' own. With the scale s ~ N(1, :data:`LIKELY`)
    beforehand, it is afterwards 1 + (r - 1) w, w = LIKELY² / (LIKELY² + u²): a short recording's
    samples keep their scale, a long one's get the counter's. What is left uncertain, or how far
    the two contradict each other, is added to the gain's uncertainty.

    Args:
        channel: Of the samples.
        curve: Theirs.
        counter_channel: Of the counter.
        counter: Its curve.
    """
    # At the counter's own readings nothing of it lies between two of them.
    at = np.searchsorted(counter.time_s, pins_s(counter_channel, _overlap(curve, counter)))
    at_s = np.unique(counter.time_s[np.minimum(at, counter.time_s.size - 1)])
    at_s = at_s[(at_s >= curve.time_s[0]) & (at_s <= curve.time_s[-1])]
    if at_s.size < 2:
        return channel, curve
    own_j, own_u_j, own_gap_s = curve.energy(at_s[:-1], at_s[1:])
    counted_j, counted_u_j, counted_gap_s = counter.energy(at_s[:-1], at_s[1:])
    usable = (own_gap_s + counted_gap_s == 0) & (own_j > 0) & (counted_j > 0)
    if not usable.any():
        return channel, curve
    ratio = counted_j[usable] / own_j[usable]
    u = np.hypot(counted_u_j, own_u_j)[usable] / own_j[usable]
    contradict = np.abs(ratio - 1) > np.hypot(CONTRADICTION, 3 * u)
    share = np.where(contradict, 0.0, LIKELY**2 / (LIKELY**2 + u**2))
    left = np.where(contradict, np.abs(ratio - 1) / math.sqrt(3), np.sqrt(share) * u)
    source = channel.source if contradict.all() else f"{channel.source}+{counter_channel.source}"
    uncertainty = math.sqrt(float(np.average(left**2, weights=own_j[usable])))
    known = replace(
        channel, source=source, gain_uncertainty=math.hypot(channel.gain_uncertainty, uncertainty)
    )
    middle_s = (at_s[:-1] + at_s[1:])[usable] / 2
    return known, _scaled(curve, middle_s, 1 + (ratio - 1) * share)


def _overlap(curve: EnergyCurve, counter: EnergyCurve) -> tuple[float, float]:
    first_s = max(float(curve.time_s[0]), float(counter.time_s[0]))
    return first_s, max(first_s, min(float(curve.time_s[-1]), float(counter.time_s[-1])))


def _scaled(curve: EnergyCurve, middle_s: Floats, scale: Floats) -> EnergyCurve:
    """Each piece by the scale of the stretch whose middle is nearest."""
    piece_s = (curve.time_s[:-1] + curve.time_s[1:]) / 2
    nearest = np.searchsorted((middle_s[:-1] + middle_s[1:]) / 2, piece_s)
    by = scale[nearest]
    power_w = curve.power_w * by
    energy_j = np.concatenate(([0.0], np.cumsum(np.diff(curve.time_s) * power_w)))
    variance_j2 = np.concatenate(([0.0], np.cumsum(np.diff(curve.variance_j2) * by**2)))
    return replace(
        curve,
        power_w=power_w,
        energy_j=energy_j,
        spread_w=curve.spread_w * by,
        variance_j2=variance_j2,
    )
