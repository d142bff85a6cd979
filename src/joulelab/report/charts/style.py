"""Style of charts: colours, sizes, texts, and the marks that several charts share."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import altair as alt
import pandas as pd

from joulelab.findings import schema
from joulelab.format import with_interval
from joulelab.report.charts.chart import TABLE, WIDTH_PX, Remark, Selector

PHASES = {phase: name.capitalize() for phase, name in schema.PHASES.items()}
COMPONENTS = {"gpu": "GPU", "cpu": "CPU", "dram": "Memory"}
QUANTITIES = {"net": "Energy net of idle", "gross": "Gross energy"}
PHASE_PANELS = Selector("phase", "Phase", PHASES)

PHASE_COLOURS = {
    "train": "#0072B2",
    "infer": "#D55E00",
    "prefill": "#009E73",
    "decode": "#CC79A7",
}
COMPONENT_COLOURS = {"gpu": "#009E73", "cpu": "#E69F00", "dram": "#56B4E9"}
SERIES_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Colours from the palette of Okabe and Ito, which colour-blind readers can distinguish."""

QUIET = "#767c86"
"""A grey with a contrast above 4:1 on white and on the page's dark background."""

INK, GRID = "#1b1f24", "#d8dee4"
FONT = "Liberation Sans, Arial, Helvetica, sans-serif"
HEIGHT_PX = 300
NUMBER = ",.3~r"
"""d3 format: three significant digits, no exponent."""

PER = 1000
"""Time and energy are stated for this number of samples or tokens."""

FOR_UNITS = f"for {PER:,} {{unit}}s"
"""How titles state what the values are for; the unit is that of the group that is shown."""

CONFIG: dict[str, Any] = {
    "font": FONT,
    "view": {"stroke": None},
    "axis": {
        "labelColor": INK,
        "titleColor": INK,
        "titleFontWeight": "normal",
        "titleFontSize": 12,
        "titlePadding": 8,
        "labelFontSize": 11,
        "gridColor": GRID,
        "domainColor": QUIET,
        "tickColor": QUIET,
        "labelOverlap": True,
        "labelLimit": 190,
    },
    "axisXQuantitative": {"tickCount": {"expr": "ceil(width / 75)"}},
    "axisY": {"domain": False, "ticks": False, "labelPadding": 6},
    "legend": {
        "orient": "top",
        "title": None,
        "labelFontSize": 11,
        "labelColor": INK,
        "padding": 0,
        "offset": 10,
        "columns": 4,
        "labelLimit": 220,
    },
    "title": {
        "anchor": "start",
        "color": INK,
        "fontSize": 10.5,
        "fontWeight": "normal",
        "offset": 8,
    },
    "text": {"color": INK, "fontSize": 10.5},
    "rule": {"color": QUIET},
    "tick": {"color": INK},
    "background": "#ffffff",
    "padding": 6,
}
"""Vega-Lite configuration."""


SHARED = "shared_runs"
"""Column of the number of repeats during which other processes used the machine."""

_CROSS = "M-1,-1L1,1M1,-1L-1,1"


def chart(**size: Any) -> alt.Chart:
    """Start a view of the chart's rows, of a height in pixels or a step."""
    return alt.Chart(alt.NamedData(name=TABLE), width=WIDTH_PX, **({"height": HEIGHT_PX} | size))


def specification(view: alt.Chart | alt.LayerChart | alt.FacetChart) -> dict[str, Any]:
    """Return a view for Vega-Lite, without the version's address and altair's configuration."""
    made: dict[str, Any] = view.to_dict(validate=False)
    parts = {name: part for name, part in made.items() if name not in ("$schema", "config")}
    return parts | {"autosize": {"type": "fit-x", "contains": "padding"}}


def tips(table: pd.DataFrame, **columns: str) -> list[alt.Tooltip]:
    """Return a mark's tooltip: column to its name, and how many repeats were disturbed.

    Columns of numbers have three digits; quantities come as texts, see :func:`with_text`.
    """
    if is_disturbed(table):
        columns |= {SHARED: "Repeats on a busy machine"}
    is_number = {name: pd.api.types.is_numeric_dtype(table[name]) for name in columns}
    return [
        alt.Tooltip(f"{column}:Q", title=title, format=NUMBER)
        if is_number[column]
        else alt.Tooltip(f"{column}:N", title=title)
        for column, title in columns.items()
    ]


def with_text(
    table: pd.DataFrame,
    unit: str,
    value: str = "value",
    low: str = "low",
    high: str = "high",
    *,
    into: str = "text",
) -> pd.DataFrame:
    """Add a column of texts: each value with its unit and interval, for tooltips."""
    values, lows, highs = (table[name].astype("float64").tolist() for name in (value, low, high))
    texts = [with_interval(*row, unit) for row in zip(values, lows, highs, strict=True)]
    return table.assign(**{into: pd.Series(texts, table.index, dtype="str")})


