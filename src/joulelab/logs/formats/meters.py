"""From the rows that a reader yields to series of meters.

A reader yields :class:`Reading` rows in the order of the log. :func:`collect` sorts them by meter,
chooses the meters that do not overlap, and gives each reading a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from joulelab.arrays import Floats
from joulelab.errors import UserError
from joulelab.format import count, first_words, join_words
from joulelab.logs.cells import find_total
from joulelab.logs.columns import MOST_NAMES
from joulelab.logs.formats.log_text import LogText, to_seconds
from joulelab.logs.row_order import find_cycle
from joulelab.logs.series import Kind, Meter, MeterRows, Series, order_in_time, to_series
from joulelab.sensors.sensor import Quantity

PAUSE_FACTOR = 1.5  # After an interval that is longer by this factor than usual, rows are missing.
MOST_REPEATED = 0.25  # A larger share of readings at the time of others is of several devices.
SUM_TIMES = 200  # At which meters are compared with the sum of others.
MOST_UNREADABLE = 0.5  # A log of which a larger share cannot be read is damaged.


class Reading(NamedTuple):
    """A value of a meter in W or J, NaN if the log has none at this time.

    ``time`` is the text of a date or clock, seconds from the log's own start, or ``None`` if the
    log states none. ``length_s`` is the length of the interval of a mean or an amount that ends at
    ``time``, if the log states it.
    """

    time: str | float | None
    meter: Meter
    value: float
    length_s: float = math.nan


Reader = Callable[[LogText], Iterator[Reading]]


@dataclass(frozen=True, slots=True)
class Format:
    """The log of a tool."""

    tool: str  # Its name, for messages.
    matches: Callable[[Sequence[str]], bool]  # Whether first lines of a file are of this format.
    read: Reader  # Its reader.
    timed: str = ""  # How to record times, for an error if the log has none.


@dataclass(frozen=True, slots=True)
class Recording:
    """What a log of a known format contains."""

    series: list[Series]
    notes: list[str]
    runs: list[tuple[str, float, float]]  # Name, start and stop in s, if it has finished runs.


@dataclass(slots=True)
class _Rows:
    """The rows of one meter."""

    time: list[str | float | None] = field(default_factory=list)
    poll: list[int] = field(default_factory=list)
    value: list[float] = field(default_factory=list)
    length_s: list[float] = field(default_factory=list)
    repeated: int = 0  # Readings at the time of the one before.


def collect(log: LogText, found: Format) -> Recording:
    """Read a log of a known format; raise a :class:`UserError` if it has no usable readings."""
    rows = _by_meter(found.read(log))
    chosen = _choose(log, rows)
    if not chosen:
        raise UserError(
            f"{log.path} has no readings of power or energy",
            why="; ".join([f"it is a log of {found.tool}", *dict.fromkeys(log.notes)]),
            hint=found.timed and f"record it with {found.timed}",
        )
    options = log.options
    if options.component and len(chosen) > 1:
        raise UserError(
            f"{log.path}: {len(chosen)} meters cannot all be {options.component}",
            why=f"they are {first_words([meter.name for meter in chosen], MOST_NAMES)}",
            hint="omit --component, or choose one with --power-column",
        )
    is_without_units = any(meter.source == "home_assistant.energy" for meter in chosen)
    for option in ("time_column", "time_unit", *([] if is_without_units else ["energy_unit"])):
        if getattr(options, option) is not None:
            name = option.replace("_", "-")
            log.notes.append(f"--{name} is not used: it is a log of {found.tool}")
    found_rows = [_rows(log, found, meter, rows[meter]) for meter in chosen]
    in_a_loop = "energy needs power at two different times or more: record it in a loop"
    found_rows = _without(log, found_rows, _is_read_twice, "has only one reading", in_a_loop)
    is_zero = "the tool could not measure it"
    found_rows = _without(log, found_rows, _is_measured, "is always 0", is_zero)
    measured = _with_own_components(_without_sum(log, found_rows))
    series_notes: list[str] = []
    series = [to_series(log.path, one, options, series_notes) for one in measured]
    powers = {one.channel.component for one in series if one.channel.quantity is Quantity.POWER}
    for i, one in enumerate(series):
        channel = one.channel
        if channel.quantity is Quantity.ENERGY and channel.component in powers:
            # Next to power, a counter refines it.
            series[i] = replace(one, channel=replace(channel, priority=1))
    ends_s = to_seconds(log, [end for _, end, _ in log.runs]).tolist()
    runs = [
        (name, end_s - length_s, end_s)
        for (name, _, length_s), end_s in zip(log.runs, ends_s, strict=True)
    ]
    notes = [f"{log.path.name}: {note}" for note in dict.fromkeys(log.notes)]
    return Recording(series, [*notes, *series_notes], runs)


def _by_meter(readings: Iterable[Reading]) -> dict[Meter, _Rows]:
    """Sort readings by meter and count the polls: in each, meters are read in the same order."""
    rows: dict[Meter, _Rows] = {}
    order: dict[Meter, int] = {}
    poll, latest = -1, math.inf
    for time, meter, value, length_s in readings:
        rank = order.setdefault(meter, len(order))
        poll += rank <= latest
        latest = rank
        one = rows.setdefault(meter, _Rows())
        # A date before one poll is not that of the next, whose own may be damaged.
        is_of_previous = time is not None and any(time is known for known in one.time[-1:])
        one.repeated += is_of_previous
        one.time.append(None if is_of_previous else time)
        one.poll.append(poll)
        one.value.append(value)
        one.length_s.append(length_s)
    return rows


def _choose(log: LogText, rows: dict[Meter, _Rows]) -> list[Meter]:
    """Choose the meters to read: those that the user names, or all that do not overlap others."""
    options = log.options
    with_values = [meter for meter, one in rows.items() if np.isfinite(one.value).any()]
    named = [*options.power_columns, *options.energy_columns]
    if named:
        names = [meter.name for meter in with_values]
        for name in named:
            if name not in names:
                raise UserError(
                    f"{log.path} has no meter {name!r}",
                    hint=f"choose from {first_words(names, MOST_NAMES)}",
                )
        chosen = [meter for meter in with_values if meter.name in named]
    else:
        known = {meter.name for meter in with_values}
        chosen = [one for one in with_values if not known & set(one.overlaps)]
        left_out = list(dict.fromkeys(one.name for one in with_values if one not in chosen))
        if left_out:
            used = join_words(list(dict.fromkeys(one.name for one in chosen)))
            log.notes.append(
                f"read {used}; {join_words(left_out)} would count the same energy again"
            )
    if options.gpu is not None:
        gpus = {one.component.partition(":")[2] for one in chosen if one.component[:4] == "gpu:"}
        known_gpus = first_words(sorted(gpus), MOST_NAMES) or "none"
        chosen = [
            one for one in chosen if options.gpu in (one.component.partition(":")[2], one.uuid)
        ]
        if not chosen:
            raise UserError(
                f"{log.path} has no GPU {options.gpu!r}", hint=f"choose from {known_gpus}"
            )
    missing = [meter for meter in rows if meter not in with_values]
    for meter in missing:
        log.notes.append(f"{meter.component} has no value of {meter.name}")
    return chosen


def _without(
    log: LogText,
    rows: list[MeterRows],
    is_usable: Callable[[MeterRows], bool],
    why: str,
    hint: str,
) -> list[MeterRows]:
    """Leave out meters that are not usable, unless none is."""
    usable = [one for one in rows if is_usable(one)]
    if not usable:
        raise UserError(
            f"{log.path} has no energy",
            why=f"{rows[0].meter.name} {why}",
            hint=hint,
        )
    for one in rows:
        if not is_usable(one):
            log.notes.append(f"left out {one.meter.name} of {one.meter.component}, which {why}")
    return usable


def _without_sum(log: LogText, rows: list[MeterRows]) -> list[MeterRows]:
    """Leave out a sensor of Home Assistant whose power is the sum of all others at all times."""
    start_s = max(float(one.t_s[0]) for one in rows)
    times_s = np.linspace(start_s, min(float(one.t_s[-1]) for one in rows), SUM_TIMES)
    powers = [one for one in rows if one.meter.kind is Kind.HELD_POWER]
    if times_s[-1] <= start_s or len(powers) < len(rows):
        return rows
    total = find_total(
        [one.value[np.searchsorted(one.t_s, times_s, side="right") - 1] for one in powers]
    )
    if total is None or total.scale != 1 or not total.is_sure:
        return rows
    meter = rows.pop(total.position).meter
    log.notes.append(f"left out {meter.name} of {meter.component}, the sum of the others")
    return rows


def _with_own_components(rows: Sequence[MeterRows]) -> list[MeterRows]:
    """Tell apart meters of one kind on several hosts, whose components have the same name."""
    places = [(one.meter.component, one.meter.kind) for one in rows]
    several = {place[0] for place in places if places.count(place) > 1}
    return [
        replace(one, meter=replace(one.meter, component=f"{one.meter.component}@{one.meter.uuid}"))
        if one.meter.component in several
        else one
        for one in rows
    ]


def _is_read_twice(rows: MeterRows) -> bool:
    """Return whether there are readings at two times, or an interval of a stated length."""
    seen = rows.t_s[np.isfinite(rows.value)]
    return rows.length_s is not None or bool(seen.size and seen[0] != seen[-1])


def _is_measured(rows: MeterRows) -> bool:
    """Return whether a meter ever shows power: a tool may write 0 for what it does not measure."""
    seen = rows.value[np.isfinite(rows.value)]
    return bool(np.ptp(seen) > 0 if rows.meter.kind is Kind.COUNTER else np.any(seen))


def _rows(log: LogText, found: Format, meter: Meter, rows: _Rows) -> MeterRows:
    """Give the readings of a meter their times, in order."""
    value, length_s = np.array(rows.value), np.array(rows.length_s)
    t_s = _times(log, found, rows)
    repeated = rows.repeated
    if meter.component.startswith("plug"):
        # It has a new value once a second. Clocks of other tools may show whole seconds only.
        repeated += int(np.count_nonzero((np.diff(t_s) == 0) & (np.diff(value) != 0)))
    if repeated > MOST_REPEATED * value.size:
        raise UserError(
            f"{log.path} has several readings of {meter.name} at one time",
            why=f"they may be of several devices, but all are called {meter.component}",
            hint="record each device in a file of its own",
        )
    use = np.isfinite(t_s)
    if use.mean() < MOST_UNREADABLE:
        raise UserError(
            f"{log.path} has no readable times of {meter.name}",
            why=f"its first is {rows.time[0]!r}",
        )
    log.skipped(int(np.count_nonzero(~use)), "without a readable time")
    t_s, value, length_s = t_s[use], value[use], length_s[use]
    back = int(np.count_nonzero(np.diff(t_s) < 0))
    if back and isinstance(rows.time[0], float):
        raise UserError(
            f"{log.path} contains several recordings",
            why=f"its seconds start again {count(back, 'time')}",
            hint="give each in a file of its own",
        )
    if back:
        order, note = order_in_time(
            log.path, t_s, [value, length_s], "give each recording in a file of its own"
        )
        log.notes.append(note)
        t_s, value, length_s = t_s[order], value[order], length_s[order]
    is_stated = bool(np.isfinite(length_s).any())
    if not is_stated and meter.kind is Kind.AMOUNT and t_s.size > 1:
        length_s, is_stated = _usual_lengths(t_s), True
    if log.options.component:
        meter = replace(meter, component=log.options.component)
    return MeterRows(meter, t_s, value, length_s if is_stated else None)


def _usual_lengths(t_s: Floats) -> Floats:
    """Return the lengths of the intervals that end at these times.

    A tool writes amounts at equal intervals. One that would be longer follows a row that is lost.
    """
    apart_s = np.diff(t_s)
    usual_s = float(np.median(apart_s))
    length_s = np.concatenate(([usual_s], apart_s))
    return np.where(length_s > PAUSE_FACTOR * usual_s, usual_s, length_s)


def _times(log: LogText, found: Format, rows: _Rows) -> Floats:
    """Return the times of a meter's readings: stated, or at equal intervals."""
    stated = [time for time in rows.time if time is not None]
    is_one_stamp = len(rows.time) > 1 and len(set(stated)) == 1
    interval_s = log.options.interval_s
    if stated and not is_one_stamp:
        if interval_s is not None:
            log.notes.append("--interval is not used: the log has times")
        t_s = np.full(len(rows.time), math.nan)
        known = [i for i, time in enumerate(rows.time) if time is not None]
        if all(isinstance(time, float) for time in stated):
            t_s[known] = stated
        else:
            t_s[known] = to_seconds(log, [str(time) for time in stated])
        return t_s
    if interval_s is None:
        raise UserError(
            f"{log.path}: this log of {found.tool} has no times",
            hint="state the time between two readings with --interval SECONDS"
            + (f", or record it with {found.timed}" if found.timed else ""),
        )
    if log.options.devices is None and (cycle := find_cycle(np.array(rows.value))):
        raise UserError(
            f"{log.path}: its rows repeat {cycle} levels, as if {cycle} devices took turns",
            hint="record the devices' names, or state --devices 1 if all rows are of one",
        )
    log.notes.append(f"the log has no times; readings are taken {interval_s:g} s apart")
    start_s = to_seconds(log, [str(stated[0])])[0] if is_one_stamp else 0.0
    return np.array(rows.poll) * interval_s + start_s


def number(text: str) -> float:
    """Convert a cell to a number, NaN if it is none: ``-``, ``N/A``, ``ERR!``.

    Example:
        >>> number("43.5"), number("-"), number(" 12 ")
        (43.5, nan, 12.0)
    """
    try:
        value = float(text)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan
