"""What joules per token mean: carbon and money of a million tokens, tokens of a kilowatt-hour."""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass
from typing import Any

from joulelab.carbon.costs import J_PER_KWH, Costs
from joulelab.carbon.site import Site
from joulelab.format import finite_or_none, with_ends, with_interval
from joulelab.uncertain import UNKNOWN_RATIO, Ratio

TOKENS = 1e6
"""Prices of language models are those of a million tokens."""


@dataclass(frozen=True, slots=True)
class TokenCosts:
    """The costs of a million tokens. Intervals are those of the energy.

    Example:
        >>> site = Site(intensity_g_per_kwh=360.0, price_per_kwh=0.30, currency="EUR")
        >>> found = token_costs(Ratio(0.36, 0.30, 0.40), site)
        >>> found.tokens_per_kwh
        Ratio(value=10000000.0, low=9000000.0, high=12000000.0)
        >>> for line in found.lines():
        ...     print(line)
        0.360 J (95 % CI 0.300–0.400 J) per token
        10.0 million (95 % CI 9.0–12.0 million) tokens per kWh
        a million tokens: 36.0 g (95 % CI 30.0–40.0 g) CO2e; 0.0300 EUR (95 % CI 0.0250–0.0333 EUR)
    """

    j_per_token: Ratio  # Gross energy per token.
    costs: Costs  # Energy, carbon and money of a million tokens.

    @property
    def tokens_per_kwh(self) -> Ratio:
        """Tokens for a kilowatt-hour; NaN unless the energy per token is positive."""
        one = self.j_per_token
        if not one.value > 0:
            return UNKNOWN_RATIO
        most = J_PER_KWH / one.low if one.low > 0 else math.inf
        return Ratio(J_PER_KWH / one.value, J_PER_KWH / one.high, most)

    @property
    def tokens_per_kwh_text(self) -> str:
        """The same with its interval, as text."""
        one = self.tokens_per_kwh
        return with_interval(one.value / 1e6, one.low / 1e6, one.high / 1e6, "million")

    def lines(self) -> list[str]:
        """Format the values."""
        one = self.j_per_token
        costs = self.costs.text(origin=False)
        return [
            f"{with_interval(one.value, one.low, one.high, 'J')} per token",
            f"{self.tokens_per_kwh_text} tokens per kWh",
            *([f"a million tokens: {costs}"] if costs else []),
        ]

    def to_json(self) -> dict[str, Any]:
        """Return all values; unknown and infinite ones become ``None``."""
        data = {
            **with_ends("j_per_token", "", *astuple(self.j_per_token)),
            **with_ends("tokens_per_kwh", "", *astuple(self.tokens_per_kwh)),
            "costs_of_million_tokens": self.costs.to_json(),
        }
        return dict(finite_or_none(data))


def token_costs(
    j_per_token: Ratio,
    site: Site,
    *,
    started_unix_s: float = math.nan,
    stopped_unix_s: float = math.nan,
) -> TokenCosts:
    """Return the costs of tokens at a site.

    Args:
        j_per_token: Gross energy per token with its 95 % interval.
        site: Where the electricity comes from.
        started_unix_s: When their processing began; an intensity over time needs both.
        stopped_unix_s: When it ended.

    Raises:
        UserError: The file of intensities cannot be read.
    """
    value, low, high = j_per_token.value, j_per_token.low, j_per_token.high
    costs = site.costs(
        TOKENS * value,
        (TOKENS * low, TOKENS * high),
        started_unix_s=started_unix_s,
        stopped_unix_s=stopped_unix_s,
    )
    return TokenCosts(j_per_token, costs)
