"""Times of day and dates in logs, in many formats, as seconds."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from joulelab.arrays import Floats
from joulelab.errors import UserError
from joulelab.logs.cells import is_absent, number
from joulelab.logs.csv_table import Converter

FORMATS = (
    "%d.%m.%Y %H:%M:%S", "%Y%m%d %H:%M:%S", "%Y%m%d-%H%M%S", "%Y-%m-%d %I:%M:%S %p",
    "%d-%b-%Y %H:%M:%S", "%d %b %Y %H:%M:%S", "%b %d, %Y, %I:%M:%S %p",
)  # fmt: skip
"""Formats of dates other than ISO 8601. Seconds may have a fraction."""
_DAY_FIRST = tuple(
    f"%d{mark}%m{mark}%Y {time}" for mark in "/-" for time in ("%H:%M:%S", "%I:%M:%S %p")
)
_MONTH_FIRST = tuple(f"%m{form[2]}%d{form[5:]}" for form in _DAY_FIRST)
_EPOCH_DECADES = ((1e9, "s"), (1e12, "ms"), (1e15, "us"), (1e18, "ns"))
EPOCH_S = (1e9, 4e9)
"""Seconds since 1970 lie between 1e9 (2001) and 4e9 (2096), and so on for the smaller units."""
LEAST_DECIMAL_STEP_S = 99.0  # Steps of 100, 200, 250 or 500 s and so on are of a smaller unit.
_DATE = re.compile(r"\d{4}[-/.]\d{1,2}[-/.]\d{1,2}[ T_]\d|\d{8}T\d")
_DATE_DIGITS = re.compile(r"(20\d{6})(\d{6})")  # As 20260131123456.
DAY = r"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)"
MONTH = r"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)"
ZONE = r"(?: (?:[A-Z]{2,5}|[+-]\d{2}:?\d{2}))?"
CLOCK = r"\d{2}:\d{2}:\d{2}(?:[.,]\d+)?"
_CTIME = re.compile(rf"{DAY} ({MONTH}) +(\d+) ({CLOCK})( [AP]M)?({ZONE}) (\d{{4}})({ZONE})")
_DAY_BEFORE_MONTH = re.compile(rf"{DAY},? +(\d+) ({MONTH}) (\d{{4}}),? ({CLOCK})( [AP]M)?({ZONE})")
_YEAR_LAST = re.compile(r"(\d{1,2})([/-])(\d{1,2})\2\d{4}[ T]\d")
_CLOCK = re.compile(r"(?!000)(\d+):(\d{2}):(\d{2}(?:[.,:]\d+)?)(?: ?([AP])M)?", re.IGNORECASE)
_ZONE_NAME = re.compile(r"(?<=\d) (?!AM|PM)([A-Z]{2,5})$")
_NO_SECONDS = re.compile(r"(?<=\d{4} )\d{1,2}:\d\d(?= [AP]M$|$)", re.IGNORECASE)
_PLAIN_TIME = r"T[0-9]{2}(?::[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{0,9}+)?+)?+)?+"
_PLAIN_DATES = re.compile(rf"(?:[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}(?:{_PLAIN_TIME})?+(?:\n|\Z))*+")
"""NumPy takes other texts, and what follows a time, for time zones, with a warning. Possessive, for
a million lines."""
_FRACTION = re.compile(r"(?<=:\d\d)[.,](\d+)")
MINUTE_S, HOUR_S, HALF_DAY_S, DAY_S = 60.0, 3600.0, 43200.0, 86400.0
HALF_HOUR_S = 1800.0


def is_date(cell: str) -> bool:
    """Return whether a cell contains a date and a time."""
    if _DATE.match(cell) or _DATE_DIGITS.fullmatch(cell) or month_name_as_iso(cell):
        return True
    return _parse_format(cell, (*FORMATS, *_DAY_FIRST, *_MONTH_FIRST)) is not None


def is_clock(cell: str) -> bool:
    """Return whether a cell contains hours, minutes and seconds, but no date."""
    return _CLOCK.fullmatch(cell.strip()) is not None


def clock_times() -> Converter:
    """Create a converter of hours, minutes and seconds to seconds; they continue after midnight.

    A clock of 12 hours that does not write AM or PM goes back from 12:59 to 1:00.
    """
    days, last_s = 0.0, -math.inf

    def convert_one(cell: str) -> float:
        nonlocal days, last_s
        match = _CLOCK.fullmatch(cell.strip())
        if match is None:
            return math.nan
        hours, minutes = int(match[1]), int(match[2])
        if match[4]:
            hours = hours % 12 + 12 * (match[4].upper() == "P")
        time_s = 3600 * hours + 60 * minutes + float(re.sub("[,:]", ".", match[3]))
        back_s = last_s - time_s
        days += 1.0 if back_s > HALF_DAY_S else 0.5 if back_s > HALF_DAY_S - HALF_HOUR_S else 0.0
        last_s = time_s
        return days * DAY_S + time_s

    return lambda cells: np.array([convert_one(cell) for cell in cells], dtype=np.float64)


def to_time(cell: str, parse_dates: Converter) -> float:
    """Convert one text to seconds: a number, a time of day or a date; NaN if it is none."""
    value = number(cell)
    if is_clock(cell):
        value = float(clock_times()([cell])[0])
    elif not math.isfinite(value) and is_date(cell):
        value = float(parse_dates([cell])[0])
    return value


def day_first(cells: Sequence[str], path: Path) -> bool:
    """Return whether dates such as 31/01/2026 begin with the day, or raise an error if unclear."""
    found = [match for match in map(_YEAR_LAST.match, cells) if match]
    if any(int(match[1]) > 12 for match in found):
        return True
    has_half = any(cell.upper().rstrip().endswith("M") for cell in cells)
    if not found or has_half or any(int(match[3]) > 12 for match in found):
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


def epoch_unit(values: Floats) -> str | None:
    """Return the unit in which numbers are times since 1970; ``None`` if they cannot be."""
    middle = float(np.median(values)) if values.size else math.nan
    return next((unit for one, unit in _EPOCH_DECADES if one <= middle < 4 * one), None)


def usual_step(values: Floats) -> float:
    """Return the median of the positive steps from one value to the next; 0 if there is none."""
    steps = np.diff(values)
    steps = steps[steps > 0]
    return float(np.median(steps)) if steps.size else 0.0


def may_be_smaller_unit(step_s: float) -> bool:
    """Return whether times since 1970 this far apart may count a smaller unit since another start.

    Milliseconds since the start of a machine are as large as seconds since 1970, and readings 0.1 s
    apart are 100 of them. Readings of tools that are that slow are minutes or hours apart.
    """
    if step_s < LEAST_DECIMAL_STEP_S:
        return False
    first = step_s / 10.0 ** math.floor(math.log10(step_s))
    is_decimal = any(abs(first / one - 1) < 0.02 for one in (1.0, 2.0, 2.5, 5.0, 10.0))
    return is_decimal or (step_s > DAY_S and step_s % DAY_S > 0)


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
    formats = (*FORMATS, *_DAY_FIRST) if day_comes_first else (*FORMATS, *_MONTH_FIRST)

    def convert(cells: Sequence[str]) -> Floats:
        naive = _parse_all_naive(cells)
        if naive is not None:
            return localize(naive)
        times_s = np.full(len(cells), math.nan)
        local: dict[int, datetime] = {}
        for i, cell in enumerate(cells):
            when = _parse(cell, formats)
            if when is not None and when.tzinfo is None:
                local[i] = when
            elif when is not None:
                times_s[i] = when.timestamp()
        times_s[list(local)] = localize(np.array(list(local.values()), dtype="datetime64[ns]"))
        return times_s

    return convert


def _parse_all_naive(cells: Sequence[str]) -> NDArray[np.datetime64] | None:
    """Parse ISO dates without a zone in one call; return ``None`` if any is something else."""
    text = "\n".join(cells).replace("/", "-").replace(" ", "T").replace(",", ".")
    if not _PLAIN_DATES.fullmatch(text):
        return None
    try:
        naive = np.array(text.split("\n"), dtype="datetime64[ns]")
    except ValueError:
        return None
    return None if np.isnat(naive).any() else naive


def _parse(cell: str, formats: Sequence[str]) -> datetime | None:
    if is_absent(cell):
        return None
    # Other abbreviations are not unique: the zone is the one that the user states.
    text = month_name_as_iso(cell) or _DATE_DIGITS.sub(r"\1T\2", cell.strip())
    text = _ZONE_NAME.sub(lambda name: "Z" if name[1] in ("UTC", "GMT") else "", text)
    iso = text[:10].replace("/", "-").replace(".", "-") + text[10:].replace(" ", "T", 1)
    try:
        return datetime.fromisoformat(iso.replace(" ", ""))
    except ValueError:
        return _parse_format(cell, formats)


def _parse_format(cell: str, formats: Sequence[str]) -> datetime | None:
    """Parse a date in the first of these formats that matches; ``None`` if none does."""
    text = _NO_SECONDS.sub(r"\g<0>:00", " ".join(cell.split()))
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


def month_name_as_iso(time: str) -> str | None:
    """Write a date with the name of its month, as ``date`` prints it, as in ISO 8601."""
    time = " ".join(time.split())
    if match := _CTIME.fullmatch(time):
        month, day, clock, half, zone, year, late_zone = match.groups()
        return iso_date(year, month, day, clock, half, zone or late_zone)
    if match := _DAY_BEFORE_MONTH.fullmatch(time):
        day, month, year, clock, half, zone = match.groups()
        return iso_date(year, month, day, clock, half, zone)
    return None


def iso_date(
    year: str, month: str, day: str, clock: str, half: str | None, zone: str | None
) -> str:
    """Join the parts of a date; ``half`` is AM or PM. Zones are UTC, an offset, or left out."""
    number = int(month) if month.isdigit() else datetime.strptime(month, "%b").month
    hour = int(clock[:2])
    if half:
        hour = hour % 12 + 12 * (half.strip() == "PM")
    zone = (zone or "").strip()
    offset = "Z" if zone in ("UTC", "GMT", "Z") else zone if zone[:1] in "+-" else ""
    return f"{year}-{number:02d}-{int(day):02d}T{hour:02d}{clock[2:]}{offset}"


class _Localizer:
    """Converts local times, which come in order and in parts, to seconds since 1970."""

    def __init__(self, zone: tzinfo | None) -> None:
        self._zone = zone
        self._last_s = -math.inf
        self._is_second_hour = False

    def __call__(self, naive: NDArray[np.datetime64]) -> Floats:
        if not naive.size:
            return np.zeros(0)
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
