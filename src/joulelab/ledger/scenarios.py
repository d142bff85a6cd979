"""Inference at a daily volume against its training, and the break-even of two models."""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass
from typing import Any, Literal

from joulelab.format import finite_or_none, with_ends
from joulelab.uncertain import (
    COVERAGE_FACTOR,
    UNKNOWN_RATIO,
    Interval,
    Ratio,
    UncertainValue,
    fieller_intervals,
    fieller_ratio,
)

DAYS = {"day": 1.0, "month": 365.25 / 12, "year": 365.25}
"""Mean lengths in days, Julian year."""

Unit = Literal["request", "token"]
"""Unit of inference. Below, "request" stands for either."""


@dataclass(frozen=True, slots=True)
class Inference:
    """A model that serves requests, or output tokens.

    Example:
        >>> served = Inference(1e6, UncertainValue(0.5), UncertainValue(3.6e6))
        >>> served.over("day").value, served.days_to_training.value, served.to_training.value
        (500000.0, 7.2, 7200000.0)
    """

    requests_per_day: float
    per_request: UncertainValue  # gross, J
    training: UncertainValue | None  # gross, J; None if unknown
    unit: Unit = "request"

    def over(self, period: str) -> UncertainValue:
        """Return the gross energy of a ``"day"``, ``"month"`` or ``"year"``, J."""
        return self.per_request.scaled(self.requests_per_day * DAYS[period])

    @property
    def to_training(self) -> Ratio:
        """Number of requests after which inference has used as much energy as training."""
        if self.training is None:
            return UNKNOWN_RATIO
        return fieller_ratio(self.training, self.per_request)

    @property
    def days_to_training(self) -> Ratio:
        """Number of days after which inference has used as much energy as training."""
        if self.training is None:
            return UNKNOWN_RATIO
        return fieller_ratio(self.training, self.over("day"))

    def to_json(self) -> dict[str, Any]:
        """Return all values, named after the unit; unknown and infinite ones become ``None``."""
        data: dict[str, Any] = {
            "requests_per_day": self.requests_per_day,
            "simulated": self.per_request.simulated
            or (self.training is not None and self.training.simulated),
            "per_request_j": self.per_request.value,
            "training_j": None if self.training is None else self.training.value,
            **with_ends("days", "_to_training", *astuple(self.days_to_training)),
            **with_ends("requests", "_to_training", *astuple(self.to_training)),
        }
        for period in DAYS:
            energy = self.over(period)
            data |= with_ends(period, "_j", energy.value, *energy.interval)
        return dict(named_after(self.unit, finite_or_none(data)))


@dataclass(frozen=True, slots=True)
class ModelEnergy:
    """The gross energy of a model's training, and of a request to it, J."""

    name: str
    training: UncertainValue
    per_request: UncertainValue

    def after(self, requests: float) -> UncertainValue:
        """Return the energy of training and a number of requests, J."""
        return self.training + self.per_request.scaled(requests)

    def to_json(self) -> dict[str, Any]:
        """Return all values."""
        data: dict[str, Any] = {
            "name": self.name,
            "simulated": self.training.simulated or self.per_request.simulated,
        }
        for name, energy in (("training", self.training), ("per_request", self.per_request)):
            data |= with_ends(name, "_j", energy.value, *energy.interval)
        return data


@dataclass(frozen=True, slots=True)
class BreakEven:
    """Two models over a growing number of requests.

    After ``requests`` both have used the same energy; NaN if one model uses less for any number.
    """

    a: ModelEnergy
    b: ModelEnergy
    requests: float
    undecided: tuple[Interval, ...]  # numbers without a significant difference (95 %)

    def efficient(self, requests: float) -> ModelEnergy | None:
        """Return the model that has used significantly less; ``None`` if neither has."""
        excess = self.a.after(requests) - self.b.after(requests)
        if abs(excess.value) <= COVERAGE_FACTOR * excess.uncertainty:
            return None
        return self.b if excess.value > 0 else self.a

    @property
    def interval(self) -> Interval:
        """95 % interval of :attr:`requests`; the upper end may be infinite.

        NaN if there is no break-even, or the undecided numbers are not one interval.
        """
        if math.isnan(self.requests) or len(self.undecided) != 1:
            return math.nan, math.nan
        return self.undecided[0]

    def ranges(self) -> list[tuple[float, float, ModelEnergy | None]]:
        """Return, from 0 to infinity, the efficient model of each range; ``None``: undecided."""
        found: list[tuple[float, float, ModelEnergy | None]] = []
        begin = 0.0
        for low, high in self.undecided:
            if low > begin:
                found.append((begin, low, self.efficient((begin + low) / 2)))
            if high > low:
                found.append((low, high, None))
            begin = high
        if not math.isinf(begin):
            found.append((begin, math.inf, self.efficient(2 * begin + 1)))
        return found

    def to_json(self) -> dict[str, Any]:
        """Return all values; unknown and infinite ones become ``None``."""
        data = {
            **with_ends("requests", "", self.requests, *self.interval),
            "ranges": [
                {
                    "from_requests": begin,
                    "to_requests": end,
                    "efficient": None if model is None else model.name,
                }
                for begin, end, model in self.ranges()
            ],
            "models": [self.a.to_json(), self.b.to_json()],
        }
        return dict(finite_or_none(data))


def break_even(a: ModelEnergy, b: ModelEnergy) -> BreakEven:
    """Find where the energies of two models cross, and which is significantly lower elsewhere.

    ``T_a + n e_a = T_b + n e_b`` at ``n = (T_b - T_a) / (e_a - e_b)``, a ratio of differences, with
    its interval by Fieller's theorem (:func:`~joulelab.uncertain.fieller_intervals`).

    Example:
        >>> small = ModelEnergy("small", UncertainValue(1e6, {}, 1e4), UncertainValue(2, {}, 0.02))
        >>> large = ModelEnergy("large", UncertainValue(3e6, {}, 3e4), UncertainValue(1, {}, 0.01))
        >>> found = break_even(small, large)
        >>> round(found.requests), [round(end) for end in found.interval]
        (2000000, [1896325, 2111373])
        >>> found.efficient(1e6).name, found.efficient(2e6), found.efficient(3e6).name
        ('small', None, 'large')
    """
    extra_training = b.training - a.training
    saved_per_request = a.per_request - b.per_request
    requests = math.nan
    if saved_per_request.value:
        crossing = extra_training.value / saved_per_request.value
        requests = crossing if crossing >= 0 else math.nan
    undecided = tuple(
        (max(low, 0.0), high)
        for low, high in fieller_intervals(extra_training, saved_per_request)
        if high >= 0
    )
    return BreakEven(a, b, requests, undecided)


def named_after(unit: Unit, data: Any) -> Any:
    """Name the values of requests after another unit, also in lists and dictionaries within.

    Example:
        >>> named_after("token", {"requests": 3, "ranges": [{"from_requests": 0}]})
        {'tokens': 3, 'ranges': [{'from_tokens': 0}]}
    """
    if isinstance(data, dict):
        return {
            name.replace("request", unit): named_after(unit, value) for name, value in data.items()
        }
    return [named_after(unit, one) for one in data] if isinstance(data, list) else data
