"""Power and energy logs that others recorded, as a trace.

What is read: what ``nvidia-smi --query-gpu=... --format=csv`` writes, and any CSV file with a time
column and columns of power or energy. See ``docs/how-to/import-logs.md`` for what is recognised.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from joulelab.energy.signal import AVERAGE_S, INSPECTED_READINGS, Pace, is_moving_average, pace_of
from joulelab.errors import UserError
from joulelab.logs.columns import (
    NVIDIA_SMI_FIELDS,
    ColumnChoice,
    ValueColumn,
    choose_gpu,
    choose_values,
    coded,
    uuids,
)
from joulelab.logs.csv_table import Floats, Table, is_absent, open_table
from joulelab.logs.time_column import choose_time
from joulelab.recording.trace import Readings, Trace
from joulelab.sensors.nvml_accuracy import (
    GAIN_UNCERTAINTY,
    INSTANT_WINDOW_S,
    USUAL_PERIOD_S,
    timestamp_latency,
)
from joulelab.sensors.sensor import Absence, Channel, Provenance, Quantity

RING_PERIODS_S = (0.01, 0.04)
"""A log with own times this far apart is taken for NVML's ring of samples, 20 ms apart, whose
stamps are late."""
LEAST_READABLE = 0.5
"""A time column of which less than this share can be read is not one."""
COUNTER_RESETS = 0.05
"""A counter that goes back more often than this is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogOptions:
    """How logs are read.

    Attributes:
        columns: Which columns, and their units.
        window_s: Length of the average that a power value stands for, ending at its time;
            ``None``: what the column is known to be, or else the sensor's update period.
        gain_uncertainty: Relative standard uncertainty of the scale (k = 1); ``None``: that of
            GPUs' sensors, see :data:`joulelab.sensors.nvml_accuracy.GAIN_UNCERTAINTY`.
        component: What the power is of where the log does not tell, as ``"gpu:0"``.
    """

    columns: ColumnChoice = field(default_factory=ColumnChoice)
    window_s: float | None = None
    gain_uncertainty: float | None = None
    component: str | None = None


@dataclass(frozen=True, slots=True)
class Series:
    """One device's readings of one column.

    Attributes:
        channel: What they are.
        t_s: The log's own times, in order. Shape: (readings,).
        value: W or J, NaN where the log has none. Shape: (readings,).
        interval_s: How often it was logged.
        column: Its name in the file.
        uuid: Of the GPU, where the log names it.
    """

    channel: Channel
    t_s: Floats
    value: Floats
    interval_s: float
    column: str
    uuid: str = ""


@dataclass(frozen=True, slots=True)
class Log:
    """Logs as a trace.

    Attributes:
        trace: On the log's clock from ``origin_s``.
        origin_s: The log's time at the trace's time 0; a whole number of seconds.
        start_s: First reading, on the log's clock.
        stop_s: Last reading.
        notes: What was assumed, left out or put in order, for a person to read.
    """

    trace: Trace
    origin_s: float
    start_s: float
    stop_s: float
    notes: tuple[str, ...]


def read_logs(paths: Sequence[Path], options: LogOptions | None = None) -> Log:
    """Logs of one clock as one trace.

    Files whose devices have the same name are one log in parts where their times do not overlap,
    and different devices, named after their files, where they do.

    Args:
        paths: CSV files, plain or gzip.
        options: How they are read.

    Raises:
        UserError: One cannot be read, or what a column is cannot be told; the message says which.
    """
    notes: list[str] = []
    absent: list[Absence] = []
    found = [
        (path, series)
        for path in paths
        for series in read_series(path, options or LogOptions(), notes, absent)
    ]
    return as_log(_distinct(found), notes, absent)


def as_log(
    series: Sequence[Series], notes: Sequence[str] = (), absent: Sequence[Absence] = ()
) -> Log:
    """Readings of one or several devices as a trace."""
    start_s = min(float(one.t_s[0]) for one in series)
    stop_s = max(float(one.t_s[-1]) for one in series)
    origin_s = float(math.floor(start_s))
    readings = tuple(
        Readings(np.rint((one.t_s - origin_s) * 1e9).astype(np.int64), one.value) for one in series
    )
    header = {"intervals_s": [one.interval_s for one in series]}
    channels = tuple(one.channel for one in series)
    trace = Trace(channels, readings, tuple(absent), header=header)
    return Log(trace, origin_s, start_s, stop_s, tuple(notes))


