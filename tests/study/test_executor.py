"""Cells as the worker runs them: which sensors, which failures, and when training stops."""

import math
import os
from dataclasses import replace

import pytest

from joulelab.errors import PlanError
from joulelab.forecast.steady import LEAST_STEPS, SteadyWindow
from joulelab.machine import Gpu
from joulelab.sensors.simulated import SimulatedMachine, SimulatedSource, Waveform
from joulelab.study.cells import combinations
from joulelab.study.executor import Executor
from joulelab.study.plan import Plan
from joulelab.study.plan_file import parse

STEADY = SimulatedMachine(
    (SimulatedSource(component="gpu:0", waveform=Waveform.constant(300.0), noise_w=1.0),)
)


@pytest.fixture
def executor(monkeypatch):
    monkeypatch.delenv("JOULELAB_SENSORS", raising=False)
    plan = Plan(
        name="test",
        models=["LeNet"],
        data={"name": "synthetic", "train_count": 64, "test_count": 64},
    )
    executor = Executor(plan)
    gpu = Gpu(
        index=2,
        name="a GPU",
        uuid="GPU-x",
        memory_bytes=1,
        power_limit_w=1.0,
        default_power_limit_w=1.0,
        driver="1",
        cuda_version="1",
        mig=None,
    )
    executor._machine = replace(executor._machine, gpus=(gpu, replace(gpu, index=5)))
    return executor


def test_a_cell_is_charged_for_its_own_gpu_alone(executor):
    assert executor._sensors_of("cpu") == ["cpu", "dram", "host"]
    assert executor._sensors_of("cuda:1") == ["gpu:5", "cpu", "dram", "host"]


def test_idle_is_measured_for_every_gpu_of_the_plan(executor):
    assert executor._sensors_of("cuda:0", "cpu", "cuda:1", "cuda:0")[:2] == ["gpu:2", "gpu:5"]


def test_the_sensors_that_the_user_asked_for_are_used(executor, monkeypatch):
    executor._sensors = ["gpu"]
    assert executor._sensors_of("cuda:1") == ["gpu"]
    executor._sensors = None
    monkeypatch.setenv("JOULELAB_SENSORS", "simulated")
    assert executor._sensors_of("cuda:1") is None


def test_idle_on_a_busy_machine_is_measured_with_doubt(
    executor, monkeypatch, tmp_path, busy_machine
):
    monkeypatch.setattr("joulelab.study.executor.IDLE_WAIT_S", 0.1)
    threads = Waveform.constant(float(os.cpu_count()))
    monkeypatch.setenv("JOULELAB_SENSORS", busy_machine(threads))
    executor._plan = executor._plan.replaced(idle_s=0.5)
    (tmp_path / "idle").mkdir()
    events = []
    body = executor.idle(tmp_path / "idle", events.append)["body"]
    (point,) = body["baseline"]
    assert point["load"]["cpu"]["fraction"] > 0.9
    assert point["busy_w"] == {"cpu:0": pytest.approx(7.0, rel=0.01)}
    assert events[0]["name"].startswith("waiting, ")
    (span,) = body["measured"]
    assert span["energy"]["gross_j"] == pytest.approx(7.0 * span["energy"]["duration_s"], rel=0.01)


def run_cell(plan, directory, model):
    """Run one cell in this process; return what the worker would answer."""
    directory.mkdir()
    plan = plan.replaced(models=[f"tiny_models:{model}"], repeats=1, idle_s=0.0)
    (factors,) = combinations(plan)
    events = []
    body = Executor(plan).cell(directory, factors, 0, events.append)["body"]
    return body, events


