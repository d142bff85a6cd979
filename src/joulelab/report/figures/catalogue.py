"""Every figure, in the order of the page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from joulelab.report.figure import Figure, NothingToDraw
from joulelab.report.figures import accuracy, batch, by_model, machines, power, predicted
from joulelab.report.figures import predictors as by_characteristic
from joulelab.report.figures import time as by_time
from joulelab.report.figures import trace as of_runs
from joulelab.report.scopes import Material


@dataclass(frozen=True, slots=True)
class Missing:
    """A figure that was not drawn.

    Attributes:
        title: What it would have shown.
        reason: Why there was nothing to draw.
    """

    title: str
    reason: str


def drawn(material: Material, runs: Sequence[str] = ()) -> tuple[list[Figure], list[Missing]]:
    """Every figure that the material fills, and those that it does not.

    Args:
        material: Studies and their answers.
        runs: Ids of the runs whose traces are shown; default: the first ones.
    """
    makers: Mapping[str, Callable[[Material], Figure]] = {
        "Energy of each model": by_model.energy,
        "Time of training and inference": by_model.duration,
        "Training over inference": by_model.ratio,
        "Mean power by component": power.power,
        "Utilisation against power": power.utilization,
        "Energy against what a model is known by": by_characteristic.predictors,
        "Energy against time": by_time.time,
        "Energy against batch size": batch.batch,
        "Loss, accuracy and energy by epoch": accuracy.epochs,
        "Accuracy against energy": accuracy.accuracy,
        "What the last epochs bought": accuracy.exchange,
        "Machines side by side": machines.machines,
        "Predicted against measured energy": predicted.predicted,
        "Power of a run": partial(of_runs.trace, asked=runs),
    }
    figures, missing = [], []
    for title, make in makers.items():
        try:
            figures.append(make(material))
        except NothingToDraw as reason:
            missing.append(Missing(title, str(reason)))
    return figures, missing
