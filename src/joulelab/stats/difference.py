"""The difference between two groups of runs: its interval, its test and what could be detected."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import optimize, special

from joulelab.arrays import Floats, Indices
from joulelab.uncertain import CONFIDENCE, UncertainValue

POWER = 0.8
"""Probability with which a detectable difference becomes significant (Cohen 1988)."""

LEAST_P = 1e-12
"""Smaller probabilities are reported as 0."""


@dataclass(frozen=True, slots=True)
class Repeats:
    """The runs of one group in one cell; none of the values is NaN.

    Runs of one block, for example of a study, share an error. ``divisors`` are what each value was
    divided by, for example the number of samples; without any, all count equally.
    """

    values: tuple[UncertainValue, ...]
    blocks: tuple[Hashable, ...]
    divisors: tuple[float, ...] = ()

    @classmethod
    def of(cls, *values: float) -> Repeats:
        """Create runs without measurement errors, each in a block of its own."""
        blocks = tuple(object() for _ in values)
        return cls(tuple(UncertainValue(value) for value in values), blocks)

    @property
    def n(self) -> int:
        """Number of runs."""
        return len(self.values)

    @property
    def mean(self) -> float:
        """Mean of the values."""
        return math.fsum(one.value for one in self.values) / self.n

    @property
    def ratio_of_sums(self) -> float:
        """Sum of what was divided over that of the divisors, as in a study's report.

        Example:
            >>> values = (UncertainValue(3.0), UncertainValue(1.0))
            >>> Repeats(values, (0, 1), divisors=(1.0, 3.0)).ratio_of_sums
            1.5
        """
        divisors = self.divisors or (1.0,) * self.n
        products = (one.value * d for one, d in zip(self.values, divisors, strict=True))
        return math.fsum(products) / math.fsum(divisors)

    def logarithms(self) -> Repeats:
        """Return the natural logarithms of the values, errors to first order."""
        return Repeats(tuple(one.logarithm() for one in self.values), self.blocks)


@dataclass(frozen=True, slots=True)
class Cell:
    """Runs of the same model and settings in both groups.

    Cells of one unit, for example of one model, are not independent of each other.
    """

    baseline: Repeats
    candidate: Repeats
    unit: Hashable = None

    @property
    def is_positive(self) -> bool:
        """Whether every value has a logarithm."""
        return all(one.value > 0 for one in (*self.baseline.values, *self.candidate.values))

    def logarithms(self) -> Cell:
        """Return the same runs with the logarithms of their values."""
        return Cell(self.baseline.logarithms(), self.candidate.logarithms(), self.unit)


@dataclass(frozen=True, slots=True)
class Difference:
    r"""The candidate's mean minus the baseline's, with its uncertainty.

    The interval is value ± h with h² = (z c)² + max(t s, z e)², as everywhere in JouleLab, see
    :func:`joulelab.stats.estimates.estimates`. Without s only the measurement's uncertainty
    remains, and there is no test.

    Example:
        >>> found = Difference(0.10, shared=0.0, own=0.0, scatter=0.02, df=4.0, test="t test")
        >>> low, high = found.interval(0.95)
        >>> round(low, 3), round(high, 3), round(found.p, 4), round(found.detectable(0.95), 3)
        (0.044, 0.156, 0.0075, 0.075)
    """

    value: float  # in the unit of the compared values, or a difference of logarithms
    shared: float  # c, the errors of sensors that do not cancel between the groups
    own: float  # e, the runs' own errors of measurement
    scatter: float = math.nan  # s, the standard error from the scatter of runs; NaN if unknown
    df: float = math.nan  # degrees of freedom of s; infinite if it was given
    test: str = ""  # that p comes from; empty without one

    @property
    def is_tested(self) -> bool:
        """Whether the scatter of runs is known, without which nothing is significant."""
        return math.isfinite(self.scatter)

    def half_width(self, confidence: float) -> float:
        """Return half the width of the interval."""
        upper = (1 + confidence) / 2
        z = float(special.ndtri(upper))
        random = z * self.own
        if self.is_tested:
            random = max(random, _student(upper, self.df) * self.scatter)
        return math.hypot(z * self.shared, random)

    def interval(self, confidence: float) -> tuple[float, float]:
        """Return the interval."""
        half = self.half_width(confidence)
        return self.value - half, self.value + half

    @property
    def p(self) -> float:
        """p-value of no difference: 1 minus the confidence at which the interval just reaches 0."""
        if not self.is_tested:
            return math.nan

        def beyond(log_p: float) -> float:
            return self.half_width(-math.expm1(log_p)) - abs(self.value)

        least, most = math.log(LEAST_P), -LEAST_P
        if self.value == 0 or beyond(most) >= 0:
            return 1.0
        return 0.0 if beyond(least) < 0 else math.exp(optimize.brentq(beyond, least, most))

    def p_above(self, limit: float) -> float:
        """Return the one-sided p-value of not being above a limit; NaN without a test."""
        p = replace(self, value=self.value - limit).p
        return p / 2 if self.value > limit else 1 - p / 2

    def detectable(self, confidence: float) -> float:
        """Return the difference that this many runs detect with a power of 0.8; NaN without s.

        By the noncentral t distribution.
        """
        if not self.is_tested:
            return math.nan
        upper = (1 + confidence) / 2
        z = float(special.ndtri(upper) + special.ndtri(POWER))
        random = z * self.own
        if self.scatter > 0:
            random = max(random, _noncentrality(upper, self.df) * self.scatter)
        return math.hypot(z * self.shared, random)


def difference(cells: Sequence[Cell], assumed_sd: float | None = None) -> Difference:
    """Compare two groups of runs: candidate minus baseline, the mean over cells.

    - Repeats in the same blocks in both groups: the paired t test over blocks, of their means over
      cells.
    - Repeats in both groups otherwise: Welch's t test; over several cells of their mean, with the
      scatter within cells added up by block, since what the runs of a block share is one error
      (Liang and Zeger, *Biometrika* 73 (1986), with each cell's residuals enlarged by
      sqrt(n/(n-1))).
    - Repeats in one group, one run in the other: Student's t test, if it scatters like them.
    - No repeats but several cells: the paired t test over units, or over cells of a single unit.
    - One run in each group: no test, or the z test if ``assumed_sd``, of a run, is given.

    Example:
        >>> found = difference([Cell(Repeats.of(10.0, 10.2, 9.8), Repeats.of(11.0, 11.2, 10.8))])
        >>> found.test, round(found.value, 3), round(found.p, 4)
        ("Welch's t test", 1.0, 0.0036)
        >>> difference([Cell(Repeats.of(10.0), Repeats.of(11.0))]).is_tested
        False
    """
    a = _GroupMean.of([cell.baseline for cell in cells])
    b = _GroupMean.of([cell.candidate for cell in cells])
    errors = b.mean - a.mean
    value, shared, own = b.mean.value - a.mean.value, errors.shared_uncertainty, errors.own
    over = "" if len(cells) == 1 else f" of the mean over {len(cells)} cells"
    pairs = [pair for cell in cells if (pair := _within_blocks(cell)) is not None]
    in_blocks = _GroupMean.of(pairs) if len(pairs) == len(cells) else None
    if in_blocks is not None and in_blocks.df > 0:
        blocks = len({block for pair in pairs for block in pair.blocks})
        mean, scatter = in_blocks.mean, math.sqrt(in_blocks.variance)
        test = f"paired t test over {blocks} blocks{over}"
        return Difference(
            mean.value, mean.shared_uncertainty, mean.own, scatter, in_blocks.df, test
        )
    if a.df > 0 and b.df > 0:
        variance = a.variance + b.variance
        spread = a.variance**2 / a.df + b.variance**2 / b.df
        df = variance**2 / spread if spread > 0 else a.df + b.df
        return Difference(value, shared, own, math.sqrt(variance), df, f"Welch's t test{over}")
    for many, one in ((a, b), (b, a)):
        if many.df > 0 and one.is_single:
            scatter = math.sqrt(many.variance + many.variance_of_one)
            test = f"Student's t test of one run{over}"
            return Difference(value, shared, own, scatter, many.df, test)
    units: dict[Hashable, list[float]] = defaultdict(list)
    several = len({cell.unit for cell in cells}) > 1
    for index, cell in enumerate(cells):
        units[cell.unit if several else index].append(cell.candidate.mean - cell.baseline.mean)
    if len(units) > 1:
        means = [math.fsum(values) / len(values) for values in units.values()]
        scatter = float(np.std(means, ddof=1)) / math.sqrt(len(means))
        test = f"paired t test over {len(means)} {'units' if several else 'cells'}"
        return Difference(float(np.mean(means)), shared, own, scatter, len(means) - 1.0, test)
    if assumed_sd is not None:
        n_a, n_b = cells[0].baseline.n, cells[0].candidate.n
        scatter = assumed_sd * math.hypot(1 / math.sqrt(n_a), 1 / math.sqrt(n_b))
        return Difference(value, shared, own, scatter, math.inf, "z test with the given scatter")
    return Difference(value, shared, own)


def holm(p: Sequence[float], weights: Sequence[float] | None = None) -> list[float]:
    """Correct p-values for their number by Holm's step-down procedure; NaN stays NaN.

    With weights, a hypothesis of twice the weight gets twice the error probability (S. Holm,
    *A simple sequentially rejective multiple test procedure*, Scand. J. Statist. 6 (1979)).

    Example:
        >>> holm([0.01, 0.04, math.nan, 0.03])
        [0.03, 0.06, nan, 0.06]
        >>> holm([0.01, 0.02], weights=[1.0, 0.25])
        [0.0125, 0.02]
    """
    corrected = np.array(p, dtype=float)
    order, weight, left = _holm_steps(corrected, weights)
    steps = corrected[order] * left / weight
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return list(corrected.tolist())


def holm_confidence(p: Sequence[float], weights: Sequence[float] | None = None) -> list[float]:
    """Return the confidence of each interval that excludes 0 exactly where :func:`holm` rejects.

    It is 1 minus the level at which the procedure tests a hypothesis, or at which it ends before
    that. None is below 95 %, so each interval has at least that coverage. NaN where p is.

    Example:
        >>> [round(one, 3) for one in holm_confidence([0.01, 0.04, 0.5])]
        [0.983, 0.975, 0.975]
    """
    confidence = np.array(p, dtype=float)
    order, weight, left = _holm_steps(confidence, weights)
    ended = np.maximum.accumulate(confidence[order] * left / weight > 1 - CONFIDENCE)
    left[ended] = left[ended].max(initial=0.0)
    confidence[order] = 1 - (1 - CONFIDENCE) * weight / left
    return list(confidence.tolist())


def _holm_steps(p: Floats, weights: Sequence[float] | None) -> tuple[Indices, Floats, Floats]:
    """Return the order of testing, each one's weight, and the weight that is left at its step."""
    weight = np.ones(len(p)) if weights is None else np.asarray(weights, dtype=float)
    known = np.flatnonzero(np.isfinite(p))
    order = known[np.argsort(p[known] / weight[known], kind="stable")]
    return order, weight[order], np.cumsum(weight[order][::-1])[::-1].copy()


