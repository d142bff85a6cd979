"""Reconciliation of a component's sources: scale samples to a counter, and fill gaps.

Samples of power and an energy counter of the same board read one sensor (on an H100 their totals
over 350 s agree within 0.01 %), but samples may be missing, or weighted otherwise. Over stretches
long enough for the counter's update period the counter determines the energy; within them, the
samples determine when it was used.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from joulelab.arrays import Bools, Floats
from joulelab.energy.incident import Incident
from joulelab.energy.signal.curve import EnergyCurve
from joulelab.energy.signal.timestamp_alignment import MAD_TO_SIGMA
from joulelab.energy.signal.variability import EDGE_SHAPE, Variogram
from joulelab.format import number, quantity
from joulelab.sensors.calibration import TRANSFER_UNCERTAINTY
from joulelab.sensors.sensor import Channel, Quantity

STRETCH_UPDATES = 300  # A stretch's length in updates: an update's time is then 0.1 % of it.
CHECK_UPDATES = 50  # The same to find contradictions, so that gaps leave some stretches whole.
MAX_STRETCHES = 1000
CONTRADICTION = 0.1
"""Sources that differ by more than this, beyond their uncertainty (k = 3), do not measure the same
component."""
MODULE_RATIO = 4.0  # A superchip's module draws less than this many times the power of its GPU.
MIN_INTERVALS = 8  # Intervals of a counter that show how far it usually is from the power readings.
LEAP_SIGMAS = 6.0  # A leap is further off than this many standard uncertainties,
LEAP_SHARE = 0.5  # and by this share of the energy in its interval,
LEAP_UPDATES = 2.0
"""and by more than a shift of its interval by this many updates explains: an H200's counter showed
the energy of 0.02 to 0.16 s before it was read, with updates each 0.1 s."""
LATE_STEPS = 9


def can_scale(channel: Channel, counter: Channel) -> bool:
    """Report whether a counter determines a source's scale: not if the source's is better known."""
    return (
        channel.quantity is Quantity.POWER
        and counter.quantity is Quantity.ENERGY
        and counter.gain_uncertainty <= channel.gain_uncertainty
    )


def channel_role(channel: Channel, channels: Sequence[Channel]) -> str | None:
    """Return what one of all channels contributes to its component's energy, as text."""
    if not channel.gives_energy:
        return None
    same = [one for one in channels if one.gives_energy and one.component == channel.component]
    first = min(same, key=lambda one: one.priority)
    if channel is first:
        return "energy"
    return "its scale and gaps" if can_scale(first, channel) else "its gaps"


def stretch_edges_s(
    counter: Channel, first_s: float, last_s: float, updates: int = STRETCH_UPDATES
) -> Floats:
    """Return times that divide a recording into stretches of this many of a counter's updates."""
    stretches = (last_s - first_s) / (updates * counter.update_period_s)
    return np.linspace(first_s, last_s, int(np.clip(stretches, 1, MAX_STRETCHES)) + 1)


class _Comparison(NamedTuple):
    """A counter's energy against that of power readings, over stretches. Shapes: (stretches,)."""

    middle_s: Floats
    own_j: Floats
    ratio: Floats  # The counter's over the readings'.
    uncertainty: Floats  # Standard uncertainty of the ratio.

    @property
    def total_ratio(self) -> float:
        return float(np.average(self.ratio, weights=self.own_j))

    @property
    def contradicts(self) -> bool:
        """Whether the sources contradict each other over all stretches together."""
        u = math.hypot(*(self.uncertainty * self.own_j)) / float(self.own_j.sum())
        return bool(_contradict(np.array(self.total_ratio), np.array(u)))


def _contradict(ratio: Floats, u: Floats) -> Bools:
    return np.asarray(np.abs(ratio - 1) > np.hypot(CONTRADICTION, 3 * u))


