"""What the values of a table's column are: power that holds or not, counters or amounts."""

from __future__ import annotations

import numpy as np

from joulelab.arrays import Floats
from joulelab.errors import UserError
from joulelab.format import count, duration, percent, quantity
from joulelab.logs.columns import (
    NVIDIA_POWER,
    PLAIN_POWER_W,
    TIME_UNITS,
    Column,
    LogOptions,
    parse_name,
)
from joulelab.logs.csv_table import Table
from joulelab.logs.series import MOST_RESETS, Kind
from joulelab.logs.timestamps import clock_times, is_clock

MOST_BOARD_W = 1500.0  # No board draws more for long.
MOST_POWER_W = 1e6  # No meter of computers shows more.
LEAST_POWER_W = -0.5  # Meters may show less than 0 by their offset: this, or a share of the most.
NEGATIVE_SHARE = 0.01
LEAST_DRAWN_W = 5.0  # A device that never draws less while it is read is not off for a moment.
MOST_PLUG_W, SPIKE = 4000.0, 10.0
"""One or two values above the first, in W (230 V times 16 A is 3,680 W), are failed readings if
they are more than the second times all others."""
MOST_AMOUNT_W = 2000.0  # Amounts of energy that would be a greater power than this are counters.
COUNTER_GROWTH = 1.5  # Power that varies does not rise by this much without a fall,
LEAST_COUNTER_W = 3.0  # and hardly anything that is logged draws less than this.
SLOW_RISE = 0.1  # A counter whose steps are smaller than this share of its values is doubtful.
EXPECTED_PAIRS = 8.0  # A log that writes changes only has no equal neighbours where these are due.
UNEVEN = 0.3  # Share of steps that are off the usual one by half or more.
SAME_DURATION = 0.2  # Stated durations this near to the distance of rows are that distance.
DURATIONS = {
    "duration", "runtime", "run_time", "wall_time", "walltime", "elapsed_time", "seconds",
}  # fmt: skip
_RUNS = {"job", "job_id", "jobid", "run", "run_id", "trial", "experiment"}
_MEANS = {"avg", "average", "mean"}  # In the name of a run's power, next to its time.


def without_failed_reads(table: Table, column: Column, value: Floats, notes: list[str]) -> Floats:
    """Return powers in W with NaN for -1 and the like, which a tool writes if a read failed.

    A meter may show 0 for a moment, or add it to the next value: that is only noted.
    """
    drawn = value[value > 0]
    if not drawn.size or drawn.min() < LEAST_DRAWN_W:
        return value
    is_failed = value < 0
    if is_failed.any() and (np.ptp(value[is_failed]) > 0 or value[is_failed][0] < -1):
        is_failed = np.zeros(value.size, dtype=bool)
    is_zero = value == 0
    if is_zero.any() and column.stem not in NVIDIA_POWER:
        notes.append(
            f"{table.path.name}: {column.name!r} is 0 in {count(int(is_zero.sum()), 'line')}, "
            f"otherwise {quantity(float(drawn.min()), 'W')} or more: energy is missing if the tool "
            "could not read it there"
        )
    if is_failed.any():
        failed = f"{value[is_failed][0]:g}"
        notes.append(f"{table.path.name}: {column.name!r} has {failed} where it was not read")
    return np.where(is_failed, np.nan, value)


def check_power(table: Table, column: Column, value: Floats, notes: list[str]) -> None:
    """Raise an error for values that no computer draws."""
    _check_plain_power(table, column, value)
    low_w, high_w = float(value.min()), float(value.max())
    if max(high_w, -low_w) > MOST_POWER_W:
        worst_w = high_w if high_w > -low_w else low_w
        raise UserError(
            f"{table.path}: column {column.name!r} has a value of {quantity(worst_w, 'W')}",
            why="no computer draws that",
            hint="state its unit with --power-unit, or remove the row",
        )
    _check_spikes(table, column, value)
    if low_w >= 0:
        return
    negative = count(int(np.count_nonzero(value < 0)), "negative value")
    if low_w < min(LEAST_POWER_W, -NEGATIVE_SHARE * high_w):
        raise UserError(
            f"{table.path}: column {column.name!r} has {negative}, down to {quantity(low_w, 'W')}",
            why="power that is drawn is positive",
            hint="name another column with --power-column, or correct the sign",
        )
    note = f"{column.name!r} has {negative}, down to {quantity(low_w, 'W')}: the meter's offset"
    notes.append(f"{table.path.name}: {note}")


def _check_spikes(table: Table, column: Column, value: Floats) -> None:
    """Raise an error if one value, or two, is far above all others, as 65535 for a failed read."""
    high_w = float(value.max())
    if high_w <= MOST_PLUG_W:
        return
    is_spike = 2 * value >= high_w
    others, spikes = value[~is_spike], value[is_spike]
    # A number that stands for a failed read may occur often.
    is_rare = spikes.size <= (others.size if np.ptp(spikes) == 0 else 2) and others.size > 2
    if is_rare and high_w > SPIKE * float(np.abs(others).max()):
        raise UserError(
            f"{table.path}: column {column.name!r} has a value of {quantity(high_w, 'W')}",
            why=f"all others are {quantity(float(others.max()), 'W')} or less",
            hint="remove the row, if the tool could not read it there",
        )


