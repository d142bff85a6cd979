"""Means of cells that were measured in the same blocks, and simultaneous tests of their ratios.

Two cells of a block share what the block has in common, for example a warmer room, so the
difference of their means is free of it. Each block's effect is therefore subtracted before the
scatter of the cells is computed. The scatters of cells inform each other as everywhere, see
:mod:`joulelab.stats.variance`.

Where several ratios are tested together, the level of each is that of Bonferroni's inequality:
with m comparisons, intervals of 1 - 0.05/m. At most 5 % of such families have a false result,
whatever the correlation of their members, and every interval agrees with its test.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from scipy import special

from joulelab.arrays import Floats
from joulelab.stats.difference import Difference
from joulelab.stats.estimates import UPPER, Estimate
from joulelab.stats.variance import Codes, prior, within
from joulelab.uncertain import CONFIDENCE, ratio_interval


@dataclass(frozen=True, slots=True)
class CellMean:
    """The mean of a cell over its repeats, adjusted for their blocks.

    Only differences of means of one pool have a meaning. ``variance`` is that of the mean, from the
    scatter within blocks, with ``df`` degrees of freedom of at most ``most_df``; NaN and 0 without
    repeats. ``own`` is the measurement's uncertainty of the mean, and ``shared`` what all repeats
    have in common and does not cancel in ratios.
    """

    value: float
    variance: float
    df: float
    most_df: float
    own: float
    shared: float


def blocked_means(
    values: Floats, own: Floats, shared: Floats, cells: Codes, blocks: Codes
) -> list[CellMean]:
    """Average the repeats of each cell of one pool, see the module.

    Args:
        values: For ratios their logarithms. Shape: (repeats,), as all others.
        own: Standard uncertainty of each repeat's measurement alone.
        shared: Standard uncertainty that is common to all repeats.
        cells: The cell of each repeat, from 0; each has one at least.
        blocks: The block of each repeat.

    Example:
        >>> none = np.zeros(4)
        >>> a, b = blocked_means(np.array([1.0, 2.0, 1.5, 2.5]), none, none,
        ...     np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1]))
        >>> round(b.value - a.value, 9), b.df, abs(b.variance) < 1e-12
        (0.5, 0.5, True)
    """
    n = np.bincount(cells)
    dummies = 1.0 * (blocks[:, None] == np.unique(blocks))
    centred = np.stack([within(one, cells) for one in dummies.T], axis=1)
    effects, _, rank, _ = np.linalg.lstsq(centred, within(values, cells), rcond=None)
    effects -= effects.mean()
    adjusted = values - dummies @ effects
    repeats = int((n - 1).sum())
    total_df = float(repeats - rank)
    df = (n - 1).astype(float) * (total_df / repeats if repeats else 0.0)
    squares = np.bincount(cells, weights=within(adjusted, cells) ** 2)
    with np.errstate(invalid="ignore", divide="ignore"):
        variance = np.where(df > 0, squares / df, np.nan)
    typical = prior(variance, df, total_df)
    if typical is not None:
        moderated, df_of_moderated = typical.moderate(variance, df)
        # A cautious prior shrinks towards the median. All cells together must scatter as measured,
        # or means over many of them are stated too surely.
        excess = float(squares.sum()) / float(df @ moderated)
        variance, df = max(1.0, excess) * moderated, df_of_moderated
    means = np.bincount(cells, weights=adjusted) / n
    own_of_mean = np.sqrt(np.bincount(cells, weights=own**2)) / n
    shared_of_mean = np.bincount(cells, weights=shared) / n
    columns = (means, variance / n, df, np.full(len(n), total_df), own_of_mean, shared_of_mean)
    return [CellMean(*(float(one) for one in row)) for row in zip(*columns, strict=True)]


UNKNOWN_MEAN = CellMean(math.nan, math.nan, 0.0, 0.0, math.nan, math.nan)
"""That of a cell without a value."""

_COLUMNS = tuple(field.name for field in fields(CellMean))


def as_row(mean: CellMean) -> tuple[float, ...]:
    """Return the fields of a cell's mean, for :func:`mean_contrast`."""
    return tuple(getattr(mean, name) for name in _COLUMNS)


