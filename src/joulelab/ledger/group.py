"""Group the entries of a ledger by project, phase, week and others, and add them up."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from joulelab.carbon.network import NetworkEnergy
from joulelab.energy.data_exchange import DataVolume
from joulelab.energy.nesting import Enclosure
from joulelab.errors import UserError
from joulelab.ledger.entries import Entry
from joulelab.runs.record import Run
from joulelab.uncertain import UncertainValue

DAY_S = 86400
MOST_DAYS = {"day": 45, "week": 500}
"""The longest time, in days, that a chart divides into days and into weeks; then come months."""

UNTAGGED = "untagged"
UNDATED = "undated"


def count_records(entries: Iterable[Entry]) -> int:
    """Count the records of entries, which may stand for several each."""
    return sum(one.records for one in entries)


@dataclass(frozen=True, slots=True, eq=False)
class LedgerRow:
    """The sum of some entries."""

    key: str  # what they have in common
    entries: tuple[Entry, ...]

    @property
    def records(self) -> int:
        """Number of records."""
        return count_records(self.entries)

    @property
    def energy(self) -> UncertainValue:
        """Gross energy of the measured entries, J."""
        return UncertainValue.total(one.energy for one in self.entries if one.energy is not None)

    @property
    def carbon(self) -> UncertainValue:
        """Grams of CO2-equivalent of the entries whose intensity is known."""
        return UncertainValue.total(one.carbon for one in self.entries if one.carbon is not None)

    def price(self, currency: str) -> UncertainValue:
        """Return the price of the entries whose price is known in that currency."""
        known = (one.price for one in self.entries if one.currency == currency)
        return UncertainValue.total(price for price in known if price is not None)

    @property
    def duration_s(self) -> float:
        """Duration of the entries whose duration is known."""
        known = (one.run.duration_s for one in self.entries)
        return math.fsum(value for value in known if not math.isnan(value))

    @property
    def over_network(self) -> DataVolume:
        """Bytes that the entries sent and received over networks, as far as they were counted."""
        total = DataVolume(0.0, 0.0, 0.0)
        for one in self.entries:
            if one.run.exchanged is not None:
                total = total.plus(one.run.exchanged.over_network)
        return total

    @property
    def network_j(self) -> tuple[float, float, float]:
        """Energy of networks for their data, J: (average, low, high), derived from publications."""
        parts = [
            NetworkEnergy.of(one.run.exchanged.over_network, one.site.access).energy("average")
            for one in self.entries
            if one.run.exchanged is not None
        ]
        value_j, low_j, high_j = (math.fsum(one) for one in zip((0.0,) * 3, *parts, strict=True))
        return value_j, low_j, high_j

    @property
    def enclosures(self) -> list[Enclosure]:
        """The outermost meter around the components of each entry that has one."""
        every = (one.run.energy.enclosures for one in self.entries)
        return [found[-1] for found in every if found]

    @property
    def is_measured(self) -> bool:
        """Whether any entry has energy."""
        return any(one.energy is not None for one in self.entries)

    @property
    def unmeasured(self) -> int:
        """Number of entries without energy."""
        return count_records(one for one in self.entries if one.energy is None)

    @property
    def without_carbon(self) -> int:
        """Number of entries with energy and without carbon."""
        known = (one for one in self.entries if one.energy is not None)
        return count_records(one for one in known if one.carbon is None)

    @property
    def unfinished(self) -> int:
        """Number of entries that are still running or were killed."""
        return count_records(one for one in self.entries if not one.run.finished)


def without_copies(entries: Iterable[Entry]) -> tuple[list[Entry], int]:
    """Keep one copy of each record, oldest run first, and count the other copies.

    Of several copies, one that has ended and is tagged is preferred.
    """
    best: dict[object, Entry] = {}
    total = 0
    for entry in entries:
        total += 1
        other = best.get(entry.key)
        if other is None or _preference(entry.run) > _preference(other.run):
            best[entry.key] = entry
    found = sorted(best.values(), key=lambda one: (_order(one.run.started_unix_s), one.run.name))
    return found, total - len(found)


def select_entries(
    entries: Iterable[Entry],
    *,
    project: str | None = None,
    phase: str | None = None,
    since: date | None = None,
    until: date | None = None,
) -> tuple[list[Entry], int]:
    """Select entries, and count those left out because their start is unknown.

    :data:`UNTAGGED` selects the entries without a phase; both days are included, UTC.
    """
    selected, undated = [], 0
    for entry in entries:
        run = entry.run
        if project is not None and run.project != project:
            continue
        if phase is not None and (run.phase or UNTAGGED) != phase:
            continue
        if since is not None or until is not None:
            if math.isnan(run.started_unix_s):
                undated += 1
                continue
            day = datetime.fromtimestamp(run.started_unix_s, UTC).date()
            if (since and day < since) or (until and day > until):
                continue
        selected.append(entry)
    return selected, undated


KEYS: dict[str, Callable[[Run], str]] = {
    "project": lambda run: run.project or UNTAGGED,
    "phase": lambda run: run.phase or UNTAGGED,
    "week": lambda run: period_of("week", run.started_unix_s),
    "month": lambda run: period_of("month", run.started_unix_s),
    "host": lambda run: run.host,
    "model": lambda run: run.model or UNTAGGED,
    "command": lambda run: run.study.name if run.study else " ".join(run.command) or run.name,
}
"""What entries can be grouped by. Weeks are those of ISO 8601, days those of UTC."""

PERIODS = ("week", "month")


def group_entries(entries: Sequence[Entry], by: str) -> list[LedgerRow]:
    """Add up entries by a key: in order of time for a period, else the largest first."""
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(KEYS[by](entry.run), []).append(entry)
    rows = [LedgerRow(key, tuple(members)) for key, members in groups.items()]
    if by in PERIODS:
        return sorted(rows, key=lambda row: row.key)
    return sorted(rows, key=lambda row: (-row.energy.value, row.key))


def period_of(by: str, unix_s: float) -> str:
    """Return the week or month of a time.

    Example:
        >>> period_of("week", 0.0), period_of("month", 0.0), period_of("week", math.nan)
        ('1970-W01', '1970-01', 'undated')
    """
    if math.isnan(unix_s):
        return UNDATED
    day = datetime.fromtimestamp(unix_s, UTC).date()
    return _week(day) if by == "week" else f"{day:%Y-%m}"


def period_of_bars(first_unix_s: float, last_unix_s: float) -> str:
    """Return whether a chart of runs that started between two times shows days, weeks or months.

    Example:
        >>> period_of_bars(0.0, 86400.0), period_of_bars(0.0, 1e9)
        ('day', 'month')
    """
    days = math.floor(last_unix_s / DAY_S) - math.floor(first_unix_s / DAY_S)
    return next((name for name, most in MOST_DAYS.items() if days <= most), "month")


def previous_period(key: str) -> str:
    """Return the week or month before one; empty before :data:`UNDATED`.

    Example:
        >>> previous_period("2026-W01"), previous_period("2026-01"), previous_period("undated")
        ('2025-W52', '2025-12', '')
    """
    if key == UNDATED:
        return ""
    if "W" in key:
        year, week = key.split("-W")
        return _week(date.fromisocalendar(int(year), int(week), 1) - timedelta(days=7))
    return f"{date.fromisoformat(f'{key}-01') - timedelta(days=1):%Y-%m}"


def parse_day(text: str) -> date:
    """Parse a day in ISO format."""
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise UserError(f"{text!r} is not a day", hint="write it like 2026-11-01") from error


def _preference(run: Run) -> tuple[bool, bool, bool]:
    return run.finished, run.phase is not None, run.project is not None


def _order(unix_s: float) -> float:
    return math.inf if math.isnan(unix_s) else unix_s


def _week(day: date) -> str:
    year, week, _ = day.isocalendar()
    return f"{year}-W{week:02}"
