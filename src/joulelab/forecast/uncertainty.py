"""How far a prediction may be off.

Three parts, added as variances of the logarithm:

- what the measurements and the data sheet leave open of each coefficient, by the fit's covariance.
  It is large where a prediction rests on what the fit has not seen, as matrix products;
- what the model gets wrong beyond that: the residuals of architectures that were left out;
- :data:`DOUBLING` for each doubling of the batch, and of the side of the images, beyond the fitted.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from joulelab.forecast.coefficients import Floats
from joulelab.forecast.device_model import Coefficients, estimate
from joulelab.forecast.devices import Datasheet
from joulelab.forecast.work import Work

DOUBLING = 0.03
"""Standard deviation of the logarithm for each doubling beyond what was fitted. It is a judgement:
three doublings (batch 128 to 1024, or 32 to 256 pixels a side) give 9 %, about as much as the
residuals of architectures that were left out."""


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


def _gradient(of: Callable[[Floats], Floats], at: Floats, step: float = 1e-4) -> Floats:
    """Derivatives by central differences. Shape: (values..., coefficients)."""
    columns = [
        (of(at + step * unit) - of(at - step * unit)) / (2 * step) for unit in np.eye(len(at))
    ]
    return np.stack(columns, axis=-1)
