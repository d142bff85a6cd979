"""Predicted against measured energy, where a forecast was written into the study."""

from __future__ import annotations

from collections.abc import Iterator

import altair as alt
import pandas as pd

from joulelab.errors import StoreError
from joulelab.report.figure import Figure, NothingToDraw
from joulelab.report.figures.marks import PHASE_PANELS, names_beside, phase_colour, tips
from joulelab.report.labels import with_sides
from joulelab.report.scopes import Material, Scope
from joulelab.report.theme import NUMBER, QUIET, chart, specification, ticks
from joulelab.runs.studies import Study
from joulelab.stats.estimates import estimate

FILE = "predictions.parquet"
"""Written by ``joulelab predict --study``, beside the plan."""

_KEYS = ["model", "phase", "batch_size"]
_COLUMNS = [*_KEYS, "energy_per_step_j", "energy_low_j", "energy_high_j"]


def predicted(material: Material) -> Figure:
    """Gross energy of a step, predicted against measured, a point a model."""
    forecasts = {study.label: _predictions(study) for study in material.data.studies}
    tables = list(_compared(material, forecasts))
    if not tables:
        raise NothingToDraw(f"no study has a forecast ({FILE}) of what it measured")
    table = pd.concat(tables, ignore_index=True)
    table = with_sides(table, "measured_j", "predicted_j", ["scope", "phase"])
    marks = ticks(pd.concat([table["measured_j"], table["predicted_j"]]))
    scale = alt.Scale(type="log", nice=False, padding=12)
    base = chart().encode(
        x=alt.X("measured_j:Q", title="Measured gross energy of a step (J)", scale=scale,
                axis=alt.Axis(format=NUMBER, values=marks)),
        color=phase_colour(),
        tooltip=tips(model="Model", measured_j="Measured (J)", measured_low_j="95 % from",
                     measured_high_j="to", predicted_j="Predicted (J)", low_j="95 % from ",
                     high_j="to "),
    )  # fmt: skip
    y = alt.Y("predicted_j:Q", title="Predicted (J)", scale=scale,
              axis=alt.Axis(format=NUMBER, values=marks))  # fmt: skip
    circles = base.mark_point(filled=True, opacity=1, size=55).encode(y=y)
    upright = base.mark_rule(strokeWidth=1.2).encode(y="low_j:Q", y2="high_j:Q")
    across = base.mark_rule(strokeWidth=1.2).encode(
        x="measured_low_j:Q", x2="measured_high_j:Q", y=y
    )
    equal = base.mark_line(strokeDash=[5, 3]).encode(
        y="measured_j:Q", order="measured_j:Q", color=alt.value(QUIET)
    )
    return Figure(
        name="predicted",
        title="Predicted against measured energy",
        caption="On the dashed line both are equal. Vertical lines are the 95 % intervals of the "
        "prediction, horizontal ones of the measurement.",
        alt="Predicted against measured gross energy of a step, a point a model.",
        chart=specification(equal + upright + across + circles + names_beside(base.encode(y=y))),
        table=table,
        panels=PHASE_PANELS,
    )


def _predictions(study: Study) -> pd.DataFrame | None:
    path = study.directory / FILE
    if not path.exists():
        return None
    try:
        found = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} cannot be read", why=str(error)) from error
    missing = [name for name in _COLUMNS if name not in found]
    if missing:
        raise StoreError(
            f"{path} is no forecast",
            why=f"it lacks the column {missing[0]}",
            hint="write it anew with joulelab predict --study",
        )
    return found[_COLUMNS].astype({"model": "string", "phase": "string", "batch_size": "Int64"})


def _compared(
    material: Material, forecasts: dict[str, pd.DataFrame | None]
) -> Iterator[pd.DataFrame]:
    for scope in material.scopes:
        forecast = forecasts[scope.group.study]
        if forecast is None:
            continue
        joined = _measured(material, scope).merge(forecast.drop_duplicates(_KEYS), on=_KEYS)
        joined = joined[(joined["energy_per_step_j"] > 0) & (joined["measured_j"] > 0)]
        if not joined.empty:
            yield joined.rename(
                columns={
                    "energy_per_step_j": "predicted_j",
                    "energy_low_j": "low_j",
                    "energy_high_j": "high_j",
                }
            )


def _measured(material: Material, scope: Scope) -> pd.DataFrame:
    """Gross energy of a step over the repeats of each model and phase: a ratio of sums."""
    runs = material.runs_of(scope)
    rows = []
    for (model, phase, batch_size), part in runs.groupby(_KEYS, dropna=True):
        found = estimate(
            part["gross_j"].tolist(),
            per=part["steps"].astype("float64").tolist(),
            correlated=part["gross_correlated_uncertainty_j"].tolist(),
            independent=part["gross_independent_uncertainty_j"].tolist(),
        )
        rows.append((scope.key, model, phase, batch_size, found.value, found.low, found.high))
    columns = ["scope", *_KEYS, "measured_j", "measured_low_j", "measured_high_j"]
    table = pd.DataFrame(rows, columns=columns)
    return table.astype({"model": "string", "phase": "string", "batch_size": "Int64"})
