"""Cells of tables: missing values, numbers with decimal points or commas, and dates."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from enum import Enum, auto
from typing import NamedTuple

import numpy as np

from joulelab.arrays import Floats
from joulelab.errors import UserError

ABSENT = {
    "", "n/a", "na", "nan", "none", "null", "-", "err!", "?", "unknown", "unavailable",
    "not supported", "unknown error", "not available",
}  # fmt: skip
"""Cells without a value, in lower case; anything in square brackets is one too: ``[N/A]``."""

_NUMBER = r"[-+]?(?:\d[\d.,]*|[.,]\d+)(?:[eE][-+]?\d+)?"
_PLAIN_NUMBER = re.compile(_NUMBER)
NUMBER_WITH_UNIT = re.compile(rf"({_NUMBER})\s*([A-Za-zµμ°%]*)")
_THOUSANDS = {
    mark: re.compile(rf"[-+]?[1-9]\d{{0,2}}(?:{re.escape(group)}\d{{3}})+(?:{re.escape(mark)}\d*)?")
    for mark, group in ((".", ","), (",", "."))
}
_DATE = re.compile(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}(?:[ T].*)?|\d{8}[ T-]\d.*")
# Numbers of PCI buses begin with zeros.
_CLOCK = re.compile(r"(?!000)\d+:\d{2}(?::\d{2}.*)?(?: [AaPp][Mm])?")
_WEEKDAY = re.compile(r"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun),? .*\d:\d\d.*")
LEAST_SUMS = 3  # Rows that show that a column is the sum of others.
MOST_LOSSES = 1.3  # Power before a supply over the power behind it, at most.
LEAST_OWN_CHANGE, LEAST_OWN_CHANGES = 0.01, 5
"""Devices whose loads differ change by this share of their means from each other, as often."""


class CellKind(Enum):
    """What a cell looks like."""

    ABSENT = auto()
    NUMBER = auto()
    NUMBER_WITH_UNIT = auto()
    TIME = auto()
    TEXT = auto()


def is_absent(cell: str) -> bool:
    """Return whether a cell states that there is no value."""
    return cell.lower() in ABSENT or cell.startswith("[")


def kind_of(cell: str) -> CellKind:
    """Return what a cell without surrounding space looks like.

    Example:
        >>> [kind_of(cell).name for cell in ("12,5 W", "[N/A]", "2026-03-14 12:00:00", "GPU 0")]
        ['NUMBER_WITH_UNIT', 'ABSENT', 'TIME', 'TEXT']
    """
    if is_absent(cell):
        return CellKind.ABSENT
    if match := NUMBER_WITH_UNIT.fullmatch(cell):
        return CellKind.NUMBER_WITH_UNIT if match[2] else CellKind.NUMBER
    if any(pattern.fullmatch(cell) for pattern in (_DATE, _CLOCK, _WEEKDAY)):
        return CellKind.TIME
    return CellKind.TEXT


def is_value(cell: str) -> bool:
    """Return whether a cell is a number or a time, which no name of a column is."""
    return kind_of(cell) in (CellKind.NUMBER, CellKind.NUMBER_WITH_UNIT, CellKind.TIME)


def number(cell: str) -> float:
    """Convert one text with a decimal point or comma to a number; NaN if it is none or unclear.

    Example:
        >>> number("1.5"), number("2,5"), number("1,250"), number("[N/A]")
        (1.5, 2.5, nan, nan)
    """
    cell = cell.strip()
    if "," in cell:
        unclear = any(pattern.fullmatch(cell) for pattern in _THOUSANDS.values())
        return math.nan if unclear else _number(cell, ",")
    return _number(cell, ".")


def _number(cell: str, mark: str) -> float:
    """Convert a text to a number; NaN if it is none."""
    if is_absent(cell):
        return math.nan
    try:
        return float(plain(cell, mark))
    except ValueError:
        return math.nan


def plain(cell: str, mark: str) -> str:
    """Write a number with a decimal point and without separators of thousands.

    Raises:
        ValueError: It is not a number with this decimal mark.
    """
    cell = cell.strip()
    group = "." if mark == "," else ","
    if group in cell:
        if not _THOUSANDS[mark].fullmatch(cell):
            raise ValueError(cell)
        cell = cell.replace(group, "")
    return cell.replace(mark, ".", 1)


def decimal_mark(cells: Iterable[str]) -> str | None:
    """Return the decimal mark of a column's numbers; ``None`` if they do not show it.

    Only numbers with a comma leave a doubt: ``1,250`` has thousands if there is a number below
    1,000 without decimals, or one with a decimal point.

    Example:
        >>> decimal_mark(["1,250", "900"]), decimal_mark(["1,25", "900"]), decimal_mark(["1,250"])
        ('.', ',', None)
    """
    texts = [match[1] for cell in cells if (match := NUMBER_WITH_UNIT.fullmatch(cell.strip()))]
    with_comma = [text for text in texts if "," in text]
    if not with_comma:
        return "."
    if not all(_THOUSANDS["."].fullmatch(text) for text in with_comma):
        return ","
    others = [text for text in texts if "," not in text]
    is_point = any("." in text for text in (*with_comma, *others))
    is_whole = any(text.lstrip("+-").isdigit() and len(text) <= 3 for text in others)
    return "." if is_point or is_whole or any(text.count(",") > 1 for text in with_comma) else None


class NumberReader:
    """Converts the cells of one column, which come in parts, with one decimal mark."""

    def __init__(self, what: str, mark: str | None, sample: Sequence[str] = ()) -> None:
        """Create a reader; ``what`` names the column for errors, ``mark`` is that of the file."""
        has_comma = any("," in cell for cell in sample)
        self._what = what
        self._fallback = mark
        self.mark = decimal_mark(sample) or mark if has_comma else None

    def __call__(self, cells: Sequence[str]) -> Floats:
        """Convert cells to numbers, NaN for what is none.

        Raises:
            UserError: The decimal mark is unclear, or changes.
        """
        try:
            if self.mark != ",":
                return np.array(cells, dtype=np.float64)
        except ValueError:
            pass
        return np.array([self.one(cell, cells) for cell in cells], dtype=np.float64)

    def one(self, cell: str, cells: Sequence[str]) -> float:
        """Convert one of these cells."""
        cell = cell.strip()
        if "," not in cell and self.mark != ",":
            return _number(cell, ".")
        if is_absent(cell) or not _PLAIN_NUMBER.fullmatch(cell):
            return math.nan
        if self.mark is None:
            self.mark = decimal_mark(cells) or self._fallback
        if self.mark is None:
            raise UserError(
                f"{self._what}: {cell!r} may have a decimal comma or thousands",
                hint="write numbers with a decimal point",
            )
        try:
            return float(plain(cell, self.mark))
        except ValueError as error:
            raise UserError(
                f"{self._what}: {cell!r} does not fit to the other numbers",
                why=f"their decimal mark is {self.mark!r}",
                hint="write numbers with a decimal point",
            ) from error


def has_comma(cells: Iterable[str]) -> bool:
    """Return whether a cell that is no text has a comma."""
    return any("," in cell and kind_of(cell) is not CellKind.TEXT for cell in cells)


def has_point(rows: Iterable[Sequence[str]]) -> bool:
    """Return whether a cell is a number with a decimal point."""
    return any(re.fullmatch(r"[-+]?\d*\.\d+(\s*\D+)?", cell) for row in rows for cell in row)


def form_of(cell: str) -> tuple[int, int, str]:
    """Return the numbers of digits before and after the decimal point, and the unit."""
    digits, _, unit = cell.strip().partition(" ")
    whole, _, decimals = digits.partition(".")
    return len(whole), len(decimals), unit


def names_columns(row: Sequence[str], below: Sequence[Sequence[str]]) -> bool:
    """Return whether a row with a value is a header nevertheless, such as ``time,0,1,2``."""
    values = [i for i in range(len(row)) if all(len(r) > i and is_value(r[i]) for r in below)]
    times = [i for i in values if kind_of(below[0][i]) is CellKind.TIME]
    texts = {i for i in values if kind_of(row[i]) is CellKind.TEXT}
    return bool(texts) and (2 * len(texts) > len(values) or bool(texts & set(times)))


class Total(NamedTuple):
    """A column of power that contains all others."""

    position: int
    scale: float  # Its share of their sum: 1 for the sum itself, more with losses.
    is_sure: bool  # Whether the others change by themselves. Else it may be by chance.


def find_total(columns: Sequence[Floats]) -> Total | None:
    """Return which column is the sum of all others in each row, or a fixed multiple of it."""
    values = np.array(columns)
    if len(values) < 3 or values.shape[1] < LEAST_SUMS or not np.all(np.any(values > 0, axis=1)):
        return None
    if not np.isfinite(values).all():
        return None
    total = values.sum(axis=0)
    for i, one in enumerate(values):
        others = total - one
        if not (0.99 <= one.sum() / max(others.sum(), 1e-9) <= 1.01 * MOST_LOSSES):
            continue
        if not np.all(others > 0):
            continue
        scale = float(np.median(one / others))
        if np.allclose(2 * one, total, rtol=1e-3, atol=0.02):
            return Total(i, 1.0, _change_apart(np.delete(values, i, axis=0)))
        if 1 <= scale <= MOST_LOSSES and np.allclose(one, scale * others, rtol=2e-3, atol=0.02):
            return Total(i, scale, _change_apart(np.delete(values, i, axis=0)))
    return None


def _change_apart(parts: Floats) -> bool:
    """Return whether powers change by themselves. Constant ones are no evidence of a sum."""
    parts = parts[np.ptp(parts, axis=1) > 0]
    changes = np.diff(parts / parts.mean(axis=1, keepdims=True), axis=1)
    own = np.ptp(changes, axis=0) > LEAST_OWN_CHANGE if len(parts) else np.zeros(0)
    return bool(np.count_nonzero(own) >= LEAST_OWN_CHANGES)
