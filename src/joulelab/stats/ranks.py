"""Rank correlations with intervals: Spearman's ρ and Kendall's τ-b over models."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from joulelab.stats.bootstrap import bootstrap

Array = NDArray[np.float64]
Indices = NDArray[np.intp]

LEAST = 5
"""With fewer models no interval is stated: too few samples can be drawn from them."""

_EXACT = 7
"""Up to so many models Spearman's p is from all orders, beyond from Student's t."""


@dataclass(frozen=True, slots=True)
class Rank:
    """A rank correlation. What is not known is NaN.

    Attributes:
        value: ρ or τ-b.
        low: Lower end of its 95 % interval.
        high: Upper end.
        p: Of no correlation, two-sided.
        n: Points.
    """

    value: float
    low: float
    high: float
    p: float
    n: int


def rank_correlations(target: ArrayLike, others: Mapping[str, ArrayLike]) -> dict[str, list[Rank]]:
    """How well each of several quantities ranks a target.

    The intervals are those of :func:`joulelab.stats.bootstrap.bootstrap`. A resample without an
    order (all its points alike) counts as no correlation. Where every resample gives
    the same correlation, as when all points agree, there is no interval: the points cannot tell
    how far off it may be.

    Args:
        target: Finite. Shape: (points,).
        others: Finite, each of the same shape.

    Returns:
        ``"spearman"`` and ``"kendall"``, each with a correlation an other; NaN where the target
        or the other does not vary.

    Example:
        >>> found = rank_correlations([1, 2, 3, 4, 5, 6], {"x": [1, 3, 2, 4, 6, 5]})
        >>> rho = found["spearman"][0]
        >>> round(rho.value, 2), rho.n, rho.low < rho.value < rho.high
        (0.89, 6, True)
    """
    y = np.asarray(target, dtype=float)
    xs = [np.asarray(other, dtype=float) for other in others.values()]
    return {
        "spearman": _ranked(y, xs, spearman, _spearman_p),
        "kendall": _ranked(y, xs, kendall, lambda x, y: float(stats.kendalltau(x, y).pvalue)),
    }


Statistic = Callable[[Indices], Array]
"""From the indices of drawn points, shape (..., points), to values of shape (others, ...)."""


def spearman(y: Array, xs: Sequence[Array]) -> Statistic:
    """Spearman's ρ of each other with the target: Pearson's of mid-ranks; 0 without an order."""

    def of(index: Indices) -> Array:
        second = _centred_ranks(y[index])
        values: Array = np.array([_cosine(_centred_ranks(x[index]), second) for x in xs])
        return values

    return of


def kendall(y: Array, xs: Sequence[Array]) -> Statistic:
    """Kendall's τ-b of each other with the target; 0 without an order.

    A resample is taken as how often each point was drawn, so that sums over pairs are products
    with the matrix of all pairs.
    """
    second = np.sign(y[:, None] - y)
    firsts = [np.sign(x[:, None] - x) for x in xs]

    def of(index: Indices) -> Array:
        n = len(y)
        flat = index.reshape(-1, index.shape[-1])
        offset = flat + n * np.arange(len(flat))[:, None]
        drawn = np.bincount(offset.ravel(), minlength=n * len(flat)).reshape(-1, n).astype(float)

        def pairs(matrix: Array) -> Array:
            sums: Array = ((drawn @ matrix) * drawn).sum(axis=-1)
            return sums.reshape(index.shape[:-1])

        ordered = pairs(second**2)
        values: Array = np.array(
            [_share(pairs(first * second), pairs(first**2) * ordered) for first in firsts]
        )
        return values

    return of


def _centred_ranks(values: Array) -> Array:
    ranks: Array = np.asarray(stats.rankdata(values, axis=-1), dtype=float)
    centred: Array = ranks - (values.shape[-1] + 1) / 2
    return centred


def _cosine(a: Array, b: Array) -> Array:
    return _share((a * b).sum(axis=-1), (a * a).sum(axis=-1) * (b * b).sum(axis=-1))


def _share(product: Array, squares: Array) -> Array:
    return np.where(squares > 0, product / np.sqrt(np.where(squares > 0, squares, 1.0)), 0.0)


def _ranked(
    y: Array,
    xs: Sequence[Array],
    statistic: Callable[[Array, Sequence[Array]], Statistic],
    p: Callable[[Array, Array], float],
) -> list[Rank]:
    n = len(y)
    unknown = Rank(math.nan, math.nan, math.nan, math.nan, n)
    varied = [n > 1 and bool(np.ptp(x) > 0 and np.ptp(y) > 0) for x in xs]
    kept = [x for x, varies in zip(xs, varied, strict=True) if varies]
    if not kept:
        return [unknown for _ in xs]
    of = statistic(y, kept)
    values = of(np.arange(n)).tolist()
    lows = highs = [math.nan] * len(kept)
    if n >= LEAST:
        found = bootstrap(n, of)
        lows, highs = found.low.tolist(), found.high.tolist()
    ranks = iter(
        [
            Rank(value, low, high, p(x, y), n)
            for x, value, low, high in zip(kept, values, lows, highs, strict=True)
        ]
    )
    return [next(ranks) if varies else unknown for varies in varied]


def _spearman_p(x: Array, y: Array) -> float:
    if len(x) > _EXACT:
        return float(stats.spearmanr(x, y).pvalue)

    def of(x: Array, axis: int) -> Array:
        del axis
        return _cosine(_centred_ranks(x), _centred_ranks(np.broadcast_to(y, x.shape)))

    orders = math.factorial(_EXACT)
    test = stats.permutation_test(
        (x,), of, permutation_type="pairings", vectorized=True, n_resamples=orders, axis=-1
    )
    return float(test.pvalue)
