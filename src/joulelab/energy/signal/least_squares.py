"""Bayesian least squares of powers that are all known as badly beforehand."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

ROUNDED = 100
"""Sums of many products are off by so many times a number's resolution."""
LEAST_W2 = 1e-12
"""Nothing is known to less than a microwatt: variances are at least this, so that readings that are
all 0 or all alike can be divided by."""


def posterior(normal: Floats, reading_w2: float, prior_w2: float) -> Floats:
    """The covariance of the powers, ``(normal / reading_w2 + 1 / prior_w2)^-1``.

    By the eigenvectors of ``normal``: what readings do not tell apart keeps its prior variance
    exactly, however sure the readings are.

    Args:
        normal: Shares by shares, over the readings. Shape: (powers, powers), symmetric.
        reading_w2: Variance of a reading; :data:`LEAST_W2` where it is less.
        prior_w2: Variance of each power beforehand; likewise.

    Example:
        >>> posterior(np.ones((2, 2)), 0.0, 4.0).round(6).tolist()
        [[2.0, -2.0], [-2.0, 2.0]]
    """
    values, vectors = np.linalg.eigh(normal)
    # What is less than rounding errors is nothing.
    least = values[-1] * len(values) * np.finfo(float).eps * ROUNDED
    told = np.where(values > least, values, 0.0) / max(reading_w2, LEAST_W2)
    return np.asarray((vectors / (told + 1 / max(prior_w2, LEAST_W2))) @ vectors.T)
