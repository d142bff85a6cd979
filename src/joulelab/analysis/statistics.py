"""Estimates over repeats, with 95 % intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
"""Coverage of every interval."""

_UPPER = (1 + CONFIDENCE) / 2
_NORMAL = float(stats.norm.ppf(_UPPER))


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value and its 95 % interval. What is not known is NaN.

    Attributes:
        value: The estimate.
        low: Lower end of the interval.
        high: Upper end of the interval.
        n: How many repeats it rests on.
    """

    value: float
    low: float
    high: float
    n: int


UNKNOWN = Estimate(math.nan, math.nan, math.nan, 0)
"""Nothing was measured."""


def estimate(
    values: Sequence[float],
    *,
    per: Sequence[float] | None = None,
    correlated: Sequence[float] | None = None,
    independent: Sequence[float] | None = None,
) -> Estimate:
    r"""The mean over repeats, or the ratio of sums, and its 95 % interval.

    With values x, divisors d (all 1 for a mean) and n repeats, the estimate is
    r = Σx / Σd: energies over samples are added before they are divided, since a mean of ratios
    would weigh a short repeat like a long one. The interval is r ± h with

    .. math::

        h^2 = (z c)^2 + \max(t s, z e)^2, \quad
        s^2 = \frac{n}{n-1} \frac{\sum (x_i - r d_i)^2}{(\sum d_i)^2}, \quad
        c = \frac{\sum c_i}{\sum d_i}, \quad
        e^2 = \frac{\sum e_i^2}{(\sum d_i)^2}

    - s is the scatter between repeats: for a mean, its standard error; for a ratio, Cochran,
      *Sampling Techniques*, 3rd ed., Eq. 6.13. t is Student's for n-1 degrees of freedom.
    - c is what all repeats share, as a sensor's gain; repeating does not average it away. z is
      the normal distribution's 1.96.
    - e is what differs from repeat to repeat, as the edges of a span. The scatter holds it
      already, but the scatter of a few repeats may be small by chance, so e is its floor. One
      repeat has no scatter: its interval is that of the measurement alone, or unknown where the
      measurement states no uncertainty.

    The root of the sum of squares of a systematic part and t times a random part is the model of
    ANSI/ASME PTC 19.1. With Welch-Satterthwaite degrees of freedom (GUM G.4.1) in its place, a
    more uncertain sensor could give a narrower interval when repeats are few.

    Args:
        values: x, one a repeat. Shape: (repeats,). Repeats with NaN are left out.
        per: d, positive. Default: all 1.
        correlated: c of each repeat, standard uncertainty in the unit of x. Default: none stated.
        independent: e of each repeat, likewise.

    Returns:
        The estimate; :data:`UNKNOWN` when no repeat has a value.

    Example:
        >>> estimate([10.0, 12.0, 11.0])
        Estimate(value=11.0, low=8.51..., high=13.48..., n=3)
        >>> estimate([100.0], correlated=[5.0], independent=[0.0])
        Estimate(value=100.0, low=90.2..., high=109.7..., n=1)
    """
    x = np.asarray(values, dtype=float)
    d = np.ones_like(x) if per is None else np.asarray(per, dtype=float)
    stated = correlated is not None or independent is not None
    c = np.zeros_like(x) if correlated is None else np.asarray(correlated, dtype=float)
    e = np.zeros_like(x) if independent is None else np.asarray(independent, dtype=float)
    known = np.isfinite(x) & (d > 0)
    x, d, c, e = x[known], d[known], c[known], e[known]
    n = len(x)
    if n == 0:
        return UNKNOWN
    divisor = math.fsum(d)
    value = math.fsum(x) / divisor
    if n == 1 and not stated:
        return Estimate(value, math.nan, math.nan, n)
    random = _NORMAL * math.hypot(*e) / divisor
    if n > 1:
        scatter = math.sqrt(n / (n - 1)) * math.hypot(*(x - value * d)) / divisor
        random = max(random, float(stats.t.ppf(_UPPER, n - 1)) * scatter)
    half = math.hypot(_NORMAL * math.fsum(c) / divisor, random)
    return Estimate(value, value - half, value + half, n)
