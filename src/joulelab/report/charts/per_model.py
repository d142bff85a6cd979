"""Charts of one row per model: energy, time, and ratios between phases and machines."""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas as pd

from joulelab.findings import schema
from joulelab.findings.all import Analysis
from joulelab.findings.schema import PHASE_PAIRS, READABLE
from joulelab.format import ratio_with_interval
from joulelab.report.charts.axes import Axis, Framed, axes_remarks
from joulelab.report.charts.chart import Chart, NothingToDraw, Remark, Selector, Single
from joulelab.report.charts.style import (
    FOR_UNITS,
    PHASE_PANELS,
    PHASES,
    QUANTITIES,
    SERIES_COLOURS,
    caption,
    chart,
    crosses,
    extremes,
    interval_rows,
    means_text,
    phase_colour,
    shared_remark,
    specification,
    tips,
    with_shared,
    with_text,
)

_RATIOS = {"time": "time", "net": "energy net of idle", "gross": "gross energy"}
_INTERVALS = "Lines are 95 % intervals."
_ROW_PX = 21
_PAIR_ROW_PX = 27
"""Height of a row with a point for each phase."""


def energy(analysis: Analysis) -> Chart:
    """Chart energy for 1,000 samples or tokens, net of idle and gross, with 95 % intervals."""
    measured = analysis.tables.measurements
    parts = {name: interval_rows(measured, f"{name}_j_per_unit") for name in QUANTITIES}
    table = pd.concat(
        [part.assign(quantity=name) for name, part in parts.items()], ignore_index=True
    )
    if table.empty:
        raise NothingToDraw("no run has a measured or estimated energy")
    title = f"{{quantity}} {FOR_UNITS}"
    table = with_text(table, "J")
    table, axis = _axis(f"{title} (J)").framed(table, ["group", "quantity", "phase"])
    table = table.sort_values(["group", "quantity", "phase", "value"], kind="stable")
    view = _dots(table, axis, phase_colour(), tips(table, model="Model", text=title, n="Repeats"))
    return Chart(
        name="energy",
        caption=caption(
            "The most efficient model is at the top.", means_text(table), _INTERVALS,
            *axes_remarks(axis), shared_remark(),
        ),
        alt=f"Energy {FOR_UNITS} of each model in each phase, with intervals. "
        f"{extremes(table, 'uses')}",
        specification=specification(view),
        table=table,
        panels=PHASE_PANELS,
        single=Single(),
    )  # fmt: skip


def _axis(title: str, also: str = "") -> Axis:
    return Axis("x", "value", title, low="low", high="high", zero=True, also=also)


def duration(analysis: Analysis) -> Chart:
    """Chart time for 1,000 samples or tokens in each phase (Fig. 2 of the paper)."""
    table = interval_rows(analysis.tables.measurements, "duration_s_per_unit")
    if table.empty:
        raise NothingToDraw("no run has a known duration")
    rank = table["phase"].map(list(PHASES).index)
    table = table.assign(rank=rank).sort_values(["group", "rank", "value"], kind="stable")
    title = f"Time {FOR_UNITS}"
    table, axis = _axis(f"{title} (s)").framed(with_text(table, "s"), ["group"])
    view = _dots(
        table,
        axis,
        phase_colour(set(table["phase"])),
        tips(table, model="Model", phase="Phase", text=title, n="Repeats"),
        row_px=_PAIR_ROW_PX if table["phase"].nunique() > 1 else _ROW_PX,
        yOffset=alt.YOffset("phase:N", sort=list(PHASES), scale=alt.Scale(padding=0.4)),
    )
    return Chart(
        name="duration",
        caption=caption(
            means_text(table), "Lines are 95 % intervals of the variation between repeats.",
            *axes_remarks(axis), shared_remark(),
        ),
        alt=f"Time {FOR_UNITS} of each model in each phase. "
        f"{extremes(table, 'takes')}",
        specification=specification(view),
        table=table,
        single=Single(part="phase", parts=schema.PHASES),
    )  # fmt: skip


