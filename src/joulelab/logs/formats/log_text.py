"""The text of a log, line by line, with the times that a user's loop writes around a tool's output.

``while sleep 1; do date; nvidia-smi; done`` writes a line with a date before each poll, and
``dcgmi dmon | ts`` puts one in front of every line; a time holds up to the next. Both are removed
here, so that a reader only sees what its tool wrote.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np

from joulelab.arrays import Floats
from joulelab.errors import UserError
from joulelab.format import count
from joulelab.logs.columns import LogOptions
from joulelab.logs.text_files import open_text, read_lines
from joulelab.logs.timestamps import (
    CLOCK,
    DAY,
    MONTH,
    ZONE,
    clock_times,
    dates,
    is_clock,
    iso_date,
    month_name_as_iso,
    time_zone,
)

HEAD_LINES = 60  # A format shows itself within these, turbostat below its description of each CPU,
TURBOSTAT_LINES = 2000
HEAD_CHARACTERS = 4000  # and within so much of each.
LONGEST_RECORD = 1 << 24  # A line of JSON may describe all processes of a machine.
MOST_CHARACTERS = 1 << 28  # JSON is read as a whole.

_STAMPS = (
    r"\d{10}(?:\.\d+)?|\d{13}|\d{16}|\d{19}",
    rf"\d{{4}}[-/]\d{{2}}[-/]\d{{2}}[T _]{CLOCK}(?: ?(?:Z|UTC|[+-]\d{{2}}:?\d{{2}}))?",
    rf"{DAY} {MONTH} +\d{{1,2}} {CLOCK}(?: [AP]M)?{ZONE} \d{{4}}{ZONE}",
    rf"{DAY},? +\d{{1,2}} {MONTH} \d{{4}},? {CLOCK}(?: [AP]M)?{ZONE}",
    rf"{MONTH} +\d{{1,2}} {CLOCK}",
    CLOCK,
)
_STAMP = "|".join(_STAMPS)
STAMP_PREFIX = re.compile(rf"\s*\[?({_STAMP})\]?(?:[,;:|]\s*|\s+|$)")
_NO_YEAR = re.compile(rf"{MONTH} +\d+ {CLOCK}")
_MONTH_FIRST = re.compile(rf"(\d\d)[-/](\d\d)[-/](\d{{4}}) ({CLOCK})( [AP]M)?({ZONE})")


class Line(NamedTuple):
    """A line without its end; ``stamp`` is the time in front of it or on a line before it."""

    text: str
    stamp: str | None


@dataclass(frozen=True, slots=True)
class LogText:
    """A log of a known format, and what its reader has to note."""

    path: Path
    options: LogOptions
    notes: list[str] = field(default_factory=list)
    runs: list[tuple[str, str, float]] = field(default_factory=list)
    """Finished runs, for a log that has no more than these: name, time of the end, length in s."""

    def head(self) -> list[str]:
        """Return the first lines, up to one that is very long."""
        found: list[str] = []
        with open_text(self.path) as file:
            most = HEAD_LINES
            while len(found) < most and (line := file.readline(HEAD_CHARACTERS)):
                found.append(line.rstrip())
                most = TURBOSTAT_LINES if found[0].startswith("turbostat version") else HEAD_LINES
                if not line.endswith("\n"):
                    break
        return found

    def text(self) -> str:
        """Return the whole text."""
        with open_text(self.path) as file:
            text = file.read(MOST_CHARACTERS)
            if file.read(1):
                raise UserError(
                    f"cannot read {self.path}",
                    why=f"it has more than {MOST_CHARACTERS:,} characters",
                    hint="split it",
                )
        return text

    def raw_lines(self) -> Iterator[str]:
        """Iterate over the lines, without a last one that has no line end: it may be cut short."""
        with open_text(self.path) as file:
            for line in read_lines(file, LONGEST_RECORD):
                if line.endswith(("\n", "\r")):
                    yield line.rstrip("\r\n")
                elif line.strip():
                    self.notes.append("skipped the last line, which has no line end")

    def lines(self) -> Iterator[Line]:
        """Iterate over the lines of the tool, with the times that a loop around it wrote."""
        latest: str | None = None
        for text in self.raw_lines():
            match = STAMP_PREFIX.match(text)
            latest = match[1] if match else latest
            rest = text[match.end() :] if match else text
            if rest or match is None:
                yield Line(rest, latest)

    def skipped(self, number: int, what: str) -> None:
        """Note that a number of lines was left out."""
        if number:
            self.notes.append(f"skipped {count(number, 'line')} {what}")


def to_seconds(log: LogText, times: list[str]) -> Floats:
    """Convert times as tools write them to seconds; NaN for what is none.

    Example:
        >>> options = LogOptions(timezone="UTC")
        >>> to_seconds(LogText(Path("log"), options), ["Tue Mar 14 12:00:00 UTC 2023"]).tolist()
        [1678795200.0]
    """
    if not times:
        return np.zeros(0)
    if all(time.isdigit() or time.replace(".", "", 1).isdigit() for time in times):
        return np.array([_since_1970(time) for time in times])
    if is_clock(times[0]):
        return clock_times()(times)
    if _NO_YEAR.fullmatch(times[0]):
        # The default of ``ts``.
        year = datetime.now().astimezone().year
        log.notes.append(f"dates have no year; assuming {year}")
        times = [f"Mon {time} {year}" for time in times]
    return dates(time_zone(log.options.timezone))([as_iso(time) for time in times])


def _since_1970(time: str) -> float:
    """Convert seconds, milliseconds, microseconds or nanoseconds since 1970 to seconds."""
    digits = len(time.partition(".")[0])
    return float(time) / 10.0 ** (3 * max((digits - 10) // 3, 0))


def as_iso(time: str) -> str:
    """Write a date as in ISO 8601. Abbreviated time zones other than UTC are left out.

    Example:
        >>> as_iso("Sat Mar 14 12:00:01 2026 +0100"), as_iso("10/08/2026 06:02:12 PM EDT")
        ('2026-03-14T12:00:01+0100', '2026-10-08T18:02:12')
    """
    time = " ".join(time.split())
    if match := _MONTH_FIRST.fullmatch(time):
        month, day, year, clock, half, zone = match.groups()
        return iso_date(year, month, day, clock, half, zone)
    return month_name_as_iso(time) or time.replace("_", "T").replace(" UTC", "Z")
