"""Columns of logs: which are power, energy, telemetry and GPU, and in which units.

To read another tool's columns, add their names to :data:`NVIDIA_POWER` or :data:`TELEMETRY` and
their units to :data:`UNITS`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from joulelab.arrays import Floats
from joulelab.errors import UserError, nearest
from joulelab.format import first_words
from joulelab.logs.cells import NUMBER_WITH_UNIT, NumberReader, find_total, is_absent
from joulelab.logs.csv_table import Converter, Table
from joulelab.sensors.sensor import Quantity

Units = Mapping[str, float]  # Lower case, to the SI unit; "" is that of plain numbers.

TIME_UNITS: Units = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9, "min": 60.0, "h": 3600.0}
TIME_WORDS = {"time", "timestamp", "elapsed", "unix", "epoch", "datetime", "monotonic"}
_PERCENT: Units = {"": 1.0, "%": 1.0, "pct": 1.0, "percent": 1.0}
_HERTZ: Units = {"hz": 1.0, "khz": 1e3, "mhz": 1e6, "ghz": 1e9}
UNITS: Mapping[Quantity, Units] = {
    # mW and mJ are milli: no log of a computer is in megawatts. Meters of houses count in MWh.
    Quantity.POWER: {"w": 1.0, "mw": 1e-3, "uw": 1e-6, "kw": 1e3},
    Quantity.ENERGY: {
        "j": 1.0, "mj": 1e-3, "uj": 1e-6, "kj": 1e3,
        "mwh": 3.6, "wh": 3600.0, "kwh": 3.6e6, "MWh": 3.6e9,
    },
    Quantity.UTILIZATION: _PERCENT,
    Quantity.MEMORY_UTILIZATION: _PERCENT,
    Quantity.MEMORY_USED: {
        "b": 1.0, "bytes": 1.0, "kib": 2.0**10, "mib": 2.0**20, "gib": 2.0**30,
        "kb": 1e3, "mb": 1e6, "gb": 1e9,
    },
    Quantity.TEMPERATURE: {"": 1.0, "c": 1.0, "celsius": 1.0},
    Quantity.SM_CLOCK: _HERTZ,
    Quantity.MEMORY_CLOCK: _HERTZ,
}  # fmt: skip
"""Columns of bytes or hertz without a unit are not read."""
UNIT_NAMES = {
    "watt": "w", "watts": "w", "milliwatts": "mw", "joule": "j", "joules": "j",
    "millijoules": "mj", "seconds": "s", "second": "s", "sec": "s", "secs": "s",
    "watthours": "wh", "kilowatthours": "kwh", "kilowatt": "kw", "kilowatts": "kw",
    "kwatt": "kw", "kwatts": "kw", "kwhs": "kwh",
    "milliwatt": "mw", "microwatts": "uw", "microjoules": "uj", "kilojoules": "kj",
    "milliseconds": "ms", "millis": "ms", "microseconds": "us", "nanoseconds": "ns",
    "minutes": "min", "mins": "min", "hours": "h", "hrs": "h",
    "µs": "us", "µw": "uw", "µj": "uj", "°c": "c",
}  # fmt: skip
"""Other names of units."""

NVIDIA_POWER: Mapping[str, str] = {
    "power_draw_instant": "nvml.power_instant",
    "power_draw_average": "nvml.power_average",
    "power_draw": "nvml.power_usage",
    "power_instant": "nvml.power_instant",
    "power_average": "nvml.power_average",
    "power_usage": "nvml.power_usage",
}
"""Sources of the power fields of nvidia-smi. They show one board; the first with values is used."""
TELEMETRY: Mapping[Quantity, Sequence[str]] = {
    Quantity.UTILIZATION: ("utilization_gpu", "gpu_utilization", "gpu_util", "cpu_utilization"),
    Quantity.MEMORY_UTILIZATION: ("utilization_memory", "memory_utilization"),
    Quantity.MEMORY_USED: ("memory_used",),
    Quantity.TEMPERATURE: ("temperature_gpu", "gpu_temperature", "temperature"),
    Quantity.SM_CLOCK: ("clocks_sm", "clocks_current_sm", "sm_clock"),
    Quantity.MEMORY_CLOCK: ("clocks_mem", "clocks_current_memory", "memory_clock"),
}
"""Columns of telemetry by their names without units, see :func:`parse_name`. Columns of power and
energy are recognised by their words and units."""
_TELEMETRY = {name: quantity for quantity, names in TELEMETRY.items() for name in names}
_WORDS = {
    Quantity.POWER: {"power", "watt", "watts"},
    Quantity.ENERGY: {"energy", "joule", "joules"},
}
NOT_READINGS = {
    "limit", "cap", "max", "min", "state", "management", "reasons", "factor", "apparent",
    "reactive", "percent", "pct", "ratio", "efficiency", "mode", "status", "profile", "voltage",
    "count", "cost", "price", "va", "kva", "var", "kvar", "volt", "volts", "amp", "amps", "util",
    "utilization", "percentage", "peak", "budget", "tdp", "target", "rated", "nominal", "capacity",
    "threshold", "emissions", "carbon", "co2", "flops", "tflops", "token", "tokens", "on", "off",
    "label",
}  # fmt: skip
"""Words in names of columns that are not readings of power or energy."""
_OTHER_UNITS = {
    "%", "pct", "percent", "v", "mv", "ma", "va", "kva", "var", "kvar", "rpm", "dbm", "dbw", "hp",
    "btu", "btu/h", "btu/hr", "dw", "cw", "dj", "cj", "gj",
}  # fmt: skip
"""Units of columns that are neither power nor energy, whatever their names."""
OF_ALL = {"total", "sum", "overall", "combined", "aggregate", "node", "host", "server", "system"}
"""Words in names of columns that contain others."""
UNIT_COLUMNS = {"unit", "units", "uom", "unit_of_measurement"}
_INTERVAL_WORDS = {"interval", "delta", "diff", "increment", "sample", "period"}
_COUNTER_WORDS = {"total", "counter", "cumulative", "accumulated", "accumulator", "lifetime"}
_BRACKET = re.compile(r"[\[(]\s*([^\])]*?)\s*[\])]\s*$")
_CAPITALS = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z\d])(?=[A-Z][a-z]{2})")
_ENDING_UNIT = re.compile(
    r"(?:^|(?<=power)|(?<=energy)|(?<=draw)|(?<=usage))[cdkmuµμ]?(?:Wh|W|J)$|^MWh$"
)
_PER_INTERVAL = re.compile(
    r"[ _]*(?:/|\bper[ _])\s*(?:interval|sample|row|period|step)\b|_per_(?:interval|sample)\b",
    re.IGNORECASE,
)
PLAIN_POWER_W = (1.0, 1000.0)  # Typical values outside may be in kilowatts or milliwatts.
MOST_NAMES = 12  # Of columns or devices, in a message.
MOST_PRESENT = 0.9  # A view of power with this share of the values of the fullest one is as good.


@dataclass(frozen=True, slots=True, kw_only=True)
class LogOptions:
    """What the user states about a log; the rest is recognised."""

    time_column: str | None = None  # Name, or number from 1.
    time_unit: str | None = None  # s, ms, us or ns
    timezone: str | None = None  # Of dates without one. None: this machine's.
    power_columns: Sequence[str] = ()  # Names or numbers.
    power_unit: str | None = None  # For all power columns: W, mW, uW or kW.
    energy_columns: Sequence[str] = ()  # Names or numbers of energy counters.
    energy_unit: str | None = None  # J, mJ, uJ, kJ, Wh or kWh
    energy_kind: str | None = None  # counter, or interval: energy since the previous row.
    hold: bool = False  # Each power holds until the next row.
    device_column: str | None = None  # Name or number of the column that distinguishes devices.
    devices: int | None = None  # Number of devices that take turns if no column names them.
    gpu: str | None = None  # Read only the rows of this GPU, named as in the log.
    component: str | None = None  # To assign if the log does not name one, for example gpu:0.
    window_s: float | None = None  # Averaging window up to each timestamp. None: the known one.
    gain_uncertainty: float | None = None  # Relative (k = 1). None: ``GAIN_UNCERTAINTY``.
    interval_s: float | None = None  # Time between two readings of a log without times.


class Name(NamedTuple):
    """A column's name in one spelling, without its unit, and the unit or an empty text."""

    stem: str
    unit: str

    @property
    def words(self) -> set[str]:
        """The words of the stem."""
        return set(self.stem.split("_"))


