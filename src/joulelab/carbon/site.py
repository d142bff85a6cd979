"""The site of a machine: its country or carbon intensity, its PUE and its electricity price.

JouleLab never guesses them. Settings are taken from, in this order::

    options  >  JOULELAB_COUNTRY, JOULELAB_PRICE, ...  >  JOULELAB_HOME/site.toml

Setting any intensity field (country, intensity, intensity_file) overrides all lower-priority
intensity fields.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import tomli_w

from joulelab.carbon.costs import Costs
from joulelab.carbon.factors import Factor, country
from joulelab.carbon.network import NetworkEnergy, network_intensity
from joulelab.carbon.series import IntensitySeries, energy_weighted_intensity, read_series
from joulelab.energy.data_exchange import NOTABLE_BYTES, DataExchange
from joulelab.energy.energy import Energy
from joulelab.errors import JoulelabError, UserError, nearest
from joulelab.recording.trace import Trace
from joulelab.storage import (
    file_errors,
    home,
    make_private_directories,
    read_whole,
    write_whole,
    writing,
)
from joulelab.uncertain import Interval
from joulelab.validation import Finite, InvalidData, convert, parse_toml

ENVIRONMENT = {  # The variable of each field.
    "country": "JOULELAB_COUNTRY",
    "intensity_g_per_kwh": "JOULELAB_INTENSITY",
    "intensity_file": "JOULELAB_INTENSITY_FILE",
    "pue": "JOULELAB_PUE",
    "price_per_kwh": "JOULELAB_PRICE",
    "currency": "JOULELAB_CURRENCY",
    "network": "JOULELAB_NETWORK",
}

INTENSITY_FIELDS = ("country", "intensity_g_per_kwh", "intensity_file")
NO_LOCATION = "the country is not set: run `joulelab site --country XX` once"


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What is known about a machine's electricity; ``None`` for unknown.

    Attributes:
        country: Code or name for :func:`joulelab.carbon.factors.country`; any location if the
            intensity is given.
        intensity_g_per_kwh: Carbon intensity, instead of the country's.
        intensity_file: Carbon intensity over time; see :func:`joulelab.carbon.series.read_series`.
            Takes precedence over the other two.
        pue: Power usage effectiveness, for carbon and money: energy of the whole site over that
            of its computers (ISO/IEC 30134-2). 1 counts the computers alone.
        price_per_kwh: Price of a kilowatt-hour at the site's meter.
        currency: ISO 4217 code of the price.
        network: How the machine is connected: ``"fixed"``, ``"mobile"`` or ``"core"``, see
            :mod:`joulelab.carbon.network`. Unknown counts as fixed.

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
    network: str | None = None

    def __post_init__(self) -> None:
        _check("intensity", self.intensity_g_per_kwh, 0.0)
        _check("PUE", self.pue, 1.0)
        _check("price", self.price_per_kwh, -math.inf)
        hint = "give its ISO 4217 code, for example EUR"
        if self.currency is not None and not re.fullmatch("[A-Z]{3}", self.currency):
            raise UserError(f"{self.currency!r} is not a currency", hint=hint)
        if self.price_per_kwh is not None and self.currency is None:
            raise UserError("the price has no currency", hint=hint)
        if self.country is not None and self._uses_table:
            country(self.country)
        network_intensity(self.access)

    @classmethod
    def configured(cls, *, file: Path | None = None, **given: Any) -> Self:
        """Read the settings from options, the environment and the file of this machine.

        Args:
            file: The file of another machine, instead of this one's file and environment.
            **given: Fields; those that are ``None`` are not given.

        Raises:
            UserError: A setting is invalid.
        """
        environment = environment_settings() if file is None else {}
        return cls(**override(override(saved_settings(file), environment), given))

    @property
    def file(self) -> IntensitySeries | None:
        """The intensity over time."""
        if self.intensity_file is None:
            return None
        with file_errors(f"cannot read {self.intensity_file}"):
            changed_ns = self.intensity_file.stat().st_mtime_ns
        return _series(self.intensity_file, changed_ns)

    @property
    def factor(self) -> Factor | None:
        """The intensity, if it is known and the same at all times."""
        if self.intensity_file is not None:
            return None
        if self.intensity_g_per_kwh is not None:
            return Factor(self.intensity_g_per_kwh, self.country or "", "", "given")
        return None if self.country is None else country(self.country).factor

    def costs(
        self,
        energy: Energy | float,
        interval_j: Interval = (math.nan, math.nan),
        *,
        started_unix_s: float = math.nan,
        stopped_unix_s: float = math.nan,
        trace: Callable[[], Trace] | None = None,
    ) -> Costs:
        """Return the carbon and money of an energy used at this site.

        Args:
            energy: Gross energy, with its interval or as a number of joules.
            interval_j: 95 % interval of a number.
            started_unix_s: When its use began; an intensity over time needs both.
            stopped_unix_s: When its use ended.
            trace: Returns the readings, to weight the intensity over time by energy. Only called if
                the intensity changed during that time. Without it power counts as constant.

        Raises:
            UserError: The file of intensities cannot be read.
        """
        if isinstance(energy, Energy):
            interval_j = energy.interval_j
            energy = energy.gross_j
        factor, no_carbon = self._factor_during(started_unix_s, stopped_unix_s, trace)
        return Costs(
            energy_j=float(energy),
            interval_j=interval_j,
            pue=self.pue,
            factor=factor,
            no_carbon=no_carbon,
            price_per_kwh=math.nan if self.price_per_kwh is None else self.price_per_kwh,
            currency=self.currency,
        )

    def to_json(self) -> dict[str, Any]:
        """Return every field as a plain value."""
        return asdict(self) | {"intensity_file": self.intensity_file and str(self.intensity_file)}

    @property
    def access(self) -> str:
        """The kind of network that data goes through."""
        return self.network or "fixed"

    @property
    def _uses_table(self) -> bool:
        return self.intensity_g_per_kwh is None and self.intensity_file is None

    def _factor_during(
        self, start_s: float, stop_s: float, trace: Callable[[], Trace] | None
    ) -> tuple[Factor | None, str]:
        """Return the intensity during a time, or why it is unknown."""
        series = self.file
        if series is None:
            return self.factor, "" if self.factor else NO_LOCATION
        if missing := series.missing(start_s, stop_s):
            return None, missing
        mean, method = math.nan, ""
        if trace is not None and len(series.steps(start_s, stop_s)) > 1:
            mean = energy_weighted_intensity(trace(), series, start_s, stop_s)
            method = "weighted by energy"
        if math.isnan(mean):
            mean, method = series.mean(start_s, stop_s), "assuming constant power"
        period = f"mean over the run, {method}"
        return Factor(mean, self.country or "", period, series.name), ""


def local_costs(
    energy: Energy | float, interval_j: Interval = (math.nan, math.nan), **options: Any
) -> Costs:
    """Call :meth:`Site.costs` of the configured site, but put errors into ``no_carbon``."""
    try:
        return Site.configured().costs(energy, interval_j, **options)
    except JoulelabError as error:
        return replace(Site().costs(energy, interval_j), no_carbon=str(error))


def local_network_energy(exchanged: DataExchange | None) -> NetworkEnergy | None:
    """Return the energy of networks for data, if enough is known to have gone through one."""
    if exchanged is None or exchanged.over_network.value < NOTABLE_BYTES:
        return None
    try:
        return NetworkEnergy.of(exchanged.over_network, Site.configured().access)
    except JoulelabError:
        return None


def override(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    """Override settings by those of a higher priority, except where these are ``None``.

    Example:
        >>> override({"intensity_g_per_kwh": 380.0, "pue": 1.2}, {"country": "FR", "pue": None})
        {'pue': 1.2, 'country': 'FR'}
    """
    upper = {name: value for name, value in upper.items() if value is not None}
    drop = INTENSITY_FIELDS if any(name in upper for name in INTENSITY_FIELDS) else ()
    return {name: value for name, value in lower.items() if name not in drop} | upper


def site_file() -> Path:
    """Return the file with this machine's settings. It may not exist."""
    return home() / "site.toml"


