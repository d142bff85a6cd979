"""Coefficients of a device from measured steps: robust, and held by the data sheet.

Of residuals in the logarithm of time and energy, and of each coefficient from what the data sheet
leads to expect, the squares are summed, large residuals counting less (pseudo-Huber). That is the
most probable set of coefficients; its covariance is that of the quadratic about it (Laplace's
approximation: Gelman et al., Bayesian Data Analysis, 3rd ed., section 4.1).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.optimize import least_squares

from joulelab.predict.coefficients import Floats, expected
from joulelab.predict.device_model import Coefficients, estimate
from joulelab.predict.devices import Datasheet
from joulelab.predict.work import Work

DURATION_SCATTER = 0.08
"""Standard deviation of a measured duration's logarithm about the model. Hosts vary most."""

ENERGY_SCATTER = 0.05
"""The same of energies."""

STARTS = 3
"""Sets of coefficients that the search begins from: the expected one, and random ones about it."""

Mask = np.ndarray[tuple[int], np.dtype[np.bool_]]


class Observed(NamedTuple):
    """What was measured of some steps. Arrays have the shape (steps,).

    Attributes:
        work: Their operators.
        sheet: The device.
        duration_s: Of each step.
        energy_j: Of each step.
        idle_power_w: While each was measured.
    """

    work: Work
    sheet: Datasheet
    duration_s: Floats
    energy_j: Floats
    idle_power_w: Floats


def fit(observed: Observed, used: Mask | None = None, start: Floats | None = None) -> Coefficients:
    """The most probable coefficients.

    Args:
        observed: Measured steps.
        used: Those that may be looked at, shape (steps,); default: all.
        start: Logarithms of coefficients near the result; default: several are tried.
    """
    centre, width = expected(observed.sheet)
    random = np.random.default_rng(0)
    starts = (
        [start]
        if start is not None
        else [
            centre,
            *(centre + width * random.standard_normal(len(centre)) for _ in range(STARTS - 1)),
        ]
    )
    chosen = np.ones(len(observed.duration_s), dtype=bool) if used is None else used

    def residuals(logs: Floats) -> Floats:
        robust = _huber(_scaled(logs, observed)[:, chosen].ravel())
        return np.concatenate([robust, (logs - centre) / width])

    found = min((least_squares(residuals, begin) for begin in starts), key=lambda one: one.cost)
    jacobian = np.asarray(found.jac)
    return Coefficients(np.asarray(found.x), np.linalg.inv(jacobian.T @ jacobian))


def _scaled(logs: Floats, observed: Observed) -> Floats:
    """Residuals of durations and energies in their standard deviations. Shape: (2, steps)."""
    found = estimate(observed.work, logs, observed.sheet, observed.idle_power_w)
    return np.stack(
        [
            np.log(found.duration_s / observed.duration_s) / DURATION_SCATTER,
            np.log(found.energy_j / observed.energy_j) / ENERGY_SCATTER,
        ]
    )


def _huber(residual: Floats) -> Floats:
    """Residuals whose squares are the pseudo-Huber loss 2 (sqrt(1 + r^2) - 1) of the given."""
    found: Floats = np.sign(residual) * np.sqrt(2 * (np.sqrt(1 + residual**2) - 1))
    return found
