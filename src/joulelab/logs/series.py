"""Meters in logs, and their readings as series that energy can be calculated from.

Every reader of logs ends in :func:`to_series`: it turns what the values of a meter stand for
(:class:`Kind`) into power or a counter, and infers how its sensor works.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from pathlib import Path

import numpy as np

from joulelab.arrays import Floats, Indices
from joulelab.energy.signal import AVERAGE_S, INSPECTED_READINGS, Pace, is_moving_average, pace_of
from joulelab.errors import UserError
from joulelab.format import count, duration
from joulelab.logs.columns import NVIDIA_POWER, LogOptions
from joulelab.sensors.nvml_accuracy import (
    GAIN_UNCERTAINTY,
    INSTANT_WINDOW_S,
    USUAL_PERIOD_S,
    timestamp_latency,
)
from joulelab.sensors.sensor import Channel, Provenance, Quantity

RING_PERIODS_S = (0.01, 0.04)
"""A log with its own timestamps this far apart is assumed to be NVML's ring of readings, 20 ms
apart, whose timestamps are late."""
MOST_SWITCHES = 3  # Stretches of rows that lie between each other this often are out of order.
MOST_RESETS = 0.05  # A counter that goes back in a larger share of its readings is not a counter.
MISREAD = 10.0  # A reading that is wrong is off by this many usual steps of a counter.
GAP_FACTOR = 2.5  # An interval that is this many times as long as usual is a pause of the tool.
OVERLAP, STAMP_S = 0.5, 2.0
"""Stated intervals may overlap, or leave a pause, by this share of the usual one, and by no more
than this: times of whole seconds are no more exact."""
LARGEST = 1e18  # W or J: a gigawatt for a century is 3e18 J.


class Kind(Enum):
    """What the values of a meter stand for."""

    POWER = auto()  # At the time of the reading, or over a window that ends there.
    HELD_POWER = auto()  # From the time of the reading until the next one.
    MEAN_POWER = auto()  # Mean since the previous reading, or over the stated length.
    AMOUNT = auto()  # Energy since the previous reading, or in the stated length.
    COUNTER = auto()  # Energy since a fixed start.


@dataclass(frozen=True, slots=True)
class Meter:
    """One quantity of one component in a log."""

    component: str  # ``"gpu:0"``, ``"cpu:0"``, ``"dram:0"``, ``"node"``.
    name: str  # What the log calls it.
    source: str  # The sensor, for example ``"perf.energy-pkg"``.
    kind: Kind = Kind.POWER  # What its values are.
    # Names of meters that contain it, or that it contains. If one of them has readings, this meter
    # is left out.
    overlaps: tuple[str, ...] = ()
    uuid: str = ""  # Of the GPU, if the log states it.
    provenance: Provenance = Provenance.MEASURED  # Whether the tool measures or estimates it.
    # Whether its power is that of one moment, up to one update before its time.
    is_momentary: bool = False


@dataclass(frozen=True, slots=True)
class MeterRows:
    """The readings of one meter. Shapes: (readings,)."""

    meter: Meter
    t_s: Floats  # On the log's clock, finite, in order.
    value: Floats  # W or J; NaN for no value.
    length_s: Floats | None = None
    """Length of the interval of a mean or an amount that ends at ``t_s``, NaN where the log does
    not state it. ``None``: stated nowhere."""


@dataclass(frozen=True, slots=True)
class Series:
    """Readings of one device in one column: times on the log's clock, and W or J or NaN."""

    channel: Channel
    t_s: Floats
    value: Floats
    interval_s: float
    column: str
    uuid: str = ""


def has_readings(t_s: Floats, value: Floats) -> bool:
    """Return whether there are two readings at different times."""
    seen = t_s[np.isfinite(value)]
    return bool(seen.size) and bool(seen[0] != seen[-1])


