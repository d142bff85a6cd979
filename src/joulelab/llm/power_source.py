"""The power that goes with a log of requests, and one clock for both.

A log of another tool has a clock of its own, or Unix time. A recording of JouleLab's has
CLOCK_MONOTONIC, and states the Unix time at which it began.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np

from joulelab.arrays import Bools, Floats
from joulelab.energy.baseline import Baseline
from joulelab.errors import UserError
from joulelab.format import count, join_words, timestamp
from joulelab.llm.requests import RequestLog
from joulelab.llm.sensor_response import reading_times
from joulelab.logs.power_log import Log
from joulelab.logs.span_energies import ImportedSpan, idle_baseline
from joulelab.logs.timestamps import epoch_unit
from joulelab.recording.trace import Trace, read_trace
from joulelab.runs.selection import open_run

QUARTER_S = 900
"""Time zones differ by multiples of this, and by no more than a day."""
MOST_QUARTERS = 26 * 4
NAMED = 3  # Requests that a note names.


@dataclass(frozen=True, slots=True)
class PowerSource:
    """Readings of power."""

    trace: Trace  # The readings.
    zero_s: float  # The requests' clock at time 0 of the trace, if it is not Unix time.
    unix_zero_s: float  # Unix time at time 0 of the trace; NaN if it is unknown.
    # Measured idle power; ``None``: to be taken from before and after.
    baseline: Baseline | None = None
    notes: tuple[str, ...] = ()  # What was assumed in reading them.

    @classmethod
    def of_log(cls, log: Log, idle: Sequence[ImportedSpan] = ()) -> Self:
        """Take a log of another tool; idle power from spans of it, if there are any."""
        is_unix = _is_unix(np.array([log.start_s]))
        unix_s = log.origin_s if is_unix else math.nan
        baseline = idle_baseline(log, idle) if idle else None
        return cls(log.trace, log.origin_s, unix_s, baseline, log.notes)

    @classmethod
    def of_recording(cls, run_name: str | Path) -> Self:
        """Take the recording of a run, with the idle power that was measured for it.

        Args:
            run_name: Its directory, its name, or ``latest``.

        Raises:
            UserError: There is no such recording.
            TraceError: It is damaged.
        """
        run = open_run(run_name)
        trace = read_trace(run.directory)
        header = trace.header
        unix_zero_s = math.nan
        if "start_ns" in header and "start_unix_s" in header:
            unix_zero_s = header["start_unix_s"] - header["start_ns"] * 1e-9
        return cls(trace, 0.0, unix_zero_s, run.baseline, trace.damage)

    @property
    def extent_s(self) -> tuple[float, float]:
        """First and last reading of power, on the trace's clock."""
        first_s, last_s = reading_times(self.trace)
        return float(first_s.min()), float(last_s.max())

    def shift_s(self, requests: RequestLog, offset_s: float = 0.0) -> float:
        """Return what to add to the times of requests to put them on the trace's clock.

        Args:
            requests: On the clock of the log, in Unix time, or CLOCK_MONOTONIC for a recording.
            offset_s: To be added to their times first.
        """
        is_unix = _is_unix(requests.start_s + offset_s) and not math.isnan(self.unix_zero_s)
        return offset_s - (self.unix_zero_s if is_unix else self.zero_s)

    def place(self, requests: RequestLog, shift_s: float) -> RequestLog:
        """Put requests on the trace's clock; those outside of the readings are left out.

        Raises:
            UserError: No request is within the readings.
        """
        placed = requests.shifted(shift_s)
        first_s, last_s = self.extent_s
        is_inside = (placed.stop_s > first_s) & (placed.start_s < last_s)
        if not is_inside.any():
            raise self._no_overlap(requests, placed)
        is_cut = is_inside & ((placed.start_s < first_s) | (placed.stop_s > last_s))
        notes = [
            f"{count(int(group.sum()), 'request')} {problem}: {_named(placed.request, group)}"
            for group, problem in (
                (~is_inside, "outside of the recording left out"),
                (is_cut, "only partly within the recording: the energy outside of it is estimated"),
            )
            if group.any()
        ]
        return replace(placed.at(np.flatnonzero(is_inside)), notes=(*placed.notes, *notes))

    def _no_overlap(self, requests: RequestLog, placed: RequestLog) -> UserError:
        """Describe both extents and the likely cause."""
        first_s, last_s = self.extent_s
        begin_s, end_s = placed.window_s
        is_unix = _is_unix(requests.start_s)
        zero_s = self.zero_s if math.isnan(self.unix_zero_s) or not is_unix else self.unix_zero_s
        extent_s = first_s + zero_s, last_s + zero_s
        theirs, ours = (
            f"from {_shown(one)} to {_shown(other)}" for one, other in (requests.window_s, extent_s)
        )
        quarters = round((first_s + last_s - begin_s - end_s) / 2 / QUARTER_S)
        hint = "put both on one clock, with --time-offset SECONDS"
        if is_unix != _is_unix(np.array(extent_s)):
            hint = (
                "one of them is in seconds since 1970; give with --time-offset what is to be added "
                "to the times of the requests (for vLLM's benchmark, before a restart: "
                "`python -c 'import time; print(time.time() - time.perf_counter())'`)"
            )
        elif (
            is_unix
            and 0 < abs(quarters) <= MOST_QUARTERS
            and (begin_s + quarters * QUARTER_S < last_s and end_s + quarters * QUARTER_S > first_s)
        ):
            hours, side = abs(quarters) * QUARTER_S / 3600, "later" if quarters > 0 else "earlier"
            hint = (
                f"they would overlap if the requests were {hours:g} h {side}: give the time zone "
                "of dates with --timezone, or --time-offset SECONDS"
            )
        return UserError(
            "no request is within the recording of power",
            why=f"the requests go {theirs}, the readings {ours}",
            hint=hint,
        )


def _is_unix(times_s: Floats) -> bool:
    return epoch_unit(times_s) == "s"


def _shown(time_s: float) -> str:
    is_unix = _is_unix(np.array([time_s]))
    return timestamp(time_s) if is_unix else f"{time_s:.12g} s"


def _named(names: Sequence[str], chosen: Bools) -> str:
    found = [name for name, is_chosen in zip(names, chosen, strict=True) if is_chosen]
    rest = [f"{len(found) - NAMED} more"] if len(found) > NAMED else []
    return join_words([*found[:NAMED], *rest])