@pytest.mark.parametrize(
    ("model", "kind", "reason"),
    [
        ("OutOfMemory", "out_of_memory", "Tried to allocate 2.00 GiB"),
        ("wrong_shape", "unsupported", "3x32x32"),
        ("broken", "unsupported", "this model cannot be built"),
    ],
)
def test_the_failure_of_a_cell_is_recorded(tiny_plan, tmp_path, model, kind, reason):
    body, _ = run_cell(tiny_plan, tmp_path / "run", model)
    assert (body["status"], body["failure"]["kind"]) == ("failed", kind)
    assert reason in body["failure"]["reason"]
    assert "\n" not in body["failure"]["reason"]


def trained(directory, tiny_plan, **train):
    plan = tiny_plan.replaced(
        sensors=[STEADY.spec()], train={"warmup_steps": 1, "learning_rate": 0.01} | train
    )
    body, events = run_cell(plan, directory, "linear")
    assert body["status"] == "done"
    assert {event["name"] for event in events} == {"warmup", "epoch", "validate"}
    return body["results"]["train"]


def test_a_cell_trains_until_its_forecast_is_certain_enough(tmp_path, tiny_plan):
    result = trained(tmp_path / "run", tiny_plan, epochs=10_000, within=0.9, most_epochs=40)
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
    ids=["most", "least"],
)
def test_training_stops_within_its_bounds(tmp_path, tiny_plan, bounds, expected):
    result = trained(tmp_path / "run", tiny_plan, **{"epochs": 1000, "within": 1e-6} | bounds)
    assert result["epochs"] == expected
    assert result["forecast"]["spent_fraction"] < 0.1


def test_without_a_bound_every_epoch_is_trained_and_nothing_forecast(tmp_path, tiny_plan):
    result = trained(tmp_path / "run", tiny_plan, epochs=4)
    assert result["epochs"] == 4
    assert "forecast" not in result


def test_a_phase_that_its_seconds_end_is_recorded_as_incomplete(tmp_path, tiny_plan):
    cut = trained(tmp_path / "cut", tiny_plan, epochs=1000, seconds=1e-6)
    assert (cut["complete"], cut["steps"]) == (False, 1)
    whole = trained(tmp_path / "whole", tiny_plan, epochs=2, seconds=1e6)
    assert (whole["complete"], whole["epochs"]) == (True, 2)
    assert trained(tmp_path / "timed", tiny_plan, seconds=1e-6)["complete"]


@pytest.mark.parametrize(
    ("train", "word"),
    [
        ({"within": 0.02, "steps": 10}, "give their number"),
        ({"least_epochs": 2}, "give within"),
        ({"within": 0.0, "epochs": 10}, "within"),
        ({"within": math.inf, "epochs": 10}, "within"),
    ],
)
def test_bounds_that_make_no_sense_are_refused(train, word):
    with pytest.raises(PlanError, match=word):
        parse({"name": "x", "models": ["LeNet"], "train": train}, "x.toml")


@pytest.mark.parametrize("phase", ["train", "infer"])
def test_a_probe_runs_steps_until_enough_are_steady(executor, monkeypatch, tmp_path, phase):
    monkeypatch.setenv("JOULELAB_SENSORS", STEADY.spec())
    plan = executor._plan.replaced(phases=[phase], factors={"batch_size": 24})
    executor = Executor(plan)
    (factors,) = combinations(plan)
    window, events = SteadyWindow(window_s=0.5, most_s=20.0), []
    body = executor.probe(tmp_path / "probe", factors, 0, window, events.append)["body"]
    assert (body["status"], body["failure"]) == ("done", None)
    found = body["results"][phase]
    assert len(found["durations_s"]) == len(found["work"]) >= LEAST_STEPS // 2
    assert set(found["work"]) == {24, 16}
    duration_s = sum(found["durations_s"])
    assert 0.5 <= duration_s < 20.0
    assert found["energy"]["duration_s"] == pytest.approx(duration_s)
    assert found["energy"]["gross_j"] == pytest.approx(300.0 * duration_s, rel=0.01)
    assert {event["name"] for event in events} == {"warmup", "epoch"}
    assert body["measured"] == []
