"""Charts of training: batch sizes, epochs, accuracy, and what the last epochs gained."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import altair as alt
import pandas as pd

from joulelab.findings.all import Analysis
from joulelab.findings.schema import READABLE
from joulelab.format import quantity as quantity_text
from joulelab.report.charts.axes import Axis, Framed, axes_remarks
from joulelab.report.charts.chart import LABEL, Chart, NothingToDraw, Remark, Selector
from joulelab.report.charts.point_labels import name_layers, unnamed_text, with_labels
from joulelab.report.charts.style import (
    FOR_UNITS,
    HEIGHT_PX,
    INK,
    NUMBER,
    PER,
    PHASE_PANELS,
    QUANTITIES,
    QUIET,
    SERIES_COLOURS,
    caption,
    chart,
    crosses,
    means_text,
    model_colour,
    phase_colour,
    shared_remark,
    specification,
    tips,
    with_shared,
    with_text,
)

_KEY = list(READABLE)
_MEASURES = {
    "loss": "Training loss",
    "accuracy_pct": "Accuracy (%)",
    "energy": "Energy so far (J)",
}
_EPOCHS_PX = 240
_MOST_TICKS = 8
"""Ticks of the axis of epochs."""

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
    cell = ["family", "phase", "model", "batch_size"]
    table = with_shared(table, analysis.tables.measurements, *cell)
    by = ["family", "phase", "quantity"]
    table = table.sort_values([*by, "model", "batch_size"], kind="stable", ignore_index=True)
    title = f"{{quantity}} {FOR_UNITS}"
    upright = Axis("y", "value", f"{title} (J)", low="low", high="high", zero=True)
    table, y = upright.framed(with_text(table, "J"), by)
    sizes = sorted(table["batch_size"].unique().tolist())
    models = sorted(table["model"].unique())
    few = len(models) <= len(SERIES_COLOURS)
    # The names of many lines are written at their right ends.
    room = 0.05 if few else _ROOM
    ends = sizes[0] / 1.05, sizes[-1] * (sizes[-1] / sizes[0]) ** room
    scale = alt.Scale(type="log", nice=False, domain=list(ends))
    sized = alt.Axis(values=sizes, format=",d", grid=False)
    base = chart().encode(
        x=alt.X("batch_size:Q", title="Batch size", scale=scale, axis=sized),
        detail="model:N",
        color=model_colour(models),
        tooltip=tips(table, model="Model", batch_size="Batch size", text=title, n="Repeats"),
    )
    at = base.encode(y=y.encoded(table))
    best = at.transform_filter("datum.best")
    layers = [
        at.mark_line(strokeWidth=1.6),
        *y.interval_lines(base, table, 1.2),
        at.mark_point(filled=True, opacity=1, size=35),
        best.mark_point(size=130, strokeWidth=1.8, opacity=1, filled=False).encode(
            color=alt.value(INK)
        ),
        *crosses(at, table),
    ]
    if not few:
        across = Framed(Axis("x", "batch_size", ""), is_logarithmic=True)
        table = _with_names_at_ends(table, (across, y), by, ends)
        leads, names = name_layers(at)
        layers = [leads, *layers, names]
    return Chart(
        name="batch-size",
        caption=caption(
            means_text(table), "One line per model, with 95 % intervals.",
            Remark("A ring marks its least energy.", {"best": True}),
            "The horizontal axis is logarithmic.",
            *axes_remarks(y), shared_remark(),
        ),
        alt=f"Energy {FOR_UNITS} against batch size, one line per model, the best marked.",
        specification=specification(alt.layer(*layers)),
        table=table,
        panels=PHASE_PANELS,
    )  # fmt: skip


_ROOM = 0.45
"""Room for names at the right ends of lines, as a fraction of the length of the axis before it."""


def _with_names_at_ends(
    table: pd.DataFrame,
    axes: tuple[Framed, Framed],
    by: Sequence[str],
    ends: tuple[float, float],
    height_px: float = HEIGHT_PX,
) -> pd.DataFrame:
    """Add the position of each model's name, right of the end of its line."""
    across = axes[0].axis.value
    last = table.groupby([*by, "model"])[across].transform("max") == table[across]
    table = table.assign(**dict(zip(axes[0].ends, ends, strict=True)), last=last)
    named = with_labels(table[last], axes, by, is_right=True, height_px=height_px)
    return table.join(named[LABEL])