@dataclass(frozen=True, slots=True)
class Column:
    """A column of readings; ``converter`` is ``None`` for plain numbers in the quantity's unit."""

    position: int
    name: str
    stem: str
    quantity: Quantity
    converter: Converter | None
    source: str
    note: str = ""
    has_unit: bool = True  # Otherwise it is assumed.
    kind: str | None = None  # Of energy: counter or interval, as far as its name says.


def parse_name(text: str) -> Name:
    """Separate a column's name from its unit.

    Example:
        >>> parse_name("power.draw.instant [mW]"), parse_name("energy_kWh"), parse_name("Watts")
        (Name(stem='power_draw_instant', unit='mw'), Name(stem='energy', unit='kwh'),
         Name(stem='watts', unit='w'))
    """
    text = _PER_INTERVAL.sub("", text)
    bracket = _BRACKET.search(text)
    name = text[: bracket.start()] if bracket else text
    parts = [part for word in re.split(r"[\W_]+", name) for part in _parts(word)]
    words = [part.lower() for part in parts]
    unit = _unit(bracket.group(1), words) if bracket else ""
    if not unit and words:
        unit = _unit(parts[-1], words[:-1])
        if unit and len(words) > 1 and not any(words[-1] in known for known in _WORDS.values()):
            words = words[:-1]
    return Name("_".join(words), unit)


