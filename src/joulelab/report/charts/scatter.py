"""Scatter charts with one point per model: energy, time, utilisation and predictions."""

from __future__ import annotations

import altair as alt
import pandas as pd

from joulelab.errors import StoreError
from joulelab.findings.all import Analysis
from joulelab.findings.hosts import pool_hosts
from joulelab.findings.predictors import PREDICTORS
from joulelab.findings.schema import READABLE
from joulelab.findings.summary import ANALYZED, group_numbers
from joulelab.format import with_interval
from joulelab.report.charts.axes import Axis, axes_remarks
from joulelab.report.charts.chart import Chart, NothingToDraw, Remark, Selector
from joulelab.report.charts.point_labels import name_layers, unnamed_text, with_labels
from joulelab.report.charts.style import (
    FOR_UNITS,
    INK,
    PER,
    PHASE_PANELS,
    QUANTITIES,
    QUIET,
    caption,
    chart,
    crosses,
    interval_rows,
    means_text,
    phase_colour,
    shared_remark,
    specification,
    tips,
    with_shared,
    with_text,
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
    measured = analysis.tables.measurements
    points = _predictor_points(measured[measured["rank"] < ANALYZED])
    enough = points.groupby("predictor")["model"].nunique() > 1
    known = [name for name in PREDICTORS if enough.get(name, False)]
    if not known or known == ["time"]:
        raise NothingToDraw("two models with known characteristics and energy are needed")
    points = points[points["predictor"].isin(known)].reset_index(drop=True)
    by = ["group", "quantity", "predictor", "phase"]
    across = Axis("x", "x", "{predictor}", is_logarithmic=True)
    title = f"{{quantity}} {FOR_UNITS}"
    upright = Axis("y", "value", f"{title} (J)", low="low", high="high")
    points, x = across.framed(with_text(points, "J"), by)
    points, y = upright.framed(points, by)
    points = with_labels(points, (x, y), by)
    table = pd.concat([points, _correlation_notes(analysis.correlations)], ignore_index=True)
    table = table[table["predictor"].isin(known)]
    base = chart().transform_filter("datum.mark == 'point'")
    base = base.encode(
        x=x.encoded(points, format="~s", tickCount=6, values=alt.Undefined, grid=False),
        color=phase_colour(),
        tooltip=tips(points, model="Model", x="{predictor}", text=title, n="Repeats"),
    )
    at = base.encode(y=y.encoded(points))
    circles = at.mark_point(filled=True, opacity=1, size=55)
    leads, names = name_layers(at)
    lines = y.interval_lines(base, points, 1.2)
    note = (
        chart()
        .transform_filter("datum.mark == 'note'")
        .mark_text(align="left", baseline="bottom", color=INK)
        .encode(x=alt.value(0), y=alt.value(-4), text="model:N")
    )
    selections = {name: _NAMES[name] for name in known}
    return Chart(
        name="predictors",
        caption=caption(
            means_text(points), "Lines are 95 % intervals.",
            Remark(
                "Above the points, Spearman's rank correlation over models with its 95 % interval.",
                {"mark": "note"},
            ),
            *axes_remarks(x, y), shared_remark(), unnamed_text(points),
        ),
        alt=f"Energy {FOR_UNITS} against {_NAMES[known[0]]}, one point per model.",
        specification=specification(
            alt.layer(leads, *lines, circles, *crosses(at, points), names, note)
        ),
        table=table,
        panels=PHASE_PANELS,
        selectors=(Selector("predictor", "Against", selections),),
    )  # fmt: skip


def _predictor_points(measured: pd.DataFrame) -> pd.DataFrame:
    """Return a row per model, phase, quantity and predictor that a logarithm can show."""
    parts = []
    for quantity in QUANTITIES:
        rows = interval_rows(measured, f"{quantity}_j_per_unit")
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
    views = [
        _time_view(points, "energy", "energy_j_per_unit", points["fitted_j_per_unit"]),
        _time_view(points, "residual", "residual_j_per_unit", 0.0 * points["fitted_j_per_unit"]),
    ]
    table = pd.concat([one for one in views if not one.empty], ignore_index=True)
    table = _with_measured_ends(table, analysis.tables.measurements)
    by = ["group", "phase", "quantity", "view"]
    title = f"{{view}} {FOR_UNITS}"
    table = with_text(with_text(table, "J"), "s", "x", "time_low", "time_high", into="time")
    across = Axis("x", "x", f"Time {FOR_UNITS} (s)", low="time_low", high="time_high", zero=True,
                  is_logarithmic=False)  # fmt: skip
    upright = Axis("y", "value", f"{title} (J)", low="low", high="high", zero=True,
                   is_logarithmic=False)  # fmt: skip
    table, x = across.framed(table, by)
    table, y = upright.framed(table, by)
    line = table.sort_values("x", kind="stable").drop(columns="value")
    table = with_labels(table, (x, y), by, lines=line.rename(columns={"fitted": "value"}))
    base = chart().encode(
        tooltip=tips(table, model="Model", time=f"Time {FOR_UNITS}", text=title, fitted="Line (J)",
                     n="Repeats"),
        color=phase_colour(),
    )  # fmt: skip
    at = base.encode(x=x.encoded(table), y=y.encoded(table))
    fit = chart().mark_line(color=QUIET, strokeDash=[5, 3], clip=True)
    fit = fit.encode(x=x.encoded(table), y=y.encoded(table, "fitted"), order="x:Q")
    intervals = [
        *y.interval_lines(base.encode(x=x.encoded(table)), table, 1),
        *x.interval_lines(base.encode(y=y.encoded(table)), table, 1),
    ]
    leads, names = name_layers(at)
    circles = at.mark_point(filled=True, opacity=1, size=55)
    return Chart(
        name="energy-time",
        caption=caption(
            means_text(table), "Lines are 95 % intervals, where they are wider than the point; the "
            "dashed line is the least-squares fit of all models.",
            *axes_remarks(x, y), shared_remark(), unnamed_text(table),
        ),
        alt=f"Energy {FOR_UNITS} against their time, one point per model, with a line.",
        specification=specification(
            alt.layer(fit, leads, *intervals, circles, *crosses(at, table), names)
        ),
        table=table,
        panels=PHASE_PANELS,
        selectors=(
            Selector("view", "Show", {"energy": "{quantity}", "residual": "Residual of the fit"}),
        ),
    )  # fmt: skip


def _time_view(
    points: pd.DataFrame, view: str, column: str, fitted: pd.Series[float]
) -> pd.DataFrame:
    """Return the points of a view of energy against time, all for :data:`PER` units."""
    table = points[["group", "phase", "quantity", "model"]].assign(
        view=view,
        x=PER * points["duration_s_per_unit"],
        value=PER * points[column],
        fitted=PER * fitted,
        energy=PER * points["energy_j_per_unit"],
    )
    return table[table["value"].notna()]


def _with_measured_ends(table: pd.DataFrame, measured: pd.DataFrame) -> pd.DataFrame:
    """Add the intervals of time and energy; that of a residual is as wide as that of its energy."""
    time = interval_rows(measured, "duration_s_per_unit").drop(columns=["value", "n"])
    time = time.rename(columns={"low": "time_low", "high": "time_high"})
    energy = pd.concat(
        [interval_rows(measured, f"{name}_j_per_unit").assign(quantity=name) for name in QUANTITIES]
    ).drop(columns=["value", "shared_runs"])
    table = table.merge(time, on=["group", "phase", "model"], how="left")
    table = table.merge(energy, on=["group", "phase", "model", "quantity"], how="left")
    offset = table["value"] - table.pop("energy")
    return table.assign(low=table["low"] + offset, high=table["high"] + offset)


def utilization(analysis: Analysis) -> Chart:
    """Chart GPU utilisation against power, sized by memory, with the knee (Fig. 4)."""
    points = analysis.utilization.drop(columns=[*READABLE, "above_knee"])
    points = points[points["power_w"].notna() & points["utilization_pct"].notna()]
    if points.empty:
        raise NothingToDraw("no GPU has both a measured utilisation and a known power")
    points = points.assign(mark="point")
    points = with_shared(points, analysis.tables.measurements, "group", "phase", "model")
    points = with_text(points, "W", "power_w", "power_w", "power_w", into="power")
    points["area"] = _areas(points["vram_gib"])
    by = ["group", "phase"]
    across, upright = (
        Axis("x", "power_w", "GPU power (W)", is_logarithmic=False),
        Axis("y", "utilization_pct", "GPU utilisation (%)", most=100.0, is_logarithmic=False),
    )
    points, x = across.framed(points, by)
    points, y = upright.framed(points, by)
    knees = analysis.knees[analysis.knees["shown"].fillna(False).astype(bool)]
    corners = knees[["group", "phase"]].assign(
        mark="knee",
        power_w=knees["knee_w"],
        low_w=knees["low_w"],
        high_w=knees["high_w"],
        fitted_pct=knees["intercept_pct"] + knees["slope_below_pct_per_w"] * knees["knee_w"],
    )
    corners = with_text(corners, "W", "power_w", "low_w", "high_w", into="power")
    fitted = pd.concat([points[points["fitted_pct"].notna()], corners])
    line = fitted.sort_values("power_w", kind="stable").drop(columns="utilization_pct")
    points = with_labels(
        points,
        (x, y),
        by,
        area="area",
        lines=line.rename(columns={"fitted_pct": "utilization_pct"}),
    )
    base = chart().encode(x=x.encoded(points))
    at = base.transform_filter("datum.mark == 'point'").encode(y=y.encoded(points))
    legend = alt.Legend(title="Peak GPU memory (GiB)", titleFontWeight="normal", tickCount=3)
    size = alt.Size("vram_gib:Q", scale=alt.Scale(range=_AREAS_PX, zero=True), legend=legend)
    circles = at.mark_point(filled=True, opacity=0.75, stroke="#ffffff", strokeWidth=1).encode(
        color=phase_colour(),
        size=size if points["vram_gib"].notna().any() else alt.value(_AREA_PX),
        tooltip=tips(points, model="Model", power="GPU power", utilization_pct="Utilisation (%)",
                     vram_gib="Peak memory (GiB)"),
    )  # fmt: skip
    fit = (
        base.transform_filter("isValid(datum.fitted_pct)")
        .mark_line(color=QUIET, strokeDash=[5, 3], clip=True)
        .encode(y=y.encoded(points, "fitted_pct"), order="power_w:Q")
    )
    bend = (
        base.transform_filter("datum.mark == 'knee'")
        .mark_rule(color=QUIET, strokeWidth=2, clip=True)
        .encode(
            x=x.encoded(points, "low_w"), x2="high_w:Q", y=y.encoded(points, "fitted_pct"),
            tooltip=[alt.Tooltip("power:N", title="Knee")],
        )
    )  # fmt: skip
    leads, names = name_layers(at)
    knee_text = (
        "The dashed line is the fit of two segments, and the thick line the 95 % interval of "
        "their joint, where utilisation levels off significantly."
    )
    return Chart(
        name="utilization",
        caption=caption(
            "Each point is the mean of a model's repeats.",
            "Its area is the peak GPU memory." if points["vram_gib"].notna().any() else "",
            Remark(knee_text, {"mark": "knee"})
            if len(corners)
            else "Nowhere does utilisation level off significantly.",
            shared_remark(), unnamed_text(points),
        ),
        alt="GPU utilisation against power, one point per model, sized by its peak GPU memory.",
        specification=specification(
            alt.layer(fit, bend, leads, circles, *crosses(at, points), names)
        ),
        table=pd.concat([points, corners]),
        panels=PHASE_PANELS,
    )  # fmt: skip


_AREA_PX, _AREAS_PX = 70, [30, 500]
"""Area of points without known memory, and areas for none and for the most memory."""


def _areas(vram_gib: pd.Series[float]) -> pd.Series[float]:
    """Return the areas of points, at most as large as in any view."""
    most = vram_gib.max()
    if not most > 0:
        return pd.Series(float(_AREA_PX), vram_gib.index)
    least, greatest = _AREAS_PX
    return least + (greatest - least) * (vram_gib.fillna(0.0) / most)


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
    by = ["group", "phase"]
    table = with_text(
        table, "J", "measured_j", "measured_low_j", "measured_high_j", into="measured"
    )
    table = with_text(table, "J", "predicted_j", "low_j", "high_j", into="predicted")
    across = Axis("x", "measured_j", "Measured energy of a step (J)", low="measured_low_j",
                  high="measured_high_j", also="predicted_j", is_logarithmic=True)  # fmt: skip
    upright = Axis("y", "predicted_j", "Predicted (J)", low="low_j", high="high_j",
                   also="measured_j", is_logarithmic=True)  # fmt: skip
    table, x = across.framed(table, by)
    table, y = upright.framed(table, by)
    line = table.assign(predicted_j=table["measured_j"]).sort_values("measured_j")
    table = with_labels(table, (x, y), by, lines=line)
    base = chart().encode(
        color=phase_colour(), tooltip=tips(table, model="Model", measured="Measured",
        predicted="Predicted"),
    )  # fmt: skip
    at = base.encode(x=x.encoded(table), y=y.encoded(table))
    intervals = [
        *y.interval_lines(base.encode(x=x.encoded(table)), table, 1.2),
        *x.interval_lines(base.encode(y=y.encoded(table)), table, 1.2),
    ]
    equal = (
        chart()
        .mark_line(strokeDash=[5, 3], color=QUIET, clip=True)
        .encode(x=x.encoded(table), y=y.encoded(table, "measured_j"), order="measured_j:Q")
    )
    leads, names = name_layers(at)
    circles = at.mark_point(filled=True, opacity=1, size=55)
    return Chart(
        name="predicted",
        caption=caption(
            "On the dashed line, both are equal. Vertical lines are 95 % intervals of the "
            "prediction, horizontal ones of the measurement.",
            *axes_remarks(x, y), unnamed_text(table),
        ),
        alt="Predicted against measured gross energy of a step, one point per model.",
        specification=specification(alt.layer(equal, leads, *intervals, circles, names)),
        table=table,
        panels=PHASE_PANELS,
    )  # fmt: skip


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
