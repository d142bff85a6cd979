"""Print a ledger on the terminal."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from joulelab.format import (
    change,
    count,
    date,
    duration,
    money,
    money_with_interval,
    percent,
    quantity,
    watt_hours,
    with_interval,
)
from joulelab.layout import wrap
from joulelab.ledger.group import PERIODS, LedgerRow, period_of
from joulelab.ledger.ledger import Ledger
from joulelab.uncertain import Ratio

BAR = 16
"""Characters of a bar of 100 %."""
NAME = 16
"""Characters of a name that stay on one line."""
WIDE = 100
"""Bars and dates are shown if there are this many columns."""
PARTLY = "* without the runs whose carbon intensity or price is unknown, see below"


def print_ledger(ledger: Ledger, console: Console) -> None:
    """Print the sums, the split over phases, and the top consumers.

    No value is cut: a table that is wider than the console is printed as lines instead.
    """
    width = console.width
    for line in _head(ledger):
        console.print(wrap(line, width), soft_wrap=True)
    tables = [_row_table(ledger, console)]
    if ledger.by == "phase":
        tables += filter(None, [_split_table(ledger)])
    if ledger.top_consumers:
        tables.append(_top_consumer_table(ledger, console))
    for table in tables:
        if _least_width(table, console) <= width:
            console.print(table)
        else:
            _print_as_lines(table, console)
    total = ledger.total
    is_partial = total.without_carbon and any(one.carbon is not None for one in total.entries)
    for line in (*([PARTLY] if is_partial else []), *ledger.sources, *ledger.warnings):
        console.print(wrap(f"- {line}", width), soft_wrap=True)


def share_text(share: Ratio) -> str:
    """Format a share with its interval.

    Example:
        >>> share_text(Ratio(0.312, 0.29, 0.33)), share_text(Ratio(math.nan, math.nan, math.nan))
        ('31.2 % (29.0–33.0 %)', '')
    """
    if math.isnan(share.value):
        return ""
    return with_interval(100 * share.value, 100 * share.low, 100 * share.high, "%", level="")


def _head(ledger: Ledger) -> Iterator[str]:
    total = ledger.total
    starts = [one.run.started_unix_s for one in ledger.entries]
    known = [start for start in starts if not math.isnan(start)]
    when = f", {date(min(known))} to {date(max(known))}" if known else ""
    machines = count(len({one.run.host for one in ledger.entries}), "machine")
    yield (
        f"{count(len(ledger.entries), 'record')}{when}, {machines}, {duration(total.duration_s)}"
    )
    if total.is_measured:
        energy = with_interval(total.energy.value, *total.energy.interval, "J")
        yield ", ".join(filter(None, (energy, watt_hours(total.energy.value))))
    prices = (_price(total, currency) for currency in ledger.currencies)
    costs = [*filter(None, (_carbon(total), *prices))]
    if costs:
        yield ", ".join(costs)


def _row_table(ledger: Ledger, console: Console) -> Table:
    """Carbon and cost have no intervals: they are in proportion to the energy's."""
    rows = ledger.rows
    is_timed = ledger.by in PERIODS
    with_carbon = any(one.carbon is not None for one in ledger.entries)
    with_bars = console.width >= WIDE
    longest = max((len(row.key) for row in rows), default=0)
    table = _table(f"{ledger.by}\n(UTC)" if is_timed else ledger.by, min(longest, NAME))
    for heading in ("n", "time", "energy (95 % CI)", "change" if is_timed else "share"):
        table.add_column(heading, justify="right", no_wrap=True)
    if with_bars:
        table.add_column("")
    for heading in (*(["CO2e"] if with_carbon else []), *("cost" for _ in ledger.currencies)):
        table.add_column(heading, justify="right", no_wrap=True)
    largest = max((row.energy.value for row in rows), default=0.0)
    today = period_of(ledger.by, time.time()) if is_timed else ""
    for row in rows:
        energy = "not measured"
        if row.is_measured:
            energy = with_interval(row.energy.value, *row.energy.interval, "J", level="")
        compared = share_text(ledger.share_of(row))
        if is_timed:
            found = ledger.change_of(row, rows)
            compared = change(found.value, found.low, found.high, level="")
        cells = [
            f"{row.key}\nso far" if row.key == today else row.key,
            str(len(row.entries)),
            duration(row.duration_s),
            _two_lines(energy),
            _two_lines(compared),
        ]
        if with_bars:
            cells.append(_bar(row.energy.value / largest if largest > 0 else 0.0, console))
        if with_carbon:
            cells.append(_carbon(row, bare=True))
        cells += [_price(row, currency, bare=True) for currency in ledger.currencies]
        table.add_row(*cells)
    return table


