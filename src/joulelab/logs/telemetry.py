"""What logs hold beside power: utilisation, memory, temperature, clocks and a counter of energy."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from joulelab.energy.signal import pace_of
from joulelab.errors import UserError
from joulelab.logs.columns import (
    ColumnChoice,
    choose_gpu,
    choose_values,
    coded,
    recognised,
)
from joulelab.logs.csv_table import Converter, Floats, Table, is_absent, number, open_table
from joulelab.logs.power_log import Log
from joulelab.logs.time_column import choose_time
from joulelab.recording.trace import Readings, in_order
from joulelab.sensors.sensor import Channel, Provenance, Quantity

_PERCENT = {"": 1.0, "%": 1.0, "pct": 1.0, "percent": 1.0}
_BYTES = {
    "b": 1.0, "bytes": 1.0, "kib": 2.0**10, "mib": 2.0**20, "gib": 2.0**30,
    "kb": 1e3, "mb": 1e6, "gb": 1e9,
}  # fmt: skip
_CELSIUS = {"": 1.0, "c": 1.0, "celsius": 1.0}
_HERTZ = {"hz": 1.0, "khz": 1e3, "mhz": 1e6, "ghz": 1e9}
_UNITS = {
    Quantity.UTILIZATION: _PERCENT,
    Quantity.MEMORY_UTILIZATION: _PERCENT,
    Quantity.MEMORY_USED: _BYTES,
    Quantity.TEMPERATURE: _CELSIUS,
    Quantity.SM_CLOCK: _HERTZ,
    Quantity.MEMORY_CLOCK: _HERTZ,
}
"""Factors to each quantity's unit. A column of bytes or hertz without a unit is not read."""
_STEMS = {
    "utilization_gpu": Quantity.UTILIZATION,
    "gpu_utilization": Quantity.UTILIZATION,
    "gpu_util": Quantity.UTILIZATION,
    "cpu_utilization": Quantity.UTILIZATION,
    "utilization_memory": Quantity.MEMORY_UTILIZATION,
    "memory_utilization": Quantity.MEMORY_UTILIZATION,
    "memory_used": Quantity.MEMORY_USED,
    "temperature_gpu": Quantity.TEMPERATURE,
    "gpu_temperature": Quantity.TEMPERATURE,
    "temperature": Quantity.TEMPERATURE,
    "clocks_sm": Quantity.SM_CLOCK,
    "clocks_current_sm": Quantity.SM_CLOCK,
    "sm_clock": Quantity.SM_CLOCK,
    "clocks_mem": Quantity.MEMORY_CLOCK,
    "clocks_current_memory": Quantity.MEMORY_CLOCK,
    "memory_clock": Quantity.MEMORY_CLOCK,
}
_WITH_UNIT = re.compile(r"([-+]?[\d.,]+(?:[eE][-+]?\d+)?)\s*([A-Za-z%]*)")


@dataclass(frozen=True, slots=True)
class _Column:
    position: int
    name: str
    stem: str
    quantity: Quantity
    converter: Converter | None

    def component(self, gpu: str) -> str:
        """What it is of: the host for its processor, otherwise that GPU."""
        return "host" if self.stem.startswith("cpu") else gpu


def with_telemetry(log: Log, paths: Sequence[Path], choice: ColumnChoice, required: bool) -> Log:
    """The log with what these files hold beside power.

    Args:
        log: Of the same clock.
        paths: CSV files, plain or gzip; a file without such columns adds nothing.
        choice: Which columns are time, and which GPU is meant.
        required: Whether a file that holds nothing of the kind is an error.

    Raises:
        UserError: A file cannot be read, its time cannot be told, its times are not those of the
            log, or it holds nothing of the kind where it must.
    """
    found: list[tuple[Channel, Readings]] = []
    for path in paths:
        table = open_table(path)
        columns = list(_columns(table))
        if not columns and required:
            raise UserError(
                f"{path} has no column of utilisation, memory, temperature, clocks or energy",
                why=f"its columns are {', '.join(table.names)}",
            )
        if columns:
            found += _read(table, columns, choice, log)
    trace = log.trace
    return replace(
        log,
        trace=replace(
            trace,
            channels=(*trace.channels, *(channel for channel, _ in found)),
            series=(*trace.series, *(readings for _, readings in found)),
            header={
                **trace.header,
                "intervals_s": [
                    *trace.header["intervals_s"],
                    *(channel.update_period_s for channel, _ in found),
                ],
            },
        ),
    )


def power_of_gpu(log: Log) -> Log:
    """The log with its power taken for the first GPU's, where it does not tell of what it is."""
    powers = [one for one in log.trace.channels if one.gives_energy]
    if len(powers) != 1 or powers[0].component.startswith(("gpu", "cpu", "dram")):
        return log
    channels = tuple(
        replace(one, component="gpu:0") if one is powers[0] else one for one in log.trace.channels
    )
    note = f"{powers[0].note} is taken for gpu:0's (--component says otherwise)"
    return replace(log, trace=replace(log.trace, channels=channels), notes=(*log.notes, note))


