"""What accuracy costs: by epoch, by model."""

from __future__ import annotations

import altair as alt
import pandas as pd

from joulelab.report.figure import Choice, Figure, NothingToDraw
from joulelab.report.figures.marks import axis, names_beside, phase_colour, tips
from joulelab.report.labels import with_sides
from joulelab.report.scopes import Material
from joulelab.report.theme import (
    NUMBER,
    PHASE_COLOURS,
    QUANTITIES,
    QUIET,
    SERIES_COLOURS,
    chart,
    drawn_low,
    logarithmic,
    rows_of,
    specification,
)

_MEASURES = {
    "loss": "Training loss",
    "accuracy_pct": "Accuracy (%)",
    "energy": "Energy so far (J)",
}
_WHOLE = alt.ExprRef("min(ceil(width / 75), domain('x')[1] - domain('x')[0])")
"""Ticks of an axis of whole numbers."""

_PHASE_PANELS = Choice(
    "phase", "Phase", {"train": "Training, the whole of it", "infer": "Inference, one sample"}
)


def epochs(material: Material) -> Figure:
    """Loss, accuracy and energy by epoch of training: mean and range over models (Fig. 5)."""
    ranges = material.scoped(material.answers.epoch_ranges)
    ranges = ranges[(ranges["phase"] == "train") & ranges["mean"].notna()]
    known = ranges.assign(epoch=ranges["epoch"] + 1)
    if known.empty or known["epoch"].max() < 2:
        raise NothingToDraw("no training run has two whole epochs")
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
        x=alt.X("epoch:Q", title="Epoch", axis=alt.Axis(format="d", tickCount=_WHOLE),
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
    return Figure(
        name="epochs",
        title="Loss, accuracy and energy by epoch",
        caption="The line is the mean over the models that trained so long, the band their "
        "range. Energy is added up from the first epoch on.",
        alt="Mean and range over models of loss, accuracy and accumulated energy by epoch of "
        "training.",
        chart=specification(band + line + points),
        table=table,
        panels=Choice("measure", "Measure", measures),
    )


def accuracy(material: Material) -> Figure:
    """Accuracy against energy, with the Pareto front of models."""
    points = material.scoped(material.answers.accuracy)
    points = points[points["energy_j"].notna() & points["accuracy_pct"].notna()]
    if points.empty:
        raise NothingToDraw("no model's accuracy is known beside its energy")
    points = points.assign(on_front=points["on_front"].fillna(False).astype(bool))
    points = points.sort_values(["scope", "quantity", "phase", "energy_j"], ignore_index=True)
    table = with_sides(points, "energy_j", "accuracy_pct", ["scope", "quantity", "phase"])
    table["drawn_low_j"] = drawn_low(
        table["energy_low_j"], table["energy_j"], on_logarithm=logarithmic(table["energy_j"])
    )
    base = chart().encode(
        y=alt.Y("accuracy_pct:Q", title="Accuracy (%)", axis=alt.Axis(format=NUMBER),
                scale=alt.Scale(zero=False)),
        color=phase_colour(),
        tooltip=tips(
            model="Model", accuracy_pct="Accuracy (%)", accuracy_low_pct="95 % from",
            accuracy_high_pct="to", energy_j="{quantity} (J)", energy_low_j="95 % from (J)",
            energy_high_j="to (J)", j_per_point="J per point of accuracy",
        ),
    )  # fmt: skip
    x = alt.X("energy_j:Q", title="{quantity} (J)", **axis(table["energy_j"]))
    circles = base.mark_point(size=60, opacity=1, strokeWidth=1.6).encode(
        x=x,
        fill=alt.condition("datum.on_front", phase_colour(), alt.value("transparent")),
    )
    across = base.mark_rule(strokeWidth=1).encode(x="drawn_low_j:Q", x2="energy_high_j:Q")
    upright = base.mark_rule(strokeWidth=1).encode(
        x=x, y="accuracy_low_pct:Q", y2="accuracy_high_pct:Q"
    )
    front = (
        base.transform_filter("datum.on_front")
        .mark_line(interpolate="step-after", strokeDash=[5, 3], color=QUIET)
        .encode(x=x, color=alt.value(QUIET), order="energy_j:Q")
    )
    return Figure(
        name="accuracy",
        title="Accuracy against energy",
        caption="The dashed line is the Pareto front: of the filled points, no model is both more "
        "accurate and cheaper. Lines are 95 % intervals.",
        alt="Accuracy against energy, a point a model, with the Pareto front.",
        chart=specification(front + across + upright + circles + names_beside(base.encode(x=x))),
        table=table,
        panels=_PHASE_PANELS,
    )


def exchange(material: Material) -> Figure:
    """What a point of accuracy cost in the last epochs, model by model."""
    rows = material.scoped(material.answers.exchange)
    rows = rows[rows["gain_pct"].notna() & rows["energy_j"].notna()]
    if rows.empty:
        raise NothingToDraw("no training run's accuracy is known epoch by epoch")
    table = rows.sort_values(["scope", "gain_pct"], ascending=[True, False], ignore_index=True)
    base = chart(height=rows_of(21)).encode(
        y=alt.Y("model:N", sort=None, title=None),
        x=alt.X("gain_pct:Q", title="Accuracy gained in the last epochs (points)",
                axis=alt.Axis(format=NUMBER)),
        tooltip=tips(model="Model", gain_pct="Gained (points)", energy_j="Gross energy (J)",
                     energy_share_pct="of the training's energy (%)", last_epochs="Epochs",
                     j_per_point="J per point"),
    )  # fmt: skip
    bars = base.mark_bar(color=SERIES_COLOURS[2], height={"band": 0.7})
    return Figure(
        name="exchange",
        title="What the last epochs bought",
        caption="Accuracy gained in the last quarter of the epochs; their energy is shown with "
        "each bar.",
        alt="Accuracy that each model gained in the last quarter of its epochs.",
        chart=specification(bars),
        table=table,
    )
