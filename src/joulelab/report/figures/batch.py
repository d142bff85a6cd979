"""Energy against batch size (Fig. 7 of the paper)."""

from __future__ import annotations

import altair as alt
import pandas as pd

from joulelab.report.figure import Figure, NothingToDraw
from joulelab.report.figures.marks import PER, PHASE_PANELS, axis, names_beside, tips
from joulelab.report.labels import FRAMES_PX, with_sides
from joulelab.report.scopes import Material
from joulelab.report.theme import (
    INK,
    QUIET,
    SERIES_COLOURS,
    chart,
    drawn_low,
    logarithmic,
    specification,
)


def batch(material: Material) -> Figure:
    """Energy for 1,000 samples at each batch size, the best one of each model marked."""
    curves = material.of_families(material.answers.batch_curves)
    curves = curves[curves["estimate"].notna()]
    if curves.empty:
        raise NothingToDraw("no model ran at two batch sizes")
    table = curves[["family", "phase", "model", "quantity", "batch_size"]].assign(
        value=PER * curves["estimate"],
        low=PER * curves["low"],
        high=PER * curves["high"],
        least=curves["least"].astype("bool"),
        n=curves["n"],
    )
    table = table.sort_values(
        ["family", "phase", "quantity", "model", "batch_size"], kind="stable", ignore_index=True
    )
    table["drawn_low"] = drawn_low(
        table["low"], table["value"], on_logarithm=logarithmic(table["value"])
    )
    table = _with_names(table)
    sizes = sorted(table["batch_size"].unique().tolist())
    models = sorted(table["model"].unique())
    few = len(models) <= len(SERIES_COLOURS)
    # Names stand at the right end of many lines.
    room = 1.0 if few else (sizes[-1] / sizes[0]) ** 0.4
    base = chart().encode(
        x=alt.X(
            "batch_size:Q",
            title="Batch size",
            scale=alt.Scale(type="log", base=2, nice=False, domain=[sizes[0], sizes[-1] * room]),
            axis=alt.Axis(values=sizes, format=",d"),
        ),
        detail="model:N",
        color=alt.Color(
            "model:N",
            scale=alt.Scale(domain=models, range=list(SERIES_COLOURS)),
            legend=alt.Legend(columns=3),
        )
        if few
        else alt.value(QUIET),
        tooltip=tips(
            model="Model",
            batch_size="Batch size",
            value="{quantity} (J)",
            low="95 % from",
            high="to",
            n="Repeats",
        ),
    )
    title = f"{{quantity}} for {PER:,} samples (J)"
    y = alt.Y("value:Q", title=title, **axis(table["value"], zero=True))
    lines = base.mark_line(strokeWidth=1.6).encode(y=y)
    points = base.mark_point(filled=True, opacity=1, size=35).encode(y=y)
    whiskers = base.mark_rule(strokeWidth=1.2).encode(y="drawn_low:Q", y2="high:Q")
    best = base.transform_filter("datum.least")
    rings = best.mark_point(size=130, strokeWidth=1.8, opacity=1, filled=False).encode(
        y=y, color=alt.value(INK)
    )
    layers = [lines, whiskers, points, rings]
    if not few:
        layers.append(names_beside(base.transform_filter("datum.last").encode(y=y)))
    return Figure(
        name="batch-size",
        title="Energy against batch size",
        caption="A line a model, with 95 % intervals; a ring marks its batch size of least energy.",
        alt=f"Energy for {PER:,} samples against batch size, a line a model, the least marked.",
        chart=specification(alt.layer(*layers)),
        table=table,
        panels=PHASE_PANELS,
    )


def _with_names(table: pd.DataFrame) -> pd.DataFrame:
    """Marks the right end of each line and says whether there is room for a name beside it."""
    by = ["family", "phase", "quantity"]
    last = table.groupby([*by, "model"])["batch_size"].transform("max") == table["batch_size"]
    ends = table[last].assign(end=0.6)
    named = with_sides(ends, "end", "value", by, allowed=("E",))
    return table.assign(last=last).join(named[list(FRAMES_PX)])
