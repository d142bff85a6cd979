"""The test that suits what there is: repeats on both sides, on one, many cells, or a single run."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from joulelab.stats.shift import Shift
from joulelab.uncertain import Figure, not_cancelled


@dataclass(frozen=True, slots=True)
class Repeats:
    """The runs of one side in one cell.

    Attributes:
        figures: One a run, all known.
        blocks: What each run shares an error with, as the block of a study.
    """

    figures: tuple[Figure, ...]
    blocks: tuple[Hashable, ...]

    @classmethod
    def of(cls, *values: float) -> Repeats:
        """Runs without errors of measurement, each in a block of its own."""
        return cls(tuple(Figure(value) for value in values), tuple(range(len(values))))

    @property
    def n(self) -> int:
        """How many runs."""
        return len(self.figures)

    @property
    def mean(self) -> float:
        """Of the values."""
        return math.fsum(figure.value for figure in self.figures) / self.n

    @property
    def positive(self) -> bool:
        """Whether every value has a logarithm."""
        return all(figure.value > 0 for figure in self.figures)

    def logarithms(self) -> Repeats:
        """The same runs with the natural logarithms of their values, errors to first order."""
        return Repeats(tuple(figure.logarithm() for figure in self.figures), self.blocks)


@dataclass(frozen=True, slots=True)
class Cell:
    """What both sides have measured: the same model and settings, say.

    Attributes:
        a: The first side's runs.
        b: The second side's.
        unit: Cells of one unit, as of one model, are no independent witnesses.
    """

    a: Repeats
    b: Repeats
    unit: Hashable = None

    def logarithms(self) -> Cell:
        """The same runs by the logarithms of their values."""
        return Cell(self.a.logarithms(), self.b.logarithms(), self.unit)


def shift(cells: Sequence[Cell], stated_scatter: float | None = None) -> Shift:
    """The second side less the first, the mean over cells.

    - Repeats on both sides: Welch's t test; over several cells of their mean, the scatter within
      cells added up by block, since what the runs of a block share is one error (Liang and Zeger,
      *Biometrika* 73 (1986), with each cell's residuals enlarged by sqrt(n/(n-1))).
    - Repeats on one side and one run on the other: Student's t test, the one run taken to scatter
      as the others do.
    - No repeats but several cells: the paired t test over units, or over cells of a single unit.
    - One run on each side: no test, or the z test when the scatter of runs is stated.

    Args:
        cells: At least one.
        stated_scatter: Standard deviation of a run, for where runs do not tell it.

    Example:
        >>> found = shift([Cell(Repeats.of(10.0, 10.2, 9.8), Repeats.of(11.0, 11.2, 10.8))])
        >>> found.test, round(found.value, 3), round(found.p, 4)
        ("Welch's t test", 1.0, 0.0036)
        >>> shift([Cell(Repeats.of(10.0), Repeats.of(11.0))]).tested
        False
    """
    a, b = _Side.of([cell.a for cell in cells]), _Side.of([cell.b for cell in cells])
    value, shared = b.mean - a.mean, not_cancelled(a.shared, b.shared)
    own = math.hypot(a.own, b.own)
    over = "" if len(cells) == 1 else f" of the mean over {len(cells)} cells"
    if a.df > 0 and b.df > 0:
        variance = a.variance + b.variance
        spread = a.variance**2 / a.df + b.variance**2 / b.df
        df = variance**2 / spread if spread > 0 else a.df + b.df
        return Shift(value, shared, own, math.sqrt(variance), df, f"Welch's t test{over}")
    for many, one in ((a, b), (b, a)):
        if many.df > 0 and one.single:
            scatter = math.sqrt(many.variance + many.variance_of_one)
            return Shift(value, shared, own, scatter, many.df, f"Student's t test of one run{over}")
    units: dict[Hashable, list[float]] = defaultdict(list)
    distinct = len({cell.unit for cell in cells}) > 1
    for place, cell in enumerate(cells):
        units[cell.unit if distinct else place].append(cell.b.mean - cell.a.mean)
    if len(units) > 1:
        means = [math.fsum(values) / len(values) for values in units.values()]
        scatter = float(np.std(means, ddof=1)) / math.sqrt(len(means))
        what = "units" if distinct else "cells"
        test = f"paired t test over {len(means)} {what}"
        return Shift(float(np.mean(means)), shared, own, scatter, len(means) - 1.0, test)
    if stated_scatter is not None:
        scatter = stated_scatter * math.hypot(
            1 / math.sqrt(cells[0].a.n), 1 / math.sqrt(cells[0].b.n)
        )
        return Shift(value, shared, own, scatter, math.inf, "z test with the stated scatter")
    return Shift(value, shared, own)


@dataclass(frozen=True, slots=True)
class _Side:
    """One side's mean over cells.

    Attributes:
        mean: Over cells of the means over runs.
        shared: Errors that may cancel; see :data:`joulelab.uncertain.Errors`.
        own: Standard uncertainty of the mean from the runs' own errors of measurement.
        single: Whether every cell has one run.
        variance: Of the mean, from the scatter of runs.
        variance_of_one: What it would be with one run a cell.
        df: Degrees of freedom of the variance; 0 when a cell has no repeats.
    """

    mean: float
    shared: dict[Hashable, float]
    own: float
    single: bool
    variance: float
    variance_of_one: float
    df: float

    @classmethod
    def of(cls, cells: Sequence[Repeats]) -> _Side:
        shared: dict[Hashable, float] = defaultdict(float)
        own = 0.0
        for cell in cells:
            weight = 1 / (len(cells) * cell.n)
            for figure in cell.figures:
                own = math.hypot(own, weight * figure.own)
                for origin, error in figure.shared.items():
                    shared[origin] += weight * error
        variance, variance_of_one, df = _scatter(cells)
        return cls(
            mean=math.fsum(cell.mean for cell in cells) / len(cells),
            shared=shared,
            own=own,
            single=all(cell.n == 1 for cell in cells),
            variance=variance,
            variance_of_one=variance_of_one,
            df=df,
        )


def _scatter(cells: Sequence[Repeats]) -> tuple[float, float, float]:
    """Variance of the mean over cells, that with one run a cell, and degrees of freedom."""
    if any(cell.n < 2 for cell in cells):
        return math.nan, math.nan, 0.0
    by_block: dict[Hashable, float] = defaultdict(float)
    each: list[tuple[float, int]] = []
    for cell in cells:
        residuals = [figure.value - cell.mean for figure in cell.figures]
        each.append((math.fsum(r * r for r in residuals) / (cell.n - 1), cell.n))
        weight = math.sqrt(cell.n / (cell.n - 1)) / (len(cells) * cell.n)
        for block, residual in zip(cell.blocks, residuals, strict=True):
            by_block[block] += weight * residual
    if len(by_block) < sum(cell.n for cell in cells):
        variance = math.fsum(part**2 for part in by_block.values())
        return variance, variance * len(by_block), len(by_block) - 1.0
    parts = [(variance / n, n) for variance, n in each]
    total = math.fsum(part for part, _ in parts)
    spread = math.fsum(part**2 / (n - 1) for part, n in parts)
    df = total**2 / spread if spread > 0 else math.fsum(n - 1 for _, n in parts)
    count = len(cells)
    return total / count**2, math.fsum(variance for variance, _ in each) / count**2, df
