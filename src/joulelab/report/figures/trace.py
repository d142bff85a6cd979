"""The power of single runs, as it was recorded, with their spans."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import altair as alt
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from joulelab.errors import TraceError
from joulelab.recording.trace import Trace, read_trace
from joulelab.report.figure import Choice, Figure, NothingToDraw
from joulelab.report.figures.marks import spoken, tips
from joulelab.report.scopes import Material
from joulelab.report.theme import (
    COMPONENT_COLOURS,
    COMPONENTS,
    NUMBER,
    PHASE_COLOURS,
    PHASES,
    chart,
    specification,
)
from joulelab.runs.store import RunRecord
from joulelab.runs.studies import NS
from joulelab.sensors.sensor import Quantity

MOST_RUNS = 64
"""So many runs have their trace on the page, if none is asked for."""

BUCKETS = 240
"""A screen shows no more: of each stretch the least and the greatest power are kept."""


def trace(material: Material, asked: Sequence[str] = ()) -> Figure:
    """Power against time of runs, by component, with their epochs.

    Args:
        material: Studies.
        asked: Ids of the runs; default: the first :data:`MOST_RUNS`, those of the first scopes
            before others.
    """
    tables = list(_tables(_runs(material, asked)))
    if not tables:
        raise NothingToDraw("no run has a trace of power that can be read")
    table = pd.concat(tables, ignore_index=True)
    kinds = [kind for kind in COMPONENTS if kind in set(table["component"])]
    x = alt.X("t_s:Q", title="Time (s)", axis=alt.Axis(format=NUMBER), scale=alt.Scale(nice=False))
    bands = (
        chart(height=240)
        .transform_filter("datum.mark == 'span'")
        .mark_rect(opacity=0.16)
        .encode(
            x=x,
            x2="stop_s:Q",
            color=alt.Color(
                "phase:N",
                scale=alt.Scale(domain=list(PHASE_COLOURS), range=list(PHASE_COLOURS.values())),
                legend=alt.Legend(labelExpr=spoken(PHASES)),
            ),
            tooltip=tips(phase="Phase", epoch="Epoch", t_s="From (s)", stop_s="To (s)"),
        )
    )
    lines = (
        chart(height=240)
        .transform_filter("datum.mark == 'power'")
        .mark_line(strokeWidth=1.3, interpolate="linear")
        .encode(
            x=x,
            y=alt.Y("power_w:Q", title="Power (W)", axis=alt.Axis(format=NUMBER)),
            color=alt.Color(
                "component:N",
                scale=alt.Scale(domain=kinds, range=[COMPONENT_COLOURS[kind] for kind in kinds]),
                legend=alt.Legend(labelExpr=spoken(COMPONENTS)),
            ),
            detail="part:N",
            order="t_s:Q",
        )
    )
    runs = {run: run for run in table["run"].unique()}
    return Figure(
        name="trace",
        title="Power of a run",
        caption="Shaded stretches are epochs. Of each stretch of time that a screen cannot "
        "resolve, the least and the greatest reading are drawn.",
        alt="Power of one run against time by component, with its epochs shaded.",
        chart=specification((bands + lines).resolve_scale(color="independent")),
        table=table,
        choices=(Choice("run", "Run", runs),),
    )


def _runs(material: Material, asked: Sequence[str]) -> list[RunRecord]:
    runs = [run for study in material.data.studies for run in study.cells()]
    if asked:
        wanted = set(asked)
        return [run for run in runs if run.run_id in wanted]
    return runs[:MOST_RUNS]


def _tables(runs: Sequence[RunRecord]) -> Iterator[pd.DataFrame]:
    for run in runs:
        try:
            recorded = read_trace(run.directory)
            lines = list(_lines(recorded))
        except (TraceError, OSError):
            continue
        if not lines:
            continue
        zero_s = min(line["t_s"].iloc[0] for line in lines)
        table = pd.concat([*lines, _epochs(run)], ignore_index=True)
        table["t_s"] -= zero_s
        table["stop_s"] -= zero_s
        yield table.assign(run=run.run_id)


def _lines(recorded: Trace) -> Iterator[pd.DataFrame]:
    """Power of each component from its preferred channel."""
    taken: set[str] = set()
    for i in sorted(range(len(recorded.channels)), key=lambda i: recorded.channels[i].priority):
        channel = recorded.channels[i]
        kind = channel.component.partition(":")[0]
        if not channel.gives_energy or channel.component in taken or kind not in COMPONENTS:
            continue
        t_s, power_w = power_of(channel.quantity, *recorded.series[i])
        if t_s.size:
            taken.add(channel.component)
            kept = extremes_kept(power_w, BUCKETS)
            yield pd.DataFrame(
                {
                    "mark": "power",
                    "component": kind,
                    "part": channel.component,
                    "t_s": t_s[kept],
                    "power_w": power_w[kept],
                }
            )


def power_of(
    quantity: Quantity, t_ns: NDArray[np.int64], value: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Times and powers that were read; of a counter, between its readings."""
    known = np.isfinite(value)
    t_s, value = np.asarray(t_ns[known] * NS, dtype=np.float64), value[known]
    if quantity is Quantity.POWER:
        return t_s, value
    later = np.diff(t_s) > 0
    risen = np.diff(value)[later]
    passed = np.diff(t_s)[later]
    # A counter that returned to zero tells nothing of that stretch.
    whole = risen >= 0
    return t_s[1:][later][whole], (risen / passed)[whole]


def extremes_kept(values: NDArray[np.float64], buckets: int) -> NDArray[np.intp]:
    """Positions of the least and greatest value of each bucket, in order.

    Args:
        values: Shape: (n,).
        buckets: Equal stretches to cut them into.

    Example:
        >>> extremes_kept(np.array([1.0, 9.0, 2.0, 3.0, 0.0, 4.0]), 2).tolist()
        [0, 1, 4, 5]
    """
    if values.size <= 2 * buckets:
        return np.arange(values.size)
    edges = np.linspace(0, values.size, buckets + 1).astype(np.intp)
    kept = [
        start + found
        for start, stop in pairwise(edges)
        for found in (values[start:stop].argmin(), values[start:stop].argmax())
    ]
    return np.unique(np.array(kept, dtype=np.intp))


def _epochs(run: RunRecord) -> pd.DataFrame:
    spans = [span for span in run.data["spans"] if span["name"] == "epoch"]
    return pd.DataFrame(
        {
            "mark": "span",
            "phase": [span["attributes"]["phase"] for span in spans],
            "epoch": [span["attributes"]["index"] + 1 for span in spans],
            "t_s": [span["start_ns"] * NS for span in spans],
            "stop_s": [span["stop_ns"] * NS for span in spans],
        }
    )
