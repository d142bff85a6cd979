"""Trying a meter, and saving it as an entry of the file of sensors."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import tomli_w

from joulelab.errors import UserError
from joulelab.sensors.meters.entries import Entry, parse_entry, read_tables, sensors_file
from joulelab.sensors.meters.polling import MeterSensor, open_meter
from joulelab.sensors.sensor import Channel, Quantity, Reading
from joulelab.storage import make_private_directories, write_whole, writing
from joulelab.validation import InvalidData, parse_toml

LEAST_S, LONGEST_S = 4.0, 40.0
UNCHANGED_S = 10.0
"""A meter whose value stays the same for this long does not show how often it updates."""
ENOUGH_UPDATES = 3
SAME_PERIOD = 1.5
MOST_SUPPLIES = 8
_LOOK_S = 0.05
_STEPS = {
    Quantity.POWER: (1.0, 0.1, 0.01, 0.001),
    Quantity.ENERGY: (3600.0, 360.0, 60.0, 36.0, 3.6, 1.0, 0.36, 0.1, 0.036, 0.0036),
}
"""Steps of displays: decimals of watts; of kilowatt-hours, watt-hours, watt-minutes and joules."""


@dataclass(frozen=True)
class Trial:
    """What a meter gave while it was tried."""

    name: str  # The name of its entry.
    table: dict[str, Any]  # The entry, with what was found.
    channels: Sequence[Channel]  # Its channels as they will be recorded.
    latest: Sequence[float | None]  # The latest value of each channel, W or J.
    # Time between two new values, at least that between two requests; ``None`` if it did not show.
    update_period_s: float | None


def make_table(kind: str, address: Sequence[str], settings: Mapping[str, str]) -> dict[str, Any]:
    """Return the unchecked entry of a meter from words of a command line.

    Args:
        kind: One of the kinds of entries.
        address: The meter's address; for a command, the command and its arguments.
        settings: Further fields. Values are as in TOML, or text.

    Raises:
        UserError: There are several addresses.
    """
    table: dict[str, Any] = {"kind": kind}
    if kind == "command":
        table["command"] = list(address)
    elif len(address) > 1:
        raise UserError(f"a meter has one address, not {len(address)}", hint="put it in quotes")
    elif address:
        table["address"] = address[0]
    for key, text in settings.items():
        try:
            table[key] = parse_toml(f"value = {text}".encode())["value"]
        except InvalidData:
            table[key] = text
    if kind == "command" and not any(key.startswith(("power", "energy")) for key in settings):
        table["power"] = ""
    return table


def try_meter(name: str, table: dict[str, Any]) -> Trial:
    """Read a meter a few times, until it shows how often it updates.

    Raises:
        UserError: The entry is wrong, or the meter gives no value.
    """
    entry = parse_entry(name, table, is_new=True)
    variants = [table]
    if entry.kind == "redfish" and not {"energy", "power_supplies"} & table.keys():
        # What a controller may have, best first.
        variants = [table | {"energy": True}, table, table | {"power_supplies": MOST_SUPPLIES}]
    reason = "it gave no value"
    for variant in variants:
        sensor = open_meter(name, parse_entry(name, variant, is_new=True))
        try:
            readings, reason = _read(sensor, reason)
            if readings:
                return _trial(name, variant, sensor, readings)
        finally:
            sensor.close()
    is_program = entry.kind in ("command", "ipmi")
    hint = "run it in a shell" if is_program else "check that it answers in a browser"
    if "password_env" in reason:
        hint = "add --set user=NAME --set password_env=VARIABLE"
    raise UserError(f"no reading from {describe_address(entry)}", why=reason, hint=hint)


def describe_address(entry: Entry) -> str:
    """Return where a meter is, without what may be secret."""
    if entry.command:
        return entry.command[0]
    if entry.kind == "ipmi":
        return f"the controller {entry.address}" if entry.address else "this machine's controller"
    url = entry.url
    return f"{url.hostname}:{url.port}" if url.port else str(url.hostname)


def _read(sensor: MeterSensor, before: str) -> tuple[list[Reading], str]:
    """Return the readings of a meter, and why there are none."""
    readings: list[Reading] = []
    reason, begin_s = before, time.monotonic()
    while (took_s := time.monotonic() - begin_s) <= LONGEST_S:
        time.sleep(_LOOK_S)
        for one in sensor.read():
            if isinstance(one, Reading):
                readings.append(one)
            elif readings:
                reason = one.reason
            else:
                return [], one.reason
        changes = len(_changes_s(readings))
        is_steady = not changes and took_s > UNCHANGED_S
        if took_s > LEAST_S and (changes >= ENOUGH_UPDATES or is_steady):
            break
    return readings, reason


def _changes_s(readings: Sequence[Reading]) -> list[float]:
    """Return when the value of the first channel changed."""
    own = [one for one in readings if one.channel == 0]
    return [after.t_ns * 1e-9 for before, after in pairwise(own) if after.value != before.value]


def _update_period_s(readings: Sequence[Reading], interval_s: float) -> float | None:
    """Return the time between new values, at least that between two requests."""
    changes_s = _changes_s(readings)
    if len(changes_s) < ENOUGH_UPDATES:
        return None
    period_s = min(after - before for before, after in pairwise(changes_s))
    if period_s < SAME_PERIOD * interval_s:
        return interval_s
    # A load that steps between a few levels does not show the meter's period.
    distinct = len({one.value for one in readings if one.channel == 0})
    return round(period_s, 1) if distinct >= len(changes_s) else None


def _trial(
    name: str, table: dict[str, Any], sensor: MeterSensor, readings: Sequence[Reading]
) -> Trial:
    values = [
        [one.value for one in readings if one.channel == position]
        for position in range(len(sensor.channels))
    ]
    found = sensor.reader.findings() | table
    if "power_supplies" in table:
        last = max(position for position, seen in enumerate(values) if seen)
        found["power_supplies"] = last + 1
    period_s = _update_period_s(readings, sensor.interval_s)
    if period_s is not None and "update_period_s" not in table:
        found.pop("update_period_s", None)
        if period_s > sensor.interval_s:
            found["update_period_s"] = period_s
    for channel, seen in zip(sensor.channels, values, strict=True):
        key = "resolution_w" if channel.quantity is Quantity.POWER else "resolution_j"
        step = _step(channel.quantity, set(seen))
        if step is not None and step != channel.resolution:
            found.setdefault(key, step)
    channels = open_meter(name, parse_entry(name, found, is_new=True)).channels
    latest = [seen[-1] if seen else None for seen in values[: len(channels)]]
    return Trial(name, found, channels, latest, period_s)


def _step(quantity: Quantity, values: set[float]) -> float | None:
    """Return the coarsest step of a display that all values are multiples of."""
    if not values or (quantity is Quantity.ENERGY and len(values) < 2):
        return None
    for step in _STEPS[quantity]:
        if all(abs(value / step - round(value / step)) < 1e-3 for value in values):
            return step
    return None


def save_entry(name: str, table: dict[str, Any]) -> Path:
    """Save an entry in the file of sensors, in place of one of that name; return the file.

    A new entry is appended, so that comments stay.

    Raises:
        UserError: The file cannot be read, or a meter of that name is at another address.
        StoreError: It cannot be written.
    """
    path = sensors_file()
    tables = read_tables()
    saved = tables.get(name, {})
    is_same = isinstance(saved, dict) and all(
        saved.get(key) == table.get(key) for key in ("kind", "address", "command")
    )
    if name in tables and not is_same:
        raise UserError(
            f"{path} has another meter named {name}", hint="choose another name with --name"
        )
    with writing(path):
        make_private_directories(path.parent)
        if name in tables:
            data = tomli_w.dumps(tables | {name: table}).encode()
        else:
            before = path.read_bytes().rstrip() + b"\n\n" if tables else b""
            data = before + tomli_w.dumps({name: table}).encode()
        write_whole(path, data, private=True)
    return path


def default_name(kind: str, table: Mapping[str, Any]) -> str:
    """Return a name for a meter: of its host, or of its kind."""
    address = str(table.get("address", ""))
    host = urlsplit(address if "://" in address else f"//{address}").hostname or ""
    is_number = host.replace(".", "").replace(":", "").isdigit()
    return host.partition(".")[0] if host and not is_number else kind
