"""Energy against time, with the line through it and what it leaves."""

from __future__ import annotations

import altair as alt
import pandas as pd

from joulelab.report.figure import Choice, Figure, NothingToDraw
from joulelab.report.figures.marks import PER, PHASE_PANELS, names_beside, phase_colour, tips
from joulelab.report.labels import with_sides
from joulelab.report.scopes import Material
from joulelab.report.theme import NUMBER, QUIET, chart, specification

_VIEWS = Choice("view", "Shown", {"energy": "{quantity}", "residual": "Residual of the fit"})


def time(material: Material) -> Figure:
    """Energy against time a sample, a point a model, and the residuals of the linear fit."""
    points = material.scoped(material.answers.time_points)
    points = points[points["energy_j_per_sample"].notna()]
    if points.empty:
        raise NothingToDraw("it takes models whose time and energy are known")
    columns = ["scope", "phase", "quantity", "model"]
    x = PER * points["duration_s_per_sample"]
    energy = points[columns].assign(
        view="energy",
        x=x,
        value=PER * points["energy_j_per_sample"],
        fitted=PER * points["fitted_j_per_sample"],
    )
    residual = points[columns].assign(
        view="residual", x=x, value=PER * points["residual_j_per_sample"], fitted=0.0
    )
    table = pd.concat([energy, residual[residual["value"].notna()]], ignore_index=True)
    table = with_sides(table, "x", "value", ["scope", "phase", "quantity", "view"], zero=True)
    base = chart().encode(
        x=alt.X("x:Q", title=f"Time for {PER:,} samples (s)", axis=alt.Axis(format=NUMBER)),
    )
    y = alt.Y("value:Q", title=f"{{view}} for {PER:,} samples (J)", axis=alt.Axis(format=NUMBER))
    line = base.mark_line(color=QUIET, strokeDash=[5, 3]).encode(y="fitted:Q", order="x:Q")
    circles = base.mark_point(filled=True, opacity=1, size=55).encode(
        y=y,
        color=phase_colour(),
        tooltip=tips(model="Model", x="Time (s)", value="{view} (J)", fitted="The line (J)"),
    )
    return Figure(
        name="energy-time",
        title="Energy against time",
        caption="Each point is a model; the dashed line is the straight line of least squares "
        "through them.",
        alt=f"Energy for {PER:,} samples against their time, a point a model, with a line.",
        chart=specification(line + circles + names_beside(base.encode(y=y))),
        table=table,
        panels=PHASE_PANELS,
        choices=(_VIEWS,),
    )
