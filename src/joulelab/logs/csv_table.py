"""Reading columns of numbers from CSV files that others wrote."""

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

Floats = NDArray[np.float64]
Converter = Callable[[Sequence[str]], Floats]

GZIP_MAGIC = b"\x1f\x8b"
COMMENT = "#"
DELIMITERS = ",;\t"
SAMPLE_ROWS = 200
ROWS_AT_ONCE = 1 << 16
LOOKED_AT_BYTES = 4096

ABSENT = {"", "n/a", "na", "nan", "none", "null", "-"}
"""Cells without a value; so is everything in square brackets, as ``[Not Supported]``."""


@dataclass(frozen=True, slots=True)
class Table:
    """What the beginning of a CSV file shows of it.

    Attributes:
        path: The file.
        names: Of the columns; ``"1"``, ``"2"``, ... when there is no header.
        header: Whether the first line names the columns.
        delimiter: Comma, semicolon or tab.
        heading: The line that names the columns; wherever it comes again (as ``nvidia-smi`` writes
            it whenever it is started) it is left out.
        sample: Up to :data:`SAMPLE_ROWS` first rows. Each as long as the file gives it.
    """

    path: Path
    names: tuple[str, ...]
    header: bool
    delimiter: str
    heading: str
    sample: tuple[tuple[str, ...], ...]

    def cells(self, column: int) -> list[str]:
        """The cells of a column in the sample."""
        return [row[column] for row in self.sample if column < len(row)]

    def rows(self) -> Iterator[list[str]]:
        """Every row of cells, without the header.

        Raises:
            UserError: The file cannot be read.
        """
        with open_text(self.path) as file:
            yield from self._rows(_Headings(self).left_out(_lines(file)))

    def _rows(self, lines: Iterable[str]) -> Iterator[list[str]]:
        return csv.reader(lines, delimiter=self.delimiter, skipinitialspace=True)

    def read(self, columns: Sequence[tuple[int, Converter | None]]) -> tuple[list[Floats], str]:
        """Columns of the whole file.

        Args:
            columns: Position and converter of each; ``None`` where plain numbers are expected.

        Returns:
            An array for each column, all of shape (rows,), NaN where there is no value; and in
            words what was left out, or nothing.

        Raises:
            UserError: The file cannot be read.
        """
        last = _LastLine(self.delimiter)
        if all(converter is None for _, converter in columns):
            with open_text(self.path) as file:
                # NumPy's parser leaves out comments and blank lines by itself.
                head = list(itertools.islice(_lines(file), int(self.header) + 1))[self.header :]
                lines = last.checked(itertools.chain(head, file))
                fast = _load_numbers(lines, self.delimiter, [i for i, _ in columns])
            if fast is not None:
                return fast, last.note
        converters = [converter or numbers for _, converter in columns]
        width = 1 + max(position for position, _ in columns)
        chunks: list[list[Floats]] = [[] for _ in columns]
        short, headings = 0, _Headings(self)
        with open_text(self.path) as file:
            rows = self._rows(last.checked(headings.left_out(_lines(file))))
            while taken := list(itertools.islice(rows, ROWS_AT_ONCE)):
                whole = [row for row in taken if len(row) >= width]
                short += len(taken) - len(whole)
                for chunk, converter, (position, _) in zip(
                    chunks, converters, columns, strict=True
                ):
                    chunk.append(converter([row[position] for row in whole]))
        too_short = f"{short} lines with too few columns were left out" if short else ""
        columns_read = [np.concatenate(chunk) if chunk else np.zeros(0) for chunk in chunks]
        return columns_read, "; ".join(filter(None, (last.note, headings.note, too_short)))


def open_table(path: Path) -> Table:
    """Looks at the beginning of a CSV file, plain or gzip, with or without a header.

    Raises:
        UserError: The file cannot be read, or holds nothing.
    """
    with open_text(path) as file:
        head = list(itertools.islice(_lines(file), SAMPLE_ROWS + 1))
    if not head:
        raise UserError(f"{path} holds no data", hint="give a CSV file with a header and rows")
    delimiter = max(DELIMITERS, key=head[0].count)
    heading = head[0].strip()
    first, *rows = [
        tuple(cell.strip() for cell in row)
        for row in csv.reader(
            [head[0], *(line for line in head[1:] if line.strip() != heading)],
            delimiter=delimiter,
            skipinitialspace=True,
        )
    ]
    header = not any(cell[:1].isdigit() or cell[:1] in "+-." for cell in first if cell)
    if header:
        return Table(path, first, True, delimiter, heading, tuple(rows))
    names = tuple(str(i + 1) for i in range(len(first)))
    return Table(path, names, False, delimiter, heading, (first, *rows))


