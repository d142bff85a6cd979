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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple
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


class Kind(NamedTuple):
    """A kind of meter.

    Shelly's meters are specified to 1 %, the chips of Tasmota's (HLW8012, BL0937, CSE7766) to 1 to
    2 %, but many are not calibrated. Power supplies report over PMBus within 5 % at full load
    (rectangular, 2.9 %). Steps are those of Tasmota's ``WattRes`` 0 and ``EnergyRes`` 3 (its
    defaults), Shelly's Gen1 watt-minutes (Gen2 counts 0.001 Wh), and kWh with three decimals.
    """

    fields: tuple[str, ...]  # Besides those that every meter may have.
    required: str = "address"
    uncertainty: float = 0.02  # Standard uncertainty of the scale (k = 1).
    step_w: float = 0.0
    step_j: float = 0.0
    is_server: bool = False


_LOGIN = ("address", "user", "password_env", "password_file")
_HTTP = (*_LOGIN, "verify", "ca_file")
_TOKEN = ("token_env", "token_file")
_VALUES = ("power", "energy", "power_unit", "energy_unit", "scale")
KINDS = {
    "tasmota": Kind(_HTTP, step_w=1.0, step_j=3600.0),
    "shelly": Kind((*_HTTP, "relay"), uncertainty=0.01, step_w=0.1, step_j=60.0),
    "redfish": Kind(
        (*_HTTP, *_TOKEN, "chassis", "energy", "power_supplies"),
        uncertainty=0.03, step_w=1.0, step_j=3600.0, is_server=True,
    ),
    "ipmi": Kind(
        (*_LOGIN, "interface", "sensor"),
        required="kind", uncertainty=0.03, step_w=1.0, is_server=True,
    ),
    "http-json": Kind((*_HTTP, *_TOKEN, *_VALUES, "headers")),
    "command": Kind((*_VALUES, "command", "power_pattern", "energy_pattern"), required="command"),
}  # fmt: skip


class Entry(msgspec.Struct, kw_only=True, frozen=True):
    """A meter; docs/reference/sensors.md describes its fields, and of which kinds they are."""

    kind: str
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
    # From here on, only some kinds have a field.
    address: Text | None = None
    user: Text | None = None
    password_env: Text | None = None
    password_file: Text | None = None
    token_env: Text | None = None
    token_file: Text | None = None
    verify: bool = True
    ca_file: Text | None = None
    headers: dict[Text, Text] = {}
    relay: Index = 0
    chassis: Text | None = None
    power_supplies: Annotated[int, Meta(ge=0, le=16)] = 0
    interface: Text | None = None
    sensor: Text | None = None
    command: Annotated[tuple[Text, ...], Meta(min_length=1)] | None = None
    power: str | None = None
    energy: str | bool | None = None  # A path; of Redfish, whether it counts energy.
    power_pattern: Text | None = None
    energy_pattern: Text | None = None
    power_unit: Unit = "W"
    energy_unit: Unit = "J"
    scale: Finite = 1.0

    @property
    def url(self) -> SplitResult:
        """The address as a URL with a scheme."""
        address = self.address or ""
        scheme = "https" if self.kind == "redfish" else "http"
        return urlsplit(address if "://" in address else f"{scheme}://{address}")

    def component_of(self, name: str) -> str:
        """Return the component that the meter of this name measures."""
        return self.component or ("node" if KINDS[self.kind].is_server else f"plug:{name}")

    def contained_in(self, component: str) -> tuple[str, ...]:
        """Return what its component contains."""
        if self.contains is not None:
            return self.contains
        return CONTAINS.get(component.partition(":")[0], ())


_COMMON = Entry.__struct_fields__[1 : Entry.__struct_fields__.index("address")]


def sensors_file() -> Path:
    """Return the file with the meters of this machine. It may not exist."""
    return home() / "sensors.toml"


def read_tables() -> dict[str, Any]:
    """Read the tables of the file of meters, unchecked; none if it does not exist.

    Raises:
        UserError: It cannot be read, or is not TOML.
    """
    path = sensors_file()
    try:
        return parse_toml(read_whole(path))
    except FileNotFoundError:
        return {}
    except (OSError, InvalidData) as error:
        raise UserError(f"cannot read {path}", why=str(error), hint="fix the file") from error


def parse_entry(name: str, table: Any, *, is_new: bool = False) -> Entry:
    """Check one table of the file of meters, or a new one that is not in the file yet.

    Raises:
        UserError: Something in it is wrong; the message names it.
    """
    where = f"the meter [{name}]" if is_new else f"{sensors_file()}: [{name}]"
    if not _NAME.fullmatch(name):
        raise UserError(
            f"{where} has a name that is not allowed",
            hint="use letters, digits, dots, dashes, underscores",
        )
    if not isinstance(table, dict):
        hint = f'write a table: [{name}] with kind = "tasmota", address = "..."'
        raise UserError(f"{where} is not a table", hint=hint)
    kind = table.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise UserError(f"{where} has no known kind", hint=f"choose from {', '.join(KINDS)}")
    fields = (*_COMMON, *KINDS[kind].fields)
    if strange := next((key for key in table if key not in ("kind", *fields)), None):
        why = f"it has an unknown field {strange}"
        raise UserError(f"{where} is wrong", why=why, hint=nearest(strange, fields))
    hint = "add or correct it with --set KEY=VALUE" if is_new else "fix the entry"
    if KINDS[kind].required not in table:
        why = f"it has no {KINDS[kind].required}"
        hint = f"give it after --add {kind}" if is_new else hint
        raise UserError(f"{where} is wrong", why=why, hint=hint)
    try:
        entry = convert(table, Entry)
        _check(entry, KINDS[kind].fields)
    except ValueError as error:
        raise UserError(f"{where} is wrong", why=str(error), hint=hint) from None
    return entry


def _check(entry: Entry, fields: Sequence[str]) -> None:
    """Raise a ``ValueError`` for what the types of fields do not show."""
    if "verify" in fields:
        _check_url(entry.url)
    has_password = bool(entry.password_env or entry.password_file)
    if has_password and entry.user is None:
        raise ValueError("it has a password and no user")
    if entry.user is not None and not has_password:
        raise ValueError(
            "it has a user and no password: it needs password_env, the name of a variable, or "
            "password_file"
        )
    is_switch = entry.kind == "redfish"
    if entry.energy is not None and isinstance(entry.energy, bool) is not is_switch:
        raise ValueError(f"energy must be {'true or false' if is_switch else 'a path'}")
    if "scale" not in fields:
        return
    patterns = [one for one in (entry.power_pattern, entry.energy_pattern) if one]
    for one in patterns:
        try:
            groups = re.compile(one).groups
        except re.error as error:
            raise ValueError(f"the pattern {one!r} is wrong: {error}") from None
        if groups != 1:
            raise ValueError(f"the pattern {one!r} needs exactly one group")
    if entry.power is None and entry.energy is None and not patterns:
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


def read_entries() -> tuple[dict[str, Entry], dict[str, UserError]]:
    """Read the file of meters: those that are right, and an error for each that is not, by name.

    The error of a file that cannot be read has the file's name.
    """
    entries, errors = {}, {}
    try:
        tables = read_tables()
    except UserError as error:
        return {}, {sensors_file().name: error}
    for name, table in tables.items():
        try:
            entries[name] = parse_entry(name, table)
        except UserError as error:
            errors[name] = error
    return entries, errors


def secret(entry: Entry, what: str) -> str | None:
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