def _compare(
    curve: EnergyCurve,
    counter_channel: Channel,
    counter: EnergyCurve,
    updates: int = STRETCH_UPDATES,
) -> _Comparison | None:
    """Compare the energy of two sources over stretches without gaps; ``None`` without any."""
    # At the counter's own readings nothing is interpolated.
    first_s = max(float(curve.time_s[0]), float(counter.time_s[0]))
    last_s = max(first_s, min(float(curve.time_s[-1]), float(counter.time_s[-1])))
    at = np.searchsorted(counter.time_s, stretch_edges_s(counter_channel, first_s, last_s, updates))
    at_s = np.unique(counter.time_s[np.minimum(at, counter.time_s.size - 1)])
    at_s = at_s[(at_s >= curve.time_s[0]) & (at_s <= curve.time_s[-1])]
    if at_s.size < 2:
        return None
    own_j, own_u_j, own_gap_s = curve.energy(at_s[:-1], at_s[1:])
    counted_j, counted_u_j, counted_gap_s = counter.energy(at_s[:-1], at_s[1:])
    counted_u_j = np.maximum(counted_u_j, _age_uncertainty_j(counter, at_s))
    usable = (own_gap_s + counted_gap_s == 0) & (own_j > 0) & (counted_j > 0)
    if not usable.any():
        return None
    return _Comparison(
        (at_s[:-1] + at_s[1:])[usable] / 2,
        own_j[usable],
        counted_j[usable] / own_j[usable],
        np.hypot(counted_u_j, own_u_j)[usable] / own_j[usable],
    )


def _age_uncertainty_j(counter: EnergyCurve, at_s: Floats) -> Floats:
    """Return the uncertainty of energies between a counter's readings from independent ages.

    Readings about a multiple of the update period apart are almost always equally old, and now and
    then a whole period older: a standard uncertainty that says so is no bound of three.
    """
    before = np.maximum(np.searchsorted(counter.time_s, at_s) - 1, 0)
    end_j = counter.max_age_s / math.sqrt(12) * counter.power_w[before]
    return np.hypot(end_j[:-1], end_j[1:])


def contradiction(
    first: Channel, curve: EnergyCurve, second: Channel, other: EnergyCurve
) -> tuple[float, bool, Incident] | None:
    """Return by how much the second source contradicts the first; ``None`` if they agree.

    Where a GPU's counter counts more than the power, it may be that of a superchip's whole module:
    the power is then the GPU's own. No module draws many times as much. Otherwise the preferred
    source is used.

    Returns:
        The ratio of their energies, whether the first is used, and a note.
    """
    found = _compare(curve, second, other, CHECK_UPDATES)
    if found is None or not found.contradicts:
        return None
    ratio = found.total_ratio
    is_counted = second.quantity is Quantity.ENERGY
    may_be_module = first.quantity is not second.quantity and first.component.startswith("gpu")
    is_first = (may_be_module and ratio > 1) or first.priority <= second.priority
    text = "one of them is wrong"
    if may_be_module and 1 < ratio < MODULE_RATIO:
        text = "on superchips it is the whole module's"
    text = (
        f"{first.component}: {second.source} {'counted' if is_counted else 'shows'} "
        f"{number(ratio)} times what {first.source} reports: {text}; "
        f"{(first if is_first else second).source} is used, and its interval allows for both"
    )
    return ratio, is_first, Incident(-math.inf, math.inf, text)


def widen(channel: Channel, ratio: float) -> Channel:
    """Allow for another source that gave ``ratio`` times the energy (rectangular, GUM 4.3.7)."""
    uncertainty = math.hypot(channel.gain_uncertainty, abs(ratio - 1) / math.sqrt(3))
    return replace(channel, gain_uncertainty=uncertainty)


def without_leaps(
    curve: EnergyCurve, counter_channel: Channel, counter: EnergyCurve
) -> tuple[EnergyCurve, list[Incident]]:
    """Make gaps of the counter's intervals in which it counted far more than power readings show.

    A leap is an outlier of the differences, and above what either source leaves open. A counter
    that is late by a share of a second counts too little where power rises, and too much where it
    falls.
    """
    start_s, stop_s = counter.time_s[:-1], counter.time_s[1:]
    inside = (start_s >= curve.time_s[0]) & (stop_s <= curve.time_s[-1]) & ~counter.gap
    own_j, own_u_j, own_gap_s = curve.energy(start_s, stop_s)
    counted_j, counted_u_j, _ = counter.energy(start_s, stop_s)
    inside &= (own_gap_s == 0) & (own_j > 0)
    if np.count_nonzero(inside) < MIN_INTERVALS:
        return counter, []
    off_j = counted_j - float(np.median(counted_j[inside] / own_j[inside])) * own_j
    scatter_j = MAD_TO_SIGMA * float(np.median(np.abs(off_j[inside])))
    allowed_j = LEAP_SIGMAS * np.hypot(np.hypot(counted_u_j, own_u_j), scatter_j)
    allowed_j += _late_j(curve, start_s, stop_s, LEAP_UPDATES * counter_channel.update_period_s)
    leaps = inside & (off_j > allowed_j) & (off_j > LEAP_SHARE * own_j)
    incidents = [
        Incident(
            float(start_s[i]),
            float(stop_s[i]),
            f"{counter_channel.component}: {counter_channel.source} jumped by "
            f"{quantity(float(off_j[i]), 'J')}, which no power reading shows",
        )
        for i in np.flatnonzero(leaps)
    ]
    return (replace(counter, gap=counter.gap | leaps) if incidents else counter), incidents


