"""Estimates over repeats and ratios of estimates, with 95 % intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats
from scipy.special import ndtri

from joulelab.arrays import Floats
from joulelab.stats.variance import Codes, prior, scatter
from joulelab.uncertain import CONFIDENCE, ratio_interval

UPPER = (1 + CONFIDENCE) / 2
"""The quantile at the upper end of an interval."""

_NORMAL = float(stats.norm.ppf(UPPER))


@dataclass(frozen=True, slots=True, eq=False)
class Pools:
    """The pool of each cell, within which cells inform each other, and the block of each repeat."""

    pools: Codes
    blocks: Codes


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value, its 95 % interval, and the number of repeats. Unknown values are NaN."""

    value: float
    low: float
    high: float
    n: int


UNKNOWN = Estimate(math.nan, math.nan, math.nan, 0)
"""Nothing was measured."""


def estimate(values: Sequence[float], **options: Any) -> Estimate:
    """Estimate one cell, see :func:`estimates`; :data:`UNKNOWN` if no repeat has a value.

    Example:
        >>> estimate([10.0, 12.0, 11.0])
        Estimate(value=11.0, low=8.51..., high=13.48..., n=3)
        >>> estimate([100.0], correlated=[5.0], independent=[0.0])
        Estimate(value=100.0, low=90.2..., high=109.7..., n=1)
    """
    cells = np.zeros(len(values), dtype=np.intp)
    found = estimates(cells, 1, values, **options).iloc[0]
    if not found["n"]:
        return UNKNOWN
    value, low, high = (float(found[name]) for name in ("value", "low", "high"))
    return Estimate(value, low, high, int(found["n"]))


def estimates(
    cells: Codes,
    count: int,
    values: ArrayLike,
    *,
    per: ArrayLike | None = None,
    correlated: ArrayLike | None = None,
    independent: ArrayLike | None = None,
    scale: Floats | None = None,
    pools: Pools | None = None,
) -> pd.DataFrame:
    r"""Estimate the mean over repeats, or the ratio of sums, of each cell, with a 95 % interval.

    With values x, divisors d (all 1 for a mean) and n repeats, the estimate is
    r = Σx / Σd: energies and samples are added before they are divided, since a mean of ratios
    would weight a short repeat like a long one. The interval is r ± h with

    .. math::

        h^2 = (z c)^2 + \max(t s, z e)^2, \quad
        s^2 = \frac{n}{n-1} \frac{\sum (x_i - r d_i)^2}{(\sum d_i)^2}, \quad
        c = \frac{\sum c_i}{\sum d_i}, \quad
        e^2 = \frac{\sum e_i^2}{(\sum d_i)^2}

    - s is the scatter between repeats: for a mean, its standard error; for a ratio, Cochran,
      *Sampling Techniques*, 3rd ed., Eq. 6.13. t is Student's for n-1 degrees of freedom. Among
      the cells of a pool, n s², over the scale squared, is moderated, see
      :mod:`joulelab.stats.variance`, and t has the degrees of freedom that it gives.
    - c is what all repeats share, for example a sensor's gain; repeating does not average it out.
      z is the normal distribution's 1.96.
    - e is what differs from repeat to repeat, for example the edges of a span. The scatter already
      contains it, but the scatter of a few repeats may be small by chance, so e is its floor. One
      repeat has no scatter of its own: without a pool its interval is that of the measurement
      alone, or unknown if the measurement states no uncertainty.

    The root of the sum of squares of a systematic part and t times a random part is the model of
    ANSI/ASME PTC 19.1. With Welch-Satterthwaite degrees of freedom (GUM G.4.1) instead, a more
    uncertain sensor could give a narrower interval if there are few repeats.

    Args:
        cells: The cell of each repeat, from 0. Shape: (repeats,).
        count: Number of cells.
        values: x. Shape: (repeats,). Repeats with NaN are left out.
        per: d, positive. Default: all 1.
        correlated: c of each repeat, standard uncertainty in the unit of x. Default: none stated.
        independent: e of each repeat, likewise.
        scale: What a cell's scatter is proportional to, by default the estimate. Shape: (cells,).
        pools: Cells that inform each other's scatter. Default: none.

    Returns:
        One row per cell with ``value``, ``low``, ``high``, ``n``; ``random``, the half-width of the
        interval without c; and ``df``, the degrees of freedom of its scatter.
    """
    x = np.asarray(values, dtype=float)
    d = np.ones_like(x) if per is None else np.asarray(per, dtype=float)
    stated = correlated is not None or independent is not None
    c = np.zeros_like(x) if correlated is None else np.asarray(correlated, dtype=float)
    e = np.zeros_like(x) if independent is None else np.asarray(independent, dtype=float)
    known = np.isfinite(x) & (d > 0)
    cells, x, d, c, e = cells[known], x[known], d[known], c[known], e[known]

    def added(parts: Floats) -> Floats:
        return np.bincount(cells, weights=parts, minlength=count).astype(float)

    with np.errstate(invalid="ignore", divide="ignore"):
        n = np.bincount(cells, minlength=count)
        divisor = added(d)
        value = added(x) / divisor
        df = np.maximum(n - 1, 0).astype(float)
        variance = np.where(
            df > 0, n**2 / df * added((x - value[cells] * d) ** 2) / divisor**2, np.nan
        )
        if pools is not None:
            scaled = np.abs(value if scale is None else scale)
            deviations = (x / d - value[cells]) / scaled[cells]
            for pool in range(pools.pools.max(initial=-1) + 1):
                members = (pools.pools == pool) & np.isfinite(scaled) & (scaled > 0)
                rows = members[cells]
                together = scatter(deviations[rows], cells[rows], pools.blocks[known][rows])
                squared = scaled[members] ** 2
                typical = prior(variance[members] / squared, df[members], together.df)
                if typical is not None:
                    moderated, df[members] = typical.moderate(
                        variance[members] / squared, df[members]
                    )
                    variance[members] = moderated * squared
        floor = _NORMAL * np.sqrt(added(e**2)) / divisor
        t = stats.t.ppf(UPPER, np.where(df > 0, df, np.nan))
        seen = np.maximum(t * np.sqrt(variance / n), floor)
        random = np.where(df > 0, seen, floor if stated else np.nan)
        half = np.hypot(_NORMAL * added(c) / divisor, random)
    ends = {"low": value - half, "high": value + half}
    return pd.DataFrame({"value": value, **ends, "n": n, "random": random, "df": df})