def save_site(**given: Any) -> Site:
    """Save settings of this machine, on top of those that are saved already.

    Raises:
        UserError: A setting is invalid, or the intensities over time cannot be read.
    """
    settings = override(saved_settings(), given)
    site = Site(**settings)
    _ = site.file
    if site.country is not None and site._uses_table:
        settings["country"] = country(site.country).alpha2
    path = site_file()
    plain = {name: str(one) if isinstance(one, Path) else one for name, one in settings.items()}
    with writing(path):
        make_private_directories(path.parent)
        write_whole(path, tomli_w.dumps(plain).encode(), private=True)
    return Site(**settings)


def delete_site() -> None:
    """Delete the saved settings of this machine, if there are any."""
    with file_errors(f"cannot delete {site_file()}"):
        site_file().unlink(missing_ok=True)


def saved_settings(file: Path | None = None) -> dict[str, Any]:
    """Read the saved settings of this machine, or those in another machine's file."""
    path = file or site_file()
    try:
        data = parse_toml(read_whole(path))
    except FileNotFoundError:
        return {}
    except (OSError, InvalidData) as error:
        hint = "fix the file, or delete it with `joulelab site --reset`"
        raise UserError(f"cannot read {path}", why=str(error), hint=hint) from error
    for name, value in data.items():
        if name not in ENVIRONMENT:
            raise UserError(f"{path} has an unknown {name!r}", hint=nearest(name, ENVIRONMENT))
        data[name] = _typed(name, value, f"{path}: {name}")
    if "intensity_file" in data:
        data["intensity_file"] = path.parent / data["intensity_file"]
    return data


def environment_settings() -> dict[str, Any]:
    """Read the settings from environment variables."""
    return {
        name: _typed(name, os.environ[variable], variable)
        for name, variable in ENVIRONMENT.items()
        if os.environ.get(variable)
    }


@lru_cache(maxsize=8)
def _series(path: Path, changed_ns: int) -> IntensitySeries:
    """Read a file of intensities once for each time it was changed."""
    return read_series(path)


def _typed(name: str, value: Any, where: str) -> Any:
    if name in ("country", "currency", "intensity_file", "network"):
        if not isinstance(value, str) or "\0" in value:
            raise UserError(f"{where} is {value!r}", why="it must be text")
        return Path(value) if name == "intensity_file" else value
    try:
        return convert(float(value) if isinstance(value, str) else value, Finite)
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{where} is {value!r}", why="it must be a number") from error


def _check(what: str, value: float | None, least: float) -> None:
    if value is not None and not (math.isfinite(value) and value >= least):
        need = "finite" if math.isinf(least) else f"{least:g} or more"
        raise UserError(f"{what} {value:g}", why=f"it must be {need}")
