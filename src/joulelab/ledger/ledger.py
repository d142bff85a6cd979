"""The whole of a ledger: what was found, added up, with what the figures rest on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from joulelab.carbon.quantities import J_PER_KWH
from joulelab.ledger.book import OF_TIME, Row, once, period_before, rows, selected
from joulelab.ledger.costing import Costed, costed
from joulelab.ledger.entries import Complain, find_entries
from joulelab.ledger.remarks import remarks
from joulelab.ledger.split import REFERENCES, Part, Reference, split
from joulelab.uncertain import UNKNOWN_RATIO, Ratio, UncertainValue, fieller_ratio, share

MOST_SHOWN = 10
"""So many of the dearest entries are told."""


@dataclass(frozen=True, slots=True, eq=False)
class Ledger:
    """Entries and their sums.

    Attributes:
        entries: With their costs.
        by: What the rows are told apart by.
        notes: What a person should know of the sums.
    """

    entries: tuple[Costed, ...]
    by: str
    notes: tuple[str, ...]

    @property
    def total(self) -> Row:
        """Of everything."""
        return Row("total", self.entries)

    @property
    def rows(self) -> list[Row]:
        """By :attr:`by`."""
        return rows(self.entries, self.by)

    @property
    def currencies(self) -> list[str]:
        """Of the prices that are known."""
        return sorted({one.currency for one in self.entries if one.currency is not None})

    @property
    def dearest(self) -> list[Costed]:
        """The entries that took most energy, the first the most."""
        measured = [one for one in self.entries if one.energy is not None]
        measured.sort(key=lambda one: -one.energy.value if one.energy else 0.0)
        return measured[:MOST_SHOWN]

    @property
    def splits(self) -> list[tuple[Reference, list[Part]]]:
        """The phases beside each published split."""
        phases = {row.key: row.energy for row in rows(self.entries, "phase")}
        return [(reference, split(phases, reference)) for reference in REFERENCES]

    @property
    def rests_on(self) -> list[str]:
        """Each intensity and price that was used, with its origin, and why there is none."""
        found: dict[str, int] = {}
        for one in self.entries:
            if one.costs is None:
                continue
            for line in _origins(one):
                found[line] = found.get(line, 0) + 1
        return [f"{line} ({count} of {len(self.entries)})" for line, count in found.items()]

    def share_of(self, row: Row) -> Ratio:
        """A row's share of all energy."""
        mine = set(map(id, row.entries))
        rest = Row("", tuple(one for one in self.entries if id(one) not in mine))
        return share(row.energy, rest.energy)

    def change_of(self, row: Row, before: Sequence[Row]) -> Ratio:
        """The energy of a week or month over that of the one before; NaN without one.

        What a sensor is off by in both cancels.
        """
        if self.by not in OF_TIME or row.unmeasured == len(row.entries):
            return UNKNOWN_RATIO
        found = next((one for one in before if one.key == _before(row.key)), None)
        return UNKNOWN_RATIO if found is None else fieller_ratio(row.energy, found.energy)

    def to_json(self) -> dict[str, Any]:
        """Everything in plain values; what is not known becomes ``None``."""
        found = self.rows
        return {
            "total": self.figures(self.total),
            "by": self.by,
            "rows": [self.figures(row) | self._beside(row, found) for row in found],
            "splits": [
                {"of": reference.of, "parts": [_part_json(part) for part in parts]}
                for reference, parts in self.splits
            ],
            "dearest": [
                self.figures(Row(one.entry.name, (one,)))
                | {"directory": str(one.entry.directory), "phase": one.entry.phase}
                for one in self.dearest
            ],
            "rests_on": self.rests_on,
            "notes": list(self.notes),
        }

    def figures(self, row: Row) -> dict[str, Any]:
        """A row in plain values, one level deep."""
        known = row.unmeasured < len(row.entries)
        carbon = any(one.carbon is not None for one in row.entries)
        figures = {
            "key": row.key,
            "records": len(row.entries),
            "unfinished": row.unfinished,
            "unmeasured": row.unmeasured,
            "duration_s": row.duration_s,
            **_amount_json("gross", "_j", row.energy if known else None),
            "gross_kwh": row.energy.value / J_PER_KWH if known else None,
            **_amount_json("carbon", "_g", row.carbon if carbon else None),
            "without_carbon": row.without_carbon,
        }
        for currency in self.currencies:
            priced = any(one.currency == currency for one in row.entries)
            price = row.price(currency) if priced else None
            figures |= _amount_json("price", f"_{currency.lower()}", price)
        return figures

    def _beside(self, row: Row, found: Sequence[Row]) -> dict[str, Any]:
        values = _ratio_json("share", self.share_of(row))
        if self.by in OF_TIME:
            values |= _ratio_json("over_before", self.change_of(row, found))
        return values


def read_ledger(
    directories: Sequence[Path],
    *,
    by: str = "phase",
    project: str | None = None,
    phase: str | None = None,
    since: date | None = None,
    until: date | None = None,
    own_share: bool = False,
    given: Mapping[str, Any] | None = None,
    complain: Complain,
) -> Ledger:
    """The ledger of what lies in some directories.

    Args:
        directories: Jobs, studies, or directories that hold some; none: where jobs are kept.
        by: One of :data:`~joulelab.ledger.book.KEYS`.
        project: ``None``: of every project.
        phase: ``None``: of every phase.
        since: First day, UTC.
        until: Last day, UTC.
        own_share: Count of each its own part of what its machine drew, where that is known.
        given: Fields of :class:`~joulelab.carbon.site.Site`, before what is kept.
        complain: Is told of a record that cannot be read, which is then left out.

    Raises:
        UserError: There is no such directory, or what is given cannot be.
    """
    entries, copies = once(find_entries(*directories, given=given or {}, complain=complain))
    entries, undated = selected(entries, project=project, phase=phase, since=since, until=until)
    found = costed(entries, complain, own_share=own_share)
    notes = remarks(found, copies, undated, own_share=own_share)
    return Ledger(tuple(found), by, tuple(notes))


def _before(key: str) -> str:
    return period_before(key) if key[:1].isdigit() else ""


def _origins(one: Costed) -> list[str]:
    costs = one.costs
    assert costs is not None
    lines = [
        f"carbon at {costs.factor}, PUE {costs.pue:g}"
        if costs.factor
        else f"no carbon: {costs.no_carbon}"
    ]
    if not math.isnan(costs.price_per_kwh):
        lines.append(f"money at {costs.price_per_kwh:g} {costs.currency}/kWh, PUE {costs.pue:g}")
    return lines


def _part_json(part: Part) -> dict[str, Any]:
    return {
        "part": part.name,
        "gross_j": part.energy.value,
        **_ratio_json("share", part.share),
        "reference": part.reference,
    }


def _amount_json(name: str, unit: str, amount: UncertainValue | None) -> dict[str, float | None]:
    low, high = (None, None) if amount is None else amount.interval
    value = None if amount is None else amount.value
    return {f"{name}{unit}": value, f"{name}_low{unit}": low, f"{name}_high{unit}": high}


def _ratio_json(name: str, found: Ratio) -> dict[str, float | None]:
    values = {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
    return {key: value if math.isfinite(value) else None for key, value in values.items()}
