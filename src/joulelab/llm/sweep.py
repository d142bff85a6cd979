"""The knee of a sweep: the concurrency beyond which a token gets no cheaper."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from joulelab.arrays import Floats
from joulelab.format import quantity, with_ends, with_interval
from joulelab.uncertain import CONFIDENCE, COVERAGE_FACTOR, UncertainValue

BLOCKS = 10
"""Parts of a level whose costs are compared, so that its scatter from moment to moment counts."""
_STUDENT = 2.262157
"""97.5 % quantile of Student's t with 9 degrees of freedom, those of the blocks."""


def cost_of_blocks(energies: Sequence[UncertainValue], tokens: Floats) -> UncertainValue:
    """Return the energy per token of consecutive blocks of time, J.

    The ratio of the two sums. Its own uncertainty is that of the scatter between blocks, by the
    linearised variance of a ratio (Cochran 1977, Sampling Techniques, section 2.11), and Student's
    factor for the few blocks; errors of the sensor are shared with other levels.

    Args:
        energies: Energy of each block, J.
        tokens: Tokens in each block. Shape: (blocks,).
    """
    total = UncertainValue.total(energies)
    n, mean = len(energies), float(tokens.mean())
    if not mean > 0 or n < 2:
        return UncertainValue(math.nan)
    per_token = total.value / float(tokens.sum())
    residuals = np.array([one.value for one in energies]) - per_token * tokens
    scatter = math.sqrt(float(residuals @ residuals) / (n - 1) / n) / mean
    found = total.per(float(tokens.sum()))
    own = math.hypot(found.own, scatter * _STUDENT / COVERAGE_FACTOR)
    return UncertainValue(found.value, found.shared, own, found.simulated, least=0.0)


@dataclass(frozen=True, slots=True)
class Knee:
    """The concurrency beyond which a token gets no cheaper."""

    concurrency: int  # The lowest that has no significantly cheaper one above it.
    cost: UncertainValue  # Gross energy per output token there, J.
    highest: int  # The highest concurrency that was measured.
    lowest: int  # The concurrency with the lowest estimate.
    lowest_cost: UncertainValue  # The cost there, J.
    is_flat: bool  # Whether no two concurrencies differ significantly.
    costlier: tuple[int, ...]  # The concurrencies above that cost significantly more.

    @property
    def text(self) -> str:
        """What was found, as a sentence."""
        here = with_interval(self.cost.value, *self.cost.interval, "J")
        estimate = (
            f"the lowest estimate is {quantity(self.lowest_cost.value, 'J')} at {self.lowest}"
        )
        if self.is_flat:
            return (
                "Concurrency makes no significant difference (95 %) to the cost of a token: "
                f"{here} at {self.concurrency}; {estimate}."
            )
        if self.lowest != self.concurrency:
            return (
                f"A token gets no significantly cheaper beyond concurrency {self.concurrency}: "
                f"{here} there; {estimate}."
            )
        first = f"A token is cheapest at concurrency {self.concurrency}: {here}"
        if self.concurrency == self.highest:
            return f"{first}; it is the highest that was measured, so more may be cheaper still."
        if self.costlier:
            return f"{first}; from concurrency {self.costlier[0]} on it costs more."
        return f"{first}; beyond it no significant gain."

    def to_json(self) -> dict[str, Any]:
        """Convert to a plain dictionary."""
        return {
            "concurrency": self.concurrency,
            **with_ends("gross_j_per_output_token", "", self.cost.value, *self.cost.interval),
            "is_highest": self.concurrency == self.highest,
            "is_flat": self.is_flat,
            "text": self.text,
        }


def find_knee(costs: Mapping[int, UncertainValue]) -> Knee | None:
    """Find the concurrency beyond which a token gets no cheaper.

    Two costs differ if the interval of their ratio excludes 1, at 95 % for all pairs together
    (Bonferroni). Errors that both share, such as the gain of a sensor, cancel.

    Args:
        costs: Gross energy per output token at each concurrency, J.

    Returns:
        The knee; ``None`` with fewer than two positive costs.

    Example:
        >>> def cost(j):
        ...     return UncertainValue(j, {"gain": j / 20}, own=j / 100)
        >>> find_knee({1: cost(4.0), 4: cost(1.5), 16: cost(1.0), 64: cost(1.01)}).text
        'A token is cheapest at concurrency 16: 1.00 J (95 % CI 0.90–1.10 J); beyond it no \
significant gain.'
    """
    known = sorted((n, one) for n, one in costs.items() if one.value > 0)
    if len(known) < 2:
        return None
    logarithms = {n: one.logarithm() for n, one in known}
    pairs = len(known) * (len(known) - 1) / 2
    factor = NormalDist().inv_cdf(1 - (1 - CONFIDENCE) / 2 / pairs)

    def is_cheaper(one: int, other: int) -> bool:
        """Report whether a token costs significantly less at one concurrency than at another."""
        difference = logarithms[one] - logarithms[other]
        return difference.value + factor * difference.uncertainty < 0

    levels = [n for n, _ in known]
    knee = next(n for n in levels if not any(is_cheaper(m, n) for m in levels if m > n))
    lowest = min(levels, key=lambda n: costs[n].value)
    return Knee(
        concurrency=knee,
        cost=costs[knee],
        highest=levels[-1],
        lowest=lowest,
        lowest_cost=costs[lowest],
        is_flat=not any(is_cheaper(m, n) for m in levels for n in levels),
        costlier=tuple(m for m in levels if m > knee and is_cheaper(knee, m)),
    )
