"""Devices of a table without a column for them, by the order of the rows of each poll."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from joulelab.arrays import Bools, Floats, Indices
from joulelab.errors import UserError
from joulelab.format import count
from joulelab.logs.columns import LogOptions
from joulelab.logs.csv_table import Table
from joulelab.logs.device_rows import (
    DEVICE_HINT,
    LEAST_POLLS,
    DeviceRows,
    begins_poll,
    has_smi_times,
    usual_device,
)

MOST_BY_ORDER = 64
LONG_PAUSE = 1.5
"""Where devices are read slowly, pauses this many times as long as usual steps may separate polls,
if they come after the same number of rows throughout."""
REGULAR = 0.5  # Polls are regular if the middle half of their distances is within this share.
MOST_DOUBLES = 0.05  # Share of times that a single device may repeat, for a clock of whole seconds.
DISTINCT_SIGMAS = 6.0  # Means of two devices that differ by this many standard errors are distinct.
LEAST_APART = 0.1  # Of their mean: logs of several devices that were merged differ by more.
LEAST_OWN_LEVEL = 0.05  # Of their mean: a device that is read twice a second differs by less.
LEAST_RATIO = 1.25  # Rows that cycle through levels this far apart are of several devices.
BUFFERED = 1.5  # A round is so much farther from the one before than its rows are from each other.
LEAST_ROUNDS = 20
TINY = 1e-12
MOST_CYCLE = 16


def split_by_order(
    table: Table,
    t_s: Floats,
    values: Sequence[Floats],
    powers: Sequence[Floats],
    options: LogOptions,
) -> tuple[list[DeviceRows], str]:
    """Distinguish the devices of rows without a column for them by their order in each poll.

    ``t_s`` are the finite times in the order of the file, ``values`` the columns of readings, and
    ``powers`` those of power.

    Returns:
        The devices, and a note.

    Raises:
        UserError: Polls have several rows, but not always the same number.
    """
    everything = [DeviceRows("", "", np.arange(t_s.size))]
    if options.devices == 1 or t_s.size < 2:
        return everything, ""
    rows = np.column_stack([t_s, *values])
    repeats = np.all(np.nan_to_num(rows[1:]) == np.nan_to_num(rows[:-1]), axis=1)
    polls = _polls(table, t_s, repeats, options)
    several = options.devices or polls.usual
    if several == 1:
        if options.devices is None and _is_regular(np.diff(t_s)):
            _check_cycles(table, powers)
        return everything, ""
    # The first and the last poll may be cut.
    inner = polls.sizes[1:-1] if polls.sizes.size > 2 else polls.sizes
    uneven = inner[inner % several > 0] if polls.usual > 1 else inner[:0]
    if uneven.size or (several > MOST_BY_ORDER and options.devices is None):
        why = f"most polls have {several} rows, {count(uneven.size, 'poll')} of {inner.size} others"
        raise UserError(
            f"{table.path} has several rows per poll and no column that distinguishes devices",
            why=why if uneven.size else f"they have {several}",
            hint=DEVICE_HINT,
        )
    if options.devices is None:
        _check_distinct(table, t_s, polls, values)
        _check_buffered(table, polls, powers)
    is_cut = polls.usual > 1 and polls.sizes.size > 2 and polls.sizes[0] % several
    first = int(polls.sizes[0]) if is_cut else 0
    position = np.arange(t_s.size - first) % several
    note = (
        f"{count(several, 'row')} per poll and no column that distinguishes devices: they are "
        "distinguished by their order"
    )
    return [
        DeviceRows(str(i), f"{usual_device(table)}:{i}", first + np.flatnonzero(position == i))
        for i in range(several)
    ], note


class _Polls(NamedTuple):
    """The rows of a log in groups that were written at once."""

    starts: Indices  # Position of the first row of each.
    sizes: Indices
    usual: int  # Rows of most polls; 1 for a log of single rows.


def _polls(table: Table, t_s: Floats, repeats: Bools, options: LogOptions) -> _Polls:
    """Group rows in the order of the file to polls; some rows repeat those before them."""
    steps = np.diff(t_s)
    found = _Polls(np.arange(t_s.size), np.ones(t_s.size, dtype=np.intp), 1)
    after_long = np.append(True, (steps < 0) | (steps >= LONG_PAUSE * np.median(steps)))
    for begins in (begins_poll(t_s), after_long):
        starts = np.flatnonzero(begins)
        sizes = np.diff(starts, append=t_s.size)
        bursts = np.flatnonzero(sizes > 1)
        if not bursts.size:
            continue
        is_rare = bursts.size <= max(MOST_DOUBLES * sizes.size, 1)
        is_late = sizes.max() == 2 and np.all(np.diff(bursts) > 1)
        if is_rare and sizes.size > 2 and (is_late or np.all(repeats[~begins[1:]])):
            # A late read of a single device, a clock of whole seconds, or a row written twice.
            return found
        numbers, often = np.unique(sizes, return_counts=True)
        usual = int(numbers[numbers > 1][often[numbers > 1].argmax()])
        is_even = bool(np.all(sizes[1:-1] % usual == 0)) and sizes.size >= LEAST_POLLS
        is_regular = sizes.size >= LEAST_POLLS and _is_regular(np.diff(t_s[starts]))
        # Reads of one device that are late now and then have groups of varying sizes between them.
        is_steady = np.count_nonzero(np.diff(sizes[1:-1])) <= MOST_DOUBLES * sizes.size
        if begins is not after_long:
            if is_even or is_regular or np.any(steps == 0):
                return _Polls(starts, sizes, usual)
        elif (
            sizes.size >= LEAST_ROUNDS
            and (is_even or (is_regular and is_steady))
            and options.devices is None
        ):
            raise UserError(
                f"{table.path} pauses after every {usual} rows, as if {usual} devices were read",
                hint=DEVICE_HINT,
            )
    return found


def _is_regular(steps: Floats) -> bool:
    """Return whether the middle half of steps is about the same."""
    low, middle, high = np.quantile(steps, (0.25, 0.5, 0.75))
    return bool(high - low <= REGULAR * middle)


def _check_cycles(table: Table, powers: Sequence[Floats]) -> None:
    """Raise an error if the rows may be of several devices that take turns at an even pace."""
    for value in powers:
        if cycle := find_cycle(value):
            raise UserError(
                f"{table.path}: its rows repeat {cycle} levels, as if {cycle} devices took turns",
                hint=DEVICE_HINT,
            )


def find_cycle(value: Floats) -> int | None:
    """Return after how many rows the values repeat levels far apart; ``None`` if they do not."""
    value = value[np.isfinite(value)][:2000]
    if value.size < 2 * LEAST_ROUNDS or np.ptp(value) == 0:
        return None
    for size in range(2, min(MOST_CYCLE, value.size // LEAST_ROUNDS) + 1):
        rounds = value[: value.size // size * size].reshape(-1, size)
        rounds = _relative(rounds)
        means, scatter = rounds.mean(axis=0), rounds.std(axis=0).max()
        low, high = float(means.min()), float(means.max())
        if high >= LEAST_RATIO * low and DISTINCT_SIGMAS * scatter < high - low:
            return size
    return None


def _relative(rounds: Floats) -> Floats:
    """Divide by the mean of each round: devices may have steps of load in common."""
    means = np.maximum(rounds.mean(axis=1, keepdims=True), TINY)
    return np.asarray(rounds / means, dtype=np.float64)


def check_interleaved(table: Table, t_s: Floats, powers: Sequence[Floats]) -> None:
    """Raise an error if the rows of one device seem to be of several logs that were merged.

    Then their times come in a rhythm, and each is nearer to that of the round before than to the
    row before: two logs of one device have the same values.
    """
    for value in powers:
        seen = np.isfinite(value)
        size, drawn = find_cycle(np.diff(t_s[seen])), value[seen]
        if size is None:
            continue
        before, own = (np.median(np.abs(drawn[lag:] - drawn[:-lag])) for lag in (1, size))
        if before > max(DISTINCT_SIGMAS * own, LEAST_APART * drawn.mean()):
            raise UserError(
                f"{table.path}: rows of one device seem to be of {size} logs",
                why="their times and levels take turns",
                hint="split the file, or name the column that distinguishes them with "
                "--device-column",
            )


def _check_buffered(table: Table, polls: _Polls, powers: Sequence[Floats]) -> None:
    """Raise an error if rows of one time seem to follow each other, as of a pipe with a buffer.

    Then the first row is as near to the last of the time before as to its neighbour, and nearer
    than to the first of the time before. Loads of devices change together, or each is near to
    itself.
    """
    several = polls.usual
    whole = polls.starts[1:-1][polls.sizes[1:-1] == several]
    for value in powers:
        rounds = value[whole[:, None] + np.arange(several)]
        rounds = rounds[np.isfinite(rounds).all(axis=1)]
        if len(rounds) < LEAST_ROUNDS:
            continue
        inside = float(np.mean(np.abs(np.diff(rounds, axis=1))))
        across = float(np.mean(np.abs(rounds[1:, 0] - rounds[:-1, -1])))
        own = float(np.mean(np.abs(np.diff(rounds, axis=0))))
        step = (inside * (several - 1) + across) / several
        if own > BUFFERED * step and across < BUFFERED * inside:
            raise UserError(
                f"{table.path} has {several} rows at each time that seem to follow each other",
                why="a buffer may have held them back",
                hint=DEVICE_HINT,
            )


def _check_distinct(table: Table, t_s: Floats, polls: _Polls, values: Sequence[Floats]) -> None:
    """Raise an error if rows at one whole second may as well be of one device."""
    several = polls.usual
    # nvidia-smi shows milliseconds, and several devices of one poll at the same.
    if np.any(t_s != np.rint(t_s)) or has_smi_times(table):
        return
    whole = polls.starts[polls.sizes == several]
    for value in values:
        rounds = value[whole[:, None] + np.arange(several)]
        rounds = rounds[np.isfinite(rounds).all(axis=1)]
        if len(rounds) < LEAST_POLLS:
            continue
        for levels, least in ((rounds, 0.0), (_relative(rounds), LEAST_OWN_LEVEL)):
            error = levels.std(axis=0).max() / np.sqrt(len(levels))
            apart = np.diff(np.sort(levels.mean(axis=0))).min()
            if apart > max(DISTINCT_SIGMAS * error, least):
                return
    raise UserError(
        f"{table.path} has {several} rows at each time, of {several} devices or of one",
        hint=DEVICE_HINT,
    )