def _within_blocks(cell: Cell) -> Repeats | None:
    """Subtract the baseline in each block; ``None`` unless both groups are in the same blocks."""
    blocks: dict[Hashable, tuple[list[UncertainValue], list[UncertainValue]]] = {}
    for index, repeats in enumerate((cell.baseline, cell.candidate)):
        for value, block in zip(repeats.values, repeats.blocks, strict=True):
            blocks.setdefault(block, ([], []))[index].append(value)
    if not all(a and b for a, b in blocks.values()):
        return None
    return Repeats(tuple(_mean(b) - _mean(a) for a, b in blocks.values()), tuple(blocks))


def _mean(values: Sequence[UncertainValue]) -> UncertainValue:
    return UncertainValue.total(values).scaled(1 / len(values))


@dataclass(frozen=True, slots=True)
class _GroupMean:
    """One group's mean over cells, with its variance from the scatter of runs.

    ``variance_of_one`` is the variance with one run per cell; ``df`` is 0 if a cell has no repeats.
    """

    mean: UncertainValue
    is_single: bool
    variance: float
    variance_of_one: float
    df: float

    @classmethod
    def of(cls, cells: Sequence[Repeats]) -> _GroupMean:
        errors = UncertainValue.total(
            one.scaled(1 / (len(cells) * cell.n)) for cell in cells for one in cell.values
        )
        mean = replace(errors, value=math.fsum(cell.mean for cell in cells) / len(cells))
        return cls(mean, all(cell.n == 1 for cell in cells), *_scatter(cells))


