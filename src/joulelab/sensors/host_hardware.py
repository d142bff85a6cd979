"""The host's processors and memory modules: names, limits and thermal design power.

Memory modules are read from the SMBIOS tables, whose structures are those of DMTF DSP0134 (SMBIOS
reference specification), type 17, "Memory Device".
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import psutil

from joulelab.packaged import packaged_rows
from joulelab.sensors.interfaces import system_root

_NOISE = re.compile(
    r"\((?:r|tm|c)\)|[®™©]|@.*$|\bwith\b.*$|\bcpu\b|\bprocessor\b"
    r"|\b(?:\d+|dual|quad|six|eight|twelve|sixteen)-core\b|\b\d+(?:st|nd|rd|th) gen\b",
    re.IGNORECASE,
)
_CORES = re.compile(r"\b(\d+)-Core\b", re.IGNORECASE)
_MEMORY_DEVICE = 17
_END_OF_TABLE = 127
_TYPES = {
    0x0F: "SDRAM", 0x12: "DDR", 0x13: "DDR2", 0x18: "DDR3", 0x1A: "DDR4", 0x1B: "LPDDR",
    0x1C: "LPDDR2", 0x1D: "LPDDR3", 0x1E: "LPDDR4", 0x20: "HBM", 0x21: "HBM2", 0x22: "DDR5",
    0x23: "LPDDR5", 0x24: "HBM3",
}  # fmt: skip
"""Offset 0x12 of a memory device (DSP0134, table "Memory Device: Type")."""


@dataclass(frozen=True, slots=True)
class Processors:
    """The processors of this machine; ``threads`` are virtual CPUs in a virtual machine."""

    model: str | None
    vendor: str | None
    sockets: int | None
    threads: int
    virtual: bool


def parse_cpuinfo(text: str, threads: int) -> Processors:
    """Parse ``/proc/cpuinfo``.

    Example:
        >>> text = "processor: 0\\nvendor_id : AuthenticAMD\\nmodel name\\t: AMD EPYC 7763\\n"
        >>> parse_cpuinfo(text + "physical id\\t: 0\\nflags: fpu hypervisor\\n", 2)
        Processors(model='AMD EPYC 7763', vendor='AuthenticAMD', sockets=1, threads=2, virtual=True)
    """
    values: dict[str, list[str]] = {}
    for key, value in re.findall(r"^([\w ]+?)\s*:[ \t]*(.*)$", text, flags=re.MULTILINE):
        values.setdefault(key, []).append(value.strip())
    sockets = len(set(values.get("physical id", ())))
    flags = values.get("flags", [""])[0].split()
    return Processors(
        model=next(filter(None, values.get("model name", ())), None),
        vendor=next(filter(None, values.get("vendor_id", ())), None),
        sockets=sockets or None,
        threads=threads,
        virtual="hypervisor" in flags,
    )


def processors() -> Processors:
    """Identify the processors of this machine."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    return parse_cpuinfo(text, psutil.cpu_count(logical=True) or os.cpu_count() or 1)


def cpu_limit(root: Path | None = None) -> float | None:
    """Return how many CPUs this process's control group may use; ``None`` without a limit."""
    base = (root or system_root()) / "fs" / "cgroup"
    try:
        quota, period = (base / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (base / "cpu" / "cpu.cfs_quota_us").read_text().strip()
            period = (base / "cpu" / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    if not (quota.isdigit() and period.isdigit() and int(period) > 0):
        return None
    return int(quota) / int(period)


def normalise(model: str) -> str:
    """Strip a processor's name of trademarks, clock rate, core count and generation.

    Example:
        >>> normalise("Intel(R) Xeon(R) CPU E5-2680 v4 @ 2.40GHz")
        'intel xeon e5-2680 v4'
        >>> normalise("12th Gen Intel(R) Core(TM) i5-12500")
        'intel core i5-12500'
        >>> normalise("AMD EPYC 7763 64-Core Processor")
        'amd epyc 7763'
    """
    return " ".join(_NOISE.sub(" ", model).lower().split())


def chip_tdp_w(model: str | None) -> float | None:
    """Look up the thermal design power of one chip, in watts.

    The name must equal one in the table after :func:`normalise`: a name that is merely close may
    belong to another chip.

    Example:
        >>> chip_tdp_w("Intel(R) Core(TM) i7-8700K CPU @ 3.70GHz")
        95.0
        >>> chip_tdp_w("Intel(R) Xeon(R) Processor") is None
        True
    """
    return _tdp_table().get(normalise(model)) if model else None


def chip_threads(model: str | None) -> int | None:
    """Return the hardware threads of one whole chip, if its name states them.

    AMD EPYC names include the number of cores, and all EPYC chips have two threads a core.

    Example:
        >>> chip_threads("AMD EPYC 7763 64-Core Processor")
        128
        >>> chip_threads("Intel(R) Xeon(R) Platinum 8259CL CPU @ 2.50GHz") is None
        True
    """
    if not model or "epyc" not in model.lower():
        return None
    found = _CORES.search(model)
    return 2 * int(found[1]) if found else None


@cache
def _tdp_table() -> dict[str, float]:
    rows = packaged_rows("joulelab.sensors", "data/cpu_tdp.csv")
    return {row["model"]: float(row["tdp_w"]) for row in rows}


@dataclass(frozen=True, slots=True)
class Dimm:
    """One populated memory slot, as configured. ``None`` where the firmware reports no value.

    For example ``type`` is ``"DDR4"`` and ``transfers_hz`` 3200e6 for DDR4-3200; the clock of a
    double-data-rate memory is half of that.
    """

    size_bytes: int
    type: str | None = None
    transfers_hz: float | None = None
    voltage_v: float | None = None
    slot: str = ""


def known_dimms(root: Path | None = None) -> tuple[list[Dimm], str]:
    """Return the memory modules, and why they are unknown if there are none.

    A table that lists less memory than the operating system reports does not describe this
    machine's memory (seen in some virtual machines) and is not used.
    """
    try:
        dimms = read_dimms(root)
    except PermissionError:
        return [], "memory modules unknown: only root may read /sys/firmware/dmi/tables/DMI"
    except OSError:
        return [], "memory modules unknown: no SMBIOS table (usual in virtual machines)"
    if sum(dimm.size_bytes for dimm in dimms) < psutil.virtual_memory().total:
        return [], "memory modules unknown: the SMBIOS table lists less memory than there is"
    return dimms, ""


def read_dimms(root: Path | None = None) -> list[Dimm]:
    """Read the populated memory slots. Raise ``OSError`` if the table is missing or refused."""
    path = (root or system_root()) / "firmware" / "dmi" / "tables" / "DMI"
    return parse_dimms(path.read_bytes())


def parse_dimms(table: bytes) -> list[Dimm]:
    """Parse the populated memory slots of an SMBIOS structure table.

    A table that is cut short gives the modules before the cut; malformed bytes never raise.
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
    if size is None or size in (0, 0xFFFF):
        return None
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
