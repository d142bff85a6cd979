"""Ratios of two estimates of a summary, with 95 % intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from statsmodels.stats.weightstats import DescrStatsW  # type: ignore[import-untyped]

from joulelab.stats.estimates import UNKNOWN, Estimate

Row = Mapping[str, Any]

WIDEST = 50.0
"""Half-width in the logarithm beyond which an interval says nothing: a factor of 10^21."""


def ratio(one: Row, other: Row, column: str, *, shared: bool) -> Estimate:
    """One row's quantity over another's.

    The relative half-widths of the two add in quadrature, on a logarithmic scale: the interval of
    x/y and that of y/x say the same.

    Args:
        one: Has ``column`` with its ends ``_low``, ``_high``, ``_n`` and ``_random``, as a row of
            :func:`joulelab.findings.summary.summary` has.
        other: Likewise.
        column: The quantity.
        shared: Whether what all repeats of a row share counts (unlike sensors) or cancels.

    Returns:
        Unknown where one of the two is not positive; without an interval where one has none, or
        where it would be wider than numbers go (a figure that is nothing but scatter).

    Example:
        >>> one = {"x": 6.0, "x_random": 0.3, "x_n": 3}
        >>> found = ratio(one, one | {"x": 2.0, "x_random": 0.1}, "x", shared=False)
        >>> round(found.value, 3), round(found.low, 2), round(found.high, 2)
        (3.0, 2.8, 3.22)
    """
    above, below = float(one[column]), float(other[column])
    if not (above > 0 and below > 0):
        return UNKNOWN
    value = above / below
    relative = math.hypot(_relative(one, column, shared), _relative(other, column, shared))
    n = min(int(one[f"{column}_n"]), int(other[f"{column}_n"]))
    if relative > WIDEST:
        return Estimate(value, math.nan, math.nan, n)
    spread = math.exp(relative)
    return Estimate(value, value / spread, value * spread, n)


def mean_interval(logs: NDArray[np.float64]) -> tuple[float, float]:
    """The 95 % interval of a geometric mean, by Student's t on the logarithms.

    Args:
        logs: Natural logarithms, at least two. Shape: (ratios,).

    Returns:
        NaN twice where it would be wider than numbers go.

    Example:
        >>> low, high = mean_interval(np.log([2.0, 3.0, 4.0]))
        >>> round(low, 2), round(high, 2)
        (1.21, 6.85)
    """
    low, high = (float(end) for end in DescrStatsW(logs).tconfint_mean())
    if max(abs(low), abs(high)) > WIDEST:
        return math.nan, math.nan
    return math.exp(low), math.exp(high)


def _relative(row: Row, column: str, shared: bool) -> float:
    value = float(row[column])
    if not shared:
        return float(row[f"{column}_random"]) / value
    return max(float(row[f"{column}_high"]) - value, value - float(row[f"{column}_low"])) / value