def mean_difference(pairs: Sequence[tuple[CellMean, CellMean]]) -> Difference:
    """Return the mean difference of the first and the second over pairs of cells."""
    return mean_contrast(np.array([[as_row(one) for one in pair] for pair in pairs]), (1, -1))


def mean_contrast(cells: Floats, signs: Sequence[int]) -> Difference:
    """Return the mean over combinations of a sum of cells with signs, such as a difference.

    Degrees of freedom are Welch's, at most those of all cells together.

    Args:
        cells: Rows of :func:`as_row`. Shape: (combinations, cells of each, columns).
        signs: 1 or -1 for each cell of a combination; their sum is 0, so that blocks cancel.
    """
    count = len(cells)
    sign = np.asarray(signs, dtype=float)
    value, variance, df, most_df, own, shared = np.moveaxis(cells, -1, 0)
    total = float(variance.sum())
    known = df > 0
    spread = float((variance[known] ** 2 / df[known]).sum())
    most = float(most_df.max())
    df_of_mean = min(total**2 / spread, most) if spread > 0 else most
    return Difference(
        value=float((value @ sign).sum()) / count,
        shared=abs(float((shared @ sign).sum())) / count,
        own=math.hypot(*own.ravel()) / count,
        scatter=math.sqrt(total) / count if df_of_mean > 0 else math.nan,
        df=df_of_mean,
    )


def mean_over(
    values: Floats, errors: Difference, block_variance: float, block_df: float
) -> Difference:
    """Return the mean over models that ran in blocks, where both are samples of others.

    The variance is that over models plus that over blocks of what all models of a block share.
    Degrees of freedom are Satterthwaite's, or fewer: two blocks that agree by chance would
    count for too little, so that no interval is narrower than one from either variance alone.

    Args:
        values: One for each of at least two models. Shape: (models,).
        errors: Its ``shared`` and ``own`` are those of the mean.
        block_variance: Variance of the mean from blocks, see :func:`block_variance`.
        block_df: Its degrees of freedom.
    """
    n = len(values)
    variance = float(np.var(values, ddof=1)) / n
    total = variance + block_variance
    spread = variance**2 / (n - 1) + (block_variance**2 / block_df if block_df > 0 else 0.0)
    df = total**2 / spread if spread > 0 else n - 1.0
    for part, own_df in ((variance, n - 1.0), (block_variance, block_df)):
        if part > 0:
            least = float(special.stdtrit(own_df, UPPER)) * math.sqrt(part / total)
            if least > float(special.stdtrit(df, UPPER)):
                df = float(special.stdtridf(UPPER, least))
    return replace(errors, value=float(np.mean(values)), scatter=math.sqrt(total), df=df)


def block_variance(values: Floats, cells: Codes, blocks: Codes) -> tuple[float, float]:
    """Return the variance of a mean over cells from what the cells of a block share, and its df.

    It contains the cells' own scatter, as far as that does not average out. Both are 0 for one
    block. Shapes: (repeats,).

    Example:
        >>> block_variance(np.array([1.0, 3.0, 11.0, 13.0]), np.array([0, 0, 1, 1]),
        ...     np.array([0, 1, 0, 1]))
        (1.0, 1.0)
    """
    _, codes = np.unique(blocks, return_inverse=True)
    sizes = np.bincount(codes)
    count = len(sizes)
    if count < 2:
        return 0.0, 0.0
    means = np.bincount(codes, weights=within(values, cells)) / sizes
    return float(np.var(means, ddof=1)) / count, count - 1.0


def simultaneous_ratio(found: Difference, comparisons: int = 1) -> Estimate:
    """Return a ratio with its interval among several comparisons; NaN ends without repeats.

    Example:
        >>> found = simultaneous_ratio(Difference(0.10, 0.0, 0.0, 0.02, 4.0), comparisons=10)
        >>> round(found.value, 2), round(found.low, 2), round(found.high, 2)
        (1.11, 0.99, 1.24)
    """
    half = math.nan
    if found.is_tested:
        half = found.half_width(1 - (1 - CONFIDENCE) / comparisons)
    value = math.exp(found.value)
    return Estimate(value, *ratio_interval(value, half), 0)
