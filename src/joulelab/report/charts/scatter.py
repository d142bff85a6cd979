"""Scatter charts with one point per model: energy, time, utilisation and predictions."""

from __future__ import annotations

import altair as alt
import pandas as pd

from joulelab.errors import StoreError
from joulelab.findings.all import Analysis
from joulelab.findings.hosts import pool_hosts
from joulelab.findings.predictors import PREDICTORS
from joulelab.findings.schema import READABLE
from joulelab.findings.summary import group_numbers
from joulelab.format import with_interval
from joulelab.report.charts.chart import Chart, NothingToDraw, Selector
from joulelab.report.charts.point_labels import with_sides
from joulelab.report.charts.style import (
    FOR_UNITS,
    INK,
    NUMBER,
    PER,
    PHASE_PANELS,
    QUANTITIES,
    QUIET,
    axis,
    chart,
    interval_lines,
    interval_rows,
    interval_tips,
    model_names,
    phase_colour,
    specification,
    ticks,
    tips,
    with_drawn_ends,
)
from joulelab.runs.study_runs import Study
from joulelab.stats.estimates import estimate

PREDICTIONS = "predictions.parquet"
"""File that ``joulelab predict --study`` writes next to the plan."""

_NAMES = {
    "macs_per_parameter": "MACs per parameter",
    "macs": "MACs per {unit}",
    "parameters": "Parameters",
    "size_bytes": "Size (bytes)",
    "operators": "Operators",
    "time": "Time per {unit} (s)",
}
_COLUMNS = {"time": "duration_s_per_unit"}
_CASE = ["model", "phase", "batch_size"]
_TYPES = {"study": "string", "model": "string", "phase": "string", "batch_size": "Int64"}
_PREDICTED = {
    "energy_per_step_j": "predicted_j", "energy_low_j": "low_j", "energy_high_j": "high_j",
}  # fmt: skip


def predictors(analysis: Analysis) -> Chart:
    """Chart energy for 1,000 samples or tokens against each predictor (Fig. 6)."""
    points = _predictor_points(analysis.tables.measurements)
    enough = points.groupby("predictor")["model"].nunique() > 1
    known = [name for name in PREDICTORS if enough.get(name, False)]
    if not known or known == ["time"]:
        raise NothingToDraw("two models with known characteristics and energy are needed")
    points = points[points["predictor"].isin(known)].reset_index(drop=True)
    points = with_sides(points, "x", "value", ["group", "quantity", "predictor", "phase"])
    points = with_drawn_ends(points)
    table = pd.concat([points, _correlation_notes(analysis.correlations)], ignore_index=True)
    table = table[table["predictor"].isin(known)]
    base = chart().transform_filter("datum.mark == 'point'")
    base = base.encode(
        x=alt.X("x:Q", title="{predictor}", scale=alt.Scale(type="log", nice=False, padding=14),
                axis=alt.Axis(format="~s", tickCount=6, grid=False)),
        color=phase_colour(),
        tooltip=tips(model="Model", x="{predictor}", value="{quantity} (J)",
                     **interval_tips("J")),
    )  # fmt: skip
    title = f"{{quantity}} {FOR_UNITS} (J)"
    y = alt.Y("value:Q", title=title, **axis(pd.concat([points["value"], points["drawn_high"]])))
    circles = base.mark_point(filled=True, opacity=1, size=55).encode(y=y)
    lines = alt.layer(*interval_lines(base, "y", 1.2))
    note = (
        chart()
        .transform_filter("datum.mark == 'note'")
        .mark_text(align="left", baseline="bottom", color=INK)
        .encode(x=alt.value(0), y=alt.value(-4), text="model:N")
    )
    names = {name: _NAMES[name] for name in known}
    return Chart(
        name="predictors",
        caption="Each point is a model. Above it, Spearman's rank correlation over models with its "
        "95 % interval.",
        alt=f"Energy {FOR_UNITS} against {_NAMES[known[0]]}, one point per model.",
        specification=specification(lines + circles + model_names(base.encode(y=y)) + note),
        table=table,
        panels=PHASE_PANELS,
        selectors=(Selector("predictor", "Against", names),),
    )


def _predictor_points(measured: pd.DataFrame) -> pd.DataFrame:
    """Return a row per model, phase, quantity and predictor that a logarithm can show."""
    parts = []
    for quantity in QUANTITIES:
        rows = interval_rows(measured, f"{quantity}_j_per_unit", PER)
        for name in PREDICTORS:
            x = measured.loc[rows.index, _COLUMNS.get(name, name)].astype("float64")
            parts.append(rows.assign(quantity=quantity, predictor=name, x=x, mark="point"))
    points = pd.concat(parts, ignore_index=True)
    return points[(points["x"] > 0) & (points["value"] > 0)]


