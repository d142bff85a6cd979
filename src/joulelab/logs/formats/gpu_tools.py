"""Logs of GPU tools other than nvidia-smi: ``dcgmi dmon``, amd-smi, rocm-smi, ``intel_gpu_top -J``.

DCGM's field 155 is NVML's power and field 156 its counter in mJ (DCGM API reference, field
identifiers). AMD's ``socket_power`` and ``total_energy_consumption`` are in the units that they
state (``amd-smi metric --help``).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

from joulelab.logs.formats.json_text import json_objects
from joulelab.logs.formats.log_text import LogText
from joulelab.logs.formats.meters import Format, Reading, number
from joulelab.logs.series import Kind, Meter

_DCGM_HEADER = re.compile(r"#\s*Entity\s+(.*)")
_DCGM_ROW = re.compile(r"\s*GPU\s+(\d+)\s+(.*)")
_DCGM_COLUMNS = {
    "POWER": ("nvml.power_usage", Kind.POWER, 1.0),
    "TOTEC": ("nvml.energy_counter", Kind.COUNTER, 1e-3),
}
_AMD_FIELDS = {
    "socket_power": Kind.POWER,
    "current_socket_power": Kind.POWER,
    "average_socket_power": Kind.POWER,
    "power_usage": Kind.POWER,
    "total_energy_consumption": Kind.COUNTER,
}
_AMD_POWERS = tuple(name for name, kind in _AMD_FIELDS.items() if kind is Kind.POWER)
_AMD_TEXT = re.compile(r"\s+(?:CURRENT_|AVERAGE_)?SOCKET_POWER: ")
_UNITS = {"W": 1.0, "mW": 1e-3, "uW": 1e-6, "J": 1.0, "kJ": 1e3, "mJ": 1e-3, "uJ": 1e-6}
_MONITOR_HEADER = re.compile(r"\s*(?:TIMESTAMP\s+)?GPU\s+(?:XCP\s+)?POWER\b")
_MONITOR_ROW = re.compile(r"\s*(\d+)\s+(?:(\d+)\s+)?(?:([\d.]+) W|N/A)(?:\s|$)")
_ROCM_POWER = re.compile(r"(?:Average|Current Socket) Graphics Package Power ?\(W\)")
_ROCM_TEXT = re.compile(rf"GPU\[(\d+)\]\s*:\s*({_ROCM_POWER.pattern}):\s*(\S+)")
# Of the table, up to the clocks. Its second power is the limit.
_ROCM_ROW = re.compile(r"(\d+)\s(?:(?!\d+Mhz).)*?\s([\d.]+)W\s.*Mhz", re.IGNORECASE)


def _read_dcgmi(log: LogText) -> Iterator[Reading]:
    """Read ``dcgmi dmon -e 155,156``; the columns are repeated now and then."""
    columns: list[str] = []
    short = 0
    for text, stamp in log.lines():
        if match := _DCGM_HEADER.search(text):
            columns = match[1].split()
        elif match := _DCGM_ROW.fullmatch(text):
            cells = match[2].split()
            if len(cells) < len(columns):
                short += 1
                continue
            for name, cell in zip(columns, cells, strict=False):
                if name in _DCGM_COLUMNS:
                    source, kind, factor = _DCGM_COLUMNS[name]
                    meter = Meter(f"gpu:{match[1]}", name, source, kind)
                    yield Reading(stamp, meter, number(cell) * factor)
    log.skipped(short, "with too few columns")


def _read_amd_smi(log: LogText) -> Iterator[Reading]:
    """Read ``amd-smi metric --json`` or ``monitor --json``, one object for each GPU and poll."""
    for stamp, found in json_objects(log):
        for one in found.get("gpu_data", [found]):
            gpu = str(one.get("gpu", ""))
            time = one.get("timestamp", found.get("timestamp"))
            for name, value in _fields(one):
                yield Reading(stamp if time is None else str(time), _amd(gpu, name), _si(value))


def _read_amd_smi_text(log: LogText) -> Iterator[Reading]:
    """Read ``amd-smi metric`` as it is printed for people."""
    gpu, time = "", None
    for text, stamp in log.lines():
        key, _, value = (part.strip() for part in text.lower().partition(":"))
        if key == "gpu":
            gpu = value
        elif key == "timestamp":
            time = value
        elif key in _AMD_FIELDS:
            amount, _, unit = text.partition(":")[2].strip().partition(" ")
            yield Reading(time or stamp, _amd(gpu, key), _si({"value": amount, "unit": unit}))


def _amd(gpu: str, name: str) -> Meter:
    """Return the meter of a field of amd-smi."""
    overlaps = _AMD_POWERS[: _AMD_POWERS.index(name)] if name in _AMD_POWERS else ()
    return Meter(f"gpu:{gpu}", name, f"amd_smi.{name}", _AMD_FIELDS[name], overlaps)


def _fields(data: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Find the fields of power and energy; those in ``limit`` are settings."""
    for name, value in data.items():
        if name in _AMD_FIELDS:
            yield name, value
        elif isinstance(value, dict) and name != "limit":
            yield from _fields(value)


