"""Page of a ledger: the sums that the terminal shows, and energy over time as a figure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import altair as alt
import pandas as pd
from markupsafe import Markup

from joulelab.findings.tables import write_file
from joulelab.format import join_words, scale, sentence
from joulelab.ledger.entries import Entry
from joulelab.ledger.group import KEYS, PERIODS, group_entries, period_of_bars
from joulelab.ledger.ledger import Ledger
from joulelab.ledger.text import (
    TextTable,
    exchange_table,
    head_lines,
    notes,
    row_table,
    split_tables,
    top_consumer_table,
)
from joulelab.report.charts.style import NUMBER, QUIET, SERIES_COLOURS, chart, specification
from joulelab.report.page_template import TABLES, fill_template
from joulelab.report.svg_figure import draw_svg

WIDTHS_PX = {"wide": 1000, "narrow": 340}
"""Widths of the figure on wide and on narrow screens."""

MOST_SERIES = len(SERIES_COLOURS)
OTHERS = "all others"
_GAP = 0.06
"""Part of a period that is left free on each side of its bar."""

_LENGTHS = {"day": 1, "week": 7, "month": 31}


def write_ledger_page(path: Path, ledger: Ledger) -> Path:
    """Write the page of a ledger with entries, and return its path.

    Raises:
        StoreError: The file cannot be written.
    """
    projects = {one.run.project for one in ledger.entries}
    name = projects.pop() if len(projects) == 1 else None
    bars = energy_over_time(ledger)
    exchanged = exchange_table(ledger)
    tables = [
        row_table(ledger),
        *split_tables(ledger),
        *([exchanged] if exchanged else []),
        top_consumer_table(ledger),
    ]
    page = fill_template(
        "ledger.html.j2",
        script=TABLES,
        title=f"Energy ledger of {name}" if name else "Energy ledger",
        by=ledger.by,
        simulated=ledger.total.energy.simulated,
        head=list(head_lines(ledger)),
        headline=_headline(ledger),
        # The bar of a single period would show nothing that the table does not.
        figures={name: _figure(bars, width) for name, width in WIDTHS_PX.items()
            if bars["start"].nunique() > 1},
        alt=_alt(bars),
        period="" if bars.empty else _length(bars),
        tables=[_cells(one) for one in tables if one.rows],
        notes=[sentence(one) for one in notes(ledger)],
    )  # fmt: skip
    return write_file(path, page.encode())


def energy_over_time(ledger: Ledger) -> pd.DataFrame:
    """Return stacked bars: ``start`` and ``stop`` in UTC, ``name``, ``low_j`` and ``high_j``.

    A bar has the energy of the runs that started in a day, week or month. It is divided into the
    rows of the ledger, unless these are weeks or months themselves.
    """
    is_timed = ledger.by in PERIODS
    dated = [one for one in ledger.entries if one.energy and not math.isnan(one.run.started_unix_s)]
    names = [""] if is_timed else [row.key for row in group_entries(dated, ledger.by)]
    if len(names) > MOST_SERIES:
        names = names[: MOST_SERIES - 1]
    starts_s = [one.run.started_unix_s for one in dated]
    period = ledger.by if is_timed or not dated else period_of_bars(min(starts_s), max(starts_s))
    sums: dict[tuple[datetime, str], float] = {}
    for one in dated:
        assert one.energy is not None
        name = "" if is_timed else KEYS[ledger.by](one.run)
        key = _start(_day(one), period), name if name in names else OTHERS
        sums[key] = sums.get(key, 0.0) + one.energy.value
    rows = []
    for start in sorted({start for start, _ in sums}):
        stop = _start(start + timedelta(days=_LENGTHS[period]), period)
        low_j = 0.0
        for name in (name for name in [*names, OTHERS] if (start, name) in sums):
            high_j = low_j + sums[start, name]
            rows.append((start, stop, name, low_j, high_j))
            low_j = high_j
    return pd.DataFrame(rows, columns=["start", "stop", "name", "low_j", "high_j"])


def _day(one: Entry) -> datetime:
    return datetime.fromtimestamp(one.run.started_unix_s, UTC).replace(
        hour=0, minute=0, second=0, microsecond=0
    )


def _start(day: datetime, period: str) -> datetime:
    if period == "month":
        return day.replace(day=1)
    return day - timedelta(days=day.weekday() if period == "week" else 0)


def _headline(ledger: Ledger) -> str:
    """Say which row used the most."""
    rows = [row for row in ledger.rows if row.is_measured]
    if len(rows) < 2:
        return ""
    largest = max(rows, key=lambda row: row.energy.value)
    texts = dict(zip((row.key for row in ledger.rows), row_table(ledger).rows, strict=True))
    _, _, _, energy, compared, *_ = texts[largest.key]
    share = "" if ledger.by in PERIODS else f", {compared} of all"
    return f"The {ledger.by} with the most energy is {largest.key}: {energy}{share}."


def _figure(bars: pd.DataFrame, width: int) -> Markup:
    size, unit = scale(float(bars["high_j"].max()), "J")
    names = _largest_first(bars)
    colours = [QUIET if name == OTHERS else SERIES_COLOURS[i] for i, name in enumerate(names)]
    # Bars of neighbouring periods do not touch. Texts, because numbers are rounded to six digits.
    gap = _GAP * (bars["stop"] - bars["start"])
    table = pd.DataFrame({
        "name": bars["name"],
        "start": [one.isoformat() for one in bars["start"] + gap],
        "stop": [one.isoformat() for one in bars["stop"] - gap],
        "low": bars["low_j"] / size,
        "high": bars["high_j"] / size,
    })  # fmt: skip
    legend = alt.Legend(columns=MOST_SERIES if width > 600 else 1) if names != [""] else None
    view = chart(height=280).mark_bar().encode(
        x=alt.X("start:T", title="Start of the runs (UTC)", scale=alt.Scale(type="utc"),
            axis=alt.Axis(values=_ticks_ms(bars, width // 110), grid=False, labelOverlap=True,
                format="%b %Y" if _length(bars) == "month" else "%b %-d")),
        x2="stop:T",
        y=alt.Y("low:Q", title=f"Energy ({unit})", axis=alt.Axis(format=NUMBER)),
        y2="high:Q",
        color=alt.Color("name:N", legend=legend, scale=alt.Scale(domain=names, range=colours)),
    )  # fmt: skip
    return draw_svg(specification(view), table, width=width)


def _ticks_ms(bars: pd.DataFrame, most: int) -> list[int]:
    """Return the middles of at most ``most`` periods, unix time in ms."""
    middles = (bars["start"] + (bars["stop"] - bars["start"]) / 2).drop_duplicates()
    return [int(1000 * one.timestamp()) for one in middles[:: math.ceil(len(middles) / most)]]


def _length(bars: pd.DataFrame) -> str:
    days = (bars["stop"] - bars["start"]).max().days
    return next(name for name, most in _LENGTHS.items() if days <= most)


def _largest_first(bars: pd.DataFrame) -> list[str]:
    sums = (bars["high_j"] - bars["low_j"]).groupby(bars["name"]).sum()
    names = sums.sort_values(ascending=False).index
    return sorted(names, key=lambda name: name == OTHERS)


def _alt(bars: pd.DataFrame) -> str:
    names = [name for name in _largest_first(bars) if name]
    return f"Energy over time{f' of {join_words(names)}' if names else ''}; the table has the sums"


def _cells(table: TextTable) -> Mapping[str, Any]:
    return {
        "headings": table.headings,
        "rows": [[_value_and_interval(cell) for cell in row[1:]] for row in table.rows],
        "names": [row[0] for row in table.rows],
        "orders": table.orders,
    }


def _value_and_interval(cell: str) -> tuple[str, str]:
    value, opened, interval = cell.partition(" (")
    return value, opened.strip() + interval
