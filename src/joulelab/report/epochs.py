"""Loss, accuracy and energy as training goes on (Fig. 5 of the paper)."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from joulelab.report.style import (
    FAINT,
    INK,
    SERIES_COLOURS,
    WIDTH_IN,
    NothingToDraw,
    drawing,
    laid_out,
)

_PANELS = {
    "loss": "Training loss",
    "accuracy_pct": "Test accuracy (%)",
    "total_j": "Gross energy so far (J)",
}


def epochs(rows: pd.DataFrame) -> Figure:
    """Loss, accuracy and accumulated energy by epoch, the mean over each model's repeats.

    Up to eight models have a colour each. With more, each is a thin line, and the mean over all
    is drawn for the epochs that all of them have.

    Args:
        rows: As :func:`joulelab.analysis.tables.epoch_rows` gives them, of one study.

    Raises:
        NothingToDraw: No training run has two whole epochs.
    """
    whole = rows[(rows["phase"] == "train") & rows["complete"].fillna(False).astype(bool)]
    counts = whole.groupby("run_id")["epoch"].nunique()
    if counts.empty or counts.max() < 2:
        raise NothingToDraw("no training run has two whole epochs")
    whole = whole.sort_values(["run_id", "epoch"]).assign(epoch=lambda frame: frame["epoch"] + 1)
    # A sum that lacks an epoch's energy is unknown from there on.
    summed = whole.groupby("run_id")["gross_j"].transform(lambda j: j.cumsum(skipna=False))
    whole = whole.assign(total_j=summed)
    shown = [column for column in _PANELS if whole[column].notna().any()]
    if not shown:
        raise NothingToDraw("neither loss, accuracy nor energy is known by epoch")
    with drawing():
        figure = Figure(figsize=(WIDTH_IN, 0.7 + 1.55 * len(shown)), layout="constrained")
        panels = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
        for axes, column in zip(panels, shown, strict=True):
            _draw(axes, _by_model(whole, column))
            axes.set_ylabel(_PANELS[column])
        panels[-1].set_xlabel("Epoch")
        panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=4)
        laid_out(figure)
    return figure


def _by_model(whole: pd.DataFrame, column: str) -> pd.DataFrame:
    """One column a model, one row an epoch: the mean of the repeats that reached it."""
    return whole.pivot_table(index="epoch", columns="model", values=column, aggfunc="mean")


def _draw(axes: Axes, lines: pd.DataFrame) -> None:
    few = len(lines.columns) <= len(SERIES_COLOURS)
    for place, model in enumerate(lines.columns):
        line = lines[model].dropna()
        axes.plot(
            line.index.to_numpy(),
            line.to_numpy(),
            color=SERIES_COLOURS[place] if few else FAINT,
            linewidth=1.4 if few else 0.9,
            marker="o" if len(line) < 30 and few else "",
            markersize=2.6,
            label=str(model) if few else ("each model" if place == 0 else None),
        )
    common = lines.dropna()
    if not few and len(common) > 1:
        mean = common.mean(axis=1).to_numpy()
        axes.plot(common.index, mean, color=INK, linewidth=1.8, label="mean over models")
