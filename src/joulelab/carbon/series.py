"""Carbon intensity over time: read from a file, and averaged over the energy of a trace."""

from __future__ import annotations

import bisect
import contextlib
import csv
import io
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from joulelab.arrays import Floats
from joulelab.energy.estimator import energies_of
from joulelab.energy.incidents import clock_readings
from joulelab.errors import UserError
from joulelab.format import join_words, timestamp
from joulelab.recording.trace import Readings, Trace
from joulelab.recording.trace_spans import Window
from joulelab.storage import file_errors, read_whole
from joulelab.validation import MOST

TIMES = ("time", "datetime (utc)", "timestamp (utc)", "datetime", "timestamp", "from", "point_time")
"""Names of the column of times, in lower case, the preferred first."""

UNTIL, ZONES = "to", ("zone id", "zone", "region", "country")

G_PER_LB_PER_MWH = 0.45359237
"""One pound is 453.59237 g (international avoirdupois pound), and a MWh is 1,000 kWh."""

KINDS = (
    ("g_per_kwh", "", 1.0),
    (r"carbon.intensity.*(life.?cycle|lca).*", "life cycle", 1.0),
    (r"actual|actual carbon.intensity.*", "actual", 1.0),
    (r"carbon.intensity( \(?g[^ ]*/kwh\)?)?", "", 1.0),
    (r"carbon.intensity.*direct.*", "direct emissions", 1.0),
    (r"forecast|forecast carbon.intensity.*", "forecast", 1.0),
    (r"(co2_)?moer", "marginal", G_PER_LB_PER_MWH),
)
"""Names of columns of intensities in lower case, what they are, and g/kWh per unit, the preferred
first: this project's, Electricity Maps', those of Great Britain's National Energy System Operator
(carbonintensity.org.uk), and WattTime's, which is in lb/MWh."""

EARLIEST, LATEST = datetime(1970, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)


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
    """Read a CSV file with a column of times and one of intensities.

    The columns are ``time`` and ``g_per_kwh``, or as Electricity Maps, carbonintensity.org.uk and
    WattTime export them; life-cycle intensities are preferred to direct ones, actual ones to
    forecasts. Times are ISO 8601; those without a time zone are UTC. Values must be 0 or more; an
    empty one is a hole.

    Raises:
        UserError: The columns are unknown, or a cell cannot be read.
    """
    try:
        with file_errors(f"cannot read {path}"):
            text = read_whole(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"cannot read {path}", why="it is not UTF-8 text") from error
    heading = text.partition("\n")[0]
    delimiter = ";" if ";" in heading and "," not in heading else ","
    rows = csv.DictReader(io.StringIO(text), skipinitialspace=True, delimiter=delimiter)
    with _csv_errors(path):
        columns = _find_columns(path, rows.fieldnames or ())
    steps: list[tuple[float, float, float, str]] = []
    zones: dict[str, None] = {}
    forecasts = 0
    for row in _csv_rows(rows, path):
        where = f"{path}, line {rows.line_num}"
        start = _time(row[columns.time], where)
        stop = _time(row[columns.until], where) if columns.until else math.nan
        value = _value(row[columns.value], where, delimiter) * columns.factor
        if math.isnan(value) and columns.fallback:
            value = _value(row[columns.fallback], where, delimiter)
            forecasts += not math.isnan(value)
        steps.append((start, stop, value, f"{where}: {row[columns.time]}"))
        if columns.zone:
            zones[row[columns.zone] or ""] = None
    if len(zones) > 1:
        names = join_words(list(zones)[:3])
        raise UserError(f"{path} has several zones, {names}", hint="give a file of one of them")
    if len(steps) < 2:
        raise UserError(f"{path} has {len(steps)} rows", why="a series needs at least two")
    notes = [columns.kind] if columns.kind else []
    if forecasts:
        notes.append(f"forecast for {forecasts} of {len(steps)} steps")
    return _series_of(steps, f"{path.name} ({', '.join(notes)})" if notes else path.name)


