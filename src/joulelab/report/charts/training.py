"""Charts of training: batch sizes, epochs, accuracy, and what the last epochs gained."""

from __future__ import annotations

import altair as alt
import pandas as pd

from joulelab.findings.all import Analysis
from joulelab.findings.schema import READABLE
from joulelab.report.charts.chart import Chart, NothingToDraw, Selector
from joulelab.report.charts.point_labels import FRAMES_PX, with_sides
from joulelab.report.charts.style import (
    FOR_UNITS,
    INK,
    NUMBER,
    PER,
    PHASE_COLOURS,
    PHASE_PANELS,
    QUANTITIES,
    QUIET,
    SERIES_COLOURS,
    axis,
    chart,
    interval_lines,
    interval_tips,
    model_colour,
    model_names,
    phase_colour,
    specification,
    tips,
    with_drawn_ends,
)

_KEY = list(READABLE)
_MEASURES = {
    "loss": "Training loss",
    "accuracy_pct": "Accuracy (%)",
    "energy": "Energy so far (J)",
}
_WHOLE_TICKS = alt.ExprRef("min(ceil(width / 75), domain('x')[1] - domain('x')[0])")
"""Number of ticks of an axis of whole numbers."""

_ACCURACY_PANELS = Selector(
    "phase", "Phase", {"train": "Whole training", "infer": "Inference, one sample"}
)


def batch_sizes(analysis: Analysis) -> Chart:
    """Chart energy for 1,000 samples or tokens at each batch size (Fig. 7 of the paper)."""
    curves = analysis.batch_curves
    curves = curves[curves["estimate"].notna()]
    if curves.empty:
        raise NothingToDraw("no model ran at two batch sizes")
    table = curves[["family", "phase", "model", "quantity", "batch_size"]].assign(
        value=PER * curves["estimate"],
        low=PER * curves["low"],
        high=PER * curves["high"],
        best=curves["best"].astype("bool"),
        n=curves["n"],
    )
    table = table.sort_values(
        ["family", "phase", "quantity", "model", "batch_size"], kind="stable", ignore_index=True
    )
    table = _with_names(with_drawn_ends(table))
    sizes = sorted(table["batch_size"].unique().tolist())
    models = sorted(table["model"].unique())
    few = len(models) <= len(SERIES_COLOURS)
    # The names of many lines are written at their right ends.
    room = 1.0 if few else (sizes[-1] / sizes[0]) ** 0.4
    base = chart().encode(
        x=alt.X(
            "batch_size:Q",
            title="Batch size",
            scale=alt.Scale(type="log", base=2, nice=False, domain=[sizes[0], sizes[-1] * room]),
            axis=alt.Axis(values=sizes, format=",d"),
        ),
        detail="model:N",
        color=model_colour(models),
        tooltip=tips(model="Model", batch_size="Batch size", value="{quantity} (J)",
                     **interval_tips("J"), n="Repeats"),
    )  # fmt: skip
    title = f"{{quantity}} {FOR_UNITS} (J)"
    y = alt.Y(
        "value:Q", title=title, **axis(pd.concat([table["value"], table["drawn_high"]]), zero=True)
    )
    lines = base.mark_line(strokeWidth=1.6).encode(y=y)
    points = base.mark_point(filled=True, opacity=1, size=35).encode(y=y)
    whiskers = interval_lines(base, "y", 1.2)
    best = base.transform_filter("datum.best")
    rings = best.mark_point(size=130, strokeWidth=1.8, opacity=1, filled=False).encode(
        y=y, color=alt.value(INK)
    )
    layers = [lines, *whiskers, points, rings]
    if not few:
        layers.append(model_names(base.transform_filter("datum.last").encode(y=y)))
    return Chart(
        name="batch-size",
        caption="One line per model, with 95 % intervals; a ring marks its best batch size.",
        alt=f"Energy {FOR_UNITS} against batch size, one line per model, the best marked.",
        specification=specification(alt.layer(*layers)),
        table=table,
        panels=PHASE_PANELS,
    )


def _with_names(table: pd.DataFrame) -> pd.DataFrame:
    """Mark the right end of each line, and whether there is room for a name."""
    by = ["family", "phase", "quantity"]
    last = table.groupby([*by, "model"])["batch_size"].transform("max") == table["batch_size"]
    ends = table[last].assign(end=0.6)
    named = with_sides(ends, "end", "value", by, allowed=("E",))
    return table.assign(last=last).join(named[list(FRAMES_PX)])