def ratio(analysis: Analysis) -> Chart:
    """Chart one phase over another for each model, with the rule of thumb if there is one."""
    table = analysis.phase_ratios.drop(columns=list(READABLE))
    table = table.rename(columns={"estimate": "value", "quantity": "of"})
    if table.empty:
        raise NothingToDraw("no model has two phases that are compared, as training and inference")
    table = table.assign(pair=table["first"] + "-" + table["second"])
    table = table.drop(columns=["first", "second"])
    table = with_shared(table, analysis.tables.measurements, "group", "model")
    table = table.sort_values(["group", "pair", "of", "value"], kind="stable", ignore_index=True)
    pairs = {
        f"{pair.first}-{pair.second}": f"{PHASES[pair.first]} over {schema.PHASES[pair.second]}"
        for pair in PHASE_PAIRS
    }
    present = {pair: name for pair, name in pairs.items() if (table["pair"] == pair).any()}
    table = _with_ratio_text(table)
    title = "{pair}, {of} per {unit}"
    table, axis = _axis(title, also="rule").framed(table, ["group", "pair", "of"])
    view = _dots(
        table,
        axis,
        SERIES_COLOURS[2],
        tips(table, model="Model", text=title, n="Repeats"),
    )
    rules = {
        3.0: "The dashed line is the rule of thumb that training takes 3 times as long as "
        "inference or prefill.",
        1.0: "Of decoding over prefill, the dashed line is where both are equal.",
    }
    return Chart(
        name="ratio",
        caption=caption(
            means_text(table, "ratios of means"),
            *(Remark(text, {"rule": rule}) for rule, text in rules.items()),
            _INTERVALS, *axes_remarks(axis), shared_remark(),
        ),
        alt="Ratio of one phase to another for each model, with intervals and a dashed line at "
        "the rule of thumb.",
        specification=specification(_dashed_line("rule") + view),
        table=table,
        selectors=(Selector("of", "Ratio of", _RATIOS), Selector("pair", "Phases", present)),
        single=Single(),
    )  # fmt: skip


def machines(analysis: Analysis) -> Chart:
    """Chart each model's energy and time per unit on each machine over the reference."""
    table = analysis.side_by_side.rename(columns={"quantity": "of", "ratio": "value"})
    table = table[table["value"].notna()]
    if table.empty:
        raise NothingToDraw("no model ran on two machines with the same settings")
    table = _with_ratio_text(table.drop(columns="unit").assign(one=1.0))
    table = table.sort_values(["of", "phase", "value"], ignore_index=True)
    title = "Ratio to the reference, {of} per {unit}"
    table, axis = _axis(title, also="one").framed(table, ["of", "phase", "setting"])
    names = sorted(table["machine"].unique())
    view = _dots(
        table,
        axis,
        alt.Color(
            "machine:N",
            scale=alt.Scale(domain=names, range=list(SERIES_COLOURS)),
            legend=alt.Legend(columns=2),
        ),
        tips(table, model="Model", machine="Machine", reference="Reference", setting="Setting",
             text="Ratio, {of} per {unit}"),
        yOffset=alt.YOffset("machine:N", scale=alt.Scale(padding=0.3)),
    )  # fmt: skip
    ratios = {name: _RATIOS[name] for name in ("net", "gross", "time")}
    settings = {name: name for name in table["setting"].unique()}
    return Chart(
        name="machines",
        caption=caption(
            f"The reference is {table['reference'].iloc[0]}. Left of the dashed line, a machine "
            "needs less.",
            _INTERVALS, *axes_remarks(axis),
        ),
        alt="Energy and time of each model on each machine over those on the reference.",
        specification=specification(_dashed_line("one") + view),
        table=table,
        panels=PHASE_PANELS,
        selectors=(Selector("of", "Ratio of", ratios), Selector("setting", "Setting", settings)),
    )  # fmt: skip


def _with_ratio_text(table: pd.DataFrame) -> pd.DataFrame:
    """Add the column ``text``: each ratio with its interval."""
    columns = (table[name].astype("float64").tolist() for name in ("value", "low", "high"))
    texts = [ratio_with_interval(*row) for row in zip(*columns, strict=True)]
    return table.assign(text=pd.Series(texts, table.index, dtype="str"))


def _dots(
    table: pd.DataFrame,
    axis: Framed,
    colour: str | alt.Color,
    tooltip: list[alt.Tooltip],
    *,
    row_px: int = _ROW_PX,
    **more: Any,
) -> alt.LayerChart:
    """Draw a point and an interval for each row; disturbed ones are crossed out."""
    base = chart(height=alt.Step(row_px)).encode(
        y=alt.Y("model:N", sort=None, title=None),
        color=alt.value(colour) if isinstance(colour, str) else colour,
        tooltip=tooltip,
        **more,
    )
    x = axis.encoded(table)
    points = base.mark_point(filled=True, opacity=1, size=60).encode(x=x)
    return alt.LayerChart(
        layer=[*axis.interval_lines(base, table, 1.6), points, *crosses(base.encode(x=x), table)]
    )


def _dashed_line(column: str) -> alt.Chart:
    """Draw a vertical line across the dots at the value of a constant column."""
    line: alt.Chart = chart(height=alt.Step(_ROW_PX)).mark_rule(strokeDash=[5, 3])
    return line.encode(x=f"min({column}):Q")
