"""Where the electricity comes from and what it costs. Nothing of it is guessed.

::

    options  >  JOULELAB_COUNTRY, JOULELAB_PRICE, ...  >  JOULELAB_HOME/site.toml

What one of them says of the intensity (country, intensity, intensity_file) replaces all that
those behind it say of the intensity.
"""

from __future__ import annotations

import json
import math
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from joulelab.carbon.costs import Costs
from joulelab.carbon.factors import Factor, country
from joulelab.errors import JoulelabError, UserError, nearest
from joulelab.storage import home, write_whole, writing

if TYPE_CHECKING:
    from joulelab.carbon.series import IntensitySeries
    from joulelab.energy.energy import Energy
    from joulelab.recording.trace import Trace

ENVIRONMENT = {
    "country": "JOULELAB_COUNTRY",
    "intensity_g_per_kwh": "JOULELAB_INTENSITY",
    "intensity_file": "JOULELAB_INTENSITY_FILE",
    "pue": "JOULELAB_PUE",
    "price_per_kwh": "JOULELAB_PRICE",
    "currency": "JOULELAB_CURRENCY",
}
"""The variable of each field."""

OF_INTENSITY = ("country", "intensity_g_per_kwh", "intensity_file")
OF_PRICE = ("price_per_kwh", "currency")

UNKNOWN = "the country is not known: `joulelab site --country XX` keeps it"
"""Why there is no carbon where nobody said anything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What is known of a machine's electricity; ``None`` where nobody said.

    Attributes:
        country: A code or name of :func:`joulelab.carbon.factors.country`; beside a
            given intensity any place.
        intensity_g_per_kwh: Given, instead of the country's.
        intensity_file: Given over time; see
            :func:`joulelab.carbon.series.read_series`. Comes before the other two.
        pue: Power usage effectiveness, for carbon and money: energy of the whole site over that
            of its computers (ISO/IEC 30134-2). 1 counts the computers alone.
        price_per_kwh: Of a kilowatt-hour at the site's meter.
        currency: ISO 4217 code of the price.

    Raises:
        UserError: A value is out of its range, or the country is not in the table.

    Example:
        >>> site = Site(country="DE", price_per_kwh=0.30, currency="EUR")
        >>> costs = site.costs(7.2e6, (7.0e6, 7.4e6))
        >>> round(costs.carbon_g, 1), round(costs.price, 2)
        (659.3, 0.6)
        >>> Site().costs(7.2e6).carbon_g
        nan
    """

    country: str | None = None
    intensity_g_per_kwh: float | None = None
    intensity_file: Path | None = None
    pue: float = 1.0
    price_per_kwh: float | None = None
    currency: str | None = None

    def __post_init__(self) -> None:
        _check("intensity", self.intensity_g_per_kwh, 0.0)
        _check("PUE", self.pue, 1.0)
        _check("price", self.price_per_kwh, -math.inf)
        if self.currency is not None and not re.fullmatch("[A-Z]{3}", self.currency):
            raise UserError(
                f"{self.currency!r} is no currency", hint="give its ISO 4217 code, as EUR"
            )
        if self.price_per_kwh is not None and self.currency is None:
            raise UserError("there is a price without a currency", hint="give it, as EUR")
        if self.country is not None and self._by_country:
            country(self.country)

    @classmethod
    def configured(cls, *, file: Path | None = None, **given: Any) -> Self:
        """What options, the environment and the file of this machine say, in that order.

        Args:
            file: Of another machine, instead of this one's file and environment.
            **given: Fields; those that are ``None`` are not given.

        Raises:
            UserError: One of them says what cannot be.
        """
        kept = overlaid(stored(), environment()) if file is None else stored(file)
        return cls(**overlaid(kept, {k: v for k, v in given.items() if v is not None}))

    @property
    def file(self) -> IntensitySeries | None:
        """The intensity over time.

        Raises:
            UserError: The file cannot be read.
        """
        if self.intensity_file is None:
            return None
        try:
            changed_ns = self.intensity_file.stat().st_mtime_ns
        except OSError as error:
            raise UserError(
                f"cannot read {self.intensity_file}", why=error.strerror or str(error)
            ) from error
        return _series(self.intensity_file, changed_ns)

    @property
    def factor(self) -> Factor | None:
        """The intensity, where it is known and one for all times."""
        if self.intensity_file is not None:
            return None
        if self.intensity_g_per_kwh is not None:
            return Factor(self.intensity_g_per_kwh, self.country or "", "", "given")
        return None if self.country is None else country(self.country).factor

    def costs(
        self,
        energy: Energy | float,
        interval_j: tuple[float, float] = (math.nan, math.nan),
        *,
        started_unix_s: float = math.nan,
        stopped_unix_s: float = math.nan,
        trace: Callable[[], Trace] | None = None,
    ) -> Costs:
        """What an energy costs here.

        Args:
            energy: Gross, with its interval or as a figure in joules.
            interval_j: 95 % interval of a figure.
            started_unix_s: When it began to be spent; a file of intensities needs both.
            stopped_unix_s: When it was spent.
            trace: Gives the readings, so that each joule counts with the intensity of its time.
                Only called where the intensity changed meanwhile. Without it power counts as even.

        Raises:
            UserError: The file of intensities cannot be read.
        """
        if isinstance(energy, int | float):
            gross_j = float(energy)
        else:
            gross_j, interval_j = energy.gross_j, energy.interval_j
        factor, missing = self._factor_met(started_unix_s, stopped_unix_s, trace)
        return Costs(
            energy_j=gross_j,
            interval_j=interval_j,
            pue=self.pue,
            factor=factor,
            no_carbon=missing,
            price_per_kwh=math.nan if self.price_per_kwh is None else self.price_per_kwh,
            currency=self.currency,
        )

    def to_json(self) -> dict[str, Any]:
        """Every field in plain values."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        return {key: str(item) if isinstance(item, Path) else item for key, item in values.items()}

    @property
    def _by_country(self) -> bool:
        return self.intensity_g_per_kwh is None and self.intensity_file is None

    def _factor_met(
        self, start_s: float, stop_s: float, trace: Callable[[], Trace] | None
    ) -> tuple[Factor | None, str]:
        series = self.file
        if series is None:
            return self.factor, "" if self.factor else UNKNOWN
        missing = series.missing(start_s, stop_s)
        if missing:
            return None, missing
        met, how = math.nan, ""
        if trace is not None and len(series.steps(start_s, stop_s)) > 1:
            from joulelab.carbon.weighting import intensity_met  # noqa: PLC0415

            met, how = intensity_met(trace(), series, start_s, stop_s), "weighted by the energy"
        if math.isnan(met):
            met, how = series.mean(start_s, stop_s), "power taken as even"
        return Factor(met, self.country or "", f"mean over its time, {how}", series.name), ""


def costs_here(
    energy: Energy,
    *,
    started_unix_s: float = math.nan,
    stopped_unix_s: float = math.nan,
    trace: Callable[[], Trace] | None = None,
) -> Costs:
    """What an energy costs at the site that is configured, for who must not fail by it.

    See :meth:`Site.costs`. What is wrong with the site is why there is no carbon.
    """
    try:
        return Site.configured().costs(
            energy, started_unix_s=started_unix_s, stopped_unix_s=stopped_unix_s, trace=trace
        )
    except JoulelabError as error:
        return Costs(energy_j=energy.gross_j, interval_j=energy.interval_j, no_carbon=str(error))


def overlaid(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Fields over other fields; whoever speaks of the intensity speaks of it alone.

    Example:
        >>> overlaid({"intensity_g_per_kwh": 380.0, "pue": 1.2}, {"country": "FR"})
        {'pue': 1.2, 'country': 'FR'}
    """
    kept = dict(below)
    if any(name in above for name in OF_INTENSITY):
        kept = {key: value for key, value in kept.items() if key not in OF_INTENSITY}
    return kept | dict(above)