def _split_table(ledger: Ledger) -> Table | None:
    """Return no table if no entry has a phase."""
    table = _table("share of", NAME)
    table.add_column("here", justify="right")
    table.add_column("published", justify="right")
    for published, parts in ledger.splits:
        if all(math.isnan(part.share.value) for part in parts):
            continue
        table.add_row(f"{published.of}:", "", "")
        for part in parts:
            table.add_row(f"  {part.name}", share_text(part.share), percent(part.published, 2))
    return table if table.row_count else None


def _top_consumer_table(ledger: Ledger, console: Console) -> Table:
    is_dated = console.width >= WIDE
    table = _table("top consumers", NAME)
    table.add_column("phase", no_wrap=True)
    if is_dated:
        table.add_column("started", no_wrap=True)
    table.add_column("energy (95 % CI)", justify="right", no_wrap=True)
    table.add_column("record", overflow="fold")
    for one in ledger.top_consumers:
        assert one.energy is not None
        run = one.run
        started = "" if math.isnan(run.started_unix_s) else date(run.started_unix_s)
        energy = with_interval(one.energy.value, *one.energy.interval, "J", level="")
        cells = [run.name, run.phase or "", *([started] if is_dated else []), energy]
        table.add_row(*cells, run.directory.name)
    return table


def _table(first: str, min_width: int) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(first, overflow="fold", min_width=min_width)
    return table


def _print_as_lines(table: Table, console: Console) -> None:
    """Print each row as its name and its values, each after the heading of its column."""
    first, *others = (str(column.header).partition("\n")[0] for column in table.columns)
    console.print(f"{first}:")
    for name, *cells in zip(*(column.cells for column in table.columns), strict=True):
        values = [
            f"{heading.partition(' (')[0]} {cell}".strip().replace("\n", " ")
            for heading, cell in zip(others, cells, strict=True)
            if cell
        ]
        line = f"- {str(name).strip().replace(chr(10), ' ')}: {', '.join(values)}"
        console.print(wrap(line, console.width), soft_wrap=True)


def _least_width(table: Table, console: Console) -> int:
    """Measure a table whose names are folded and whose values are not."""
    names = table.columns[0]
    names.max_width = NAME
    width = Measurement.get(console, console.options.update_width(10_000), table).maximum
    names.max_width = None
    return width


def _carbon(row: LedgerRow, *, bare: bool = False) -> str:
    """Format the carbon, with a star if some of it is unknown; bare without interval."""
    if all(one.carbon is None for one in row.entries):
        return ""
    star = "*" if row.without_carbon else ""
    if bare:
        return quantity(row.carbon.value, "g") + star
    return f"{with_interval(row.carbon.value, *row.carbon.interval, 'g')} CO2e{star}"


def _price(row: LedgerRow, currency: str, *, bare: bool = False) -> str:
    """Format the price, with a star if some of it is unknown; bare without interval."""
    if all(one.currency != currency for one in row.entries):
        return ""
    price = row.price(currency)
    is_partial = any(one.energy is not None and one.currency != currency for one in row.entries)
    text = money(price.value, currency)
    if not bare:
        text = money_with_interval(price.value, *price.interval, currency)
    return text + ("*" if is_partial else "")


def _two_lines(text: str) -> str:
    """Put the interval under its value."""
    return text.replace(" (", "\n(", 1)


def _bar(fraction: float, console: Console) -> str:
    block = "█" if (console.encoding or "").lower().startswith("utf") else "#"
    return block * round(BAR * fraction)
