"""Which column of a log is time, and how it is read."""

from __future__ import annotations

import numpy as np

from joulelab.errors import UserError
from joulelab.logs.columns import (
    WORDS,
    ColumnChoice,
    Name,
    checked_unit,
    find,
    listed,
    take_apart,
)
from joulelab.logs.csv_table import Converter, Table, is_absent, numbers
from joulelab.logs.times import (
    TIME_UNITS,
    clock_times,
    dates,
    day_first,
    epoch_unit,
    is_clock,
    is_date,
    scaled,
    time_zone,
)

_TIME_WORDS = {"t", "time", "timestamp", "timestamps", "elapsed", "unix", "epoch", "date", "when"}


def choose_time(table: Table, choice: ColumnChoice) -> tuple[int, Converter | None, str]:
    """The time column: its position, its converter to seconds, and what was assumed.

    Raises:
        UserError: There is none, there are several, or its unit is not known.
    """
    position = _time_position(table, choice)
    cells = [cell for cell in table.cells(position) if not is_absent(cell)]
    name = table.names[position]
    if choice.time_unit is not None:
        unit = checked_unit(choice.time_unit, TIME_UNITS, "time")
        return position, scaled(unit), ""
    if not cells:
        raise UserError(f"{table.path} has no readings: column {name!r} is empty")
    if is_clock(cells[0]):
        return position, clock_times(), f"{name!r} is taken as hours, minutes and seconds"
    if is_date(cells[0]):
        return position, dates(time_zone(choice.timezone), day_first(cells, table.path)), ""
    unit = take_apart(name).unit if table.header else ""
    if unit in TIME_UNITS:
        return position, scaled(unit), ""
    since_1970 = epoch_unit(cells)
    if since_1970:
        return position, scaled(since_1970), f"{name!r} is taken as {since_1970} since 1970"
    if not np.isfinite(numbers(cells)).any():
        raise UserError(
            f"{table.path}: column {name!r} holds no times that can be read ({cells[0]!r})",
            hint="name another with --time-column, or write dates as 2026-01-31 12:34:56",
        )
    return position, None, f"{name!r} is taken in seconds (--time-unit says otherwise)"


def _time_position(table: Table, choice: ColumnChoice) -> int:
    if choice.time_column is not None:
        return find(table, choice.time_column)
    if table.header:
        names = [take_apart(name) for name in table.names]
        found = [i for i, name in enumerate(names) if _is_time(name)]
    else:
        found = [
            i
            for i in range(len(table.names))
            if any(is_date(cell) or is_clock(cell) for cell in table.cells(i)[:1])
        ]
    if len(found) == 1:
        return found[0]
    candidates = [table.names[i] for i in found] or list(table.names)
    raise UserError(
        f"{table.path}: {'several columns' if found else 'no column'} may be the time",
        why=f"its columns are {listed(candidates)}",
        hint="name one with --time-column" + ("" if table.header else " (numbers from 1)"),
    )


def _is_time(name: Name) -> bool:
    if name.unit and name.unit not in TIME_UNITS:
        return False
    return name.stem in _TIME_WORDS | {*WORDS, *TIME_UNITS} or bool(
        name.words & {"time", "timestamp", "elapsed", "unix", "epoch"}
        and not name.words & {"kernel", "cpu", "gpu", "up", "utilization"}
    )
