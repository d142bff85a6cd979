"""What an energy costs in carbon and money, and what these values are based on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from joulelab.carbon.factors import Factor
from joulelab.format import finite_or_none, money_with_interval, with_ends, with_interval
from joulelab.uncertain import Interval

J_PER_KWH = 3.6e6


def carbon_g(energy_j: float, intensity_g_per_kwh: float, *, pue: float = 1.0) -> float:
    """Return the grams of CO2-equivalent that the electricity of a computation emits.

    The power usage effectiveness ``pue`` is the energy of the whole site over that of its computers
    (ISO/IEC 30134-2), at least 1.

    Example:
        >>> carbon_g(7.2e6, 400.0), carbon_g(7.2e6, 400.0, pue=1.25)
        (800.0, 1000.0)
    """
    if not intensity_g_per_kwh >= 0:
        raise ValueError(f"intensity {intensity_g_per_kwh} g/kWh: it must be 0 or more")
    if not pue >= 1:
        raise ValueError(f"PUE {pue}: it must be 1 or more")
    return energy_j / J_PER_KWH * intensity_g_per_kwh * pue


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Carbon and money of an energy. Unknown values are NaN.

    The intervals are the energy's: they do not include the uncertainty of the intensity or the
    price, which can be larger, for example if a year's mean is applied to an hour.

    Example:
        >>> costs = Costs(energy_j=7.2e6, interval_j=(7.02e6, 7.38e6),
        ...     factor=Factor(300.0, "Germany", "mean of 2025", "Ember"),
        ...     price_per_kwh=0.30, currency="EUR")
        >>> round(costs.carbon_g), [round(end) for end in costs.carbon_interval_g]
        (600, [585, 615])
        >>> print(costs.text())
        600 g (95 % CI 585–615 g) CO2e at 300 g/kWh (Germany, mean of 2025, Ember), PUE 1; \
0.600 EUR (95 % CI 0.585–0.615 EUR) at 0.3 EUR/kWh
    """

    energy_j: float  # Gross energy of the metered components.
    interval_j: Interval  # Its 95 % interval.
    pue: float = 1.0  # Multiplies carbon and price; 1 for the computers alone.
    factor: Factor | None = None  # The intensity and its origin, if known.
    no_carbon: str = ""  # Why it is unknown.
    price_per_kwh: float = math.nan  # At the site's meter.
    currency: str | None = None  # ISO 4217 code of the price.

    @property
    def carbon_g_per_j(self) -> float:
        """Grams of CO2-equivalent per joule of the metered components, PUE included."""
        return math.nan if self.factor is None else self.factor.g_per_kwh * self.pue / J_PER_KWH

    @property
    def price_per_j(self) -> float:
        """Price per joule of the metered components, PUE included."""
        return self.price_per_kwh * self.pue / J_PER_KWH

    @property
    def carbon_g(self) -> float:
        """Grams of CO2-equivalent."""
        return self.energy_j * self.carbon_g_per_j

    @property
    def carbon_interval_g(self) -> Interval:
        """The energy's 95 % interval in grams of CO2-equivalent."""
        low_j, high_j = self.interval_j
        return low_j * self.carbon_g_per_j, high_j * self.carbon_g_per_j

    @property
    def price(self) -> float:
        """Price in :attr:`currency`."""
        return self.energy_j * self.price_per_j

    @property
    def price_interval(self) -> Interval:
        """The energy's 95 % interval in :attr:`currency`."""
        low_j, high_j = self.interval_j
        return low_j * self.price_per_j, high_j * self.price_per_j

    def text(self, *, origin: bool = True) -> str:
        """Format each known value on one line, with its origin; empty if none is known."""
        parts = []
        if not math.isnan(self.carbon_g):
            carbon = with_interval(self.carbon_g, *self.carbon_interval_g, "g")
            at = f" at {self.factor}, PUE {self.pue:g}" if origin else ""
            parts.append(f"{carbon} CO2e{at}")
        if not math.isnan(self.price):
            price = money_with_interval(self.price, *self.price_interval, str(self.currency))
            pue = "" if parts or self.pue == 1 else f", PUE {self.pue:g}"
            at = f" at {self.price_per_kwh:g} {self.currency}/kWh{pue}" if origin else ""
            parts.append(f"{price}{at}")
        return "; ".join(parts)

    def to_json(self) -> dict[str, Any]:
        """Return values, intervals (the energy's) and their origin; NaN becomes ``None``."""
        values: dict[str, Any] = {
            **with_ends("carbon", "_g", self.carbon_g, *self.carbon_interval_g),
            **with_ends("price", "", self.price, *self.price_interval),
            "price_per_kwh": self.price_per_kwh,
            "intensity_g_per_kwh": self.factor.g_per_kwh if self.factor else None,
            "currency": self.currency,
            "intensity_of": str(self.factor) if self.factor else None,
            "no_carbon": self.no_carbon or None,
            "pue": self.pue,
            "intervals_of": "energy",
        }
        return {name: finite_or_none(value) for name, value in values.items()}
