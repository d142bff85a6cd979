"""Logs of power, energy and telemetry that other tools recorded, as a trace.

They are what ``nvidia-smi --query-gpu=... --format=csv`` writes, and any CSV files with a time
column and columns of power or energy; see ``docs/how-to/import-logs.md``. All functions raise a
:class:`UserError` if a file cannot be read or the meaning of a column is unclear.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from joulelab.energy.signal import Pace, implausible_power_w, pace_of
from joulelab.errors import UserError
from joulelab.format import first_words, join_words
from joulelab.logs.cells import is_absent
from joulelab.logs.columns import MOST_NAMES, Column, LogOptions, choose_telemetry
from joulelab.logs.csv_table import Table, open_table
from joulelab.logs.formats import find_format, read_format
from joulelab.logs.series import Series, has_readings, to_series
from joulelab.logs.table_rows import read_devices, read_meters
from joulelab.recording.trace import Readings, Trace
from joulelab.recording.trace_spans import Window
from joulelab.sensors.plausibility import implausible
from joulelab.sensors.sensor import Absence, Channel, Provenance, Quantity
from joulelab.validation import MOST_NS

LONGEST_S = 20 * 365.25 * 86400
"""20 years. A log that is longer has a time that is none, as of 1970 before a clock is set."""


@dataclass(frozen=True, slots=True)
class Log:
    """One or several logs as a trace, whose time 0 is ``origin_s`` on the log's clock."""

    trace: Trace
    origin_s: float
    start_s: float  # First reading, on the log's clock.
    stop_s: float  # Last reading, likewise.
    notes: tuple[str, ...]  # What was assumed, skipped or sorted.
    runs: tuple[tuple[str, float, float], ...] = ()
    """Name, start and stop of finished runs, for a log that only has their energies."""

    @property
    def extent(self) -> str:
        """The time that the log covers, for a message."""
        return f"from {self.start_s:.12g} to {self.stop_s:.12g} s"

    def overlaps(self, start_s: float, stop_s: float) -> bool:
        """Return whether a span on the log's clock overlaps the log."""
        return stop_s >= self.start_s and start_s <= self.stop_s

    def window(self, start_s: float, stop_s: float) -> Window:
        """Convert a span on the log's clock to the clock of the trace."""
        start_ns, stop_ns = (
            round(max(-MOST_NS, min((t_s - self.origin_s) * 1e9, MOST_NS)))
            for t_s in (start_s, stop_s)
        )
        return Window(start_ns, stop_ns)


def read_logs(paths: Sequence[Path], options: LogOptions | None = None) -> Log:
    """Read logs of one clock as one trace.

    Files with the same devices are parts of one log if their times do not overlap; otherwise they
    are different devices, which are named after their files.
    """
    notes: list[str] = []
    absent: list[Absence] = []
    runs: list[tuple[str, float, float]] = []
    groups: dict[tuple[str, str], list[tuple[Path, Series]]] = {}
    for path in paths:
        for one in read_series(path, options or LogOptions(), notes, absent, runs):
            groups.setdefault((one.channel.component, one.column), []).append((path, one))
    series: list[Series] = []
    for group in groups.values():
        parts = sorted((one for _, one in group), key=lambda one: float(one.t_s[0]))
        if (joined := _join_parts(parts)) is not None:
            series.append(joined)
            continue
        if runs:
            raise UserError(
                f"{join_words([str(path) for path, _ in group])} have runs at the same time",
                why="each may contain the energy of the others",
                hint="import them one at a time",
            )
        _note_copies(group, notes)
        for label, (_, one) in zip(_labels([path for path, _ in group]), group, strict=True):
            component = f"{label}:{one.channel.component}"
            series.append(replace(one, channel=replace(one.channel, component=component)))
    return replace(as_log(series, notes, absent), runs=tuple(runs))


