"""The variance of a repeat: errors that blocks share, and cells that inform each other.

Repeats run in blocks, each with every cell once. A warmer block shifts all its cells together, so
the scatter within cells, pooled over cells, rests on fewer independent errors than there are
repeats. :func:`scatter` accounts for that.

Two repeats alone have Student's t of 12.7. The cells of a study scatter more or less equally, so
each cell's variance is moderated by all others' (empirical Bayes): Smyth, *Linear models and
empirical Bayes methods for assessing differential expression*, Stat. Appl. Genet. Mol. Biol. 3
(2004), art. 3, Eqs. 3 to 6. :func:`prior` does that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, optimize, sparse, special, stats
from scipy.sparse import csgraph

from joulelab.arrays import Floats

Codes = NDArray[np.integer[Any]]

LEAST_CELLS = 5
"""With fewer repeated cells it is unknown how much the cells' scatters differ."""

_FEWEST, _MOST = 0.5, 1000.0
_FLOOR = 1e-5
"""Smallest variance relative to the median one: the density of smaller ones may be infinite."""
_DEVIANCE = float(stats.chi2.ppf(0.90, 1)) / 2
"""Drop of the log-likelihood at the end of a one-sided 95 % interval."""


@dataclass(frozen=True, slots=True)
class Scatter:
    """The variance of one repeat about its cell's mean, blocks included, and of blocks alone.

    ``df`` are its degrees of freedom by Satterthwaite's formula: the number of repeats beyond the
    first of each cell if blocks do not matter, one less than the number of blocks if only they do.
    ``block_variance`` is 0 if blocks differ no more than repeats do; ``block_p`` is the p-value of
    equal blocks (F test). NaN if unknown.
    """

    variance: float
    df: float
    block_variance: float
    block_p: float


def scatter(values: Floats, cells: Codes, blocks: Codes) -> Scatter:
    """Analyse the variance with cells as fixed effects and blocks as a random one.

    The block's variance is Henderson's (method 3): its sum of squares, given the cells, minus what
    the residuals contribute to it. Satterthwaite's formula: *Biometrics Bulletin* 2 (1946), p. 110.
    Values, and cells and blocks, which count from 0, have the shape (repeats,).

    Example:
        >>> found = scatter(np.array([1.0, 3.0, 11.0, 13.0]), np.array([0, 0, 1, 1]),
        ...     np.array([0, 1, 0, 1]))
        >>> found.variance, found.df
        (2.0, 1.0)
    """
    centred = within(values, cells)
    repeats = len(values) - len(np.unique(cells))
    if repeats == 0:
        return Scatter(math.nan, 0.0, math.nan, math.nan)
    equations, right = _block_equations(centred, cells, blocks)
    coefficients, rank = _least_squares(equations, right)
    _, block = np.unique(blocks, return_inverse=True)
    total = float(centred @ centred)
    residual = float(((centred - within(coefficients[block], cells)) ** 2).sum())
    between, residual_df = max(total - residual, 0.0), repeats - rank
    variance = total / repeats
    if rank == 0 or residual_df == 0:
        return Scatter(variance, float(rank or repeats), math.nan, math.nan)
    block_square, square = between / rank, residual / residual_df
    spread = rank * block_square**2 + residual_df * square**2
    weight = float(np.trace(equations)) / rank
    return Scatter(
        variance,
        total**2 / spread if spread > 0 else float(repeats),
        max(0.0, (block_square - square) / weight),
        float(stats.f.sf(block_square / square, rank, residual_df)) if square > 0 else math.nan,
    )


def _block_equations(centred: Floats, cells: Codes, blocks: Codes) -> tuple[Floats, Floats]:
    """Return the normal equations of the blocks' effects, given the cells.

    Shapes: (blocks, blocks) and (blocks,): a column for each block would take the product of
    repeats and blocks.
    """
    _, cell = np.unique(cells, return_inverse=True)
    _, block, counts = np.unique(blocks, return_inverse=True, return_counts=True)
    ones = np.ones(len(cell))
    common = sparse.csr_matrix((ones, (cell, block)))
    scaled = sparse.diags(1 / np.bincount(cell)) @ common
    equations = np.diag(counts.astype(float)) - (common.T @ scaled).toarray()
    return equations, np.bincount(block, weights=centred).astype(np.float64)


