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
from joulelab.format import count, percent
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
MOST_BY_ORDER = 64
LEAST_UTILIZATION = 64  # Numbers of GPUs that take turns from row to row are smaller.
TURNS = 0.9  # Share of polls or rounds in which each value of a column of devices occurs once.
BURST = 0.25  # Rows of one poll are closer than this share of the usual pause between polls.
LONG_PAUSE = 1.5
"""Where devices are read slowly, pauses this many times as long as usual steps may separate polls,
if they come after the same number of rows throughout."""
LEAST_POLLS = 5
REGULAR = 0.5  # Polls are regular if the middle half of their distances is within this share.
MOST_DOUBLES = 0.05  # Share of times that a single device may repeat, for a clock of whole seconds.
DISTINCT_SIGMAS = 6.0  # Means of two devices that differ by this many standard errors are distinct.
LEAST_RATIO = 1.25  # Rows that cycle through levels this far apart are of several devices.
LEAST_ROUNDS = 20
MOST_CYCLE = 16

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
    "voltage", "volt", "volts", "humidity", "percent", "pct", "fps", "rpm",
}  # fmt: skip
_ENERGY_UNITS = {*UNITS[Quantity.POWER], *UNITS[Quantity.ENERGY], *TIME_UNITS}
_UTILIZATIONS = {"gpu", "cpu", "npu"}
_LABELS = {"name", "id", "unit", "component"}
"""Names of devices, and as often of utilisations or of what ran."""
_HINT = (
    "name the column that distinguishes devices with --device-column, or state the number of "
    "devices with --devices (1 if all rows are of one)"
)
_UNIQUE = {"uuid", "gpu_uuid", "serial", "gpu_serial"}
_IDENTIFIERS = {"gpu_index", "index", "pci_bus_id", "bus_id", *_UNIQUE}
_SMI_TIME = re.compile(r"\d{4}/\d\d/\d\d \d\d:\d\d:\d\d\.\d{3}")
_COMPONENT = re.compile(r"(gpu|cpu|dram|card)[ :_#-]?(\d+)", re.IGNORECASE)
_TOTALS = {"total", "sum", "all", "overall", "psys", "aggregate"}
_PACKAGES = re.compile(r"package|pkg|cpu|processor|soc|vdd_?in", re.IGNORECASE)
_PARTS_OF_PACKAGES = re.compile(r"core|uncore|pp0|pp1|ia|gt|vdd_?(?!in).*", re.IGNORECASE)


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
                hint=_HINT,
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
        if others:
            raise UserError(
                f"{table.path}: rows are of several quantities, as column {table.names[i]!r} says",
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
            if 2 * changes > len(cells):
                raise UserError(
                    f"{table.path}: it is unclear whether {table.names[i]!r} distinguishes devices",
                    why=f"in {percent(turns[i].share)} of the polls its values occur once each",
                    hint=_HINT,
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
        is_smi = any(_SMI_TIME.fullmatch(cell) for row in table.sample[:1] for cell in row)
    return "gpu" if is_smi else "device"


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


def check_parts(table: Table, names: Sequence[str]) -> None:
    """Raise an error if a device is the sum of others, or contains them."""
    total = [name for name in names if set(re.split(r"[\W_]+", name.lower())) & _TOTALS]
    packages = [name for name in names if _PACKAGES.match(name)]
    parts = [name for name in names if _PARTS_OF_PACKAGES.match(name)]
    contains = total or (packages if parts else [])
    if contains and set(contains) != set(names):
        raise UserError(
            f"{table.path}: device {contains[0]!r} may contain the others",
            why=f"they are {', '.join(sorted(names))}",
            hint="choose one with --gpu",
        )


def split_by_order(
    table: Table,
    t_s: Floats,
    values: Sequence[Floats],
    powers: Sequence[Floats],
    options: LogOptions,
) -> tuple[list[DeviceRows], str]:
    """Distinguish the devices of rows without a column for them by their order in each poll.

    ``t_s`` are the finite times in the order of the file, ``values`` the columns of readings, and
    ``powers`` those of power.

    Returns:
        The devices, and a note.

    Raises:
        UserError: Polls have several rows, but not always the same number.
    """
    everything = [DeviceRows("", "", np.arange(t_s.size))]
    if options.devices == 1 or t_s.size < 2:
        return everything, ""
    polls = _polls(table, t_s, options)
    several = options.devices or polls.usual
    if several == 1:
        if options.devices is None and _is_regular(np.diff(t_s)):
            _check_cycles(table, powers)
        return everything, ""
    # The first and the last poll may be cut.
    inner = polls.sizes[1:-1] if polls.sizes.size > 2 else polls.sizes
    uneven = inner[inner % several > 0] if polls.usual > 1 else inner[:0]
    if uneven.size or (several > MOST_BY_ORDER and options.devices is None):
        why = f"most polls have {several} rows, {count(uneven.size, 'poll')} of {inner.size} others"
        raise UserError(
            f"{table.path} has several rows per poll and no column that distinguishes devices",
            why=why if uneven.size else f"they have {several}",
            hint=_HINT,
        )
    if options.devices is None:
        _check_distinct(table, t_s, polls, values)
    is_cut = polls.usual > 1 and polls.sizes.size > 2 and polls.sizes[0] % several
    first = int(polls.sizes[0]) if is_cut else 0
    position = np.arange(t_s.size - first) % several
    note = (
        f"{count(several, 'row')} per poll and no column that distinguishes devices: they are "
        "distinguished by their order"
    )
    return [
        DeviceRows(str(i), f"{usual_device(table)}:{i}", first + np.flatnonzero(position == i))
        for i in range(several)
    ], note


class _Polls(NamedTuple):
    """The rows of a log in groups that were written at once."""

    starts: Indices  # Position of the first row of each.
    sizes: Indices
    usual: int  # Rows of most polls; 1 for a log of single rows.


def _polls(table: Table, t_s: Floats, options: LogOptions) -> _Polls:
    """Group rows in the order of the file to polls."""
    steps = np.diff(t_s)
    found = _Polls(np.arange(t_s.size), np.ones(t_s.size, dtype=np.intp), 1)
    after_long = np.append(True, (steps < 0) | (steps >= LONG_PAUSE * np.median(steps)))
    for begins in (begins_poll(t_s), after_long):
        starts = np.flatnonzero(begins)
        sizes = np.diff(starts, append=t_s.size)
        bursts = np.flatnonzero(sizes > 1)
        if not bursts.size:
            continue
        is_rare = bursts.size <= max(MOST_DOUBLES * sizes.size, 1)
        if is_rare and sizes.max() == 2 and np.all(np.diff(bursts) > 1) and sizes.size > 2:
            # A late read of a single device, or a clock of whole seconds.
            return found
        numbers, often = np.unique(sizes, return_counts=True)
        usual = int(numbers[numbers > 1][often[numbers > 1].argmax()])
        is_even = bool(np.all(sizes[1:-1] % usual == 0)) and sizes.size >= LEAST_POLLS
        is_regular = sizes.size >= LEAST_POLLS and _is_regular(np.diff(t_s[starts]))
        # Reads of one device that are late now and then have groups of varying sizes between them.
        is_steady = np.count_nonzero(np.diff(sizes[1:-1])) <= MOST_DOUBLES * sizes.size
        if begins is not after_long:
            if is_even or is_regular or np.any(steps == 0):
                return _Polls(starts, sizes, usual)
        elif (
            sizes.size >= LEAST_ROUNDS
            and (is_even or (is_regular and is_steady))
            and options.devices is None
        ):
            raise UserError(
                f"{table.path} pauses after every {usual} rows, as if {usual} devices were read",
                hint=_HINT,
            )
    return found


def _is_regular(steps: Floats) -> bool:
    """Return whether the middle half of steps is about the same."""
    low, middle, high = np.quantile(steps, (0.25, 0.5, 0.75))
    return bool(high - low <= REGULAR * middle)


def _check_cycles(table: Table, powers: Sequence[Floats]) -> None:
    """Raise an error if the rows may be of several devices that take turns at an even pace."""
    for value in powers:
        if cycle := _cycle(value):
            raise UserError(
                f"{table.path}: its rows repeat {cycle} levels, as if {cycle} devices took turns",
                hint=_HINT,
            )


def _cycle(value: Floats) -> int | None:
    """Return after how many rows the values repeat levels far apart; ``None`` if they do not."""
    value = value[np.isfinite(value)][:2000]
    if value.size < 2 * LEAST_ROUNDS or np.ptp(value) == 0:
        return None
    for size in range(2, min(MOST_CYCLE, value.size // LEAST_ROUNDS) + 1):
        rounds = value[: value.size // size * size].reshape(-1, size)
        means, scatter = rounds.mean(axis=0), rounds.std(axis=0).max()
        low, high = float(means.min()), float(means.max())
        if high >= LEAST_RATIO * low and DISTINCT_SIGMAS * scatter < high - low:
            return size
    return None


def _check_distinct(table: Table, t_s: Floats, polls: _Polls, values: Sequence[Floats]) -> None:
    """Raise an error if rows at one whole second may as well be of one device."""
    several = polls.usual
    if np.any(t_s != np.rint(t_s)):
        return
    whole = polls.starts[polls.sizes == several]
    for value in values:
        rounds = value[whole[:, None] + np.arange(several)]
        rounds = rounds[np.isfinite(rounds).all(axis=1)]
        if len(rounds) < LEAST_POLLS:
            continue
        error = rounds.std(axis=0).max() / np.sqrt(len(rounds))
        if np.diff(np.sort(rounds.mean(axis=0))).min() > DISTINCT_SIGMAS * error:
            return
    raise UserError(
        f"{table.path} has {several} rows at each time, of {several} devices or of one",
        hint=_HINT,
    )
