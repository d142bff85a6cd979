"""Style of charts: colours, scales and axes, and the marks that several charts share."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import altair as alt
import pandas as pd

from joulelab.findings import schema
from joulelab.report.charts.chart import TABLE, Selector

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
WIDTH_PX = 460
"""Width of a panel in files: at 96 px per inch slightly more than a column of a paper."""

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
    "text": {"color": INK, "fontSize": 10.5},
    "rule": {"color": QUIET},
    "tick": {"color": INK},
    "background": "#ffffff",
    "padding": 6,
}
"""Vega-Lite configuration."""


def interval_tips(unit: str, low: str = "low", high: str = "high") -> dict[str, str]:
    """Name the ends of an interval in a tooltip."""
    return {low: f"95 % from ({unit})", high: f"to ({unit})"}


_TEXTS = {"model", "phase", "component", "machine", "reference", "setting", "run", "name"}


def chart(**size: Any) -> alt.Chart:
    """Start a view of the chart's rows, of a height in pixels or a step."""
    return alt.Chart(alt.NamedData(name=TABLE), width=WIDTH_PX, **({"height": HEIGHT_PX} | size))


def specification(view: alt.Chart | alt.LayerChart | alt.FacetChart) -> dict[str, Any]:
    """Return a view for Vega-Lite, without the version's address and altair's configuration."""
    made: dict[str, Any] = view.to_dict(validate=False)
    parts = {name: part for name, part in made.items() if name not in ("$schema", "config")}
    return parts | {"autosize": {"type": "fit-x", "contains": "padding"}}


def logarithmic(values: pd.Series[float]) -> bool:
    """Return whether the values are positive and span more than a factor of 10."""
    known = values.dropna()
    return len(known) > 0 and known.min() > 0 and known.max() / known.min() > 10


def axis(values: pd.Series[float], *, zero: bool = False) -> dict[str, Any]:
    """Return scale and ticks of altair's X or Y: logarithmic for a wide range of values."""
    if logarithmic(values):
        scale = alt.Scale(type="log", nice=False, padding=12)
    else:
        scale = alt.Scale(zero=zero, nice=True)
    return {"scale": scale, "axis": alt.Axis(format=NUMBER, values=ticks(values))}


def ticks(values: pd.Series[float]) -> Any:
    """Return the ticks of a logarithmic axis: 1, 2, 5, 10 ..., or 1, 3, 10 ... for a wider range.

    Example:
        >>> ticks(pd.Series([2.0, 40.0]))
        [1.0, 2.0, 5.0, 10.0, 20.0, 50.0]
        >>> ticks(pd.Series([2.0, 4.0]))
        Undefined
    """
    if not logarithmic(values):
        return alt.Undefined
    low, high = math.log10(values.min()), math.log10(values.max())
    steps = (1, 2, 5) if high - low < 1.5 else (1, 3)
    decades = range(math.floor(low), math.ceil(high) + 1)
    places = [step * 10.0**decade for decade in decades for step in steps]
    return [place for place in places if 10**low / 5 <= place <= 10**high * 2]


FARTHEST = 3.0
"""Intervals are drawn up to this multiple of the greatest value, and on a logarithmic axis down to
this fraction of the least; an arrow shows that one reaches further."""

ENDS = ("drawn_low", "drawn_high", "cut_low", "cut_high")
"""Columns of :func:`with_drawn_ends`."""


_CHANNELS = {"x": alt.X, "y": alt.Y}
_ARROWS = {"x": ("triangle-left", "triangle-right"), "y": ("triangle-down", "triangle-up")}


def with_drawn_ends(
    table: pd.DataFrame, value: str = "value", low: str = "low", high: str = "high"
) -> pd.DataFrame:
    """Add the ends of intervals as their axis can show them, and whether they reach further."""
    values = table[value]
    ends = table[low], table[high]
    most = FARTHEST * values.abs().max()
    drawn = [end.clip(lower=-most, upper=most) for end in ends]
    on_axis = pd.concat([values, drawn[1]])
    positive = values[values > 0]
    if len(positive) and logarithmic(on_axis):
        drawn = [end.clip(lower=positive.min() / FARTHEST) for end in drawn]
    return table.assign(
        drawn_low=drawn[0],
        drawn_high=drawn[1],
        cut_low=ends[0] < drawn[0],
        cut_high=ends[1] > drawn[1],
    )


