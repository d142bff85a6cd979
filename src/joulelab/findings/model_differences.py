"""Whether models differ at all by more than their repeats: only then do they have an order."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from scipy import stats

from joulelab.stats.estimates import UPPER


def no_difference_p(models: pd.DataFrame, column: str) -> float:
    """Return p of no difference between models, whose means scatter as their repeats let expect.

    An F test of the variance of the means over their mean squared error, with the degrees of
    freedom of Welch and Satterthwaite.

    Args:
        models: A row per model, with the mean as ``column``, the half-width of its 95 % interval
            without what all repeats share as ``<column>_random`` and its degrees of freedom as
            ``<column>_df``.
        column: Name of the quantity.

    Returns:
        NaN if nothing was repeated, or with fewer than two models.

    Example:
        >>> table = pd.DataFrame({"x": [1.0, 2.0, 3.0], "x_random": 0.1, "x_df": 4.0})
        >>> noisy = table.assign(x_random=3.0)
        >>> no_difference_p(table, "x") < 0.001, no_difference_p(noisy, "x") > 0.1
        (True, True)
    """
    names = [column, f"{column}_random", f"{column}_df"]
    values, halves, df = models[names].to_numpy(dtype=float).T
    known = np.isfinite(values) & np.isfinite(halves) & (df > 0)
    if known.sum() < 2:
        return math.nan
    values, halves, df = values[known], halves[known], df[known]
    squared = (halves / stats.t.ppf(UPPER, df)) ** 2
    if not squared.any():
        return 0.0 if np.ptp(values) > 0 else math.nan
    freedom = squared.sum() ** 2 / (squared**2 / df).sum()
    ratio = np.var(values, ddof=1) / squared.mean()
    return float(stats.f.sf(ratio, len(values) - 1, freedom))
