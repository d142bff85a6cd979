"""Where one source of a component has a gap, another may have seen what went on."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from joulelab.energy.signal.curve import EDGE_SHAPE, EnergyCurve
from joulelab.energy.signal.variogram import Variogram

Floats = NDArray[np.float64]


class _Pieces(NamedTuple):
    """Some pieces of a curve that follow each other. Shapes: (pieces,) each."""

    start_s: Floats
    stop_s: Floats
    power_w: Floats
    spread_w: Floats
    interval_start_s: Floats
    interval_length_s: Floats
    variance_j2: Floats
    gap: Floats
    middle_j2: Floats
    exponent: Floats
    wander_length_s: Floats


def filled(curve: EnergyCurve, other: EnergyCurve) -> EnergyCurve:
    """The curve with its gaps, and the time before and after it, taken from another source.

    Of a gap, what the other source covers is taken over; the rest stays a gap. What is taken over
    keeps the other's own uncertainty, and gets that of the other's clock at both seams.

    Args:
        curve: The preferred source's.
        other: The same component's by another source.
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
            gap = _of(curve, int(i), int(i) + 1)
            rest = _part(gap, begin_s, from_s), _part(gap, to_s, end_s)
            blocks += [_of(curve, done, int(i)), rest[0], patch, rest[1]]
            done = int(i) + 1
    blocks += [_of(curve, done, size), _cut(other, end, float(other.time_s[-1]))]
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
        wander=Variogram(joined.middle_j2, joined.exponent, joined.wander_length_s),
    )


def _of(curve: EnergyCurve, first: int, after: int) -> _Pieces:
    cut = slice(first, after)
    return _Pieces(
        curve.time_s[:-1][cut],
        curve.time_s[1:][cut],
        curve.power_w[cut],
        curve.spread_w[cut],
        curve.interval_start_s[cut],
        curve.interval_length_s[cut],
        np.diff(curve.variance_j2)[cut],
        curve.gap[cut].astype(float),
        *(column[cut] for column in curve.wander),
    )


def _part(gap: _Pieces, start_s: float, stop_s: float) -> _Pieces | None:
    """A part of a gap, whose error is in proportion to its length."""
    if start_s >= stop_s:
        return None
    share = (stop_s - start_s) / (gap.stop_s - gap.start_s)
    return gap._replace(
        start_s=np.array([start_s]),
        stop_s=np.array([stop_s]),
        variance_j2=gap.variance_j2 * share**2,
    )


def _cut(curve: EnergyCurve, start_s: float, stop_s: float) -> _Pieces | None:
    """The pieces of a curve between two times, or nothing where it does not cover them all."""
    if start_s >= stop_s or curve.time_s[0] > start_s or curve.time_s[-1] < stop_s:
        return None
    first = int(np.searchsorted(curve.time_s, start_s, side="right")) - 1
    after = int(np.searchsorted(curve.time_s, stop_s, side="left"))
    pieces = _of(curve, first, after)
    if pieces.gap.any():
        return None
    cut = pieces._replace(
        start_s=np.maximum(pieces.start_s, start_s), stop_s=np.minimum(pieces.stop_s, stop_s)
    )
    share = (cut.stop_s - cut.start_s) / (pieces.stop_s - pieces.start_s)
    variance = pieces.variance_j2 * share
    off_s = math.hypot(curve.late_uncertainty_s, curve.oldest_s * EDGE_SHAPE / 2)
    late = off_s * (curve.counts * pieces.power_w + pieces.spread_w)
    variance[0] += late[0] ** 2
    variance[-1] += late[-1] ** 2
    return cut._replace(variance_j2=variance)
