"""CSV files whose columns are known: what contains what, and what a value stands for.

To read another tool's CSV, add a :class:`Layout`. Files with unknown columns are tables
(:mod:`joulelab.logs.csv_table`).
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple

import numpy as np

from joulelab.errors import UserError
from joulelab.format import first_words
from joulelab.logs.columns import NOT_READINGS, PLAIN_POWER_W, UNITS, check_unit, parse_name
from joulelab.logs.device_containment import check_names
from joulelab.logs.formats.log_text import LogText, to_seconds
from joulelab.logs.formats.meters import Format, Reading, number
from joulelab.logs.series import Kind, Meter
from joulelab.sensors.sensor import Provenance, Quantity

Row = Mapping[str, str]


class _Column(NamedTuple):
    """Columns whose whole name matches a pattern; its group is put in the component."""

    pattern: str
    component: str
    kind: Kind = Kind.POWER
    factor: float = 1.0  # To W or J.
    overlaps: tuple[str, ...] = ()
    provenance: Provenance = Provenance.MEASURED


@dataclass(frozen=True, slots=True)
class Layout:
    """The columns of a tool's CSV."""

    tool: str  # Its name, for messages.
    needs: tuple[str, ...]  # Columns that only this tool's files have together.
    time: str  # Column of times.
    columns: tuple[_Column, ...]  # Columns of power or energy.
    # Columns that distinguish devices; their values replace ``{}`` in components.
    devices: tuple[str, ...] = ()
    seconds: bool = False  # Whether times are seconds from the log's own start.
    delay: str = ""  # Column of the milliseconds from a row's time until it was read.

    def read(self, log: LogText) -> Iterator[Reading]:
        """Read all rows of the known columns."""
        for row in csv_rows(log, self.needs):
            time: str | float = row[self.time]
            if self.seconds:
                time = number(row[self.time])
            elif self.delay:
                time = f"{number(row[self.time]) + number(row[self.delay]):.0f}"
            device = ":".join(row[name] for name in self.devices if name in row)
            for name, cell in row.items():
                for column in self.columns:
                    if match := re.fullmatch(column.pattern, name):
                        which = device or (match[1] if match.lastindex else "")
                        meter = Meter(
                            column.component.format(which),
                            name,
                            f"{_slug(self.tool)}.{_slug(name)}",
                            column.kind,
                            column.overlaps,
                            provenance=column.provenance,
                        )
                        yield Reading(time, meter, number(cell) * column.factor)

    @property
    def format(self) -> Format:
        """The layout as a format."""
        return Format(self.tool, self._matches, self.read)

    def _matches(self, head: Sequence[str]) -> bool:
        return any(
            set(self.needs) <= set(cells)
            and any(re.fullmatch(one.pattern, cell) for one in self.columns for cell in cells)
            for cells in map(split_cells, head)
        )


def has_columns(*names: str) -> Callable[[Sequence[str]], bool]:
    """Create a test whether one of the first lines is a header with these columns."""
    return lambda head: any(set(names) <= set(split_cells(line)) for line in head)


def csv_rows(log: LogText, needs: Sequence[str]) -> Iterator[Row]:
    """Iterate over the rows below the header; others than it announces are left out with a note."""
    header: list[str] = []
    delimiter: str | None = None
    damaged = 0
    for text in log.raw_lines():
        cells = split_cells(text, delimiter)
        if set(needs) <= set(cells):
            header, delimiter = cells, _delimiter(text)
        elif header and any(cells):
            if delimiter == ";":
                # A spreadsheet has saved the tool's file.
                cells = [
                    f"{match[1]}.{match[2]}" if (match := _DECIMAL_COMMA.fullmatch(cell)) else cell
                    for cell in cells
                ]
            if len(cells) == len(header) + 1 and not cells[-1]:
                cells.pop()
            if len(cells) == len(header):
                yield dict(zip(header, cells, strict=True))
            else:
                damaged += 1
    log.skipped(damaged, "with more or fewer cells than the header")


_DECIMAL_COMMA = re.compile(r"(-?\d+),(\d+(?:[eE]-?\d+)?)")


def _delimiter(text: str) -> str:
    return max(",;\t", key=text.count)


def split_cells(text: str, delimiter: str | None = None) -> list[str]:
    """Split a line of CSV at commas, semicolons or tabs; an empty list if it is damaged."""
    try:
        row = next(
            csv.reader([text], delimiter=delimiter or _delimiter(text), skipinitialspace=True), []
        )
    except csv.Error:
        return []
    return [cell.strip() for cell in row]


def _slug(text: str) -> str:
    return "_".join(re.findall(r"[a-z0-9]+", text.lower()))