def _correlation_notes(correlations: pd.DataFrame) -> pd.DataFrame:
    found = correlations[(correlations["method"] == "spearman") & correlations["estimate"].notna()]
    values = zip(*(found[name].tolist() for name in ("estimate", "low", "high", "n")), strict=True)
    texts = [
        f"Spearman {with_interval(rho, low, high, digits=2, level='')}, n = {n}"
        for rho, low, high, n in values
    ]
    columns = ["group", "quantity", "predictor", "phase"]
    return found[columns].assign(model=pd.Series(texts, found.index, dtype="str"), mark="note")


def energy_time(analysis: Analysis) -> Chart:
    """Chart energy against time, both per unit, and the residuals of the linear fit."""
    points = analysis.time_points
    points = points[points["energy_j_per_unit"].notna()]
    if points.empty:
        raise NothingToDraw("models with a known time and energy are needed")
    named = points[["group", "phase", "quantity", "model"]]
    x = PER * points["duration_s_per_unit"]
    energy = named.assign(
        view="energy",
        x=x,
        value=PER * points["energy_j_per_unit"],
        fitted=PER * points["fitted_j_per_unit"],
    )
    residual = named.assign(
        view="residual", x=x, value=PER * points["residual_j_per_unit"], fitted=0.0
    )
    table = pd.concat([energy, residual[residual["value"].notna()]], ignore_index=True)
    table = with_sides(table, "x", "value", ["group", "phase", "quantity", "view"], linear=True)
    base = chart().encode(
        x=alt.X("x:Q", title=f"Time {FOR_UNITS} (s)", axis=alt.Axis(format=NUMBER)),
    )
    y = alt.Y("value:Q", title=f"{{view}} {FOR_UNITS} (J)", axis=alt.Axis(format=NUMBER))
    line = base.mark_line(color=QUIET, strokeDash=[5, 3]).encode(y="fitted:Q", order="x:Q")
    circles = base.mark_point(filled=True, opacity=1, size=55).encode(
        y=y,
        color=phase_colour(),
        tooltip=tips(model="Model", x="Time (s)", value="{view} (J)", fitted="Line (J)"),
    )
    views = {"energy": "{quantity}", "residual": "Residual of the fit"}
    return Chart(
        name="energy-time",
        caption="Each point is a model; the dashed line is their least-squares fit.",
        alt=f"Energy {FOR_UNITS} against their time, one point per model, with a line.",
        specification=specification(line + circles + model_names(base.encode(y=y))),
        table=table,
        panels=PHASE_PANELS,
        selectors=(Selector("view", "Show", views),),
    )


def utilization(analysis: Analysis) -> Chart:
    """Chart GPU utilisation against power, sized by memory, with the knee (Fig. 4)."""
    points = analysis.utilization.drop(columns=[*READABLE, "above_knee"])
    points = points[points["power_w"].notna() & points["utilization_pct"].notna()]
    if points.empty:
        raise NothingToDraw("no GPU has both a measured utilisation and a known power")
    points = points.assign(mark="point")
    points = with_sides(points, "power_w", "utilization_pct", ["group", "phase"])
    knees = analysis.knees[analysis.knees["shown"].fillna(False).astype(bool)]
    corners = knees[["group", "phase"]].assign(
        mark="knee",
        power_w=knees["knee_w"],
        low_w=knees["low_w"],
        high_w=knees["high_w"],
        fitted_pct=knees["intercept_pct"] + knees["slope_below_pct_per_w"] * knees["knee_w"],
    )
    base = chart().encode(
        x=alt.X(
            "power_w:Q", title="GPU power (W)", scale=alt.Scale(zero=False, nice=False, padding=14)
        ),
    )
    scale = alt.Scale(zero=False, nice=False, padding=12)
    y = alt.Y("utilization_pct:Q", title="GPU utilisation (%)", scale=scale)
    marks = base.transform_filter("datum.mark == 'point'").encode(y=y)
    legend = alt.Legend(title="Peak GPU memory (GiB)", titleFontWeight="normal", tickCount=3)
    size = alt.Size("vram_gib:Q", scale=alt.Scale(range=[30, 500], zero=True), legend=legend)
    circles = marks.mark_point(filled=True, opacity=0.75, stroke="#ffffff", strokeWidth=1).encode(
        color=phase_colour(),
        size=size if points["vram_gib"].notna().any() else alt.value(70),
        tooltip=tips(model="Model", power_w="GPU power (W)", utilization_pct="Utilisation (%)",
                     vram_gib="Peak memory (GiB)"),
    )  # fmt: skip
    fit = (
        base.transform_filter("isValid(datum.fitted_pct)")
        .mark_line(color=QUIET, strokeDash=[5, 3])
        .encode(y="fitted_pct:Q", order="power_w:Q")
    )
    knee = base.transform_filter("datum.mark == 'knee'")
    knee_tips = tips(power_w="Knee (W)", **interval_tips("W", "low_w", "high_w"))
    bend = knee.mark_rule(color=QUIET, strokeWidth=2).encode(
        x="low_w:Q", x2="high_w:Q", y="fitted_pct:Q", tooltip=knee_tips
    )
    return Chart(
        name="utilization",
        caption="Each point is a model. Where utilisation levels off significantly, the dashed "
        "line is the fit of two segments and the thick line the 95 % interval of their joint.",
        alt="GPU utilisation against power, one point per model, sized by its peak GPU memory.",
        specification=specification(fit + bend + circles + model_names(marks)),
        table=pd.concat([points, corners]),
        panels=PHASE_PANELS,
    )


