"""After how many requests the model that is frugal at inference has made up for its training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from joulelab.uncertain import COVERAGE_FACTOR, Interval, UncertainValue, fieller_intervals


@dataclass(frozen=True, slots=True)
class ModelCost:
    """What a model takes.

    Attributes:
        name: Of the model.
        training: Once, gross, J.
        per_request: Each time, gross, J.
    """

    name: str
    training: UncertainValue
    per_request: UncertainValue

    def after(self, requests: float) -> UncertainValue:
        """Training and so many requests, J."""
        return self.training + self.per_request.scaled(requests)


@dataclass(frozen=True, slots=True)
class BreakEven:
    """Two models over a growing number of requests.

    Attributes:
        a: One model.
        b: The other.
        requests: Where both have taken the same; NaN when one takes less throughout.
        undecided: Numbers of requests at which it is not shown, at 95 %, which has taken less.
    """

    a: ModelCost
    b: ModelCost
    requests: float
    undecided: tuple[Interval, ...]

    def frugal(self, requests: float) -> ModelCost | None:
        """Which has taken less by then; ``None`` where that is not shown."""
        excess = self.a.after(requests) - self.b.after(requests)
        if abs(excess.value) <= COVERAGE_FACTOR * excess.uncertainty:
            return None
        return self.b if excess.value > 0 else self.a

    @property
    def interval(self) -> Interval:
        """95 % interval of :attr:`requests`; the upper end may be infinite.

        NaN when there is no break-even, or the undecided numbers are not one stretch.
        """
        if math.isnan(self.requests) or len(self.undecided) != 1:
            return math.nan, math.nan
        return self.undecided[0]

    def stretches(self) -> list[tuple[float, float, ModelCost | None]]:
        """From 0 to infinity: which is frugal from where to where; ``None`` where undecided."""
        found: list[tuple[float, float, ModelCost | None]] = []
        begin = 0.0
        for low, high in self.undecided:
            if low > begin:
                found.append((begin, low, self.frugal((begin + low) / 2)))
            if high > low:
                found.append((low, high, None))
            begin = high
        if not math.isinf(begin):
            found.append((begin, math.inf, self.frugal(2 * begin + 1)))
        return found

    def to_json(self) -> dict[str, Any]:
        """The figures; what is not known or infinite becomes ``None``."""
        low, high = self.interval
        return {
            "requests": _plain(self.requests),
            "requests_low": _plain(low),
            "requests_high": _plain(high),
            "stretches": [
                {
                    "from_requests": begin,
                    "to_requests": _plain(end),
                    "frugal": None if model is None else model.name,
                }
                for begin, end, model in self.stretches()
            ],
            "models": [_model_json(self.a), _model_json(self.b)],
        }


def break_even(a: ModelCost, b: ModelCost) -> BreakEven:
    """Where two models' energies cross, and what is shown on either side.

    ``T_a + n e_a = T_b + n e_b`` at ``n = (T_b - T_a) / (e_a - e_b)``, a ratio of differences, with
    its interval by Fieller's theorem (:func:`~joulelab.uncertain.fieller_intervals`).

    Example:
        >>> small = ModelCost("small", UncertainValue(1e6, {}, 1e4), UncertainValue(2.0, {}, 0.02))
        >>> large = ModelCost("large", UncertainValue(3e6, {}, 3e4), UncertainValue(1.0, {}, 0.01))
        >>> found = break_even(small, large)
        >>> round(found.requests), [round(end) for end in found.interval]
        (2000000, [1896325, 2111373])
        >>> found.frugal(1e6).name, found.frugal(2e6), found.frugal(3e6).name
        ('small', None, 'large')
    """
    extra_training = b.training - a.training
    saved_per_request = a.per_request - b.per_request
    requests = math.nan
    if saved_per_request.value:
        crossing = extra_training.value / saved_per_request.value
        requests = crossing if crossing >= 0 else math.nan
    stretches = tuple(
        (max(low, 0.0), high)
        for low, high in fieller_intervals(extra_training, saved_per_request)
        if high >= 0
    )
    return BreakEven(a, b, requests, stretches)


def _model_json(model: ModelCost) -> dict[str, Any]:
    return {
        "name": model.name,
        "simulated": model.training.simulated or model.per_request.simulated,
        "training_j": model.training.value,
        "training_low_j": model.training.interval[0],
        "training_high_j": model.training.interval[1],
        "per_request_j": model.per_request.value,
        "per_request_low_j": model.per_request.interval[0],
        "per_request_high_j": model.per_request.interval[1],
    }


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None
