"""How far off predictions of architectures are that a fit has not seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from joulelab.predict.coefficients import Floats
from joulelab.predict.device_model import Coefficients, estimate
from joulelab.predict.fitting import Observed, fit
from joulelab.predict.uncertainty import coefficient_variance

UNKNOWN_DISCREPANCY = 0.25
"""What the model may get wrong on a device of which too little was measured to leave some out."""

FOLDS = 24
"""Most fits that leave some architectures out."""


class LeftOut(NamedTuple):
    """Predictions of each measured step by a fit without its architecture.

    Attributes:
        duration_s: Shape: (steps,).
        energy_j: Shape: (steps,).
        variance: Of the logarithms of both, by the fits' covariances. Shape: (2, steps).
    """

    duration_s: Floats
    energy_j: Floats
    variance: Floats


def leave_out(observed: Observed, groups: Sequence[str], fitted: Coefficients) -> LeftOut | None:
    """Predicts each step from all steps of other groups.

    Args:
        observed: Measured steps.
        groups: What each belongs to: its architecture. Shape: (steps,).
        fitted: To all of them: where each fit starts.

    Returns:
        Nothing when there are fewer than three groups.
    """
    names = np.array(groups)
    distinct = list(dict.fromkeys(groups))
    if len(distinct) < 3:
        return None
    duration_s, energy_j = np.zeros(len(names)), np.zeros(len(names))
    variance = np.zeros((2, len(names)))
    for fold in range(min(FOLDS, len(distinct))):
        held = np.isin(names, distinct[fold::FOLDS])
        without = fit(observed, ~held, start=fitted.logs)
        found = estimate(observed.work, without.logs, observed.sheet, observed.idle_power_w)
        spread = coefficient_variance(observed.work, without, observed.sheet, observed.idle_power_w)
        duration_s[held], energy_j[held] = found.duration_s[held], found.energy_j[held]
        variance[:, held] = spread[:, held]
    return LeftOut(duration_s, energy_j, variance)


def discrepancy(observed: Observed, left_out: LeftOut | None) -> tuple[float, float]:
    """What the model gets wrong of duration and energy beyond the coefficients' variance.

    Returns:
        Standard deviations of the logarithms.
    """
    if left_out is None:
        return UNKNOWN_DISCREPANCY, UNKNOWN_DISCREPANCY
    measured = np.log([observed.duration_s, observed.energy_j])
    residual = measured - np.log([left_out.duration_s, left_out.energy_j])
    excess = np.mean(residual**2 - left_out.variance, axis=1)
    duration, energy = np.sqrt(np.maximum(excess, 0.0))
    return float(duration), float(energy)


def coverage_factor(groups: int) -> float:
    """Standard deviations on either side that hold 95 %.

    Example:
        >>> round(coverage_factor(16), 2)
        2.13
    """
    return float(stats.t.ppf(0.975, max(groups - 1, 2)))
