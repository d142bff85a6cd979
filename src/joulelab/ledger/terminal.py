"""Print a ledger on the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from joulelab.layout import wrap
from joulelab.ledger.ledger import Ledger
from joulelab.ledger.text import (
    TextTable,
    exchange_table,
    head_lines,
    notes,
    row_table,
    split_tables,
    top_consumer_table,
)

_BAR_COLUMN = 5
BAR = 16
"""Characters of a bar of 100 %."""
NAME = 16
"""Characters of a name that stay on one line."""
WIDE = 100
"""Bars and dates are shown if there are this many columns."""


def print_ledger(ledger: Ledger, console: Console) -> None:
    """Print the sums, the split over phases, and the top consumers.

    No value is cut: a table that is wider than the console is printed as lines instead.
    """
    width = console.width
    for line in head_lines(ledger):
        console.print(wrap(line, width), soft_wrap=True)
    tables = [_row_table(ledger, console), *filter(None, [_split_table(split_tables(ledger))])]
    if exchanged := exchange_table(ledger):
        tables.append(_exchange_table(exchanged))
    if ledger.top_consumers:
        tables.append(_top_consumer_table(top_consumer_table(ledger), console))
    for table in tables:
        if _least_width(table, console) <= width:
            console.print(table)
        else:
            _print_as_lines(table, console)
    for line in notes(ledger):
        console.print(wrap(f"- {line}", width), soft_wrap=True)


def _row_table(ledger: Ledger, console: Console) -> Table:
    texts = row_table(ledger)
    with_bars = console.width >= WIDE
    longest = max((len(row.key) for row in ledger.rows), default=0)
    table = _table(_two_lines(texts.headings[0]), min(longest, NAME))
    for i, heading in enumerate(texts.headings[1:], 1):
        if with_bars and i == _BAR_COLUMN:
            table.add_column("")
        table.add_column(heading, justify="right", no_wrap=True)
    if with_bars and len(texts.headings) == _BAR_COLUMN:
        table.add_column("")
    largest = max((row.energy.value for row in ledger.rows), default=0.0)
    for row, (name, *cells) in zip(ledger.rows, texts.rows, strict=True):
        shown = [name.replace(" (so far)", "\nso far"), *map(_two_lines, cells)]
        if with_bars:
            bar = _bar(row.energy.value / largest if largest > 0 else 0.0, console)
            shown.insert(_BAR_COLUMN, bar)
        table.add_row(*shown)
    return table


def _split_table(splits: Sequence[TextTable]) -> Table | None:
    table = _table("share of", NAME)
    table.add_column("here", justify="right")
    table.add_column("published", justify="right")
    for one in splits:
        table.add_row(f"{one.headings[0].removeprefix('share of ')}:", "", "")
        for name, *cells in one.rows:
            table.add_row(f"  {name}", *cells)
    return table if table.row_count else None


def _exchange_table(texts: TextTable) -> Table:
    first, *headings = texts.headings
    table = _table(first, NAME)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in texts.rows:
        table.add_row(*row)
    return table


def _top_consumer_table(texts: TextTable, console: Console) -> Table:
    is_dated = console.width >= WIDE
    table = _table(texts.headings[0], NAME)
    table.add_column("phase", no_wrap=True)
    if is_dated:
        table.add_column("started", no_wrap=True)
    table.add_column("energy (95 % CI)", justify="right", no_wrap=True)
    table.add_column("record", overflow="fold")
    for name, phase, started, *cells in texts.rows:
        table.add_row(name, phase, *([started] if is_dated else []), *cells)
    return table


def _table(first: str, min_width: int) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(first, overflow="fold", min_width=min_width)
    return table


def _print_as_lines(table: Table, console: Console) -> None:
    """Print each row as its name and its values, each after the heading of its column."""
    first, *others = (str(column.header).partition("\n")[0] for column in table.columns)
    console.print(f"{first}:")
    for name, *cells in zip(*(column.cells for column in table.columns), strict=True):
        values = [
            f"{heading.partition(' (')[0]} {cell}".strip().replace("\n", " ")
            for heading, cell in zip(others, cells, strict=True)
            if cell
        ]
        line = f"- {str(name).strip().replace(chr(10), ' ')}: {', '.join(values)}"
        console.print(wrap(line, console.width), soft_wrap=True)


def _least_width(table: Table, console: Console) -> int:
    """Measure a table whose names are folded and whose values are not."""
    names = table.columns[0]
    names.max_width = NAME
    width = Measurement.get(console, console.options.update_width(10_000), table).maximum
    names.max_width = None
    return width


def _two_lines(text: str) -> str:
    """Put the interval under its value."""
    return text.replace(" (", "\n(", 1)


def _bar(fraction: float, console: Console) -> str:
    block = "█" if (console.encoding or "").lower().startswith("utf") else "#"
    return block * round(BAR * fraction)
