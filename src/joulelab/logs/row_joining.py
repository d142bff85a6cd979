"""Rows of a table that a comma within a cell has split into too many cells."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from pathlib import Path

from joulelab.errors import UserError
from joulelab.logs.cells import CellKind, kind_of

SHOWN = 60  # Characters of a line in a message.


def join(path: Path, row: Sequence[str], width: int, delimiter: str) -> list[str]:
    """Join the cells of a row that were split at a comma, or raise a :class:`UserError`."""
    joined = join_row(row, width, delimiter)
    if joined is None:
        raise UserError(
            f"{path}: a row has {len(row)} cells, the header {width}",
            why=f"the row is {shown(delimiter.join(row))!r}",
            hint="put cells that contain the delimiter in quotes",
        )
    return joined


def join_row(row: Sequence[str], width: int, delimiter: str) -> list[str] | None:
    """Join the cells of a row with too many; ``None`` if there is no or more than one way.

    Joined are the fraction of a time that has a decimal comma, a text that contains the delimiter,
    and a number with its unit; each only if all other cells keep their form.

    Example:
        >>> join_row(["12:00:01", "25", "97", "250"], 3, ",")
        ['12:00:01,25', '97', '250']
        >>> join_row(["1.0", "Board", " rev 2", "250 W"], 3, ",")
        ['1.0', 'Board, rev 2', '250 W']
        >>> join_row(["1.0", "12", "5", "97"], 3, ",") is None
        True
    """
    cells = [cell.strip() for cell in row]
    at = next((i for i in range(len(cells) - 1) if _is_fraction(*cells[i : i + 2])), None)
    if len(cells) > width and at is not None:
        cells[at : at + 2] = [f"{cells[at]},{cells[at + 1]}"]
    excess = len(cells) - width
    if excess == 0:
        return cells
    parts = [cells[i : i + excess + 1] for i in range(width)]
    numbers = [i for i in range(width) if _are_digits(parts[i])]
    if not (numbers or any(cells[width:])):
        return cells[:width]
    texts = [i for i in range(width) if all(kind_of(cell) is CellKind.TEXT for cell in parts[i])]
    ways = numbers + texts
    if len(ways) != 1 or not any(cells[width:]) or not any(map(str.isalpha, parts[ways[0]][-1])):
        return None
    at, end = ways[0], ways[0] + excess + 1
    return [*cells[:at], delimiter.join([cells[at], *row[at + 1 : end]]).strip(), *cells[end:]]


_SECONDS = re.compile(r"\d:\d\d:\d\d$")
_FRACTION = re.compile(r"\d{1,9}(?: ?(?:Z|UTC|[+-]\d{2}:?\d{2}))?(?: ?[AP]M)?")


def _is_fraction(time: str, fraction: str) -> bool:
    """Return whether two cells are a time that was split at its decimal comma."""
    is_time = _SECONDS.search(time) and kind_of(time) is CellKind.TIME
    return bool(is_time and _FRACTION.fullmatch(fraction))


def _are_digits(cells: Sequence[str]) -> bool:
    """Return whether cells may be a number that was split at its commas, with or without a unit."""
    digits = all(re.fullmatch(r"\d+(?:\s*[A-Za-zµ%]+)?", cell) for cell in cells[1:])
    return bool(re.fullmatch(r"[-+]?\d+", cells[0])) and digits


def split_time(rows: Sequence[Sequence[str]], width: int) -> bool:
    """Return whether all rows without a header have a time that was split at its decimal comma."""
    found = []
    for row in rows:
        if len(row) == width:
            at = next((i for i in range(width - 1) if _is_fraction(*row[i : i + 2])), None)
            if at is None:
                return False
            found.append(row[at + 1])
    digits = [text[: len(text) - len(text.lstrip("0123456789"))] for text in found]
    has_zone = all(len(text) > len(one) for text, one in zip(found, digits, strict=True))
    same = len({len(one) for one in digits}) == 1 and len(digits[0]) in (3, 6, 9)
    return bool(found) and (has_zone or (same and any(one[0] == "0" for one in digits)))


def check_split_times(path: Path, rows: Sequence[Sequence[str]], width: int) -> None:
    """Raise an error if what follows the times may be fractions, or numbers of another column."""
    long = [row for row in rows if len(row) == width + 1]
    if not long or split_time(long, width + 1):
        return
    at = next((i for i in range(width - 1) if _is_fraction(*long[0][i : i + 2])), None)
    if at is not None and all(_are_digits(row[at + 1 : at + 3]) for row in long):
        time, fraction, number = long[0][at : at + 3]
        raise UserError(
            f"{path}: it is unclear what {fraction!r} after the time {time!r} is",
            why=f"it may be its fraction, or a number with a decimal comma, {fraction},{number}",
            hint="write numbers with a decimal point, or put them and times in quotes",
        )


def check_split_numbers(path: Path, sample: Sequence[Sequence[str]]) -> None:
    """Raise an error if rows without a header have decimal commas and commas between cells."""
    for whole, fraction in itertools.pairwise(zip(*sample, strict=True)):
        digits = [re.fullmatch(r"(\d+)\s*[A-Za-zµ%]+", cell) for cell in fraction]
        if not all(digits) or not all(re.fullmatch(r"[-+]?\d+", cell) for cell in whole):
            continue
        texts = [match[1] for match in digits if match]
        is_index = set(whole) <= {str(i) for i in range(len(set(whole)))}
        if any(len(text) > 1 and text[0] == "0" for text in texts) or not (
            is_index or any(len(text) > 1 for text in texts)
        ):
            raise UserError(
                f"{path}: numbers seem to be split at decimal commas",
                why=f"{whole[0]!r} is followed by {fraction[0]!r}",
                hint="write them with a decimal point, or separate cells by semicolons",
            )


def shown(text: str) -> str:
    """Return a part of a line for a message, without control characters."""
    text = "".join(one if one.isprintable() else " " for one in text)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."