def _parts(word: str) -> list[str]:
    """Split a word at its capitals, but no unit, as ``kWh`` or that of ``powermW``."""
    unit = _ENDING_UNIT.search(word)
    end = unit.start() if unit else len(word)
    return [part for part in (*_CAPITALS.split(word[:end]), word[end:]) if part]


def _unit(text: str, words: Sequence[str]) -> str:
    """Return the usual name of a unit of the column with these words; an empty text if none."""
    unit = _usual(text)
    if unit in ("min", "h"):
        # Otherwise "min" is the least, and "h" anything.
        is_time = {*words} & {"t", *TIME_WORDS} if words else text.lower() != unit
        return unit if is_time else ""
    if unit in TIME_UNITS or any(unit in UNITS[quantity] for quantity in _WORDS):
        return unit
    # Phases of a power meter are called a, b and c too.
    quantity = _TELEMETRY.get("_".join(words))
    return unit if quantity and unit in UNITS[quantity] else ""


def choose_values(table: Table, options: LogOptions) -> list[Column]:
    """Choose the columns of power and energy; raise an error if several may be meant."""
    if options.power_columns or options.energy_columns:
        named = [(name, Quantity.POWER) for name in options.power_columns]
        named += [(name, Quantity.ENERGY) for name in options.energy_columns]
        return [_value(table, find(table, name), kind, options) for name, kind in named]
    found = _recognise(table)
    stems = {i: parse_name(table.names[i]).stem for i in found}
    views = [i for field in NVIDIA_POWER for i in found if stems[i] == field]
    if len(found) > 1 and len(views) == len(found):
        # Boards of several models may not all have each of them.
        present = {i: sum(not is_absent(cell) for cell in table.cells(i)) for i in views}
        used = next(i for i in views if present[i] >= MOST_PRESENT * max(present.values()))
        found = {used: found[used]}
    if len(found) == 1:
        return [_value(table, *found.popitem(), options)]
    columns = [_value(table, i, kind, options) for i, kind in found.items()]
    read = [one.converter or table.numbers(one.position) for one in columns]
    values = [convert(table.cells(i)) for i, convert in zip(found, read, strict=True)]
    total = find_total(values) if {*found.values()} == {Quantity.POWER} else None
    is_named_so = total and {*columns[total.position].stem.split("_")} & OF_ALL
    if total and total.scale == 1 and (total.is_sure or is_named_so):
        note = f"left out {columns.pop(total.position).name!r}, the sum of the others"
        notes = "; ".join(filter(None, (columns[0].note, note)))
        return [replace(columns[0], note=notes), *columns[1:]]
    candidates = [
        f"{name!r}" + (f" (column {i + 1})" if table.names.count(name) > 1 else "")
        for i, name in enumerate(table.names)
        if i in found or not found
    ]
    raise UserError(
        f"{table.path}: {'several columns' if found else 'no column'} may be power or energy",
        why=f"{'candidates' if found else 'its columns'} are {first_words(candidates, MOST_NAMES)}",
        hint="name one with --power-column or --energy-column, or several to add them up",
    )