def with_each_energy(table: pd.DataFrame) -> pd.DataFrame:
    """Repeat rows whose ``measure`` is no energy for each ``quantity`` that a reader selects."""
    is_energy = table["measure"] == "energy"
    names = table.loc[is_energy, "quantity"].unique()
    others = [table[~is_energy].assign(quantity=name) for name in names]
    return pd.concat([table[is_energy], *others], ignore_index=True)


def with_shared(table: pd.DataFrame, measured: pd.DataFrame, *by: str) -> pd.DataFrame:
    """Add the column :data:`SHARED` from the measurements that have the same values in ``by``."""
    most = measured.groupby(list(by), dropna=False)["shared_runs"].max().rename(SHARED)
    return table.merge(most.reset_index(), on=list(by), how="left")


def crosses(base: alt.Chart, table: pd.DataFrame) -> list[alt.Chart]:
    """Cross out the points of rows whose repeats were disturbed (:data:`SHARED`), if any were."""
    if not is_disturbed(table):
        return []
    crossed: alt.Chart = base.transform_filter(f"datum.{SHARED} > 0").mark_point(
        shape=_CROSS, size=70, strokeWidth=1.4, opacity=1
    )
    return [crossed.encode(color=alt.value(INK), fill=alt.value(None), size=alt.value(70))]


def is_disturbed(table: pd.DataFrame) -> bool:
    """Report whether other processes used the machine during a repeat of some row."""
    return SHARED in table and bool((table[SHARED] > 0).any())


def shared_remark(mark: str = "crossed point") -> Remark:
    """Say for a caption what marks disturbed repeats."""
    text = f"A {mark} has repeats during which other processes used the machine."
    return Remark(text, {SHARED: True})


def means_text(table: pd.DataFrame, what: str = "means") -> str:
    """Say for a caption of how many repeats points are what.

    Example:
        >>> means_text(pd.DataFrame({"n": [2, 3]}))
        'Points are means over 2 to 3 repeats.'
    """
    least, most = int(table["n"].min()), int(table["n"].max())
    if most == 1:
        return "Points are single runs."
    counts = str(most) if least == most else f"{least} to {most}"
    return f"Points are {what} over {counts} repeats."


def caption(*parts: str | Remark) -> tuple[Remark, ...]:
    """Return the sentences of a caption, without the empty ones."""
    return tuple(Remark(one) if isinstance(one, str) else one for one in parts if one)


def interval_rows(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """Return a measured column for :data:`PER` units, with its interval and what identifies it."""
    known = table[table[column].notna()]
    return known[["group", "phase", "model", SHARED]].assign(
        value=known[column] * PER,
        low=known[f"{column}_low"] * PER,
        high=known[f"{column}_high"] * PER,
        n=known[f"{column}_n"].astype(int),
    )


def phase_colour(phases: Collection[str] = ()) -> alt.Color:
    """Return the colours of phases, with a legend of those that are given."""
    if not phases:
        return coloured("phase", PHASE_COLOURS, None)
    present = {name: colour for name, colour in PHASE_COLOURS.items() if name in phases}
    return coloured("phase", present, PHASES)


def component_colour(components: Collection[str]) -> alt.Color:
    """Return the colours of those components that are present."""
    colours = {name: colour for name, colour in COMPONENT_COLOURS.items() if name in components}
    return coloured("component", colours, COMPONENTS)


def coloured(
    column: str, colours: Mapping[str, str], legend: Mapping[str, str] | None
) -> alt.Color:
    """Return the colours of a column's levels, with a legend that names them, or none."""
    names = ", ".join(f"{level}: '{name}'" for level, name in (legend or {}).items())
    return alt.Color(
        f"{column}:N",
        scale=alt.Scale(domain=list(colours), range=list(colours.values())),
        legend=alt.Legend(labelExpr=f"{{{names}}}[datum.value]") if legend else None,
    )


def model_colour(models: Sequence[str]) -> alt.Color | alt.Value:
    """Return a colour for each model, with a legend; grey for all if they are many."""
    if len(models) > len(SERIES_COLOURS):
        return alt.value(QUIET)
    return alt.Color(
        "model:N",
        scale=alt.Scale(domain=list(models), range=list(SERIES_COLOURS)),
        legend=alt.Legend(columns=3),
    )


def extremes(table: pd.DataFrame, verb: str) -> str:
    """Name the models at the ends of what is shown first, one sentence per phase."""
    first = table[table["group"] == table["group"].iloc[0]]
    if "quantity" in first:
        shown = next(quantity for quantity in QUANTITIES if quantity in set(first["quantity"]))
        first = first[first["quantity"] == shown]
    sentences = []
    for phase, name in PHASES.items():
        part = first[first["phase"] == phase].sort_values("value", kind="stable")
        if len(part) > 1:
            low, high = part["model"].iloc[0], part["model"].iloc[-1]
            sentences.append(f"In {name.lower()}, {low} {verb} the least and {high} the most.")
    return " ".join(sentences)
