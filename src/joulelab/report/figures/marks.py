"""Marks that several figures share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import altair as alt
import pandas as pd

from joulelab.report.figure import Choice
from joulelab.report.theme import (
    INK,
    NUMBER,
    PHASE_COLOURS,
    PHASES,
    QUANTITIES,
    chart,
    drawn_low,
    logarithmic,
    rows_of,
    scale,
    ticks,
)

PER = 1000
"""Samples that time and energy are stated for."""

PHASE_PANELS = Choice("phase", "Phase", PHASES)
_WORDS = {"model", "phase", "component", "machine", "reference", "setting", "run", "name"}


def tips(**columns: str) -> list[alt.Tooltip]:
    """What is shown of a mark: column to its name; numbers to three digits."""
    return [
        alt.Tooltip(f"{column}:N", title=title)
        if column in _WORDS
        else alt.Tooltip(f"{column}:Q", title=title, format=NUMBER)
        for column, title in columns.items()
    ]


def interval_rows(table: pd.DataFrame, column: str, factor: float = 1.0) -> pd.DataFrame:
    """Scope, model, phase, value, low, high and n of a column of the summary."""
    known = table[table[column].notna()]
    return known[["scope", "phase", "model"]].assign(
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
    **more: Any,
) -> alt.LayerChart:
    """A point and an interval for each model, one below the other.

    Args:
        table: With the columns model, value, low and high; ``drawn_low`` is added.
        title: Of the horizontal axis.
        colour: Of the marks.
        tooltip: Of the marks.
        more: Further encodings.
    """
    shown = pd.concat([table["value"], table["high"]])
    table["drawn_low"] = drawn_low(table["low"], table["value"], on_logarithm=logarithmic(shown))
    base = chart(height=rows_of(21)).encode(
        y=alt.Y("model:N", sort=None, title=None),
        color=alt.value(colour) if isinstance(colour, str) else colour,
        tooltip=tooltip,
        **more,
    )
    x = alt.X("value:Q", title=title, **axis(shown, zero=True))
    points = base.mark_point(filled=True, opacity=1, size=60).encode(x=x)
    lines = base.mark_rule(strokeWidth=1.6).encode(x="drawn_low:Q", x2="high:Q")
    return alt.LayerChart(layer=[lines, points])


def phase_colour(*, legend: bool = False) -> alt.Color:
    """Training and inference in their colours."""
    return alt.Color(
        "phase:N",
        scale=alt.Scale(domain=list(PHASE_COLOURS), range=list(PHASE_COLOURS.values())),
        legend=alt.Legend(labelExpr=spoken(PHASES)) if legend else None,
    )


def spoken(names: Mapping[str, str]) -> str:
    """An expression that gives a legend's levels their names."""
    pairs = ", ".join(f"{level}: '{name}'" for level, name in names.items())
    return f"{{{pairs}}}[datum.value]"


def names_beside(base: alt.Chart) -> alt.Chart:
    """The models' names, each on its side (:mod:`joulelab.report.labels`).

    Args:
        base: With the encodings of the points.
    """
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


def axis(values: pd.Series[float], *, zero: bool = False) -> dict[str, Any]:
    """Scale and ticks for these values, as arguments of altair's X and Y."""
    return {
        "scale": scale(values, zero=zero),
        "axis": alt.Axis(format=NUMBER, values=ticks(values)),
    }


def extremes(table: pd.DataFrame, least: str, most: str) -> str:
    """Which models are at the ends of what is shown first, a sentence a phase."""
    first = table[table["scope"] == table["scope"].iloc[0]]
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