def _join_parts(parts: Sequence[Series]) -> Series | None:
    """Join series that follow each other in time; the same rows may be at the end and the start.

    Returns:
        ``None`` if they overlap otherwise, as those of several devices.
    """
    joined = parts[0]
    for part in parts[1:]:
        stop_s, start_s = joined.t_s[-1], part.t_s[0]
        last, first = joined.t_s >= start_s, part.t_s <= stop_s
        is_repeated = np.array_equal(joined.t_s[last], part.t_s[first]) and np.array_equal(
            joined.value[last], part.value[first], equal_nan=True
        )
        # A copy of the whole may as well be a device that is like another.
        if stop_s > start_s and not (is_repeated and not last.all() and not first.all()):
            return None
        rest = ~first if is_repeated else np.ones(part.t_s.size, dtype=bool)
        t_s = np.concatenate([joined.t_s, part.t_s[rest]])
        value = np.concatenate([joined.value, part.value[rest]])
        joined = replace(joined, t_s=t_s, value=value)
    return joined


def _note_copies(group: Sequence[tuple[Path, Series]], notes: list[str]) -> None:
    """Note which files have identical readings."""
    for i, (path, one) in enumerate(group):
        for other_path, other in group[:i]:
            is_same = np.array_equal(one.t_s, other.t_s) and np.array_equal(
                one.value, other.value, equal_nan=True
            )
            if is_same and np.ptp(one.value) > 0:
                notes.append(
                    f"{other_path} and {path} have identical readings of {one.channel.component}, "
                    "which both count: one may be a copy"
                )


def _labels(paths: Sequence[Path]) -> list[str]:
    """Name files by as few parts of their paths as distinguish them."""
    twice = next((path for i, path in enumerate(paths) if path in paths[:i]), None)
    if twice is not None:
        raise UserError(f"{twice} is given twice", hint="give each log once")
    names = [path.with_name(path.name.partition(".")[0]).absolute().parts for path in paths]
    most = max(map(len, names))
    parts = next((i for i in range(1, most) if len({name[-i:] for name in names}) == len(names)), 0)
    return [
        "/".join(name[-parts:]) if parts else str(path)
        for name, path in zip(names, paths, strict=True)
    ]


def as_log(
    series: Sequence[Series], notes: Sequence[str] = (), absent: Sequence[Absence] = ()
) -> Log:
    """Combine the readings of one or several devices to a trace.

    Raises:
        UserError: A device reports more than it can draw, or the log is longer than 20 years.
    """
    start_s = min(float(one.t_s[0]) for one in series)
    stop_s = max(float(one.t_s[-1]) for one in series)
    if not stop_s - start_s <= LONGEST_S:
        raise UserError(
            "a time of the log cannot be right",
            why=f"its times go from {start_s:.12g} to {stop_s:.12g} s",
            hint="check its first and last rows, or name the column with --time-column",
        )
    origin_s = float(math.floor(start_s))
    readings = tuple(
        Readings(np.rint((one.t_s - origin_s) * 1e9).astype(np.int64), one.value) for one in series
    )
    for one, found in zip(series, readings, strict=True):
        power_w = implausible_power_w(one.channel, found, one.interval_s)
        if power_w is not None:
            raise UserError(
                f"{one.channel.component} of column {one.column!r} cannot be right",
                why=implausible(one.channel, power_w),
                hint="give its unit with --power-unit, or choose another column",
            )
    header = {"intervals_s": [one.interval_s for one in series]}
    channels = tuple(one.channel for one in series)
    trace = Trace(channels, readings, tuple(absent), header=header)
    return Log(trace, origin_s, start_s, stop_s, tuple(notes))


def read_series(
    path: Path,
    options: LogOptions,
    notes: list[str],
    absent: list[Absence] | None = None,
    runs: list[tuple[str, float, float]] | None = None,
) -> list[Series]:
    """Read power and energy of each device of a log; one without is ``absent``, or an error."""
    if (recording := read_format(path, options)) is not None:
        notes += recording.notes
        if runs is not None:
            runs += recording.runs
        return recording.series
    table = open_table(path)
    if len(table.names) == 1 and (options.interval_s is None or not table.header):
        raise UserError(
            f"{path} is no table: its lines have one cell, such as {table.shown_line()!r}",
            hint="separate cells by commas, semicolons or tabs; if they are power in W, write "
            "'power [W]' above them and state --interval SECONDS",
        )
    meters = read_meters(table, options, notes, absent)
    return [to_series(path, one, options, notes) for one in meters]


