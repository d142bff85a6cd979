"""A ledger on a terminal."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from rich import box
from rich.console import Console
from rich.table import Table

from joulelab.carbon.costs import GRAMS, JOULES, digits, quantity
from joulelab.carbon.quantities import J_PER_KWH
from joulelab.ledger.book import NO_INTERVAL, OF_TIME, Row, period_of
from joulelab.ledger.ledger import Ledger
from joulelab.uncertain import Ratio, UncertainValue

BAR = 16
"""Characters of a bar of 100 %."""
NAME = 16
"""Characters of a name that are kept on one line."""
WIDE = 100
"""Bars are drawn where there are as many columns."""


def show(ledger: Ledger, console: Console) -> None:
    """Prints the sums, the split over phases, and where the energy goes."""
    for line in _head(ledger):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    console.print(_rows(ledger, console))
    if ledger.by == "phase":
        table = _splits(ledger)
        if table is not None:
            console.print(table)
    if ledger.dearest:
        console.print(_dearest(ledger, console))
    partly = "* without those whose intensity or price is not known, see below"
    total = ledger.total
    starred = total.without_carbon and any(one.carbon is not None for one in total.entries)
    for line in (*([partly] if starred else []), *ledger.rests_on, *ledger.notes):
        console.print(f"- {line}", highlight=False, markup=False, soft_wrap=True)


def words(amount: UncertainValue, units: tuple[tuple[float, str], ...]) -> str:
    """A figure with its interval."""
    return quantity(amount.value, amount.interval, units)


def percent(found: Ratio) -> str:
    """A share with its interval, in per cent.

    Example:
        >>> percent(Ratio(0.312, 0.29, 0.33)), percent(Ratio(math.nan, math.nan, math.nan))
        ('31.2 % (29.0 to 33.0)', '')
    """
    if math.isnan(found.value):
        return ""
    value, low, high = (digits(100 * one) for one in (found.value, found.low, found.high))
    return f"{value} %" if low == high else f"{value} % ({low} to {high})"


def change(found: Ratio) -> str:
    """What a ratio is more or less than 1, in per cent.

    Example:
        >>> change(Ratio(1.12, 1.08, 1.16)), change(Ratio(0.5, -math.inf, math.inf))
        ('+12.0 % (+8.00 to +16.0)', '-50.0 % (not shown to differ)')
    """
    if math.isnan(found.value):
        return ""
    value, low, high = (_signed(100 * (end - 1)) for end in (found.value, found.low, found.high))
    if math.isinf(found.low) or math.isinf(found.high):
        return f"{value} % (not shown to differ)"
    return f"{value} %" if low == high else f"{value} % ({low} to {high})"


def duration(value_s: float) -> str:
    """Days, hours, minutes and seconds.

    Example:
        >>> duration(12.34), duration(3725.0)
        ('12.3 s', '1:02:05')
    """
    return f"{digits(value_s)} s" if value_s < 60 else str(timedelta(seconds=round(value_s)))


def _signed(value: float) -> str:
    if math.isinf(value):
        return "any"
    return f"{'+' if value >= 0 else '-'}{digits(abs(value))}"


def _head(ledger: Ledger) -> Iterator[str]:
    total = ledger.total
    starts = [one.entry.started_unix_s for one in ledger.entries]
    known = [start for start in starts if not math.isnan(start)]
    hosts = len({one.entry.host for one in ledger.entries})
    when = f", {_day(min(known))} to {_day(max(known))}" if known else ""
    count = len(ledger.entries)
    yield (
        f"{count} record{'s' if count != 1 else ''}{when}, "
        f"{hosts} machine{'s' if hosts != 1 else ''}, {duration(total.duration_s)}"
    )
    if total.unmeasured < len(total.entries):
        yield f"{words(total.energy, JOULES)}, {digits(total.energy.value / J_PER_KWH)} kWh"
    parts = [*filter(None, (_carbon(total), *(_price(total, one) for one in ledger.currencies)))]
    if parts:
        yield ", ".join(parts)


def _rows(ledger: Ledger, console: Console) -> Table:
    """Of carbon and money the figures alone: their intervals are as wide as the energy's."""
    found = ledger.rows
    timed = ledger.by in OF_TIME
    carbon = any(one.carbon is not None for one in ledger.entries)
    bars = console.width >= WIDE
    longest = max((len(row.key) for row in found), default=0)
    table = _table(f"{ledger.by}\n(UTC)" if timed else ledger.by, min(longest, NAME))
    for heading in ("n", "time", "energy", "change" if timed else "share"):
        table.add_column(heading, justify="right", no_wrap=True)
    if bars:
        table.add_column("")
    for heading in (*(["CO2e"] if carbon else []), *("money" for _ in ledger.currencies)):
        table.add_column(heading, justify="right")
    largest = max((row.energy.value for row in found), default=0.0)
    today = period_of(ledger.by, time.time()) if timed else ""
    for row in found:
        known = row.unmeasured < len(row.entries)
        compared = change(ledger.change_of(row, found)) if timed else percent(ledger.share_of(row))
        cells = [
            f"{row.key}\nso far" if row.key == today else row.key,
            str(len(row.entries)),
            duration(row.duration_s),
            _two_lines(words(row.energy, JOULES)) if known else "not measured",
            _two_lines(compared),
        ]
        if bars:
            cells.append(_bar(row.energy.value / largest if largest > 0 else 0.0, console))
        if carbon:
            cells.append(_carbon(row, bare=True))
        cells += [_price(row, currency, bare=True) for currency in ledger.currencies]
        table.add_row(*cells)
    return table


