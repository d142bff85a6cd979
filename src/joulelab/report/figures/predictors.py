"""Energy against what a model is known by before it runs (Fig. 6 of the paper)."""

from __future__ import annotations

import altair as alt
import pandas as pd

from joulelab.findings.predictors import PREDICTORS
from joulelab.findings.words import number
from joulelab.report.figure import Choice, Figure, NothingToDraw
from joulelab.report.figures.marks import (
    PER,
    PHASE_PANELS,
    axis,
    interval_rows,
    names_beside,
    phase_colour,
    tips,
)
from joulelab.report.labels import with_sides
from joulelab.report.scopes import Material
from joulelab.report.theme import INK, QUANTITIES, chart, drawn_low, logarithmic, specification

_NAMES = {
    "macs_per_parameter": "MACs per parameter",
    "macs": "MACs of a sample",
    "parameters": "Parameters",
    "size_bytes": "Size (bytes)",
    "operators": "Operators",
    "time": "Time of a sample (s)",
}
_COLUMNS = {"time": "duration_s_per_sample"}


def predictors(material: Material) -> Figure:
    """Energy for 1,000 samples against each predictor, with the rank correlation."""
    points = _points(material.summary)
    enough = points.groupby("predictor")["model"].nunique() > 1
    known = [name for name in PREDICTORS if enough.get(name, False)]
    if not known or known == ["time"]:
        raise NothingToDraw("it takes two models whose characteristics and energy are known")
    points = points[points["predictor"].isin(known)].reset_index(drop=True)
    by = ["scope", "quantity", "predictor", "phase"]
    points = with_sides(points, "x", "value", by)
    points["drawn_low"] = drawn_low(
        points["low"], points["value"], on_logarithm=logarithmic(points["value"])
    )
    table = pd.concat([points, _notes(material)], ignore_index=True)
    table = table[table["predictor"].isin(known)]
    base = chart().transform_filter("datum.mark == 'point'")
    base = base.encode(
        x=alt.X("x:Q", title="{predictor}", scale=alt.Scale(type="log", nice=False, padding=14),
                axis=alt.Axis(format="~s", tickCount=6, grid=False)),
        color=phase_colour(),
        tooltip=tips(model="Model", x="{predictor}", value="{quantity} (J)", low="95 % from",
                     high="to"),
    )  # fmt: skip
    title = f"{{quantity}} for {PER:,} samples (J)"
    y = alt.Y("value:Q", title=title, **axis(points["value"]))
    circles = base.mark_point(filled=True, opacity=1, size=55).encode(y=y)
    lines = base.mark_rule(strokeWidth=1.2).encode(y=alt.Y("drawn_low:Q"), y2="high:Q")
    note = (
        chart()
        .transform_filter("datum.mark == 'note'")
        .mark_text(align="left", baseline="bottom", color=INK)
        .encode(x=alt.value(0), y=alt.value(-4), text="model:N")
    )
    return Figure(
        name="predictors",
        title="Energy against what a model is known by",
        caption="Each point is a model. Above, Spearman's rank correlation over models with its "
        "95 % interval.",
        alt=f"{title.replace('{quantity}', 'Energy')} against {_NAMES[known[0]]}, a point a model.",
        chart=specification(lines + circles + names_beside(base.encode(y=y)) + note),
        table=table,
        panels=PHASE_PANELS,
        also=tuple(name.replace("_", "-") for name in PREDICTORS),
        choices=(Choice("predictor", "Against", {name: _NAMES[name] for name in known}),),
    )


def _points(summary: pd.DataFrame) -> pd.DataFrame:
    """A row a model, phase, quantity and predictor; what a logarithm cannot show is left out."""
    parts = []
    for quantity in QUANTITIES:
        rows = interval_rows(summary, f"{quantity}_j_per_sample", PER)
        for name in PREDICTORS:
            column = _COLUMNS.get(name, name)
            x = summary.loc[rows.index, column].astype("float64")
            parts.append(rows.assign(quantity=quantity, predictor=name, x=x, mark="point"))
    points = pd.concat(parts, ignore_index=True)
    return points[(points["x"] > 0) & (points["value"] > 0)]


def _notes(material: Material) -> pd.DataFrame:
    found = material.scoped(material.answers.correlations)
    found = found[(found["method"] == "spearman") & found["estimate"].notna()]
    texts = [
        f"Spearman {number(rho, 2)}{_bracketed(low, high)}, n = {n}"
        for rho, low, high, n in zip(
            *(found[name].tolist() for name in ("estimate", "low", "high", "n")), strict=True
        )
    ]
    columns = ["scope", "quantity", "predictor", "phase"]
    return found[columns].assign(model=pd.Series(texts, found.index, dtype="str"), mark="note")


def _bracketed(low: float, high: float) -> str:
    return "" if pd.isna(low) else f" [{number(low, 2)}, {number(high, 2)}]"
