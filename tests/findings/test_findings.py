"""Whatever is missing, findings say so: never an exception, a warning or a NaN in a sentence."""

import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from joulelab.findings.answers import all_findings, answers
from joulelab.findings.data import Data
from joulelab.findings.findings import findings_json
from joulelab.findings.summary import summary
from joulelab.runs.studies import read_studies
from joulelab.stats import ranks

MODELS = ("LeNet", "MobileNetV2", "ResNet18", "VGG16", "MobileNet", "SENet18", "VGG19", "DPN26",
          "GoogLeNet")  # fmt: skip
HOLES = (
    "net_j", "gross_j", "gpu_power_w", "gpu_utilization_pct", "accuracy_pct", "loss", "macs",
    "parameters", "macs_per_parameter", "samples", "batch_size", "duration_s", "mean_power_w",
    "vram_peak_bytes", "gpu_name", "sources", "gross_correlated_uncertainty_j",
    "gross_independent_uncertainty_j",
)  # fmt: skip
FIGURES = ("gross_j", "net_j", "duration_s", "macs_per_parameter", "gpu_power_w",
           "gpu_utilization_pct", "accuracy_pct")  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def few_resamples():
    """What is missing shows in a few resamples as in many."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranks, "RESAMPLES", 199)
        patch.setattr(ranks, "FEWEST_RESAMPLES", 199)
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory, synthetic):
    """Two machines, nine models, three batch sizes, two repeats."""
    directories = []
    for place, host in enumerate(("workstation", "server")):
        machine = synthetic.other_machine(host=host, cpu_cores=8 + place)
        directory = tmp_path_factory.mktemp("holes") / host
        writer = synthetic.Writer(directory, machine=machine, models=list(MODELS), repeats=2)
        for block in range(2):
            writer.idle(block, "before")
            for number, model in enumerate(MODELS):
                for batch_size in (8, 64, 512):
                    stretch = (1 + number) * (1 + 0.01 * block) / batch_size**0.1
                    writer.cell(model, block, stretch=stretch, batch_size=batch_size)
            writer.idle(block, "after")
        directories.append(directory)
    return Data.of(read_studies(directories))


def holed(data, runs):
    kept = set(runs["run_id"])
    return replace(
        data,
        runs=runs,
        epochs=data.epochs[data.epochs["run_id"].isin(kept)],
        summary=summary(runs),
    )


def check(data):
    found = all_findings(data)
    for finding in found:
        text = finding.statement + finding.question
        assert "nan" not in text.lower().replace("finance", ""), finding
        assert "<NA>" not in text, finding
        assert "None" not in text, finding
        assert finding.statement.strip(), finding
        if not math.isnan(finding.low):
            assert finding.low <= finding.estimate + 1e-9, finding
            assert finding.estimate <= finding.high + 1e-9, finding
    json.loads(findings_json(found), parse_constant=pytest.fail)
    return found


def test_the_whole_study_answers_every_question(whole):
    names = {finding.id.split(".")[0] for finding in check(whole)}
    assert names >= {
        "ratio", "power", "linear", "predictors", "spearman", "kendall", "difference", "batch",
        "front", "frugal", "phases", "machines", "repeats", "knee",
    }  # fmt: skip


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    models=st.sets(st.sampled_from(MODELS), min_size=0, max_size=len(MODELS)),
    phases=st.sets(st.sampled_from(["train", "infer"]), min_size=1),
    blocks=st.sets(st.integers(0, 1), min_size=1),
    batch_sizes=st.sets(st.sampled_from([8, 64, 512]), min_size=1),
    hosts=st.sets(st.sampled_from(["workstation", "server"]), min_size=1),
    empty=st.sets(st.sampled_from(HOLES), max_size=4),
    seed=st.integers(0, 2**32 - 1),
    share=st.sampled_from([0.0, 0.1, 0.6]),
    constant=st.dictionaries(
        st.sampled_from(FIGURES), st.sampled_from([0.0, -1.0, 42.0]), max_size=2
    ),
)
def test_random_holes(
    whole, models, phases, blocks, batch_sizes, hosts, empty, seed, share, constant
):
    runs = whole.runs
    kept = (
        runs["model"].isin(models)
        & runs["phase"].isin(phases)
        & runs["block"].isin(blocks)
        & runs["batch_size"].isin(batch_sizes)
        & runs["host"].isin(hosts)
    )
    runs = runs[kept].reset_index(drop=True)
    rng = np.random.default_rng(seed)
    for name in FIGURES:
        noise = 1 + 0.3 * rng.standard_normal(len(runs)).clip(-2, 2)
        runs[name] = (runs[name] * noise).where(rng.random(len(runs)) >= share)
        if name in constant:
            runs[name] = constant[name]
    for name in empty:
        runs[name] = pd.Series([pd.NA if runs[name].dtype != "float64" else math.nan] * len(runs),
                               dtype=runs[name].dtype)  # fmt: skip
    check(holed(whole, runs))


def test_a_study_without_runs(tmp_path, synthetic):
    writer = synthetic.Writer(tmp_path / "empty")
    assert check(Data.of(read_studies([writer.directory]))) == []


def test_failed_cells_alone(tmp_path, synthetic):
    writer = synthetic.Writer(tmp_path / "failed")
    writer.failed("LeNet", 0)
    assert check(Data.of(read_studies([writer.directory]))) == []


def test_the_same_data_give_the_same_answers(whole):
    first, second = answers(whole), answers(whole)
    assert first.findings == second.findings or findings_json(first.findings) == findings_json(
        second.findings
    )
    pd.testing.assert_frame_equal(first.correlations, second.correlations)
