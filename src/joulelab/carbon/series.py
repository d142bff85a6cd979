"""Carbon intensity over time, from a file."""

from __future__ import annotations

import bisect
import csv
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from joulelab.errors import UserError

TIME, INTENSITY = "time", "g_per_kwh"
"""The columns of the file."""


@dataclass(frozen=True, slots=True)
class IntensitySeries:
    """Steps of intensity: each value holds until the next begins.

    The last value holds as long as the one before it; outside the series nothing is known.

    Attributes:
        edge_unix_s: Where steps begin, and where the last ends. Shape: (steps + 1,).
        g_per_kwh: Intensity of each step; NaN where the file has no value. Shape: (steps,).
        name: Of the file.

    Example:
        >>> series = IntensitySeries((0.0, 3600.0, 7200.0), (100.0, 300.0), "grid.csv")
        >>> series.mean(1800.0, 5400.0)
        200.0
        >>> series.steps(3000.0, 3700.0)
        [(3000.0, 3600.0, 100.0), (3600.0, 3700.0, 300.0)]
    """

    edge_unix_s: Sequence[float]
    g_per_kwh: Sequence[float]
    name: str

    def __str__(self) -> str:
        first, last = self.edge_unix_s[0], self.edge_unix_s[-1]
        return f"{self.name}, {len(self.g_per_kwh)} steps, {_date(first)} to {_date(last)} UTC"

    def missing(self, start_unix_s: float, stop_unix_s: float) -> str:
        """Why the series does not cover that time, in words; empty when it does."""
        if math.isnan(start_unix_s) or math.isnan(stop_unix_s):
            return f"when it ran is not known, and {self.name} is a series over time"
        first, last = self.edge_unix_s[0], self.edge_unix_s[-1]
        if start_unix_s < first or stop_unix_s > last:
            return (
                f"{self.name} covers {_date(first)} to {_date(last)} UTC, "
                f"not {_date(start_unix_s)} to {_date(stop_unix_s)} UTC"
            )
        for start_s, stop_s, intensity in self.steps(start_unix_s, stop_unix_s):
            if math.isnan(intensity):
                return f"{self.name} has no value from {_date(start_s)} to {_date(stop_s)} UTC"
        return ""

    def steps(self, start_unix_s: float, stop_unix_s: float) -> list[tuple[float, float, float]]:
        """The parts of a time that the series covers: (start, stop, intensity)."""
        return list(self._steps(start_unix_s, stop_unix_s))

    def mean(self, start_unix_s: float, stop_unix_s: float) -> float:
        """The mean over a time that is covered, where power was even. At an instant, its value."""
        steps = self.steps(start_unix_s, stop_unix_s)
        if stop_unix_s <= start_unix_s:
            return steps[0][2]
        lengths = ((stop_s - start_s) * value for start_s, stop_s, value in steps)
        return math.fsum(lengths) / (stop_unix_s - start_unix_s)

    def _steps(self, start: float, stop: float) -> Iterator[tuple[float, float, float]]:
        last = len(self.g_per_kwh) - 1
        i = max(min(bisect.bisect_right(self.edge_unix_s, start) - 1, last), 0)
        while True:
            edge = self.edge_unix_s[i + 1]
            yield max(start, self.edge_unix_s[i]), min(stop, edge), self.g_per_kwh[i]
            i += 1
            if edge >= stop or i > last:
                return


def read_series(path: Path) -> IntensitySeries:
    """The series of a CSV file with the columns ``time`` and ``g_per_kwh``.

    Times are ISO 8601; those without a zone are UTC. Values must be 0 or more; an empty one is a
    hole.

    Raises:
        UserError: The file cannot be read, or is not such a file.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UserError(f"cannot read {path}", why=why or str(error)) from error
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
            raise UserError(
                f"{where}: {row[TIME]} is not after the row before it",
                why="steps must be in order of time, each once",
                hint="write times with their zone, as 2026-11-01T00:00+01:00",
            )
        starts.append(start)
        values.append(_value(row[INTENSITY], where))
    if len(starts) < 2:
        raise UserError(f"{path} has {len(starts)} rows", why="a series takes at least two")
    return IntensitySeries((*starts, 2 * starts[-1] - starts[-2]), tuple(values), path.name)


def _time(cell: str | None, where: str) -> float:
    try:
        time = datetime.fromisoformat((cell or "").strip())
    except ValueError as error:
        raise UserError(
            f"{where}: {cell!r} is no time", hint="write it as 2026-11-01T00:00Z"
        ) from error
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


def _value(cell: str | None, where: str) -> float:
    text = (cell or "").strip()
    if not text:
        return math.nan
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not (math.isfinite(value) and value >= 0):
        raise UserError(f"{where}: {cell!r} is no intensity", why="it must be 0 or more g/kWh")
    return value


def _date(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d %H:%M")
