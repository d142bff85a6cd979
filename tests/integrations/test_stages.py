import math
import warnings

import pytest

import joulelab
from joulelab.errors import RecorderError
from joulelab.integrations import fit as fit_module
from joulelab.integrations.fit import Fit
from joulelab.integrations.stages import Stages, bracket


def test_a_meter_of_its_own_is_opened_with_the_first_span_and_closed_with_the_last(spans_of):
    stages = Stages()
    assert stages.meter is None
    stages.begin("fit")
    stages.begin("epoch")
    first = stages.meter
    stages.close()
    assert spans_of(first) == [["fit", ["epoch"]]]
    assert first.energy("epoch").gross_j > 0
    stages.begin("fit")
    assert stages.meter is not first
    stages.close()


def test_a_given_meter_stays_open():
    with joulelab.Meter() as meter:
        stages = Stages(meter)
        stages.begin("fit")
        stages.close()
        with meter.span("after"):
            pass
    assert [span.name for span in meter.spans] == ["fit", "after"]


def test_ending_ends_what_lies_within_and_what_is_not_open_is_no_error():
    with joulelab.Meter() as meter:
        stages = Stages(meter)
        for name in ("fit", "epoch", "step"):
            stages.begin(name)
        assert stages.end("validate") is None
        assert stages.end("epoch").name == "epoch"
        assert stages.find("step") is None
        assert stages.find("fit") is not None
        stages.close()


@pytest.mark.parametrize(
    "error",
    [RecorderError("it did not start", why="no processes left"), OSError("no space left")],
    ids=["recorder", "system"],
)
def test_without_a_recorder_the_training_goes_on(monkeypatch, error):
    def refuse():
        raise error

    monkeypatch.setattr("joulelab.integrations.stages.Meter", refuse)
    stages = Stages()
    with pytest.warns(RuntimeWarning, match=f"energy is not measured: .*{str(error)[-5:]}"):
        fit = Fit(stages)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit.begin_epoch(0, 0)
        fit.end_epoch(0, 5)
        assert fit.due(at_once=True) == []
        assert fit.end() is None
        stages.close()


def test_a_bracketed_method_ends_however_it_ends_and_can_be_undone():
    class Owner:
        def work(self, x):
            return 1 / x

    owner, told = Owner(), []
    undo = bracket(owner, "work", lambda: told.append("begin"), lambda: told.append("end"))
    assert owner.work(2) == 0.5
    with pytest.raises(ZeroDivisionError):
        owner.work(0)
    assert told == ["begin", "end"] * 2
    undo()
    assert "work" not in vars(owner)


@pytest.fixture
def fit_of():
    """A fit on an open meter."""
    with joulelab.Meter() as meter:
        stages = Stages(meter)
        yield lambda **options: Fit(stages, **options)
        stages.close()


def run_epoch(fit, index, steps=10, validations=0):
    fit.begin_epoch(index, index * steps)
    for _ in range(validations):
        fit.begin_validation()
        fit.end_validation()
    fit.end_epoch(index, (index + 1) * steps, samples=100)


def test_epochs_wait_for_each_other_while_working_them_out_would_cost_too_much(fit_of, monkeypatch):
    fit = fit_of()
    monkeypatch.setattr(fit_module, "COST_SHARE", 1e-9)
    run_epoch(fit, 0)
    assert fit.due() == []
    run_epoch(fit, 1)
    monkeypatch.setattr(fit_module, "COST_SHARE", math.inf)
    rows = fit.due()
    assert [epoch.epoch for epoch, _ in rows] == [0, 1]
    assert rows[1][1]["total_gross_j"] == pytest.approx(
        rows[0][1]["epoch_gross_j"] + rows[1][1]["epoch_gross_j"]
    )
    assert fit.due() == []


def test_validation_within_an_epoch_is_no_training_and_that_after_it_is_the_epochs(fit_of):
    fit = fit_of()
    run_epoch(fit, 0, validations=2)
    fit.begin_validation()
    fit.end_validation()
    [(epoch, row)] = fit.due(at_once=True)
    within, also_within, after = (span.energy.gross_j for span in epoch.validations)
    assert row["validate_gross_j"] == pytest.approx(within + also_within + after)
    assert row["train_j_per_sample"] == pytest.approx(
        (row["epoch_gross_j"] - within - also_within) / 100
    )


def test_a_forecast_is_of_all_epochs_whether_epochs_or_steps_are_told(fit_of):
    for options in ({"total_epochs": 100}, {"total_steps": 1000}):
        fit = fit_of(**options)
        for index in range(4):
            run_epoch(fit, index)
        epoch, row = fit.due(at_once=True)[-1]
        fit.end()
        assert epoch.span.attributes.get("total") == options.get("total_epochs")
        mean_j = row["total_gross_j"] / 4
        assert row["forecast_low_j"] < row["forecast_gross_j"] < row["forecast_high_j"]
        assert row["forecast_gross_j"] == pytest.approx(100 * mean_j, rel=0.5)


def test_there_is_no_forecast_of_what_is_over_or_has_no_end(fit_of):
    for options in ({}, {"total_epochs": 2}):
        fit = fit_of(**options)
        for index in range(2):
            run_epoch(fit, index)
        assert "forecast_gross_j" not in fit.due(at_once=True)[-1][1]
        fit.end()


def test_a_failure_of_the_accounting_is_told_once_and_the_training_goes_on(fit_of, monkeypatch):
    fit = fit_of()
    monkeypatch.setattr(joulelab.Meter, "energies", lambda *_: 1 / 0)
    run_epoch(fit, 0)
    with pytest.warns(RuntimeWarning, match="no more energies are logged"):
        assert fit.due(at_once=True) == []
    run_epoch(fit, 1)
    assert fit.due(at_once=True) == []
    assert fit.end() is None