def _splits(ledger: Ledger) -> Table | None:
    """Nothing where no entry has a phase."""
    table = _table("share of", NAME)
    table.add_column("here", justify="right")
    table.add_column("published", justify="right")
    shown = False
    for reference, parts in ledger.splits:
        if all(math.isnan(part.share.value) for part in parts):
            continue
        shown = True
        table.add_row(f"{reference.of}:", "", "")
        for part in parts:
            table.add_row(f"  {part.name}", percent(part.share), f"{100 * part.reference:.0f} %")
    return table if shown else None


def _dearest(ledger: Ledger, console: Console) -> Table:
    dated = console.width >= WIDE
    table = _table("most went to", NAME)
    table.add_column("phase", no_wrap=True)
    if dated:
        table.add_column("began", no_wrap=True)
    table.add_column("energy", justify="right", no_wrap=True)
    table.add_column("record", overflow="fold")
    for one in ledger.dearest:
        assert one.energy is not None
        entry = one.entry
        began = "" if math.isnan(entry.started_unix_s) else _day(entry.started_unix_s)
        energy = words(one.energy, JOULES)
        cells = [entry.name, entry.phase or "", *([began] if dated else []), energy]
        table.add_row(*cells, entry.directory.name)
    return table


def _table(first: str, min_width: int) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(first, overflow="fold", min_width=min_width)
    return table


def _carbon(row: Row, *, bare: bool = False) -> str:
    """With a star where it is not of everything; bare, the figure alone."""
    if all(one.carbon is None for one in row.entries):
        return ""
    star = "*" if row.without_carbon else ""
    if bare:
        return quantity(row.carbon.value, NO_INTERVAL, GRAMS) + star
    return f"{words(row.carbon, GRAMS)} CO2e{star}"


def _price(row: Row, currency: str, *, bare: bool = False) -> str:
    """With a star where it is not of everything; bare, the figure alone."""
    if all(one.currency != currency for one in row.entries):
        return ""
    price, unit = row.price(currency), ((1.0, currency),)
    partly = any(one.energy is not None and one.currency != currency for one in row.entries)
    text = quantity(price.value, NO_INTERVAL, unit) if bare else words(price, unit)
    return text + ("*" if partly else "")


def _two_lines(text: str) -> str:
    """The interval under its figure."""
    return text.replace(" (", "\n(", 1)


def _bar(fraction: float, console: Console) -> str:
    block = "█" if (console.encoding or "").lower().startswith("utf") else "#"
    return block * round(BAR * fraction)


def _day(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d")