def epochs(analysis: Analysis) -> Chart:
    """Chart loss, accuracy and energy by epoch: mean and range over models (Fig. 5)."""
    ranges = analysis.epoch_ranges.drop(columns=_KEY)
    ranges = ranges[(ranges["phase"] == "train") & ranges["mean"].notna()]
    known = ranges.assign(epoch=ranges["epoch"] + 1)
    if known.empty or known["epoch"].max() < 2:
        raise NothingToDraw("no training run has two complete epochs")
    parts = []
    for quantity in QUANTITIES:
        energy = known[known["quantity"] == f"{quantity}_j"].assign(measure="energy")
        others = known[known["quantity"].isin(["loss", "accuracy_pct"])]
        others = others.assign(measure=others["quantity"])
        parts.append(pd.concat([energy, others]).assign(quantity=quantity))
    table = pd.concat(parts, ignore_index=True)
    present = set(table["measure"])
    measures = {name: title for name, title in _MEASURES.items() if name in present}
    base = chart(height=190).encode(
        x=alt.X("epoch:Q", title="Epoch", axis=alt.Axis(format="d", tickCount=_WHOLE_TICKS),
                scale=alt.Scale(zero=False, nice=False)),
        tooltip=tips(epoch="Epoch", mean="Mean over models", least="Least", most="Most",
                     n="Models"),
    )  # fmt: skip
    y = alt.Y(
        "mean:Q", title="{measure}", axis=alt.Axis(format=NUMBER), scale=alt.Scale(zero=False)
    )
    colour = PHASE_COLOURS["train"]
    band = base.mark_area(color=colour, opacity=0.18).encode(y="least:Q", y2="most:Q")
    line = base.mark_line(color=colour, strokeWidth=2).encode(y=y)
    points = base.mark_point(color=colour, filled=True, opacity=1, size=25).encode(y=y)
    return Chart(
        name="epochs",
        caption="The line is the mean over models, the band their range, up to the last epoch that "
        "all runs of all models completed. Energy is added up from the first epoch on.",
        alt="Mean and range over models of loss, accuracy and accumulated energy by epoch of "
        "training.",
        specification=specification(band + line + points),
        table=table,
        panels=Selector("measure", "Measure", measures),
    )


def accuracy(analysis: Analysis) -> Chart:
    """Chart accuracy against energy, with the Pareto front of models."""
    points = analysis.accuracy.drop(columns=_KEY)
    points = points[points["energy_j"].notna() & points["accuracy_pct"].notna()]
    if points.empty:
        raise NothingToDraw("no model has both a known accuracy and a known energy")
    points = points.assign(on_front=points["on_front"].fillna(False).astype(bool))
    points = points.sort_values(["group", "quantity", "phase", "energy_j"], ignore_index=True)
    table = with_sides(points, "energy_j", "accuracy_pct", ["group", "quantity", "phase"])
    table = with_drawn_ends(table, "energy_j", "energy_low_j", "energy_high_j")
    base = chart().encode(
        y=alt.Y("accuracy_pct:Q", title="Accuracy (%)", axis=alt.Axis(format=NUMBER),
                scale=alt.Scale(zero=False)),
        color=phase_colour(),
        tooltip=tips(
            model="Model", accuracy_pct="Accuracy (%)",
            **interval_tips("%", "accuracy_low_pct", "accuracy_high_pct"),
            energy_j="{quantity} (J)", **interval_tips("J", "energy_low_j", "energy_high_j"),
            j_per_point="J per point of accuracy",
        ),
    )  # fmt: skip
    x = alt.X(
        "energy_j:Q",
        title="{quantity} (J)",
        **axis(pd.concat([table["energy_j"], table["drawn_high"]])),
    )
    circles = base.mark_point(size=60, opacity=1, strokeWidth=1.6).encode(
        x=x,
        fill=alt.condition("datum.on_front", phase_colour(), alt.value("transparent")),
    )
    across = alt.layer(*interval_lines(base, "x", 1))
    upright = base.mark_rule(strokeWidth=1).encode(
        x=x, y="accuracy_low_pct:Q", y2="accuracy_high_pct:Q"
    )
    front = (
        base.transform_filter("datum.on_front")
        .mark_line(interpolate="step-after", strokeDash=[5, 3], color=QUIET)
        .encode(x=x, color=alt.value(QUIET), order="energy_j:Q")
    )
    return Chart(
        name="accuracy",
        caption="The dashed line is the Pareto front: no other model is both more accurate and "
        "cheaper than its filled points. Lines are 95 % intervals.",
        alt="Accuracy against energy, one point per model, with the Pareto front.",
        specification=specification(
            front + across + upright + circles + model_names(base.encode(x=x))
        ),
        table=table,
        panels=_ACCURACY_PANELS,
    )


def last_epochs(analysis: Analysis) -> Chart:
    """Chart the accuracy that each model gained in its last epochs."""
    rows = analysis.exchange.drop(columns=_KEY)
    rows = rows[rows["gain_pct"].notna() & rows["energy_j"].notna()]
    if rows.empty:
        raise NothingToDraw("no training run has a known accuracy for each epoch")
    if rows.groupby("group")["model"].nunique().max() < 2:
        raise NothingToDraw("two models with a known accuracy for each epoch are needed")
    table = rows.sort_values(["group", "gain_pct"], ascending=[True, False], ignore_index=True)
    base = chart(height=alt.Step(21)).encode(
        y=alt.Y("model:N", sort=None, title=None),
        x=alt.X("gain_pct:Q", title="Accuracy gained in the last epochs (percentage points)",
                axis=alt.Axis(format=NUMBER)),
        tooltip=tips(model="Model", gain_pct="Gain (points)", energy_j="Gross energy (J)",
                     energy_share_pct="Share of the training's energy (%)", last_epochs="Epochs",
                     j_per_point="J per point"),
    )  # fmt: skip
    bars = base.mark_bar(color=SERIES_COLOURS[2], height={"band": 0.7})
    return Chart(
        name="exchange",
        caption="Accuracy gained in the last quarter of the epochs. Point at a bar for its energy.",
        alt="Accuracy that each model gained in the last quarter of its epochs.",
        specification=specification(bars),
        table=table,
    )