def site_file() -> Path:
    """Where this machine's site is kept. It may not exist."""
    return home() / "site.toml"


def keep(**given: Any) -> Site:
    """Keeps fields for later, over those that are kept already.

    Raises:
        UserError: They cannot be, or the file cannot be written.
    """
    values = overlaid(stored(), {k: v for k, v in given.items() if v is not None})
    site = Site(**values)
    if site.file is None and site.country is not None and site.intensity_g_per_kwh is None:
        values["country"] = country(site.country).alpha2
    lines = [f"{name} = {_toml(value)}\n" for name, value in values.items()]
    path = site_file()
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, "".join(lines).encode())
    return Site(**values)


def forget() -> bool:
    """Removes what is kept; whether there was something.

    Raises:
        UserError: It cannot be removed.
    """
    try:
        site_file().unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise UserError(f"cannot remove {site_file()}", why=error.strerror or "") from error
    return True


def stored(file: Path | None = None) -> dict[str, Any]:
    """The fields that are kept.

    Args:
        file: Where, if not for this machine.

    Raises:
        UserError: The file cannot be read, or says what cannot be.
    """
    path = file or site_file()
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(
            f"cannot read {path}", why=str(error), hint="hint it, or `joulelab site --forget`"
        ) from error
    for name, value in data.items():
        if name not in ENVIRONMENT:
            raise UserError(f"{path} has an unknown {name!r}", hint=nearest(name, ENVIRONMENT))
        data[name] = _typed(name, value, f"{path}: {name}")
    if "intensity_file" in data:
        data["intensity_file"] = path.parent / data["intensity_file"]
    return data


def environment() -> dict[str, Any]:
    """The fields that the environment gives.

    Raises:
        UserError: One is not of its kind.
    """
    return {
        name: _typed(name, os.environ[variable], variable)
        for name, variable in ENVIRONMENT.items()
        if os.environ.get(variable)
    }


@lru_cache(maxsize=8)
def _series(path: Path, changed_ns: int) -> IntensitySeries:
    """The file as it was then; read once however many energies are worked out with it."""
    from joulelab.carbon.series import read_series  # noqa: PLC0415

    return read_series(path)


def _typed(name: str, value: Any, where: str) -> Any:
    if name == "intensity_file":
        return Path(str(value))
    if name in ("country", "currency"):
        return str(value)
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise UserError(f"{where} is {value!r}", why="it must be a number") from error


def _check(what: str, value: float | None, least: float) -> None:
    if value is not None and not (math.isfinite(value) and value >= least):
        need = "finite" if math.isinf(least) else f"{least:g} or more"
        raise UserError(f"{what} {value:g}", why=f"it must be {need}")


def _toml(value: Any) -> str:
    """A number or a text as TOML has it. A TOML string may be written as JSON's, but for DEL."""
    return repr(value) if isinstance(value, float) else json.dumps(str(value)).replace("\x7f", "")
