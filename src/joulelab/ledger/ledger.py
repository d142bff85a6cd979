"""A ledger: energy, carbon and cost of all runs of a project, with shares and warnings."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from joulelab.carbon.costs import J_PER_KWH
from joulelab.errors import JoulelabError, UserError, optional_packages
from joulelab.format import count, finite_or_none, with_ends
from joulelab.ledger.entries import Entry, OnError, find_entries, price_entries, record_directories
from joulelab.ledger.group import (
    PERIODS,
    LedgerRow,
    group_entries,
    previous_period,
    select_entries,
    without_copies,
)
from joulelab.ledger.warnings import find_warnings
from joulelab.uncertain import (
    UNKNOWN_RATIO,
    Ratio,
    UncertainValue,
    fieller_ratio,
    is_determined,
    share,
)

TABLE_SUFFIX = ".parquet"
TABLE_NAME = f"ledger{TABLE_SUFFIX}"
MANY_RECORDS = 20_000
"""As many records are written to a table: reading them takes ten seconds and more."""
MOST_SHOWN = 10
"""Number of top consumers that are reported."""


@dataclass(frozen=True, slots=True)
class PublishedSplit:
    """A published split of a workload over the phases of its life."""

    of: str  # what was split
    parts: Mapping[str, tuple[float, tuple[str, ...]]]  # the share and the phases of each part


PUBLISHED_SPLITS = (
    PublishedSplit(
        "energy of the whole pipeline",
        {
            "data": (0.31, ("data",)),
            "experiment and train": (0.29, ("experiment", "train")),
            "infer": (0.40, ("infer",)),
        },
    ),
    PublishedSplit(
        "compute cycles without data",
        {
            "experiment": (0.10, ("experiment",)),
            "train": (0.20, ("train",)),
            "infer": (0.70, ("infer",)),
        },
    ),
)
"""31:29:40 and 10:20:70, of a large company's workloads: section III-A of the paper, after
C.-J. Wu et al., "Sustainable AI", MLSys 2022."""


@dataclass(frozen=True, slots=True)
class SplitPart:
    """A part of a project next to a published one."""

    name: str
    energy: UncertainValue  # gross, J
    share: Ratio  # of the phases that the published split has; NaN if none of them has energy
    published: float


def split_phases(
    phases: Mapping[str, UncertainValue], published: PublishedSplit
) -> list[SplitPart]:
    """Split the energy of phases, J, in the parts of a published split; leave out other phases.

    Example:
        >>> phases = {"train": UncertainValue(30.0), "infer": UncertainValue(70.0)}
        >>> [(part.name, part.share.value) for part in split_phases(phases, PUBLISHED_SPLITS[1])]
        [('experiment', 0.0), ('train', 0.3), ('infer', 0.7)]
    """
    energies = {
        name: UncertainValue.total(phases[one] for one in names if one in phases)
        for name, (_, names) in published.parts.items()
    }
    parts = []
    for name, energy in energies.items():
        rest = UncertainValue.total(one for other, one in energies.items() if other != name)
        parts.append(SplitPart(name, energy, share(energy, rest), published.parts[name][0]))
    return parts


@dataclass(frozen=True, slots=True, eq=False)
class Ledger:
    """Entries and their sums."""

    entries: tuple[Entry, ...]  # with their costs
    by: str  # what the rows are grouped by
    warnings: tuple[str, ...]  # what the user should know about the sums

    @property
    def total(self) -> LedgerRow:
        """The sum of everything."""
        return LedgerRow("total", self.entries)

    @property
    def rows(self) -> list[LedgerRow]:
        """The sums by :attr:`by`."""
        return group_entries(self.entries, self.by)

    @property
    def currencies(self) -> list[str]:
        """Currencies of the known prices."""
        return sorted({one.currency for one in self.entries if one.currency is not None})

    @property
    def top_consumers(self) -> list[Entry]:
        """The entries with the most energy, the largest first."""
        measured = [one for one in self.entries if one.energy is not None]
        measured = [one for one in measured if one.records == 1]
        measured.sort(key=lambda one: -one.energy.value if one.energy else 0.0)
        return measured[:MOST_SHOWN]

    @property
    def splits(self) -> list[tuple[PublishedSplit, list[SplitPart]]]:
        """The phases next to each published split."""
        phases = {row.key: row.energy for row in group_entries(self.entries, "phase")}
        return [(published, split_phases(phases, published)) for published in PUBLISHED_SPLITS]

    @property
    def sources(self) -> list[str]:
        """Each carbon intensity and price that was used, and why there is none."""
        found: dict[str, int] = {}
        for one in self.entries:
            for line in _cost_sources(one):
                found[line] = found.get(line, 0) + one.records
        return [f"{line} ({number} of {self.total.records})" for line, number in found.items()]

    def share_of(self, row: LedgerRow) -> Ratio:
        """Return a row's share of the total energy; NaN if it was not measured."""
        if not row.is_measured:
            return UNKNOWN_RATIO
        own = set(map(id, row.entries))
        rest = LedgerRow("", tuple(one for one in self.entries if id(one) not in own))
        return share(row.energy, rest.energy)

    def change_of(self, row: LedgerRow, rows: Sequence[LedgerRow]) -> Ratio:
        """Return the energy of a period relative to the one before; NaN without one.

        Errors that sensors have in both periods cancel. The interval is 0 to infinity if it spans
        more than a factor of 10 to either side.
        """
        if self.by not in PERIODS or not row.is_measured:
            return UNKNOWN_RATIO
        before = next((one for one in rows if one.key == previous_period(row.key)), None)
        if before is None:
            return UNKNOWN_RATIO
        found = fieller_ratio(row.energy, before.energy)
        is_known = is_determined(found.value, found.low, found.high)
        return found if is_known or math.isnan(found.value) else Ratio(found.value, 0.0, math.inf)

    def to_json(self) -> dict[str, Any]:
        """Return everything in plain values; unknown values become ``None``."""
        rows = self.rows
        data = {
            "total": self.row_json(self.total),
            "by": self.by,
            "rows": [self.row_json(row, rows) for row in rows],
            "splits": [
                {
                    "of": published.of,
                    "parts": [
                        {"part": part.name, "gross_j": part.energy.value}
                        | _ratio_json("share", part.share)
                        | {"published": part.published}
                        for part in parts
                    ],
                }
                for published, parts in self.splits
            ],
            "top_consumers": [
                self.row_json(LedgerRow(one.run.name, (one,)))
                | {"directory": str(one.run.directory), "phase": one.run.phase}
                for one in self.top_consumers
            ],
            "sources": self.sources,
            "warnings": list(self.warnings),
        }
        return dict(finite_or_none(data))

    def row_json(self, row: LedgerRow, rows: Sequence[LedgerRow] | None = None) -> dict[str, Any]:
        """Return a row in plain values; with its share and change if it is one of ``rows``."""
        carbon = any(one.carbon is not None for one in row.entries)
        values = {
            "key": row.key,
            "records": row.records,
            "unfinished": row.unfinished,
            "unmeasured": row.unmeasured,
            "duration_s": row.duration_s,
            **_value_json("gross", "_j", row.energy if row.is_measured else None),
            "gross_kwh": row.energy.value / J_PER_KWH if row.is_measured else None,
            **_value_json("carbon", "_g", row.carbon if carbon else None),
            "without_carbon": row.without_carbon,
            "over_network_bytes": row.over_network.value,
            **dict(
                zip(("network_j", "network_low_j", "network_high_j"), row.network_j, strict=True)
            ),
        }
        if around := row.enclosures:
            values["enclosing_j"] = math.fsum(one.gross_j for one in around)
            values["enclosing_difference_j"] = math.fsum(one.difference_j for one in around)
        for currency in self.currencies:
            is_priced = any(one.currency == currency for one in row.entries)
            price = row.price(currency) if is_priced else None
            values |= _value_json("price", f"_{currency.lower()}", price)
        if rows is not None:
            values |= _ratio_json("share", self.share_of(row))
            if self.by in PERIODS:
                values |= _ratio_json("ratio_to_previous", self.change_of(row, rows))
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
    table_file: Path | None = None,
    over_time: bool = False,
    every_record: bool = False,
    on_error: OnError,
    on_read: Callable[[int], None] = lambda _: None,
) -> Ledger:
    """Read the ledger of the runs in some directories.

    The directories are runs, studies, or contain them; without any, the saved runs are read.
    ``since`` and ``until`` are the first and the last day, UTC. ``own_share`` counts each run's own
    share of its machine's energy where it is known. ``given`` has fields of
    :class:`~joulelab.carbon.site.Site` that override every configured one. ``on_error`` is called
    with the error of a record that cannot be read, which is then left out. Tables
    (:mod:`joulelab.ledger.records_table`) may be among the directories, and all records are
    written to ``table_file``. Records of tables are added up, except that days are kept apart where
    they are asked for ``over_time``, and all where ``every_record`` is. ``on_read`` is called with
    the number of records that were read, now and then. Very many records of one directory are
    written to a table in it, so that the next time takes seconds.
    """
    tables = [path for path in directories if path.suffix == TABLE_SUFFIX]
    others = [path for path in directories if path not in tables]
    entries: list[Entry] = []
    if others or not tables:
        entries = find_entries(*others, given=given or {}, on_error=on_error, on_read=on_read)
    distinct, copies = without_copies(entries)
    if tables or table_file is not None:
        if own_share:
            raise UserError("--own-share and tables cannot be combined", why="tables lack shares")
        options: dict[str, Any] = {
            "project": project,
            "phase": phase,
            "since": since,
            "until": until,
            "over_time": over_time,
            "most_shown": None if every_record else MOST_SHOWN,
        }
        priced = price_entries(distinct, on_error)
        return _of_tables(tables, priced, copies, by, options, table_file)
    selected, undated = select_entries(
        distinct, project=project, phase=phase, since=since, until=until
    )
    priced = price_entries(selected, on_error, own_share=own_share)
    warnings = find_warnings(priced, copies, undated, own_share=own_share)
    is_configured = all(value is None for value in (given or {}).values())
    if len(distinct) >= MANY_RECORDS and not own_share and is_configured:
        chosen = {id(entry.run): entry for entry in priced}
        others_priced = [one for one in distinct if id(one.run) not in chosen]
        every = [*priced, *price_entries(others_priced, on_error)]
        warnings += _written(record_directories(others), every)
    return Ledger(tuple(priced), by, tuple(warnings))


