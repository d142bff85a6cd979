"""Spans that others wrote down: a CSV file with ``name,start_s,stop_s`` and further columns."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from joulelab.errors import UserError, nearest
from joulelab.logs.csv_table import Table, is_absent, number, open_table
from joulelab.logs.times import (
    clock_times,
    dates,
    day_first,
    is_clock,
    is_date,
    time_zone,
)

REQUIRED = ("start_s", "stop_s")
NAMING = ("model", "phase")
"""Columns that name a span together where no column ``name`` does."""


@dataclass(frozen=True, slots=True)
class ForeignSpan:
    """One row of a table of spans.

    Attributes:
        name: As the table has it, or its model and phase.
        start_s: On the log's clock.
        stop_s: Not before the start.
        attributes: The further columns, as text.
        row: Its place in the table, from 1; 0 for one that is in no table.
    """

    name: str
    start_s: float
    stop_s: float
    attributes: dict[str, str] = field(default_factory=dict)
    row: int = field(default=0, repr=False, compare=False)


def read_spans(
    path: Path, timezone: str | None = None, renamed: Mapping[str, str] | None = None
) -> list[ForeignSpan]:
    """The spans of a table, in its order.

    Args:
        path: A CSV file, plain or gzip, with the columns ``start_s`` and ``stop_s`` (seconds on
            the log's clock, or dates) and ``name``, or else ``model`` or ``phase``.
        timezone: Of dates without a zone; ``None`` is this machine's.
        renamed: What the file calls a column, and what it is.

    Raises:
        UserError: A column is missing, a time cannot be read, or a span ends before it starts.
    """
    table = open_table(path)
    positions = _positions(table, renamed or {})
    naming = [positions[name] for name in ("name", *NAMING) if name in positions]
    if "name" in positions:
        naming = naming[:1]
    further = [(i, name) for name, i in positions.items() if name not in {*REQUIRED, "name", ""}]
    times = [cell for name in REQUIRED for cell in table.cells(positions[name])]
    to_seconds = dates(time_zone(timezone), day_first(times, path))

    def seconds(text: str, row: int, column: str) -> float:
        value = number(text)
        if is_clock(text):
            value = float(clock_times()([text])[0])
        elif not math.isfinite(value) and is_date(text):
            value = float(to_seconds([text])[0])
        if not math.isfinite(value):
            kind = "is empty" if is_absent(text) else f"is {text!r}, which is no time"
            raise UserError(f"{path}, row {row}: {column} {kind}")
        return value

    spans: list[ForeignSpan] = []
    for row, raw in enumerate(table.rows(), start=1):
        cells = [cell.strip() for cell in raw]
        if len(cells) < len(table.names):
            raise UserError(
                f"{path}, row {row} has {len(cells)} columns, the header {len(table.names)}"
            )
        start_s = seconds(cells[positions["start_s"]], row, "start_s")
        stop_s = seconds(cells[positions["stop_s"]], row, "stop_s")
        if stop_s < start_s:
            raise UserError(
                f"{path}, row {row}: the span stops before it starts",
                why=f"start_s is {start_s:.12g}, stop_s {stop_s:.12g}",
            )
        attributes = {name: cells[i] for i, name in further}
        name = " ".join(cells[i] for i in naming if cells[i])
        spans.append(ForeignSpan(name, start_s, stop_s, attributes, row))
    if not spans:
        raise UserError(f"{path} has a header but no spans")
    return spans


def _positions(table: Table, renamed: Mapping[str, str]) -> dict[str, int]:
    """Where each column is, by its name or what it is renamed to."""
    path = table.path
    for old in renamed:
        if old not in table.names:
            raise UserError(f"{path} has no column {old!r}", hint=nearest(old, table.names))
    names = [renamed.get(name, name) for name in table.names]
    twice = next((name for name in names if name and names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"{path} has two columns {twice!r}", hint="keep one")
    wanted = [name for name in REQUIRED if name not in names]
    if not {"name", *NAMING} & set(names):
        wanted.insert(0, "name")
    if wanted:
        listed = ", ".join(table.names) if table.header else "not named"
        raise UserError(
            f"{path} has no column {wanted[0]!r}",
            why=f"its columns are {listed}",
            hint="begin it with a line name,start_s,stop_s, or say which is which with --rename",
        )
    return {name: i for i, name in enumerate(names)}


def idle_spans(text: str, spans: list[ForeignSpan]) -> list[ForeignSpan]:
    """The spans in which the machine was idle: those of a name, or one as ``START:STOP``.

    Raises:
        UserError: No span has that name, or the times are in the wrong order.

    Example:
        >>> idle_spans("0.5:5", [])
        [ForeignSpan(name='idle', start_s=0.5, stop_s=5.0, attributes={})]
    """
    named = [span for span in spans if span.name == text and span.stop_s > span.start_s]
    if named:
        return named
    first, colon, last = text.partition(":")
    start_s, stop_s = number(first), number(last)
    if colon and math.isfinite(start_s) and math.isfinite(stop_s):
        if stop_s > start_s:
            return [ForeignSpan("idle", start_s, stop_s)]
        raise UserError(f"idle {text!r} stops before it starts")
    known = sorted({span.name for span in spans})
    hint = f"{nearest(text, known)}, or give START:STOP" if known else "give START:STOP"
    raise UserError(f"no span named {text!r} to take idle power from", hint=hint)
