"""Chart of time and energy against power limit or clock."""

from __future__ import annotations

import altair as alt
import pandas as pd

from joulelab.findings.all import Analysis
from joulelab.findings.device_limits import TOLERANCE
from joulelab.report.charts.axes import Axis, axes_remarks
from joulelab.report.charts.chart import Chart, NothingToDraw, Remark, Selector
from joulelab.report.charts.style import (
    INK,
    PHASES,
    caption,
    chart,
    means_text,
    model_colour,
    specification,
    tips,
    with_each_energy,
    with_text,
)

_KEY = ["study", "machine", "setting", "factor", "model", "phase"]
_TITLES = {"power_limit_w": "Power limit (W)", "clock_mhz": "Clock (MHz)"}
_PANELS = Selector("measure", "Measure", {"time": "Time", "energy": "{quantity}"})


def limits(analysis: Analysis) -> Chart:
    """Chart time and energy per unit relative to those at the highest level, with the knees."""
    table = _rows(analysis)
    if table.empty:
        raise NothingToDraw("no model ran at two power limits or clocks")
    factors = " or ".join(_TITLES[name] for name in analysis.limit_curves["factor"].unique())
    models = sorted(table["model"].unique())
    by = ["curve", "phase", "quantity", "measure"]
    title = "{measure} per {unit}, % of that at the highest level"
    across = Axis("x", "at", factors, is_logarithmic=False)
    upright = Axis("y", "value", title, low="low", high="high", is_logarithmic=False)
    table, x = across.framed(with_text(table, "%"), by)
    table, y = upright.framed(table, by)
    base = chart().encode(
        x=x.encoded(table),
        detail="model:N",
        color=model_colour(models),
        tooltip=tips(table, model="Model", at=factors, text="{measure}", n="Repeats"),
    )
    at = base.encode(y=y.encoded(table))
    knees = at.transform_filter("datum.knee").encode(color=alt.value(INK))
    curves = {name: name for name in table["curve"].unique()}
    phases = {name: PHASES[name] for name in PHASES if (table["phase"] == name).any()}
    return Chart(
        name="limits",
        caption=caption(
            "One line per model, with 95 % intervals.",
            Remark(
                "A ring marks the knee, the lowest level at which work takes at most "
                f"{100 * TOLERANCE:g} % longer than at the highest one.",
                {"knee": True},
            ),
            means_text(table), *axes_remarks(x, y),
        ),
        alt="Time and energy per {unit} against power limit or clock, one line per model.",
        specification=specification(
            alt.layer(
                at.mark_line(strokeWidth=1.6),
                *y.interval_lines(base, table, 1.2),
                at.mark_point(filled=True, opacity=1, size=35),
                knees.mark_point(size=130, strokeWidth=1.8, opacity=1, filled=False),
            )
        ),
        table=table,
        panels=_PANELS,
        selectors=(Selector("phase", "Phase", phases), Selector("curve", "Setting", curves)),
    )  # fmt: skip


def _rows(analysis: Analysis) -> pd.DataFrame:
    """Return a row for each level, measure and quantity (net or gross) that a reader selects."""
    curves = analysis.limit_curves[analysis.limit_curves["estimate"].notna()]
    knees = analysis.limit_knees[[*_KEY, "estimate"]].rename(columns={"estimate": "knee_at"})
    table = curves.merge(knees, on=_KEY, how="left")
    parts = (table["factor"].map(_TITLES), table["study"], table["machine"], table["setting"])
    is_time = table["quantity"] == "time"
    table = table.assign(
        curve=[", ".join(filter(None, row)) for row in zip(*parts, strict=True)],
        value=100 * table["estimate"],
        low=100 * table["low"],
        high=100 * table["high"],
        knee=table["at"] == table["knee_at"],
        measure=is_time.map({True: "time", False: "energy"}),
    )
    columns = ["curve", "phase", "quantity", "measure", "model", "at"]
    rows = with_each_energy(table)[[*columns, "value", "low", "high", "n", "knee"]]
    return rows.sort_values(columns, kind="stable", ignore_index=True)
