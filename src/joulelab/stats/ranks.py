"""Rank correlations over models, Spearman's ρ and Kendall's τ-b, with bootstrap intervals."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from joulelab.arrays import Floats, Indices
from joulelab.uncertain import CONFIDENCE

Statistic = Callable[[Indices], Floats]
"""From the indices of drawn points, shape (..., points), to values of shape (statistics, ...)."""

LEAST = 5
"""With fewer models there is no interval: too few samples can be drawn from them."""

RESAMPLES = 9999
"""With another seed an end moves by a few hundredths of its interval's width, for 16 points."""

FEWEST_RESAMPLES = 999
"""Enough for many points, whose statistics are nearly normal."""

_EXACT = 7
"""Up to this many models Spearman's p is from all permutations, beyond from Student's t."""
_DRAWN = 1_000_000
"""Points drawn in all resamples together, while that leaves enough of them."""
_BATCH = 4_000_000
"""Values in memory at a time, eight bytes each."""


@dataclass(frozen=True, slots=True, eq=False)
class Resampled:
    """The 95 % intervals of several statistics, and their values in the resamples.

    The ends are NaN where every resample gives the same. Values: (statistics, resamples).
    """

    low: Floats
    high: Floats
    values: Floats


def bootstrap(n: int, statistics: Statistic, seed: int = 0) -> Resampled:
    """Compute bias-corrected and accelerated bootstrap intervals (BCa; Efron 1987) of n points.

    With few points the correction is itself uncertain, most of all for a correlation near 1. So
    an interval is never narrower, at either end, than the percentile interval of the same
    resamples. All statistics see the same resamples, so that differences of them are paired.

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


@dataclass(frozen=True, slots=True)
class Rank:
    """A rank correlation of n points, its 95 % interval and two-sided p-value; NaN if unknown."""

    value: float
    low: float
    high: float
    p: float
    n: int


def rank_correlations(target: ArrayLike, others: Mapping[str, ArrayLike]) -> dict[str, list[Rank]]:
    """Compute how well each of several quantities ranks a target, all of shape (points,).

    A resample without an order (all its points equal) counts as no correlation. If every resample
    gives the same correlation, for example because all points agree, there is no interval: the
    points do not show how far off it may be. A correlation is NaN where either does not vary.

    Example:
        >>> found = rank_correlations([1, 2, 3, 4, 5, 6], {"x": [1, 3, 2, 4, 6, 5]})
        >>> rho = found["spearman"][0]
        >>> round(rho.value, 2), rho.n, rho.low < rho.value < rho.high
        (0.89, 6, True)
    """
    y = np.asarray(target, dtype=float)
    xs = [np.asarray(other, dtype=float) for other in others.values()]
    return {
        "spearman": _correlate(y, xs, spearman, _spearman_p),
        "kendall": _correlate(y, xs, kendall, lambda x, y: float(stats.kendalltau(x, y).pvalue)),
    }


def tested_twice(rank: Rank, p: float) -> Rank:
    """Return a correlation that also needs another test: its p is the larger one, NaN if unknown.

    The intersection-union test (Berger, Technometrics 24, 295, 1982).

    Example:
        >>> tested_twice(Rank(0.9, 0.6, 0.98, 0.001, 9), 0.2)
        Rank(value=0.9, low=0.0, high=0.98, p=0.2, n=9)
    """
    return _tested(replace(rank, p=float(np.maximum(rank.p, p))))


def spearman(y: Floats, xs: Sequence[Floats]) -> Statistic:
    """Return Spearman's ρ of each other with the target: Pearson's of mid-ranks."""

    def of(index: Indices) -> Floats:
        second = _centred_ranks(y[index])
        values: Floats = np.array([_cosine(_centred_ranks(x[index]), second) for x in xs])
        return values

    return of


def kendall(y: Floats, xs: Sequence[Floats]) -> Statistic:
    """Return Kendall's τ-b of each other with the target.

    A resample is described by how often each point was drawn, so that sums over pairs are products
    with the matrix of all pairs.
    """
    second = np.sign(y[:, None] - y)
    firsts = [np.sign(x[:, None] - x) for x in xs]

    def of(index: Indices) -> Floats:
        n = len(y)
        flat = index.reshape(-1, index.shape[-1])
        offset = flat + n * np.arange(len(flat))[:, None]
        drawn = np.bincount(offset.ravel(), minlength=n * len(flat)).reshape(-1, n).astype(float)

        def pairs(matrix: Floats) -> Floats:
            sums: Floats = ((drawn @ matrix) * drawn).sum(axis=-1)
            return sums.reshape(index.shape[:-1])

        ordered = pairs(second**2)
        values: Floats = np.array(
            [_fraction(pairs(first * second), pairs(first**2) * ordered) for first in firsts]
        )
        return values

    return of


def _correlate(
    y: Floats,
    xs: Sequence[Floats],
    statistic: Callable[[Floats, Sequence[Floats]], Statistic],
    p: Callable[[Floats, Floats], float],
) -> list[Rank]:
    n = len(y)
    varied = [n > 1 and bool(np.ptp(x) > 0 and np.ptp(y) > 0) for x in xs]
    used = [x for x, varies in zip(xs, varied, strict=True) if varies]
    found: list[Rank] = []
    if used:
        of = statistic(y, used)
        lows = highs = [math.nan] * len(used)
        if n >= LEAST:
            resampled = bootstrap(n, of)
            lows, highs = resampled.low.tolist(), resampled.high.tolist()
        ends = zip(used, of(np.arange(n)).tolist(), lows, highs, strict=True)
        found = [_tested(Rank(value, low, high, p(x, y), n)) for x, value, low, high in ends]
    ranks = iter(found)
    unknown = Rank(math.nan, math.nan, math.nan, math.nan, n)
    return [next(ranks) if varies else unknown for varies in varied]


def _tested(rank: Rank) -> Rank:
    """Extend the interval to 0 unless the test rejects it: resamples of few points never reach it.

    Without this, an interval of five points could exclude 0, though no order of five points is
    significant but the perfect one.
    """
    if rank.p <= 1 - CONFIDENCE:
        return rank
    # NaN remains NaN.
    return replace(rank, low=min(rank.low, 0.0), high=max(rank.high, 0.0))


def _spearman_p(x: Floats, y: Floats) -> float:
    if len(x) > _EXACT:
        return float(stats.spearmanr(x, y).pvalue)

    def of(x: Floats, axis: int) -> Floats:
        del axis
        return _cosine(_centred_ranks(x), _centred_ranks(np.broadcast_to(y, x.shape)))

    orders = math.factorial(_EXACT)
    test = stats.permutation_test(
        (x,), of, permutation_type="pairings", vectorized=True, n_resamples=orders, axis=-1
    )
    return float(test.pvalue)


def _centred_ranks(values: Floats) -> Floats:
    ranks: Floats = np.asarray(stats.rankdata(values, axis=-1), dtype=float)
    centred: Floats = ranks - (values.shape[-1] + 1) / 2
    return centred


def _cosine(a: Floats, b: Floats) -> Floats:
    return _fraction((a * b).sum(axis=-1), (a * a).sum(axis=-1) * (b * b).sum(axis=-1))


def _fraction(product: Floats, squares: Floats) -> Floats:
    return np.where(squares > 0, product / np.sqrt(np.where(squares > 0, squares, 1.0)), 0.0)
