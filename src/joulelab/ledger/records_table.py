"""Records of a ledger as a table (Parquet), from which a million of them are added up in seconds.

A table has one row for each record. To add them up, equal records become one entry: the same host,
labels, sensors and costs. The errors that energies share (:mod:`joulelab.energy.uncertainty`) add
up with the energies and their own ones in quadrature, so the sums and intervals are those of the
single records. The top consumers and the latest record stay entries of their own.
"""

from __future__ import annotations

import json
import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from joulelab.arrays import Floats, Integers
from joulelab.carbon.costs import Costs
from joulelab.carbon.factors import Factor
from joulelab.carbon.site import Site
from joulelab.energy.data_exchange import DataExchange, DataVolume
from joulelab.energy.energy import ComponentEnergy, Energy
from joulelab.errors import UserError
from joulelab.ledger.entries import Entry
from joulelab.ledger.group import KEYS, PERIODS, UNTAGGED, period_of_bars
from joulelab.ledger.warnings import Stretch, overlap_j
from joulelab.runs.record import Run
from joulelab.sensors.sensor import DataPlace, Provenance, Quantity
from joulelab.storage import file_errors, write_whole, writing

SCHEMA = "joulelab-ledger-table-2"
_SCHEMA_KEY = b"joulelab"
_TEXTS = (
    "host", "project", "phase", "model", "command", "status", "meters", "costs", "network",
)  # fmt: skip
"""Columns of few distinct values. ``network`` is the kind of network of the site. ``meters`` and
``costs`` are JSON: all that the energy of each component has in common with that of other records,
and the costs of a joule."""
_LISTS = ("gross_j", "edge_j", "measured_s", "network_bytes")
"""Columns of a value for each component; of bytes, the value and its limits."""
_COLUMNS = pa.schema(
    [
        *((name, pa.string()) for name in ("id", "name", "directory")),
        *((name, pa.dictionary(pa.int32(), pa.string())) for name in _TEXTS),
        ("started_unix_s", pa.float64()),
        ("duration_s", pa.float64()),
        ("shared", pa.bool_()),
        *((name, pa.list_(pa.float64())) for name in _LISTS),
    ],
    metadata={_SCHEMA_KEY: SCHEMA.encode()},
)
_KEY = ("name", "id", "host", "started_unix_s")
"""Equal for copies of one record, see :attr:`~joulelab.ledger.entries.Entry.key`."""


@dataclass(frozen=True, eq=False)
class TableEntry(Entry):
    """Equal records of a table; ``meters`` is the piece of hardware of each component."""

    meters: Mapping[str, Hashable] = field(default_factory=dict)

    @cached_property
    def boards(self) -> Mapping[str, Hashable]:
        """The piece of hardware that each component is."""
        return self.meters


class TableSums(NamedTuple):
    """The entries of a table, and what was left out or counts twice."""

    entries: list[Entry]
    undated: int  # Records left out because their start is unknown.
    twice_j: float  # Energy that counts twice, since runs overlapped on one component.
    shared: int  # Records of machines that others used, whose shares a table does not have.


def as_table(entries: Iterable[Entry]) -> pa.Table:
    """Make a table of entries with their energy and costs."""
    return pa.Table.from_pylist([_row(one) for one in entries], schema=_COLUMNS)


def read_tables(paths: Sequence[Path]) -> pa.Table:
    """Read tables that :func:`write_table` wrote.

    Raises:
        UserError: One of them is no such table.
    """
    tables = []
    for path in paths:
        with file_errors(f"cannot read {path}"):
            try:
                table = pq.read_table(path, memory_map=True)
            except pa.ArrowInvalid as error:
                raise UserError(f"cannot read {path}", why=str(error).splitlines()[0]) from error
        if (table.schema.metadata or {}).get(_SCHEMA_KEY) != SCHEMA.encode():
            raise UserError(
                f"{path} is not a table of records",
                hint="make one with `joulelab ledger --table FILE`",
            )
        tables.append(table.select(_COLUMNS.names).cast(_COLUMNS))
    return concatenate(tables)


def concatenate(tables: Sequence[pa.Table]) -> pa.Table:
    """Put tables behind each other."""
    return pa.concat_tables(tables).unify_dictionaries()


def write_table(path: Path, table: pa.Table) -> None:
    """Write a table, all of it or nothing.

    Raises:
        StoreError: It cannot be written.
    """
    content = pa.BufferOutputStream()
    pq.write_table(table, content, compression="zstd")
    with writing(path):
        write_whole(path, content.getvalue().to_pybytes())


