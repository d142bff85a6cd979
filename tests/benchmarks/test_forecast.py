"""The benchmark of forecasts: replays of recordings, and few simulated runs."""

import math

import numpy as np
import pytest
from benchmarks.forecast import table
from benchmarks.forecast_case import Case, summary
from benchmarks.forecast_runs import RUNS, Run, record

from benchmarks import forecast_h100, forecast_runs, forecast_simulated
from joulelab.forecast.profile import Row


def case(truth_j):
    rows = [Row("epoch", 1.0, 10.0)] * 3 + [Row("epoch", 1.0, (truth_j - 30.0) / 97)] * 97
    return Case.of("a", rows, 3)


def test_a_row_of_the_table_has_relative_errors():
    good, bad = case(1000.0), case(1500.0)
    assert good.energy_covered
    assert not bad.energy_covered
    found = summary([good, bad])
    assert (found["coverage"], found["time coverage"]) == (50.0, 100.0)
    assert found["error"] == pytest.approx(100 / 3 / 2)
    assert found["mean"] == pytest.approx(100 / 3 / 2)
    row = table({"a": [good, bad]})[-1]
    assert row.startswith("| a | 2 | 50 % | ")


def test_recorded_trainings_are_forecast():
    found = list(forecast_runs.cases())
    assert len({one.group for one in found}) == 12
    held_out = [one for one in found if "not used to choose" in one.group]
    assert 92 <= summary(held_out)["coverage"] <= 97
    assert summary(held_out)["half-width"] <= 22
    assert summary(held_out)["error"] < summary(held_out)["first epoch"]


def test_the_recorded_gpu_is_forecast():
    found = list(forecast_h100.cases())
    assert len(found) == 3 * 48
    assert summary(found)["coverage"] >= 85
    assert summary(found)["error"] < summary(found)["first epoch"]


def test_simulated_runs_are_forecast(monkeypatch):
    monkeypatch.setattr(forecast_simulated, "RUNS", 20)
    found = list(forecast_simulated.cases())
    assert len(found) == 20 * len(forecast_simulated.KINDS) * len(forecast_simulated.SEEN)
    assert 92 <= summary(found)["coverage"] <= 97
    assert summary(found)["error"] < 2


def test_a_real_training_is_recorded():
    assert len({run.name for run in RUNS}) == len(RUNS)
    run = Run(
        model="benchmarks.forecast_models:perceptron",
        data="synthetic",
        batch_size=8,
        epochs=3,
        images=200,
        validate=True,
    )
    rows = record(run)
    assert [row["phase"] for row in rows] == ["epoch", "validate"] * 3
    assert [row["epoch"] for row in rows] == [0, 0, 1, 1, 2, 2]
    for row in rows:
        assert float(row["gross_j"]) > 0
        assert (row["phase"] == "epoch") == bool(row["cpu_s"])
    assert np.isfinite(math.fsum(float(row["duration_s"]) for row in rows))
