"""The meters of a table: which columns are read, of which devices, and what their values are."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from joulelab.arrays import Bools, Floats
from joulelab.errors import UserError
from joulelab.format import count, first_words
from joulelab.logs.cells import find_total, is_absent
from joulelab.logs.columns import (
    MOST_NAMES,
    NVIDIA_POWER,
    OF_ALL,
    Column,
    LogOptions,
    choose_values,
    parse_name,
)
from joulelab.logs.csv_table import SAMPLE_ROWS, Converter, Table, open_table
from joulelab.logs.device_containment import check_parts
from joulelab.logs.device_rows import (
    DeviceColumns,
    DeviceRows,
    choose_device_columns,
    has_few_polls,
    name_devices,
)
from joulelab.logs.row_order import check_interleaved, split_by_order
from joulelab.logs.series import Meter, MeterRows, has_readings, order_in_time
from joulelab.logs.time_column import choose_time, join_dates
from joulelab.logs.value_kinds import (
    check_durations,
    check_power,
    energy_kind,
    power_kind,
    without_failed_reads,
)
from joulelab.sensors.sensor import Absence, Quantity
from joulelab.validation import MOST

LEAST_CHANGES = 3  # Values that vary this often, the same for all devices, are of a total.
LEAST_READABLE = 0.5  # A time column of which a smaller share can be read is an error.
MOST_REPEATED = (
    0.05  # Share of a device's times that may occur twice, for a clock of whole seconds.
)
MANY_ROWS = 5000  # Of a sample, where the usual one would hold few polls of many rows.
ELAPSED_WORDS = {"elapsed", "runtime", "duration"}
_SPLIT = "split the file, or name the column that distinguishes devices with --device-column"


@dataclass(frozen=True, slots=True)
class Device:
    """One device's rows of a file, in order of time."""

    name: str  # As in the log; empty if it names none.
    component: str  # Empty if the log does not name it.
    uuid: str
    t_s: Floats
    values: list[Floats]  # Of each column.


def read_meters(
    table: Table, options: LogOptions, notes: list[str], absent: list[Absence] | None = None
) -> list[MeterRows]:
    """Read power and energy of each device of a table; one without is ``absent``, or an error."""
    path = table.path
    columns = choose_values(table, options)
    if options.component and len(columns) > 1:
        raise UserError(
            f"{path}: {len(columns)} columns cannot all be {options.component}",
            hint="omit --component, or choose one column",
        )
    notes += [f"{path.name}: {column.note}" for column in columns if column.note]
    devices = read_devices(table, columns, options, notes)
    names = [device.name for device in devices]
    chosen = [one for one in devices if options.gpu in (None, one.name, one.uuid, one.component)]
    if not chosen:
        if names == [""]:
            raise UserError(f"{path} does not name GPUs", hint="omit --gpu")
        known = first_words(names, MOST_NAMES)
        raise UserError(f"{path} has no GPU {options.gpu!r}", hint=f"choose from {known}")
    check_parts(table, [one.name for one in chosen])
    if options.device_column is None:
        chosen = _without_sum(table, columns, chosen, notes)
    _check_totals(table, columns, chosen, notes)
    meters: list[MeterRows] = []
    sources: list[Column] = []
    for device in chosen:
        for column, value in zip(columns, device.values, strict=True):
            is_zero = column.quantity is Quantity.POWER and not np.any(np.nan_to_num(value))
            has_none = is_zero or not has_readings(device.t_s, value)
            if absent is not None and len(devices) > 1 and has_none:
                zeros = "only 0 W" if np.any(value == 0) else "no readings"
                why = f"{path.name} has {zeros} of it in {column.name!r}"
                absent.append(Absence(device.component, column.source, why))
                continue
            meters.append(_meter(table, column, device, value, options, notes))
            sources.append(column)
    if not meters:
        raise UserError(f"{path} has no readings of any of its {len(devices)} GPUs")
    return meters if len(columns) == 1 else _with_columns(meters, sources)