def _least_squares(equations: Floats, right: Floats) -> tuple[Floats, int]:
    """Solve the normal equations; return a solution and their rank.

    Effects are known up to a constant for blocks that cells connect: one of each such group is 0.
    """
    groups, group = csgraph.connected_components(sparse.csr_matrix(equations), directed=False)
    _, first = np.unique(group, return_index=True)
    free = np.delete(np.arange(len(right)), first)
    solution = np.zeros(len(right))
    if free.size:
        among = equations[np.ix_(free, free)]
        solution[free] = linalg.solve(among, right[free], assume_a="pos")
    return solution, len(right) - int(groups)


@dataclass(frozen=True, slots=True)
class Prior:
    """What the other cells imply about one cell's variance before it is measured.

    The typical variance s0², the degrees of freedom d0 that it is worth (many if the cells scatter
    equally), and the degrees of freedom of all cells together, which none exceeds.
    """

    variance: float
    df: float
    most_df: float

    def moderate(self, variance: Floats, df: Floats) -> tuple[Floats, Floats]:
        """Shrink each cell's variance s² with d degrees of freedom towards the typical one.

        Return (d0 s0² + d s²) / (d0 + d), and the lesser of d0 + d and ``most_df``.
        """
        own = np.where(df > 0, df * variance, 0.0)
        moderated = (self.df * self.variance + own) / (self.df + df)
        return moderated, np.minimum(self.df + df, self.most_df)


def prior(variance: Floats, df: Floats, most_df: float) -> Prior | None:
    """Estimate how equal the scatters of cells are, from the likelihood of their variances.

    Given s0² and d0, s²/s0² of a cell with d degrees of freedom follows F(d, d0). d0 is not the
    likeliest value but the smallest that a likelihood-ratio test does not reject (one-sided, 5 %),
    so that a few cells that are equal by chance do not count as equal.

    s² and d, the number of repeats minus one, have the shape (cells,). ``most_df`` is that of all
    cells together, see :class:`Scatter`. The result is ``None`` with fewer than :data:`LEAST_CELLS`
    repeated cells, or if most do not scatter.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> equal = prior(rng.chisquare(1, size=200), np.ones(200), most_df=200)
        >>> 0.8 < equal.variance < 1.2, equal.df > 10
        (True, True)
    """
    repeated = (df > 0) & np.isfinite(variance)
    s2, d = variance[repeated], df[repeated]
    if len(s2) < LEAST_CELLS or np.median(s2) <= 0:
        return None
    s2 = np.maximum(s2, _FLOOR * np.median(s2))
    bounds = (math.log(s2.min()), math.log(s2.max() * 1.001))

    def best(log_df: float) -> tuple[float, float]:
        """Return the negative log-likelihood of d0 at the likeliest s0², and log s0²."""
        m = math.exp(log_df)
        logs, beta = m / 2 * np.log(m) + d / 2 * np.log(d), special.betaln(d / 2, m / 2)

        def cost(log_s0: float) -> float:
            # scipy.stats.f.logpdf takes five times as long.
            x = s2 / math.exp(log_s0)
            density = logs + special.xlogy(d / 2 - 1, x) - ((d + m) / 2 * np.log(m + d * x) + beta)
            return -float((density - log_s0).sum())

        found = optimize.minimize_scalar(cost, bounds=bounds, method="bounded")
        return float(found.fun), float(found.x)

    ends = (math.log(_FEWEST), math.log(_MOST))
    likeliest = optimize.minimize_scalar(lambda q: best(q)[0], bounds=ends, method="bounded")

    def beyond(log_df: float) -> float:
        return best(log_df)[0] - float(likeliest.fun) - _DEVIANCE

    lowest = ends[0]
    if beyond(lowest) > 0:
        lowest = float(optimize.brentq(beyond, lowest, float(likeliest.x), xtol=0.01))
    return Prior(math.exp(best(lowest)[1]), math.exp(lowest), most_df)


def within(values: Floats, cells: Codes) -> Floats:
    """Subtract the mean of each cell."""
    _, codes = np.unique(cells, return_inverse=True)
    means = np.bincount(codes, weights=values) / np.bincount(codes)
    return values - means[codes]
