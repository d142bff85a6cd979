"""Times in logs: numbers of some unit, hours and minutes, or dates in many formats."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from joulelab.errors import UserError
from joulelab.logs.columns import (
    TIME_UNITS,
    UNIT_NAMES,
    LogOptions,
    Name,
    check_unit,
    find,
    parse_name,
    scaled,
)
from joulelab.logs.csv_table import Converter, Floats, Table, is_absent, numbers

FORMATS = ("%d.%m.%Y %H:%M:%S", "%Y%m%d %H:%M:%S", "%Y%m%d-%H%M%S", "%a %b %d %H:%M:%S %Y")
"""Formats of dates other than ISO 8601. Seconds may have a fraction."""
_DAY_FIRST = "%d/%m/%Y %H:%M:%S"
_MONTH_FIRST = ("%m/%d/%Y %H:%M:%S", "%m/%d/%Y %I:%M:%S %p")
_TIME_NAMES = {
    "t", "time", "timestamp", "timestamps", "elapsed", "unix", "epoch", "date", "when",
    *UNIT_NAMES, *TIME_UNITS,
}  # fmt: skip
_TIME_WORDS = {"time", "timestamp", "elapsed", "unix", "epoch"}
_DURATION_WORDS = {"kernel", "cpu", "gpu", "up", "utilization"}
_EPOCH_DECADES = ((1e9, "s"), (1e12, "ms"), (1e15, "us"), (1e18, "ns"))
"""Seconds since 1970 lie between 1e9 (2001) and 4e9 (2096), and so on for the smaller units."""
_DATE = re.compile(r"\d{4}[-/.]\d{1,2}[-/.]\d{1,2}[ T]\d")
_SLASHED = re.compile(r"(\d{1,2})/(\d{1,2})/\d{4}[ T]\d")
_CLOCK = re.compile(r"(\d+):(\d{2}):(\d{2}(?:[.,]\d+)?)")
_FRACTION = re.compile(r"(?<=:\d\d)[.,](\d+)")
DAY_S = 86400.0
HALF_HOUR_S = 1800.0


def choose_time(table: Table, options: LogOptions) -> tuple[int, Converter | None, str]:
    """Choose the time column: its position, converter to seconds, and what was assumed."""
    position = _time_position(table, options)
    cells = [cell for cell in table.cells(position) if not is_absent(cell)]
    name = table.names[position]
    if options.time_unit is not None:
        return position, scaled(TIME_UNITS[check_unit(options.time_unit, TIME_UNITS, "time")]), ""
    if not cells:
        raise UserError(f"{table.path} has no readings: column {name!r} is empty")
    if is_clock(cells[0]):
        return position, clock_times(), f"{name!r} is read as hours, minutes and seconds"
    if is_date(cells[0]):
        return position, dates(time_zone(options.timezone), day_first(cells, table.path)), ""
    unit = parse_name(name).unit if table.header else ""
    if unit in TIME_UNITS:
        return position, scaled(TIME_UNITS[unit]), ""
    if epoch := epoch_unit(cells):
        return position, scaled(TIME_UNITS[epoch]), f"{name!r} is read as {epoch} since 1970"
    if not np.isfinite(numbers(cells)).any():
        raise UserError(
            f"{table.path}: column {name!r} has no readable times ({cells[0]!r})",
            hint="name another with --time-column, or write dates as 2026-01-31 12:34:56",
        )
    return position, None, f"{name!r} has no unit; assuming seconds (change it with --time-unit)"


def _time_position(table: Table, options: LogOptions) -> int:
    if options.time_column is not None:
        return find(table, options.time_column)
    if table.header:
        found = [i for i, name in enumerate(table.names) if is_time_name(parse_name(name))]
    else:
        first = [table.cells(i)[:1] for i in range(len(table.names))]
        found = [
            i for i, cells in enumerate(first) if any(is_date(c) or is_clock(c) for c in cells)
        ]
    if len(found) == 1:
        return found[0]
    candidates = [table.names[i] for i in found] or table.names
    raise UserError(
        f"{table.path}: {'several columns' if found else 'no column'} may be the time",
        why=f"its columns are {', '.join(map(repr, candidates))}",
        hint="name one with --time-column" + ("" if table.header else " (numbers from 1)"),
    )


def is_time_name(name: Name) -> bool:
    """Return whether a column of this name may be the time."""
    if name.unit and name.unit not in TIME_UNITS:
        return False
    is_named_so = bool(name.words & _TIME_WORDS) and not name.words & _DURATION_WORDS
    return name.stem in _TIME_NAMES or is_named_so


def is_date(cell: str) -> bool:
    """Return whether a cell contains a date and a time."""
    if _DATE.match(cell):
        return True
    return _parse_format(cell, (*FORMATS, _DAY_FIRST, *_MONTH_FIRST)) is not None


def is_clock(cell: str) -> bool:
    """Return whether a cell contains hours, minutes and seconds, but no date."""
    return _CLOCK.fullmatch(cell.strip()) is not None


def clock_times() -> Converter:
    """Create a converter of hours, minutes and seconds to seconds; they continue after midnight."""
    days, last_s = 0, -math.inf

    def convert_one(cell: str) -> float:
        nonlocal days, last_s
        match = _CLOCK.fullmatch(cell.strip())
        if match is None:
            return math.nan
        hours, minutes = int(match[1]), int(match[2])
        time_s = 3600 * hours + 60 * minutes + float(match[3].replace(",", "."))
        days += time_s < last_s - DAY_S / 2
        last_s = time_s
        return days * DAY_S + time_s

    return lambda cells: np.array([convert_one(cell) for cell in cells], dtype=np.float64)


def day_first(cells: Sequence[str], path: Path) -> bool:
    """Return whether dates with slashes begin with the day; raise an error if that is unclear."""
    found = [match for match in map(_SLASHED.match, cells) if match]
    if not found or any(cell.upper().rstrip().endswith("M") for cell in cells):
        return False
    if any(int(match[1]) > 12 for match in found):
        return True
    if any(int(match[2]) > 12 for match in found):
        return False
    raise UserError(
        f"{path}: {cells[0]!r} may begin with the day or with the month",
        hint="write dates as 2026-01-31 12:34:56",
    )


def time_zone(name: str | None) -> tzinfo | None:
    """Find a time zone by its name; ``None`` is this machine's own."""
    if name is None:
        return None
    if name.upper() == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise UserError(
            f"no time zone {name!r}", hint="give one such as Europe/London or UTC"
        ) from error