def _check_totals(
    table: Table, columns: Sequence[Column], devices: Sequence[Device], notes: list[str]
) -> None:
    """Raise an error if rows of all devices have one power that is named like that of all."""
    for i, column in enumerate(columns if len(devices) > 1 else ()):
        if column.quantity is Quantity.ENERGY:
            continue
        values = [np.nan_to_num(device.values[i]) for device in devices]
        varies = np.count_nonzero(np.diff(values[0])) >= LEAST_CHANGES
        least = min(map(len, values))  # The last poll may be cut.
        is_one = all(np.array_equal(value[:least], values[0][:least]) for value in values)
        if not (is_one and varies):
            continue
        what = f"each poll has the same value for all {len(devices)} devices"
        # Instances of a divided GPU have no meters of their own.
        are_parts = all(device.name.startswith("MIG-") for device in devices)
        if are_parts or {*column.stem.split("_")} & OF_ALL:
            raise UserError(
                f"{table.path}: column {column.name!r} seems to be a total",
                why=what,
                hint=f"name another column, or read it once with --gpu {devices[0].name}",
            )
        notes.append(
            f"{table.path.name}: {what} in {column.name!r}: if it is one reading, choose one "
            f"device with --gpu {devices[0].name}"
        )


def _without_sum(
    table: Table, columns: Sequence[Column], devices: list[Device], notes: list[str]
) -> list[Device]:
    """Leave out a device whose power is the sum of those of the others in each poll.

    Peers, by their names, may draw 1, 2 and 3 times the same.

    Raises:
        UserError: It may be so by chance, or the device has the losses of the others, too.
    """
    is_power = all(column.quantity is Quantity.POWER for column in columns)
    if not is_power or len({len(device.t_s) for device in devices}) != 1:
        return devices
    found = {find_total([device.values[i] for device in devices]) for i in range(len(columns))}
    total = found.pop() if len(found) == 1 else None
    are_peers = len({re.sub(r"\d+", "", device.component) for device in devices}) == 1
    are_peers |= all(device.component.startswith("gpu:") for device in devices)
    if total is None or (are_peers and not total.is_sure):
        return devices
    name = devices[total.position].name
    if not total.is_sure or total.scale != 1:
        raise UserError(
            f"{table.path}: device {name!r} may contain the others",
            why=f"its power is {total.scale:.4g} times their sum in each poll",
            hint="choose one with --gpu, or name their column with --device-column to add them up",
        )
    notes.append(f"{table.path.name}: left out device {name!r}, the sum of the others")
    return [device for device in devices if device.name != name]


def _with_columns(meters: Sequence[MeterRows], columns: Sequence[Column]) -> list[MeterRows]:
    """Add the column to the components of devices that have several."""
    places = Counter(one.meter.component for one in meters)
    stems = Counter({column.position: column.stem for column in columns}.values())
    found: list[MeterRows] = []
    for one, column in zip(meters, columns, strict=True):
        component = one.meter.component
        label = column.stem if stems[column.stem] == 1 else f"column {column.position + 1}"
        if component.startswith("gpu:") or places[component] > 1:
            component = f"{component}:{label}"
        found.append(replace(one, meter=replace(one.meter, component=component)))
    return found