def _csv_rows(rows: csv.DictReader[str], path: Path) -> Iterator[dict[str, str]]:
    with _csv_errors(path):
        yield from rows


@contextlib.contextmanager
def _csv_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except csv.Error as error:
        raise UserError(f"{path} is damaged", why=str(error)) from error


class _Columns(NamedTuple):
    """Names of the columns of a file; empty if it has no such column."""

    time: str
    until: str
    value: str
    fallback: str  # where there is no value
    zone: str
    kind: str  # of intensity
    factor: float  # g/kWh per unit of the values


def _find_columns(path: Path, names: Sequence[str]) -> _Columns:
    by_name: dict[str, str] = {}
    for name in names:
        by_name.setdefault(" ".join(name.casefold().replace("₂", "2").split()), name)

    def first(wanted: Iterable[str]) -> str:
        return next((by_name[name] for name in wanted if name in by_name), "")

    time = first(TIMES)
    found = [
        (name, kind, factor)
        for pattern, kind, factor in KINDS
        for plain, name in by_name.items()
        if re.fullmatch(pattern, plain)
    ]
    missing = [what for what, one in (("times", time), ("intensities", found)) if not one]
    if missing:
        raise UserError(
            f"{path} has no column of {' and no column of '.join(missing)}",
            why=f"it has {', '.join(names)}" if names else "it is empty",
            hint="name the columns time,g_per_kwh in the first line",
        )
    value, kind, factor = found[0]
    same = [name for name, other, _ in found if other == kind]
    if len(same) > 1:
        raise UserError(
            f"{path} has several intensities, {join_words(same)}",
            hint="name the one to use g_per_kwh in the first line",
        )
    fallback = next(
        (name for name, other, _ in found if (kind, other) == ("actual", "forecast")), ""
    )
    until = first([UNTIL]) if time == first(["from"]) else ""
    return _Columns(time, until, value, fallback, first(ZONES), kind, factor)


def _series_of(steps: list[tuple[float, float, float, str]], name: str) -> IntensitySeries:
    """Sort steps of (start, stop or NaN, value, description); gaps between them have no value."""
    steps.sort(key=lambda step: step[0])
    starts: list[float] = []
    values: list[float] = []
    followings = [*(step[0] for step in steps[1:]), math.inf]
    for (start, stop, value, where), following in zip(steps, followings, strict=True):
        if starts and start <= starts[-1]:
            hint = "write times with their time zone, for example 2026-11-01T00:00+01:00"
            raise UserError(f"{where} occurs twice or overlaps the step before it", hint=hint)
        starts.append(start)
        values.append(value)
        if start < stop < following < math.inf:
            starts.append(stop)
            values.append(math.nan)
    last = steps[-1][1]
    end = last if last > starts[-1] else 2 * starts[-1] - starts[-2]
    return IntensitySeries((*starts, end), tuple(values), name)


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


def _monotonic_ns(clock: Readings, unix_s: Floats) -> Floats:
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
    time = time if time.tzinfo else time.replace(tzinfo=UTC)
    if not EARLIEST <= time < LATEST:
        why = f"it is not between {EARLIEST:%Y} and {LATEST:%Y}"
        raise UserError(f"{where}: {cell} cannot be the time of an intensity", why=why)
    return time.timestamp()


def _value(cell: str | None, where: str, delimiter: str) -> float:
    text = (cell or "").strip()
    if not text:
        return math.nan
    if delimiter == ";":
        text = text.replace(",", ".")
    with contextlib.suppress(ValueError):
        if 0 <= float(text) <= MOST:
            return float(text)
    why = "it must be 0 or more g/kWh"
    raise UserError(f"{where}: {cell!r} is not a carbon intensity", why=why)


def _range(start_unix_s: float, stop_unix_s: float) -> str:
    return f"{timestamp(start_unix_s)} to {timestamp(stop_unix_s)}"
