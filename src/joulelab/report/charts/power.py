"""Charts of power: its mean by component, and its course during single runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import altair as alt
import numpy as np
import pandas as pd

from joulelab.arrays import Floats, Integers
from joulelab.errors import TraceError
from joulelab.findings.all import Analysis
from joulelab.format import quantity
from joulelab.recording.trace import Trace, read_trace
from joulelab.report.charts.chart import Chart, NothingToDraw, Remark, Selector, Single
from joulelab.report.charts.reduction import reduced_positions
from joulelab.report.charts.style import (
    COMPONENTS,
    INK,
    NUMBER,
    PHASE_PANELS,
    QUIET,
    caption,
    chart,
    component_colour,
    crosses,
    phase_colour,
    shared_remark,
    specification,
    tips,
    with_shared,
    with_text,
)
from joulelab.runs.record import Run, read_run
from joulelab.runs.study_runs import Study
from joulelab.sensors.sensor import Quantity

MOST_RUNS = 64
"""The number of runs whose trace is on the page by default."""

BUCKETS = 120
"""A trace is cut into this number of parts; at most four readings of each are drawn."""

IDLE = "idle"
"""Stands in the column of components for idle power."""

_NS = 1e-9


def power(analysis: Analysis) -> Chart:
    """Chart mean power by component, stacked, with idle power and the limit (Fig. 3)."""
    powers = analysis.component_power
    parts = powers[powers["component"].isin(COMPONENTS)]
    if parts.empty:
        raise NothingToDraw("no component has a measured or estimated power")
    idle = _idle(analysis.tables.measurements, parts)
    limits = _limits(parts)
    stacked = with_shared(_stacked(parts), analysis.tables.measurements, "group", "phase", "model")
    stacked = with_text(stacked, "W", "power_w", "power_w", "power_w", into="power")
    idle = with_text(idle, "W", "power_w", "power_w", "power_w", into="power")
    table = pd.concat([stacked, idle, limits], ignore_index=True)
    base = chart(height=alt.Step(21))
    y = alt.Y("model:N", sort=None, title=None)
    bars = (
        base.transform_filter("datum.mark == 'component'")
        .mark_bar(height={"band": 0.7})
        .encode(
            x=alt.X("power_w:Q", stack=True, title="Mean power (W)", axis=alt.Axis(format=NUMBER)),
            y=y,
            color=component_colour(set(parts["component"])),
            order=alt.Order("rank:Q"),
            tooltip=tips(stacked, model="Model", component="Component", power="Mean power"),
        )
    )
    ticks = (
        base.transform_filter("datum.mark == 'idle'")
        .mark_tick(thickness=2, color=INK, bandSize=15)
        .encode(x="power_w:Q", y=y, tooltip=tips(idle, model="Model", power="Idle power"))
    )
    # A cross at the left end of the bar.
    first = base.transform_filter("datum.rank == 0").encode(x=alt.value(8), y=y)
    limit = base.transform_filter("datum.mark == 'limit'")
    line = limit.mark_rule(strokeDash=[5, 3], color=QUIET).encode(x="power_w:Q")
    name = limit.mark_text(align="right", baseline="bottom", dx=4, dy=-3, color=INK).encode(
        x="power_w:Q", y=alt.value(0), text="component:N"
    )
    return Chart(
        name="power",
        caption=caption(
            "Bars are means over repeats; they start at zero and have no intervals.",
            Remark(
                "A dark tick is the idle power of the same components at that time.",
                {"mark": "idle"},
            )
            if len(idle)
            else "Idle power is not known.",
            Remark("A dashed line is the limit of the leftmost component.", {"mark": "limit"}),
            shared_remark("crossed bar"),
        ),
        alt="Mean power of each model by component, stacked, in each phase.",
        specification=specification(alt.layer(bars, ticks, line, name, *crosses(first, stacked))),
        table=table,
        panels=PHASE_PANELS,
        single=Single(text="power", part="component", parts=COMPONENTS | {IDLE: "idle"}),
    )


def _stacked(parts: pd.DataFrame) -> pd.DataFrame:
    """Return one row per bar, the models of the greatest power first."""
    rank = {kind: place for place, kind in enumerate(COMPONENTS)}
    together = parts.groupby(["group", "phase", "model"])["power_w"].transform("sum")
    ordered = parts.assign(mark="component", rank=parts["component"].map(rank), sum_w=together)
    ordered = ordered.sort_values(
        ["group", "phase", "sum_w", "model", "rank"], ascending=[True, True, False, True, True]
    )
    return ordered[["group", "phase", "model", "mark", "component", "power_w", "rank"]]


def _idle(measured: pd.DataFrame, parts: pd.DataFrame) -> pd.DataFrame:
    rows = measured[measured["idle_power_w"].notna()]
    rows = rows.merge(parts[["group", "phase", "model"]].drop_duplicates())
    return rows[["group", "phase", "model"]].assign(
        mark="idle", component=IDLE, power_w=rows["idle_power_w"]
    )


def _limits(parts: pd.DataFrame) -> pd.DataFrame:
    """Return the limit of the component that is stacked first: only its bars start at zero."""
    known = parts[parts["limit_w"].notna()]
    firsts = parts.groupby("group")["component"].agg(
        lambda kinds: next(kind for kind in COMPONENTS if kind in set(kinds))
    )
    known = known[known["component"] == known["group"].map(firsts)]
    known = known.drop_duplicates(["group", "phase"])
    limits = zip(known["limit"].tolist(), known["limit_w"].tolist(), strict=True)
    names = [f"{name} {quantity(power_w, 'W')}" for name, power_w in limits]
    return known[["group", "phase", "power_w"]].assign(
        mark="limit", component=names, power_w=known["limit_w"]
    )


def trace(analysis: Analysis, run_ids: Sequence[str] = ()) -> Chart:
    """Chart power over time of runs (the first ones by default), with their epochs."""
    tables = list(_traces(_runs(analysis.tables.studies, run_ids)))
    if not tables:
        raise NothingToDraw("no run has a readable trace of power")
    table = pd.concat(tables, ignore_index=True)
    x = alt.X("t_s:Q", title="Time (s)", axis=alt.Axis(format=NUMBER), scale=alt.Scale(nice=False))
    bands = (
        chart(height=240)
        .transform_filter("datum.mark == 'span'")
        .mark_rect(opacity=0.16)
        .encode(
            x=x,
            x2="stop_s:Q",
            color=phase_colour(set(table["phase"].dropna())),
            tooltip=tips(table, phase="Phase", epoch="Epoch", t_s="From (s)", stop_s="To (s)"),
        )
    )
    lines = (
        chart(height=240)
        .transform_filter("datum.mark == 'power'")
        .mark_line(strokeWidth=1.3, interpolate="linear")
        .encode(
            x=x,
            y=alt.Y("power_w:Q", title="Power (W)", axis=alt.Axis(format=NUMBER)),
            color=component_colour(set(table["component"])),
            detail="part:N",
            order="t_s:Q",
        )
    )
    runs = {run: run for run in table["run"].unique()}
    return Chart(
        name="trace",
        caption=caption(
            Remark("Shaded areas are epochs.", {"mark": "span"}),
            "Where readings are denser than the screen, the least and the greatest of each "
            "stretch are drawn.",
        ),
        alt="Power of one run over time by component, with its epochs shaded.",
        specification=specification((bands + lines).resolve_scale(color="independent")),
        table=table,
        selectors=(Selector("run", "Run", runs),),
    )


def _runs(studies: Sequence[Study], run_ids: Sequence[str]) -> list[Run]:
    runs = [run for study in studies for run in study.cells()]
    if run_ids:
        return [run for run in runs if run.id in set(run_ids)]
    return runs[:MOST_RUNS]


def _traces(runs: Sequence[Run]) -> Iterator[pd.DataFrame]:
    for run in runs:
        try:
            lines = list(_lines(read_trace(run.directory)))
        except (TraceError, OSError):
            continue
        if not lines:
            continue
        zero_s = min(line["t_s"].iloc[0] for line in lines)
        table = pd.concat([*lines, _epochs(read_run(run.directory))], ignore_index=True)
        table["t_s"] -= zero_s
        table["stop_s"] -= zero_s
        yield table.assign(run=run.id)


def _lines(recorded: Trace) -> Iterator[pd.DataFrame]:
    """Yield the power of each component from its preferred channel."""
    taken: set[str] = set()
    for i in sorted(range(len(recorded.channels)), key=lambda i: recorded.channels[i].priority):
        channel = recorded.channels[i]
        kind = channel.component.partition(":")[0]
        if not channel.gives_energy or channel.component in taken or kind not in COMPONENTS:
            continue
        t_s, power_w = power_of(channel.quantity, *recorded.series[i])
        if t_s.size:
            taken.add(channel.component)
            drawn = reduced_positions(t_s, power_w, BUCKETS)
            yield pd.DataFrame(
                {
                    "mark": "power",
                    "component": kind,
                    "part": channel.component,
                    "t_s": t_s[drawn],
                    "power_w": power_w[drawn],
                }
            )


def power_of(quantity: Quantity, t_ns: Integers, value: Floats) -> tuple[Floats, Floats]:
    """Return times and powers of readings; of a counter, between its readings."""
    known = np.isfinite(value)
    t_s, value = np.asarray(t_ns[known] * _NS, dtype=np.float64), value[known]
    if quantity is Quantity.POWER:
        return t_s, value
    later = np.diff(t_s) > 0
    risen = np.diff(value)[later]
    passed = np.diff(t_s)[later]
    # A counter that was reset gives no power for that stretch.
    whole = risen >= 0
    return t_s[1:][later][whole], (risen / passed)[whole]


def _epochs(run: Run) -> pd.DataFrame:
    spans = [span for span in (run.study.spans if run.study else ()) if span.name == "epoch"]
    return pd.DataFrame(
        {
            "mark": "span",
            "phase": [span.attributes["phase"] for span in spans],
            "epoch": [span.attributes["index"] + 1 for span in spans],
            "t_s": [span.start_ns * _NS for span in spans],
            "stop_s": [span.stop_ns * _NS for span in spans],
        }
    )