def interval_lines(base: alt.Chart, along: str, width: float) -> list[alt.Chart]:
    """Draw intervals, with arrows where they reach further.

    Args:
        base: A chart of rows with the columns :data:`ENDS` and the other axis.
        along: ``"x"`` or ``"y"``.
        width: Width of the lines in pixels.
    """
    line = base.mark_rule(strokeWidth=width).encode(
        **{along: _CHANNELS[along]("drawn_low:Q"), f"{along}2": "drawn_high:Q"}
    )
    arrows = [
        base.transform_filter(f"datum.cut_{end}")
        .mark_point(shape=shape, filled=True, size=45, opacity=1)
        .encode(**{along: _CHANNELS[along](f"drawn_{end}:Q")})
        for end, shape in zip(("low", "high"), _ARROWS[along], strict=True)
    ]
    return [line, *arrows]


def tips(**columns: str) -> list[alt.Tooltip]:
    """Return a mark's tooltip: column to its name; numbers with three digits."""
    return [
        alt.Tooltip(f"{column}:N", title=title)
        if column in _TEXTS
        else alt.Tooltip(f"{column}:Q", title=title, format=NUMBER)
        for column, title in columns.items()
    ]


def interval_rows(table: pd.DataFrame, column: str, factor: float = 1.0) -> pd.DataFrame:
    """Return group, model, phase, value, low, high and n of a column of the measurements."""
    known = table[table[column].notna()]
    return known[["group", "phase", "model"]].assign(
        value=known[column] * factor,
        low=known[f"{column}_low"] * factor,
        high=known[f"{column}_high"] * factor,
        n=known[f"{column}_n"].astype(int),
    )


def dots(
    table: pd.DataFrame,
    title: str,
    colour: str | alt.Color,
    tooltip: list[alt.Tooltip],
    *,
    views: Sequence[str] = (),
    **more: Any,
) -> alt.LayerChart:
    """Draw a point and an interval for each model, one below the other.

    The table has model, value and :data:`ENDS`. Its axis suits the widest of the parts that differ
    in the columns ``views``, which are never shown together.
    """
    widest = table
    if views:
        parts = [part for _, part in table.groupby(list(views), sort=False)]
        widest = max(parts, key=lambda part: part["value"].max() / part["value"].min())
    shown = pd.concat([widest["value"], widest["drawn_high"]])
    base = chart(height=alt.Step(21)).encode(
        y=alt.Y("model:N", sort=None, title=None),
        color=alt.value(colour) if isinstance(colour, str) else colour,
        tooltip=tooltip,
        **more,
    )
    x = alt.X("value:Q", title=title, **axis(shown, zero=True))
    points = base.mark_point(filled=True, opacity=1, size=60).encode(x=x)
    return alt.LayerChart(layer=[*interval_lines(base, "x", 1.6), points])


def dashed_line(column: str) -> alt.Chart:
    """Draw a vertical line across :func:`dots` at the value of a constant column."""
    line: alt.Chart = chart(height=alt.Step(21)).mark_rule(strokeDash=[5, 3])
    return line.encode(x=f"min({column}):Q")


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


def model_names(base: alt.Chart) -> alt.Chart:
    """Write the models' names next to their points (see :mod:`.point_labels`)."""
    side = "(width < 330 ? datum.side_narrow : datum.side)"

    def by(**levels: str | int) -> alt.ExprRef:
        pairs = ", ".join(f"{name}: {value!r}" for name, value in levels.items())
        return alt.ExprRef(f"{{{pairs}}}[{side}]")

    text: alt.Chart = base.mark_text(
        align=by(E="left", NE="left", SE="left", W="right", NW="right", SW="right", N="center",
                 S="center"),
        baseline=by(E="middle", W="middle", N="bottom", NE="bottom", NW="bottom", S="top",
                    SE="top", SW="top"),
        dx=by(E=6, NE=4, SE=4, W=-6, NW=-4, SW=-4, N=0, S=0),
        dy=by(E=0, W=0, N=-6, NE=-3, NW=-3, S=6, SE=3, SW=3),
    )  # fmt: skip
    named: alt.Chart = text.encode(
        text="model:N",
        color=alt.value(INK),
        opacity=alt.condition(side, alt.value(1), alt.value(0)),
    )
    return named


def extremes(table: pd.DataFrame, least: str, most: str) -> str:
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
            sentences.append(f"In {name.lower()}, {low} {least} and {high} {most}.")
    return " ".join(sentences)
