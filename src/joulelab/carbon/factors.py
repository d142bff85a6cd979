"""Carbon intensity of electricity by country: annual means from a table that is shipped."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import cache

from joulelab.errors import UserError
from joulelab.packaged import packaged_rows

SOURCE = "Ember (2026) by Our World in Data, CC BY 4.0"
"""Source of the table. It covers whole countries and years, all greenhouse gases and the whole life
cycle of the plants (100 years, IPCC AR5)."""

ALIASES = {"uk": "GB", "el": "GR"}  # Reserved by ISO 3166 for countries with another code.


@dataclass(frozen=True, slots=True)
class Factor:
    """Grams of CO2-equivalent per kilowatt-hour, and where the value comes from."""

    g_per_kwh: float
    location: str  # Where the electricity is from; empty if unknown.
    period: str  # What the value covers, for example "mean of 2025"; empty if unknown.
    source: str  # Who published it.

    def __str__(self) -> str:
        origin = ", ".join(part for part in (self.location, self.period, self.source) if part)
        return f"{self.g_per_kwh:.4g} g/kWh ({origin})"


@dataclass(frozen=True, slots=True)
class Country:
    """A country of the table."""

    alpha2: str  # ISO 3166-1 code of two letters.
    alpha3: str  # ISO 3166-1 code of three letters.
    name: str  # In English.
    year: int  # The latest with a value.
    g_per_kwh: float  # Average of the electricity generated in that year, without imports.

    @property
    def factor(self) -> Factor:
        """The value with its origin."""
        return Factor(self.g_per_kwh, self.name, f"mean of {self.year}", SOURCE)


def country(name: str) -> Country:
    """Find a country by its code or English name, in upper or lower case.

    Example:
        >>> country("de").name, country("FRA").alpha2, country("united kingdom").alpha2
        ('Germany', 'FR', 'GB')
        >>> country("Germny")
        Traceback (most recent call last):
        joulelab.errors.UserError: no country 'Germny' in the table of carbon intensities; did you \
mean Germany (DE)?
    """
    folded = _fold(name)
    found = _names().get(_fold(ALIASES.get(folded, folded)))
    if found is not None:
        return found
    known = {_fold(one.name): one for one in countries()}
    hint = "give its ISO 3166 code or English name, or the intensity itself in g/kWh"
    for close in difflib.get_close_matches(folded, known, n=1, cutoff=0.7):
        hint = f"did you mean {known[close].name} ({known[close].alpha2})?"
    raise UserError(f"no country {name!r} in the table of carbon intensities", hint=hint)


@cache
def countries() -> tuple[Country, ...]:
    """Return all countries of the table, in the order of their codes."""
    return tuple(
        Country(
            row["alpha2"], row["alpha3"], row["name"], int(row["year"]), float(row["g_per_kwh"])
        )
        for row in packaged_rows("joulelab.carbon", "data/carbon_intensity.csv")
    )


@cache
def _names() -> dict[str, Country]:
    return {_fold(name): one for one in countries() for name in (one.name, one.alpha3, one.alpha2)}


def _fold(name: str) -> str:
    return " ".join(name.casefold().split())
