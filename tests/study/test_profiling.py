"""Cells that train only until a longer training is forecast surely enough."""

import math

import pytest

from joulelab.errors import PlanError
from joulelab.runs.store import Store
from joulelab.sensors.simulated import SimulatedMachine, SimulatedSource, Waveform
from joulelab.study.plan_file import parse
from joulelab.study.runner import run_study

STEADY = SimulatedMachine(
    (SimulatedSource(component="gpu:0", waveform=Waveform.constant(300.0), noise_w=1.0),)
)


def trained(directory, tiny_plan, **train):
    plan = tiny_plan.replaced(
        models=["tiny_models:linear"],
        repeats=1,
        phases=["train", "infer"],
        sensors=[STEADY.spec()],
        idle_s=0.0,
        train={"warmup_steps": 1, "learning_rate": 0.01} | train,
    )
    run_study(directory, plan)
    (record,) = Store.open(directory).runs()
    assert record.status == "done"
    return record.data


def test_a_cell_trains_until_its_forecast_is_sure(tmp_path, tiny_plan):
    run = trained(tmp_path / "study", tiny_plan, epochs=10_000, within=0.9, most_epochs=40)
    result = run["results"]["train"]
    forecast = result["forecast"]
    assert forecast["sure"]
    assert forecast["uncertainty"] <= forecast["within"] == 0.9
    assert 3 <= result["epochs"] == forecast["epochs_seen"] < 40
    assert forecast["epochs"] == 10_000
    assert 0 < forecast["spent_fraction"] < 0.02
    assert forecast["gross_low_j"] < forecast["gross_j"] < forecast["gross_high_j"]
    power_w = forecast["gross_j"] / forecast["duration_s"]
    assert power_w == pytest.approx(300, rel=0.2)
    counts = {phase["phase"]: phase["count"] for phase in forecast["phases"]}
    assert counts == {"epoch": 10_000, "validate": 10_000}


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [({"most_epochs": 4}, 4), ({"within": 0.99, "least_epochs": 6, "most_epochs": 6}, 6)],
    ids=["ceiling", "floor"],
)
def test_the_profile_keeps_to_its_floor_and_ceiling(tmp_path, tiny_plan, bounds, expected):
    run = trained(tmp_path / "study", tiny_plan, **{"epochs": 1000, "within": 1e-6} | bounds)
    assert run["results"]["train"]["epochs"] == expected
    assert run["results"]["train"]["forecast"]["spent_fraction"] < 0.1


def test_without_the_wish_every_epoch_is_trained_and_nothing_forecast(tmp_path, tiny_plan):
    run = trained(tmp_path / "study", tiny_plan, epochs=4)
    assert run["results"]["train"]["epochs"] == 4
    assert "forecast" not in run["results"]["train"]


@pytest.mark.parametrize(
    ("train", "word"),
    [
        ({"within": 0.02, "steps": 10}, "give their number"),
        ({"least_epochs": 2}, "give within"),
        ({"within": 0.0, "epochs": 10}, "within"),
        ({"within": math.inf, "epochs": 10}, "within"),
    ],
)
def test_a_wish_that_makes_no_sense_is_refused(train, word):
    with pytest.raises(PlanError, match=word):
        parse({"name": "x", "models": ["LeNet"], "train": train}, "x.toml")
