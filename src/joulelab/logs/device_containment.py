"""Devices of a log that contain others, by their names: their energies must not be added."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from joulelab.errors import UserError
from joulelab.format import first_words
from joulelab.logs.columns import MOST_NAMES
from joulelab.logs.csv_table import Table

_TOTALS = {"total", "sum", "all", "overall", "psys", "aggregate"}
_PACKAGES = re.compile(r"package|pkg|cpu|processor|soc|vdd_?in", re.IGNORECASE)
_PARTS_OF_PACKAGES = re.compile(
    r"(?:cpu )?(?:core|uncore|pp0|pp1|ia|gt)|vdd_?+(?!in)", re.IGNORECASE
)
_MACHINES = {"system", "machine", "wall", "ac", "mains", "house", "chassis", "platform", "server"}
_PARTS_OF_MACHINES = {"cpu", "gpu", "dram", "ram", "memory", "package", "pkg", "soc", "dc", "disk"}
_ZONE = re.compile(r".*(intel-rapl(?:-mmio)?:[\d:]+)")


def check_parts(table: Table, names: Sequence[str]) -> None:
    """Raise an error if a device is the sum of others, or contains them.

    Devices that are named by identifiers may have names in another column.
    """
    check_names(table.path, names, "choose one with --gpu")
    columns = [table.cells(i) for i in range(len(table.names))]
    cells = next((one for one in columns if {*names} <= {*one}), None)
    for title, others in zip(table.names, columns, strict=True):
        pairs = {*zip(cells or (), others, strict=False)}
        if cells is not others and len(pairs) == len({*others}) == len({*(cells or ())}):
            labels = [label for name, label in pairs if name in names]
            hint = f"choose one with --device-column {title!r} and --gpu"
            check_names(table.path, labels, hint)


def check_names(path: Path, names: Sequence[str], hint: str) -> None:
    """Raise an error if names of devices say that one contains others."""
    total = [name for name in names if set(re.split(r"[\W_]+", name.lower())) & _TOTALS]
    parts = [name for name in names if _PARTS_OF_PACKAGES.match(name)]
    packages = [name for name in names if _PACKAGES.match(name) and name not in parts]
    packages.sort(key=lambda name: "package" not in name.lower())
    words = {name: {*re.findall("[a-z]+", name.lower())} for name in names}
    inner = [name for name in names if words[name] & _PARTS_OF_MACHINES]
    machines = [name for name in names if words[name] & _MACHINES and name not in inner]
    contains = (
        total
        or (packages if parts else [])
        or (machines if inner else [])
        or _zones_with_others(names)
    )
    if contains and set(contains) != set(names):
        raise UserError(
            f"{path}: device {contains[0]!r} may contain the others",
            why=f"they are {first_words(sorted(names), MOST_NAMES)}",
            hint=hint,
        )


def _zones_with_others(names: Sequence[str]) -> list[str]:
    """Return the zones of RAPL that contain others, as ``intel-rapl:0`` contains its ``:0:0``.

    ``intel-rapl-mmio`` has the same packages again (Linux, power capping framework).
    """
    zones = {name: match[1] for name in names if (match := _ZONE.match(name))}
    known = {*zones.values()}
    repeated = {zone for zone in known if "-mmio" in zone and zone.replace("-mmio", "") in known}
    contains = {zone for zone in known if any(one.startswith(f"{zone}:") for one in known)}
    return [name for name, zone in zones.items() if zone in repeated | contains]
