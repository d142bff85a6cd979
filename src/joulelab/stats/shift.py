"""How far one side lies from the other, its interval, its test, and what could be detected."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from scipy import optimize, special

CONFIDENCE = 0.95
"""Of an interval unless something else is asked for."""

POWER = 0.8
"""How often a difference that is called detectable would be shown (Cohen 1988)."""

LEAST_P = 1e-12
"""Smaller probabilities are not told apart."""


@dataclass(frozen=True, slots=True)
class Shift:
    r"""The second side less the first, and what it is uncertain by.

    The interval is value ± h with h² = (z c)² + max(t s, z e)², as everywhere in JouleLab, see
    :func:`joulelab.stats.estimates.estimates`: c is what sensors leave that does not cancel
    between the sides, e the measurement's own error of each run, and s the standard error of the
    scatter of runs, with Student's t for its degrees of freedom. Without s it is the
    measurement's alone.

    Attributes:
        value: In the unit of what was compared, or a difference of logarithms.
        shared: c.
        own: e.
        scatter: s; NaN when runs did not tell.
        df: Degrees of freedom of s; infinite when it was stated.
        test: What p is by; empty without one.

    Example:
        >>> shift = Shift(0.10, shared=0.0, own=0.0, scatter=0.02, df=4.0, test="Welch's t test")
        >>> low, high = shift.interval(0.95)
        >>> round(low, 3), round(high, 3), round(shift.p, 4), round(shift.detectable(0.95), 3)
        (0.044, 0.156, 0.0075, 0.075)
    """

    value: float
    shared: float
    own: float
    scatter: float = math.nan
    df: float = math.nan
    test: str = ""

    @property
    def tested(self) -> bool:
        """Whether runs told how much they scatter, without which nothing is shown."""
        return math.isfinite(self.scatter)

    def half_width(self, confidence: float) -> float:
        """Half the width of the interval."""
        upper = (1 + confidence) / 2
        z = float(special.ndtri(upper))
        random = z * self.own
        if self.tested:
            random = max(random, _student(upper, self.df) * self.scatter)
        return math.hypot(z * self.shared, random)

    def interval(self, confidence: float) -> tuple[float, float]:
        """The interval."""
        half = self.half_width(confidence)
        return self.value - half, self.value + half

    @property
    def p(self) -> float:
        """Of no difference: 1 less the confidence at which the interval just reaches 0."""
        if not self.tested:
            return math.nan

        def beyond(log_p: float) -> float:
            return self.half_width(-math.expm1(log_p)) - abs(self.value)

        least, most = math.log(LEAST_P), -LEAST_P
        if self.value == 0 or beyond(most) >= 0:
            return 1.0
        return 0.0 if beyond(least) < 0 else math.exp(optimize.brentq(beyond, least, most))

    def p_above(self, limit: float) -> float:
        """Of not being above a limit, one-sided; NaN without a test."""
        p = replace(self, value=self.value - limit).p
        return p / 2 if self.value > limit else 1 - p / 2

    def detectable(self, confidence: float) -> float:
        """The difference that would be shown four times in five with as many runs; NaN without s.

        By the noncentral t distribution.
        """
        if not self.tested:
            return math.nan
        upper = (1 + confidence) / 2
        z = float(special.ndtri(upper) + special.ndtri(POWER))
        random = z * self.own
        if self.scatter > 0:
            random = max(random, _noncentrality(upper, self.df) * self.scatter)
        return math.hypot(z * self.shared, random)


def _noncentrality(upper: float, df: float) -> float:
    """How many standard errors a difference must be to be shown with a probability of POWER."""
    if math.isinf(df):
        return float(special.ndtri(upper) + special.ndtri(POWER))
    critical = _student(upper, df)

    def missed(shift: float) -> float:
        return float(special.nctdtr(df, shift, critical)) - (1 - POWER)

    return float(optimize.brentq(missed, 0.0, 4 * critical + 8))


def _student(probability: float, df: float) -> float:
    """The quantile of Student's t distribution."""
    if math.isinf(df):
        return float(special.ndtri(probability))
    return float(special.stdtrit(df, probability))
