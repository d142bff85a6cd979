"""Blocks as what they are: what all repeats of one block share is one error, not many.

Repeats are run in blocks, each with every cell once. A block that was warmer shifts all its cells
together, so that the scatter within cells, pooled over cells, rests on fewer independent errors
than there are repeats.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]
Codes = NDArray[np.integer[Any]]


@dataclass(frozen=True, slots=True)
class Scatter:
    """The variance of one repeat about its cell's mean, blocks and the rest apart.

    Attributes:
        variance: Of one repeat: blocks and the rest together.
        df: Degrees of freedom of that by Satterthwaite's formula: as many as repeats beyond the
            first of each cell where blocks do not matter, one less than there are blocks where
            only they do.
        block_variance: Of what a block's repeats share; 0 where blocks differ no more than
            repeats do, NaN with one block.
        block_p: Of blocks that do not differ (F test); NaN where it cannot be tested.
    """

    variance: float
    df: float
    block_variance: float
    block_p: float


def scatter(values: Array, cells: Codes, blocks: Codes) -> Scatter:
    """Analysis of variance: cells as fixed effects, blocks as a random one beside them.

    The block's variance is Henderson's (method 3): its sum of squares, given the cells, less what
    the residuals would put there. Satterthwaite's formula: *Biometrics Bulletin* 2 (1946), p. 110.

    Args:
        values: One a repeat. Shape: (repeats,).
        cells: Which cell each repeat is of, from 0. Shape: (repeats,).
        blocks: Which block it was run in, from 0. Shape: (repeats,).

    Returns:
        All NaN, and ``df`` 0, where no cell is repeated.

    Example:
        >>> found = scatter(np.array([1.0, 3.0, 11.0, 13.0]), np.array([0, 0, 1, 1]),
        ...     np.array([0, 1, 0, 1]))
        >>> found.variance, found.df
        (2.0, 1.0)
    """
    centred = _within(values, cells)
    repeats = len(values) - len(np.unique(cells))
    if repeats == 0:
        return Scatter(math.nan, 0.0, math.nan, math.nan)
    present = np.unique(blocks)
    dummies = np.stack([_within(1.0 * (blocks == block), cells) for block in present], axis=1)
    coefficients, _, rank, _ = np.linalg.lstsq(dummies, centred, rcond=None)
    total = float(centred @ centred)
    residual = float(((centred - dummies @ coefficients) ** 2).sum())
    between, residual_df = max(total - residual, 0.0), repeats - int(rank)
    variance = total / repeats
    if rank == 0:
        return Scatter(variance, float(repeats), math.nan, math.nan)
    if residual_df == 0:
        return Scatter(variance, float(rank), math.nan, math.nan)
    block_square, square = between / int(rank), residual / residual_df
    spread = int(rank) * block_square**2 + residual_df * square**2
    weight = float((dummies**2).sum()) / int(rank)
    return Scatter(
        variance,
        total**2 / spread if spread > 0 else float(repeats),
        max(0.0, (block_square - square) / weight),
        float(stats.f.sf(block_square / square, rank, residual_df)) if square > 0 else math.nan,
    )


def _within(values: Array, cells: Codes) -> Array:
    """Values less the mean of their cell."""
    _, codes = np.unique(cells, return_inverse=True)
    means = np.bincount(codes, weights=values) / np.bincount(codes)
    return values - means[codes]
