"""What many cells, each repeated a few times, tell together about the scatter of a repeat.

Two repeats alone have Student's t of 12.7. The cells of a study scatter alike, more or less, so
each cell's variance is moderated by all others' (empirical Bayes): Smyth, *Linear models and
empirical Bayes methods for assessing differential expression*, Stat. Appl. Genet. Mol. Biol. 3
(2004), art. 3, Eqs. 3 to 6.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

Array = NDArray[np.float64]

LEAST_CELLS = 5
"""With fewer repeated cells nothing is known of how much the cells' scatters differ."""

_FEWEST, _MOST = 0.5, 1000.0
_FLOOR = 1e-5
"""Smallest variance over the median one: the density of smaller ones may be infinite."""
_DEVIANCE = float(stats.chi2.ppf(0.90, 1)) / 2
"""Drop of the log-likelihood at the end of a one-sided 95 % interval."""


@dataclass(frozen=True, slots=True)
class Prior:
    """What the other cells say of one cell's variance before it is measured.

    Attributes:
        variance: The typical variance s0².
        df: Degrees of freedom d0 that it is worth: many where the cells scatter alike.
        most_df: Degrees of freedom of all cells together, which none has more than.
    """

    variance: float
    df: float
    most_df: float

    def moderate(self, variance: Array, df: Array) -> tuple[Array, Array]:
        """Each cell's variance drawn towards the typical one, with its degrees of freedom.

        Args:
            variance: s² of each cell. Shape: (cells,). Ignored where ``df`` is 0.
            df: d of each cell. Shape: (cells,).

        Returns:
            (d0 s0² + d s²) / (d0 + d), and d0 + d or ``most_df``, whichever is less.
        """
        own = np.where(df > 0, df * variance, 0.0)
        moderated = (self.df * self.variance + own) / (self.df + df)
        return moderated, np.minimum(self.df + df, self.most_df)


def prior(variance: Array, df: Array, most_df: float) -> Prior | None:
    """How alike the scatters of cells are, by the likelihood of their variances.

    Given s0² and d0, s²/s0² of a cell with d degrees of freedom follows F(d, d0). d0 is not the
    likeliest value but the smallest that a likelihood-ratio test does not refuse (one-sided,
    5 %), so that few cells that look alike by chance do not count as alike.

    Args:
        variance: s² of each cell, not negative. Shape: (cells,).
        df: d of each cell: repeats less one. Shape: (cells,).
        most_df: Degrees of freedom of all cells together, see
            :attr:`joulelab.stats.blocks.Scatter.df`.

    Returns:
        ``None`` with fewer than :data:`LEAST_CELLS` repeated cells, or where most of them do not
        scatter at all.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> alike = prior(rng.chisquare(1, size=200), np.ones(200), most_df=200)
        >>> 0.8 < alike.variance < 1.2, alike.df > 10
        (True, True)
    """
    repeated = (df > 0) & np.isfinite(variance)
    s2, d = variance[repeated], df[repeated]
    if len(s2) < LEAST_CELLS or np.median(s2) <= 0:
        return None
    s2 = np.maximum(s2, _FLOOR * np.median(s2))
    bounds = (math.log(s2.min()), math.log(s2.max() * 1.001))

    def best(log_df: float) -> tuple[float, float]:
        """The log-likelihood of d0 at the likeliest s0², with its negative sign, and log s0²."""
        found = optimize.minimize_scalar(
            lambda log_s0: (
                -float((stats.f.logpdf(s2 / math.exp(log_s0), d, math.exp(log_df)) - log_s0).sum())
            ),
            bounds=bounds,
            method="bounded",
        )
        return float(found.fun), float(found.x)

    ends = (math.log(_FEWEST), math.log(_MOST))
    likeliest = optimize.minimize_scalar(lambda q: best(q)[0], bounds=ends, method="bounded")

    def beyond(log_df: float) -> float:
        return best(log_df)[0] - float(likeliest.fun) - _DEVIANCE

    lowest = ends[0]
    if beyond(lowest) > 0:
        lowest = float(optimize.brentq(beyond, lowest, float(likeliest.x), xtol=0.01))
    return Prior(math.exp(best(lowest)[1]), math.exp(lowest), most_df)
