"""Times in logs: numbers of some unit, or dates."""

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
from joulelab.logs.csv_table import Converter, Floats, is_absent, numbers

TIME_UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
_EPOCH_DECADES = ((1e9, "s"), (1e12, "ms"), (1e15, "us"), (1e18, "ns"))
"""Seconds since 1970 lie between 1e9 (2001) and 4e9 (2096), and so on for the smaller units."""
_DATE = re.compile(r"\d{4}[-/.]\d{1,2}[-/.]\d{1,2}[ T]\d")
_SLASHED = re.compile(r"(\d{1,2})/(\d{1,2})/\d{4}[ T]\d")
_CLOCK = re.compile(r"(\d+):(\d{2}):(\d{2}(?:[.,]\d+)?)")
_FORMATS = ("%d.%m.%Y %H:%M:%S", "%Y%m%d %H:%M:%S", "%Y%m%d-%H%M%S", "%a %b %d %H:%M:%S %Y")
_DAY_FIRST = "%d/%m/%Y %H:%M:%S"
_MONTH_FIRST = ("%m/%d/%Y %H:%M:%S", "%m/%d/%Y %I:%M:%S %p")
"""Dates that are not as in ISO 8601. Seconds may have a fraction."""
_FRACTION = re.compile(r"(?<=:\d\d)[.,](\d+)")
DAY_S = 86400.0
HALF_HOUR_S = 1800.0


def is_date(cell: str) -> bool:
    """Whether a cell holds a date and a time.

    Example:
        >>> is_date("2024/01/31 12:34:56.789"), is_date("2024-01-31T12:34:56Z"), is_date("12.5")
        (True, True, False)
    """
    if _DATE.match(cell):
        return True
    when = _other_date(cell, (*_FORMATS, _DAY_FIRST, *_MONTH_FIRST))
    return not math.isnan(_stamp(when, UTC))


def is_clock(cell: str) -> bool:
    """Whether a cell holds hours, minutes and seconds and no date.

    Example:
        >>> is_clock("00:01:02.5"), is_clock("27:00:00"), is_clock("2024/01/31 12:34:56")
        (True, True, False)
    """
    return _CLOCK.fullmatch(cell.strip()) is not None


def clock_times() -> Converter:
    """Converts hours, minutes and seconds to seconds; after midnight they go on.

    Example:
        >>> clock_times()(["23:59:59.5", "00:00:00.5"]).tolist()
        [86399.5, 86400.5]
    """
    days, last_s = 0, -math.inf

    def one(cell: str) -> float:
        nonlocal days, last_s
        match = _CLOCK.fullmatch(cell.strip())
        if match is None:
            return math.nan
        hours, minutes = int(match[1]), int(match[2])
        time_s = 3600 * hours + 60 * minutes + float(match[3].replace(",", "."))
        days += time_s < last_s - DAY_S / 2
        last_s = time_s
        return days * DAY_S + time_s

    def convert(cells: Sequence[str]) -> Floats:
        return np.array([one(cell) for cell in cells], dtype=np.float64)

    return convert


def day_first(cells: Sequence[str], path: Path) -> bool:
    """Whether dates with slashes, year last, begin with the day.

    Raises:
        UserError: They may begin with the day or with the month.
    """
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
    """A time zone by its name; ``None`` is this machine's own.

    Raises:
        UserError: There is no such zone.
    """
    if name is None:
        return None
    if name.upper() == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise UserError(
            f"no time zone {name!r}", hint="name one as Europe/London or UTC"
        ) from error


def epoch_unit(cells: Sequence[str]) -> str | None:
    """The unit in which numbers are times since 1970; ``None`` when they cannot be that.

    Example:
        >>> epoch_unit(["1706704496789"]), epoch_unit(["12.5"])
        ('ms', None)
    """
    values = numbers(cells)
    values = values[np.isfinite(values)]
    if values.size == 0:
        return None
    middle = float(np.median(values))
    return next((unit for one, unit in _EPOCH_DECADES if one <= middle < 4 * one), None)


