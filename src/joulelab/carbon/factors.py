"""Carbon intensity of electricity by country: a year's mean, from a table that is shipped."""

from __future__ import annotations

import csv
import difflib
from dataclasses import dataclass
from functools import cache
from importlib import resources

from joulelab.errors import UserError

SOURCE = "Ember (2026) by Our World in Data, CC BY 4.0"
"""Whose figures the table holds. They are of a whole country's generation over a whole year, all
greenhouse gases and the whole life cycle of the plants counted (100 years, IPCC AR5)."""

ALIASES = {"uk": "GB", "el": "GR"}
"""Codes that ISO 3166 reserves for countries which have another, and their own."""


@dataclass(frozen=True, slots=True)
class Factor:
    """Grams of CO2-equivalent a kilowatt-hour, and where the figure comes from.

    Attributes:
        g_per_kwh: The intensity.
        location: Of the electricity, in words; empty where nobody said.
        period: What the figure is the mean of, as ``"2025"``; empty where nobody said.
        source: Who says so.

    Example:
        >>> print(Factor(380.0, "Germany", "2025", "given"))
        380 g/kWh (Germany, 2025, given)
    """

    g_per_kwh: float
    location: str
    period: str
    source: str

    def __str__(self) -> str:
        origin = ", ".join(part for part in (self.location, self.period, self.source) if part)
        return f"{self.g_per_kwh:.4g} g/kWh ({origin})"


@dataclass(frozen=True, slots=True)
class Country:
    """A country of the table.

    Attributes:
        alpha2: ISO 3166-1 alpha-2 code.
        alpha3: ISO 3166-1 alpha-3 code.
        name: In English.
        year: Of the figure, the latest that is known.
        g_per_kwh: Average intensity of what was generated in the country in that year; imports
            are left out.
    """

    alpha2: str
    alpha3: str
    name: str
    year: int
    g_per_kwh: float

    @property
    def factor(self) -> Factor:
        """The figure with its origin."""
        return Factor(self.g_per_kwh, self.name, f"mean of {self.year}", SOURCE)


def country(name: str) -> Country:
    """A country by its code or its English name, in any case.

    Raises:
        UserError: The table has none of that name.

    Example:
        >>> country("de").name, country("FRA").alpha2, country("united kingdom").alpha2
        ('Germany', 'FR', 'GB')
        >>> country("Germny")
        Traceback (most recent call last):
        joulelab.errors.UserError: no country 'Germny' in the table of carbon intensities; did you \
mean Germany (DE)?
    """
    folded = _folded(name)
    found = _names().get(_folded(ALIASES.get(folded, folded)))
    if found is not None:
        return found
    raise UserError(f"no country {name!r} in the table of carbon intensities", hint=_mend(folded))


def countries() -> tuple[Country, ...]:
    """All countries of the table, in order of their codes.

    Example:
        >>> len(countries()), countries()[0].name
        (213, 'United Arab Emirates')
    """
    return _table()


@cache
def _table() -> tuple[Country, ...]:
    text = resources.files(__package__).joinpath("data/carbon_intensity.csv").read_text("utf-8")
    lines = (line for line in text.splitlines() if not line.startswith("#"))
    return tuple(
        Country(
            row["alpha2"], row["alpha3"], row["name"], int(row["year"]), float(row["g_per_kwh"])
        )
        for row in csv.DictReader(lines)
    )


@cache
def _names() -> dict[str, Country]:
    return {_folded(name): one for one in _table() for name in (one.name, one.alpha3, one.alpha2)}


def _folded(name: str) -> str:
    return " ".join(name.casefold().split())


def _mend(name: str) -> str:
    known = {_folded(one.name): one for one in _table()}
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
    if close:
        found = known[close[0]]
        return f"did you mean {found.name} ({found.alpha2})?"
    return "give its ISO 3166 code or English name, or the intensity itself in g/kWh"