def read_series(
    path: Path, options: LogOptions, notes: list[str], absent: list[Absence] | None = None
) -> list[Series]:
    """The readings of each device and column of one log.

    Args:
        path: The file.
        options: How it is read.
        notes: What was assumed and left out is added here.
        absent: Devices of which the log has no readings are added here; ``None``: an error.

    Raises:
        UserError: It cannot be read, or what a column is cannot be told.
    """
    table = open_table(path)
    time_position, to_seconds, time_note = choose_time(table, options.columns)
    values = choose_values(table, options.columns)
    if options.component and len(values) > 1:
        raise UserError(
            f"{path}: {len(values)} columns cannot all be {options.component}",
            hint="leave out --component, or take one column",
        )
    gpu_position = choose_gpu(table)
    names: list[str] = []
    wanted = [(time_position, to_seconds), *((one.position, one.converter) for one in values)]
    if gpu_position is not None:
        wanted.append((gpu_position, coded(names)))
    columns, left_out = table.read(wanted)
    said = [time_note, *(one.note for one in values), left_out]
    notes += [f"{path.name}: {note}" for note in said if note]
    t_s = columns[0]
    if t_s.size == 0:
        raise UserError(f"{path} has a header but no readings")
    readable = np.isfinite(t_s)
    if readable.mean() < LEAST_READABLE:
        raise UserError(
            f"{path}: column {table.names[time_position]!r} holds no times that can be read",
            hint="name another with --time-column, or its unit with --time-unit",
        )
    if not readable.all():
        lines = np.count_nonzero(~readable)
        notes.append(f"{path.name}: {lines} lines without a readable time were left out")
    series: list[Series] = []
    codes = columns[-1] if gpu_position is not None else None
    known_uuids = {} if gpu_position is None else uuids(table, gpu_position)
    for name, rows in _devices(path, names, codes, options.columns.gpu):
        chosen = readable if rows is None else readable & rows
        times = t_s[chosen]
        order = _order(times, path, notes)
        times = times if order is None else times[order]
        for column, data in zip(values, columns[1 : 1 + len(values)], strict=True):
            value = data[chosen] if order is None else data[chosen][order]
            gpu = f"gpu:{name}" if name else ""
            if absent is not None and len(names) > 1 and not _has_readings(times, value):
                why = f"{path.name} has no readings of it in {column.name!r}"
                absent.append(Absence(gpu, column.source, why))
                continue
            one = _series(table, column, gpu, times, value, options, notes)
            one = replace(one, uuid=known_uuids.get(name, ""))
            if len(values) > 1:
                one = replace(one, channel=_apart(one.channel, column))
            series.append(one)
    if not series:
        raise UserError(f"{path} has no readings of any of its {len(names)} GPUs")
    return series


def _has_readings(t_s: Floats, value: Floats) -> bool:
    """Whether there are two, at different times."""
    seen = t_s[np.isfinite(value)]
    return bool(seen.size) and seen[0] != seen[-1]


def _other_cells(table: Table, column: ValueColumn) -> str:
    """What a column holds where it has no numbers."""
    cells = dict.fromkeys(table.cells(column.position))
    shown = next(iter(cells), "")
    if all(map(is_absent, cells)):
        return f"its cells say that there is none: {shown!r}"
    return f"its cells are no numbers: {shown!r}"


def _apart(channel: Channel, column: ValueColumn) -> Channel:
    """One of several columns that are to be added up."""
    if not channel.component.startswith("gpu:"):
        return channel
    return replace(channel, component=f"{channel.component}:{column.stem}")


def _devices(
    path: Path, names: Sequence[str], codes: Floats | None, wanted: str | None
) -> Iterator[tuple[str, NDArray[np.bool_] | None]]:
    """Each device's name and rows; one of no name when the log does not tell them apart."""
    if codes is None:
        if wanted is not None:
            raise UserError(f"{path} does not tell GPUs apart", hint="leave out --gpu")
        yield "", None
        return
    if wanted is not None and wanted not in names:
        raise UserError(f"{path} has no GPU {wanted!r}", hint=f"choose from {', '.join(names)}")
    for code, name in enumerate(names):
        if wanted in (None, name):
            yield name, codes == code


def _order(t_s: Floats, path: Path, notes: list[str]) -> NDArray[np.intp] | None:
    """How to sort the readings by time; ``None`` when they are in order."""
    back = np.count_nonzero(np.diff(t_s) < 0)
    if back == 0:
        return None
    notes.append(f"{path.name}: time goes back {back} times; the readings were sorted")
    return np.argsort(t_s, kind="stable")


