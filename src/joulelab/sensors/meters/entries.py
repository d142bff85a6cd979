"""Entries of ``$JOULELAB_HOME/sensors.toml``: which meters there are, and how they are read.

Each table is a meter, named by its key::

    [desk]
    kind = "tasmota"
    address = "192.168.1.20"

Passwords and tokens are never in the file: an entry names an environment variable, or a file that
only its owner may read.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args
from urllib.parse import SplitResult, urlsplit

import msgspec
from msgspec import Meta

from joulelab.errors import UserError, nearest
from joulelab.sensors.sensor import Absence
from joulelab.storage import home, read_whole
from joulelab.validation import Finite, InvalidData, Period, Positive, Seconds, convert, parse_toml

Text = Annotated[str, Meta(min_length=1, max_length=2000, pattern=r"^[^\x00-\x1f\x7f]*$")]
Index = Annotated[int, Meta(ge=0, le=99)]
Unit = Literal["W", "mW", "kW", "J", "kJ", "MJ", "mWh", "Wh", "kWh", "Wmin"]
FACTORS: Mapping[str, float] = {
    "W": 1.0, "mW": 1e-3, "kW": 1e3,
    "J": 1.0, "kJ": 1e3, "MJ": 1e6, "mWh": 3.6, "Wh": 3600.0, "kWh": 3.6e6, "Wmin": 60.0,
}  # fmt: skip
"""How many watts or joules a unit has."""
POWER_UNITS = ("W", "mW", "kW")
IN_NODE = ("cpu", "gpu", "dram", "soc", "module", "card")
"""What is inside a computer and has a power of its own."""
CONTAINS = {
    "psu": IN_NODE,
    "node": (*IN_NODE, "psu"),
    "plug": (*IN_NODE, "psu", "node"),
}
"""What a meter of each kind of component contains, unless its entry says otherwise."""
_COMPONENT = (
    r"^(node|psu:\d{1,2}|plug:[A-Za-z0-9_.-]{1,64}|(gpu|cpu|dram|module|card):\d{1,2}|soc)$"
)
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class Entry(
    msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True, tag_field="kind"
):
    """What every meter may have; docs/reference/sensors.md describes the fields of all kinds."""

    component: Annotated[str, Meta(pattern=_COMPONENT)] | None = None
    contains: tuple[Text, ...] | None = None
    interval_s: Annotated[float, Meta(ge=0.1, le=3600)] = 1.0
    timeout_s: Annotated[float, Meta(ge=0.1, le=60)] = 5.0
    update_period_s: Period | None = None
    window_s: Seconds = 0.0
    delay_s: Seconds | None = None
    delay_uncertainty_s: Seconds | None = None
    resolution_w: Positive | None = None
    resolution_j: Positive | None = None
    uncertainty_pct: Annotated[float, Meta(ge=0, le=100)] | None = None
    max_power_w: Positive | None = None

    is_server: ClassVar[bool] = False
    uncertainty: ClassVar[float] = 0.02
    """Standard uncertainty of the scale (k = 1)."""
    step_w: ClassVar[float] = 0.0
    step_j: ClassVar[float] = 0.0

    def component_of(self, name: str) -> str:
        """Return the component that the meter of this name measures."""
        return self.component or ("node" if self.is_server else f"plug:{name}")

    def contained_in(self, component: str) -> tuple[str, ...]:
        """Return what its component contains."""
        if self.contains is not None:
            return self.contains
        return CONTAINS.get(component.partition(":")[0], ())


class LoginEntry(Entry, kw_only=True, frozen=True):
    """A meter that may want a password."""

    user: Text | None = None
    password_env: Text | None = None
    password_file: Text | None = None


class HttpEntry(LoginEntry, kw_only=True, frozen=True):
    """A meter that is read over HTTP."""

    address: Text
    verify: bool = True
    ca_file: Text | None = None

    default_scheme: ClassVar[str] = "http"

    @property
    def url(self) -> SplitResult:
        """The address as a URL with a scheme."""
        has_scheme = "://" in self.address
        return urlsplit(self.address if has_scheme else f"{self.default_scheme}://{self.address}")


class TasmotaEntry(HttpEntry, kw_only=True, frozen=True, tag="tasmota"):
    """A plug with the Tasmota firmware, ``WattRes`` 0 and ``EnergyRes`` 3 (its defaults).

    Its chips (HLW8012, BL0937, CSE7766) are specified to 1 to 2 %, but many are not calibrated.
    """

    step_w: ClassVar[float] = 1.0
    step_j: ClassVar[float] = 3600.0


class ShellyEntry(HttpEntry, kw_only=True, frozen=True, tag="shelly"):
    """A Shelly plug or relay of any generation, specified to 1 %. Gen1 counts watt-minutes."""

    relay: Index = 0

    uncertainty: ClassVar[float] = 0.01
    step_w: ClassVar[float] = 0.1
    step_j: ClassVar[float] = 60.0


class RedfishEntry(HttpEntry, kw_only=True, frozen=True, tag="redfish"):
    """A server's management controller that speaks Redfish; it may count kWh to three decimals.

    Power supplies report over PMBus within 5 % at full load (rectangular, 2.9 %).
    """

    chassis: Text | None = None
    energy: bool = False
    power_supplies: Annotated[int, Meta(ge=0, le=16)] = 0
    token_env: Text | None = None
    token_file: Text | None = None

    is_server: ClassVar[bool] = True
    default_scheme: ClassVar[str] = "https"
    uncertainty: ClassVar[float] = 0.03
    step_w: ClassVar[float] = 1.0
    step_j: ClassVar[float] = 3600.0


class JsonEntry(HttpEntry, kw_only=True, frozen=True, tag="http-json"):
    """Any meter that answers a GET request with JSON."""

    power: str | None = None
    energy: str | None = None
    power_unit: Unit = "W"
    energy_unit: Unit = "J"
    scale: Finite = 1.0
    headers: dict[Text, Text] = {}
    token_env: Text | None = None
    token_file: Text | None = None


class CommandEntry(Entry, kw_only=True, frozen=True, tag="command"):
    """A command that prints JSON or text."""

    command: Annotated[tuple[Text, ...], Meta(min_length=1)]
    power: str | None = None
    energy: str | None = None
    power_unit: Unit = "W"
    energy_unit: Unit = "J"
    scale: Finite = 1.0
    power_pattern: Text | None = None
    energy_pattern: Text | None = None


class IpmiEntry(LoginEntry, kw_only=True, frozen=True, tag="ipmi"):
    """A server's management controller, read with ``ipmitool``; without an address, this one's."""

    address: Text | None = None
    interface: Text | None = None
    sensor: Text | None = None

    is_server: ClassVar[bool] = True
    uncertainty: ClassVar[float] = 0.03
    step_w: ClassVar[float] = 1.0


AnyEntry = TasmotaEntry | ShellyEntry | RedfishEntry | JsonEntry | CommandEntry | IpmiEntry
KINDS = ("tasmota", "shelly", "redfish", "ipmi", "http-json", "command")


def sensors_file() -> Path:
    """Return the file with the meters of this machine. It may not exist."""
    return home() / "sensors.toml"


def read_tables(path: Path) -> dict[str, Any]:
    """Read the tables of a file of meters, unchecked; none if it does not exist.

    Raises:
        UserError: It cannot be read, or is not TOML.
    """
    try:
        return parse_toml(read_whole(path))
    except FileNotFoundError:
        return {}
    except (OSError, InvalidData) as error:
        raise UserError(f"cannot read {path}", why=str(error), hint="fix the file") from error


def parse_entry(name: str, table: Any, path: Path) -> AnyEntry:
    """Check one table of a file of meters.

    Raises:
        UserError: Something in it is wrong; the message names it.
    """
    where = f"{path}: [{name}]"
    if not _NAME.fullmatch(name):
        raise UserError(
            f"{where} is no name of a meter", hint="use letters, digits, dots, dashes, underscores"
        )
    if not isinstance(table, dict):
        hint = f'write a table: [{name}] with kind = "tasmota", address = "..."'
        raise UserError(f"{where} is not a table", hint=hint)
    if table.get("kind") not in KINDS:
        raise UserError(f"{where} has no known kind", hint=f"choose from {', '.join(KINDS)}")
    try:
        entry: AnyEntry = convert(table, AnyEntry)  # type: ignore[arg-type]
        _check(entry)
    except (InvalidData, ValueError) as error:
        reason = str(error).replace("Object missing required field", "it has no")
        reason = reason.replace("Object contains unknown field", "it has an unknown field")
        kind = next(one for one in get_args(AnyEntry) if one.__struct_config__.tag == table["kind"])
        strange = [key for key in table if key not in (*kind.__struct_fields__, "kind")]
        hint = nearest(strange[0], kind.__struct_fields__) if strange else "fix the entry"
        raise UserError(f"{where} is wrong", why=reason, hint=hint) from None
    return entry


def _check(entry: AnyEntry) -> None:
    """Raise a ``ValueError`` for what the types of fields do not show."""
    if isinstance(entry, HttpEntry):
        _check_url(entry.url)
    if isinstance(entry, LoginEntry):
        if entry.user is None and (entry.password_env or entry.password_file):
            raise ValueError("it has a password and no user")
        if entry.user is not None and not (entry.password_env or entry.password_file):
            raise ValueError("it has a user and neither password_env nor password_file")
    if isinstance(entry, (JsonEntry, CommandEntry)):
        pattern = [getattr(entry, f"{what}_pattern", None) for what in ("power", "energy")]
        for one in filter(None, pattern):
            try:
                groups = re.compile(one).groups
            except re.error as error:
                raise ValueError(f"the pattern {one!r} is wrong: {error}") from None
            if groups != 1:
                raise ValueError(f"the pattern {one!r} needs exactly one group")
        if entry.power is None and entry.energy is None and not any(pattern):
            raise ValueError("it has neither power nor energy: give the path to one of them")
        if entry.power_unit not in POWER_UNITS or entry.energy_unit in POWER_UNITS:
            raise ValueError("power_unit must be a unit of power, energy_unit one of energy")
        if entry.scale <= 0:
            raise ValueError("scale must be positive")


def _check_url(url: SplitResult) -> None:
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ValueError("address is not a host or an http URL")
    _ = url.port  # Raises for a wrong one.
    if url.username is not None or url.password is not None:
        raise ValueError(
            "address contains a user or password: use user, and password_env or password_file"
        )


def read_entries(path: Path | None = None) -> tuple[dict[str, AnyEntry], dict[str, UserError]]:
    """Read a file of meters: those that are right, and an error for each that is not, by name.

    The error of a file that cannot be read has the file's name.
    """
    path = path or sensors_file()
    entries, errors = {}, {}
    try:
        tables = read_tables(path)
    except UserError as error:
        return {}, {path.name: error}
    for name, table in tables.items():
        try:
            entries[name] = parse_entry(name, table, path)
        except UserError as error:
            errors[name] = error
    return entries, errors


def secret(entry: Any, what: str) -> str | None:
    """Return the password or token that an entry names; ``None`` if it names none.

    Raises:
        UserError: The variable is not set, or the file cannot be read or others may read it.
    """
    variable, file = getattr(entry, f"{what}_env", None), getattr(entry, f"{what}_file", None)
    if variable:
        found = os.environ.get(variable)
        if not found:
            raise UserError(f"the variable {variable} with the {what} is not set")
        return found
    if not file:
        return None
    path = Path(file).expanduser()
    try:
        if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            why, hint = "other users may read it", f"run chmod 600 {path}"
            raise UserError(f"the {what} file {path} is not private", why=why, hint=hint)
        return path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise UserError(f"cannot read the {what} file {path}", why=reason) from error


def absence(error: UserError, component: str) -> Absence:
    """Return why a meter is missing from a recording."""
    reason = f"{error.what}: {error.why}" if error.why else error.what
    return Absence(component, "sensors.toml", reason, error.hint)
