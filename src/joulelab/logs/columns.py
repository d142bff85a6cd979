"""Which columns of a log are power, energy and GPU, and in which units."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from joulelab.errors import UserError, nearest
from joulelab.logs.csv_table import Converter, Floats, Table, is_absent, number, numbers
from joulelab.logs.times import TIME_UNITS

POWER_UNITS = {"w": 1.0, "mw": 1e-3, "uw": 1e-6, "kw": 1e3}
ENERGY_UNITS = {"j": 1.0, "mj": 1e-3, "uj": 1e-6, "kj": 1e3, "wh": 3600.0, "kwh": 3.6e6}
"""In lower case: mW and mJ are milli, as no log of a computer is in mega."""
WORDS = {
    "watt": "w", "watts": "w", "milliwatts": "mw", "joule": "j", "joules": "j",
    "millijoules": "mj", "seconds": "s", "second": "s", "sec": "s", "secs": "s",
    "milliseconds": "ms", "millis": "ms", "microseconds": "us", "nanoseconds": "ns",
    "µs": "us", "µw": "uw", "µj": "uj",
}  # fmt: skip
"""Units written out."""
_POWER_WORDS = {"power", "watt", "watts"}
_ENERGY_WORDS = {"energy", "joule", "joules"}
_NOT_READINGS = {"limit", "cap", "max", "min", "state", "management", "reasons"}
_GPU_COLUMNS = ("index", "gpu_index", "gpu_id", "gpu", "uuid", "gpu_uuid", "pci_bus_id", "serial")
_WITH_UNIT = re.compile(r"([-+]?[\d.,]+(?:[eE][-+]?\d+)?)\s*([A-Za-zµμ]*)")
SUSPICIOUS_POWER_W = 5000.0
"""Above this, one column's plain numbers may well be milliwatts."""
MOST_GPUS = 64

NVIDIA_SMI_FIELDS = {
    "power_draw_instant": "nvml.power_instant",
    "power_draw_average": "nvml.power_average",
    "power_draw": "nvml.power_usage",
    "power_instant": "nvml.power_instant",
    "power_average": "nvml.power_average",
    "power_usage": "nvml.power_usage",
}
"""Three views of one board's power, the one that is used first first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnChoice:
    """What the user says of a log's columns. Everything may be left to be recognised.

    Attributes:
        time_column: Name, or number from 1.
        time_unit: ``"s"``, ``"ms"``, ``"us"`` or ``"ns"``.
        timezone: Of dates without a zone; ``None`` is this machine's.
        power_columns: Names or numbers.
        power_unit: ``"W"``, ``"mW"``, ``"uW"`` or ``"kW"``, for all of them.
        energy_columns: Names or numbers of counters.
        energy_unit: ``"J"``, ``"mJ"``, ``"uJ"``, ``"kJ"``, ``"Wh"`` or ``"kWh"``.
        gpu: Only this GPU's rows, by what the log calls it.
    """

    time_column: str | None = None
    time_unit: str | None = None
    timezone: str | None = None
    power_columns: Sequence[str] = ()
    power_unit: str | None = None
    energy_columns: Sequence[str] = ()
    energy_unit: str | None = None
    gpu: str | None = None


@dataclass(frozen=True, slots=True)
class Name:
    """A column's name taken apart: ``power.draw [mW]`` is ``power_draw`` in ``mw``."""

    stem: str
    unit: str

    @property
    def words(self) -> set[str]:
        """The parts of the stem."""
        return set(self.stem.split("_"))


@dataclass(frozen=True, slots=True)
class ValueColumn:
    """A column of power or energy.

    Attributes:
        position: In the table.
        name: As the file has it.
        stem: Without unit, in one spelling.
        energy: A counter of energy; otherwise power.
        converter: To watts or joules; ``None`` for plain watts or joules.
        source: Channel's source.
        note: What was assumed.
    """

    position: int
    name: str
    stem: str
    energy: bool
    converter: Converter | None
    source: str
    note: str = ""