def gpu_names(paths: Iterable[Path]) -> list[str]:
    """The models of GPUs that logs name in a column ``name``, in order of appearance."""
    found: dict[str, None] = {}
    for path in paths:
        table = open_table(path)
        if "name" in table.names:
            cells = table.cells(table.names.index("name"))
            found |= dict.fromkeys(cell for cell in cells if not is_absent(cell))
    return list(found)


def _columns(table: Table) -> Iterator[_Column]:
    for position, name in enumerate(table.names):
        stem, unit = _stem_and_unit(name)
        quantity = _STEMS.get(stem)
        if quantity is None:
            continue
        units = _UNITS[quantity]
        cell = next((cell for cell in table.cells(position) if not is_absent(cell)), "")
        match = _WITH_UNIT.fullmatch(cell)
        if match and match.group(2):
            unit = match.group(2).lower()
        if match and unit in units:
            yield _Column(position, name, stem, quantity, _converter(units, unit))
    counters = [position for position, is_energy in recognised(table) if is_energy]
    if len(counters) == 1:
        name = table.names[counters[0]]
        (value,) = choose_values(table, ColumnChoice(energy_columns=(name,)))
        yield _Column(value.position, name, value.stem, Quantity.ENERGY, value.converter)


def _stem_and_unit(name: str) -> tuple[str, str]:
    """A column's name in one spelling, and its unit.

    Example:
        >>> _stem_and_unit("memory.used [MiB]"), _stem_and_unit("sm_clock_mhz")
        (('memory_used', 'mib'), ('sm_clock', 'mhz'))
        >>> _stem_and_unit("temperature.gpu")
        ('temperature_gpu', '')
    """
    words = [word for word in re.split(r"[^a-z0-9%]+", name.lower()) if word]
    known = {unit for units in _UNITS.values() for unit in units if unit}
    if len(words) > 1 and words[-1] in known:
        return "_".join(words[:-1]), words[-1]
    return "_".join(words), ""


def _converter(units: dict[str, float], default: str) -> Converter:
    def one(cell: str) -> float:
        match = _WITH_UNIT.fullmatch(cell.strip())
        if match is None:
            return math.nan
        return number(match.group(1)) * units.get(match.group(2).lower() or default, math.nan)

    def convert(cells: Sequence[str]) -> Floats:
        return np.fromiter(map(one, cells), dtype=np.float64, count=len(cells))

    return convert


def _read(
    table: Table, columns: Sequence[_Column], choice: ColumnChoice, log: Log
) -> Iterator[tuple[Channel, Readings]]:
    time_position, to_seconds, _ = choose_time(table, choice)
    wanted = [(time_position, to_seconds), *((one.position, one.converter) for one in columns)]
    names: list[str] = []
    gpu_position = choose_gpu(table)
    if gpu_position is not None:
        wanted.append((gpu_position, coded(names)))
    (t_s, *values), _ = table.read(wanted)
    codes = values.pop() if gpu_position is not None else np.zeros(t_s.size)
    timed = np.isfinite(t_s)
    if not timed.any() or t_s[timed].max() < log.start_s or t_s[timed].min() > log.stop_s:
        raise UserError(
            f"no reading of {table.path} lies within the log of power",
            why=f"that goes from {log.start_s:.12g} to {log.stop_s:.12g} s",
            hint="put both on one clock",
        )
    for code, name in enumerate(names or [""]):
        if choice.gpu is not None and name and name != choice.gpu:
            continue
        gpu = f"gpu:{name}" if name else _only_gpu(log)
        for column, value in zip(columns, values, strict=True):
            rows = timed & (codes == code) & np.isfinite(value)
            if np.unique(t_s[rows]).size < 2:
                continue
            t_ns = np.rint((t_s[rows] - log.origin_s) * 1e9).astype(np.int64)
            readings = in_order(t_ns, value[rows])
            channel = _channel(column, table, column.component(gpu), readings)
            if channel.quantity is Quantity.ENERGY:
                beside = _measured_by_power(log, channel.component)
                if beside is None or np.any(np.diff(readings.value) < 0):
                    continue
                channel = replace(channel, gain_uncertainty=beside.gain_uncertainty, priority=1)
            yield channel, readings


def _channel(column: _Column, table: Table, component: str, readings: Readings) -> Channel:
    pace = pace_of(np.asarray(readings.t_ns * 1e-9, dtype=np.float64), readings.value)
    is_counter = column.quantity is Quantity.ENERGY
    return Channel(
        component=component,
        quantity=column.quantity,
        source=f"log.{column.stem}",
        provenance=Provenance.MEASURED,
        update_period_s=pace.period_s if is_counter else pace.interval_s,
        polled=pace.polled if is_counter else True,
        note=f"{column.name} of {table.path.name}",
    )


def _measured_by_power(log: Log, component: str) -> Channel | None:
    """The power beside which a counter tells more; ``None`` where the log has none, or a counter.

    A counter of something else would be energy that nobody asked for.
    """
    own = [one for one in log.trace.channels if one.component == component and one.gives_energy]
    if len(own) == 1 and own[0].quantity is Quantity.POWER:
        return own[0]
    return None


def _only_gpu(log: Log) -> str:
    """The one GPU of the log of power; the first where it names none or several."""
    gpus = {one.component for one in log.trace.channels if one.component.startswith("gpu")}
    return gpus.pop() if len(gpus) == 1 else "gpu:0"
