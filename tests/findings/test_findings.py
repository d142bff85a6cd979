"""Findings state what is missing, without an exception, a warning or a NaN in a sentence."""

import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from factors_study import MODELS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from joulelab.findings.all import analyze
from joulelab.findings.schema import findings_json
from joulelab.findings.summary import measurements, summary
from joulelab.findings.tables import StudyTables

HOLES = (
    "net_j", "gross_j", "gpu_power_w", "gpu_utilization_pct", "accuracy_pct", "loss", "macs",
    "parameters", "macs_per_parameter", "samples", "batch_size", "duration_s", "mean_power_w",
    "vram_peak_bytes", "gpu_name", "sources", "gross_correlated_uncertainty_j",
    "gross_independent_uncertainty_j",
)  # fmt: skip
VALUES = ("gross_j", "net_j", "duration_s", "macs_per_parameter", "gpu_power_w",
           "gpu_utilization_pct", "accuracy_pct")  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def patched(few_resamples):
    """A few resamples show what is missing as well as many do."""
    with pytest.MonkeyPatch.context() as patch:
        few_resamples(patch)
        yield


def with_runs(tables, runs):
    """Return the tables with other runs."""
    means = summary(runs)
    return replace(
        tables,
        runs=runs,
        epochs=tables.epochs[tables.epochs["run_id"].isin(set(runs["run_id"]))],
        summary=means,
        measurements=measurements(means),
    )


NO_EFFECT = {"factor": 1.0, "models": 1.0, "best_setting": 1.0, "spearman": 0.0,
             "kendall": 0.0, "difference": 0.0, "efficient": 0.0, "exchange": 0.0}  # fmt: skip
MOST = {"efficient": 100.0, "spearman": 1.0, "kendall": 1.0, "phases": 1.0, "difference": 2.0}
SIGNED = ("spearman", "kendall", "phases", "predictors", "difference", "linear", "exchange",
          "efficient", "machines")  # fmt: skip


def check_interval(finding):
    """It is possible, and if it includes no effect, the finding is not called significant."""
    kind = finding.id.replace("machines.ratio", "factor").split(".")[0]
    none = 0.0 if finding.unit == "points" else NO_EFFECT.get(kind, math.nan)
    assert not (finding.significant and finding.low <= none <= finding.high), finding
    assert finding.high <= MOST.get(kind, math.inf) + 1e-9, finding
    if finding.unit == "points":
        assert finding.low >= -100, finding
        assert finding.high <= 100, finding
    elif kind not in SIGNED and finding.estimate >= 0 and finding.unit != "J":
        assert finding.low >= 0, finding


def check(analysis):
    found = analysis.findings
    for finding in found:
        text = finding.statement + finding.question
        assert "nan" not in text.lower().replace("finance", ""), finding
        assert "<NA>" not in text, finding
        assert "None" not in text, finding
        assert finding.statement.strip(), finding
        if not math.isnan(finding.low):
            assert finding.low <= finding.estimate + 1e-9, finding
            assert finding.estimate <= finding.high + 1e-9, finding
            check_interval(finding)
    json.loads(findings_json(found), parse_constant=pytest.fail)
    return found


def test_the_whole_study_answers_every_question(factors):
    names = {finding.id.split(".")[0] for finding in check(factors)}
    assert names >= {
        "ratio", "power", "linear", "predictors", "spearman", "kendall", "difference", "batch",
        "models", "efficient", "phases", "machines", "repeats", "knee", "factor", "interaction",
        "best_setting",
    }  # fmt: skip


@settings(max_examples=16, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    models=st.sets(st.sampled_from(MODELS), min_size=0, max_size=len(MODELS)),
    phases=st.sets(st.sampled_from(["train", "infer"]), min_size=1),
    blocks=st.sets(st.integers(0, 1), min_size=1),
    batch_sizes=st.sets(st.sampled_from([16, 64]), min_size=1),
    hosts=st.sets(st.sampled_from(["workstation", "server"]), min_size=1),
    empty=st.sets(st.sampled_from(HOLES), max_size=6),
    seed=st.integers(0, 2**32 - 1),
    share=st.sampled_from([0.0, 0.1, 0.6]),
    constant=st.dictionaries(
        st.sampled_from(VALUES), st.sampled_from([0.0, -1.0, 42.0]), max_size=3
    ),
)
def test_random_holes(
    factors, models, phases, blocks, batch_sizes, hosts, empty, seed, share, constant
):
    runs = factors.tables.runs
    runs = runs[runs["precision"] == "fp32"]
    selected = (
        runs["model"].isin(models)
        & runs["phase"].isin(phases)
        & runs["block"].isin(blocks)
        & runs["batch_size"].isin(batch_sizes)
        & runs["host"].isin(hosts)
    )
    runs = runs[selected].reset_index(drop=True)
    rng = np.random.default_rng(seed)
    for name in VALUES:
        noise = 1 + 0.3 * rng.standard_normal(len(runs)).clip(-2, 2)
        runs[name] = (runs[name] * noise).where(rng.random(len(runs)) >= share)
        if name in constant:
            runs[name] = constant[name]
    for name in empty:
        runs[name] = pd.Series([pd.NA if runs[name].dtype != "float64" else math.nan] * len(runs),
                               dtype=runs[name].dtype)  # fmt: skip
    check(analyze(with_runs(factors.tables, runs)))


def test_a_study_without_runs(tmp_path, synthetic):
    writer = synthetic.Writer(tmp_path / "empty")
    assert check(analyze(StudyTables.read([writer.directory]))) == ()


def test_failed_cells_alone(tmp_path, synthetic):
    writer = synthetic.Writer(tmp_path / "failed")
    writer.failed("LeNet", 0)
    assert check(analyze(StudyTables.read([writer.directory]))) == ()


def test_the_same_tables_give_the_same_findings(factors):
    again = analyze(factors.tables)
    assert findings_json(again.findings) == findings_json(factors.findings)
    pd.testing.assert_frame_equal(again.correlations, factors.correlations)