def take_apart(text: str) -> Name:
    """The stem and the unit of a column's name.

    Example:
        >>> take_apart("power.draw.instant [mW]"), take_apart("t_ns"), take_apart("Watts")
        (Name(stem='power_draw_instant', unit='mw'), Name(stem='t', unit='ns'),
         Name(stem='watts', unit='w'))
    """
    bracket = re.search(r"[\[(]\s*([^\])]*?)\s*[\])]\s*$", text)
    name = text[: bracket.start()] if bracket else text
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name.strip())
    words = [word for word in re.split(r"[\W_]+", name.lower()) if word]
    unit = _unit(bracket.group(1)) if bracket else ""
    if not unit and words:
        unit = _unit(words[-1])
        if unit and len(words) > 1 and words[-1] not in _POWER_WORDS | _ENERGY_WORDS:
            words = words[:-1]
    return Name("_".join(words), unit)


def _unit(word: str) -> str:
    word = word.strip().lower().replace("μ", "µ")
    word = WORDS.get(word, word)
    return word if word in {*POWER_UNITS, *ENERGY_UNITS, *TIME_UNITS} else ""


def choose_values(table: Table, choice: ColumnChoice) -> list[ValueColumn]:
    """The columns of power and energy.

    The three power fields of nvidia-smi are one board's power; the first that is there of
    instant, average and draw is used. Several columns of other names are an error, since their
    sum or one of them may be meant.

    Raises:
        UserError: There is none, there are several, or a unit is not known.
    """
    if choice.power_columns or choice.energy_columns:
        power = [_value(table, find(table, name), False, choice) for name in choice.power_columns]
        energy = [_value(table, find(table, name), True, choice) for name in choice.energy_columns]
        return power + energy
    found = recognised(table)
    known = [
        column
        for stem in NVIDIA_SMI_FIELDS
        for column in found
        if take_apart(table.names[column[0]]).stem == stem
    ]
    if len(found) > 1 and len(known) == len(found) and _first_with_values(table, known):
        first = _first_with_values(table, known)
        assert first is not None
        found = [first]
    if len(found) == 1:
        return [_value(table, *found[0], choice)]
    candidates = [table.names[position] for position, _ in found] or list(table.names)
    raise UserError(
        f"{table.path}: {'several columns' if found else 'no column'} may be power or energy",
        why=f"{'candidates' if found else 'its columns'} are {listed(candidates)}",
        hint="name one with --power-column or --energy-column, or several to add them up",
    )


def recognised(table: Table) -> list[tuple[int, bool]]:
    """Positions of columns that are power or energy, and whether energy."""
    found: list[tuple[int, bool]] = []
    for i, text in enumerate(table.names):
        name = take_apart(text) if table.header else Name("", _cell_unit(table.cells(i)))
        if name.words & _NOT_READINGS:
            continue
        if name.unit in POWER_UNITS or (not name.unit and name.words & _POWER_WORDS):
            found.append((i, False))
        elif name.unit in ENERGY_UNITS or (not name.unit and name.words & _ENERGY_WORDS):
            found.append((i, True))
    return found


def _first_with_values(
    table: Table, columns: Sequence[tuple[int, bool]]
) -> tuple[int, bool] | None:
    for column in columns:
        if not all(map(is_absent, table.cells(column[0]))):
            return column
    return columns[0] if columns else None


def _value(table: Table, position: int, energy: bool, choice: ColumnChoice) -> ValueColumn:
    units = ENERGY_UNITS if energy else POWER_UNITS
    kind, option = ("energy", choice.energy_unit) if energy else ("power", choice.power_unit)
    text = table.names[position]
    name = take_apart(text) if table.header else Name(f"column_{text}", "")
    cells = table.cells(position)
    note = ""
    cell_unit = _cell_unit(cells)
    unit = checked_unit(option, units, kind) if option else cell_unit or name.unit
    if unit and unit not in units:
        raise UserError(
            f"{table.path}: column {text!r} is in {unit}, which is no unit of {kind}",
            hint=f"say what it is with --{kind}-unit",
        )
    if not unit:
        unit = "j" if energy else "w"
        if not energy and _typical(cells) > SUSPICIOUS_POWER_W:
            raise UserError(
                f"{table.path}: the unit of column {text!r} is not known",
                why=f"its values are about {_typical(cells):.3g}",
                hint="give it with --power-unit, as W or mW",
            )
        note = f"{text!r} is taken in {'joules' if energy else 'watts'}"
    converter = _with_unit(units, unit) if cell_unit else _scaled(units[unit])
    source = NVIDIA_SMI_FIELDS.get(name.stem, f"log.{name.stem}")
    return ValueColumn(position, text, name.stem, energy, converter, source, note)