def read_devices(
    table: Table, columns: Sequence[Column], options: LogOptions, notes: list[str]
) -> list[Device]:
    """Read the rows with readable times, by device."""
    path, table = table.path, join_dates(table)
    position, _, _ = choose_time(table, options, columns[0].position)
    sample_s = _convert(table, position, options)(table.cells(position))
    if len(sample_s) >= SAMPLE_ROWS and has_few_polls(sample_s):
        table = join_dates(open_table(path, MANY_ROWS))
        sample_s = _convert(table, position, options)(table.cells(position))
    readings = [position, *(column.position for column in columns)]
    named = choose_device_columns(table, sample_s, readings, options)
    _, to_seconds, time_note = choose_time(table, options)
    has_times = position != columns[0].position
    if not has_times and (named.positions or options.devices not in (None, 1)):
        raise UserError(
            f"{path} has several devices and no times",
            hint="record the time in each row, for example nvidia-smi's timestamp",
        )
    if has_times and options.interval_s is not None:
        notes.append(f"{path.name}: --interval is not used: the log has times")
    wanted: list[tuple[int, Converter | None]] = [(position, to_seconds)]
    wanted += [(one.position, one.converter) for one in columns]
    coders = [Coder() for _ in named.positions]
    wanted += zip(named.positions, coders, strict=True)
    (t_s, *values), skipped_note = table.read(wanted)
    values, codes = values[: len(columns)], values[len(columns) :]
    notes += [f"{path.name}: {note}" for note in (time_note, skipped_note, named.note) if note]
    if t_s.size == 0:
        raise UserError(f"{path} has a header but no readings")
    _check_values(path, columns, values)
    readable = np.isfinite(t_s)
    _check_times(table, position, readable, notes)
    if coders:
        devices = _by_name(table, named, coders, codes, readable, notes)
        for device in devices:
            of_columns = [value[device.rows] for value in values]
            _check_repeated(table, device, t_s[device.rows], of_columns, options)
    else:
        rows = np.flatnonzero(readable)
        of_columns = [one[rows] for one in values]
        found, note = split_by_order(
            table, t_s[rows], of_columns, _powers(columns, of_columns), options
        )
        notes += [f"{path.name}: {note}"] if note else []
        devices = [replace(one, rows=rows[one.rows]) for one in found]
    uuids = _uuids(table, named.positions)
    result: list[Device] = []
    for device in devices:
        of_rows = [value[device.rows] for value in values]
        _check_elapsed(table, position, t_s[device.rows])
        order, note = order_in_time(path, t_s[device.rows], of_rows, _SPLIT)
        rows = device.rows[order]
        if note and f"{path.name}: {note}" not in notes:
            notes.append(f"{path.name}: {note}")
        of_rows = [value[order] for value in of_rows]
        if coders and options.device_column is None:
            check_interleaved(table, t_s[rows], _powers(columns, of_rows))
        uuid = uuids.get(device.name, "")
        result.append(Device(device.name, device.component, uuid, t_s[rows], of_rows))
    return result


def _powers(columns: Sequence[Column], values: Sequence[Floats]) -> list[Floats]:
    """Return the values of columns of power."""
    pairs = zip(columns, values, strict=True)
    return [value for column, value in pairs if column.quantity is Quantity.POWER]


def _check_values(path: Path, columns: Sequence[Column], values: Sequence[Floats]) -> None:
    """Raise an error for values that no sensor reports."""
    for column, value in zip(columns, values, strict=True):
        # Squares of larger values overflow.
        if (np.abs(value) > MOST).any():
            raise UserError(
                f"{path}: column {column.name!r} has a value of {np.nanmax(np.abs(value)):.3g}",
                why="no sensor reports that",
                hint="remove the row, or name another column",
            )


def _check_times(table: Table, position: int, readable: Bools, notes: list[str]) -> None:
    """Raise an error if few times can be read, and note how many cannot."""
    path = table.path
    if readable.mean() < LEAST_READABLE:
        raise UserError(
            f"{path}: column {table.names[position]!r} has no readable times, such as "
            f"{next(iter(table.cells(position)), '')!r}",
            hint="name another with --time-column, its unit with --time-unit, or write dates as "
            "2026-01-31 12:34:56 and their zone with --timezone",
        )
    if unreadable := int(np.count_nonzero(~readable)):
        notes.append(f"{path.name}: skipped {count(unreadable, 'line')} without a readable time")


def _check_elapsed(table: Table, position: int, t_s: Floats) -> None:
    """Raise an error if the time since a start goes back: rows are runs, or of several."""
    name = table.names[position]
    if parse_name(name).words & ELAPSED_WORDS and np.any(np.diff(t_s) < 0):
        raise UserError(
            f"{table.path}: {name!r} goes back",
            why="each row may be a run of its own, or the file has several recordings",
            hint="give each recording in a file of its own",
        )


