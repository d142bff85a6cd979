"""Times in logs: numbers of some unit, or dates."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from datetime import UTC, datetime, tzinfo
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from joulelab.accounting.csv_table import Converter, Floats, is_absent, numbers
from joulelab.errors import UserError

TIME_UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
_EPOCH_DECADES = ((1e9, "s"), (1e12, "ms"), (1e15, "us"), (1e18, "ns"))
"""Seconds since 1970 lie between 1e9 (2001) and 4e9 (2096), and so on for the smaller units."""
_DATE = re.compile(r"\d{4}[-/.]\d{1,2}[-/.]\d{1,2}[ T]\d")


def is_date(cell: str) -> bool:
    """Whether a cell holds a date and a time.

    Example:
        >>> is_date("2024/01/31 12:34:56.789"), is_date("2024-01-31T12:34:56Z"), is_date("12.5")
        (True, True, False)
    """
    return _DATE.match(cell) is not None


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
            f"no time zone {name!r}", mend="name one as Europe/London or UTC"
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


def dates(zone: tzinfo | None) -> Converter:
    """Converts dates to seconds since 1970; those without a zone of their own are in ``zone``.

    Example:
        >>> dates(UTC)(["2024/01/31 12:34:56.500", "2024-01-31T12:34:57+01:00"]).tolist()
        [1706704496.5, 1706700897.0]
    """

    def convert(cells: Sequence[str]) -> Floats:
        naive = _all_naive(cells)
        if naive is not None:
            return _zoned(naive, zone)
        return np.array([_one(_iso(cell), zone) for cell in cells], dtype=np.float64)

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


def _one(text: str, zone: tzinfo | None) -> float:
    if is_absent(text):
        return math.nan
    try:
        when = datetime.fromisoformat(text.replace(" ", ""))
    except ValueError:
        return math.nan
    if when.tzinfo is None:
        when = when.replace(tzinfo=zone) if zone else when.astimezone()
    return when.timestamp()


def _zoned(naive: NDArray[np.datetime64], zone: tzinfo | None) -> Floats:
    """Seconds since 1970 of local times. Zones change their offset on quarters of an hour."""
    quarters = naive.astype("datetime64[m]").astype(np.int64) // 15
    known, where = np.unique(quarters, return_inverse=True)
    offsets = np.array([_offset_s(int(quarter) * 900, zone) for quarter in known])
    whole = naive.astype("datetime64[s]")
    fraction = (naive - whole).astype(np.int64) * 1e-9
    return np.asarray(whole.astype(np.int64) - offsets[where] + fraction, dtype=np.float64)


def _offset_s(local_s: int, zone: tzinfo | None) -> float:
    local = datetime.fromtimestamp(local_s, UTC).replace(tzinfo=None)
    aware = local.replace(tzinfo=zone) if zone else local.astimezone()
    offset = aware.utcoffset()
    return offset.total_seconds() if offset else 0.0
