"""Power of the program's states, for change points that follow each other faster than readings.

The spans that are open at a time are the program's state. Where they change faster than a sensor
reads, no single reading shows the power on either side of a change point; but many readings, each
with its own share of every state, determine the power of the states.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from joulelab.arrays import Bools, Floats, sums_around
from joulelab.energy.signal.change_points import ChangePoints, Parts

READINGS_AT_A_TIME = 1 << 16  # Their shares of 24 states take 40 MB.
READINGS_PER_FIT = 512  # Enough to estimate the states' powers, which change as training goes on.
ROUNDS = 4
NEIGHBOURS = 16
UNEXPLAINED = 0.75  # See :func:`_explained`.
MAX_SCALE = 3.0  # Limit of the states' scale, for a sensor whose window is not the interval.
ROUNDING = 100  # Sums of many products are off by this many times a number's resolution.
MIN_VARIANCE_W2 = 1e-12
"""Nothing is known to less than a microwatt: variances are at least this, so that readings that are
all 0 or all equal can be divided by."""


def split_by_state(
    parts: Parts,
    spread: Floats,
    power: Floats,
    usable: Bools,
    windows: tuple[Floats, Floats],
    points: ChangePoints,
    time_uncertainty_s: float,
) -> tuple[Parts, Floats]:
    """Give the parts of unresolved intervals the powers of their states.

    The states' powers come from all readings around, see :func:`state_powers`, and are scaled so
    that they add up to the sensor's reading. Their uncertainty, and how much they differ from one
    time to the next, becomes the parts' spread, which is returned with them.

    ``parts`` were cut at every change point, and ``spread`` is how far power may be from each
    part's mean. ``power`` and ``usable`` are the readings of the intervals, ``windows`` the begin
    and end of what they average, with the standard uncertainty ``time_uncertainty_s``.
    """
    found, predicted = _fit(power, usable, windows, points, time_uncertainty_s)
    length = np.diff(parts.edges)
    middle = parts.edges[:-1] + length / 2
    state = points.state[np.searchsorted(points.time_s, middle, side="right")]
    scale = np.divide(power, predicted, out=np.ones_like(power), where=predicted > 0)
    at = np.flatnonzero(parts.unresolved[parts.interval])
    interval = parts.interval[at]
    fit = interval // READINGS_PER_FIT
    by_state = found.power_w[fit, state[at]] * np.clip(scale[interval], 0, MAX_SCALE)
    explained = _explained(power, predicted, usable)[interval] & (predicted[interval] > 0)
    new_power = parts.power.copy()
    new_power[at] = np.where(explained, by_state, power[interval])
    # States that do not explain the readings do not show how much their powers scatter.
    off_w = np.where(explained, found.scatter_w[fit], by_state - power[interval])
    off_w2 = found.uncertainty_w[fit, state[at]] ** 2 + off_w**2
    # Mean over the interval, by share: a moment between two spans counts for nothing.
    total = np.bincount(interval, length[at], minlength=power.size)
    mean_w2 = np.bincount(interval, length[at] * off_w2, minlength=power.size)[interval]
    # Rectangular, and of the difference between the powers on either side of an edge.
    new_spread = spread.copy()
    new_spread[at] = np.maximum(spread[at], np.sqrt(6 * mean_w2 / total[interval]))
    return replace(parts, power=new_power), new_spread


def _fit(
    power: Floats,
    usable: Bools,
    windows: tuple[Floats, Floats],
    points: ChangePoints,
    off_s: float,
) -> tuple[StatePowers, Floats]:
    """Estimate the states' powers from some readings at a time; return them and what they predict.

    Shape of the latter: (readings,).
    """
    count, states = power.size, points.states
    found, predicted = [], np.empty(count)
    for first in range(0, count, READINGS_AT_A_TIME):
        # The last fit reaches back, to have as many readings as the others.
        begin = max(min(first, count - READINGS_PER_FIT), 0)
        some = slice(begin, first + READINGS_AT_A_TIME)
        starts_s, stops_s = (edge_s[some] for edge_s in windows)
        near = points.between(float(starts_s.min()) - off_s, float(stops_s.max()) + off_s)
        shares, early, late = (
            near.state_shares(starts_s + late_s, stops_s + late_s, states)
            for late_s in (0.0, -off_s, off_s)
        )
        off = np.maximum(np.abs(early - shares), np.abs(late - shares))
        fits = state_powers(shares, power[some], usable[some], off)
        own = shares[first - begin :]
        by_state_w = own * fits.power_w[np.arange(len(own)) // READINGS_PER_FIT]
        predicted[first : first + READINGS_AT_A_TIME] = by_state_w.sum(axis=1)
        found.append(fits)
    return StatePowers(*map(np.concatenate, zip(*found, strict=True))), predicted


def _explained(power: Floats, predicted: Floats, usable: Bools) -> Bools:
    """Find where the states explain how readings differ from their neighbours.

    They do if they leave less than :data:`UNEXPLAINED` of the sum of squares over
    :data:`NEIGHBOURS` readings on either side: spans unrelated to power leave all of it.
    """

    def around(values: Floats) -> Floats:
        return sums_around(np.where(usable, values, 0.0), NEIGHBOURS, NEIGHBOURS + 1)

    count = np.maximum(around(np.ones_like(power)), 1.0)
    usual = float(power[usable].mean()) if usable.any() else 0.0
    about = power - usual
    differ = around(about**2) - around(about) ** 2 / count
    return np.asarray(around((power - predicted) ** 2) < UNEXPLAINED * differ)


class StatePowers(NamedTuple):
    """The power of each state in groups of consecutive readings. Shapes: (groups, states)."""

    power_w: Floats
    uncertainty_w: Floats  # Standard uncertainty.
    scatter_w: Floats  # Standard deviation from one time to the next. Shape: (groups,).


def state_powers(
    shares: Floats, power: Floats, usable: Bools, share_uncertainty: Floats
) -> StatePowers:
    """Estimate the power of the states from readings that have different shares of them.

    A linear model, p_k = Σ_s f_ks x_s, by Bayesian least squares over :data:`READINGS_PER_FIT`
    consecutive readings. The prior of a state's power is the readings' mean, with a standard
    uncertainty as large; states that the readings cannot separate stay that uncertain. Shares
    (readings, states) are uncertain themselves, like timestamps, which draws the states' powers
    together (Fuller, *Measurement Error Models*, 1987, section 1.1): where the shares differ by no
    more than that, they carry no information.
    """
    count = len(shares)
    found = []
    for first in range(0, count, READINGS_PER_FIT):
        # The last group reaches back, to have as many readings as the others.
        begin = max(min(first, count - READINGS_PER_FIT), 0)
        some = slice(begin, begin + READINGS_PER_FIT)
        group = [column[some] for column in (shares, power, share_uncertainty)]
        if not usable[some].all():
            group = [column[usable[some]] for column in group]
        found.append(_solve(*group))
    return StatePowers(*map(np.array, zip(*found, strict=True)))


def _solve(
    shares: Floats, power: Floats, share_uncertainty: Floats
) -> tuple[Floats, Floats, float]:
    states = shares.shape[1]
    if power.size == 0:
        return np.zeros(states), np.zeros(states), 0.0
    usual_w, variance_w2 = float(power.mean()), float(power.var())
    prior_w2 = max(usual_w**2, variance_w2, MIN_VARIANCE_W2)
    separable, right = _separable(shares.T @ shares), shares.T @ (power - usual_w)
    scatter_w2 = max(variance_w2, prior_w2 * 1e-12, MIN_VARIANCE_W2)
    for _ in range(ROUNDS):
        covariance = _posterior_covariance(*separable, scatter_w2, prior_w2)
        off_w = covariance @ right / scatter_w2
        determined = states - float(np.trace(covariance)) / prior_w2
        residual = power - usual_w - shares @ off_w
        left_w2 = float(residual @ residual) / max(power.size - determined, 1.0)
        scatter_w2 = max(left_w2, prior_w2 * 1e-12, MIN_VARIANCE_W2)
    explained_w2 = max(variance_w2 * power.size - float(residual @ residual), 0.0)
    # Differences that chance makes as well are shrunk (James and Stein, 1961).
    by_chance_w2 = (states - 1) * scatter_w2
    off_w *= max(0.0, 1 - by_chance_w2 / explained_w2) if explained_w2 > 0 else 0.0
    differ = shares.var(axis=0)
    blurred = (share_uncertainty**2).mean(axis=0) / np.maximum(differ, np.finfo(float).tiny)
    undetermined_w2 = np.minimum(blurred, 1.0) ** 2 * prior_w2
    # A reading's residual is the mean over its parts', weighted by their shares.
    parts = float((shares**2).sum(axis=1).mean())
    return (
        np.maximum(usual_w + off_w, 0.0),
        np.sqrt(np.diag(covariance) + undetermined_w2),
        float(np.sqrt(scatter_w2 / parts)),
    )


def posterior_covariance(normal: Floats, reading_w2: float, prior_w2: float) -> Floats:
    """Return the powers' covariance in W², ``(normal / reading_w2 + 1 / prior_w2)^-1``.

    By the eigenvectors of ``normal``: what readings cannot separate keeps its prior variance
    exactly, however precise the readings are.
    """
    return _posterior_covariance(*_separable(normal), reading_w2, prior_w2)


def _separable(normal: Floats) -> tuple[Floats, Floats]:
    """Return the eigenvalues, 0 for what readings cannot separate, and the eigenvectors."""
    values, vectors = np.linalg.eigh(normal)
    # Eigenvalues below the rounding errors are zero.
    least = values[-1] * len(values) * np.finfo(float).eps * ROUNDING
    return np.where(values > least, values, 0.0), vectors


def _posterior_covariance(
    values: Floats, vectors: Floats, reading_w2: float, prior_w2: float
) -> Floats:
    precision = values / max(reading_w2, MIN_VARIANCE_W2)
    return np.asarray((vectors / (precision + 1 / max(prior_w2, MIN_VARIANCE_W2))) @ vectors.T)
