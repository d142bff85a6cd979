"""The text of a ledger: its head and its tables, for the terminal and the page."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from joulelab.energy.data_exchange import NOTABLE_BYTES
from joulelab.format import (
    change,
    count,
    date,
    duration,
    joules,
    money,
    money_with_interval,
    percent,
    quantity,
    with_interval,
)
from joulelab.ledger.group import PERIODS, LedgerRow, period_of
from joulelab.ledger.ledger import Ledger
from joulelab.uncertain import Ratio

NETWORKS = (
    "networks: average energy per byte, derived from published values that differ by a factor of "
    "ten, of all that the machines sent and received; not in the energies above"
)
PARTLY = "* without the runs whose carbon intensity or price is unknown, see below"


@dataclass(frozen=True, slots=True)
class TextTable:
    """A table of texts. The first column has names; intervals follow values in parentheses.

    ``orders`` are the values of the other columns, by which a page sorts; empty for a fixed order.
    """

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    orders: Sequence[Sequence[float]] = ()


def head_lines(ledger: Ledger) -> Iterator[str]:
    """Write the number of records, the energy, and what it cost."""
    total = ledger.total
    starts = [one.run.started_unix_s for one in ledger.entries]
    known = [start for start in starts if not math.isnan(start)]
    when = f", {date(min(known))} to {date(max(known))}" if known else ""
    machines = count(len({one.run.host for one in ledger.entries}), "machine")
    yield (f"{count(total.records, 'record')}{when}, {machines}, {duration(total.duration_s)}")
    if total.is_measured:
        yield joules(total.energy.value, *total.energy.interval)
    if around := total.enclosures:
        whole_j = math.fsum(one.gross_j for one in around)
        more_j = math.fsum(one.difference_j for one in around)
        yield (
            f"meters around {count(len(around), 'record')}, not added: {quantity(whole_j, 'J')}, "
            f"{quantity(more_j, 'J')} more than their parts"
        )
    prices = (price_text(total, currency) for currency in ledger.currencies)
    costs = [*filter(None, (carbon_text(total), *prices))]
    if costs:
        yield ", ".join(costs)


def row_table(ledger: Ledger) -> TextTable:
    """Write the rows. Carbon and cost have no intervals: they are in proportion to the energy's."""
    rows = ledger.rows
    is_timed = ledger.by in PERIODS
    with_carbon = any(one.carbon is not None for one in ledger.entries)
    today = period_of(ledger.by, time.time()) if is_timed else ""
    cells, orders = [], []
    for row in rows:
        found = ledger.change_of(row, rows) if is_timed else ledger.share_of(row)
        compared = share_text(found)
        if is_timed:
            compared = change(found.value, found.low, found.high, level="")
        cells.append([
            f"{row.key} (so far)" if row.key == today else row.key,
            str(row.records),
            duration(row.duration_s),
            energy_text(row),
            compared,
            *([carbon_text(row, bare=True)] if with_carbon else []),
            *(price_text(row, currency, bare=True) for currency in ledger.currencies),
        ])  # fmt: skip
        orders.append([
            row.records,
            row.duration_s,
            row.energy.value if row.is_measured else math.nan,
            found.value,
            *([row.carbon.value] if with_carbon else []),
            *(row.price(currency).value for currency in ledger.currencies),
        ])  # fmt: skip
    headings = [
        f"{ledger.by} (UTC)" if is_timed else ledger.by,
        "n",
        "time",
        "energy (95 % CI)",
        "change" if is_timed else "share",
        *(["CO2e"] if with_carbon else []),
        *("cost" for _ in ledger.currencies),
    ]
    return TextTable(headings, cells, orders)


def split_tables(ledger: Ledger) -> list[TextTable]:
    """Write the phases next to each published split; nothing if no entry has a phase."""
    return [
        TextTable(
            (f"share of {published.of}", "here", "published"),
            [(part.name, share_text(part.share), percent(part.published, 2)) for part in parts],
        )
        for published, parts in ledger.splits
        if ledger.by == "phase" and not all(math.isnan(part.share.value) for part in parts)
    ]


def exchange_table(ledger: Ledger) -> TextTable | None:
    """Write computation next to data exchange; ``None`` if little went over a network."""
    rows = [row for row in ledger.rows if row.over_network.value >= NOTABLE_BYTES]
    headings = (f"data exchange by {ledger.by}", "computation", "sent and received", "networks")
    cells = [
        (
            row.key,
            quantity(row.energy.value, "J") if row.is_measured else "not measured",
            quantity(row.over_network.value, "B"),
            with_interval(*row.network_j, "J", level=""),
        )
        for row in rows
    ]
    return TextTable(headings, cells) if cells else None


def top_consumer_table(ledger: Ledger) -> TextTable:
    """Write the entries with the most energy."""
    rows = []
    for one in ledger.top_consumers:
        run = one.run
        started = "" if math.isnan(run.started_unix_s) else date(run.started_unix_s)
        energy = energy_text(LedgerRow("", (one,)))
        rows.append((run.name, run.phase or "", started, energy, run.directory.name))
    headings = ("top consumers", "phase", "started", "energy (95 % CI)", "record")
    return TextTable(headings, rows)


def notes(ledger: Ledger) -> list[str]:
    """List the sources of carbon and cost, and what the user should know about the sums."""
    total = ledger.total
    is_partial = total.without_carbon and any(one.carbon is not None for one in total.entries)
    is_exchanged = total.over_network.value >= NOTABLE_BYTES
    return [
        *([PARTLY] if is_partial else []),
        *([NETWORKS] if is_exchanged else []),
        *ledger.sources,
        *ledger.warnings,
    ]


def energy_text(row: LedgerRow) -> str:
    """Format the energy with its interval."""
    if not row.is_measured:
        return "not measured"
    return with_interval(row.energy.value, *row.energy.interval, "J", level="")


def share_text(share: Ratio) -> str:
    """Format a share with its interval.

    Example:
        >>> share_text(Ratio(0.312, 0.29, 0.33)), share_text(Ratio(math.nan, math.nan, math.nan))
        ('31.2 % (29.0–33.0 %)', '')
    """
    if math.isnan(share.value):
        return ""
    return with_interval(100 * share.value, 100 * share.low, 100 * share.high, "%", level="")


def carbon_text(row: LedgerRow, *, bare: bool = False) -> str:
    """Format the carbon, with a star if some of it is unknown; bare without interval."""
    if all(one.carbon is None for one in row.entries):
        return ""
    star = "*" if row.without_carbon else ""
    if bare:
        return quantity(row.carbon.value, "g") + star
    return f"{with_interval(row.carbon.value, *row.carbon.interval, 'g')} CO2e{star}"


def price_text(row: LedgerRow, currency: str, *, bare: bool = False) -> str:
    """Format the price, with a star if some of it is unknown; bare without interval."""
    if all(one.currency != currency for one in row.entries):
        return ""
    price = row.price(currency)
    is_partial = any(one.energy is not None and one.currency != currency for one in row.entries)
    text = money(price.value, currency)
    if not bare:
        text = money_with_interval(price.value, *price.interval, currency)
    return text + ("*" if is_partial else "")