def estimate_ratio(
    numerator: Mapping[str, Any],
    denominator: Mapping[str, Any],
    column: str,
    *,
    shared: bool,
) -> Estimate:
    """Return one row's quantity over another's; unknown unless both are positive.

    The relative half-widths of the two add in quadrature, on a logarithmic scale, so that x/y and
    y/x have the same interval, see :func:`joulelab.uncertain.ratio_interval`.

    Both rows have ``column`` with its ends ``_low``, ``_high``, ``_n`` and ``_random``, as in
    :func:`joulelab.findings.summary.summary`. ``shared`` states whether what all repeats of a row
    share counts (different sensors) or cancels.

    Example:
        >>> one = {"x": 6.0, "x_random": 0.3, "x_n": 3}
        >>> found = estimate_ratio(one, one | {"x": 2.0, "x_random": 0.1}, "x", shared=False)
        >>> round(found.value, 3), round(found.low, 2), round(found.high, 2)
        (3.0, 2.8, 3.22)
    """
    above, below = float(numerator[column]), float(denominator[column])
    if not (above > 0 and below > 0):
        return UNKNOWN
    rows = (numerator, denominator)
    half = math.hypot(*(_relative(row, column, shared) for row in rows))
    n = min(int(row[f"{column}_n"]) for row in rows)
    return Estimate(above / below, *ratio_interval(above / below, half), n)


def mean_with_errors(values: Floats, halves: Floats) -> tuple[float, float]:
    """Return the mean of at least two values and half of its 95 % interval.

    The values are a sample (Student's t); what their own intervals contain may be the same error
    for all, for example a sensor's gain, and does not average out. The two parts add in quadrature
    (GUM 5.1.2).

    Args:
        values: Shape: (values,).
        halves: Halves of their own intervals, NaN if one is unknown.

    Example:
        >>> mean, half = mean_with_errors(np.array([2.0, 3.0, 4.0]), np.array([1.0, 1.0, 1.0]))
        >>> mean, round(half, 2)
        (3.0, 2.68)
    """
    scatter = float(stats.t.ppf(UPPER, len(values) - 1) * stats.sem(values))
    own = float(np.mean(halves))
    return float(np.mean(values)), math.hypot(scatter, 0.0 if math.isnan(own) else own)


def widening(comparisons: int) -> float:
    """Return how much wider an interval is if it is to hold together with others (Bonferroni).

    Example:
        >>> widening(1), round(widening(10), 2)
        (1.0, 1.43)
    """
    return float(ndtri(1 - (1 - UPPER) / comparisons) / ndtri(UPPER))


def _relative(row: Mapping[str, Any], column: str, shared: bool) -> float:
    value = float(row[column])
    if not shared:
        return float(row[f"{column}_random"]) / value
    return max(float(row[f"{column}_high"]) - value, value - float(row[f"{column}_low"])) / value