def without_copies(table: pa.Table) -> tuple[pa.Table, int]:
    """Keep one copy of each record, and count the others; one that ended and has labels if any."""
    distinct = table.group_by(list(_KEY)).aggregate([])
    copies = table.num_rows - distinct.num_rows
    if not copies:
        return table, 0
    preference = np.zeros(table.num_rows)
    for weight, known in (
        (4, pc.not_equal(table["status"].cast(pa.string()), "unfinished")),
        (2, pc.is_valid(table["phase"])),
        (1, pc.is_valid(table["project"])),
    ):
        preference += weight * known.to_numpy(zero_copy_only=False)
    order = np.argsort(-preference, kind="stable")
    best = pa.table({**{name: table[name] for name in _KEY}}).take(order)
    best = best.append_column("row", pa.array(order))
    rows = best.group_by(list(_KEY), use_threads=False).aggregate([("row", "first")])["row_first"]
    return table.take(np.sort(rows.to_numpy())), copies


def add_up(
    table: pa.Table,
    by: str,
    *,
    most_shown: int | None,
    over_time: bool = False,
    project: str | None = None,
    phase: str | None = None,
    since: date | None = None,
    until: date | None = None,
) -> TableSums:
    """Add up equal records; the arguments are those of ``select_entries`` and ``group_entries``.

    ``most_shown`` of the top consumers stay entries of their own, or all records if it is ``None``.
    ``over_time`` keeps the periods of :func:`~joulelab.ledger.group.period_of_bars` apart.
    """
    table, undated = _select(table, project, phase, since, until)
    if not table.num_rows:
        return TableSums([], undated, 0.0, 0)
    table = table.combine_chunks()
    groups = _Groups.of(table, by, most_shown, over_time=over_time)
    shared = int(pc.sum(table["shared"]).as_py() or 0)
    return TableSums(groups.entries(), undated, _twice_j(table), shared)


def _select(
    table: pa.Table,
    project: str | None,
    phase: str | None,
    since: date | None,
    until: date | None,
) -> tuple[pa.Table, int]:
    if project is not None:
        table = table.filter(pc.equal(table["project"].cast(pa.string()), project))
    if phase is not None:
        known = pc.fill_null(table["phase"].cast(pa.string()), UNTAGGED)
        table = table.filter(pc.equal(known, phase))
    if since is None and until is None:
        return table, 0
    started_s = table["started_unix_s"].to_numpy()
    is_dated = np.isfinite(started_s)
    chosen = is_dated.copy()
    if since is not None:
        chosen &= started_s >= _midnight_s(since)
    if until is not None:
        chosen &= started_s < _midnight_s(until + timedelta(days=1))
    return table.filter(pa.array(chosen)), int(np.count_nonzero(~is_dated))


def _midnight_s(day: date) -> float:
    return datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()


def _row(entry: Entry) -> dict[str, Any]:
    run, parts = entry.run, entry.parts
    costs = entry.costs
    return {
        "id": run.id,
        "name": run.name,
        "directory": str(run.directory),
        "host": run.host,
        "project": run.project,
        "phase": run.phase,
        "model": run.model,
        "command": KEYS["command"](run),
        "status": run.status,
        "meters": json.dumps([_meter(part, entry.boards[part.component]) for part in parts]),
        "costs": None if costs is None else json.dumps(_rates(costs)),
        "started_unix_s": run.started_unix_s,
        "duration_s": run.duration_s,
        "shared": entry.is_shared,
        "gross_j": [part.gross_j for part in parts],
        "edge_j": [part.edge_uncertainty_j for part in parts],
        "measured_s": [part.duration_s for part in parts],
        "network": entry.site.access,
        "network_bytes": [] if run.exchanged is None else list(run.exchanged.over_network),
    }


def _meter(part: ComponentEnergy, board: Hashable) -> list[Any]:
    return [
        part.component, part.source, str(part.provenance), part.gain_uncertainty,
        part.offset_uncertainty_w, str(board),
    ]  # fmt: skip


def _rates(costs: Costs) -> dict[str, Any]:
    """Return what costs consist of, except for the energy."""
    return {
        "pue": costs.pue,
        "factor": None if costs.factor is None else asdict(costs.factor),
        "no_carbon": costs.no_carbon,
        "price_per_kwh": None if math.isnan(costs.price_per_kwh) else costs.price_per_kwh,
        "currency": costs.currency,
    }