def order_in_time(
    path: Path, t_s: Floats, values: Sequence[Floats], hint: str
) -> tuple[Indices, str]:
    """Return the order of time of a device's readings, each once, and a note if it is another.

    Raises:
        UserError: Rows of one period lie between those of another, as after a clock was set back.
    """
    back = np.diff(t_s, prepend=t_s[:1]) < 0
    if not back.any():
        return np.arange(t_s.size), ""
    order = np.argsort(t_s, kind="stable")
    note = f"time goes back {count(int(back.sum()), 'time')}; sorted the readings"
    # The same row twice, of recordings that overlap or that were appended again.
    same = np.diff(t_s[order]) == 0
    for value in values:
        one, two = value[order][:-1], value[order][1:]
        same &= (one == two) | (np.isnan(one) & np.isnan(two))
    if same.any():
        order = order[np.append(True, ~same)]
        note += f" and left out {count(int(same.sum()), 'repeated row')}"
    # Recordings that alternate in time are of one period twice.
    recording = np.cumsum(back)[order]
    if np.count_nonzero(np.diff(recording)) > MOST_SWITCHES * (back.sum() + 1):
        back_s = float(np.max(-np.diff(t_s)))
        raise UserError(
            f"{path}: time goes back by {duration(back_s)}, and rows overlap",
            why="they may be of several devices or recordings, or a clock was set back",
            hint=hint,
        )
    return np.asarray(order, dtype=np.intp), note


def to_series(path: Path, rows: MeterRows, options: LogOptions, notes: list[str]) -> Series:
    """Convert the rows of a meter, with two readings or more, to power or a counter.

    Raises:
        UserError: The values cannot be of this kind.
    """
    meter = rows.meter
    t_s, value = _merge_equal_times(path, rows, notes)
    largest = float(np.nanmax(np.abs(value), initial=0.0))
    if largest > LARGEST:
        raise UserError(
            f"{path}: column {meter.name!r} cannot be right",
            why=f"it has the value {largest:.3g}",
            hint="correct or remove that row",
        )
    is_power = meter.kind is Kind.POWER
    if meter.kind is Kind.COUNTER:
        value = _without_misreads(path, meter.name, value, notes)
    elif meter.source in NVIDIA_POWER.values() and np.any(value > 0) and np.any(value == 0):
        # No board that is read draws nothing.
        notes.append(f"{path.name}: {meter.name!r} has 0 where it was not read")
        value = np.where(value == 0, math.nan, value)
        if not has_readings(t_s, value):
            raise UserError(
                f"{path}: {meter.name!r} is 0 at all times but one",
                why="the tool could not measure it",
                hint="name another column or meter with --power-column",
            )
    if is_power or meter.kind is Kind.COUNTER:
        seen = np.isfinite(value)
        pace = pace_of(t_s[seen], value[seen])
        if not (is_power or pace.polled):
            pace = _pace_of_steps(t_s[seen], value[seen], pace)
    else:
        rows = replace(rows, t_s=t_s, value=value)
        t_s, value = _held(t_s, value) if meter.kind is Kind.HELD_POWER else _added_up(path, rows)
        # It is exact at its readings, and may stand still between them.
        length_s = float(t_s[-1] - t_s[0])
        pace = Pace(length_s, length_s, False)
    channel = Channel(
        component=meter.component,
        quantity=Quantity.POWER if is_power else Quantity.ENERGY,
        source=meter.source,
        provenance=meter.provenance,
        update_period_s=pace.period_s,
        polled=pace.polled,
        window_s=pace.period_s if is_power else 0.0,
        gain_uncertainty=(
            GAIN_UNCERTAINTY if options.gain_uncertainty is None else options.gain_uncertainty
        ),
        note=f"{meter.name} of {path.name}",
    )
    if meter.kind is Kind.COUNTER:
        _check_counter(path, meter.name, value[np.isfinite(value)])
    if is_power and meter.is_momentary:
        # The meter was updated at some time since the previous reading (GUM 4.3.7, rectangular).
        channel = replace(
            channel, window_s=0.0, time_uncertainty_s=pace.interval_s / (2 * math.sqrt(3))
        )
    if is_power:
        channel = _with_window(channel, t_s, value, pace, options)
    return Series(channel, t_s, value, pace.interval_s, meter.name, meter.uuid)


