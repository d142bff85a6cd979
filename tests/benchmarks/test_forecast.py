"""The benchmark of forecasts, with small runs."""

import numpy as np
import pytest
from benchmarks.forecast import table
from benchmarks.forecast_case import Case
from benchmarks.forecast_runs import CPU_TIME, CUTS, MEASURED, Run, cases

from benchmarks import forecast_h100, forecast_simulated
from joulelab.forecast.profile import Profile, Row


def case(truth_j, gross_j=1000.0):
    rows = [Row(phase="epoch", duration_s=1.0, gross_j=gross_j / 100)] * 3
    return Case(
        name="a",
        cut=0.03,
        truth_j=truth_j,
        truth_s=100.0,
        forecast=Profile(rows).forecast(100),
        first_j=2 * truth_j,
        mean_j=0.5 * truth_j,
    )


def test_a_row_of_the_table_has_relative_errors():
    good, bad = case(1000.0), case(1500.0)
    assert good.energy_covered
    assert not bad.energy_covered
    row = table({"both": [good, bad]})[-1].split("|")
    assert [cell.strip() for cell in row[2:7]] == ["2", "2.5 %", "16.7 %", "30.0 %", "50 %"]
    assert [cell.strip() for cell in row[10:12]] == ["100.0 %", "100.0 %"]


def test_the_recorded_gpu_is_forecast():
    found = [one for one in forecast_h100.cases() if one.cut == 0.03]
    assert len(found) == 48
    assert np.mean([one.energy_covered for one in found]) >= 0.9
    ours = np.median([one.error(one.forecast.gross_j) for one in found])
    assert ours < np.median([one.error(one.first_j) for one in found])


def test_simulated_runs_are_forecast(monkeypatch):
    monkeypatch.setattr(forecast_simulated, "RUNS", 20)
    found = list(forecast_simulated.cases())
    assert len(found) == 20 * len(forecast_simulated.KINDS) * len(forecast_simulated.LENGTHS)
    assert np.mean([one.energy_covered for one in found]) >= 0.9
    assert np.median([one.error(one.forecast.gross_j) for one in found]) < 0.03


def test_a_real_training_is_forecast_from_its_first_steps():
    run = Run(
        model="benchmarks.forecast_models:perceptron",
        data="synthetic",
        batch_size=8,
        epochs=3,
        images=800,
    )
    found = list(cases(run))
    assert [(one.kind, one.cut) for one in found] == [
        (kind, cut) for kind in (MEASURED, CPU_TIME) for cut in CUTS
    ]
    for one in found:
        assert one.truth_j > 0
        assert 0 < one.forecast.epochs_seen < 0.5
        assert one.forecast.gross_low_j < one.forecast.gross_j < one.forecast.gross_high_j
    assert found[0].truth_j == pytest.approx(found[2].truth_j)
