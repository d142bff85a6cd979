"""Correlations between quantities that share a run's noise: only of models that differ."""

import math

import numpy as np
import pandas as pd
import pytest
from planted_effects import run_table

from joulelab.findings.accuracy import accuracy
from joulelab.findings.cell_means import CellMeans
from joulelab.findings.efficiency import model_findings, model_ratios
from joulelab.findings.model_differences import no_difference_p
from joulelab.findings.predictors import correlations, differences, predictor_findings
from joulelab.findings.summary import measurements, summary

NAMES = tuple(f"model{i}" for i in range(8))


def time_findings(spread, repeats=3, seed=0):
    """Return what is found between energy and time of models whose times differ by a spread."""
    longer = dict(zip(NAMES, np.random.default_rng(seed).normal(0, spread, (8, 2)), strict=True))
    runs = run_table(
        lambda model, **_: (0.7 * longer[model][1], longer[model][0], 0.0),
        models=NAMES, factors={"precision": ["fp32"]}, repeats=repeats, phases=("train",),
        noise=(0.01, 0.03, 0.5), seed=seed,
    )  # fmt: skip
    measured = measurements(summary(runs))
    found = predictor_findings(correlations(measured), differences(measured))
    return [one for one in found if one.id.startswith("spearman") and one.id.endswith(".time")]


def test_noise_that_energy_and_time_share_is_no_correlation_of_models():
    found = [one for seed in range(12) for one in time_findings(0.0, seed=seed)]
    assert any(one.estimate > 0.8 for one in found)
    assert sum(bool(one.significant) for one in found) <= 2


def test_models_that_differ_are_correlated_with_time():
    found = time_findings(0.7, seed=1)
    assert len(found) == 2
    assert all(one.significant and one.low > 0 for one in found)
    assert "The correlation is significant." in found[0].statement


def test_without_repeats_models_cannot_be_separated_from_noise():
    found = time_findings(0.7, repeats=1, seed=1)
    assert len(found) == 2
    assert all(one.significant is None for one in found)
    assert "without repeats" in found[0].statement.lower()


@pytest.mark.parametrize(("half", "expected"), [(0.0, 0.0), (math.nan, math.nan)])
def test_p_without_scatter_is_0_and_of_unknown_scatter_unknown(half, expected):
    models = pd.DataFrame({"x": [1.0, 2.0], "x_random": [half] * 2, "x_df": [3.0] * 2})
    assert no_difference_p(models, "x") == pytest.approx(expected, nan_ok=True)


def test_p_of_equal_models_is_spread_evenly():
    rng = np.random.default_rng(0)
    p = []
    for _ in range(400):
        runs = rng.normal(100, 1, (8, 4))
        half = 3.18 * runs.std(axis=1, ddof=1) / 2
        models = pd.DataFrame({"x": runs.mean(axis=1), "x_random": half, "x_df": [3.0] * 8})
        p.append(no_difference_p(models, "x"))
    assert 0.02 <= np.mean(np.array(p) < 0.05) <= 0.08


def test_a_saving_that_cannot_be_determined_has_no_significance():
    runs = run_table(models=NAMES, repeats=2, seed=2, phases=("train",), noise=(1.5, 1.5, 0.5))
    measured, means = measurements(summary(runs)), CellMeans(runs)
    accurate = accuracy((), measured, means)
    findings = model_findings(measured, model_ratios(measured, means, accurate), accurate)
    undetermined = [one for one in findings if one.id.startswith("efficient")
                    and "cannot be determined" in one.statement]  # fmt: skip
    assert undetermined
    assert not any("significant" in one.statement for one in undetermined)