def _check_plain_power(table: Table, column: Column, value: Floats) -> None:
    """Raise an error if numbers without a unit may be in kilowatts or milliwatts."""
    drawn = np.abs(value[value != 0])
    typical = float(np.median(drawn)) if drawn.size else 0.0
    low_w, high_w = (0.0, MOST_BOARD_W) if column.stem in NVIDIA_POWER else PLAIN_POWER_W
    if not column.has_unit and (typical > high_w or 0 < typical < low_w):
        raise UserError(
            f"{table.path}: the unit of column {column.name!r} is unknown",
            why=f"its values are about {typical:.3g}",
            hint="state it with --power-unit, for example W or mW",
        )


def power_kind(
    table: Table,
    column: Column,
    t_s: Floats,
    value: Floats,
    options: LogOptions,
    notes: list[str],
) -> Kind:
    """Return whether values of power hold until the next row."""
    if options.hold:
        return Kind.HELD_POWER
    steps = np.diff(t_s)
    _, often = np.unique(value, return_counts=True)
    expected = float(np.sum((often / value.size) ** 2)) * value.size
    if np.any(np.diff(value) == 0) or np.median(steps) == 0:
        return Kind.POWER
    off = np.abs(steps / np.median(steps) - 1) > 0.5
    what = f"{column.name!r} never has the same value twice in a row"
    if expected < EXPECTED_PAIRS:
        # It may be by chance.
        off &= off.mean() > UNEVEN
    elif off.mean() > UNEVEN:
        notes.append(f"{table.path.name}: {what}: each holds until the next row")
        return Kind.HELD_POWER
    if off.any():
        notes.append(f"{table.path.name}: {what}: if rows are written on changes only, give --hold")
    return Kind.POWER


def energy_kind(table: Table, column: Column, t_s: Floats, value: Floats) -> Kind:
    """Return whether values of energy are a counter, or amounts since the previous row.

    A counter never falls, or is reset now and then. One that rises by little next to its values,
    which would be plausible amounts, may as well be the energy per interval of a slowly rising
    load: only the column's name or the user can tell.
    """
    hint = "state --energy-kind counter or --energy-kind interval"
    what = f"{table.path}: column {column.name!r}"
    rise = np.diff(value)
    length_s = np.diff(t_s)
    use = length_s > 0
    amount_w = float(np.median(value[1:][use] / length_s[use]))
    rising = rise[use] >= 0
    counter_w = float(np.median((rise[use] / length_s[use])[rising])) if rising.any() else 0.0
    if column.kind == "interval":
        if value.min() < 0:
            raise UserError(f"{what} has negative energies", hint="name another column")
        _check_plain_energy(what, column, amount_w)
        return Kind.AMOUNT
    falls = int(np.count_nonzero(rise < 0))
    if column.kind is None:
        if falls > MOST_RESETS * rise.size:
            raise UserError(
                f"{what} is not an energy counter, or counts per interval",
                why=f"it goes back {count(falls, 'time')} in {percent(falls / rise.size)} of rows",
                hint=hint,
            )
        is_slow = float(np.max(rise)) < SLOW_RISE * float(np.min(value[1:]))
        is_running = value[-1] > COUNTER_GROWTH * value[0] and counter_w > LEAST_COUNTER_W
        is_still = counter_w == 0 and falls > 0
        if (is_still or (is_slow and not is_running)) and amount_w < MOST_AMOUNT_W:
            raise UserError(
                f"{what} may be a counter or energy per interval",
                why=f"the first would be {quantity(counter_w, 'W')}, the second "
                f"{quantity(amount_w, 'W')}",
                hint=hint,
            )
    _check_plain_energy(what, column, counter_w)
    return Kind.COUNTER


def _check_plain_energy(what: str, column: Column, power_w: float) -> None:
    """Raise an error if energies without a unit would be an implausible power in joules."""
    low_w, high_w = PLAIN_POWER_W
    if not column.has_unit and power_w and not low_w <= power_w <= high_w:
        raise UserError(
            f"{what} has no unit",
            why=f"in joules it would be {quantity(power_w, 'W')}",
            hint="state it with --energy-unit, for example J, mJ, uJ or Wh",
        )


def check_durations(table: Table, column: Column, t_s: Floats) -> None:
    """Raise an error if each row is a finished run, whose duration is not that between rows."""
    for i, text in enumerate(table.names if table.header else ()):
        name = parse_name(text)
        if name.stem in _RUNS and len({*table.cells(i)}) == len(table.cells(i)) > 1:
            raise _rows_are_runs(table, text, f"its values in {text!r} differ")
        is_of_mean = bool({*column.stem.split("_")} & _MEANS) and "time" in name.words
        is_duration = name.stem in DURATIONS or bool(name.words & DURATIONS) or is_of_mean
        if i == column.position or not is_duration:
            continue
        cells = table.cells(i)
        if any(map(is_clock, cells)):
            stated_s = clock_times()(cells)
        else:
            stated_s = table.numbers(i)(cells) * TIME_UNITS.get(name.unit, 1.0)
        stated_s = stated_s[np.isfinite(stated_s)]
        steps = np.diff(t_s)
        if not stated_s.size or not np.any(steps > 0):
            continue
        apart_s = float(np.median(steps[steps > 0]))
        growth_s = float(np.median(np.diff(stated_s))) if stated_s.size > 1 else 0.0
        if abs(growth_s / apart_s - 1) <= SAME_DURATION:
            continue  # The time since the start.
        typical = float(np.median(stated_s)) / apart_s
        if abs(typical - 1) > SAME_DURATION:
            raise _rows_are_runs(table, text, f"rows are {duration(apart_s)} apart")


def _rows_are_runs(table: Table, column: str, why: str) -> UserError:
    return UserError(
        f"{table.path}: each row is a run of its own, with its {column!r}",
        why=why,
        hint="compute its energy from its own columns: JouleLab reads logs of readings",
    )