def choose_telemetry(table: Table) -> list[Column]:
    """Choose the columns of telemetry, and the energy counter if there is exactly one."""
    found: list[Column] = []
    for i, text in enumerate(table.names):
        name = parse_name(text)
        quantity = _TELEMETRY.get(name.stem)
        cell_unit = _cell_unit(table.cells(i))
        if quantity is None or cell_unit is None:
            continue
        units, unit = UNITS[quantity], cell_unit or name.unit
        if unit in units:
            convert = _converter(table, i, units, unit, bool(cell_unit))
            found.append(Column(i, text, name.stem, quantity, convert, f"log.{name.stem}"))
    counters = [i for i, kind in _recognise(table).items() if kind is Quantity.ENERGY]
    if len(counters) == 1:
        found.append(_value(table, counters[0], Quantity.ENERGY, LogOptions()))
    return found


def _recognise(table: Table) -> dict[int, Quantity]:
    """Find the columns that are power or energy by their words and units."""
    found: dict[int, Quantity] = {}
    for i, text in enumerate(table.names):
        name = parse_name(text) if table.header else Name("", "")
        cell_unit = _cell_unit(table.cells(i)) or ""
        bracket = _BRACKET.search(text)
        units = {cell_unit, bracket[1].lower() if bracket else ""}
        units.add(name.stem.rpartition("_")[2])
        if name.words & NOT_READINGS or units & _OTHER_UNITS:
            continue
        for quantity, words in _WORDS.items():
            is_named_so = not name.unit and name.words & words
            if name.unit in UNITS[quantity] or is_named_so or cell_unit in UNITS[quantity]:
                found[i] = quantity
                break
    return found


def _value(table: Table, position: int, quantity: Quantity, options: LogOptions) -> Column:
    """Describe a column of power or energy."""
    units = UNITS[quantity]
    is_energy = quantity is Quantity.ENERGY
    kind, stated = ("energy", options.energy_unit) if is_energy else ("power", options.power_unit)
    text, cells = table.names[position], table.cells(position)
    name = parse_name(text) if table.header else Name(f"column_{text}", "")
    cell_unit = _cell_unit(cells) or ""
    unit = check_unit(stated, units, kind) if stated else cell_unit or name.unit
    unit = unit or _unit_column(table, units)
    if unit and unit not in units:
        raise UserError(
            f"{table.path}: column {text!r} is in {unit}, which is not a unit of {kind}",
            hint=f"state its unit with --{kind}-unit",
        )
    note, has_unit = "", bool(unit)
    source = NVIDIA_POWER.get(name.stem, f"log.{name.stem}")
    if not unit:
        unit, si_unit = ("j", "joules") if is_energy else ("w", "watts")
        note = f"{text!r} has no unit; assuming {si_unit}"
    convert = _converter(table, position, units, unit, bool(cell_unit))
    energy_kind = options.energy_kind or _energy_kind(text, name) if is_energy else None
    return Column(position, text, name.stem, quantity, convert, source, note, has_unit, energy_kind)


