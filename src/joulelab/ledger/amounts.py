"""Figures that are added, subtracted and divided with the errors that they share."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Self

from joulelab.energy.energy import COVERAGE_FACTOR, ComponentEnergy, Energy, sensor_of
from joulelab.sensors.sensor import Provenance

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Amount:
    """A figure with its standard uncertainties, kept apart by what causes them.

    What one cause does to two figures adds up with its sign; different causes, and what is
    random, add in quadrature (GUM 5.1.2 and 5.2.2).

    Attributes:
        value: In any unit.
        shared: Of each cause that may have a part in other figures, too, as the gain of a sensor.
        random: Of all that has a part in this figure alone.
        simulated: Whether any of it is of a simulated sensor.

    Example:
        >>> week, last = Amount(110.0, {"gain": 11.0}), Amount(100.0, {"gain": 10.0})
        >>> (week + last).uncertainty, (week - last).uncertainty
        (21.0, 1.0)
    """

    value: float = 0.0
    shared: Mapping[Hashable, float] = field(default_factory=dict)
    random: float = 0.0
    simulated: bool = False

    @classmethod
    def of(cls, energy: Energy, boards: Mapping[str, Hashable], host: str) -> Self:
        """The gross energy of all components, in joules.

        Args:
            energy: Of a span.
            boards: What a component is on; sensors of one kind on one board share their error.
            host: What those are on that are not in ``boards``.
        """
        return cls.of_parts(energy.components.values(), boards, host)

    @classmethod
    def of_parts(
        cls, parts: Iterable[ComponentEnergy], boards: Mapping[str, Hashable], host: str
    ) -> Self:
        """The gross energy of components, one or several spans of each; see :meth:`of`."""
        return cls.total(cls.of_component(part, boards.get(part.component, host)) for part in parts)

    @classmethod
    def of_component(cls, part: ComponentEnergy, board: Hashable) -> Self:
        """The gross energy of a component on a board, in joules."""
        sensor = (board, part.component, sensor_of(part.source))
        shared: dict[Hashable, float] = {
            ("gain", *sensor): part.gain_uncertainty * part.gross_j,
            ("offset", *sensor): part.offset_uncertainty_w * part.duration_s,
        }
        known = {cause: value for cause, value in shared.items() if value}
        simulated = part.provenance is Provenance.SIMULATED
        return cls(part.gross_j, known, part.edge_uncertainty_j, simulated)

    @classmethod
    def of_own_share(cls, part: ComponentEnergy, board: Hashable) -> Self:
        """A job's own part of a component that others used, too, in joules: an estimate.

        Where the share is not known, or all of it, the whole. What users of one machine differ in
        is the same in all its records.
        """
        if part.share is None or part.share.is_whole:
            return cls.of_component(part, board)
        low_j, high_j = part.job_interval_j
        half_j = max(high_j - part.job_j, part.job_j - low_j)
        shared: dict[Hashable, float] = {("share", board, part.component): half_j / COVERAGE_FACTOR}
        return cls(part.job_j, shared, simulated=part.provenance is Provenance.SIMULATED)

    @classmethod
    def total(cls, amounts: Iterable[Amount]) -> Self:
        """The sum; 0 of nothing."""
        values: list[float] = []
        randoms: list[float] = []
        shared: dict[Hashable, float] = {}
        simulated = False
        for one in amounts:
            simulated |= one.simulated
            values.append(one.value)
            randoms.append(one.random)
            for cause, part in one.shared.items():
                shared[cause] = shared.get(cause, 0.0) + part
        return cls(math.fsum(values), shared, math.hypot(*randoms), simulated)

    def __add__(self, other: Amount) -> Amount:
        return Amount.total((self, other))

    def __sub__(self, other: Amount) -> Amount:
        return Amount.total((self, other.scaled(-1.0)))

    def scaled(self, factor: float) -> Amount:
        """So many times the figure."""
        shared = {cause: part * factor for cause, part in self.shared.items()}
        return Amount(self.value * factor, shared, self.random * abs(factor), self.simulated)

    @property
    def uncertainty(self) -> float:
        """Standard uncertainty."""
        return math.hypot(self.random, *self.shared.values())

    @property
    def interval(self) -> Interval:
        """95 % interval."""
        half = COVERAGE_FACTOR * self.uncertainty
        return self.value - half, self.value + half

    def covariance(self, other: Amount) -> float:
        """With a figure that is another one, through the causes that both have."""
        return math.fsum(
            part * other.shared[cause]
            for cause, part in self.shared.items()
            if cause in other.shared
        )


@dataclass(frozen=True, slots=True)
class Ratio:
    """One figure over another; NaN and infinite ends where the data do not bound it.

    Attributes:
        value: The ratio of the figures.
        low: Lower end of the 95 % interval.
        high: Its upper end.
    """

    value: float
    low: float
    high: float


UNKNOWN = Ratio(math.nan, math.nan, math.nan)


def ratio(upper: Amount, lower: Amount) -> Ratio:
    """The ratio of two figures that do not overlap, with its interval by Fieller's theorem.

    The interval holds every r for which ``upper - r lower`` is not shown to differ from 0 (Fieller
    1954). Where the denominator itself is not shown to differ from 0 there is no bound.

    Example:
        >>> week, last = Amount(110.0, {"gain": 5.5}), Amount(100.0, {"gain": 5.0})
        >>> found = ratio(week, last)
        >>> round(found.value, 6), round(found.low, 6), round(found.high, 6)
        (1.1, 1.1, 1.1)
        >>> ratio(Amount(1.0), Amount(1.0, {}, 2.0)).high
        inf
    """
    if lower.value == 0 or math.isnan(lower.value) or math.isnan(upper.value):
        return UNKNOWN
    roots = undecided(upper, lower)
    value = upper.value / lower.value
    if len(roots) != 1:
        return Ratio(value, -math.inf, math.inf)
    low, high = roots[0]
    # Of figures that are exact the ends are the ratio itself, but for rounding.
    return Ratio(value, min(low, value), max(high, value))


def share(part: Amount, rest: Amount) -> Ratio:
    """A part of the whole that it and the rest make up, between 0 and 1.

    By the ratio of the two: part / (part + rest) = q / (1 + q), which grows with q.

    Example:
        >>> found = share(Amount(30.0, {"gain": 3.0}), Amount(70.0, {"gain": 7.0}))
        >>> round(found.value, 6), round(found.low, 6), round(found.high, 6)
        (0.3, 0.3, 0.3)
    """
    whole = part.value + rest.value
    if not whole > 0:
        return UNKNOWN
    if rest.value == 0 and rest.uncertainty == 0:
        return Ratio(1.0, 1.0, 1.0)
    odds = ratio(part, rest)
    value = part.value / whole
    if math.isnan(odds.value):
        return Ratio(value, 0.0, 1.0)
    return Ratio(value, min(_from_odds(odds.low), value), max(_from_odds(odds.high), value))


def undecided(upper: Amount, lower: Amount) -> list[Interval]:
    """The r for which it is not shown, at 95 %, that ``upper - r lower`` differs from 0.

    They solve ``(u - r l)^2 <= k^2 Var(u - r l)``, a quadratic in r: a stretch, all but a stretch,
    everything or nothing. In ascending order; the ends may be infinite.
    """
    square = COVERAGE_FACTOR**2
    a = lower.value**2 - square * lower.uncertainty**2
    b = -2 * (upper.value * lower.value - square * upper.covariance(lower))
    c = upper.value**2 - square * upper.uncertainty**2
    if a == 0:
        return _linear(b, c)
    discriminant = b * b - 4 * a * c
    if a > 0:
        # r = u / l is always a solution, though rounding may turn two roots that are one into none.
        discriminant = max(discriminant, 0.0)
    if discriminant < 0:
        return [(-math.inf, math.inf)]
    half = -(b + math.copysign(math.sqrt(discriminant), b)) / 2
    first, second = sorted((half / a, c / half if half else 0.0))
    if a > 0:
        return [(first, second)]
    return [(-math.inf, first), (second, math.inf)]


def _linear(b: float, c: float) -> list[Interval]:
    if b == 0:
        return [(-math.inf, math.inf)] if c <= 0 else []
    return [(-math.inf, -c / b)] if b > 0 else [(-c / b, math.inf)]


def _from_odds(odds: float) -> float:
    if math.isinf(odds):
        return 1.0 if odds > 0 else 0.0
    return max(odds, 0.0) / (1 + max(odds, 0.0))
