"""How far a prediction may be off.

Three parts, added as variances of the logarithm:

- what the measurements and the data sheet leave open of each coefficient, by the fit's covariance.
  It is large where a prediction rests on what the fit has not seen, as matrix products;
- what the model gets wrong beyond that: the residuals of architectures that were left out;
- :data:`DOUBLING` of the device's part for each doubling of the batch, and of the side of the
  images, beyond the fitted. The host's part knows neither.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from joulelab.predict.coefficients import Floats
from joulelab.predict.device_model import OVERLAP, Coefficients, Estimate, estimate
from joulelab.predict.devices import Datasheet
from joulelab.predict.work import Work

DOUBLING = 0.03
"""Standard deviation of the logarithm of the device's time and energy for each doubling beyond what
was fitted. It is a judgement: three doublings (batch 128 to 1024, or 32 to 256 pixels a side) give
9 %, about as much as the residuals of architectures that were left out."""


def coefficient_variance(
    work: Work, coefficients: Coefficients, sheet: Datasheet, idle_power_w: Floats
) -> Floats:
    """Variance of the logarithms of duration and energy by that of the coefficients.

    To first order (GUM, section 5.2.2), in logarithms.

    Returns:
        Shape: (2, steps).
    """

    def logarithms(logs: Floats) -> Floats:
        found = estimate(work, logs, sheet, idle_power_w)
        return np.log(np.stack([found.duration_s, found.energy_j]))

    slopes = _gradient(logarithms, coefficients.logs)
    variance: Floats = np.einsum("qsi,ij,qsj->qs", slopes, coefficients.covariance, slopes)
    return variance


def extrapolation_variance(
    found: Estimate, sheet: Datasheet, idle_power_w: Floats, doublings: Floats
) -> Floats:
    """Variance of the logarithms of duration and energy by what lies beyond the fitted.

    Args:
        found: The estimate.
        sheet: Of the device.
        idle_power_w: As for the estimate. Shape: (steps,).
        doublings: Of the batch and of the side. Shape: (steps, 2).

    Returns:
        Shape: (2, steps).
    """
    exponent = OVERLAP if sheet.kind == "cuda" else 1.0
    of_duration = np.minimum(found.device_s / found.duration_s, 1.0) ** exponent
    idle_share = idle_power_w * found.duration_s / found.energy_j
    of_energy = 1 - idle_share + idle_share * of_duration
    device = np.sum((DOUBLING * doublings) ** 2, axis=1)
    variance: Floats = np.stack([of_duration, of_energy]) ** 2 * device
    return variance


def _gradient(of: Callable[[Floats], Floats], at: Floats, step: float = 1e-4) -> Floats:
    """Derivatives by central differences. Shape: (values..., coefficients)."""
    columns = [
        (of(at + step * unit) - of(at - step * unit)) / (2 * step) for unit in np.eye(len(at))
    ]
    return np.stack(columns, axis=-1)
