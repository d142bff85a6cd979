"""Every table behind the charts, and every finding, in the order of the paper's questions."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from joulelab.findings.accuracy import (
    accuracy,
    epoch_findings,
    epoch_ranges,
    epochs_by_model,
    exchange,
)
from joulelab.findings.agreement import agreement, agreement_findings
from joulelab.findings.batch_sizes import batch_curves, batch_findings, batch_floors
from joulelab.findings.busy_machine import busy_findings
from joulelab.findings.cell_means import CellMeans
from joulelab.findings.comparisons import (
    machine_findings,
    phase_findings,
    phase_ratios,
    side_by_side,
)
from joulelab.findings.device_limits import limit_curves, limit_findings, limit_knees
from joulelab.findings.efficiency import model_findings, model_ratios
from joulelab.findings.energy_time import time_findings, time_fits, time_points
from joulelab.findings.factor_effects import factor_and_setting_effects
from joulelab.findings.factor_findings import factor_findings
from joulelab.findings.hosts import host_effects, host_findings, pool_hosts
from joulelab.findings.power import (
    component_power,
    gpu_points,
    knee_findings,
    knees,
    power_findings,
    utilization,
)
from joulelab.findings.predictors import correlations, differences, predictor_findings
from joulelab.findings.repeats import repeat_findings, repeat_scatter
from joulelab.findings.schema import Finding
from joulelab.findings.summary import ANALYZED
from joulelab.findings.tables import StudyTables


@dataclass(frozen=True, slots=True, eq=False)
class Analysis:
    """Tables of studies, the tables derived from them, each computed once, and the findings.

    Each derived table is named after the function that makes it, which documents its columns. A
    table without rows is one that the studies cannot fill.
    """

    tables: StudyTables
    phase_ratios: pd.DataFrame
    component_power: pd.DataFrame
    utilization: pd.DataFrame
    knees: pd.DataFrame
    time_points: pd.DataFrame
    time_fits: pd.DataFrame
    correlations: pd.DataFrame
    differences: pd.DataFrame
    model_ratios: pd.DataFrame
    factor_effects: pd.DataFrame
    setting_effects: pd.DataFrame
    batch_curves: pd.DataFrame
    batch_floors: pd.DataFrame
    limit_curves: pd.DataFrame
    limit_knees: pd.DataFrame
    accuracy: pd.DataFrame
    epochs_by_model: pd.DataFrame
    epoch_ranges: pd.DataFrame
    exchange: pd.DataFrame
    agreement: pd.DataFrame
    side_by_side: pd.DataFrame
    repeat_scatter: pd.DataFrame
    host_effects: pd.DataFrame
    findings: tuple[Finding, ...]


def analyze(tables: StudyTables) -> Analysis:
    """Derive every table and finding.

    Example:
        >>> analyze(StudyTables.of([])).findings
        ()
    """
    every = tables.measurements
    measured = every[every["rank"] < ANALYZED]
    pooled = pool_hosts(tables.runs)
    means = CellMeans(pooled)
    ratios = phase_ratios(measured)
    powers = component_power(tables.studies, measured)
    points = gpu_points(measured)
    bends = knees(points)
    fits, timed = time_fits(measured), time_points(measured)
    correlated, compared = correlations(measured), differences(measured)
    floors = batch_floors(every, means)
    limits = limit_curves(every, means)
    limit_bends = limit_knees(limits)
    accurate = accuracy(tables.studies, measured, means)
    least = model_ratios(every, means, accurate)
    effects, settings = factor_and_setting_effects(tables.studies, every, means)
    by_epoch = epochs_by_model(pooled, tables.epochs, measured)
    exchanged = exchange(by_epoch)
    agreed = agreement(measured)
    machines = side_by_side(measured)
    scattered = repeat_scatter(pooled)
    hosts = host_effects(tables.runs)
    return Analysis(
        tables=tables,
        phase_ratios=ratios,
        component_power=powers,
        utilization=utilization(points, bends),
        knees=bends,
        time_points=timed,
        time_fits=fits,
        correlations=correlated,
        differences=compared,
        model_ratios=least,
        factor_effects=effects,
        setting_effects=settings,
        batch_curves=batch_curves(every),
        batch_floors=floors,
        limit_curves=limits,
        limit_knees=limit_bends,
        accuracy=accurate,
        epochs_by_model=by_epoch,
        epoch_ranges=epoch_ranges(by_epoch),
        exchange=exchanged,
        agreement=agreed,
        side_by_side=machines,
        repeat_scatter=scattered,
        host_effects=hosts,
        findings=(
            *model_findings(measured, least, accurate),
            *factor_findings(effects, settings),
            *phase_findings(ratios, means),
            *power_findings(powers),
            *knee_findings(bends),
            *time_findings(fits, timed),
            *predictor_findings(correlated, compared),
            *batch_findings(floors, every),
            *limit_findings(limit_bends),
            *epoch_findings(exchanged),
            *agreement_findings(agreed),
            *machine_findings(machines, measured),
            *repeat_findings(scattered, every),
            *host_findings(hosts),
            *busy_findings(tables.studies),
        ),
    )