def _unit_column(table: Table, units: Units) -> str:
    """Return the unit that a column of its own states; an empty text if there is none."""
    known = _OTHER_UNITS.union(*UNITS.values())
    for i, text in enumerate(table.names if table.header else ()):
        found = {_usual(cell) for cell in table.cells(i) if not is_absent(cell)}
        if parse_name(text).stem not in UNIT_COLUMNS or not found & known:
            continue
        if len(found) > 1 or not found <= units.keys():
            raise UserError(
                f"{table.path}: rows are in {', '.join(sorted(found))}, as column {text!r} says",
                hint="leave only rows of one unit in the file",
            )
        return found.pop()
    return ""


def _energy_kind(text: str, name: Name) -> str | None:
    """Return whether a column of energy is a counter or per interval, if its name says so."""
    if _PER_INTERVAL.search(text) or name.words & _INTERVAL_WORDS:
        return "interval"
    return "counter" if name.words & _COUNTER_WORDS else None


def _cell_unit(cells: Sequence[str]) -> str | None:
    """Return the unit after the first number, as in ``123.45 W``; ``None`` if it is no number."""
    cell = next((cell for cell in cells if not is_absent(cell)), "")
    match = NUMBER_WITH_UNIT.fullmatch(cell)
    if match is None:
        return None
    unit = _usual(match.group(2))
    return unit if unit in TIME_UNITS or any(unit in units for units in UNITS.values()) else ""


def _usual(unit: str) -> str:
    if unit.strip() == "MWh":
        return "MWh"
    unit = unit.strip().lower().replace("μ", "µ")
    return UNIT_NAMES.get(unit, unit)


def check_unit(text: str, units: Units, kind: str) -> str:
    """Return a unit that the user stated, as in the table, or raise a :class:`UserError`."""
    unit = _usual(text)
    if unit not in units:
        raise UserError(f"unknown unit of {kind} {text!r}", hint=f"choose from {', '.join(units)}")
    return unit


def scaled(table: Table, position: int, factor: float) -> Converter:
    """Create a converter that multiplies plain numbers of a column."""
    read = table.numbers(position)
    return read if factor == 1.0 else lambda cells: read(cells) * factor


def _converter(table: Table, position: int, units: Units, unit: str, in_cells: bool) -> Converter:
    """Create a converter of numbers, each with its unit if ``in_cells``, otherwise in ``unit``."""
    if not in_cells:
        return scaled(table, position, units[unit])
    sample = [match[1] for cell in table.cells(position) if (match := NUMBER_WITH_UNIT.match(cell))]
    read = NumberReader(f"{table.path}: column {table.names[position]!r}", table.mark, sample)

    def convert_one(cell: str) -> float:
        match = NUMBER_WITH_UNIT.fullmatch(cell.strip())
        if match is None:
            return math.nan
        factor = units.get(_usual(match.group(2)) or unit, math.nan)
        return read.one(match.group(1), sample) * factor

    def convert(cells: Sequence[str]) -> Floats:
        first = cells[0].strip().rpartition(" ")[2] if cells else ""
        factor = units.get(_usual(first))
        if factor is not None and read.mark != ",":
            # Nearly always all cells have one unit.
            try:
                bare = [cell.rstrip().removesuffix(first) for cell in cells]
                return np.array(bare, dtype=np.float64) * factor
            except ValueError:
                pass
        return np.fromiter(map(convert_one, cells), dtype=np.float64, count=len(cells))

    return convert


def find(table: Table, name: str) -> int:
    """Find a column by its name, in this or another spelling, or by its number from 1."""
    exact = [i for i, one in enumerate(table.names) if one == name]
    if len(exact) == 1:
        return exact[0]
    if exact:
        numbers = ", ".join(str(i + 1) for i in exact)
        raise UserError(
            f"{table.path} has {len(exact)} columns {name!r}", hint=f"name one by number: {numbers}"
        )
    wanted, known = parse_name(name), [parse_name(text) for text in table.names]
    same = [i for i, one in enumerate(known) if one == wanted]
    similar = [i for i, one in enumerate(known) if one.stem == wanted.stem]
    for found in (same, similar):
        if len(found) == 1:
            return found[0]
    if name.isdigit() and 1 <= int(name) <= len(table.names):
        return int(name) - 1
    raise UserError(f"{table.path} has no column {name!r}", hint=nearest(name, table.names))