def epoch_unit(cells: Sequence[str]) -> str | None:
    """Return the unit in which numbers are times since 1970; ``None`` if they cannot be."""
    values = numbers(cells)
    values = values[np.isfinite(values)]
    if values.size == 0:
        return None
    middle = float(np.median(values))
    return next((unit for one, unit in _EPOCH_DECADES if one <= middle < 4 * one), None)


def dates(zone: tzinfo | None, day_comes_first: bool = False) -> Converter:
    """Create a converter of dates to seconds since 1970.

    Dates without a time zone are in ``zone``, or in this machine's own. When clocks are set back,
    an hour of local times occurs twice; the second one begins where the times go back.

    Example:
        >>> dates(UTC)(["2024/01/31 12:34:56.500", "2024-01-31T12:34:57+01:00"]).tolist()
        [1706704496.5, 1706700897.0]
        >>> dates(UTC, True)(["31/01/2024 12:34:56", "31.01.2024 12:34:56,25"]).tolist()
        [1706704496.0, 1706704496.25]
    """
    localize = _Localizer(zone)
    formats = (*FORMATS, _DAY_FIRST) if day_comes_first else (*FORMATS, *_MONTH_FIRST)

    def convert(cells: Sequence[str]) -> Floats:
        naive = _parse_all_naive(cells)
        if naive is not None:
            return localize(naive)
        return np.array([_parse(cell, zone, formats) for cell in cells], dtype=float)

    return convert


def _parse_all_naive(cells: Sequence[str]) -> NDArray[np.datetime64] | None:
    """Parse ISO dates without a zone in one call; return ``None`` if any is something else."""
    text = "\n".join(cells).replace("/", "-").replace(" ", "T")
    if "+" in text or "Z" in text or text.count("-") != 2 * len(cells):
        return None
    try:
        naive = np.array(text.split("\n"), dtype="datetime64[ns]")
    except ValueError:
        return None
    return None if np.isnat(naive).any() else naive


def _parse(cell: str, zone: tzinfo | None, formats: Sequence[str]) -> float:
    """Parse one date to seconds since 1970; NaN if it is none."""
    if is_absent(cell):
        return math.nan
    text = cell.strip()
    iso = text[:10].replace("/", "-").replace(".", "-") + text[10:].replace(" ", "T", 1)
    when: datetime | None
    try:
        when = datetime.fromisoformat(iso.replace(" ", ""))
    except ValueError:
        when = _parse_format(cell, formats)
    if when is None:
        return math.nan
    if when.tzinfo is None:
        when = when.replace(tzinfo=zone) if zone else when.astimezone()
    return when.timestamp()


def _parse_format(cell: str, formats: Sequence[str]) -> datetime | None:
    """Parse a date in the first of these formats that matches; ``None`` if none does."""
    text = " ".join(cell.split())
    fraction = _FRACTION.search(text)
    whole = _FRACTION.sub("", text)
    for one in formats:
        try:
            when = datetime.strptime(whole, one)
        except ValueError:
            continue
        microseconds = round(float(f"0.{fraction[1]}") * 1e6) if fraction else 0
        return when + timedelta(microseconds=microseconds)
    return None


class _Localizer:
    """Converts local times, which come in order and in parts, to seconds since 1970."""

    def __init__(self, zone: tzinfo | None) -> None:
        self._zone = zone
        self._last_s = -math.inf
        self._is_second_hour = False

    def __call__(self, naive: NDArray[np.datetime64]) -> Floats:
        first, second = (_to_unix(naive, self._zone, fold) for fold in (0, 1))
        twice = np.flatnonzero(first != second)
        if twice.size:
            times_s = np.concatenate(([self._last_s], first[twice]))
            back = np.diff(times_s) < -HALF_HOUR_S
            again = self._is_second_hour | np.logical_or.accumulate(back)
            first[twice] = np.where(again, second[twice], first[twice])
            self._last_s, self._is_second_hour = float(times_s[-1]), bool(again[-1])
        return first


def _to_unix(naive: NDArray[np.datetime64], zone: tzinfo | None, fold: int) -> Floats:
    """Convert local times to seconds since 1970; zones change their offset on quarters of hours."""
    quarters = naive.astype("datetime64[m]").astype(np.int64) // 15
    known, where = np.unique(quarters, return_inverse=True)
    offsets = np.array([_offset_s(int(quarter) * 900, zone, fold) for quarter in known])
    whole = naive.astype("datetime64[s]")
    fraction = (naive - whole).astype(np.int64) * 1e-9
    return np.asarray(whole.astype(np.int64) - offsets[where] + fraction, dtype=np.float64)


def _offset_s(local_s: int, zone: tzinfo | None, fold: int) -> float:
    local = datetime.fromtimestamp(local_s, UTC).replace(tzinfo=None, fold=fold)
    aware = local.replace(tzinfo=zone) if zone else local.astimezone()
    offset = aware.utcoffset()
    return offset.total_seconds() if offset else 0.0
