"""How figures look."""

from __future__ import annotations

import math
from typing import Any

import altair as alt
import pandas as pd

from joulelab.report.figure import TABLE

PHASES = {"train": "Training", "infer": "Inference"}
COMPONENTS = {"gpu": "GPU", "cpu": "CPU", "dram": "DRAM"}
QUANTITIES = {"net": "Energy net of idle", "gross": "Gross energy"}

PHASE_COLOURS = {"train": "#0072B2", "infer": "#D55E00"}
"""From the palette of Okabe and Ito, which colour-blind readers can tell apart."""

COMPONENT_COLOURS = {"gpu": "#009E73", "cpu": "#E69F00", "dram": "#56B4E9"}
"""Likewise."""

SERIES_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Likewise, for as many series as a reader can tell apart."""

QUIET = "#767c86"
"""A grey whose contrast is above 4:1 on white and on the page's dark ground."""

INK, GRID = "#1b1f24", "#d8dee4"
FONT = "Liberation Sans, Arial, Helvetica, sans-serif"
WIDTH_PX = 460
"""Width of a panel in files: at 96 px an inch somewhat more than a column of a paper."""

HEIGHT_PX = 300
NUMBER = ",.3~r"
"""d3's format: three significant digits, no exponent."""

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
"""Vega-Lite's configuration."""


def chart(**size: Any) -> alt.Chart:
    """An empty view on the figure's rows.

    Args:
        size: ``height``, in pixels or a step.
    """
    return alt.Chart(
        alt.NamedData(name=TABLE),
        width=WIDTH_PX,
        **({"height": HEIGHT_PX} | size),
    )


def rows_of(px: float) -> alt.Step:
    """A height of so many pixels for each name on the vertical axis."""
    return alt.Step(px)


def specification(view: alt.Chart | alt.LayerChart | alt.FacetChart) -> dict[str, Any]:
    """As Vega-Lite reads it, without the version's address and altair's own configuration."""
    made: dict[str, Any] = view.to_dict()
    kept = {name: part for name, part in made.items() if name not in ("$schema", "config")}
    return kept | {"autosize": {"type": "fit-x", "contains": "padding"}}


def scale(values: pd.Series[float], *, zero: bool = False) -> alt.Scale:
    """Logarithmic where positive values lie further apart than a factor of 10.

    Args:
        values: What the axis shows, as drawn.
        zero: Whether a linear axis begins at zero.
    """
    if logarithmic(values):
        return alt.Scale(type="log", nice=False, padding=12)
    return alt.Scale(zero=zero, nice=True)


def logarithmic(values: pd.Series[float]) -> bool:
    """Whether the values are positive and further apart than a factor of 10."""
    known = values.dropna()
    return len(known) > 0 and known.min() > 0 and known.max() / known.min() > 10


def ticks(values: pd.Series[float]) -> Any:
    """Of a logarithmic axis: 1, 2, 5, 10 ...; fewer where it spans more. Else Vega's own.

    Example:
        >>> ticks(pd.Series([2.0, 40.0]))
        [1.0, 2.0, 5.0, 10.0, 20.0, 50.0]
        >>> ticks(pd.Series([2.0, 4.0]))
        Undefined
    """
    if not logarithmic(values):
        return alt.Undefined
    low, high = math.log10(values.min()), math.log10(values.max())
    steps = (1, 2, 5) if high - low < 1.5 else (1, 3) if high - low < 3 else (1,)
    decades = range(math.floor(low), math.ceil(high) + 1)
    marks = [step * 10.0**decade for decade in decades for step in steps]
    return [mark for mark in marks if 10**low / 5 <= mark <= 10**high * 2]


def drawn_low(
    low: pd.Series[float], value: pd.Series[float], *, on_logarithm: bool
) -> pd.Series[float]:
    """The lower ends of intervals as the axis can show them.

    On a logarithmic axis an interval that reaches zero, or far below its value, runs off at a
    third of the least positive value.
    """
    positive = value[value > 0]
    return low.clip(lower=positive.min() / 3) if on_logarithm and len(positive) else low
