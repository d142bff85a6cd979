"""Devices of Linux's hwmon and industrial I/O drivers: where they are, and what stays of them.

A driver's directory is named by a number that changes between boots and when a driver is loaded
again. A device is therefore found by the driver's ``name``, and recognised by its own address.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from joulelab.sensors.sensor import Absence, Channel, Provenance, Quantity
from joulelab.sensors.sysfs_files import read_number_or_none, read_text

MICRO, MILLI = 1e-6, 1e-3
ASSUMED_PERIOD_S = 0.01
PLACES = (
    "class/hwmon/hwmon*",
    "class/drm/card*/device/hwmon/hwmon*",
    "bus/i2c/drivers/ina3221*/*/hwmon/hwmon*",
    "bus/i2c/drivers/ina3221*/*/iio:device*",
)
"""Each device is listed in the first; a container may show only some of them."""
PREFIXES = ("", "device/", "../../")
"""Older drivers keep their files with the device that the directory belongs to."""
_ADDRESS = re.compile(
    r"[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]|\d+-00[0-9a-f]{2}|ACPI000D:[0-9a-f]+"
)
"""PCI, I2C and ACPI addresses."""


@dataclass(frozen=True, slots=True)
class Device:
    """A directory of a driver; ``identity`` stays the same when the directory's number changes."""

    driver: str
    identity: str
    path: Path

    def find(self, name: str) -> str | None:
        """Return a file's path from the directory; ``None`` if there is no such file."""
        files = (f"{prefix}{name}" for prefix in PREFIXES)
        return next((file for file in files if os.path.lexists(self.path / file)), None)

    def text(self, name: str) -> str:
        """Read a file; empty if that is not possible."""
        file = self.find(name)
        try:
            return read_text(self.path / file) if file else ""
        except OSError:
            return ""

    def number(self, name: str) -> int | None:
        """Read a non-negative integer; ``None`` if that is not possible."""
        file = self.find(name)
        return read_number_or_none(self.path / file) if file else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Meter:
    """A channel, and where its value is.

    Attributes:
        files: In the device's directory; the value is their product times ``scale``.
        needs_power: 0 is no value: whatever is switched on draws more.
    """

    channel: Channel
    device: Device
    files: tuple[str, ...]
    scale: float
    needs_power: bool = False


Found = tuple[list[Meter], list[Absence]]
"""What a driver measures, and what it could and does not."""


def list_devices(root: Path, drivers: Iterable[str]) -> list[Device]:
    """List the devices of some drivers in the order of their addresses.

    Args:
        root: Where ``/sys`` is.
        drivers: What the file ``name`` says.
    """
    known: list[Device] = []
    for path in (path for place in PLACES for path in sorted(root.glob(place))):
        driver, address = _driver(path), _address(root, path)
        listed = {one.identity for one in known if one.path.name == path.name}
        is_listed = "" in listed or address in listed or (listed and not address)
        if driver in drivers and not is_listed:
            known.append(Device(driver, address, path))
    known.sort(key=lambda one: (one.identity, _number(one.path)))
    alone = [one.driver for one in known]
    return [
        replace(one, identity=one.identity or _self_description(one) or one.path.name)
        if alone.count(one.driver) > 1
        else one
        for one in known
    ]


def _driver(path: Path) -> str:
    if path.name.startswith("iio:"):
        return path.parents[1].name
    return Device("", "", path).text("name")


def _address(root: Path, path: Path) -> str:
    """Return the address of a directory's device; empty if it is not shown."""
    within = str(root.resolve())
    places = (str(place.resolve()).removeprefix(within) for place in (path / "device", path))
    for text in (*places, Device("", "", path).text("uevent")):
        if found := _ADDRESS.findall(text):
            return str(found[-1])
    return ""


def _self_description(device: Device) -> str:
    about = (device.text(name) for name in ("unique_id", "power1_oem_info", "in1_label"))
    return next(filter(None, about), "")


def _number(path: Path) -> int:
    return int(re.sub(r"\D", "", path.name) or 0)


def polled_channel(
    component: str, source: str, quantity: Quantity = Quantity.POWER, **fields: Any
) -> Channel:
    """Describe a file that is polled; its update period is observed later."""
    known = {"update_period_s": ASSUMED_PERIOD_S, "polled": True, "resolution": 1e-6, **fields}
    return Channel(
        component=component,
        quantity=quantity,
        source=source,
        provenance=Provenance.MEASURED,
        **known,
    )
