"""Entries of a project's life, told apart by what they were, and added up."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from joulelab.errors import UserError
from joulelab.ledger.costing import Costed
from joulelab.ledger.entries import Entry
from joulelab.uncertain import UncertainValue

UNTAGGED = "untagged"
UNDATED = "undated"
NO_INTERVAL = (math.nan, math.nan)


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """The sum of some entries.

    Attributes:
        key: What they have in common.
        entries: They.
    """

    key: str
    entries: tuple[Costed, ...]

    @property
    def energy(self) -> UncertainValue:
        """Gross, J, of those that were measured."""
        return UncertainValue.total(one.energy for one in self.entries if one.energy is not None)

    @property
    def carbon(self) -> UncertainValue:
        """Grams of CO2-equivalent, of those whose intensity is known."""
        return UncertainValue.total(one.carbon for one in self.entries if one.carbon is not None)

    def price(self, currency: str) -> UncertainValue:
        """Of those whose price is known in that currency."""
        known = (one.price for one in self.entries if one.currency == currency)
        return UncertainValue.total(amount for amount in known if amount is not None)

    @property
    def duration_s(self) -> float:
        """Of all whose duration is known."""
        known = (one.entry.duration_s for one in self.entries)
        return math.fsum(value for value in known if not math.isnan(value))

    @property
    def unmeasured(self) -> int:
        """How many have no energy."""
        return sum(one.energy is None for one in self.entries)

    @property
    def without_carbon(self) -> int:
        """How many have energy and no carbon."""
        return sum(one.energy is not None and one.carbon is None for one in self.entries)

    @property
    def unfinished(self) -> int:
        """How many have not finished, or were cut off."""
        return sum(one.entry.unfinished for one in self.entries)


def once(entries: Iterable[Entry]) -> tuple[list[Entry], int]:
    """Each record once, however many copies there are, oldest first; and how many copies.

    Of copies the one counts that has ended, and is tagged.
    """
    best: dict[object, Entry] = {}
    count = 0
    for entry in entries:
        count += 1
        other = best.get(entry.key)
        if other is None or _worth(entry) > _worth(other):
            best[entry.key] = entry
    found = sorted(best.values(), key=lambda one: (_order(one.started_unix_s), one.name))
    return found, count - len(found)


def selected(
    entries: Iterable[Entry],
    *,
    project: str | None = None,
    phase: str | None = None,
    since: date | None = None,
    until: date | None = None,
) -> tuple[list[Entry], int]:
    """The entries of a project and phase that began in a time.

    Args:
        entries: All.
        project: ``None``: of every project.
        phase: ``None``: of every phase; :data:`UNTAGGED`: of none.
        since: First day, UTC.
        until: Last day, UTC.

    Returns:
        They, and how many were left out since nobody knows when they began.
    """
    kept, undated = [], 0
    for entry in entries:
        if project is not None and entry.project != project:
            continue
        if phase is not None and (entry.phase or UNTAGGED) != phase:
            continue
        if since is not None or until is not None:
            if math.isnan(entry.started_unix_s):
                undated += 1
                continue
            day = _day(entry)
            if (since and day < since) or (until and day > until):
                continue
        kept.append(entry)
    return kept, undated


KEYS: dict[str, Callable[[Entry], str]] = {
    "project": lambda one: one.project or UNTAGGED,
    "phase": lambda one: one.phase or UNTAGGED,
    "week": lambda one: period_of("week", one.started_unix_s),
    "month": lambda one: period_of("month", one.started_unix_s),
    "host": lambda one: one.host,
    "model": lambda one: one.model or UNTAGGED,
    "command": lambda one: one.command,
}
"""By what entries are told apart. Weeks are those of ISO 8601, days those of UTC."""

OF_TIME = ("week", "month")


def rows(entries: Sequence[Costed], by: str) -> list[Row]:
    """The sums by a key: in order of time where it is one, else the largest first."""
    groups: dict[str, list[Costed]] = {}
    for one in entries:
        groups.setdefault(KEYS[by](one.entry), []).append(one)
    found = [Row(key, tuple(members)) for key, members in groups.items()]
    if by in OF_TIME:
        return sorted(found, key=lambda row: row.key)
    return sorted(found, key=lambda row: (-row.energy.value, row.key))


def period_of(by: str, unix_s: float) -> str:
    """The week or month of a time.

    Example:
        >>> period_of("week", 0.0), period_of("month", 0.0), period_of("week", math.nan)
        ('1970-W01', '1970-01', 'undated')
    """
    if math.isnan(unix_s):
        return UNDATED
    day = datetime.fromtimestamp(unix_s, UTC).date()
    return _week(day) if by == "week" else f"{day:%Y-%m}"


def period_before(key: str) -> str:
    """The week or month before one.

    Example:
        >>> period_before("2026-W01"), period_before("2026-01")
        ('2025-W52', '2025-12')
    """
    if "W" in key:
        year, week = key.split("-W")
        before = date.fromisocalendar(int(year), int(week), 1) - timedelta(days=7)
        return _week(before)
    return f"{date.fromisoformat(f'{key}-01') - timedelta(days=1):%Y-%m}"


def day_of(text: str) -> date:
    """A day as ``2026-11-01``.

    Raises:
        UserError: It is none.
    """
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise UserError(f"{text!r} is no day", hint="write it as 2026-11-01") from error


def _worth(entry: Entry) -> tuple[bool, bool, bool]:
    return not entry.unfinished, entry.phase is not None, entry.project is not None


def _order(unix_s: float) -> float:
    return math.inf if math.isnan(unix_s) else unix_s


def _week(day: date) -> str:
    year, week, _ = day.isocalendar()
    return f"{year}-W{week:02}"


def _day(entry: Entry) -> date:
    return datetime.fromtimestamp(entry.started_unix_s, UTC).date()