def _late_j(curve: EnergyCurve, start_s: Floats, stop_s: Floats, late_s: float) -> Floats:
    """Return how much more an interval has that is earlier or later by up to ``late_s``."""
    shifts_s = np.linspace(-late_s, late_s, LATE_STEPS)
    shifted_j = [curve.energy_between(start_s + by_s, stop_s + by_s) for by_s in shifts_s]
    return np.asarray(np.max(shifted_j, axis=0) - curve.energy_between(start_s, stop_s))


def scale_to_counter(
    channel: Channel, curve: EnergyCurve, counter_channel: Channel, counter: EnergyCurve
) -> tuple[Channel, EnergyCurve]:
    """Scale a curve to a counter; return it with its channel, which names both.

    Over each stretch the counter's energy is r times the samples', with a standard uncertainty u
    from the counter's times and the samples' own. The prior of the scale is N(1, σ), σ =
    :data:`~joulelab.sensors.calibration.TRANSFER_UNCERTAINTY`: samples and counter agree within 1
    to 3 % over spans of 2 s, most of which are the counter's 0.1 s. Its posterior mean is
    1 + (r - 1) w, w = σ² / (σ² + u²): a short recording's samples keep their scale, a long one's
    get the counter's. The remaining uncertainty, or how far the two contradict each other, is added
    to the gain's.
    """
    found = _compare(curve, counter_channel, counter)
    if found is None:
        return channel, curve
    ratio, u = found.ratio, found.uncertainty
    contradict = _contradict(ratio, u)
    prior2 = TRANSFER_UNCERTAINTY**2
    share = np.where(contradict, 0.0, prior2 / (prior2 + u**2))
    left = np.where(contradict, np.abs(ratio - 1) / math.sqrt(3), np.sqrt(share) * u)
    uncertainty = math.sqrt(float(np.average(left**2, weights=found.own_j)))
    scaled = replace(
        channel,
        source=channel.source if contradict.all() else f"{channel.source}+{counter_channel.source}",
        gain_uncertainty=math.hypot(channel.gain_uncertainty, uncertainty),
    )
    return scaled, _scaled(curve, found.middle_s, 1 + (ratio - 1) * share)


def _scaled(curve: EnergyCurve, middle_s: Floats, scale: Floats) -> EnergyCurve:
    """Scale each piece by the scale of the stretch whose middle is nearest."""
    piece_s = (curve.time_s[:-1] + curve.time_s[1:]) / 2
    by = scale[np.searchsorted((middle_s[:-1] + middle_s[1:]) / 2, piece_s)]
    power_w = curve.power_w * by
    return replace(
        curve,
        power_w=power_w,
        energy_j=np.concatenate(([0.0], np.cumsum(np.diff(curve.time_s) * power_w))),
        spread_w=curve.spread_w * by,
        variance_j2=np.concatenate(([0.0], np.cumsum(np.diff(curve.variance_j2) * by**2))),
    )