def _channel(component: str, column: Column, table: Table, pace: Pace) -> Channel:
    return Channel(
        component=component,
        quantity=column.quantity,
        source=column.source,
        provenance=Provenance.MEASURED,
        update_period_s=pace.period_s,
        polled=pace.polled,
        note=f"{column.name} of {table.path.name}",
    )


def with_telemetry(log: Log, paths: Sequence[Path], options: LogOptions, required: bool) -> Log:
    """Add telemetry and an energy counter to a log of power; some columns may be ``required``."""
    found: list[tuple[Channel, Readings]] = []
    for path in paths:
        if find_format(path, options) is not None:
            continue
        table = open_table(path)
        columns = choose_telemetry(table)
        if columns:
            found += _read_telemetry(table, columns, options, log)
        elif required:
            raise UserError(
                f"{path} has no column of utilisation, memory, temperature, clocks or energy",
                why=f"its columns are {first_words(table.names, MOST_NAMES)}",
            )
    trace = log.trace
    intervals_s = [channel.update_period_s for channel, _ in found]
    header = {**trace.header, "intervals_s": [*trace.header["intervals_s"], *intervals_s]}
    channels = (*trace.channels, *(channel for channel, _ in found))
    series = (*trace.series, *(readings for _, readings in found))
    return replace(log, trace=replace(trace, channels=channels, series=series, header=header))


def _read_telemetry(
    table: Table, columns: Sequence[Column], options: LogOptions, log: Log
) -> Iterator[tuple[Channel, Readings]]:
    devices = read_devices(table, columns, options, [])
    times_s = [device.t_s[[0, -1]] for device in devices if device.t_s.size]
    if not log.overlaps(float(np.min(times_s)), float(np.max(times_s))):
        raise UserError(
            f"no reading of {table.path} is within the log of power",
            why=f"which goes {log.extent}",
            hint="put both on one clock",
        )
    gpus = {one.component for one in log.trace.channels if one.component.startswith("gpu")}
    unnamed = gpus.pop() if len(gpus) == 1 else "gpu:0"
    for device in devices:
        if device.name and options.gpu not in (None, device.name):
            continue
        for column, value in zip(columns, device.values, strict=True):
            seen = np.isfinite(value)
            if not has_readings(device.t_s, value):
                continue
            t_ns = np.rint((device.t_s[seen] - log.origin_s) * 1e9).astype(np.int64)
            pace = pace_of(np.asarray(t_ns * 1e-9, dtype=np.float64), value[seen])
            is_host = column.stem.startswith("cpu")
            component = "host" if is_host else device.component or unnamed
            channel = _channel(component, column, table, pace)
            if column.quantity is Quantity.ENERGY:
                # It refines power. Next to another meter or none, it would add energy.
                meters = [one for one in log.trace.channels if one.component == component]
                meters = [one for one in meters if one.gives_energy]
                is_decreasing = np.any(np.diff(value[seen]) < 0)
                if [one.quantity for one in meters] != [Quantity.POWER] or is_decreasing:
                    continue
                gain_uncertainty = meters[0].gain_uncertainty
                channel = replace(channel, gain_uncertainty=gain_uncertainty, priority=1)
            else:
                channel = replace(channel, update_period_s=pace.interval_s, polled=True)
            yield channel, Readings(t_ns, value[seen])


def assign_power_to_gpu(log: Log) -> Log:
    """Assign the log's only power to the first GPU if the log does not name its component."""
    powers = [one for one in log.trace.channels if one.gives_energy]
    if len(powers) != 1 or powers[0].component.startswith(("gpu", "cpu", "dram")):
        return log
    channels = tuple(
        replace(one, component="gpu:0") if one is powers[0] else one for one in log.trace.channels
    )
    note = f"assuming that {powers[0].note} is the power of gpu:0 (change it with --component)"
    return replace(log, trace=replace(log.trace, channels=channels), notes=(*log.notes, note))


def gpu_models(paths: Iterable[Path]) -> list[str]:
    """List the models of GPUs in the column ``name`` of logs, in order of appearance."""
    tables = [open_table(path) for path in paths if find_format(path) is None]
    tables = [table for table in tables if "name" in table.names]
    cells = [cell for table in tables for cell in table.cells(table.names.index("name"))]
    return list(dict.fromkeys(cell for cell in cells if not is_absent(cell)))