def predictions(analysis: Analysis) -> Chart:
    """Chart predicted against measured gross energy of a step, where a study has predictions."""
    studies = [
        study for study in analysis.tables.studies if (study.directory / PREDICTIONS).exists()
    ]
    if not studies:
        raise NothingToDraw(f"no study has predictions ({PREDICTIONS})")
    predicted = pd.concat([_read_predictions(study) for study in studies])
    table = _measured(analysis).merge(predicted, on=["study", *_CASE]).drop(columns="study")
    table = table[(table["predicted_j"] > 0) & (table["measured_j"] > 0)].reset_index(drop=True)
    if table.empty:
        raise NothingToDraw(f"{PREDICTIONS} has no prediction of what was measured")
    table = with_sides(table, "measured_j", "predicted_j", ["group", "phase"])
    values = ticks(pd.concat([table["measured_j"], table["predicted_j"]]))
    both = alt.Axis(format=NUMBER, values=values)
    scale = alt.Scale(type="log", nice=False, padding=12)
    base = chart().encode(
        x=alt.X("measured_j:Q", title="Measured energy of a step (J)", scale=scale, axis=both),
        color=phase_colour(),
        tooltip=tips(model="Model", measured_j="Measured (J)",
                     **interval_tips("J", "measured_low_j", "measured_high_j"),
                     predicted_j="Predicted (J)", low_j="95 % from (J) ", high_j="to (J) "),
    )  # fmt: skip
    y = alt.Y("predicted_j:Q", title="Predicted (J)", scale=scale, axis=both)
    circles = base.mark_point(filled=True, opacity=1, size=55).encode(y=y)
    upright = base.mark_rule(strokeWidth=1.2).encode(y="low_j:Q", y2="high_j:Q")
    across = base.mark_rule(strokeWidth=1.2).encode(
        x="measured_low_j:Q", x2="measured_high_j:Q", y=y
    )
    equal = base.mark_line(strokeDash=[5, 3]).encode(
        y="measured_j:Q", order="measured_j:Q", color=alt.value(QUIET)
    )
    return Chart(
        name="predicted",
        caption="On the dashed line, both are equal. Vertical lines are 95 % intervals of the "
        "prediction, horizontal ones of the measurement.",
        alt="Predicted against measured gross energy of a step, one point per model.",
        specification=specification(
            equal + upright + across + circles + model_names(base.encode(y=y))
        ),
        table=table,
        panels=PHASE_PANELS,
    )


def _read_predictions(study: Study) -> pd.DataFrame:
    path = study.directory / PREDICTIONS
    try:
        found = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise StoreError(f"cannot read {path}", why=str(error)) from error
    missing = [name for name in (*_CASE, *_PREDICTED) if name not in found]
    if missing:
        raise StoreError(
            f"{path} has no predictions",
            why=f"it lacks the column {missing[0]}",
            hint="write it again with joulelab predict --study",
        )
    found = found[[*_CASE, *_PREDICTED]].rename(columns=_PREDICTED).drop_duplicates(_CASE)
    return found.assign(study=study.label).astype(_TYPES)


def _measured(analysis: Analysis) -> pd.DataFrame:
    """Return the gross energy of a step of each group, model and phase: a ratio of sums."""
    pooled = pool_hosts(analysis.tables.runs)
    runs = pooled.assign(group=group_numbers(pooled))
    rows = []
    for (group, study, *case), part in runs.groupby(["group", "study", *_CASE], dropna=True):
        found = estimate(
            part["gross_j"].tolist(),
            per=part["steps"].astype("float64").tolist(),
            correlated=part["gross_correlated_uncertainty_j"].tolist(),
            independent=part["gross_independent_uncertainty_j"].tolist(),
        )
        rows.append((group, study, *case, found.value, found.low, found.high))
    columns = ["group", "study", *_CASE, "measured_j", "measured_low_j", "measured_high_j"]
    return pd.DataFrame(rows, columns=columns).astype(_TYPES)