_ESTIMATED = Provenance.ESTIMATED
_LAYOUTS = (
    # PowerJoular (src/csv_power.adb): RAPL's mean over its cycle of 1 s, and nvidia-smi's power.
    Layout(
        "PowerJoular",
        ("Date", "CPU Utilization", "Total Power", "CPU Power"),
        "Date",
        (
            _Column("CPU Power", "cpu:0", Kind.MEAN_POWER),
            _Column("GPU Power", "gpu:0"),
            _Column("Total Power", "node", Kind.MEAN_POWER, overlaps=("CPU Power",)),
        ),
    ),
    # Its file for one process: that process's share of the CPU's power.
    Layout(
        "PowerJoular for one process",
        ("Date", "CPU Utilization", "CPU Power"),
        "Date",
        (_Column("CPU Power", "cpu:0", Kind.MEAN_POWER, provenance=_ESTIMATED),),
    ),
    # Intel Power Gadget: counters since the start of the log; IA and GT are in the processor.
    Layout(
        "Intel Power Gadget",
        ("System Time", "RDTSC", "Elapsed Time (sec)"),
        "Elapsed Time (sec)",
        (
            _Column(r"Cumulative Processor Energy_(\d+) ?\(Joules\)", "cpu:{}", Kind.COUNTER),
            _Column(r"Cumulative (?:Package|Processor) Energy ?\(Joules\)", "cpu:0", Kind.COUNTER),
            _Column(r"Cumulative DRAM Energy_(\d+) ?\(Joules\)", "dram:{}", Kind.COUNTER),
        ),
        seconds=True,
    ),
    # EnergiBridge: counters of RAPL, where PP0 and PP1 are in the package; SYSTEM_POWER on a Mac.
    # Rows begin at Time and are read after Delta: the next Time is that of the row before plus it.
    Layout(
        "EnergiBridge",
        ("Delta", "Time"),
        "Time",
        (
            _Column(r"(?:PACKAGE|CPU)_ENERGY \(J\)", "cpu:0", Kind.COUNTER),
            _Column(r"DRAM_ENERGY \(J\)", "dram:0", Kind.COUNTER),
            _Column(r"GPU(\d+)_ENERGY \(mJ\)", "gpu:{}", Kind.COUNTER, 1e-3),
            _Column(r"SYSTEM_POWER \(Watts\)", "node"),
        ),
        delay="Delta",
    ),
    # jtop's logger (jetson-stats, jtop.stats): mW; "Power TOT" is the module.
    Layout(
        "jtop",
        ("time", "uptime", "jetson_clocks", "Power TOT"),
        "time",
        (_Column("Power TOT", "node", factor=1e-3),),
    ),
    # xpu-smi dump (metrics 1 and 8).
    Layout(
        "xpu-smi",
        ("Timestamp", "DeviceId"),
        "Timestamp",
        (
            _Column(r"GPU Power \(W\)", "gpu:{}"),
            _Column(r"GPU Energy Consumed \(J\)", "gpu:{}", Kind.COUNTER),
        ),
        devices=("DeviceId", "TileId"),
    ),
)


def _read_shelly_minutes(log: LogText) -> Iterator[Reading]:
    """Read the energy data of Shelly EM meters: Wh of the minute that begins at ``timestamp``.

    The components ``EMData`` and ``EM1Data`` keep one record per minute (Shelly API).
    """
    for row in csv_rows(log, ("timestamp",)):
        start_s = number(row["timestamp"])
        for name, cell in row.items():
            if match := _SHELLY_ENERGY.fullmatch(name):
                phase = match[1] or "0"
                meter = Meter(f"plug:{phase}", name, "shelly.active_energy", Kind.AMOUNT)
                stop = f"{start_s + 60:.0f}" if math.isfinite(start_s) else ""
                yield Reading(stop, meter, number(cell) * 3600.0, 60.0)


_SHELLY_ENERGY = re.compile(r"(?:([abc])_)?total_act_energy")


def _is_shelly_minutes(head: Sequence[str]) -> bool:
    return any(
        cells[:1] == ["timestamp"] and any(_SHELLY_ENERGY.fullmatch(cell) for cell in cells)
        for cells in map(split_cells, head)
    )


