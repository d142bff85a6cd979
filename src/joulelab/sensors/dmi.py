"""Memory modules, read from the SMBIOS tables.

Structures are those of DMTF DSP0134 (SMBIOS reference specification), type 17, "Memory Device".
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from joulelab.sensors.host import system_root

_MEMORY_DEVICE = 17
_END_OF_TABLE = 127
_TYPES = {
    0x0F: "SDRAM", 0x12: "DDR", 0x13: "DDR2", 0x18: "DDR3", 0x1A: "DDR4", 0x1B: "LPDDR",
    0x1C: "LPDDR2", 0x1D: "LPDDR3", 0x1E: "LPDDR4", 0x20: "HBM", 0x21: "HBM2", 0x22: "DDR5",
    0x23: "LPDDR5", 0x24: "HBM3",
}  # fmt: skip
"""Offset 0x12 of a memory device (DSP0134, table "Memory Device: Type")."""


@dataclass(frozen=True, slots=True)
class Dimm:
    """One populated memory slot. ``None`` where the firmware does not tell.

    Attributes:
        size_bytes: Capacity.
        type: As ``"DDR4"``.
        transfers_hz: Transfers a second as configured: 3200e6 for DDR4-3200. The clock of a
            double-data-rate memory is half of it.
        voltage_v: Supply voltage as configured.
        slot: The slot's name.
    """

    size_bytes: int
    type: str | None = None
    transfers_hz: float | None = None
    voltage_v: float | None = None
    slot: str = ""


def read_dimms(root: Path | None = None) -> list[Dimm]:
    """The populated memory slots of this machine.

    Args:
        root: Where ``/sys`` is; ``$JOULELAB_SYSFS`` or ``/sys`` by default.

    Raises:
        OSError: The table is missing, or is refused (only root may read it).
    """
    path = (root or system_root()) / "firmware" / "dmi" / "tables" / "DMI"
    return parse_dimms(path.read_bytes())


def parse_dimms(table: bytes) -> list[Dimm]:
    """The populated memory slots in an SMBIOS structure table.

    A table that is cut short gives the modules before the cut; never raises on malformed bytes.
    """
    dimms = []
    start = 0
    while start + 4 <= len(table):
        kind, length = table[start], table[start + 1]
        end = start + length
        if length < 4 or end > len(table):
            break
        after = table.find(b"\0\0", end)
        if after < 0:
            after = len(table)
        if kind == _MEMORY_DEVICE:
            dimm = _memory_device(table[start:end], table[end:after].split(b"\0"))
            if dimm is not None:
                dimms.append(dimm)
        if kind == _END_OF_TABLE:
            break
        start = after + 2
    return dimms


def _memory_device(fields: bytes, strings: list[bytes]) -> Dimm | None:
    size_bytes = _size_bytes(fields)
    if not size_bytes:
        return None
    kind = fields[0x12] if len(fields) > 0x12 else 0
    speed = _word(fields, 0x20) or _word(fields, 0x15)
    millivolts = _word(fields, 0x26)
    name = fields[0x10] if len(fields) > 0x10 else 0
    slot = strings[name - 1].decode("ascii", "replace") if 0 < name <= len(strings) else ""
    return Dimm(
        size_bytes=size_bytes,
        type=_TYPES.get(kind),
        transfers_hz=speed * 1e6 if speed and speed != 0xFFFF else None,
        voltage_v=millivolts / 1e3 if millivolts else None,
        slot=slot,
    )


def _size_bytes(fields: bytes) -> int | None:
    """Capacity; ``None`` for an empty slot or an unknown size."""
    size = _word(fields, 0x0C)
    if size in (None, 0, 0xFFFF):
        return None
    assert size is not None
    if size == 0x7FFF:
        if len(fields) < 0x20:
            return None
        return (int.from_bytes(fields[0x1C:0x20], "little") & 0x7FFFFFFF) * 2**20
    unit = 2**10 if size & 0x8000 else 2**20
    return (size & 0x7FFF) * unit


def _word(fields: bytes, offset: int) -> int | None:
    if len(fields) < offset + 2:
        return None
    return int.from_bytes(fields[offset : offset + 2], "little")