class Coder:
    """Converts texts to their positions among the different ones; absent ones to NaN."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._codes: dict[str, float] = {}

    def __call__(self, cells: Sequence[str]) -> Floats:
        """Convert cells to numbers."""
        codes = self._codes
        for cell in dict.fromkeys(cells):
            if cell not in codes:
                text = cell.strip()
                if is_absent(text):
                    codes[cell] = np.nan
                elif text in self.names:
                    codes[cell] = float(self.names.index(text))
                else:
                    codes[cell] = float(len(self.names))
                    self.names.append(text)
        return np.array([codes[cell] for cell in cells], dtype=np.float64)


def _convert(table: Table, position: int, options: LogOptions) -> Converter:
    """Return a converter of times that is not used for anything else: it may remember them."""
    _, convert, _ = choose_time(table, options)
    return convert or table.numbers(position)


def _by_name(
    table: Table,
    columns: DeviceColumns,
    coders: Sequence[Coder],
    codes: Sequence[Floats],
    readable: Bools,
    notes: list[str],
) -> list[DeviceRows]:
    """Return the rows of each device that columns name; rows that name none are left out."""
    stacked = np.column_stack(codes)
    unnamed = readable & ~np.isfinite(stacked).all(axis=1)
    if number := int(np.count_nonzero(unnamed)):
        notes.append(f"{table.path.name}: skipped {count(number, 'line')} that name no device")
    use = np.flatnonzero(readable & ~unnamed)
    if not use.size:
        named = " and ".join(repr(table.names[i]) for i in columns.positions)
        raise UserError(f"{table.path}: no row names a device in {named}")
    sizes = [len(coder.names) for coder in coders]
    combined = np.ravel_multi_index(tuple(stacked[use].astype(np.intp).T), sizes)
    known = np.flatnonzero(np.bincount(combined))
    names = [
        tuple(coder.names[code] for coder, code in zip(coders, one, strict=True))
        for one in zip(*(one.tolist() for one in np.unravel_index(known, sizes)), strict=True)
    ]
    components = name_devices(table, columns, names)
    return [
        DeviceRows(":".join(name), component, use[combined == code])
        for name, component, code in zip(names, components, known.tolist(), strict=True)
    ]


def _uuids(table: Table, positions: Sequence[int]) -> dict[str, str]:
    """Map each device's name in the log to its UUID, as far as the sample shows."""
    stems = {parse_name(name).stem: i for i, name in enumerate(table.names)}
    position = stems.get("uuid", stems.get("gpu_uuid"))
    if position is None or len(positions) != 1:
        return {}
    return dict(zip(table.cells(positions[0]), table.cells(position), strict=True))


def _check_repeated(
    table: Table,
    device: DeviceRows,
    t_s: Floats,
    values: Sequence[Floats],
    options: LogOptions,
) -> None:
    """Raise an error if a device often has several rows at one time, which are not the same."""
    if np.all(np.diff(t_s) > 0):
        return
    different = np.unique(np.nan_to_num(np.column_stack([t_s, *values])), axis=0)
    repeated = len(different) - np.unique(t_s).size
    if repeated > max(MOST_REPEATED * t_s.size, 1) and options.device_column is None:
        raise UserError(
            f"{table.path} has several rows of {device.component} at {count(repeated, 'time')}",
            why=f"there are {t_s.size} rows of it",
            hint="name the column that distinguishes them with --device-column",
        )


def _meter(
    table: Table,
    column: Column,
    device: Device,
    value: Floats,
    options: LogOptions,
    notes: list[str],
) -> MeterRows:
    path, t_s = table.path, device.t_s
    if column.quantity is Quantity.POWER:
        value = without_failed_reads(table, column, value, notes)
    if not has_readings(t_s, value):
        cells = table.cells(column.position)
        if np.isfinite(value).any():
            why = "" if value.size == 1 else "all of them are at one time"
        elif all(map(is_absent, cells)):
            why = f"its cells state that there is no value: {next(iter(cells), '')!r}"
        else:
            why = f"its cells are not numbers: {next(iter(cells), '')!r}"
        raise UserError(
            f"{path}: column {column.name!r} has fewer than two readings",
            why=why,
            hint="name another with --power-column or --energy-column",
        )
    if column.quantity is Quantity.POWER and not np.any(np.nan_to_num(value)):
        raise UserError(
            f"{path}: column {column.name!r} is always 0",
            why="the tool could not measure it",
            hint="name another with --power-column",
        )
    seen = np.isfinite(value)
    if missing := value.size - int(np.count_nonzero(seen)):
        notes.append(f"{path.name}: {column.name!r} has no value in {count(missing, 'line')}")
    if column.quantity is Quantity.ENERGY:
        kind = energy_kind(table, column, t_s[seen], value[seen])
    else:
        check_power(table, column, value[seen], notes)
        kind = power_kind(table, column, t_s[seen], value[seen], options, notes)
    check_durations(table, column, t_s)
    is_nvidia = column.source in NVIDIA_POWER.values()
    unnamed = options.component or ("gpu:0" if is_nvidia else column.stem.removesuffix("_power"))
    component = device.component or unnamed
    meter = Meter(component, column.name, column.source, kind, uuid=device.uuid)
    return MeterRows(meter, t_s, value)