def _read_home_assistant(log: LogText) -> Iterator[Reading]:
    """Read Home Assistant's export of its history: a row only when a value changes.

    The file has no units: entities named after power are taken to be in W, and counters of energy
    in kWh, the units in which Home Assistant's own integrations report.
    """
    wanted = {*log.options.power_columns, *log.options.energy_columns}
    entities: dict[str, list[tuple[str, float]]] = {}
    for row in csv_rows(log, _HOME_ASSISTANT):
        entities.setdefault(row["entity_id"], []).append(
            (row["last_changed"], number(row["state"]))
        )
    if wanted == {"state"}:
        # The only column of values: not a choice.
        wanted = set()
    readings = {name for name in entities if not parse_name(name).words & NOT_READINGS}
    powers = {name for name in readings if "power" in name}
    energies = {name for name in readings if "energy" in name and name not in powers}
    if not powers | energies | wanted:
        raise UserError(
            f"{log.path} does not say which of its entities is power",
            why=f"it has {first_words(sorted(entities), 5)}",
            hint="name it with --power-column",
        )
    if not wanted:
        check_names(log.path, sorted(powers or energies), "name those to read with --power-column")
    every = [row for rows in entities.values() for row in rows]
    end = _latest(log, every)[0] if every else ""
    for name, rows in entities.items():
        plug = name.partition(".")[2] or name
        if name in powers or name in log.options.power_columns:
            factor = _home_assistant_factor(log, name, [value for _, value in rows])
            label = name if wanted else "state"
            meter = Meter(f"plug:{plug}", label, "home_assistant.power", Kind.HELD_POWER)
            time, value = _latest(log, rows)
            if time != end and math.isfinite(value):
                # Others show that the recording went on.
                rows.append((end, value))
        elif name in energies or name in log.options.energy_columns:
            unit = check_unit(log.options.energy_unit or "kWh", UNITS[Quantity.ENERGY], "energy")
            factor = UNITS[Quantity.ENERGY][unit]
            if not log.options.energy_unit:
                log.notes.append(f"{name} has no unit; assuming kWh")
            source = "home_assistant.energy"
            overlaps = (*sorted(powers), "state")
            meter = Meter(f"plug:{plug}", name, source, Kind.COUNTER, overlaps)
        else:
            continue
        for time, value in rows:
            yield Reading(time, meter, value * factor)
    log.notes.append("Home Assistant writes a row when a value changes: each holds until the next")


def _latest(log: LogText, rows: Sequence[tuple[str, float]]) -> tuple[str, float]:
    times_s = to_seconds(log, [time for time, _ in rows])
    return rows[int(np.argmax(np.nan_to_num(times_s, nan=-math.inf)))]


def _home_assistant_factor(log: LogText, name: str, values: Sequence[float]) -> float:
    unit = log.options.power_unit or ("kW" if re.search(r"_kw(_|$)", name) else "W")
    seen = [value for value in values if value > 0]
    if unit == "W" and not log.options.power_unit and seen and median(seen) < PLAIN_POWER_W[0]:
        raise UserError(
            f"{log.path}: the unit of {name} is unknown",
            why=f"its values are about {median(seen):.3g}",
            hint="state it with --power-unit, for example W or kW",
        )
    log.notes.append(f"{name} has no unit; assuming {unit}")
    return {"w": 1.0, "mw": 1e-3, "kw": 1e3}.get(unit.lower(), math.nan)


_HOME_ASSISTANT = ("entity_id", "state", "last_changed")


def _read_codecarbon(log: LogText) -> Iterator[Reading]:
    """Read CodeCarbon's emissions.csv: one finished run a row, energies in kWh.

    ``timestamp`` is the end of a run and ``duration`` its length in s (CodeCarbon documentation,
    Output). Rows of one run that was flushed more than once contain each other: the last counts.
    Energies contain the PUE (CodeCarbon, ``_do_measurements``), which JouleLab applies to carbon.
    CPU and RAM are often modelled: the file does not say.
    """
    last: dict[tuple[str, str], Row] = {}
    for i, row in enumerate(csv_rows(log, _CODECARBON)):
        last[(row.get("run_id") or str(i), row.get("task_name", ""))] = row
    names = [row.get("task_name") or row["project_name"] for row in last.values()]
    for i, row in enumerate(last.values()):
        length_s = number(row["duration"])
        if not length_s > 0:
            log.skipped(1, "without a duration")
            continue
        name = names[i] if names.count(names[i]) == 1 else f"{names[i]} {i + 1}"
        log.runs.append((name, row["timestamp"], length_s))
        pue = number(row.get("pue", ""))
        pue = pue if pue > 1 else 1.0
        if pue > 1:
            log.notes.append(f"energies were divided by the data centre's PUE of {row['pue']}")
        if row.get("tracking_mode") == "process":
            log.notes.append("CodeCarbon tracked its own process only")
        for column, component in _CODECARBON_PARTS.items():
            if column in row:
                overlaps = tuple(_CODECARBON_PARTS)[:3] if component == "node" else ()
                measured = component == "gpu"
                meter = Meter(
                    component,
                    column,
                    f"codecarbon.{column}",
                    Kind.AMOUNT,
                    overlaps,
                    provenance=Provenance.MEASURED if measured else _ESTIMATED,
                )
                yield Reading(row["timestamp"], meter, number(row[column]) * 3.6e6 / pue, length_s)


_CODECARBON = ("timestamp", "project_name", "duration", "energy_consumed")
_CODECARBON_PARTS = {
    "cpu_energy": "cpu:0", "gpu_energy": "gpu", "ram_energy": "dram:0", "energy_consumed": "node",
}  # fmt: skip

FORMATS = (
    Format("CodeCarbon", has_columns(*_CODECARBON), _read_codecarbon),
    Format("Home Assistant", has_columns(*_HOME_ASSISTANT), _read_home_assistant),
    Format("a Shelly meter", _is_shelly_minutes, _read_shelly_minutes),
    *(layout.format for layout in _LAYOUTS),
)
