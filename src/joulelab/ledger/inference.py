"""What answering so many requests a day costs, and when that passes the training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from joulelab.uncertain import Ratio, UncertainValue, fieller_ratio

DAYS = {"day": 1.0, "month": 365.25 / 12, "year": 365.25}
"""Mean lengths, Julian year."""


@dataclass(frozen=True, slots=True)
class Inference:
    """A model that answers requests.

    Attributes:
        requests_per_day: As given.
        per_request: Gross, J.
        training: Gross, J; ``None`` when it is not known.

    Example:
        >>> served = Inference(1e6, UncertainValue(0.5), UncertainValue(3.6e6))
        >>> served.over("day").value, served.days_to_training.value
        (500000.0, 7.2)
    """

    requests_per_day: float
    per_request: UncertainValue
    training: UncertainValue | None

    def over(self, period: str) -> UncertainValue:
        """Gross energy of a ``"day"``, ``"month"`` or ``"year"``, J."""
        return self.per_request.scaled(self.requests_per_day * DAYS[period])

    @property
    def days_to_training(self) -> Ratio:
        """After how many days inference has taken as much as training, by Fieller's theorem."""
        if self.training is None:
            return Ratio(math.nan, math.nan, math.nan)
        return fieller_ratio(self.training, self.over("day"))

    def to_json(self) -> dict[str, Any]:
        """The figures; what is not known or infinite becomes ``None``."""
        found = self.days_to_training
        days = {"days": found.value, "days_low": found.low, "days_high": found.high}
        periods = {period: self.over(period) for period in DAYS}
        return {
            "requests_per_day": self.requests_per_day,
            "simulated": self.per_request.simulated,
            "per_request_j": self.per_request.value,
            "training_j": None if self.training is None else self.training.value,
            **{f"{name}_j": amount.value for name, amount in periods.items()},
            **{f"{name}_low_j": amount.interval[0] for name, amount in periods.items()},
            **{f"{name}_high_j": amount.interval[1] for name, amount in periods.items()},
            **{f"{key}_to_training": _plain(value) for key, value in days.items()},
        }


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None
