"""CSV files of other tools: encoding, delimiter, header, and the shape of rows.

A row with more cells than the header is joined where only one way is possible, or an error: columns
never shift. Lines before the header, repeated headers, a row of units and messages of the tool are
left out with a note.
"""

from __future__ import annotations

import csv
import itertools
import re
import string
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TextIO

import numpy as np

from joulelab.arrays import Floats
from joulelab.errors import UserError
from joulelab.format import count
from joulelab.logs.cells import (
    CellKind,
    NumberReader,
    decimal_mark,
    form_of,
    has_comma,
    has_point,
    is_absent,
    is_value,
    kind_of,
    names_columns,
)
from joulelab.logs.row_joining import (
    check_split_numbers,
    check_split_times,
    join,
    join_row,
    shown,
    split_time,
)
from joulelab.logs.text_files import open_text, read_blocks, read_lines

Converter = Callable[[Sequence[str]], Floats]  # Texts to numbers, NaN for no value.

COMMENT = "#"
DELIMITERS = ",;\t|"
_SEPARATORS = set(";\t|")  # Unlike commas, they stand in no number or time.
SAMPLE_ROWS = 200
MOST_PREAMBLE = 100  # The header follows at most this many other lines.
CELLS_PER_CHUNK = 1 << 19
MOST_SHORT = 0.1  # A file of which a larger share of rows is short has another layout.
_DOCUMENT = re.compile(r"\s*(?:(<[?!\w])|\{|\[\s*(?:[\[{]|$))")
_NAME = re.compile(r"\s*[A-Za-z_][^\s,]*(?:\s*[\[(][^\])]*[\])])?\s*\Z")
_UNITS_ROW = re.compile(
    r"[\[(]?\s*(?:[nuµm]?s|sec\w*|[kmuµ]?w|watts?|[kmu]?j|joules?|[km]?wh|%|pct|percent|°?c|celsius|"
    r"[kmg]?hz|[kmg]i?b|bytes|m?v|volts?|m?a|amps?|v?va|rpm|unix|utc|iso|yyyy.*|hh:.*)?\s*[\])]?",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Table:
    """A CSV file whose first rows have been inspected."""

    path: Path
    names: tuple[str, ...]  # Of the columns; "1", "2", ... if there is no header.
    header: bool
    delimiter: str
    headings: frozenset[str]  # Header and units, skipped wherever they are repeated.
    sample: tuple[tuple[str, ...], ...]  # First rows: usually :data:`SAMPLE_ROWS`.
    skipped: int = 0  # Lines before the header.
    mark: str | None = "."  # Decimal mark of its numbers; ``None`` if they do not show it.
    date_column: int | None = None  # Dates that belong to the times of day in the next column.

    def cells(self, column: int) -> list[str]:
        """Return the cells of a column in the sample."""
        return [row[column] for row in self.sample]

    def shown_line(self) -> str:
        """Return the beginning of its first row, or else of its header, for a message."""
        return shown(self.delimiter.join(self.sample[0] if self.sample else self.names))

    def rows(self) -> Iterator[list[str]]:
        """Iterate over all rows of cells, without the header; some may be short."""
        with open_text(self.path) as file:
            width = len(self.names)
            for row in self._split(self._data_lines(file, [])):
                is_long = len(row) > width
                yield join(self.path, row, width, self.delimiter) if is_long else row

    def read(self, columns: Sequence[tuple[int, Converter | None]]) -> tuple[list[Floats], str]:
        """Read columns (positions, converters) of all rows; return a note on skipped lines, too."""
        notes: list[str] = []
        if self.skipped:
            notes.append(f"skipped {count(self.skipped, 'line')} before the header")
        converters = [converter or self.numbers(i) for i, converter in columns]
        positions = [i for i, _ in columns]
        chunks: list[list[Floats]] = [[np.zeros(0)] for _ in columns]
        shape = _Shape(self)
        with open_text(self.path) as file:
            rows = self._split(self._data_lines(file, notes))
            per_chunk = max(CELLS_PER_CHUNK // len(self.names), 1)
            while taken := list(itertools.islice(rows, per_chunk)):
                whole = shape.whole(taken)
                for chunk, position, converter in zip(chunks, positions, converters, strict=True):
                    chunk.append(converter([row[position] for row in whole]))
        shape.finish(notes)
        return [np.concatenate(chunk) for chunk in chunks], "; ".join(notes)

    def numbers(self, column: int) -> NumberReader:
        """Create a converter of the plain numbers of a column."""
        what = f"{self.path}: column {self.names[column]!r}"
        return NumberReader(what, self.mark, self.cells(column))

    def with_date(self, row: Sequence[str]) -> list[str]:
        """Return the cells of a row, with its date in front of the time of day."""
        cells, i = list(row), self.date_column
        if i is not None and len(cells) > i + 1:
            cells[i + 1] = f"{cells[i].strip()} {cells[i + 1].strip()}"
        return cells

    def _split(self, lines: Iterable[str]) -> Iterator[list[str]]:
        rows = csv.reader(lines, delimiter=self.delimiter, skipinitialspace=True)
        return rows if self.date_column is None else map(self.with_date, rows)

    def _data_lines(self, file: TextIO, notes: list[str]) -> Iterator[str]:
        """Iterate over lines of data: no comments, no header wherever it is repeated.

        A last line that has no line end and differs in form from the line before it is left out.
        """
        headings = 0
        before = self.skipped
        others = {text[:1] for text in (*self.headings, COMMENT, *string.whitespace)}
        latest: list[str] = []
        for block in read_blocks(file):
            lines = [line for line in block if line[0] not in others]
            if before or len(lines) < len(block):
                lines = []
                for line in block:
                    text = line.strip()
                    if text in self.headings:
                        headings += 1
                    elif text and not text.startswith(COMMENT):
                        lines.append(line)
                before, lines = max(before - len(lines), 0), lines[before:]
            lines = latest + lines
            yield from lines[:-2]
            latest = lines[-2:]
        if latest and not latest[-1].endswith("\n") and not self._is_like(*latest[-2:]):
            latest.pop()
            notes.append("skipped the last line, which is cut short")
        yield from latest
        if headings > len(self.headings):
            repeated = count(headings - len(self.headings), "repeated header line")
            notes.append(f"skipped {repeated}")

    def _is_like(self, previous: str, line: str = "") -> bool:
        if not line:
            return True
        cells, previous_cells = (text.strip().split(self.delimiter) for text in (line, previous))
        if len(cells) != len(previous_cells):
            return False
        # A number that lost its last digits is shorter; one that lost its unit has none.
        return form_of(cells[-1]) == form_of(previous_cells[-1])


@dataclass(slots=True)
class _Shape:
    """Brings rows to the number of cells of the header, and counts those that have fewer."""

    table: Table
    rows: int = 0
    messages: list[str] = field(default_factory=list)
    message_lines: int = 0
    short: int = 0
    example: Sequence[str] = ()

    def whole(self, rows: list[list[str]]) -> list[list[str]]:
        """Return the rows with as many cells as the header, joined where they have more."""
        width = len(self.table.names)
        self.rows += len(rows)
        names = set(self.table.names) if self.table.header else set()
        if {len(row) for row in rows} == {width}:
            starts = "".join({row[0][:1] for row in rows})
            if not re.search("[A-Za-z_]", starts) or not any(map(_may_be_header, rows)):
                return rows
        whole = []
        for row in rows:
            is_of_names = row and row[0] in names and names.intersection(map(str.strip, row[1:]))
            if is_of_names or (names and len(row) > 1 and _may_be_header(row)):
                self._check_header(row)
            elif len(row) == width:
                whole.append(row)
            elif len(row) > width:
                whole.append(join(self.table.path, row, width, self.table.delimiter))
            else:
                self._leave_out(row)
        return whole

    def finish(self, notes: list[str]) -> None:
        """Note what was left out; raise a :class:`UserError` if it is much."""
        if self.short > max(MOST_SHORT * self.rows, 2):
            raise UserError(
                f"{self.table.path}: {count(self.short, 'row')} of {self.rows} have fewer cells "
                f"than the header",
                why=f"the first is {shown(self.table.delimiter.join(self.example))!r}",
            )
        if self.message_lines:
            example = shown(self.messages[0])
            notes.append(f"skipped {count(self.message_lines, 'line')} of text ({example!r})")
        if self.short:
            notes.append(f"skipped {count(self.short, 'line')} with too few columns")

    def _leave_out(self, row: list[str]) -> None:
        if len(row) < 2 and not any(is_value(cell.strip()) for cell in row):
            self.message_lines += 1
            if len(self.messages) < 1:
                self.messages.append(" ".join(row))
            return
        self.short += 1
        self.example = self.example or row

    def _check_header(self, row: list[str]) -> None:
        """Raise an error if the columns change within the file."""
        cells = tuple(cell.strip() for cell in row)
        if cells[: len(self.table.names)] != self.table.names:
            raise _changed_columns(self.table.path, cells)


def _may_be_header(row: Sequence[str]) -> bool:
    """Return whether all cells are names, as of columns: no values, and no words of a message."""
    return all(_NAME.match(cell) for cell in row) and not any(map(is_absent, row))


def open_table(path: Path, sample_rows: int = SAMPLE_ROWS) -> Table:
    """Inspect the first rows of a CSV file, plain or gzip, with or without a header."""
    with open_text(path) as file:
        some = (line for line in read_lines(file) if not line.isspace())
        head = list(itertools.islice(some, sample_rows + MOST_PREAMBLE))
        if head and (match := _DOCUMENT.match(head[0])):
            raise UserError(
                f"{path} is {'XML' if match[1] else 'JSON'} of no known tool",
                hint="give a table, for example CSV with a header",
            )
        lines = [line for line in head if not line.lstrip().startswith(COMMENT)]
        delimiter = max(DELIMITERS, key=partial(_fit, lines))
        table = _inspect(path, head, lines, delimiter, sample_rows) if lines else None
    if table is None:
        raise UserError(f"{path} contains no data", hint="give a CSV file with a header and rows")
    return table


def _fit(lines: Sequence[str], delimiter: str) -> tuple[float, int]:
    """Return how well a delimiter fits: rows of equal length, times the share of values in them."""
    rows = [_row(line, delimiter) for line in lines]
    width, number = Counter(map(len, rows)).most_common(1)[0] if rows else (0, 0)
    if width <= 1:
        return 0.0, 0
    cells = [cell for row in rows for cell in row if len(row) == width]
    clean = sum(
        not set(cell) & _SEPARATORS and kind_of(cell) is not CellKind.TEXT for cell in cells
    )
    return number * clean / len(cells), width


def _row(line: str, delimiter: str) -> tuple[str, ...]:
    cells = next(csv.reader([line], delimiter=delimiter, skipinitialspace=True), [])
    return tuple(cell.strip() for cell in cells)


def _inspect(
    path: Path, head: Sequence[str], lines: Sequence[str], delimiter: str, sample_rows: int
) -> Table | None:
    """Find the header and join the rows of the sample; ``None`` if there is neither."""
    rows = [_row(line, delimiter) for line in lines]
    first = _first_data_row(rows)
    names, headings, at = _header(rows, lines, head, first, delimiter)
    header = bool(names)
    if header:
        _check_earlier_header(path, rows[:at], names)
    others = [
        row
        for row, line in zip(rows[first:], lines[first:], strict=True)
        if line.strip() not in headings
    ]
    if not (header or others):
        return None
    if not header:
        usual = Counter(map(len, others)).most_common(1)[0][0]
        split = split_time(others, usual)
        if split:
            others = [tuple(join_row(row, usual - 1, delimiter) or row) for row in others]
        names = tuple(str(i + 1) for i in range(usual - split))
    sample = []
    for row in others[:sample_rows]:
        joined = join(path, row, len(names), delimiter) if len(row) > len(names) else row
        if len(joined) == len(names):
            sample.append(tuple(joined))
    if header:
        check_split_times(path, others, len(names))
    elif delimiter == ",":
        check_split_numbers(path, sample)
    marks = {decimal_mark(cells) for cells in zip(*sample, strict=True) if has_comma(cells)}
    # Commas between cells and decimal commas rarely occur together.
    is_point = None not in marks or (delimiter == "," and has_point(sample))
    mark = "," if "," in marks else "." if is_point else None
    skipped = at if header else first
    return Table(path, names, header, delimiter, headings, tuple(map(tuple, sample)), skipped, mark)


def _first_data_row(rows: Sequence[tuple[str, ...]]) -> int:
    """Return the position of the first row that has a value and the usual number of cells."""
    with_value = [i for i, row in enumerate(rows) if len(row) > 1 and any(map(is_value, row))]
    if not with_value:
        return min(len(rows), 1)
    usual = Counter(len(rows[i]) for i in with_value).most_common(1)[0][0]
    same_width = [i for i in with_value if len(rows[i]) == usual]
    # A table of settings before that of readings has texts where these have values.
    values = [
        j
        for j in range(usual)
        if 2 * sum(is_value(rows[i][j]) for i in same_width) > len(same_width)
    ]
    have_values = (
        i
        for i in same_width
        if all(is_value(c) or is_absent(c) for c in (rows[i][j] for j in values))
    )
    first = next(have_values, same_width[0])
    below = rows[first + 1 : first + 20]
    return first + 1 if below and names_columns(rows[first], below) else first


def _header(
    rows: Sequence[tuple[str, ...]],
    lines: Sequence[str],
    head: Sequence[str],
    first: int,
    delimiter: str,
) -> tuple[tuple[str, ...], frozenset[str], int]:
    """Find the names of columns above the first row of data, and add the units below them.

    Returns:
        The names (none if there is no header), the lines of header and units, and how many other
        lines precede them.
    """
    is_single = first < len(rows) and len(rows[first]) == 1
    above = [i for i in range(first) if is_single or len(rows) == first or len(rows[i]) > 1]
    below = rows[first : first + 20]
    at = next((i for i in reversed(above) if _is_heading(rows[i], below)), -1)
    if at < 0:
        return _commented_header(rows, lines, head, first, delimiter)
    names = rows[at]
    headings = {lines[at].strip()}
    if (
        at > 0
        and len(rows[at - 1]) == len(names)
        and _is_heading(rows[at - 1])
        and all(map(_UNITS_ROW.fullmatch, names))
    ):
        units = [cell.strip("[]() ") for cell in names]
        at -= 1
        names = tuple(map(_with_unit, rows[at], units))
        headings.add(lines[at].strip())
    if first < len(rows):
        while len(names) > len(rows[first]) and not names[-1]:
            names = names[:-1]
    return names, frozenset(headings), at


def _check_earlier_header(
    path: Path, above: Sequence[tuple[str, ...]], names: Sequence[str]
) -> None:
    """Raise an error if rows above the header are data, below other columns of the same names."""
    for row, below in itertools.pairwise(above):
        is_header = _is_heading(row) and len(below) == len(row) and any(map(is_value, below))
        if is_header and {*row} & {*names} - {""}:
            raise _changed_columns(path, names)


def _changed_columns(path: Path, names: Sequence[str]) -> UserError:
    return UserError(
        f"{path}: the columns change at {shown(', '.join(names))!r}", hint="split the file there"
    )


def _with_unit(name: str, unit: str) -> str:
    """Add the unit in the row below a name."""
    stated = re.search(r"[\[(]\s*([^\])]*?)\s*[\])]$", name)
    if stated and unit and stated[1].lower() != unit.lower():
        raise UserError(f"column {name!r} has another unit below its name", why=f"it is {unit!r}")
    return f"{name} [{unit}]" if unit and not stated else name


def _is_heading(row: Sequence[str], below: Sequence[Sequence[str]] = ()) -> bool:
    """Return whether the cells of a row can be names of columns."""
    if any(map(is_value, row)):
        return bool(below) and len(row) == len(below[0]) and names_columns(row, below)
    return any(cell and not is_absent(cell) for cell in row)


def _commented_header(
    rows: Sequence[tuple[str, ...]],
    lines: Sequence[str],
    head: Sequence[str],
    first: int,
    delimiter: str,
) -> tuple[tuple[str, ...], frozenset[str], int]:
    """Find names of columns in the comment directly above the data."""
    if first >= len(lines):
        return (), frozenset(), first
    above = head[: head.index(lines[first])]
    if above and above[-1].lstrip().startswith(COMMENT):
        names = _row(above[-1].strip().lstrip(COMMENT), delimiter)
        if len(names) == len(rows[first]) and not any(map(is_value, names)):
            return names, frozenset([above[-1].strip()]), first
    return (), frozenset(), first