def _typical(cells: Sequence[str]) -> float:
    values = numbers(cells)
    values = values[np.isfinite(values)]
    return float(np.median(np.abs(values))) if values.size else 0.0


def choose_gpu(table: Table) -> int | None:
    """The column that tells GPUs apart, by what the sample shows; ``None`` without one."""
    stems = {take_apart(name).stem: i for i, name in enumerate(table.names)}
    for stem in _GPU_COLUMNS:
        if stem not in stems:
            continue
        cells = table.cells(stems[stem])
        named = set(cells)
        # A column of row numbers is called "index" too.
        if len(named) <= MOST_GPUS and (len(named) < len(cells) or len(cells) == 1):
            return stems[stem]
    return None


def uuids(table: Table, gpu_position: int) -> dict[str, str]:
    """The UUID of each GPU, by what another column calls it, as far as the sample shows."""
    stems = {take_apart(name).stem: i for i, name in enumerate(table.names)}
    position = stems.get("uuid", stems.get("gpu_uuid"))
    if position is None:
        return {}
    return dict(zip(table.cells(gpu_position), table.cells(position), strict=False))


def coded(names: list[str]) -> Converter:
    """Converts text to its position in ``names``, to which what is new is added."""
    positions: dict[str, int] = {}

    def convert(cells: Sequence[str]) -> Floats:
        codes = np.empty(len(cells))
        for i, cell in enumerate(cells):
            text = cell.strip()
            if text not in positions:
                positions[text] = len(names)
                names.append(text)
            codes[i] = positions[text]
        return codes

    return convert


def find(table: Table, name: str) -> int:
    """The position of a column by its name, its name in another spelling, or its number from 1.

    Raises:
        UserError: There is no such column, or several fit.
    """
    if name in table.names:
        return table.names.index(name)
    wanted = take_apart(name)
    same = [i for i, text in enumerate(table.names) if take_apart(text) == wanted]
    alike = [i for i, text in enumerate(table.names) if take_apart(text).stem == wanted.stem]
    for found in (same, alike):
        if len(found) == 1:
            return found[0]
    if name.isdigit() and 1 <= int(name) <= len(table.names):
        return int(name) - 1
    raise UserError(f"{table.path} has no column {name!r}", hint=nearest(name, table.names))


def _cell_unit(cells: Sequence[str]) -> str:
    """The unit that follows the numbers of a column, as in ``123.45 W``."""
    for cell in cells:
        if not is_absent(cell):
            match = _WITH_UNIT.fullmatch(cell)
            return _unit(match.group(2)) if match else ""
    return ""


def _with_unit(units: dict[str, float], default: str) -> Converter:
    """Converts numbers that are followed by their units; ``default`` for those that are not."""

    def one(cell: str) -> float:
        match = _WITH_UNIT.fullmatch(cell.strip())
        if match is None:
            return math.nan
        unit = _unit(match.group(2)) or ("" if match.group(2) else default)
        return number(match.group(1)) * units.get(unit, math.nan)

    def convert(cells: Sequence[str]) -> Floats:
        unit = cells[0].strip().rpartition(" ")[2] if cells else ""
        factor = units.get(_unit(unit))
        if factor is not None:
            # Nearly always all cells have one unit.
            try:
                bare = [cell.rstrip().removesuffix(unit) for cell in cells]
                return np.array(bare, dtype=np.float64) * factor
            except ValueError:
                pass
        return np.fromiter(map(one, cells), dtype=np.float64, count=len(cells))

    return convert


def _scaled(factor: float) -> Converter | None:
    if factor == 1.0:
        return None

    def convert(cells: Sequence[str]) -> Floats:
        return numbers(cells) * factor

    return convert


def checked_unit(text: str, units: dict[str, float], kind: str) -> str:
    """A unit in lower case.

    Raises:
        UserError: It is none of them.
    """
    unit = _unit(text)
    if unit not in units:
        raise UserError(f"no unit of {kind} {text!r}", hint=f"choose from {', '.join(units)}")
    return unit


def listed(names: Sequence[str]) -> str:
    """Names of columns, for a message."""
    return ", ".join(repr(name) for name in names)