def _pace_of_steps(t_s: Floats, value: Floats, pace: Pace) -> Pace:
    """Return the pace of a counter that shows few steps, as a plug does in kWh."""
    apart_s = np.diff(t_s[1:][np.diff(value) > 0])
    period_s = float(np.median(apart_s)) if apart_s.size > 1 else 0.0
    return Pace(pace.interval_s, period_s, True) if period_s > 2 * pace.interval_s else pace


def _with_window(
    channel: Channel, t_s: Floats, value: Floats, pace: Pace, options: LogOptions
) -> Channel:
    """Set the averaging window and the latency of readings of power."""
    low_s, high_s = RING_PERIODS_S
    if channel.source in NVIDIA_POWER.values():
        channel = _with_nvidia_window(channel, pace, is_moving_average(t_s, value, pace))
    elif (
        not (pace.polled or channel.component.startswith(("cpu", "dram")))
        and low_s < pace.period_s < high_s
    ):
        steps_s = np.diff(t_s[np.isfinite(value)][:INSPECTED_READINGS]).tolist()
        delay_s, uncertainty_s = timestamp_latency(steps_s, pace.period_s)
        channel = replace(channel, delay_s=delay_s, time_uncertainty_s=uncertainty_s)
    if options.window_s is not None:
        channel = replace(channel, window_s=options.window_s, time_uncertainty_s=0.0)
    return channel


def _with_nvidia_window(channel: Channel, pace: Pace, averaged: bool | None) -> Channel:
    """Set the window of a power field of nvidia-smi.

    ``power.draw`` is an average over 1 s on Ampere and newer boards except GA100. If the log does
    not show it, the window is half of that and the times are as uncertain (rectangular, GUM 4.3.7).
    """
    period_s = pace.period_s if pace.polled else min(pace.period_s, USUAL_PERIOD_S)
    channel = replace(channel, update_period_s=period_s, polled=True)
    if channel.source == "nvml.power_instant":
        return replace(channel, window_s=min(INSTANT_WINDOW_S, period_s))
    if channel.source == "nvml.power_average" or averaged:
        return replace(channel, window_s=AVERAGE_S)
    if averaged is None:
        return replace(
            channel,
            window_s=AVERAGE_S / 2,
            time_uncertainty_s=AVERAGE_S / 4 / math.sqrt(3),
            note=f"{channel.note}: it may or may not be an average over {AVERAGE_S:g} s",
        )
    return replace(channel, window_s=period_s)


def _without_misreads(path: Path, name: str, value: Floats, notes: list[str]) -> Floats:
    """Return a counter with NaN for one or two readings far below or above those around them.

    A counter that was reset or wrapped does not come back at once to where it was.
    """
    seen = np.flatnonzero(np.isfinite(value))
    known = value[seen]
    rise = np.diff(known)
    falls = np.flatnonzero(rise < 0)
    if not falls.size or not np.any(rise > 0):
        return value
    leap = MISREAD * float(np.median(rise[rise > 0]))
    misread: set[int] = set()
    for fall in falls.tolist():
        # The readings that may be wrong are those after the fall, or those before it.
        for after, number in ((1, 1), (0, 1), (1, 2), (-1, 2)):
            first = fall + after
            stop = first + number
            if first < 1 or stop >= known.size or known[stop] < known[first - 1]:
                continue
            if abs(known[stop] - known[stop - 1]) > leap:
                misread.update(range(first, stop))
                break
    if not misread or falls.size > MOST_RESETS * value.size + 1:
        return value
    left_out = count(len(misread), "reading")
    notes.append(f"{path.name}: {name!r} leaps and comes back: left out {left_out}")
    value = value.copy()
    value[seen[[*misread]]] = math.nan
    return value