def dates(zone: tzinfo | None, day_comes_first: bool = False) -> Converter:
    """Converts dates to seconds since 1970; those without a zone of their own are in ``zone``.

    Where clocks are set back, an hour of local times comes twice: it is the second from where
    times go back.

    Args:
        zone: ``None`` is this machine's own.
        day_comes_first: Of dates with slashes whose year is last.

    Example:
        >>> dates(UTC)(["2024/01/31 12:34:56.500", "2024-01-31T12:34:57+01:00"]).tolist()
        [1706704496.5, 1706700897.0]
        >>> dates(UTC, True)(["31/01/2024 12:34:56", "31.01.2024 12:34:56,25"]).tolist()
        [1706704496.0, 1706704496.25]
    """
    zoned = _Zoned(zone)
    slashed = (_DAY_FIRST,) if day_comes_first else _MONTH_FIRST

    def convert(cells: Sequence[str]) -> Floats:
        naive = _all_naive(cells)
        if naive is not None:
            return zoned(naive)
        return np.array([_one(cell, zone, (*_FORMATS, *slashed)) for cell in cells], dtype=float)

    return convert


def scaled(unit: str) -> Converter | None:
    """Converts numbers of a unit to seconds; ``None`` where they are seconds as they are."""
    if unit == "s":
        return None

    def convert(cells: Sequence[str]) -> Floats:
        return numbers(cells) * TIME_UNITS[unit]

    return convert


def _all_naive(cells: Sequence[str]) -> NDArray[np.datetime64] | None:
    """Dates without a zone, all at once; ``None`` when not all are that."""
    text = "\n".join(cells).replace("/", "-").replace(" ", "T")
    if "+" in text or "Z" in text or text.count("-") != 2 * len(cells):
        return None
    try:
        naive = np.array(text.split("\n"), dtype="datetime64[ns]")
    except ValueError:
        return None
    return None if np.isnat(naive).any() else naive


def _iso(cell: str) -> str:
    cell = cell.strip()
    return cell[:10].replace("/", "-").replace(".", "-") + cell[10:].replace(" ", "T", 1)


def _one(cell: str, zone: tzinfo | None, formats: Sequence[str]) -> float:
    if is_absent(cell):
        return math.nan
    when: datetime | None
    try:
        when = datetime.fromisoformat(_iso(cell).replace(" ", ""))
    except ValueError:
        when = _other_date(cell, formats)
    return _stamp(when, zone)


def _other_date(cell: str, formats: Sequence[str]) -> datetime | None:
    """A date that is not as in ISO 8601; ``None`` when it is none of these formats."""
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


def _stamp(when: datetime | None, zone: tzinfo | None) -> float:
    if when is None:
        return math.nan
    if when.tzinfo is None:
        when = when.replace(tzinfo=zone) if zone else when.astimezone()
    return when.timestamp()


class _Zoned:
    """Converts local times, which come in order and in parts, to seconds since 1970."""

    def __init__(self, zone: tzinfo | None) -> None:
        self._zone = zone
        self._last_s = -math.inf
        self._second = False

    def __call__(self, naive: NDArray[np.datetime64]) -> Floats:
        first, second = (_zoned(naive, self._zone, fold) for fold in (0, 1))
        twice = np.flatnonzero(first != second)
        if twice.size:
            times_s = np.concatenate(([self._last_s], first[twice]))
            back = np.diff(times_s) < -HALF_HOUR_S
            again = self._second | np.logical_or.accumulate(back)
            first[twice] = np.where(again, second[twice], first[twice])
            self._last_s, self._second = float(times_s[-1]), bool(again[-1])
        return first


def _zoned(naive: NDArray[np.datetime64], zone: tzinfo | None, fold: int) -> Floats:
    """Seconds since 1970 of local times. Zones change their offset on quarters of an hour."""
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
