"""How late a sensor's stamps are, from steps of its readings and the marks at which they belong."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

MOST_MARKS = 2000
"""So many are enough: the others would say the same."""
REACH = 4.0
"""Lateness further off than so many standard uncertainties is not looked for."""
SHIFTS = 161
EXPLAINED = {0.0: 0.5, 0.5: 0.1, 0.7: 0.1, 0.85: 0.1, 0.95: 0.1, 0.99: 0.1}
"""Shares of such marks at which power did step, and how likely each is beforehand: marks have
nothing to do with steps, or most of them have."""
SCATTERS_S = np.array([0.0, 0.0005, 0.002])
"""How differently programs may lie about their steps, standard deviations: a GPU takes up its work
some time after it was told to."""


def lateness(
    steps_s: Floats, marks_s: Floats, uncertainty_s: float, located_s: float
) -> tuple[float, float]:
    """How late stamps are, and what is left uncertain of it.

    A mark with a step of power within reach may be that step, or beside it by chance. The step
    lies d after the mark; where it is the mark's, d is the lateness D, with a scatter s; otherwise
    it is anywhere within reach r. With a share q of such marks the likelihood of each is

        q N(d; D, s) + (1 - q) / (2 r),

    and beforehand D ~ N(0, u), q and s any of some values. Given back are mean and standard
    deviation of D afterwards. Marks that are no changes leave what was known before.

    Args:
        steps_s: Where readings show a plain step. Shape: (steps,).
        marks_s: Shape: (marks,). Both in order.
        uncertainty_s: Standard uncertainty u of the lateness beforehand.
        located_s: Standard uncertainty of each step's place among the readings.

    Example:
        >>> marks = np.arange(1.0, 9.0)
        >>> late_s, left_s = lateness(marks + 0.002, marks, 0.003, 0.0001)
        >>> round(late_s, 3), left_s < 0.0003
        (0.002, True)
        >>> lateness(np.arange(1.3, 9.0), marks, 0.003, 0.0001)
        (0.0, 0.003)
    """
    reach_s = REACH * uncertainty_s
    if not (steps_s.size and marks_s.size and reach_s > 0):
        return 0.0, uncertainty_s
    marks_s = marks_s[:: math.ceil(marks_s.size / MOST_MARKS)]
    nearest = np.clip(np.searchsorted(steps_s, marks_s), 1, max(steps_s.size - 1, 1))
    before, after = steps_s[nearest - 1], steps_s[np.minimum(nearest, steps_s.size - 1)]
    apart_s = np.where(marks_s - before < after - marks_s, before, after) - marks_s
    apart_s = apart_s[np.abs(apart_s) < reach_s]
    if not apart_s.size:
        return 0.0, uncertainty_s
    shift_s = np.linspace(-reach_s, reach_s, SHIFTS)
    log_weight = []
    for scatter_s in np.maximum(np.hypot(SCATTERS_S, located_s), shift_s[1] - shift_s[0]):
        off = (apart_s[:, None] - shift_s) / scatter_s
        density = np.exp(-(off**2) / 2) / (scatter_s * math.sqrt(2 * math.pi))
        for share, probability in EXPLAINED.items():
            likelihood = share * density + (1 - share) / (2 * reach_s)
            log_weight.append(np.log(likelihood).sum(axis=0) + math.log(probability))
    log_posterior = np.array(log_weight) - (shift_s / uncertainty_s) ** 2 / 2
    weight = np.exp(log_posterior - log_posterior.max()).sum(axis=0)
    weight /= weight.sum()
    late_s = float(weight @ shift_s)
    left_s = math.sqrt(float(weight @ (shift_s - late_s) ** 2))
    return late_s, min(left_s, uncertainty_s)
