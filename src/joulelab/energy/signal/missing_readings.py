"""How far energy may be from its estimate where readings are missing.

Of a *hole* of a counter the energy is known and its course is not: it is taken as even. Of a *gap*
nothing is known: power is taken as the mean of its neighbours, and after the last reading or before
the first as that of the nearest.

How wrong such an estimate may be is seen where readings exist: the same time is hidden at many
other places of the recording, not far away and of similar power, and estimated in the same way.
Where too few such places exist, power may be anything that was read: a step of r anywhere within a
hole of length L moves at most L x (1 - x) r past the share x.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from joulelab.arrays import Bools, Floats, Indices
from joulelab.energy.signal.variability import EDGE_SHAPE, hidden_within

REACH = 32  # Places up to this many lengths of the missing time away count.
PLACES = 256
SIMILAR = 0.2  # Places whose power differs by at most this share of the range of powers count.
MIN_PLACES = 2.0  # Number of places that do not overlap; with fewer, the range of power counts.
BOUND_SHARE, BOUND_SIGMAS = 0.9, 1.645
"""This share of a normal distribution is within as many standard deviations. Errors of loads that
come and go regularly are bounded: their standard deviation would be too much."""
UNSEEN_SHARE = 0.3
"""Power after the last reading may differ from it by at least this share, however steady it was."""
CELLS = 64  # Parts are rounded to this share of the missing time.
PARTS_PER_BLOCK = 2048
TINY_S = 1e-12
_GOLDEN = (5**0.5 - 1) / 2


class Missing(NamedTuple):
    """Parts of spans in which readings are missing. Shapes: (parts,)."""

    start_s: Floats
    stop_s: Floats
    from_s: Floats  # The missing readings' time, of which it is a part.
    until_s: Floats
    power_w: Floats  # The estimate.
    is_hole: Bools  # Whether the energy of the whole time is known.
    has_both: Bools  # Whether readings exist before and after.

    def at(self, index: Indices) -> Missing:
        """Select parts."""
        start_s, stop_s, from_s, until_s, power_w = (column[index] for column in self[:5])
        flags = self.is_hole[index], self.has_both[index]
        return Missing(start_s, stop_s, from_s, until_s, power_w, *flags)


class Readable(NamedTuple):
    """Where a component's energy is known. Shapes: (pieces,), one more where pieces meet."""

    time_s: Floats
    energy_j: Floats
    power_w: Floats
    is_missing: Bools
    is_thinned: bool = False  # Whether pieces count as missing that were read and summarised.

    def piece(self, t: Floats) -> Indices:
        """Return the piece that contains each time."""
        found = np.searchsorted(self.time_s, t, side="right") - 1
        return np.clip(found, 0, self.power_w.size - 1)

    def until_j(self, t: Floats) -> Floats:
        """Return the energy until each time."""
        i = self.piece(t)
        return np.asarray(self.energy_j[i] + (t - self.time_s[i]) * self.power_w[i])


def missing_variance_j2(known: Readable, missing: Missing) -> Floats:
    """Return the variance of the estimated energy of each part. Shape: (parts,).

    Nearly equal parts of the same missing time, of which there may be millions, count as equal.
    """
    length_s = missing.until_s - missing.from_s
    part_s = missing.stop_s - missing.start_s
    if not part_s.size:
        return part_s
    cells = np.clip(np.rint(CELLS * part_s / length_s), 1, CELLS)
    first = np.rint(CELLS * (missing.start_s - missing.from_s) / length_s)
    first = np.minimum(first, CELLS - cells)
    keys = np.stack((missing.from_s, missing.until_s, first, cells), axis=1)
    _, index, part = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    cell_s = (length_s / CELLS)[index]
    start_s = missing.from_s[index] + first[index] * cell_s
    distinct = missing.at(index)._replace(start_s=start_s, stop_s=start_s + cells[index] * cell_s)
    missing_s = np.append(0.0, np.cumsum(np.diff(known.time_s) * known.is_missing))
    found = [
        _block(known, missing_s, distinct.at(np.arange(at, min(at + PARTS_PER_BLOCK, index.size))))
        for at in range(0, index.size, PARTS_PER_BLOCK)
    ]
    variance = np.concatenate([np.zeros(0), *found])[part.reshape(-1)]
    return np.asarray(variance * (part_s * CELLS / (cells * length_s)) ** 2)


