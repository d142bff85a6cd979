"""Mean power by component, and utilisation against power."""

from __future__ import annotations

import altair as alt
import pandas as pd

from joulelab.findings.words import number
from joulelab.report.figure import Figure, NothingToDraw
from joulelab.report.figures.marks import PHASE_PANELS, names_beside, phase_colour, spoken, tips
from joulelab.report.labels import with_sides
from joulelab.report.scopes import Material
from joulelab.report.theme import (
    COMPONENT_COLOURS,
    COMPONENTS,
    INK,
    NUMBER,
    QUIET,
    chart,
    rows_of,
    specification,
)

_GIB = 2**30


def power(material: Material) -> Figure:
    """Mean power by component, stacked, with idle power and the limit (Fig. 3 of the paper)."""
    powers = material.scoped(material.answers.component_power)
    parts = powers[powers["component"].isin(COMPONENTS)]
    if parts.empty:
        raise NothingToDraw("no component's power was measured or estimated")
    table = pd.concat([_stacked(parts), _idle(material, parts), _limits(parts)], ignore_index=True)
    kinds = [kind for kind in COMPONENTS if kind in set(parts["component"])]
    base = chart(height=rows_of(21))
    y = alt.Y("model:N", sort=None, title=None)
    bars = (
        base.transform_filter("datum.mark == 'component'")
        .mark_bar(height={"band": 0.7})
        .encode(
            x=alt.X("power_w:Q", stack=True, title="Mean power (W)", axis=alt.Axis(format=NUMBER)),
            y=y,
            color=alt.Color(
                "component:N",
                scale=alt.Scale(domain=kinds, range=[COMPONENT_COLOURS[kind] for kind in kinds]),
                legend=alt.Legend(labelExpr=spoken(COMPONENTS)),
            ),
            order=alt.Order("rank:Q"),
            tooltip=tips(model="Model", component="Component", power_w="Mean power (W)"),
        )
    )
    idle = (
        base.transform_filter("datum.mark == 'idle'")
        .mark_tick(thickness=2, color=INK, bandSize=15)
        .encode(x="power_w:Q", y=y, tooltip=tips(model="Model", power_w="Idle power (W)"))
    )
    limit = base.transform_filter("datum.mark == 'limit'")
    line = limit.mark_rule(strokeDash=[5, 3], color=QUIET).encode(x="power_w:Q")
    name = limit.mark_text(align="right", baseline="bottom", dx=4, dy=-3, color=INK).encode(
        x="power_w:Q", y=alt.value(0), text="component:N"
    )
    return Figure(
        name="power",
        title="Mean power by component",
        caption="The dark tick is the idle power of the same components at that time; the dashed "
        "line is what the component stacked first may draw.",
        alt="Mean power of each model by component, stacked, in training and in inference.",
        chart=specification(bars + idle + line + name),
        table=table,
        panels=PHASE_PANELS,
    )


def _stacked(parts: pd.DataFrame) -> pd.DataFrame:
    """A row a bar; models of the greatest power come first."""
    rank = {kind: place for place, kind in enumerate(COMPONENTS)}
    together = parts.groupby(["scope", "phase", "model"])["power_w"].transform("sum")
    ordered = parts.assign(mark="component", rank=parts["component"].map(rank), sum_w=together)
    ordered = ordered.sort_values(
        ["scope", "phase", "sum_w", "model", "rank"], ascending=[True, True, False, True, True]
    )
    return ordered[["scope", "phase", "model", "mark", "component", "power_w", "rank"]]


def _idle(material: Material, parts: pd.DataFrame) -> pd.DataFrame:
    rows = material.summary[material.summary["idle_power_w"].notna()]
    rows = rows.merge(parts[["scope", "phase", "model"]].drop_duplicates())
    return rows[["scope", "phase", "model"]].assign(mark="idle", power_w=rows["idle_power_w"])


