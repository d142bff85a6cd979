"""Models in the order of their predicted energy, beside simpler estimators of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from joulelab.errors import UserError
from joulelab.models.characteristics import Characteristics, characterize
from joulelab.models.registry import build_model
from joulelab.models.weightless import weightless
from joulelab.predict.cases import Case
from joulelab.predict.hardware import HardwareProfile
from joulelab.predict.predict import Prediction, predict
from joulelab.predict.steps import Told
from joulelab.predict.studies import cases_of, study_frame
from joulelab.stats.ranks import Rank, rank_correlations

ESTIMATORS = ("predicted_j", "macs", "macs_per_parameter", "parameters")
"""What models can be ordered by: this prediction, and the three of the paper."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model and what is said of its energy.

    Attributes:
        prediction: Of a step.
        characteristics: Of the model.
    """

    prediction: Prediction
    characteristics: Characteristics

    @property
    def joules_per_thousand(self) -> float:
        """Gross energy of 1,000 samples: the same work for every model."""
        return 1000 * self.prediction.energy_per_sample_j


class Agreement(NamedTuple):
    """How well estimators order what a study measured.

    Attributes:
        phase: ``"train"`` or ``"infer"``.
        models: Different models.
        ranks: Spearman's correlation of each of :data:`ESTIMATORS` with gross energy a sample.
    """

    phase: str
    models: int
    ranks: dict[str, Rank]


def rank(
    cases: Sequence[Case],
    profile: HardwareProfile,
    *,
    classes: int = 10,
    told: Told | None = None,
) -> list[Candidate]:
    """Candidates, the most frugal first.

    Args:
        cases: One step of each model.
        profile: Of the device.
        classes: Classes that the models tell apart.
        told: Of each model.

    Raises:
        UserError: A model is not known or does not take the sample.
    """
    found = [
        Candidate(prediction, _characteristics(prediction.case, classes))
        for prediction in predict(cases, profile, classes=classes, told=told)
    ]
    return sorted(found, key=lambda one: one.joules_per_thousand)


def agreements(
    directory: Path, profile: HardwareProfile, unknown_input: tuple[int, ...]
) -> list[Agreement]:
    """How well each estimator orders the runs of a study, by phase.

    A model's energy a sample is that of its median run at the batch size that most models ran at.

    Args:
        directory: The study.
        profile: Of the device that it ran on.
        unknown_input: Shape of a sample where the study does not tell it.

    Raises:
        UserError: The study measured no energy.
    """
    frame = study_frame([directory], unknown_input)
    frame["energy_per_sample_j"] = frame["gross_j"] / frame["samples"]
    cases = cases_of(frame)
    predictions = {one.case: one for one in predict(list(dict.fromkeys(cases)), profile)}
    frame["predicted_j"] = [predictions[case].energy_per_sample_j for case in cases]
    found = []
    for phase, rows in frame.groupby("phase", sort=False):
        common = rows.groupby("batch_size")["model"].nunique().idxmax()
        chosen = rows[rows["batch_size"] == common]
        by_model = chosen.groupby("model")[["energy_per_sample_j", *ESTIMATORS]].median()
        by_model = by_model.dropna().astype(float)
        if len(by_model) < 3:
            continue
        ranks = rank_correlations(
            by_model["energy_per_sample_j"], {name: by_model[name] for name in ESTIMATORS}
        )
        found.append(
            Agreement(
                str(phase), len(by_model), dict(zip(ESTIMATORS, ranks["spearman"], strict=True))
            )
        )
    if not found:
        raise UserError(
            f"{directory} has too few models to tell how well they are ordered",
            why="three are needed that ran with the same batch size",
        )
    return found


def _characteristics(case: Case, classes: int) -> Characteristics:
    with weightless():
        model = build_model(case.model, num_classes=classes, in_channels=case.input_shape[0])
    return characterize(model, case.input_shape, name=case.model)