def _check_counter(path: Path, name: str, value: Floats) -> None:
    """Raise an error if a column cannot be a counter, since it often goes back."""
    back = int(np.count_nonzero(np.diff(value) < 0))
    if back > MOST_RESETS * value.size:
        raise UserError(
            f"{path}: column {name!r} is not an energy counter",
            why=f"it goes back {count(back, 'time')}",
            hint="name a column of power, or of energy since a fixed time",
        )


def _merge_equal_times(path: Path, rows: MeterRows, notes: list[str]) -> tuple[Floats, Floats]:
    """Merge readings that have the same time, since a clock may show whole seconds only."""
    kind, t_s, value = rows.meter.kind, rows.t_s, rows.value
    if rows.length_s is not None or np.all(np.diff(t_s) > 0):
        return t_s, value
    if kind is not Kind.HELD_POWER:
        seen = np.isfinite(value)
        t_s, value = t_s[seen], value[seen]
    times, first, number = np.unique(t_s, return_index=True, return_counts=True)
    if times.size == t_s.size:
        return t_s, value
    if kind in (Kind.POWER, Kind.MEAN_POWER):
        merged = np.add.reduceat(value, first) / number
    elif kind is Kind.AMOUNT:
        merged = np.add.reduceat(value, first)
    else:
        merged = value[first + number - 1]
    merged_count = count(value.size - times.size, "reading")
    notes.append(f"{path.name}: merged {merged_count} of {rows.meter.name!r} at equal times")
    return times, merged


def _added_up(path: Path, rows: MeterRows) -> tuple[Floats, Floats]:
    """Add up means or amounts to a counter, which falls wherever an interval is missing.

    An interval begins at the previous reading unless the log states its length. Without it the
    first one is left out, since its start is unknown, and so is one after a pause, which may or may
    not include the energy of the pause.
    """
    t_s, value = rows.t_s, rows.value
    apart_s = np.diff(t_s, prepend=math.nan)
    usual_s = float(np.median(apart_s[1:])) if t_s.size > 1 else math.nan
    length_s = np.where(apart_s <= GAP_FACTOR * usual_s, apart_s, math.nan)
    if rows.length_s is not None:
        length_s = np.where(np.isfinite(rows.length_s), rows.length_s, length_s)
    known = np.isfinite(length_s) & np.isfinite(value) & (length_s > 0)
    t_s, value, length_s = t_s[known], value[known], length_s[known]
    energy_j = value * length_s if rows.meter.kind is Kind.MEAN_POWER else value
    if not t_s.size:
        raise UserError(f"{path}: {rows.meter.name!r} has no interval of a known length")
    since_s = (t_s - length_s)[1:] - t_s[:-1]
    typical_s = float(np.median(length_s))
    if np.any(since_s < -min(OVERLAP * typical_s, STAMP_S)):
        raise UserError(
            f"{path}: intervals of {rows.meter.name!r} overlap",
            why="energy of the same time would be counted twice",
            hint="give recordings that ran at the same time in files of their own",
        )
    # A counter that falls says that the energy since the previous interval is unknown.
    begins = np.concatenate(
        ([True], since_s > np.minimum(OVERLAP * np.minimum(typical_s, length_s[1:]), STAMP_S))
    )
    first = np.flatnonzero(begins)
    stretch = np.cumsum(begins) - 1
    total_j = np.cumsum(energy_j)
    counter = total_j - (total_j - energy_j)[first][stretch] - stretch
    times = np.insert(t_s, first, (t_s - length_s)[first])
    return times, np.insert(counter, first, -np.arange(first.size, dtype=float))


def _held(t_s: Floats, value: Floats) -> tuple[Floats, Floats]:
    """Add up power that holds until the next reading; it is unknown from a NaN to the next one."""
    energy_j = np.concatenate(([0.0], np.cumsum(np.nan_to_num(value[:-1]) * np.diff(t_s))))
    is_after_unknown = np.concatenate(([False], ~np.isfinite(value[:-1])))
    last = np.maximum.accumulate(np.where(is_after_unknown, np.arange(value.size), 0))
    # A counter that falls says that the energy until then is unknown.
    return t_s, energy_j - energy_j[last] - np.cumsum(is_after_unknown)