class _Pieces(NamedTuple):
    """Consecutive pieces of a curve. Shapes: (pieces,) each."""

    start_s: Floats
    stop_s: Floats
    power_w: Floats
    spread_w: Floats
    interval_start_s: Floats
    interval_length_s: Floats
    variance_j2: Floats
    gap: Floats
    hole: Floats
    variogram_middle_j2: Floats
    variogram_exponent: Floats
    variogram_length_s: Floats

    @classmethod
    def of(cls, curve: EnergyCurve, first: int, after: int) -> _Pieces:
        pieces = slice(first, after)
        return cls(
            curve.time_s[:-1][pieces],
            curve.time_s[1:][pieces],
            curve.power_w[pieces],
            curve.spread_w[pieces],
            curve.interval_start_s[pieces],
            curve.interval_length_s[pieces],
            np.diff(curve.variance_j2)[pieces],
            curve.gap[pieces].astype(float),
            curve.hole[pieces].astype(float),
            *(column[pieces] for column in curve.variogram),
        )


def fill_gaps(curve: EnergyCurve, other: EnergyCurve) -> EnergyCurve:
    """Fill a curve's gaps, and the time before and after it, from another source.

    Whatever of a gap the other source covers is filled; the rest stays a gap. Filled pieces keep
    the other's own uncertainty, and that of the other's clock is added at both seams.
    """
    size = curve.power_w.size
    begin, end = float(curve.time_s[0]), float(curve.time_s[-1])
    blocks = [_cut(other, float(other.time_s[0]), begin)]
    done = 0
    for i in np.flatnonzero(curve.gap):
        begin_s, end_s = float(curve.time_s[i]), float(curve.time_s[i + 1])
        from_s, to_s = max(begin_s, float(other.time_s[0])), min(end_s, float(other.time_s[-1]))
        patch = _cut(other, from_s, to_s)
        if patch is not None:
            gap = _Pieces.of(curve, int(i), int(i) + 1)
            rest = _part(gap, begin_s, from_s), _part(gap, to_s, end_s)
            blocks += [_Pieces.of(curve, done, int(i)), rest[0], patch, rest[1]]
            done = int(i) + 1
    blocks += [_Pieces.of(curve, done, size), _cut(other, end, float(other.time_s[-1]))]
    columns = zip(*(block for block in blocks if block is not None), strict=True)
    joined = _Pieces(*(np.concatenate(column) for column in columns))
    energy = (joined.stop_s - joined.start_s) * joined.power_w
    return replace(
        curve,
        time_s=np.concatenate((joined.start_s, joined.stop_s[-1:])),
        energy_j=np.concatenate(([0.0], np.cumsum(energy))),
        power_w=joined.power_w,
        spread_w=joined.spread_w,
        interval_start_s=joined.interval_start_s,
        interval_length_s=joined.interval_length_s,
        variance_j2=np.concatenate(([0.0], np.cumsum(joined.variance_j2))),
        gap=joined.gap.astype(bool),
        hole=joined.hole.astype(bool),
        variogram=Variogram(*joined[-3:]),
    )


def _part(gap: _Pieces, start_s: float, stop_s: float) -> _Pieces | None:
    """Return a part of a gap, whose error is in proportion to its length."""
    if start_s >= stop_s:
        return None
    share = (stop_s - start_s) / (gap.stop_s - gap.start_s)
    return gap._replace(
        start_s=np.array([start_s]),
        stop_s=np.array([stop_s]),
        variance_j2=gap.variance_j2 * share**2,
    )


def _cut(curve: EnergyCurve, start_s: float, stop_s: float) -> _Pieces | None:
    """Return the pieces of a curve between two times, or nothing if it does not cover them all."""
    if start_s >= stop_s or curve.time_s[0] > start_s or curve.time_s[-1] < stop_s:
        return None
    first = int(np.searchsorted(curve.time_s, start_s, side="right")) - 1
    after = int(np.searchsorted(curve.time_s, stop_s, side="left"))
    pieces = _Pieces.of(curve, first, after)
    if pieces.gap.any():
        return None
    cut = pieces._replace(
        start_s=np.maximum(pieces.start_s, start_s), stop_s=np.minimum(pieces.stop_s, stop_s)
    )
    share = (cut.stop_s - cut.start_s) / (pieces.stop_s - pieces.start_s)
    variance = pieces.variance_j2 * share
    off_s = math.hypot(curve.latency_uncertainty_s, curve.max_age_s * EDGE_SHAPE / 2)
    late = off_s * (curve.is_counter * pieces.power_w + pieces.spread_w)
    variance[0] += late[0] ** 2
    variance[-1] += late[-1] ** 2
    return cut._replace(variance_j2=variance)