def epochs(analysis: Analysis) -> Chart:
    """Chart loss, accuracy and energy by epoch: a line per model, and their mean (Fig. 5)."""
    lines = _epoch_lines(analysis)
    if lines.empty or lines["epoch"].max() < 2:
        raise NothingToDraw("no training run has two complete epochs")
    by = ["group", "quantity", "measure"]
    upright = Axis("y", "value", "{measure}", is_logarithmic=False)
    table, y = upright.framed(lines, by)
    present = set(table["measure"])
    measures = {name: title for name, title in _MEASURES.items() if name in present}
    models = sorted(table["model"].dropna().unique())
    few = len(models) <= len(SERIES_COLOURS)
    most = int(table["epoch"].max())
    ends = 1.0, most + (0.0 if few else _ROOM * (most - 1))
    numbers = list(range(1, most + 1, -(-most // _MOST_TICKS)))
    base = chart(height=_EPOCHS_PX).encode(
        x=alt.X("epoch:Q", title="Epoch", axis=alt.Axis(format="d", values=numbers, grid=False),
                scale=alt.Scale(zero=False, nice=False, domain=list(ends))),
        y=y.encoded(table),
    )  # fmt: skip
    of_models = base.transform_filter("datum.mark == 'model'").encode(
        detail="model:N",
        color=model_colour(models),
        tooltip=tips(table, model="Model", epoch="Epoch", text="{measure}", n="Repeats"),
    )
    mean = base.transform_filter("datum.mark == 'mean'").encode(
        color=alt.value(INK),
        tooltip=tips(table, epoch="Epoch", text="Mean of {measure}", n="Models"),
    )
    layers = [
        of_models.mark_line(strokeWidth=1.3, opacity=1 if few else 0.7),
        of_models.mark_point(filled=True, opacity=1, size=14),
        mean.mark_line(strokeWidth=2.2, strokeDash=[6, 3]),
        mean.mark_point(filled=True, opacity=0, size=60),
    ]
    if not few:
        axes = Framed(Axis("x", "epoch", ""), is_logarithmic=False), y
        of_model = table["mark"] == "model"
        named = _with_names_at_ends(table[of_model], axes, by, ends, _EPOCHS_PX)
        table = pd.concat([named, table[~of_model]], ignore_index=True)
        leads, names = name_layers(of_models)
        layers = [leads, *layers, names]
    return Chart(
        name="epochs",
        caption=caption(
            "One line per model, of the epochs that all of its repeats completed.",
            Remark(
                "The dashed line is the mean over models, of the epochs that all completed.",
                {"mark": "mean"},
            ),
            "Energy is added up from the first epoch on.",
        ),
        alt="Loss, accuracy and accumulated energy by epoch of training, one line per model.",
        specification=specification(alt.layer(*layers)),
        table=table,
        panels=Selector("measure", "Measure", measures),
    )  # fmt: skip


def _epoch_lines(analysis: Analysis) -> pd.DataFrame:
    """Return a row per model, epoch, measure and quantity, and rows of the means over models."""
    of_models = analysis.epochs_by_model.assign(mark="model")
    means = analysis.epoch_ranges
    means = means[means["n"] > 1].rename(columns={"mean": "value"}).assign(mark="mean")
    parts = []
    for measure, quantity in product(_MEASURES, QUANTITIES):
        column = f"{quantity}_j" if measure == "energy" else measure
        of_model = of_models.rename(columns={column: "value", "repeats": "n"})
        part = pd.concat([of_model, means[means["quantity"] == column]])
        parts.append(part.assign(measure=measure, quantity=quantity))
    table = pd.concat(parts, ignore_index=True)
    table = table[(table["phase"] == "train") & table["value"].notna()]
    columns = ["group", "quantity", "measure", "mark", "model", "epoch", "value", "n"]
    table = table[columns].assign(epoch=table["epoch"] + 1)
    units = table["measure"].map({"energy": "J", "accuracy_pct": "%", "loss": ""})
    texts = map(quantity_text, table["value"].tolist(), units.tolist())
    return table.assign(text=pd.Series(list(texts), table.index, dtype="str"))


def accuracy(analysis: Analysis) -> Chart:
    """Chart accuracy against energy, with the Pareto front of models."""
    points = analysis.accuracy.drop(columns=_KEY)
    points = points[points["energy_j"].notna() & points["accuracy_pct"].notna()]
    if points.empty:
        raise NothingToDraw("no model has both a known accuracy and a known energy")
    points = points.assign(on_front=points["on_front"].fillna(False).astype(bool))
    points = points.sort_values(["group", "quantity", "phase", "energy_j"], ignore_index=True)
    by = ["group", "quantity", "phase"]
    points = with_shared(points, analysis.tables.measurements, "group", "phase", "model")
    energy = ("energy_j", "energy_low_j", "energy_high_j")
    table = with_text(with_text(points, "J", *energy, into="energy"), "%", "accuracy_pct",
                      "accuracy_low_pct", "accuracy_high_pct", into="accuracy")  # fmt: skip
    across = Axis("x", energy[0], "{quantity} (J)", low=energy[1], high=energy[2])
    upright = Axis("y", "accuracy_pct", "Accuracy (%)", low="accuracy_low_pct",
                   high="accuracy_high_pct", most=100.0, is_logarithmic=False)  # fmt: skip
    table, x = across.framed(table, by)
    table, y = upright.framed(table, by)
    table = with_labels(table, (x, y), by, area=60.0)
    base = chart().encode(
        color=phase_colour(),
        tooltip=tips(table, model="Model", accuracy="Accuracy", energy="{quantity}",
                     j_per_point="J per point of accuracy"),
    )  # fmt: skip
    at = base.encode(x=x.encoded(table), y=y.encoded(table))
    circles = at.mark_point(size=60, opacity=1, strokeWidth=1.6).encode(
        fill=alt.condition("datum.on_front", phase_colour(), alt.value("transparent")),
    )
    intervals = [
        *x.interval_lines(base.encode(y=y.encoded(table)), table, 1),
        *y.interval_lines(base.encode(x=x.encoded(table)), table, 1),
    ]
    front = (
        at.transform_filter("datum.on_front")
        .mark_line(interpolate="step-after", strokeDash=[5, 3], color=QUIET)
        .encode(color=alt.value(QUIET), order="energy_j:Q")
    )
    leads, names = name_layers(at)
    return Chart(
        name="accuracy",
        caption=caption(
            "The dashed line is the Pareto front: no other model is both more accurate and cheaper "
            "than its filled points. Lines are 95 % intervals.",
            *axes_remarks(x, y), shared_remark(), unnamed_text(table),
        ),
        alt="Accuracy against energy, one point per model, with the Pareto front.",
        specification=specification(
            alt.layer(front, leads, *intervals, circles, *crosses(at, table), names)
        ),
        table=table,
        panels=_ACCURACY_PANELS,
    )  # fmt: skip


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
        tooltip=tips(table, model="Model", gain_pct="Gain (points)", energy_j="Gross energy (J)",
                     energy_share_pct="Share of the training's energy (%)", last_epochs="Epochs",
                     j_per_point="J per point"),
    )  # fmt: skip
    bars = base.mark_bar(color=SERIES_COLOURS[2], height={"band": 0.7})
    return Chart(
        name="exchange",
        caption=caption(
            "Accuracy gained in the last quarter of the epochs. Point at a bar for its energy."
        ),
        alt="Accuracy that each model gained in the last quarter of its epochs.",
        specification=specification(bars),
        table=table,
    )
