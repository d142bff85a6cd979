"""When a polled counter had its new values, from the values themselves.

A counter that is new each T and polled each T or so shows, now and then, the energy of two updates
in one poll, or of none. When that happens tells where in T the updates fall: of all phases the true
one makes power the least rough.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

AT_ONCE = 256
"""Polls from which a phase is told: it moves, since clocks drift apart by some 10 ppm."""
COHERENT_S = 60.0
"""Polls further apart than this do not share a phase."""
NEAR = 2.0
"""Polls nearer to an update than so many standard uncertainties are not sure to show it."""
LEAST_POLLS = 32
LEAST_ROUGH = 1e-6
"""Readings are rounded: no power is smoother than this share of itself."""
SLOWEST = 20.0
"""Polls further apart than so many updates are late by so little that it does not matter."""
KNOWN = 0.5
"""A phase counts as told when it is less uncertain than this share of an age that is not."""

MOST_LOST = 10
"""Polls that are not sure, at either end of a recording, may last for so many updates."""


class Updates(NamedTuple):
    """The updates that polls showed.

    Attributes:
        keep: Which polls showed a new one for sure. Shape: (polls,).
        time_s: When each was. Shape: (polls kept,).
        uncertainty_s: Standard uncertainty of these times, nearly the same for all.
    """

    keep: Bools
    time_s: Floats
    uncertainty_s: float


def update_times(t: Floats, energy: Floats, period_s: float) -> Updates | None:
    """The times of a counter's updates.

    Between two polls there are n(phase) updates, and power was P = ΔE / (n T). Differences of
    powers that follow each other are taken to be of Laplace's distribution, so that steps of the
    load do not count for much; its scale unknown, a phase has the likelihood (Σ |ΔP|)^-m for m
    differences. Half of them are counted, since each power is in two. Polls so near to an update
    that it may lie on either side are left out.

    Args:
        t: Polls in order, seconds. Shape: (polls,).
        energy: The counter, rising. Shape: (polls,).
        period_s: T.

    Returns:
        The updates; ``None`` where the polls keep step with them, or the load is so uneven, that
        they do not tell, or not for an end of the recording.

    Example:
        >>> polls = np.cumsum(np.full(300, 0.101))
        >>> true_s = np.floor((polls - 0.03) / 0.1) * 0.1 + 0.03
        >>> found = update_times(polls, 50.0 * true_s, 0.1)
        >>> bool(np.abs(found.time_s - true_s[found.keep]).max() < 0.002)
        True
    """
    if t.size < LEAST_POLLS or np.median(np.diff(t)) > SLOWEST * period_s:
        return None
    time_s = np.empty_like(t)
    sure = np.empty(t.size, dtype=bool)
    variances = []
    for block in _blocks(t):
        phase_s, uncertainty_s = _phase(t[block], energy[block], period_s)
        if uncertainty_s > KNOWN * period_s / math.sqrt(12):
            return None
        updates = (t[block] - phase_s) / period_s
        time_s[block] = phase_s + period_s * np.floor(updates)
        from_update_s = np.abs(updates - np.rint(updates)) * period_s
        sure[block] = from_update_s > NEAR * uncertainty_s
        variances.append(uncertainty_s**2)
    at = t[sure]
    if not at.size or max(at[0] - t[0], t[-1] - at[-1]) > MOST_LOST * period_s:
        return None
    keep = sure.copy()
    keep[sure] = np.diff(time_s[sure], prepend=-math.inf) > period_s / 2
    return Updates(keep, time_s[keep], math.sqrt(float(np.mean(variances))))


def _blocks(t: Floats) -> list[slice]:
    """Polls that follow each other, some :data:`AT_ONCE` at a time."""
    breaks = np.flatnonzero(np.diff(t) > COHERENT_S) + 1
    blocks = []
    for run in np.split(np.arange(t.size), breaks):
        blocks += np.array_split(run, math.ceil(run.size / AT_ONCE))
    return [slice(int(block[0]), int(block[-1]) + 1) for block in blocks]


def _phase(t: Floats, energy: Floats, period_s: float) -> tuple[float, float]:
    """Where in T the updates fall, and its standard uncertainty (circular statistics)."""
    if t.size < LEAST_POLLS:
        return 0.0, period_s
    # Between two polls, modulo T, all phases are alike.
    rests_s = np.sort(t % period_s)
    widths_s = np.diff(rests_s, append=rests_s[0] + period_s)
    phases_s = rests_s + widths_s / 2
    count = np.diff(np.floor((t - phases_s[:, None]) / period_s), axis=1)
    gained = np.diff(energy)
    # A poll without an update shows no energy; one that does rules the phase out.
    impossible = np.any((count == 0) & (gained > 0), axis=1)
    power_w = gained / np.maximum(count, 1) / period_s
    rough_w = np.abs(np.diff(power_w, axis=1)).mean(axis=1)
    least_w = LEAST_ROUGH * float(np.abs(power_w).mean()) + np.finfo(float).tiny
    log_likelihood = -(t.size - 2) / 2 * np.log(rough_w + least_w)
    log_likelihood[impossible] = -np.inf
    if impossible.all():
        return 0.0, period_s
    weight = widths_s * np.exp(log_likelihood - log_likelihood.max())
    weight /= weight.sum()
    mean = weight @ np.exp(2j * np.pi * phases_s / period_s)
    length = min(max(float(abs(mean)), 1e-12), 1.0)
    between_s = period_s / (2 * math.pi) * math.sqrt(-2 * math.log(length))
    within_s = math.sqrt(float(weight @ widths_s**2) / 12)
    return float(np.angle(mean)) / (2 * math.pi) * period_s, math.hypot(between_s, within_s)