@dataclass(frozen=True)
class _Groups:
    """Equal records of a table: the group of each record, and the first record of each group."""

    table: pa.Table
    of_record: Integers
    first: Integers

    @classmethod
    def of(cls, table: pa.Table, by: str, most_shown: int | None, *, over_time: bool) -> _Groups:
        code = np.zeros(table.num_rows, np.int64)
        keys = ["host", "project", "phase", "status", "meters", "costs", "network"]
        if by not in (*PERIODS, *keys):
            keys.append(by)
        for name in keys:
            column = table[name].combine_chunks()
            code = _combined(code, column.indices.fill_null(-1).to_numpy() + 1)
        started_s = table["started_unix_s"].to_numpy()
        if by in PERIODS or over_time:
            period = by if by in PERIODS else _period_of_bars(table, started_s)
            code = _combined(code, _period(period, started_s))
        single = np.zeros(table.num_rows, np.int64)
        gross_j = _sum_of_lists(table["gross_j"])
        top = np.argsort(-gross_j, kind="stable")[:most_shown]
        single[top] = np.arange(1, top.size + 1)
        latest = int(np.argmax(np.nan_to_num(started_s, nan=-np.inf)))
        single[latest] = single[latest] or top.size + 1
        code = _combined(code, single)
        _, first, of_record = np.unique(code, return_index=True, return_inverse=True)
        return cls(table, of_record, first)

    def entries(self) -> list[Entry]:
        """Make an entry of each group."""
        table, n = self.table, self.first.size
        firsts = table.take(self.first)
        records = np.bincount(self.of_record, minlength=n)
        duration_s = _group_sum(self.of_record, table["duration_s"].to_numpy(), n)
        started_s = np.full(n, np.inf)
        np.fmin.at(started_s, self.of_record, table["started_unix_s"].to_numpy())
        sums = {name: self._sum_lists(name, square=name == "edge_j") for name in _LISTS}
        meters = [json.loads(text) for text in firsts["meters"].to_pylist()]
        rates = [text and json.loads(text) for text in firsts["costs"].to_pylist()]
        texts = {
            name: firsts[name].to_pylist()
            for name in ("id", "name", "directory", "host", "project", "phase", "model", "command",
                         "status", "network")
        }  # fmt: skip
        found: list[Entry] = []
        for i in range(n):
            parts = [
                ComponentEnergy(
                    component=component,
                    source=source,
                    provenance=Provenance(provenance),
                    duration_s=float(sums["measured_s"][i, k]),
                    gross_j=float(sums["gross_j"][i, k]),
                    gain_uncertainty=gain,
                    offset_uncertainty_w=offset_w,
                    edge_uncertainty_j=math.sqrt(sums["edge_j"][i, k]),
                )
                for k, (component, source, provenance, gain, offset_w, _) in enumerate(meters[i])
            ]
            total_s = float(duration_s[i])
            run = Run(
                directory=Path(texts["directory"][i]),
                id=texts["id"][i],
                kind="command",
                name=texts["name"][i],
                command=(texts["command"][i],),
                project=texts["project"][i],
                phase=texts["phase"][i],
                model=texts["model"][i],
                host=texts["host"][i],
                status=texts["status"][i],
                started_unix_s=float(started_s[i]) if math.isfinite(started_s[i]) else math.nan,
                duration_s=total_s,
                energy=Energy(duration_s=total_s, components={one.component: one for one in parts}),
                exchanged=_exchanged(sums["network_bytes"][i]),
            )
            boards = {meter[0]: meter[5] for meter in meters[i]}
            factor = (rates[i] or {}).get("factor") or {}
            site = Site(network=texts["network"][i], country=factor.get("location") or None)
            entry = TableEntry(run, site, records=int(records[i]), meters=boards)
            energy = entry.gross_energy()
            costs = None
            if energy is not None and rates[i] is not None:
                costs = _costs(rates[i], energy.value, energy.interval)
            found.append(replace(entry, energy=energy, costs=costs))
        return found

    def _sum_lists(self, name: str, *, square: bool) -> Floats:
        """Add up each component's value, or its square, in each group. Shape: (groups, most)."""
        record, position, value = _flat(self.table[name])
        most = int(position.max(initial=0)) + 1
        slot = self.of_record[record] * most + position
        sums = _group_sum(slot, value**2 if square else value, self.first.size * most)
        return sums.reshape(-1, most)


