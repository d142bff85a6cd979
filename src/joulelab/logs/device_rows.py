"""Which rows of a table belong to which device.

A column distinguishes devices if its values take turns: all of them occur in each poll, or in each
round of as many rows. Its name decides only between several such columns: a column that is called
``device`` and changes once a minute is a label of what ran. Without such a column, devices are
distinguished by their order if every poll has the same number of rows.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from joulelab.arrays import Bools, Floats, Indices
from joulelab.errors import UserError
from joulelab.format import percent
from joulelab.logs.cells import CellKind, is_absent, kind_of
from joulelab.logs.columns import (
    NVIDIA_POWER,
    TIME_UNITS,
    UNITS,
    LogOptions,
    find,
    parse_name,
)
from joulelab.logs.csv_table import Table
from joulelab.sensors.sensor import Quantity

MOST_DEVICES = 1024
LEAST_UTILIZATION = 64  # Numbers of GPUs that take turns from row to row are smaller.
TURNS = 0.9  # Share of polls or rounds in which each value of a column of devices occurs once.
BURST = 0.25  # Rows of one poll are closer than this share of the usual pause between polls.
LEAST_POLLS = 5
LEAST_STRETCH = 5  # Rows in a row that a label of what ran has on average.

_BOARDS = (
    "gpu_index", "gpu_id", "index", "gpu", "minor_number", "uuid", "gpu_uuid", "pci_bus_id",
    "bus_id", "serial", "gpu_serial", "gpu_name", "card", "accelerator", "npu", "tpu", "xpu", "gcd",
)  # fmt: skip
_PLACES = (
    "device_index", "device_id", "deviceid", "device", "device_name", "dev", "host", "hostname",
    "node", "node_name", "nodename", "machine", "server", "instance", "channel", "sensor",
    "sensor_id", "port", "outlet", "plug", "rail", "domain", "zone", "component", "entity",
    "entity_id", "name", "id", "meter", "slot", "rank", "local_rank", "unit",
)  # fmt: skip
_SOCKETS = ("socket", "package", "cpu", "cpu_id", "numa", "die")
_HOSTS = {"host", "hostname", "node", "node_name", "nodename", "machine", "server", "instance"}
_QUANTITIES = {
    "temperature", "temp", "utilization", "util", "clock", "clocks", "frequency", "freq",
    "voltage", "volt", "volts", "humidity", "percent", "pct", "fps", "rpm", "limit", "cap", "tdp",
    "budget", "setpoint",
}  # fmt: skip
_STATISTICS = {
    "mean", "avg", "average", "median", "min", "minimum", "max", "maximum", "std", "stddev", "p50",
    "p90", "p95", "p99", "now", "current", "last",
}  # fmt: skip
_FIELDS = {"field", "metric", "metric_name", "field_name", "quantity", "measurement", "parameter"}
_POWER_WORDS = {"power", "watt", "watts", "energy", "joule", "joules"}
_ENERGY_UNITS = {*UNITS[Quantity.POWER], *UNITS[Quantity.ENERGY], *TIME_UNITS}
_UTILIZATIONS = {"gpu", "cpu", "npu"}
_LABELS = {"name", "id", "unit", "component"}
"""Names of devices, and as often of utilisations or of what ran."""
DEVICE_HINT = (
    "name the column that distinguishes devices with --device-column, or state the number of "
    "devices with --devices (1 if all rows are of one)"
)
_UNIQUE = {"uuid", "gpu_uuid", "serial", "gpu_serial"}
_IDENTIFIERS = {"gpu_index", "index", "pci_bus_id", "bus_id", *_UNIQUE}
_SMI_TIME = re.compile(r"\d{4}/\d\d/\d\d \d\d:\d\d:\d\d\.\d{3}")
_COMPONENT = re.compile(r"(gpu|cpu|dram|card)[ :_#-]?(\d+)", re.IGNORECASE)


class Turns(NamedTuple):
    """How often the values of a column occur together, in the rows where all of them occur."""

    values: int
    share: float  # Of polls or rounds in which each occurs once.
    in_polls: bool = False  # Rows come in polls; otherwise, rounds are that many rows at any time.

    @property
    def distinguishes(self) -> bool:
        """Whether the values take turns."""
        return self.values > 1 and self.share >= TURNS


@dataclass(frozen=True, slots=True)
class DeviceColumns:
    """The columns that distinguish devices: none, one, or a host and its device."""

    positions: tuple[int, ...] = ()
    note: str = ""


@dataclass(frozen=True, slots=True)
class DeviceRows:
    """The rows of one device: positions among all rows, in order of time."""

    name: str  # As in the log; empty if it names none.
    component: str  # Empty if the log does not name it.
    rows: Indices


def choose_device_columns(
    table: Table, t_s: Floats, others: Sequence[int], options: LogOptions
) -> DeviceColumns:
    """Choose the columns that distinguish devices, from the sample and its times.

    ``others`` are the columns of times and readings.

    Raises:
        UserError: A column is named like devices, but its values neither take turns nor stay.
    """
    if options.gpu is None:
        _check_fields(table)
    if options.device_column is not None:
        return DeviceColumns((find(table, options.device_column),))
    if options.devices is not None:
        return DeviceColumns()
    readable = np.flatnonzero(np.isfinite(t_s))
    order = readable[np.argsort(t_s[readable], kind="stable")]
    candidates = [i for i in range(len(table.names)) if i not in others]
    known = [i for i in _known_columns(table) if i in candidates]
    turns = {i: _turns(table, (i,), t_s, order) for i in candidates}
    if options.gpu is None:
        _check_quantities(table, [i for i, one in turns.items() if one.distinguishes])
    several = [i for i, one in turns.items() if one.distinguishes]
    board = [i for i in known if parse_name(table.names[i]).stem in _UNIQUE]
    if several and board and len({*table.cells(board[0])}) == 1:
        # Rows of several processes or jobs on one board.
        return DeviceColumns((board[0],))
    sure = [i for i in known if i in several and (turns[i].in_polls or not _may_be_load(table, i))]
    named = _on_host(table, known, sure[0]) if sure else _pair(table, known, t_s, order)
    if named:
        return DeviceColumns(named)
    is_text = {CellKind.TEXT, CellKind.ABSENT}
    for what, shows in (
        ("index", _is_index),
        ("name", lambda cells: set(map(kind_of, cells)) <= is_text),
    ):
        found = next((i for i in several if shows(table.cells(i))), None)
        if found is not None and not turns[found].in_polls and table.header:
            raise UserError(
                f"{table.path}: column {table.names[found]!r} may distinguish devices, or what ran",
                why="its values take turns from row to row",
                hint=DEVICE_HINT,
            )
        if found is not None:
            note = f"column {table.names[found]!r} is read as the {what} of a device"
            return DeviceColumns((found,), note)
    return _single(table, known, turns, order)


def _check_quantities(table: Table, positions: Sequence[int]) -> None:
    """Raise an error if rows are not only of power, as in a table with a row for each metric."""
    for i in positions:
        values = list(dict.fromkeys(table.cells(i)))
        names = [parse_name(value) for value in values]
        others = [
            value
            for value, name in zip(values, names, strict=True)
            if name.words & _QUANTITIES or (name.unit and name.unit not in _ENERGY_UNITS)
        ]
        if all(name.words <= _STATISTICS | _POWER_WORDS for name in names):
            others = values
        if others:
            raise _several_quantities(table, i, others)


def _check_fields(table: Table) -> None:
    """Raise an error if a column of quantities has names of power and of others."""
    for i, text in enumerate(table.names if table.header else ()):
        if parse_name(text).stem in _FIELDS:
            names = dict.fromkeys(table.cells(i))
            others = [name for name in names if not parse_name(name).words & _POWER_WORDS]
            if 0 < len(others) < len(names):
                raise _several_quantities(table, i, others)


def _several_quantities(table: Table, position: int, others: Sequence[str]) -> UserError:
    return UserError(
        f"{table.path}: rows are of several quantities, as column {table.names[position]!r} says",
        why=f"it has {', '.join(map(repr, others[:3]))}",
        hint="choose the rows of power with --gpu, or leave the others out of the file",
    )


def _on_host(table: Table, known: Sequence[int], position: int) -> tuple[int, ...]:
    """Return the column of a device, after that of its host if there are several.

    Hosts may write at times of their own, so that their devices take turns without them.
    """
    stem = parse_name(table.names[position]).stem
    if stem in _UNIQUE or stem not in {*_BOARDS, *_SOCKETS}:
        return (position,)
    hosts = (i for i in known if parse_name(table.names[i]).stem in _HOSTS)
    several = (i for i in hosts if len({*table.cells(i)} - {""}) > 1)
    return (*list(several)[:1], position)


def _pair(
    table: Table, known: Sequence[int], t_s: Floats, order: Indices
) -> tuple[int, ...] | None:
    """Return the columns of a host and of its device, if they take turns together."""
    for pair in itertools.combinations(known, 2):
        ordered = sorted(pair, key=lambda i: parse_name(table.names[i]).stem not in _HOSTS)
        one = _turns(table, ordered, t_s, order)
        is_host = [parse_name(table.names[i]).stem in _HOSTS for i in ordered]
        if is_host == [True, False] and one.distinguishes:
            return tuple(ordered)
    return None


def _known_columns(table: Table) -> list[int]:
    """Return the columns that are named like devices, the most specific first."""
    if not table.header:
        return []
    names = [parse_name(text) for text in table.names]
    # A percentage or a memory of a GPU may be called "gpu" too.
    stems = {
        name.stem: i for i, name in enumerate(names) if not name.unit and "%" not in table.names[i]
    }
    return [stems[stem] for stem in (*_BOARDS, *_PLACES, *_SOCKETS) if stem in stems]


def _single(
    table: Table, known: Sequence[int], turns: dict[int, Turns], order: Indices
) -> DeviceColumns:
    """Choose a column that names the only device, or devices that ran one after the other."""
    for i in known:
        cells = [cell for row in order if not is_absent(cell := table.cells(i)[row])]
        values = list(dict.fromkeys(cells))
        name = parse_name(table.names[i]).stem
        # Numbers of rows are called "index" too, and utilisations "gpu" or "cpu".
        if not values or len(values) == len(cells) > 1 or not _are_identifiers(values):
            continue
        if len(values) == 1 and name in _BOARDS:
            return DeviceColumns((i,))
        if len(values) > 1 and name in _IDENTIFIERS:
            return DeviceColumns((i,))
        if len(values) > 1:
            changes = sum(one != two for one, two in itertools.pairwise(cells))
            if LEAST_STRETCH * changes > len(cells):
                raise UserError(
                    f"{table.path}: it is unclear whether {table.names[i]!r} distinguishes devices",
                    why=f"in {percent(turns[i].share)} of the polls its values occur once each",
                    hint=DEVICE_HINT,
                )
            note = f"column {table.names[i]!r} changes over time: it is not taken for a device"
            return DeviceColumns(note=note)
    return DeviceColumns()


def _may_be_load(table: Table, position: int) -> bool:
    """Return whether values that take turns from row to row may as well be of what ran."""
    stem = parse_name(table.names[position]).stem
    values = {cell for cell in table.cells(position) if not is_absent(cell)}
    if stem in _UTILIZATIONS:
        return any(cell.isdigit() and int(cell) >= LEAST_UTILIZATION for cell in values)
    return stem in _LABELS


def _are_identifiers(values: Sequence[str]) -> bool:
    """Return whether different cells may name devices; readings are numbers far apart."""
    if len(values) > MOST_DEVICES:
        return False
    if any(kind_of(value) is CellKind.NUMBER for value in values):
        return all(value.isdigit() and int(value) <= 2 * len(values) for value in values)
    return True


def _turns(table: Table, positions: Sequence[int], t_s: Floats, order: Indices) -> Turns:
    """Return whether the values of columns take turns, from the rows in order of time."""
    columns = [table.cells(i) for i in positions]
    names = [tuple(column[row] for column in columns) for row in order]
    use = [i for i, name in enumerate(names) if not all(map(is_absent, name))]
    names, times_s = [names[i] for i in use], t_s[order[use]]
    known = {name: code for code, name in enumerate(dict.fromkeys(names))}
    if not 1 < len(known) <= MOST_DEVICES or 2 * len(known) > len(names):
        return Turns(len(known), 0.0)
    codes = np.array([known[name] for name in names])
    first = max(int(np.flatnonzero(codes == code)[0]) for code in known.values())
    last = min(int(np.flatnonzero(codes == code)[-1]) for code in known.values())
    # The first round begins before the last value is seen first.
    first, stop = max(first - len(known) + 1, 0), min(last + len(known), len(codes))
    codes, times_s = codes[first:stop], times_s[first:stop]
    if codes.size < 2 * len(known):
        return Turns(len(known), 0.0)
    polls = np.split(codes, np.flatnonzero(begins_poll(times_s))[1:])
    whole = [one for one in polls if one.size > 1]
    if 2 * len(whole) > len(polls):
        share = float(np.mean([np.unique(one).size == one.size for one in whole]))
    else:
        rounds = np.lib.stride_tricks.sliding_window_view(codes, len(known))
        share = float(np.mean([len(set(one)) == len(known) for one in rounds.tolist()]))
    return Turns(len(known), share, 2 * len(whole) > len(polls))


def _is_index(cells: Sequence[str]) -> bool:
    """Return whether cells are whole numbers from 0 or 1 on."""
    values = {cell for cell in cells if not is_absent(cell)}
    expected = [{str(i + first) for i in range(len(values))} for first in (0, 1)]
    return values in expected


def begins_poll(t_s: Floats) -> Bools:
    """Return which rows begin a poll: those after a pause, by the usual pause of the log."""
    steps = np.diff(t_s)
    begins = np.ones(t_s.size, dtype=bool)
    forward = steps[steps > 0]
    if forward.size:
        # Half of the time is in pauses of this length or longer. A few long ones do not count.
        lengths = np.sort(np.minimum(forward, np.quantile(forward, 0.99)))
        total = np.cumsum(lengths)
        pause_s = float(lengths[np.searchsorted(total, total[-1] / 2)])
        begins[1:] = (steps < 0) | (steps >= BURST * pause_s)
    return begins


def has_few_polls(t_s: Floats) -> bool:
    """Return whether rows at these times are of fewer polls than show what takes turns."""
    steps = np.diff(np.sort(t_s[np.isfinite(t_s)]))
    return bool(np.count_nonzero(steps >= BURST * steps.max(initial=0.0)) < LEAST_POLLS)


def name_devices(
    table: Table, columns: DeviceColumns, names: Sequence[tuple[str, ...]]
) -> list[str]:
    """Return the components of devices that columns name."""
    stems = [parse_name(table.names[i]).stem if table.header else "" for i in columns.positions]
    usual = usual_device(table)
    return [
        ":".join(_component(stem, cell, usual) for stem, cell in zip(stems, name, strict=True))
        for name in names
    ]


def usual_device(table: Table) -> str:
    """Return what to call a device that has a number only: nvidia-smi's are GPUs."""
    if table.header:
        is_smi = any(parse_name(name).stem in NVIDIA_POWER for name in table.names)
    else:
        is_smi = has_smi_times(table)
    return "gpu" if is_smi else "device"


def has_smi_times(table: Table) -> bool:
    """Return whether times are as nvidia-smi writes them."""
    return any(_SMI_TIME.fullmatch(cell) for row in table.sample[:1] for cell in row)


def _component(stem: str, cell: str, usual: str) -> str:
    """Return the component of a device by what its column is called."""
    if match := _COMPONENT.fullmatch(cell):
        kind = match[1].lower().replace("card", "gpu")
        return f"{kind}:{match[2]}"
    if stem in _BOARDS:
        return f"gpu:{cell}"
    if stem in _SOCKETS:
        return f"cpu:{cell}"
    return f"{usual}:{cell}" if cell.isdigit() else cell
