"""Every table behind the figures, and every finding, in the order of the paper's questions."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from joulelab.findings.accuracy import accuracy
from joulelab.findings.accuracy_findings import accuracy_findings
from joulelab.findings.agreement import agreement, agreement_findings
from joulelab.findings.batches import batch_curves, batch_findings, batch_floors
from joulelab.findings.data import Data
from joulelab.findings.energy_time import time_findings, time_fits, time_points
from joulelab.findings.epochs import (
    epoch_findings,
    epoch_ranges,
    epochs_by_model,
    exchange,
)
from joulelab.findings.findings import Finding
from joulelab.findings.knee import gpu_points, knee_findings, knees, utilization
from joulelab.findings.machines import machine_findings, side_by_side
from joulelab.findings.phases import phase_findings, phase_ratios
from joulelab.findings.power import component_power, power_findings
from joulelab.findings.predictor_findings import predictor_findings
from joulelab.findings.predictors import correlations, differences
from joulelab.findings.repeats import repeat_findings, repeat_scatter


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """The tables, each worked out once, and what they show in words.

    Each attribute is named as the function that makes it; its columns are stated there. A table
    without rows is one that the data cannot fill.
    """

    phase_ratios: pd.DataFrame
    component_power: pd.DataFrame
    utilization: pd.DataFrame
    knees: pd.DataFrame
    time_points: pd.DataFrame
    time_fits: pd.DataFrame
    correlations: pd.DataFrame
    differences: pd.DataFrame
    batch_curves: pd.DataFrame
    batch_floors: pd.DataFrame
    accuracy: pd.DataFrame
    epoch_ranges: pd.DataFrame
    exchange: pd.DataFrame
    agreement: pd.DataFrame
    side_by_side: pd.DataFrame
    repeat_scatter: pd.DataFrame
    findings: tuple[Finding, ...]


def answers(data: Data) -> Answers:
    """All that the data answer."""
    groups, everything = data.leading_groups(), data.groups()
    ratios = phase_ratios(groups)
    powers = component_power(data.studies, groups)
    points = gpu_points(groups)
    bends = knees(points)
    fits = time_fits(groups)
    timed = time_points(groups)
    ranked, compared = correlations(groups), differences(groups)
    curves = batch_curves(everything)
    floors = batch_floors(everything)
    accurate = accuracy(data.studies, groups)
    by_epoch = epochs_by_model(data, groups)
    exchanged = exchange(by_epoch)
    agreed = agreement(groups)
    beside = side_by_side(groups)
    scattered = repeat_scatter(data)
    return Answers(
        phase_ratios=ratios,
        component_power=powers,
        utilization=utilization(points, bends),
        knees=bends,
        time_points=timed,
        time_fits=fits,
        correlations=ranked,
        differences=compared,
        batch_curves=curves,
        batch_floors=floors,
        accuracy=accurate,
        epoch_ranges=epoch_ranges(by_epoch),
        exchange=exchanged,
        agreement=agreed,
        side_by_side=beside,
        repeat_scatter=scattered,
        findings=(
            *phase_findings(ratios),
            *power_findings(powers),
            *knee_findings(bends),
            *time_findings(fits, timed),
            *predictor_findings(ranked, compared),
            *batch_findings(floors),
            *accuracy_findings(accurate),
            *epoch_findings(exchanged),
            *agreement_findings(agreed),
            *machine_findings(beside, groups),
            *repeat_findings(scattered),
        ),
    )


def all_findings(data: Data) -> list[Finding]:
    """The findings alone; see :func:`answers`."""
    return list(answers(data).findings)