def _scatter(cells: Sequence[Repeats]) -> tuple[float, float, float]:
    """Return the variance of the mean over cells, that with one run per cell, and the df.

    A cell with one run has an unknown residual, which is taken to be like those of the other cells
    of its block.
    """
    repeated = [cell for cell in cells if cell.n > 1]
    weights: dict[Hashable, float] = defaultdict(float)
    for cell in cells:
        for block in cell.blocks:
            weights[block] += 1 / cell.n
    known: dict[Hashable, float] = defaultdict(float)
    by_block: dict[Hashable, float] = defaultdict(float)
    each: list[tuple[float, int]] = []
    for cell in repeated:
        residuals = [one.value - cell.mean for one in cell.values]
        each.append((math.fsum(r * r for r in residuals) / (cell.n - 1), cell.n))
        for block, residual in zip(cell.blocks, residuals, strict=True):
            known[block] += 1 / cell.n
            by_block[block] += math.sqrt(cell.n / (cell.n - 1)) * residual / cell.n
    is_shared = len(weights) < sum(cell.n for cell in cells)
    if len(by_block) < len(weights) or not (is_shared or len(repeated) == len(cells)):
        return math.nan, math.nan, 0.0
    if is_shared:
        parts = [part * weights[block] / known[block] for block, part in by_block.items()]
        variance = math.fsum(part**2 for part in parts) / len(cells) ** 2
        return variance, variance * len(by_block), len(by_block) - 1.0
    total = math.fsum(variance / n for variance, n in each)
    spread = math.fsum((variance / n) ** 2 / (n - 1) for variance, n in each)
    df = total**2 / spread if spread > 0 else math.fsum(n - 1 for _, n in each)
    count = len(cells)
    return total / count**2, math.fsum(variance for variance, _ in each) / count**2, df


def _noncentrality(upper: float, df: float) -> float:
    """Return how many standard errors are significant with a probability of POWER."""
    if math.isinf(df):
        return float(special.ndtri(upper) + special.ndtri(POWER))
    critical = _student(upper, df)

    def missed(shift: float) -> float:
        return float(special.nctdtr(df, shift, critical)) - (1 - POWER)

    return float(optimize.brentq(missed, 0.0, 4 * critical + 8))


def _student(probability: float, df: float) -> float:
    if math.isinf(df):
        return float(special.ndtri(probability))
    return float(special.stdtrit(df, probability))
