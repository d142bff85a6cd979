"""CSV files of other tools: encoding, delimiter, header and numbers."""

from __future__ import annotations

import codecs
import csv
import gzip
import itertools
import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from joulelab.errors import UserError
from joulelab.format import count

Floats = NDArray[np.float64]
Converter = Callable[[Sequence[str]], Floats]  # Texts to numbers, NaN for no value.

GZIP_MAGIC = b"\x1f\x8b"
COMMENT = "#"
DELIMITERS = ",;\t"
SAMPLE_ROWS = 200
ROWS_PER_CHUNK = 1 << 16
ENCODING_BYTES = 4096

ABSENT = {"", "n/a", "na", "nan", "none", "null", "-"}
"""Cells without a value, in lower case; anything in square brackets is one too: ``[N/A]``."""


@dataclass(frozen=True, slots=True)
class Table:
    """A CSV file whose first rows have been inspected."""

    path: Path
    names: tuple[str, ...]  # Of the columns; "1", "2", ... if there is no header.
    header: bool
    delimiter: str
    heading: str  # The first line, skipped wherever nvidia-smi repeats it.
    sample: tuple[tuple[str, ...], ...]  # Up to :data:`SAMPLE_ROWS` first rows.

    def cells(self, column: int) -> list[str]:
        """Return the cells of a column in the sample."""
        return [row[column] for row in self.sample if column < len(row)]

    def rows(self) -> Iterator[list[str]]:
        """Iterate over all rows of cells, without the header."""
        with open_text(self.path) as file:
            yield from self._split(self._without_headings(_lines(file), []))

    def read(self, columns: Sequence[tuple[int, Converter | None]]) -> tuple[list[Floats], str]:
        """Read columns (positions, converters) of all rows; return a note on skipped lines, too."""
        notes: list[str] = []
        width = 1 + max(position for position, _ in columns)
        chunks: list[list[Floats]] = [[np.zeros(0)] for _ in columns]
        short = 0
        with open_text(self.path) as file:
            lines = self._without_headings(_lines(file), notes)
            rows = self._split(self._without_partial_end(lines, notes))
            while taken := list(itertools.islice(rows, ROWS_PER_CHUNK)):
                whole = [row for row in taken if len(row) >= width]
                short += len(taken) - len(whole)
                for chunk, (position, converter) in zip(chunks, columns, strict=True):
                    chunk.append((converter or numbers)([row[position] for row in whole]))
        if short:
            notes.append(f"skipped {count(short, 'line')} with too few columns")
        return [np.concatenate(chunk) for chunk in chunks], "; ".join(notes)

    def _split(self, lines: Iterable[str]) -> Iterator[list[str]]:
        return csv.reader(lines, delimiter=self.delimiter, skipinitialspace=True)

    def _without_headings(self, lines: Iterable[str], notes: list[str]) -> Iterator[str]:
        """Skip the line that names the columns wherever it occurs."""
        headings = 0
        for line in lines:
            if self.header and line.strip() == self.heading:
                headings += 1
            else:
                yield line
        if headings > 1:
            notes.append(f"skipped {count(headings - 1, 'repeated header line')}")

    def _without_partial_end(self, lines: Iterator[str], notes: list[str]) -> Iterator[str]:
        """Skip a last line that has no line end and differs in form from the line before it."""
        previous, current = "", next(lines, "")
        for line in lines:
            yield current
            previous, current = current, line
        if current.endswith(("\n", "\r")) or not previous or self._is_like(current, previous):
            yield from [current] if current else []
        else:
            notes.append("skipped the last line, which is cut short")

    def _is_like(self, line: str, previous: str) -> bool:
        cells, previous_cells = (text.strip().split(self.delimiter) for text in (line, previous))
        if len(cells) != len(previous_cells):
            return False
        # A number that lost its last digits has fewer decimals; one that lost its unit has none.
        return _decimals_and_unit(cells[-1]) == _decimals_and_unit(previous_cells[-1])


def open_table(path: Path) -> Table:
    """Inspect the first rows of a CSV file, plain or gzip, with or without a header."""
    with open_text(path) as file:
        head = list(itertools.islice(_lines(file), SAMPLE_ROWS + 1))
    if not head:
        raise UserError(f"{path} contains no data", hint="give a CSV file with a header and rows")
    delimiter = max(DELIMITERS, key=head[0].count)
    heading = head[0].strip()
    lines = [head[0], *(line for line in head[1:] if line.strip() != heading)]
    rows = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
    first, *others = [tuple(cell.strip() for cell in row) for row in rows]
    header = not any(cell[:1].isdigit() or cell[:1] in "+-." for cell in first if cell)
    if header:
        return Table(path, first, True, delimiter, heading, tuple(others))
    names = tuple(str(i + 1) for i in range(len(first)))
    return Table(path, names, False, delimiter, heading, (first, *others))


@contextmanager
def open_text(path: Path) -> Iterator[TextIO]:
    """Open a text file, decompressing gzip content; raise a :class:`UserError` if it is damaged."""
    try:
        with path.open("rb") as file:
            packed = file.read(2) == GZIP_MAGIC
        opener = gzip.open if packed else open
        with opener(path, "rb") as file:
            encoding = _encoding(file.read(ENCODING_BYTES), path)
        with opener(path, "rt", encoding=encoding, errors="replace", newline="") as text:
            yield text
    except EOFError as error:
        raise UserError(
            f"cannot read {path}", why="the gzip file is cut short", hint="copy it again"
        ) from error
    except csv.Error as error:
        raise UserError(f"cannot read {path}", why=f"not a CSV file: {error}") from error
    except (OSError, zlib.error) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise UserError(f"cannot read {path}", why=why.lower()) from error


def _encoding(beginning: bytes, path: Path) -> str:
    """Choose UTF-8, or UTF-16, which PowerShell writes when output is redirected to a file."""
    if beginning.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    # Property lists, which are text, are separated by NUL.
    if b"\0" in beginning and not beginning.startswith(b"<?xml"):
        raise UserError(f"{path} is not a text file", hint="give a CSV file, plain or gzip")
    return "utf-8-sig"


def numbers(cells: Sequence[str]) -> Floats:
    """Convert texts with a decimal point or comma to numbers, others to NaN.

    Example:
        >>> numbers(["1.5", "2,5", "[N/A]", "?"])
        array([1.5, 2.5, nan, nan])
    """
    try:
        return np.array(cells, dtype=np.float64)
    except ValueError:
        return np.array([number(cell) for cell in cells], dtype=np.float64)


def number(cell: str) -> float:
    """Convert a text with a decimal point or comma to a number, NaN if it is none."""
    cell = cell.strip()
    if is_absent(cell):
        return math.nan
    try:
        return float(cell.replace(",", ".", 1))
    except ValueError:
        return math.nan


def is_absent(cell: str) -> bool:
    """Return whether a cell states that there is no value."""
    return cell.lower() in ABSENT or cell.startswith("[")


def _lines(file: TextIO) -> Iterator[str]:
    """Iterate over lines that are neither blank nor comments, with their line ends."""
    return (line for line in file if not line.isspace() and not line.lstrip().startswith(COMMENT))


def _decimals_and_unit(cell: str) -> tuple[int, str]:
    digits, _, unit = cell.strip().partition(" ")
    return len(digits.partition(".")[2]), unit