def _block(known: Readable, missing_s: Floats, parts: Missing) -> Floats:
    length_s = parts.until_s - parts.from_s
    first_s = np.maximum(known.time_s[0], parts.from_s - REACH * length_s)
    last_s = np.minimum(known.time_s[-1], parts.until_s + REACH * length_s) - length_s
    apart_s = np.maximum(last_s - first_s, 0.0) / PLACES
    # Places at equal distances could be in step with the load.
    place = np.arange(PLACES)
    at_s = first_s[:, None] + apart_s[:, None] * (place + place * _GOLDEN % 1.0)
    end_s = at_s + length_s[:, None]
    before, after = known.piece(at_s), known.piece(end_s)
    # A place's own readings and those around it must exist.
    hidden_s = np.interp(known.time_s[after + 1], known.time_s, missing_s)
    hidden_s -= np.interp(known.time_s[before], known.time_s, missing_s)
    usable = (hidden_s <= 0) & (last_s > first_s)[:, None]

    # Where no place of this length has all its readings, everything that was read counts.
    is_any = usable.any(axis=1)[:, None] | known.is_thinned
    counted = np.where(is_any, usable, ~known.is_missing[before])
    low_w, high_w = _range(known.power_w[before], counted, parts.power_w)
    range_w = high_w - low_w
    begin_j, all_j = known.until_j(at_s), known.until_j(end_s)
    mean_w = (all_j - begin_j) / length_s[:, None]
    around_w = np.where(
        parts.has_both[:, None],
        (known.power_w[before] + known.power_w[after]) / 2,
        known.power_w[before],
    )
    estimate_w = np.where(parts.is_hole[:, None], mean_w, around_w)
    off_w = np.abs(estimate_w - parts.power_w[:, None])
    usable &= off_w <= SIMILAR * range_w[:, None]

    start_s, stop_s = (one - parts.from_s for one in (parts.start_s, parts.stop_s))
    part_s = stop_s - start_s
    true_j = known.until_j(at_s + stop_s[:, None]) - known.until_j(at_s + start_s[:, None])
    error_j = np.abs(true_j - part_s[:, None] * estimate_w)
    count = usable.sum(axis=1)
    places = count * apart_s / length_s
    ordered_j = np.sort(np.where(usable, error_j, np.inf), axis=1)
    distinct = np.maximum(count * apart_s / np.maximum(np.maximum(part_s, apart_s), TINY_S), 1.0)
    share = BOUND_SHARE * (1 + 0.5 / distinct)
    position = np.clip(np.ceil(share * count).astype(int), 1, np.maximum(count, 1)) - 1
    seen_j = ordered_j[np.arange(count.size), position]

    shares = np.stack((start_s, stop_s)) / length_s
    moved_s = length_s * np.hypot(*(shares * (1 - shares)))
    bound_s = np.where(parts.is_hole, np.minimum(moved_s, part_s), part_s)
    bound_j = bound_s * range_w * EDGE_SHAPE
    seen_j = np.minimum(seen_j / BOUND_SIGMAS, bound_j)
    uncertainty_j = np.where(places >= MIN_PLACES, seen_j, bound_j)
    unseen = np.where(parts.has_both, hidden_within(length_s), UNSEEN_SHARE)
    unseen = unseen if known.power_w.size > 1 else np.ones_like(unseen)
    least_j = np.where(parts.is_hole, 0.0, part_s * unseen * known.power_w.mean() * EDGE_SHAPE)
    return np.asarray(np.maximum(uncertainty_j, least_j) ** 2)


def _range(power_w: Floats, counted: Bools, own_w: Floats) -> tuple[Floats, Floats]:
    """Return the least and greatest power at the places that count, and of the missing time."""
    low_w = np.minimum(np.where(counted, power_w, np.inf).min(axis=1), own_w)
    high_w = np.maximum(np.where(counted, power_w, -np.inf).max(axis=1), own_w)
    return low_w, high_w