def _si(value: Any) -> float:
    """Convert a number, or a number with its unit, to W or J."""
    if isinstance(value, dict):
        factor = _UNITS.get(str(value.get("unit", "")), math.nan)
        return number(str(value.get("value"))) * factor
    return number(str(value))


def _read_intel_gpu_top(log: LogText) -> Iterator[Reading]:
    """Read ``intel_gpu_top -J``: means over periods, of a GPU and the package that contains it."""
    time_s = 0.0
    for _, found in json_objects(log):
        length_s = number(str(found.get("period", {}).get("duration"))) / 1e3
        time_s += length_s if length_s > 0 else 0.0
        for name, component in (("Package", "cpu:0"), ("GPU", "gpu:0"), ("value", "gpu:0")):
            if name in found.get("power", {}):
                overlaps = ("Package",) if name == "GPU" else ()
                source = f"intel_gpu_top.{name.lower()}"
                meter = Meter(component, name, source, Kind.MEAN_POWER, overlaps)
                yield Reading(time_s, meter, number(str(found["power"][name])), length_s)


def _read_amd_monitor(log: LogText) -> Iterator[Reading]:
    """Read ``amd-smi monitor -p -w 1``. The first partition of a GPU shows the power of all."""
    for text, stamp in log.lines():
        if (match := _MONITOR_ROW.match(text)) and (match[3] or match[2] in (None, "0")):
            meter = Meter(f"gpu:{match[1]}", "POWER", "amd_smi.power")
            yield Reading(stamp, meter, number(match[3] or ""))


def _read_rocm_smi_text(log: LogText) -> Iterator[Reading]:
    """Read ``rocm-smi --showpower``, or its table, as they are printed for people."""
    for text, stamp in log.lines():
        if match := _ROCM_TEXT.search(text) or _ROCM_ROW.match(text):
            *name, watts = match.groups()[1:]
            meter = Meter(f"gpu:{match[1]}", name[0] if name else "Power", "rocm_smi.package_power")
            yield Reading(stamp, meter, number(watts))


def _read_rocm_smi(log: LogText) -> Iterator[Reading]:
    """Read ``rocm-smi --showpower --json``, one object for each poll."""
    for stamp, found in json_objects(log):
        for card, values in found.items():
            if not re.fullmatch(r"card\d+", card):
                continue
            for name, value in values.items():
                if _ROCM_POWER.fullmatch(name):
                    meter = Meter(f"gpu:{card[4:]}", name, "rocm_smi.package_power")
                    yield Reading(stamp, meter, number(str(value)))


def _is_amd_smi(head: Sequence[str]) -> bool:
    text = "\n".join(head)
    return '"gpu"' in text and any(f'"{name}"' in text for name in _AMD_FIELDS)


FORMATS = (
    Format(
        "dcgmi dmon",
        lambda head: any(_DCGM_HEADER.search(line) for line in head),
        _read_dcgmi,
        timed="dcgmi dmon -e 155,156 | ts '%Y-%m-%d %H:%M:%.S'",
    ),
    Format(
        "amd-smi",
        _is_amd_smi,
        _read_amd_smi,
        timed="amd-smi metric --power --json -w 1",
    ),
    Format(
        "amd-smi metric",
        lambda head: any(_AMD_TEXT.match(line) for line in head),
        _read_amd_smi_text,
        timed="amd-smi metric --power --json -w 1",
    ),
    Format(
        "intel_gpu_top",
        lambda head: all(f'"{name}"' in "".join(head) for name in ("period", "rc6", "power")),
        _read_intel_gpu_top,
    ),
    Format(
        "amd-smi monitor",
        lambda head: any(_MONITOR_HEADER.match(line) for line in head),
        _read_amd_monitor,
        timed="amd-smi monitor -p -w 1",
    ),
    Format(
        "rocm-smi",
        lambda head: '"card' in "\n".join(head) and "Package Power" in "\n".join(head),
        _read_rocm_smi,
        timed="while sleep 1; do date; rocm-smi --showpower --json; done",
    ),
    Format(
        "rocm-smi",
        lambda head: any(_ROCM_TEXT.search(line) or "  PwrCap  " in line for line in head),
        _read_rocm_smi_text,
        timed="while sleep 1; do date; rocm-smi --showpower; done",
    ),
)
