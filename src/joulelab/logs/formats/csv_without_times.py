"""CSV of nvidia-smi, rocm-smi and amd-smi without a column of times.

They are what ``nvidia-smi --query-gpu=power.draw --format=csv -l 1`` writes, and loops around these
tools. Times are those that the loop wrote on lines of their own, or are at equal intervals.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from joulelab.format import count
from joulelab.logs.columns import NVIDIA_POWER, parse_name
from joulelab.logs.formats.csv_layouts import split_cells
from joulelab.logs.formats.log_text import STAMP_PREFIX, LogText
from joulelab.logs.formats.meters import Format, Reading, number
from joulelab.logs.series import Meter
from joulelab.logs.time_column import is_time_name
from joulelab.logs.timestamps import is_clock, is_date

_POWER = {
    **NVIDIA_POWER,
    "current_socket_graphics_package_power": "rocm_smi.package_power",
    "average_graphics_package_power": "rocm_smi.package_power",
    "socket_power": "amd_smi.socket_power",
    "power_usage": "amd_smi.power_usage",
}
_DEVICES = ("index", "gpu", "device", "gpu_index", "gpu_id", "uuid", "gpu_uuid", "pci_bus_id")
_WATTS = re.compile(r"([\d.]+|\[?N/A\]?) ?W?")
_CELL_WITH_UNIT = re.compile(r"\d+(?:\.\d+)? W")


class _Columns(NamedTuple):
    power: dict[int, tuple[str, str]]  # Position: name and source.
    device: int | None


def _header(cells: Sequence[str]) -> _Columns | None:
    """Return the columns that a header announces; ``None`` if the line is none, or has times."""
    names = [parse_name(cell) for cell in cells]
    stems = [name.stem for name in names]
    power = {i: (cells[i], _POWER[stem]) for i, stem in enumerate(stems) if stem in _POWER}
    if not power or any(map(is_time_name, names)):
        return None
    device = next((stems.index(name) for name in _DEVICES if name in stems), None)
    return _Columns(power, device)


def _first_row(cells: Sequence[str]) -> _Columns | None:
    """Return the columns of rows without a header: the only one in watts, and a device before it.

    ``None`` if the row has a time, or does not show which column is power.
    """
    found = [i for i, cell in enumerate(cells) if _CELL_WITH_UNIT.fullmatch(cell)]
    if len(found) != 1 or any(is_date(cell) or is_clock(cell) for cell in cells):
        return None
    device = 0 if found[0] > 0 and re.fullmatch(r"\d{1,2}|GPU-\S+", cells[0]) else None
    return _Columns({found[0]: ("power", NVIDIA_POWER["power_draw"])}, device)


def _read(log: LogText) -> Iterator[Reading]:
    """Read the rows: GPUs by their column, or by their order in each poll.

    A header or a date before each poll shows where it begins. A poll with another number of rows
    than most does not show which of them are missing.
    """
    columns: _Columns | None = None
    width, headers, damaged = 0, 0, 0
    polls: list[tuple[str | None, list[list[str]]]] = []
    for text, stamp in log.lines():
        cells = split_cells(text)
        if not any(cells):
            continue
        if header := _header(cells):
            columns, width = header, len(cells)
            headers += 1
            polls.append((stamp, []))
            continue
        if columns is None and (columns := _first_row(cells)) is not None:
            width = len(cells)
        if columns is None:
            continue
        if not polls or stamp is not polls[-1][0]:
            polls.append((stamp, []))
        if len(cells) == width:
            polls[-1][1].append(cells)
        else:
            damaged += 1
    log.skipped(damaged, "with more or fewer cells than the header")
    if columns is None:
        return
    if columns.device is None:
        polls = _complete_polls(log, polls)
    for stamp, rows in polls:
        for position, cells in enumerate(rows):
            device = str(position) if columns.device is None else cells[columns.device]
            yield from _readings(columns, device.removeprefix("card"), stamp, cells)


def _complete_polls(
    log: LogText, polls: list[tuple[str | None, list[list[str]]]]
) -> list[tuple[str | None, list[list[str]]]]:
    """Return the polls that have all GPUs, of a log without a column that distinguishes them."""
    polls = [(stamp, rows) for stamp, rows in polls if rows]
    if len(polls) < 2:
        # Nothing shows where a poll begins: each row is one.
        log.notes.append("no column distinguishes GPUs: taken as one GPU; record its index")
        return [(None, [cells]) for _, rows in polls for cells in rows]
    usual, _ = Counter(len(rows) for _, rows in polls).most_common(1)[0]
    complete = [(stamp, rows) for stamp, rows in polls if len(rows) == usual]
    if usual > 1:
        log.notes.append("no column distinguishes GPUs: numbered in the order of each poll's rows")
    if len(complete) < len(polls):
        incomplete = count(len(polls) - len(complete), "poll")
        log.notes.append(f"skipped {incomplete} with more or fewer than {count(usual, 'row')}")
    return complete


def _readings(
    columns: _Columns, device: str, stamp: str | None, cells: Sequence[str]
) -> Iterator[Reading]:
    sources = list(_POWER.values())
    ranked = sorted(columns.power.values(), key=lambda one: sources.index(one[1]))
    names = [name for name, _ in ranked]
    for i, (name, source) in columns.power.items():
        match = _WATTS.fullmatch(cells[i])
        overlaps = tuple(names[: names.index(name)])
        meter = Meter(f"gpu:{device}", name, source, overlaps=overlaps)
        yield Reading(stamp, meter, number(match[1] if match else ""))


def _matches(head: Sequence[str]) -> bool:
    rows = [split_cells(line) for line in head if not STAMP_PREFIX.fullmatch(line)]
    rows = [cells for cells in rows if any(cells)]
    # Warnings of the tool may precede the header.
    first = next((i for i, cells in enumerate(rows) if _header(cells)), None)
    if first is not None:
        below = rows[first + 1 : first + 2]
        return not any(is_date(cell) or is_clock(cell) for cells in below for cell in cells)
    return bool(rows) and _first_row(rows[0]) is not None


FORMATS = (
    Format(
        "nvidia-smi or another GPU tool",
        _matches,
        _read,
        timed="nvidia-smi --query-gpu=timestamp,index,power.draw --format=csv -l 1",
    ),
)
