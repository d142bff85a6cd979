"""Findings of the recording of sixteen models on an H100, and what they must not claim."""

import math

import pytest


@pytest.fixture(scope="module")
def by_id(h100):
    named = {finding.id: finding for finding in h100.findings}
    assert len(named) == len(h100.findings)
    return named


@pytest.mark.parametrize("phase", ["train", "infer"])
def test_predictors_of_net_energy(by_id, phase):
    per_parameter = by_id[f"spearman.{phase}.net.macs_per_parameter"]
    assert per_parameter.n == 16
    assert per_parameter.estimate == pytest.approx(0.90, abs=0.01)
    assert per_parameter.low == pytest.approx(0.72, abs=0.03)
    assert per_parameter.high == pytest.approx(0.97, abs=0.03)
    macs = by_id[f"spearman.{phase}.net.macs"]
    assert 0.775 < macs.estimate < 0.805
    assert macs.low == pytest.approx(0.40, abs=0.03)
    assert macs.high == pytest.approx(0.94, abs=0.03)


@pytest.mark.parametrize(
    ("phase", "per_parameter", "macs"), [("train", 0.77, 0.66), ("infer", 0.83, 0.69)]
)
def test_predictors_of_gross_energy(by_id, phase, per_parameter, macs):
    """By the driver's energy counter 0.77 and 0.83, 0.66 and 0.69: near ties change places."""
    found = by_id[f"spearman.{phase}.gross.macs_per_parameter"]
    assert found.estimate == pytest.approx(per_parameter, abs=0.05)
    assert found.low < per_parameter < found.high
    assert by_id[f"spearman.{phase}.gross.macs"].estimate == pytest.approx(macs, abs=0.05)


@pytest.mark.parametrize("phase", ["train", "infer"])
@pytest.mark.parametrize("quantity", ["net", "gross"])
def test_predictors_do_not_differ_significantly(by_id, phase, quantity):
    difference = by_id[f"difference.{phase}.{quantity}.macs_per_parameter-macs"]
    assert difference.low < 0 < difference.high
    assert "The difference is not significant at n = 16" in difference.statement
    best = by_id[f"predictors.{phase}.{quantity}"].statement
    assert "MACs per parameter and MACs do not differ significantly at n = 16" in best


def test_training_takes_more_than_three_times_inference(by_id, h100):
    time = by_id["ratio.time"]
    assert time.low > 3
    assert "differs significantly from 3" in time.statement
    rows = h100.phase_ratios[h100.phase_ratios["quantity"] == "time"]
    assert len(rows) == 16
    assert rows["off_rule"].sum() > 8


def test_the_knee_of_inference(by_id):
    knee = by_id["knee.infer"]
    assert 200 < knee.low < knee.estimate < knee.high < 350


def test_phases_rank_models_the_same_way(by_id):
    time, net = by_id["phases.spearman.time"], by_id["phases.spearman.net"]
    assert time.low > 0.5
    # All sixteen in one order: no resample differs.
    assert net.estimate == pytest.approx(1.0)
    assert math.isnan(net.low)


def test_what_was_not_measured_has_no_finding(by_id, h100):
    names = {name.split(".")[0] for name in by_id}
    assert not names & {"efficient", "exchange", "batch", "machines"}
    assert h100.accuracy.empty
    assert all(math.isfinite(finding.estimate) for finding in by_id.values())