def _series(
    table: Table,
    column: ValueColumn,
    gpu: str,
    t_s: Floats,
    value: Floats,
    options: LogOptions,
    notes: list[str],
) -> Series:
    path, seen = table.path, np.isfinite(value)
    if not _has_readings(t_s, value):
        raise UserError(
            f"{path}: column {column.name!r} has fewer than two readings",
            why=_other_cells(table, column) if value.size > 1 else "",
            hint="name another with --power-column or --energy-column",
        )
    missing = value.size - np.count_nonzero(seen)
    if missing:
        notes.append(f"{path.name}: {column.name!r} has no value in {missing} lines")
    pace = pace_of(t_s[seen], value[seen])
    nvidia = column.source in NVIDIA_SMI_FIELDS.values()
    unnamed = options.component or ("gpu:0" if nvidia else column.stem.removesuffix("_power"))
    channel = Channel(
        component=gpu or unnamed,
        quantity=Quantity.ENERGY if column.energy else Quantity.POWER,
        source=column.source,
        provenance=Provenance.MEASURED,
        update_period_s=pace.period_s,
        window_s=0.0 if column.energy else pace.period_s,
        polled=pace.polled,
        gain_uncertainty=(
            GAIN_UNCERTAINTY if options.gain_uncertainty is None else options.gain_uncertainty
        ),
        note=f"{column.name} of {path.name}",
    )
    if column.energy:
        _check_counter(path, column, value[seen])
    elif nvidia:
        channel = _nvidia(channel, pace, is_moving_average(t_s, value, pace))
    elif not (pace.polled or channel.component.startswith(("cpu", "dram"))):
        channel = _ring(channel, t_s[seen])
    if options.window_s is not None and not column.energy:
        channel = replace(channel, window_s=options.window_s, time_uncertainty_s=0.0)
    return Series(channel, t_s, value, pace.interval_s, column.name)


def _nvidia(channel: Channel, pace: Pace, averaged: bool | None) -> Channel:
    """What is known of the power fields of nvidia-smi.

    ``power.draw`` is an average over 1 s on Ampere and newer (but not on GA100), where the log
    does not show which, it is taken in the middle between the two and the time as uncertain as
    that (rectangular, GUM 4.3.7).
    """
    period_s = pace.period_s if pace.polled else min(pace.period_s, USUAL_PERIOD_S)
    channel = replace(channel, update_period_s=period_s, polled=True)
    if channel.source == "nvml.power_instant":
        return replace(channel, window_s=min(INSTANT_WINDOW_S, period_s))
    if channel.source == "nvml.power_average" or averaged:
        return replace(channel, window_s=AVERAGE_S)
    if averaged is None:
        return replace(
            channel,
            window_s=AVERAGE_S / 2,
            time_uncertainty_s=AVERAGE_S / 4 / math.sqrt(3),
            note=f"{channel.note}: whether it is an average over {AVERAGE_S:g} s is not known",
        )
    return replace(channel, window_s=period_s)


def _ring(channel: Channel, t_s: Floats) -> Channel:
    """What is known of NVML's ring, where a log has its pace."""
    low_s, high_s = RING_PERIODS_S
    if not low_s < channel.update_period_s < high_s:
        return channel
    steps_s = np.diff(t_s[:INSPECTED_READINGS]).tolist()
    delay_s, time_uncertainty_s = timestamp_latency(steps_s, channel.update_period_s)
    return replace(channel, delay_s=delay_s, time_uncertainty_s=time_uncertainty_s)


def _check_counter(path: Path, column: ValueColumn, value: Floats) -> None:
    back = np.count_nonzero(np.diff(value) < 0)
    if back > COUNTER_RESETS * value.size:
        raise UserError(
            f"{path}: column {column.name!r} is no energy counter",
            why=f"it goes back {back} times",
            hint="name a column of power, or of energy since a fixed time",
        )


def _distinct(found: Sequence[tuple[Path, Series]]) -> list[Series]:
    """Parts of one log joined; devices of one name in several logs named apart."""
    groups: dict[tuple[str, str], list[tuple[Path, Series]]] = {}
    for path, one in found:
        groups.setdefault((one.channel.component, one.column), []).append((path, one))
    distinct: list[Series] = []
    for group in groups.values():
        parts = sorted((one for _, one in group), key=lambda one: float(one.t_s[0]))
        if all(one.t_s[-1] <= after.t_s[0] for one, after in pairwise(parts)):
            distinct.append(_joined(parts))
        else:
            distinct += [_named_after(path, one) for path, one in group]
    return distinct


def _joined(parts: Sequence[Series]) -> Series:
    if len(parts) == 1:
        return parts[0]
    return replace(
        parts[0],
        t_s=np.concatenate([one.t_s for one in parts]),
        value=np.concatenate([one.value for one in parts]),
    )


def _named_after(path: Path, one: Series) -> Series:
    stem = path.name.partition(".")[0]
    return replace(one, channel=replace(one.channel, component=f"{stem}:{one.channel.component}"))
