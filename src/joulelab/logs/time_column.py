"""The column of times of a table: which one it is, and the unit of its numbers."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace

import numpy as np

from joulelab.arrays import Floats
from joulelab.errors import UserError
from joulelab.format import first_words
from joulelab.logs.cells import CellKind, is_absent, kind_of
from joulelab.logs.columns import (
    MOST_NAMES,
    TIME_UNITS,
    TIME_WORDS,
    UNIT_NAMES,
    LogOptions,
    Name,
    check_unit,
    find,
    parse_name,
    scaled,
)
from joulelab.logs.csv_table import Converter, Table
from joulelab.logs.timestamps import (
    HOUR_S,
    MINUTE_S,
    clock_times,
    dates,
    day_first,
    epoch_unit,
    is_clock,
    is_date,
    may_be_smaller_unit,
    time_zone,
    usual_step,
)

_TIME_NAMES = {
    "t", "timestamps", "date", "when", "ts", "stamp", "last_changed", "last_updated",
    *TIME_WORDS, *UNIT_NAMES, *TIME_UNITS,
} - {"min", "h"}  # fmt: skip
_DURATION_WORDS = {"kernel", "cpu", "gpu", "up", "utilization"}
_DAY = re.compile(r"\d{1,4}([-/.])\d{1,2}\1\d{1,4}|\d{8}")
LONG_STEP_S = 50.0
"""Times without a unit that are further apart are seconds only if they are whole minutes."""
LONG_WHOLE_STEP_S, USUAL_WHOLE_STEP_S = 10.0, 15.0
"""Whole numbers that are further apart than the first are seconds only if it is a quarter of a
minute or a multiple, and else may be milliseconds."""
MINUTE_STEP = 1 / 60  # Of seconds in minutes.
LEAST_STEP_S = 1e-3  # Times without a unit that are closer may be hours.
DAYS_STEP, LEAST_DAYS = 5e-3, 1e4
"""Times this large and this close may be dates of spreadsheets, in days since 1900."""


def choose_time(
    table: Table, options: LogOptions, other: int = 0
) -> tuple[int, Converter | None, str]:
    """Choose the time column: its position, converter to seconds, and what was assumed.

    If there is none and rows are at a stated interval, it is the position of any ``other`` column.
    """
    position = _time_position(table, options)
    if position is None:
        interval_s = options.interval_s or 0.0
        note = f"the log has no times; rows are taken {interval_s:g} s apart"
        return other, _row_times(interval_s), note
    return position, *_time_converter(table, position, options)


def _time_converter(
    table: Table, position: int, options: LogOptions
) -> tuple[Converter | None, str]:
    """Choose the converter of a column of times to seconds, and return what was assumed."""
    cells = [cell for cell in table.cells(position) if not is_absent(cell)]
    name = table.names[position]
    if options.time_unit is not None:
        unit = check_unit(options.time_unit, TIME_UNITS, "time")
        return scaled(table, position, TIME_UNITS[unit]), ""
    if not cells:
        raise UserError(f"{table.path} has no readings: column {name!r} is empty")
    if is_clock(cells[0]):
        return clock_times(), f"{name!r} is read as hours, minutes and seconds"
    if is_date(cells[0]):
        return dates(time_zone(options.timezone), day_first(cells, table.path)), ""
    unit = parse_name(name).unit if table.header else ""
    if unit in TIME_UNITS:
        return scaled(table, position, TIME_UNITS[unit]), ""
    values = table.numbers(position)(cells)
    values = values[np.isfinite(values)]
    if not values.size:
        raise UserError(
            f"{table.path}: column {name!r} has no readable times ({cells[0]!r})",
            hint="name another with --time-column, or write dates as 2026-01-31 12:34:56",
        )
    step = usual_step(values)
    epoch = epoch_unit(values)
    if epoch and not may_be_smaller_unit(step * TIME_UNITS[epoch]):
        note = f"{name!r} is read as {epoch} since 1970"
        return scaled(table, position, TIME_UNITS[epoch]), note
    _check_clock_digits(table, name, values, step)
    is_days = 0 < step < DAYS_STEP and values[0] > LEAST_DAYS
    if epoch or is_days or 0 < step < LEAST_STEP_S or _may_be_another_unit(values, step):
        raise UserError(
            f"{table.path}: the unit of times in column {name!r} is unknown",
            why=f"its rows are {step:g} apart",
            hint="state it with --time-unit: s, ms, us, ns, min or h"
            + (", or write dates as 2026-01-31 12:34:56 if these are days" if is_days else ""),
        )
    return None, f"{name!r} has no unit; assuming seconds (change it with --time-unit)"


def _may_be_another_unit(values: Floats, step: float) -> bool:
    """Return whether numbers since some start, usually a step apart, may not be seconds."""
    if step >= LONG_STEP_S:
        return step > HOUR_S or float(np.median(np.diff(values) % MINUTE_S)) > 0
    if step > LONG_WHOLE_STEP_S:
        return bool(np.all(values == np.rint(values))) and step % USUAL_WHOLE_STEP_S > 0
    return abs(step / MINUTE_STEP - 1) < 1e-3


def _check_clock_digits(table: Table, name: str, values: Floats, step: float) -> None:
    """Raise an error if numbers are times of day, as 93059 and 93100: seconds would not skip 41."""
    minutes, seconds = np.divmod(values, 100)
    is_whole = bool(np.all(values == np.rint(values)) and np.all(values >= 0))
    is_clock_time = bool(np.all(seconds < 60) and np.all(minutes % 100 < 60))
    if is_whole and is_clock_time and np.ptp(minutes) > 0 and step < LONG_STEP_S:
        raise UserError(
            f"{table.path}: column {name!r} seems to have hours, minutes and seconds in one number",
            why="its last two digits are never above 59",
            hint="write times as 12:34:56, or as 2026-01-31 12:34:56",
        )


def join_dates(table: Table) -> Table:
    """Join a column of dates to the times of day in the column after it, as ``Date,Time``."""
    for i in range(len(table.names) - 1):
        both = [row[i : i + 2] for row in table.sample if not all(map(is_absent, row[i : i + 2]))]
        if both and all(_DAY.fullmatch(day) and is_clock(clock) for day, clock in both):
            joined = replace(table, date_column=i)
            return replace(joined, sample=tuple(map(tuple, map(joined.with_date, table.sample))))
    return table


def _row_times(interval_s: float) -> Converter:
    """Create a converter that counts rows, whatever is in them."""
    rows = itertools.count()
    return lambda cells: np.array([interval_s * next(rows) for _ in cells], dtype=np.float64)


def _time_position(table: Table, options: LogOptions) -> int | None:
    """Return the position of the times; ``None`` if there is none and rows are at an interval."""
    if options.time_column is not None:
        return find(table, options.time_column)
    names = map(parse_name, table.names if table.header else ())
    named = [i for i, name in enumerate(names) if is_time_name(name)]
    shown = [i for i in range(len(table.names)) if _shows_times(table, i)]
    both = [i for i in named if i in shown]
    if len(named) > 1:
        # Rounds of training are called epochs, too.
        named = [i for i in named if i in shown or "epoch" not in table.names[i].lower()] or named
    found = both if len(both) == 1 else named or shown
    if len(found) == 1:
        return found[0]
    if not found and options.interval_s is not None:
        return None
    candidates = [table.names[i] for i in found] or table.names
    raise UserError(
        f"{table.path}: {'several columns' if found else 'no column'} may be the time",
        why=f"its columns are {first_words([*map(repr, candidates)], MOST_NAMES)}",
        hint="name one with --time-column"
        + ("" if table.header else " (numbers from 1)")
        + ("" if found else ", or state the time between two rows with --interval SECONDS"),
    )


def _shows_times(table: Table, position: int) -> bool:
    """Return whether a column begins with a date or a time of day, or has times since 1970."""
    cells = table.cells(position)
    first = next((cell for cell in cells if not is_absent(cell)), "")
    if is_date(first) or is_clock(first):
        return True
    name = parse_name(table.names[position])
    if kind_of(first) is not CellKind.NUMBER or name.unit not in {"", *TIME_UNITS}:
        return False
    values = table.numbers(position)(cells)
    values = values[np.isfinite(values)]
    return epoch_unit(values) is not None and bool(np.all(np.diff(values) >= 0))


def is_time_name(name: Name) -> bool:
    """Return whether a column of this name may be the time."""
    if name.unit and name.unit not in TIME_UNITS:
        return False
    is_named_so = bool(name.words & TIME_WORDS) and not name.words & _DURATION_WORDS
    return name.stem in _TIME_NAMES or is_named_so
