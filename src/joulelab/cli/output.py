"""Shared output of the commands: help, CSV, JSON, tables, progress and skipped records."""

from __future__ import annotations

import csv
import io
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Column, Table
from rich.text import Text

from joulelab.errors import JoulelabError
from joulelab.format import csv_cell, finite_or_none, number, printable
from joulelab.layout import terminal_width, wrap
from joulelab.storage import write_whole, writing


class SectionedCommand(click.Command):
    """A command whose help lists its options in sections."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options of each section under its heading."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            # Newer versions of click have records of arguments, which the usage line shows.
            if record is not None and isinstance(parameter, click.Option):
                sections.setdefault(getattr(parameter, "section", "Options"), []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)


class SectionOption(click.Option):
    """An option of a :class:`SectionedCommand` in the section with a heading."""

    def __init__(self, *arguments: Any, section: str, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.section = section


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Format rows as CSV with a header; NaN and ``None`` become empty cells.

    Args:
        rows: Values by column; all with the columns of the first.

    Example:
        >>> csv_text([{"name": "epoch", "gross_j": 2.5}, {"name": "step", "gross_j": math.nan}])
        'name,gross_j\\nepoch,2.5\\nstep,\\n'
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    if rows:
        writer.writerow(rows[0])
    writer.writerows(
        [
            "" if isinstance(value, float) and math.isnan(value) else csv_cell(value)
            for value in row.values()
        ]
        for row in rows
    )
    return text.getvalue()


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows to a CSV file, all of it or nothing.

    Raises:
        StoreError: The file cannot be written.
    """
    write_text(path, csv_text(rows))


def write_text(path: Path, text: str) -> bool:
    """Write a text to a file, all of it or nothing, or print it if the path is ``-``.

    Returns:
        Whether it was printed, so that nothing else should be.

    Raises:
        StoreError: The file cannot be written.
    """
    if str(path) == "-":
        click.echo(text, nl=False)
        return True
    with writing(path):
        write_whole(path, text.encode())
    return False


def print_json(data: Any) -> None:
    """Print a value as JSON; NaN and infinities become ``null``."""
    click.echo(json.dumps(finite_or_none(data), indent=1, allow_nan=False))


UNLIMITED_WIDTH = 10_000


class PlainConsole(Console):
    """Prints texts as they are, without markup and characters that a terminal acts on."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Convert a text for a cell or a line."""
        return super().render_str(printable(text), **options)


def echo(text: str = "", *, err: bool = False) -> None:
    """Print a line, wrapped on a terminal, without characters that a terminal acts on."""
    click.echo(wrap(printable(text), terminal_width(sys.stderr if err else sys.stdout)), err=err)


def output_console() -> Console:
    """Create a console for standard output; what is not a terminal gets lines of any length.

    Values in a pipe or a file are never wrapped or cut, unless ``COLUMNS`` asks for it.
    """
    # Rich ignores the width of a terminal that is called dumb, unless it has a height, too.
    return PlainConsole(width=terminal_width(sys.stdout) or UNLIMITED_WIDTH, height=25)


_PADDING, _SEPARATOR = 1, 3  # Columns at each edge of a table, and between its columns.


class _ValueTable(Table):
    """A table that a narrow terminal gets as several, each with the columns of names."""

    names = 1

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Render it, or its parts."""
        parts = list(self._parts(console, options))
        if len(parts) == 1:
            yield from super().__rich_console__(console, options)
        for part in parts if len(parts) > 1 else []:
            yield from part.__rich_console__(console, options)

    def _parts(self, console: Console, options: ConsoleOptions) -> Iterator[Table]:
        """Yield tables that fit, if at least the names and one column of values do."""

        def width(column: Column) -> int:
            """Return the columns of the terminal that a column needs: those of its words."""
            if column.min_width is not None:
                return column.min_width
            found = [
                Measurement.get(console, options.update(width=UNLIMITED_WIDTH), cell)
                for cell in (column.header, *column.cells)
            ]
            return max(one.maximum if column.no_wrap else one.minimum for one in found)

        title, names = self.title, self.columns[: self.names]
        edges = 2 * _PADDING - _SEPARATOR
        room = options.max_width - edges - sum(width(one) + _SEPARATOR for one in names)
        chosen: list[Column] = []
        used = 0
        for column in self.columns[self.names :]:
            wanted = width(column) + _SEPARATOR
            if chosen and used + wanted > room:
                yield self._with([*names, *chosen], title)
                title, chosen, used = None, [], 0
            chosen.append(column)
            used += wanted
        yield self._with([*names, *chosen], title)

    def _with(self, columns: Sequence[Column], title: Any) -> Table:
        part = Table(title=title, title_justify="left", box=self.box, pad_edge=False)
        for one in columns:
            part.add_column(
                one.header, justify=one.justify, no_wrap=one.no_wrap, overflow=one.overflow
            )
        for row, *cells in zip(self.rows, *(one.cells for one in columns), strict=True):
            part.add_row(*cells, end_section=row.end_section)
        return part


def value_table(
    first: str, headings: Sequence[str], title: str | None = None, *, names: int = 1
) -> Table:
    """Create a table with a column of names, which may wrap, and columns of values.

    On a terminal that is too narrow it becomes several tables, one below the other, that all begin
    with the first ``names`` columns.

    Example:
        >>> table = value_table("model", ["MACs"])
        >>> [(column.header, column.justify) for column in table.columns]
        [('model', 'left'), ('MACs', 'right')]
    """
    table = _ValueTable(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.names = names
    table.add_column(first, overflow="fold")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


@contextmanager
def progress(text: str) -> Iterator[Callable[[int | str], None]]:
    """Show that work is in progress while standard error is a terminal.

    What it returns may be called with how much is done, or with the text of the next phase.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _: None
        return
    with console.status(text) as status:
        yield lambda now: status.update(now if isinstance(now, str) else f"{text} ({number(now)})")


def warn_skipped(error: JoulelabError) -> None:
    """Warn on standard error that a record was skipped, and why."""
    echo(f"joulelab: skipped: {error}", err=True)
