"""Bootstrap intervals over points, the same for every statistic of the points."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]
Indices = NDArray[np.intp]

RESAMPLES = 9999
"""With another seed an end moves by a few hundredths of its interval's width, of 16 points."""

FEWEST_RESAMPLES = 999
"""Of many points, whose statistics are near normal, fewer resamples tell as much."""

_DRAWN = 1_000_000
"""Points drawn in all resamples together, at least while that leaves enough of them."""
_BATCH = 4_000_000
"""Figures held at once, eight bytes each."""


@dataclass(frozen=True, slots=True, eq=False)
class Resampled:
    """The 95 % intervals of several statistics, and what they were in the resamples.

    Attributes:
        low: NaN where every resample gives the same. Shape: (statistics,).
        high: Likewise.
        values: Shape: (statistics, resamples).
    """

    low: Array
    high: Array
    values: Array


def bootstrap(n: int, statistics: Callable[[Indices], Array], seed: int = 0) -> Resampled:
    """Bias-corrected and accelerated bootstrap intervals (BCa; Efron 1987), by scipy.

    Of a few points, the correction is itself uncertain, most of all for a correlation near 1. So
    an interval is never narrower, at either end, than the percentile interval of the same
    resamples. All statistics see the same resamples, so that differences of them are paired.

    Args:
        n: How many points there are.
        statistics: From the indices of drawn points, shape (..., points), to the values, shape
            (statistics, ...).
        seed: The same seed, the same interval.

    Example:
        >>> data = np.array([1.0, 2.0, 4.0, 8.0, 16.0])
        >>> found = bootstrap(5, lambda index: data[index].mean(axis=-1)[None])
        >>> bool(found.low[0] < 6.2 < found.high[0])
        True
    """

    def of(index: Indices, axis: int) -> Any:
        del axis
        return statistics(index)

    def interval(method: str, drawn: Any = None) -> Any:
        return stats.bootstrap(  # type: ignore[call-overload, unused-ignore]
            (np.arange(n),),
            of,
            n_resamples=0 if drawn else min(RESAMPLES, max(FEWEST_RESAMPLES, _DRAWN // n)),
            batch=max(1, _BATCH // n),
            vectorized=True,
            method=method,
            bootstrap_result=drawn,
            rng=seed,
        )

    with warnings.catch_warnings(), np.errstate(invalid="ignore", divide="ignore"):
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        drawn = interval("BCa")
        corrected, plain = drawn.confidence_interval, interval("percentile", drawn)
    return Resampled(
        np.minimum(corrected.low, plain.confidence_interval.low),
        np.maximum(corrected.high, plain.confidence_interval.high),
        drawn.bootstrap_distribution,
    )