def _written(roots: Sequence[Path], entries: Sequence[Entry]) -> list[str]:
    """Write a table of many records next to them if possible, and say so."""
    path = roots[0] / TABLE_NAME
    if len(roots) > 1 or path.exists():
        return []
    try:
        from joulelab.ledger import records_table as table  # noqa: PLC0415

        table.write_table(path, table.as_table(entries))
    except (ModuleNotFoundError, JoulelabError):
        return []
    return [
        f"{count(len(entries), 'record')} were written to {path}: `joulelab ledger {path}` answers "
        "in seconds; remove it, or see --table, when there are new ones"
    ]


def _of_tables(
    tables: Sequence[Path],
    entries: Sequence[Entry],
    copies: int,
    by: str,
    options: Mapping[str, Any],
    table_file: Path | None,
) -> Ledger:
    """Add up tables, and entries that are not in them, by columns."""
    with optional_packages("cannot use a table of records", "study"):
        from joulelab.ledger import records_table as table  # noqa: PLC0415
    records = table.as_table(entries)
    if tables:
        records = table.concatenate([table.read_tables(tables), records])
    records, further = table.without_copies(records)
    if table_file is not None:
        table.write_table(table_file, records)
    sums = table.add_up(records, by, **options)
    warnings = find_warnings(sums.entries, copies + further, sums.undated, twice_j=sums.twice_j)
    if sums.shared:
        runs = count(sums.shared, "run")
        warnings.append(f"{runs} on shared machines: tables of records do not have their share")
    return Ledger(tuple(sums.entries), by, tuple(warnings))


def _cost_sources(one: Entry) -> list[str]:
    costs = one.costs
    if costs is None:
        return []
    lines = [f"carbon unknown: {costs.no_carbon}"]
    if costs.factor:
        lines = [f"carbon at {costs.factor}, PUE {costs.pue:g}"]
    if not math.isnan(costs.price_per_kwh):
        lines.append(f"cost at {costs.price_per_kwh:g} {costs.currency}/kWh, PUE {costs.pue:g}")
    return lines


def _value_json(name: str, unit: str, value: UncertainValue | None) -> dict[str, float | None]:
    if value is None:
        return with_ends(name, unit, None, None, None)
    return with_ends(name, unit, value.value, *value.interval)


def _ratio_json(name: str, found: Ratio) -> dict[str, float | None]:
    return with_ends(name, "", found.value, found.low, found.high)
