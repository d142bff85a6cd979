"""What an energy costs, in carbon and money, with what the figures rest on beside them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from joulelab.carbon.factors import Factor
from joulelab.carbon.quantities import J_PER_KWH

Interval = tuple[float, float]
Units = tuple[tuple[float, str], ...]

GRAMS: Units = ((1e6, "t"), (1e3, "kg"), (1.0, "g"))
JOULES: Units = ((1e9, "GJ"), (1e6, "MJ"), (1e3, "kJ"), (1.0, "J"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Carbon and money of an energy. What is not known is NaN.

    The intervals are the energy's: neither the intensity's nor the price's own uncertainty is in
    them, which for a year's mean against an hour can be larger.

    Attributes:
        energy_j: Gross, of the metered components.
        interval_j: Its 95 % interval.
        pue: What carbon and price were multiplied by for the rest of the site; 1 for nothing.
        factor: The intensity and its origin; ``None`` when it is not known.
        no_carbon: Why it is not known.
        price_per_kwh: NaN when it is not known.
        currency: ISO 4217 code of the price.

    Example:
        >>> costs = Costs(energy_j=7.2e6, interval_j=(7.02e6, 7.38e6), pue=1.0,
        ...     factor=Factor(300.0, "Germany", "mean of 2025", "Ember"),
        ...     price_per_kwh=0.30, currency="EUR")
        >>> round(costs.carbon_g), [round(end) for end in costs.carbon_interval_g]
        (600, [585, 615])
        >>> print(costs.words())
        600 g (585 to 615) CO2e at 300 g/kWh (Germany, mean of 2025, Ember), PUE 1; \
0.600 EUR (0.585 to 0.615) at 0.3 EUR/kWh
    """

    energy_j: float
    interval_j: Interval
    pue: float = 1.0
    factor: Factor | None = None
    no_carbon: str = ""
    price_per_kwh: float = math.nan
    currency: str | None = None

    @property
    def carbon_g_per_j(self) -> float:
        """Grams of CO2-equivalent a joule of the metered components, PUE included."""
        return math.nan if self.factor is None else self.factor.g_per_kwh * self.pue / J_PER_KWH

    @property
    def price_per_j(self) -> float:
        """Price of a joule of the metered components, PUE included."""
        return self.price_per_kwh * self.pue / J_PER_KWH

    @property
    def carbon_g(self) -> float:
        """Grams of CO2-equivalent."""
        return self.energy_j * self.carbon_g_per_j

    @property
    def carbon_interval_g(self) -> Interval:
        """The energy's 95 % interval in grams of CO2-equivalent."""
        return _scaled(self.interval_j, self.carbon_g_per_j)

    @property
    def price(self) -> float:
        """In :attr:`currency`."""
        return self.energy_j * self.price_per_j

    @property
    def price_interval(self) -> Interval:
        """The energy's 95 % interval in :attr:`currency`."""
        return _scaled(self.interval_j, self.price_per_j)

    def words(self) -> str:
        """One line: each figure that is known, with what it rests on; empty when none is."""
        parts = []
        if not math.isnan(self.carbon_g):
            carbon = quantity(self.carbon_g, self.carbon_interval_g, GRAMS)
            parts.append(f"{carbon} CO2e at {self.factor}, PUE {self.pue:g}")
        if not math.isnan(self.price):
            price = quantity(self.price, self.price_interval, ((1.0, str(self.currency)),))
            pue = "" if parts or self.pue == 1 else f", PUE {self.pue:g}"
            parts.append(f"{price} at {self.price_per_kwh:g} {self.currency}/kWh{pue}")
        return "; ".join(parts)

    def to_json(self) -> dict[str, Any]:
        """Figures, intervals (the energy's) and what they rest on; NaN becomes ``None``."""
        carbon_low_g, carbon_high_g = self.carbon_interval_g
        price_low, price_high = self.price_interval
        figures = {
            "carbon_g": self.carbon_g,
            "carbon_low_g": carbon_low_g,
            "carbon_high_g": carbon_high_g,
            "price": self.price,
            "price_low": price_low,
            "price_high": price_high,
            "price_per_kwh": self.price_per_kwh,
            "intensity_g_per_kwh": self.factor.g_per_kwh if self.factor else math.nan,
        }
        plain = {name: value if math.isfinite(value) else None for name, value in figures.items()}
        return plain | {
            "currency": self.currency,
            "intensity_of": str(self.factor) if self.factor else None,
            "no_carbon": self.no_carbon or None,
            "pue": self.pue,
            "intervals_of": "energy",
        }


def quantity(value: float, interval: Interval, units: Units) -> str:
    """A figure and its interval, both in the unit that suits the figure.

    Args:
        value: In the last of the units.
        interval: In the same; not shown where it is not known, or has no width.
        units: Size and name, the largest first.

    Example:
        >>> quantity(1234.5, (990.0, 1500.0), GRAMS)
        '1.23 kg (0.990 to 1.50)'
        >>> quantity(0.6, (math.nan, math.nan), ((1.0, "EUR"),))
        '0.600 EUR'
    """
    size, unit = next((one for one in units if abs(value) >= one[0]), units[-1])
    low, high = interval
    text = f"{digits(value / size)} {unit}"
    if math.isnan(low) or math.isnan(high) or low == high:
        return text
    return f"{text} ({digits(low / size)} to {digits(high / size)})"


def digits(value: float) -> str:
    """Three significant digits, no exponent; at most nine decimals.

    Example:
        >>> digits(0.01234), digits(12.345), digits(123456.7), digits(0.0)
        ('0.0123', '12.3', '123,457', '0.00')
    """
    places = 2 - math.floor(math.log10(abs(value))) if value else 2
    return f"{value:,.{min(max(places, 0), 9)}f}"


def _scaled(interval: Interval, factor: float) -> Interval:
    return interval[0] * factor, interval[1] * factor
