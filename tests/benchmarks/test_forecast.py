"""The benchmark of forecasts: replays of recordings, and few simulated runs."""

import csv
import math
from dataclasses import replace

import numpy as np
import pytest
from benchmarks.forecast import table
from benchmarks.forecast_case import Case, summary
from benchmarks.forecast_runs import RUNS, Run, record

from benchmarks import forecast_earlier, forecast_h100, forecast_runs, forecast_simulated
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


@pytest.fixture(scope="module")
def trainings():
    return list(forecast_runs.cases())


def test_trainings_without_other_programs_are_covered_by_narrow_intervals(trainings):
    """None of them was used to choose the method."""
    quiet = [one for one in trainings if "quiet machine" in one.group]
    measured = [one for one in quiet if forecast_runs.MEASURED in one.group]
    assert len(measured) == len(quiet) / 2 == 58
    for group in (measured, [one for one in quiet if one not in measured]):
        found = summary(group)
        assert 92 <= found["coverage"] <= 97
        assert found["half-width"] <= 6.5
        assert found["error"] < found["first epoch"]


def test_measured_trainings_are_covered_next_to_other_programs_too(trainings):
    held_back = [
        one
        for one in trainings
        if forecast_runs.MEASURED in one.group and forecast_runs.USES["test"] in one.group
    ]
    found = summary(held_back)
    assert 90 <= found["coverage"] <= 97
    assert found["half-width"] <= 25
    assert found["error"] < found["first epoch"]


def test_the_recorded_gpu_is_forecast():
    found = list(forecast_h100.cases())
    assert len(found) == 3 * 48
    assert 92 <= summary(found)["coverage"] <= 97
    assert sum("not used" in one.group for one in found) == 3 * 24
    assert summary(found)["error"] < summary(found)["first epoch"]


def test_simulated_runs_are_forecast(monkeypatch):
    monkeypatch.setattr(forecast_simulated, "RUNS", 20)
    found = list(forecast_simulated.cases())
    assert len(found) == 20 * len(forecast_simulated.KINDS) * len(forecast_simulated.SEEN)
    assert 92 <= summary(found)["coverage"] <= 97
    assert summary(found)["error"] < 2


def test_an_earlier_commit_forecasts_the_same_rows():
    if not (forecast_earlier.ROOT / ".git").exists():
        pytest.skip("not a clone of the repository")
    cases = [case(1000.0), case(1500.0)]
    found = forecast_earlier.forecasts("HEAD", cases)
    assert len(found) == 2
    for one, earlier in zip(cases, found, strict=True):
        assert earlier.low_j < one.forecast.gross_j < earlier.high_j
    groups = {"a": [replace(cases[0], earlier=found[0]._replace(low_j=990.0, high_j=1010.0))]}
    assert table(groups)[0].startswith("|  | forecasts | before: coverage | half-width | coverage ")
    assert table(groups)[-1].startswith("| a | 1 | 100 % | ")


def test_a_real_training_is_recorded(tmp_path):
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
        assert row["shared"] in (0, 1)
    assert np.isfinite(math.fsum(float(row["duration_s"]) for row in rows))
    with (tmp_path / "own.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, forecast_runs.COLUMNS)
        writer.writeheader()
        writer.writerows(rows * 2)
    assert [one.group for one in forecast_runs.cases(tmp_path / "own.csv")] == [
        f"trainings not used to choose the method, own machine, {kind}, from 3 epochs"
        for kind in (forecast_runs.MEASURED, forecast_runs.CPU_TIME)
    ]