def _exchanged(network_bytes: Floats) -> DataExchange | None:
    """Return what went over networks, sent and received together."""
    if not network_bytes.any():
        return None
    volume = DataVolume(*network_bytes.tolist())
    return DataExchange({(DataPlace.NETWORK, Quantity.SENT): volume})


def _costs(rates: Mapping[str, Any], energy_j: float, interval_j: tuple[float, float]) -> Costs:
    factor, price = rates["factor"], rates["price_per_kwh"]
    return Costs(
        energy_j=energy_j,
        interval_j=interval_j,
        pue=rates["pue"],
        factor=None if factor is None else Factor(**factor),
        no_carbon=rates["no_carbon"],
        price_per_kwh=math.nan if price is None else price,
        currency=rates["currency"],
    )


def _combined(code: Integers, further: Integers) -> Integers:
    """Number the distinct pairs of two codes."""
    pairs = code * (int(further.max(initial=0)) + 1) + further
    codes: Integers = np.unique(pairs, return_inverse=True)[1].astype(np.int64)
    return codes


def _period_of_bars(table: pa.Table, started_s: Floats) -> str:
    """Return the period that a page divides the measured records into."""
    measured = pc.list_value_length(table["gross_j"]).to_numpy(zero_copy_only=False) > 0
    dated_s = started_s[measured & np.isfinite(started_s)]
    return period_of_bars(dated_s.min(), dated_s.max()) if dated_s.size else "day"


def _period(by: str, started_s: Floats) -> Integers:
    """Number days, weeks or months (UTC), 0 for unknown times. Weeks begin on Monday."""
    known = np.isfinite(started_s)
    days = np.floor(np.where(known, started_s, 0.0) / 86400).astype(np.int64)
    if by == "day":
        number = days
    elif by == "week":
        number = (days + 3) // 7  # 1970-01-01 was a Thursday.
    else:
        number = days.astype("datetime64[D]").astype("datetime64[M]").astype(np.int64)
    return np.where(known, number - number.min() + 1, 0)


def _flat(column: pa.ChunkedArray) -> tuple[Integers, Integers, Floats]:
    """Return the record, the position and the value of each element of a column of lists."""
    lists = column.combine_chunks()
    lengths = pc.list_value_length(lists).to_numpy(zero_copy_only=False).astype(np.int64)
    record = np.repeat(np.arange(lengths.size), lengths)
    position = np.arange(record.size) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return record, position, np.asarray(lists.flatten().to_numpy(zero_copy_only=False))


def _sum_of_lists(column: pa.ChunkedArray) -> Floats:
    record, _, value = _flat(column)
    return _group_sum(record, value, len(column))


def _group_sum(group: Integers, value: Floats, n: int) -> Floats:
    return np.bincount(group, weights=np.nan_to_num(value), minlength=n).astype(np.float64)


def _twice_j(table: pa.Table) -> float:
    """Return the energy that counts twice, J, where runs overlapped on a component."""
    record, position, gross_j = _flat(table["gross_j"])
    duration_s = table["duration_s"].to_numpy()[record]
    start_s = table["started_unix_s"].to_numpy()[record]
    column = table["meters"].combine_chunks()
    boards = [
        [(component, board) for component, *_, board in json.loads(text)]
        for text in column.dictionary.to_pylist()
    ]
    numbers: dict[Hashable, int] = {}
    # Of records that were left out, too.
    codes = np.zeros((len(boards), max(map(len, boards), default=0)), np.int64)
    for i, some in enumerate(boards):
        codes[i, : len(some)] = [numbers.setdefault(one, len(numbers)) for one in some]
    code = codes[column.indices.to_numpy()[record], position]
    usable = (duration_s > 0) & np.isfinite(start_s)
    order = np.lexsort((start_s, code))
    order = order[usable[order]]
    code, start_s = code[order], start_s[order]
    duration_s, gross_j = duration_s[order], gross_j[order]
    stop_s = start_s + duration_s
    total_j = 0.0
    bounds = np.flatnonzero(np.diff(code, prepend=-1, append=-1))
    for first, last in pairwise(bounds.tolist()):
        latest_s = np.maximum.accumulate(stop_s[first:last])
        if np.any(start_s[first + 1 : last] < latest_s[:-1]):
            part = slice(first, last)
            rows = zip(start_s[part], stop_s[part], gross_j[part] / duration_s[part], strict=True)
            stretches: list[Stretch] = [(float(a), float(b), float(w)) for a, b, w in rows]
            total_j += overlap_j(stretches)
    return total_j
