"""Carbon intensity over time: read from a file, and averaged over the energy of a trace."""

from __future__ import annotations

import bisect
import contextlib
import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from joulelab.energy.estimator import energies_of
from joulelab.energy.incidents import clock_readings
from joulelab.errors import UserError
from joulelab.format import timestamp
from joulelab.recording.trace import Readings, Trace
from joulelab.recording.trace_spans import Window
from joulelab.storage import file_errors

TIME, INTENSITY = "time", "g_per_kwh"  # The columns of the file.


@dataclass(frozen=True, slots=True)
class IntensitySeries:
    """Steps of intensity: each value holds until the next begins.

    The last value holds as long as the one before it; outside the series the intensity is unknown.

    Example:
        >>> series = IntensitySeries((0.0, 3600.0, 7200.0), (100.0, 300.0), "grid.csv")
        >>> series.mean(1800.0, 5400.0)
        200.0
        >>> series.steps(3000.0, 3700.0)
        [(3000.0, 3600.0, 100.0), (3600.0, 3700.0, 300.0)]
    """

    edge_unix_s: Sequence[float]  # Where steps begin, and where the last ends.
    g_per_kwh: Sequence[float]  # Of each step; NaN where the file has no value.
    name: str  # Of the file.

    def __str__(self) -> str:
        first, last = self.edge_unix_s[0], self.edge_unix_s[-1]
        return f"{self.name}, {len(self.g_per_kwh)} steps, {_range(first, last)}"

    def missing(self, start_unix_s: float, stop_unix_s: float) -> str:
        """Explain why the series does not cover a time; empty if it does."""
        if math.isnan(start_unix_s) or math.isnan(stop_unix_s):
            return f"{self.name} is a series over time, and the time of this energy is unknown"
        first, last = self.edge_unix_s[0], self.edge_unix_s[-1]
        if start_unix_s < first or stop_unix_s > last:
            wanted = _range(start_unix_s, stop_unix_s)
            return f"{self.name} covers {_range(first, last)}, not {wanted}"
        for start_s, stop_s, intensity in self.steps(start_unix_s, stop_unix_s):
            if math.isnan(intensity):
                return f"{self.name} has no value for {_range(start_s, stop_s)}"
        return ""

    def steps(self, start_unix_s: float, stop_unix_s: float) -> list[tuple[float, float, float]]:
        """Return the steps within a time that the series covers: (start, stop, intensity)."""
        last = len(self.g_per_kwh) - 1
        i = max(min(bisect.bisect_right(self.edge_unix_s, start_unix_s) - 1, last), 0)
        found = []
        for at in range(i, last + 1):
            begin, end = self.edge_unix_s[at : at + 2]
            found.append((max(start_unix_s, begin), min(stop_unix_s, end), self.g_per_kwh[at]))
            if end >= stop_unix_s:
                break
        return found

    def mean(self, start_unix_s: float, stop_unix_s: float) -> float:
        """Return the mean over a time that is covered; the value at an instant."""
        steps = self.steps(start_unix_s, stop_unix_s)
        if stop_unix_s <= start_unix_s:
            return steps[0][2]
        lengths = ((stop_s - start_s) * value for start_s, stop_s, value in steps)
        return math.fsum(lengths) / (stop_unix_s - start_unix_s)


def read_series(path: Path) -> IntensitySeries:
    """Read a CSV file with the columns ``time`` and ``g_per_kwh``.

    Times are ISO 8601; those without a time zone are UTC. Values must be 0 or more; an empty one is
    a hole.
    """
    try:
        with file_errors(f"cannot read {path}"):
            text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"cannot read {path}", why="it is not UTF-8 text") from error
    rows = csv.DictReader(io.StringIO(text), skipinitialspace=True)
    missing = [name for name in (TIME, INTENSITY) if name not in (rows.fieldnames or ())]
    if missing:
        raise UserError(
            f"{path} has no column {' and no column '.join(missing)}",
            hint=f"name the columns {TIME},{INTENSITY} in the first line",
        )
    starts: list[float] = []
    values: list[float] = []
    for row in rows:
        where = f"{path}, line {rows.line_num}"
        start = _time(row[TIME], where)
        if starts and start <= starts[-1]:
            hint = "write times with their time zone, for example 2026-11-01T00:00+01:00"
            raise UserError(f"{where}: {row[TIME]} is not after the row before it", hint=hint)
        starts.append(start)
        values.append(_value(row[INTENSITY], where))
    if len(starts) < 2:
        raise UserError(f"{path} has {len(starts)} rows", why="a series needs at least two")
    return IntensitySeries((*starts, 2 * starts[-1] - starts[-2]), tuple(values), path.name)


def energy_weighted_intensity(
    trace: Trace, series: IntensitySeries, start_unix_s: float, stop_unix_s: float
) -> float:
    """Return the mean intensity over the energy of a span that the series covers, in g/kWh.

    The sum over the steps of the series of energy in the step times its intensity, over the energy
    of all steps. Energy that a component's sensor did not see in a step counts like the rest. NaN
    if the trace has no wall clock or no energy within the span.
    """
    clock = clock_readings(trace, "clock.realtime")
    steps = [step for step in series.steps(start_unix_s, stop_unix_s) if step[1] > step[0]]
    if clock is None or not steps or not np.isfinite(clock.value).any():
        return math.nan
    edges_s = np.array([steps[0][0], *(stop_s for _, stop_s, _ in steps)])
    edges_ns = [int(t) for t in _monotonic_ns(clock, edges_s)]
    energies = energies_of(trace, [Window(*pair) for pair in pairwise(edges_ns)])
    parts = [
        (part.gross_j, intensity)
        for energy, (_, _, intensity) in zip(energies, steps, strict=True)
        for part in energy.components.values()
    ]
    total_j = math.fsum(gross_j for gross_j, _ in parts)
    weighted = math.fsum(gross_j * intensity for gross_j, intensity in parts)
    return weighted / total_j if total_j > 0 else math.nan


def _monotonic_ns(clock: Readings, unix_s: NDArray[np.float64]) -> NDArray[np.float64]:
    """Convert times of the wall clock to CLOCK_MONOTONIC.

    A time that the wall clock skipped when it was set is that of the reading after; of two times
    that it showed twice, the later is meant.
    """
    seen = np.isfinite(clock.value)
    t_ns, ahead_s = clock.t_ns[seen], clock.value[seen]
    wall_s = np.maximum.accumulate(t_ns * 1e-9 + ahead_s)
    at = np.clip(np.searchsorted(wall_s, unix_s, side="right") - 1, 0, wall_s.size - 1)
    next_ns = np.append(t_ns[1:], np.inf)
    return np.asarray(np.minimum(np.round((unix_s - ahead_s[at]) * 1e9), next_ns[at]))


def _time(cell: str | None, where: str) -> float:
    try:
        time = datetime.fromisoformat((cell or "").strip())
    except ValueError as error:
        hint = "write it like 2026-11-01T00:00Z"
        raise UserError(f"{where}: {cell!r} is not a time", hint=hint) from error
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


def _value(cell: str | None, where: str) -> float:
    text = (cell or "").strip()
    if not text:
        return math.nan
    with contextlib.suppress(ValueError):
        if 0 <= float(text) < math.inf:
            return float(text)
    why = "it must be 0 or more g/kWh"
    raise UserError(f"{where}: {cell!r} is not a carbon intensity", why=why)


def _range(start_unix_s: float, stop_unix_s: float) -> str:
    return f"{timestamp(start_unix_s)} to {timestamp(stop_unix_s)}"