@contextmanager
def open_text(path: Path) -> Iterator[TextIO]:
    """A file's text; decompressed when its content, not its name, says gzip.

    Raises:
        UserError: It cannot be read, or is damaged.
    """
    try:
        with path.open("rb") as file:
            packed = file.read(2) == GZIP_MAGIC
        opener = gzip.open if packed else open
        with opener(path, "rb") as file:
            encoding = _encoding(file.read(LOOKED_AT_BYTES), path)
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
    """UTF-8, or UTF-16 as Windows' PowerShell writes what is sent to a file."""
    if beginning.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if b"\0" in beginning:
        raise UserError(f"{path} is no text", hint="give a CSV file, plain or gzip")
    return "utf-8-sig"


def numbers(cells: Sequence[str]) -> Floats:
    """Numbers from text, with a decimal point or comma; NaN where there is none.

    Example:
        >>> numbers(["1.5", "2,5", "[N/A]", "?"])
        array([1.5, 2.5, nan, nan])
    """
    try:
        return np.array(cells, dtype=np.float64)
    except ValueError:
        return np.array([number(cell) for cell in cells], dtype=np.float64)


def number(cell: str) -> float:
    """The number in a cell; NaN when there is none."""
    cell = cell.strip()
    if is_absent(cell):
        return math.nan
    try:
        return float(cell.replace(",", ".", 1))
    except ValueError:
        return math.nan


def is_absent(cell: str) -> bool:
    """Whether a cell says that there is no value."""
    return cell.lower() in ABSENT or cell.startswith("[")


def _lines(file: TextIO) -> Iterator[str]:
    """Lines that are neither blank nor comments, with their ends."""
    return (line for line in file if not line.isspace() and not line.lstrip().startswith(COMMENT))


def _load_numbers(
    lines: Iterator[str], delimiter: str, positions: Sequence[int]
) -> list[Floats] | None:
    """Columns of nothing but numbers, by NumPy's own parser; ``None`` when they are not."""
    first = next(lines, None)
    if first is None:
        return [np.zeros(0) for _ in positions]
    try:
        values = np.loadtxt(
            itertools.chain([first], lines), delimiter=delimiter, usecols=positions, ndmin=2
        )
    except ValueError:
        return None
    return [np.ascontiguousarray(values[:, i]) for i in range(len(positions))]


class _Headings:
    """Leaves out the line that names the columns, wherever it comes."""

    def __init__(self, table: Table) -> None:
        self._heading = table.heading if table.header else None
        self._count = 0

    def left_out(self, lines: Iterable[str]) -> Iterator[str]:
        for line in lines:
            if line.strip() == self._heading:
                self._count += 1
            else:
                yield line

    @property
    def note(self) -> str:
        again = self._count - 1
        return f"{again} lines that repeat the header were left out" if again > 0 else ""


class _LastLine:
    """Leaves out a last line without its end that is not like the line before it."""

    def __init__(self, delimiter: str) -> None:
        self._delimiter = delimiter
        self.note = ""

    def checked(self, lines: Iterator[str]) -> Iterator[str]:
        self.note = ""
        before, held = "", next(lines, None)
        for line in lines:
            assert held is not None
            yield held
            before, held = held, line
        if held is None:
            return
        if held.endswith(("\n", "\r")) or not before or self._like(held, before):
            yield held
        else:
            self.note = "the last line was cut short and is left out"

    def _like(self, line: str, before: str) -> bool:
        cells, cells_before = (text.strip().split(self._delimiter) for text in (line, before))
        if len(cells) != len(cells_before):
            return False
        # A number that lost its last digits has fewer decimals, one that lost its unit no unit.
        return _ending(cells[-1]) == _ending(cells_before[-1])


def _ending(cell: str) -> tuple[int, str]:
    """How many decimals a cell has, and what follows the number."""
    digits, _, unit = cell.strip().partition(" ")
    return len(digits.partition(".")[2]), unit
