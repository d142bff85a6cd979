"""A value with its standard uncertainties, and sums, differences and ratios of such values.

Uncertainties propagate to first order (JCGM 100:2008, the GUM, 5.1.2 and 5.2.2). A value lists its
errors by cause. Two values that name the same cause have the same error: in a sum it adds up with
its sign, in a difference or a ratio it cancels as far as both have it. Errors of different causes,
and a value's own error, are independent and add in quadrature.

A normal interval may reach values that are impossible, such as a negative energy. A value therefore
has limits, which its interval never exceeds; the limits of a sum are the sums of the limits.

What the causes of an energy are is decided in :mod:`joulelab.energy.uncertainty`.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Self

CONFIDENCE = 0.95
"""Coverage of every interval, unless another is asked for."""

COVERAGE_FACTOR = 1.959964
"""Half-width of a 95 % interval in standard uncertainties, normal distribution (GUM G.1)."""

MOST_FACTOR = 10.0
"""A positive value whose interval reaches further than by this factor is not determined."""

MOST_MULTIPLE = 1000
"""A ratio above this is only stated to be above it."""

Interval = tuple[float, float]


def normal_interval(
    value: float, uncertainty: float, least: float = -math.inf, most: float = math.inf
) -> Interval:
    """Return the 95 % interval of a value with a normal error, cut off at its limits.

    A value outside its limits stays within its interval.

    Example:
        >>> normal_interval(10.0, 10.0, least=0.0)
        (0.0, 29.59964)
    """
    half = COVERAGE_FACTOR * uncertainty
    return max(value - half, min(value, least)), min(value + half, max(value, most))


@dataclass(frozen=True, slots=True)
class UncertainValue:
    """A value and its standard uncertainties by cause.

    Example:
        >>> a, b = UncertainValue(110.0, {"gain": 11.0}), UncertainValue(100.0, {"gain": 10.0})
        >>> (a + b).uncertainty, (a - b).uncertainty
        (21.0, 1.0)
        >>> UncertainValue(10.0, own=10.0, least=0.0).interval
        (0.0, 29.59964)
    """

    value: float = 0.0  # In any unit; NaN if it was not measured.
    # Signed standard uncertainty for each cause that may affect other values too, for example the
    # gain of a sensor, in the unit of ``value``.
    shared: Mapping[Hashable, float] = field(default_factory=dict)
    own: float = 0.0  # Standard uncertainty from everything that affects this value alone.
    simulated: bool = False  # Whether a simulated sensor contributed to it.
    # Limit below which its interval does not reach, for example 0 for an energy.
    least: float = -math.inf
    most: float = math.inf  # Limit above which its interval does not reach.

    @classmethod
    def total(cls, values: Iterable[UncertainValue]) -> Self:
        """Add values; the sum of none is 0."""
        values = list(values)
        shared: dict[Hashable, float] = {}
        for one in values:
            for cause, error in one.shared.items():
                shared[cause] = shared.get(cause, 0.0) + error
        return cls(
            math.fsum(one.value for one in values),
            shared,
            math.hypot(*(one.own for one in values)),
            any(one.simulated for one in values),
            math.fsum(one.least for one in values),
            math.fsum(one.most for one in values),
        )

    def __add__(self, other: UncertainValue) -> UncertainValue:
        return UncertainValue.total((self, other))

    def __sub__(self, other: UncertainValue) -> UncertainValue:
        return UncertainValue.total((self, other.scaled(-1.0)))

    def scaled(self, factor: float) -> UncertainValue:
        """Multiply by an exact factor."""
        errors = {cause: error * factor for cause, error in self.shared.items()}
        least, most = sorted((self.least * factor, self.most * factor)) if factor else (0.0, 0.0)
        return UncertainValue(
            self.value * factor, errors, self.own * abs(factor), self.simulated, least, most
        )

    def per(self, divisor: float) -> UncertainValue:
        """Divide by an exact number; NaN unless it is positive."""
        if not divisor > 0:
            return UncertainValue(math.nan, simulated=self.simulated)
        errors = {cause: error / divisor for cause, error in self.shared.items()}
        return UncertainValue(
            self.value / divisor,
            errors,
            self.own / divisor,
            self.simulated,
            self.least / divisor,
            self.most / divisor,
        )

    def logarithm(self) -> UncertainValue:
        """Return the natural logarithm of a positive value, with its errors to first order."""
        relative = self.per(self.value)
        return UncertainValue(math.log(self.value), relative.shared, relative.own, self.simulated)

    @property
    def shared_uncertainty(self) -> float:
        """Standard uncertainty from the shared causes."""
        return math.hypot(*self.shared.values())

    @property
    def uncertainty(self) -> float:
        """Standard uncertainty."""
        return math.hypot(self.own, *self.shared.values())

    @property
    def interval(self) -> Interval:
        """95 % interval within the limits."""
        return normal_interval(self.value, self.uncertainty, self.least, self.most)

    def covariance(self, other: UncertainValue) -> float:
        """Return the covariance with another value, from the causes that both have."""
        both = self.shared.keys() & other.shared.keys()
        return math.fsum(self.shared[cause] * other.shared[cause] for cause in both)


@dataclass(frozen=True, slots=True)
class Ratio:
    """A ratio of two values."""

    value: float  # The ratio; NaN if it is undefined.
    low: float  # Lower end of its 95 % interval; infinite if the data do not bound it.
    high: float  # Upper end.

    @classmethod
    def of(cls, value: UncertainValue) -> Self:
        """Return a value that is a ratio with its interval; all are NaN if it is unknown."""
        if math.isnan(value.value):
            return cls(math.nan, math.nan, math.nan)
        return cls(value.value, *value.interval)


UNKNOWN_RATIO = Ratio(math.nan, math.nan, math.nan)


def ratio(numerator: UncertainValue, denominator: UncertainValue) -> Ratio | None:
    """Return the ratio of two values that are well above 0; ``None`` unless both are positive.

    The interval is first-order in the logarithm (GUM 5.1.2), so that it is the same for the
    inverse, see :func:`ratio_interval`. Use :func:`fieller_ratio` where the denominator may not
    differ from 0.

    Example:
        >>> week, last = UncertainValue(110.0, {"gain": 5.5}), UncertainValue(100.0, {"gain": 5.0})
        >>> found = ratio(week, last)
        >>> round(found.value, 3), round(found.low, 3), round(found.high, 3)
        (1.1, 1.1, 1.1)
    """
    if not (numerator.value > 0 and denominator.value > 0):
        return None
    difference = numerator.logarithm() - denominator.logarithm()
    value = numerator.value / denominator.value
    return Ratio(value, *ratio_interval(value, COVERAGE_FACTOR * difference.uncertainty))


def ratio_interval(value: float, half: float) -> tuple[float, float]:
    """Return the interval of a ratio, from half of the interval of its logarithm.

    It is 0 to infinity if it spans more than :data:`MOST_FACTOR` to either side: then the ratio
    cannot be determined.

    Example:
        >>> low, high = ratio_interval(2.0, math.log(1.5))
        >>> round(low, 3), round(high, 3), ratio_interval(1.0, 2.4)
        (1.333, 3.0, (0.0, inf))
    """
    if math.isnan(half):
        return math.nan, math.nan
    if half > math.log(MOST_FACTOR):
        return 0.0, math.inf
    spread = math.exp(half)
    return value / spread, value * spread


def fieller_ratio(numerator: UncertainValue, denominator: UncertainValue) -> Ratio:
    """Return the ratio of two values with its interval by Fieller's theorem (Fieller 1954).

    The interval contains every r for which ``numerator - r denominator`` does not differ
    significantly from 0. It is unbounded if the denominator does not differ significantly from 0.
    Values that cannot be negative have no negative ratio.

    Example:
        >>> week, last = UncertainValue(110.0, {"gain": 5.5}), UncertainValue(100.0, {"gain": 5.0})
        >>> found = fieller_ratio(week, last)
        >>> round(found.value, 6), round(found.low, 6), round(found.high, 6)
        (1.1, 1.1, 1.1)
        >>> fieller_ratio(UncertainValue(1.0), UncertainValue(1.0, {}, 2.0)).high
        inf
    """
    if denominator.value == 0 or math.isnan(denominator.value) or math.isnan(numerator.value):
        return UNKNOWN_RATIO
    value = numerator.value / denominator.value
    least = 0.0 if numerator.least >= 0 and denominator.least >= 0 else -math.inf
    intervals = fieller_intervals(numerator, denominator)
    if len(intervals) != 1:
        return Ratio(value, least, math.inf)
    low, high = intervals[0]
    # With exact values the ends are the ratio itself, except for rounding.
    return Ratio(value, min(max(low, least), value), max(high, value))


def is_determined(value: float, low: float, high: float) -> bool:
    """Report whether a positive value is known within a factor of :data:`MOST_FACTOR`.

    Example:
        >>> is_determined(20.0, 10.0, 40.0), is_determined(20.0, 0.0, 40.0)
        (True, False)
    """
    return value <= MOST_FACTOR * low and high <= MOST_FACTOR * value


def fieller_intervals(numerator: UncertainValue, denominator: UncertainValue) -> list[Interval]:
    """Return all r for which ``numerator - r denominator`` does not differ from 0 at 95 %.

    They solve ``(n - r d)^2 <= k^2 Var(n - r d)``, a quadratic in r: one interval, all but one
    interval, everything or nothing. Ascending; the ends may be infinite.
    """
    square = COVERAGE_FACTOR**2
    a = denominator.value**2 - square * denominator.uncertainty**2
    b = -2 * (numerator.value * denominator.value - square * numerator.covariance(denominator))
    c = numerator.value**2 - square * numerator.uncertainty**2
    if a == 0:
        if b == 0:
            return [(-math.inf, math.inf)] if c <= 0 else []
        return [(-math.inf, -c / b)] if b > 0 else [(-c / b, math.inf)]
    discriminant = b * b - 4 * a * c
    if a > 0:
        # r = n / d is always a solution, though rounding may turn a double root into none.
        discriminant = max(discriminant, 0.0)
    if discriminant < 0:
        return [(-math.inf, math.inf)]
    half = -(b + math.copysign(math.sqrt(discriminant), b)) / 2
    first, second = sorted((half / a, c / half if half else 0.0))
    return [(first, second)] if a > 0 else [(-math.inf, first), (second, math.inf)]


def share(part: UncertainValue, rest: UncertainValue) -> Ratio:
    """Return what fraction ``part`` is of ``part + rest``, between 0 and 1.

    Computed from the ratio q of the two, as q / (1 + q), which grows with q.

    Example:
        >>> found = share(UncertainValue(30.0, {"gain": 3.0}), UncertainValue(70.0, {"gain": 7.0}))
        >>> round(found.value, 6), round(found.low, 6), round(found.high, 6)
        (0.3, 0.3, 0.3)
    """
    whole = part.value + rest.value
    if not whole > 0:
        return UNKNOWN_RATIO
    if rest.value == 0 and rest.uncertainty == 0:
        return Ratio(1.0, 1.0, 1.0)
    odds = fieller_ratio(part, rest)
    value = part.value / whole
    if math.isnan(odds.value):
        return Ratio(value, 0.0, 1.0)
    low, high = (
        1.0 if q == math.inf else max(q, 0.0) / (1 + max(q, 0.0)) for q in (odds.low, odds.high)
    )
    return Ratio(value, min(low, value), max(high, value))
