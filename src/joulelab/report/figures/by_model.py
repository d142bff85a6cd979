"""Energy and time of each model, one below the other."""

from __future__ import annotations

import altair as alt
import pandas as pd

from joulelab.findings.phases import RULE
from joulelab.report.figure import Choice, Figure, NothingToDraw
from joulelab.report.figures.marks import (
    PER,
    PHASE_PANELS,
    dots,
    extremes,
    interval_rows,
    phase_colour,
    tips,
)
from joulelab.report.scopes import Material
from joulelab.report.theme import PHASES, QUANTITIES, SERIES_COLOURS, chart, rows_of, specification

_TIPS = {"value": "Mean", "low": "95 % from", "high": "to", "n": "Repeats"}
_RATIOS = Choice(
    "of", "Ratio of", {"time": "time", "net": "energy net of idle", "gross": "gross energy"}
)


def energy(material: Material) -> Figure:
    """Energy for 1,000 samples, net of idle and gross, with 95 % intervals."""
    parts = [
        interval_rows(material.summary, f"{kind}_j_per_sample", PER).assign(quantity=kind)
        for kind in QUANTITIES
    ]
    table = pd.concat(parts, ignore_index=True)
    if table.empty:
        raise NothingToDraw("no run's energy was measured or estimated")
    table = table.sort_values(["scope", "quantity", "phase", "value"], kind="stable")
    view = dots(
        table, f"{{quantity}} for {PER:,} samples (J)", phase_colour(), tips(model="Model", **_TIPS)
    )
    return Figure(
        name="energy",
        title="Energy of each model",
        caption="The most frugal model is on top. Points are means over repeats, lines are 95 % "
        "intervals.",
        alt=f"Energy for {PER:,} samples of each model in training and in inference, with "
        f"intervals. {extremes(table, 'needs least', 'most')}",
        chart=specification(view),
        table=table,
        panels=PHASE_PANELS,
    )


def duration(material: Material) -> Figure:
    """Time for 1,000 samples in training and inference (Fig. 2 of the paper)."""
    table = interval_rows(material.summary, "duration_s_per_sample", PER)
    if table.empty:
        raise NothingToDraw("no run's duration is known")
    rank = table["phase"].map(list(PHASES).index)
    table = table.assign(rank=rank).sort_values(["scope", "rank", "value"], kind="stable")
    table = table.drop(columns="rank")
    view = dots(
        table,
        f"Time for {PER:,} samples (s)",
        phase_colour(legend=True),
        tips(model="Model", phase="Phase", **_TIPS),
        yOffset=alt.YOffset("phase:N", sort=list(PHASES), scale=alt.Scale(padding=0.4)),
    )
    return Figure(
        name="duration",
        title="Time of training and inference",
        caption="Means over repeats, with 95 % intervals of the scatter between them.",
        alt=f"Time for {PER:,} samples of each model in training and in inference. "
        f"{extremes(table, 'takes least', 'longest')}",
        chart=specification(view),
        table=table,
    )


def ratio(material: Material) -> Figure:
    """Training over inference, model by model, beside the rule of thumb of 3 to 1."""
    table = material.scoped(material.answers.phase_ratios).rename(
        columns={"estimate": "value", "quantity": "of"}
    )
    if table.empty:
        raise NothingToDraw("no model was both trained and used for inference")
    table = table.sort_values(["scope", "of", "value"], kind="stable").assign(rule=RULE)
    view = dots(
        table,
        "Training over inference, {of} of a sample",
        SERIES_COLOURS[2],
        tips(model="Model", **_TIPS),
    )
    rule = chart(height=rows_of(21)).mark_rule(strokeDash=[5, 3]).encode(x="min(rule):Q")
    return Figure(
        name="ratio",
        title="Training over inference",
        caption=f"The dashed line is the rule of thumb that training takes {RULE:g} times as "
        "long as inference. Lines are 95 % intervals.",
        alt="Ratio of training to inference of each model, with intervals, beside a line at "
        f"{RULE:g}.",
        chart=specification(rule + view),
        table=table,
        choices=(_RATIOS,),
        also=("phases",),
    )