def _limits(parts: pd.DataFrame) -> pd.DataFrame:
    """A line a scope and phase: the limit of the component that is stacked first.

    Only there a bar's end can be compared with it.
    """
    known = parts[parts["limit_w"].notna()]
    firsts = parts.groupby("scope")["component"].agg(
        lambda kinds: next(kind for kind in COMPONENTS if kind in set(kinds))
    )
    known = known[known["component"] == known["scope"].map(firsts)]
    known = known.drop_duplicates(["scope", "phase"])
    limits = zip(known["limit"].tolist(), known["limit_w"].tolist(), strict=True)
    words = [f"{name} {number(power_w)} W" for name, power_w in limits]
    return pd.DataFrame(
        {
            "scope": known["scope"],
            "phase": known["phase"],
            "mark": "limit",
            "component": words,
            "power_w": known["limit_w"],
        }
    )


def utilization(material: Material) -> Figure:
    """Utilisation of the GPU against its power, sized by memory, with the knee (Fig. 4)."""
    points = material.scoped(material.answers.utilization)
    points = points[points["power_w"].notna() & points["utilization_pct"].notna()]
    if points.empty:
        raise NothingToDraw("no GPU's utilisation was measured beside its power")
    points = points.assign(mark="point", vram_gib=points["vram_peak_bytes"].astype(float) / _GIB)
    points = with_sides(points, "power_w", "utilization_pct", ["scope", "phase"])
    knees = material.scoped(material.answers.knees)
    knees = knees[knees["shown"].fillna(False).astype(bool)]
    corners = knees[["scope", "phase"]].assign(
        mark="knee",
        power_w=knees["knee_w"],
        low_w=knees["low_w"],
        high_w=knees["high_w"],
        fitted_pct=knees["intercept_pct"] + knees["slope_below_pct_per_w"] * knees["knee_w"],
    )
    table = pd.concat([points.drop(columns=["vram_peak_bytes", "above_knee"]), corners])
    base = chart().encode(
        x=alt.X("power_w:Q", title="GPU power (W)", scale=alt.Scale(zero=False, padding=14)),
    )
    y = alt.Y("utilization_pct:Q", title="GPU utilisation (%)", scale=alt.Scale(zero=False))
    marks = base.transform_filter("datum.mark == 'point'").encode(y=y)
    sized = bool(points["vram_gib"].notna().any())
    circles = marks.mark_point(filled=True, opacity=0.75, stroke="#ffffff", strokeWidth=1).encode(
        color=phase_colour(),
        size=alt.Size(
            "vram_gib:Q",
            scale=alt.Scale(range=[30, 500], zero=True),
            legend=alt.Legend(
                title="Peak of GPU memory (GiB)", titleFontWeight="normal", tickCount=3
            ),
        )
        if sized
        else alt.value(70),
        tooltip=tips(
            model="Model",
            power_w="GPU power (W)",
            utilization_pct="Utilisation (%)",
            vram_gib="Peak of memory (GiB)",
        ),
    )
    knee = base.transform_filter("datum.mark == 'knee'")
    fit = (
        base.transform_filter("isValid(datum.fitted_pct)")
        .mark_line(color=QUIET, strokeDash=[5, 3])
        .encode(y="fitted_pct:Q", order="power_w:Q")
    )
    bend = knee.mark_rule(color=QUIET, strokeWidth=2).encode(
        x="low_w:Q",
        x2="high_w:Q",
        y="fitted_pct:Q",
        tooltip=tips(power_w="Knee (W)", low_w="95 % from", high_w="to"),
    )
    return Figure(
        name="utilization",
        title="Utilisation against power",
        caption="Each point is a model. Where a knee is shown, the dashed line is the fit of two "
        "segments and the thick line the knee's 95 % interval.",
        alt="Utilisation of the GPU against its power, a point a model, sized by the peak of GPU "
        "memory.",
        chart=specification(fit + bend + circles + names_beside(marks)),
        table=table,
        panels=PHASE_PANELS,
    )
