"""Spans and energies that follow a framework's hooks, without a framework."""

import math
import time
import warnings

import pytest

import joulelab
from joulelab.batches import Tokens
from joulelab.errors import RecorderError
from joulelab.forecast import loop
from joulelab.integrations import hook_spans
from joulelab.integrations.callback import EnergyHooks
from joulelab.integrations.fit import Fit
from joulelab.integrations.hook_spans import HookSpans, wrap_method


@pytest.mark.usefixtures("own_recorder")
def test_the_first_span_opens_a_meter_and_close_ends_it(spans_of):
    spans = HookSpans()
    assert spans.meter is None
    spans.begin("fit")
    spans.begin("epoch")
    first = spans.meter
    spans.close()
    assert spans_of(first) == [["fit", ["epoch"]]]
    assert first.energy("epoch").gross_j > 0
    spans.begin("fit")
    assert spans.meter is not first
    spans.close()


def test_a_given_meter_stays_open():
    with joulelab.Meter() as meter:
        spans = HookSpans(meter)
        spans.begin("fit")
        spans.close()
        with meter.span("after"):
            pass
    assert [span.name for span in meter.spans] == ["fit", "after"]


def test_ending_a_span_ends_the_spans_within_it():
    with joulelab.Meter() as meter:
        spans = HookSpans(meter)
        for name in ("fit", "epoch", "step"):
            spans.begin(name)
        assert spans.end("validate") is None
        assert spans.end("epoch").name == "epoch"
        assert spans.find("step") is None
        assert spans.find("fit") is not None
        spans.close()


@pytest.mark.parametrize(
    "error",
    [RecorderError("it did not start", why="no processes left"), OSError("no space left")],
    ids=["recorder", "system"],
)
def test_without_a_recorder_the_training_continues(monkeypatch, error):
    def refuse(**_):
        raise error

    monkeypatch.setattr("joulelab.integrations.hook_spans.Meter", refuse)
    spans = HookSpans()
    with pytest.warns(RuntimeWarning, match=f"energy is not measured: .*{str(error)[-5:]}"):
        fit = Fit(spans)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit.begin_epoch(0, 0)
        fit.end_epoch(0, 5)
        assert fit.new_metrics(now=True) == []
        assert fit.end() is None
        spans.close()


def test_a_wrapped_method_calls_both_functions_and_can_be_restored():
    class Owner:
        def work(self, x):
            return 1 / x

    owner, calls = Owner(), []
    restore = wrap_method(owner, "work", lambda: calls.append("begin"), lambda: calls.append("end"))
    assert owner.work(2) == 0.5
    with pytest.raises(ZeroDivisionError):
        owner.work(0)
    assert calls == ["begin", "end"] * 2
    restore()
    assert "work" not in vars(owner)


@pytest.fixture
def fit_of():
    """A fit on an open meter."""
    with joulelab.Meter() as meter:
        spans = HookSpans(meter)
        yield lambda **options: Fit(spans, **options)
        spans.close()


def run_epoch(fit, index, steps=10, validations=0, pause_s=0.0):
    fit.begin_epoch(index, index * steps)
    time.sleep(pause_s)
    for _ in range(validations):
        fit.begin_validation()
        fit.end_validation()
    fit.end_epoch(index, (index + 1) * steps, samples=100)


def test_spans_of_a_failed_call_end_at_its_last_hook():
    with joulelab.Meter() as meter:
        spans = HookSpans(meter)
        spans.begin("fit")
        spans.begin("step")
        last_ns = spans.end("step").stop_ns
        spans.begin("validate")
        spans.end("validate")
        step = spans.begin("step")
        with pytest.warns(RuntimeWarning, match=r"^fit ended without notice: .*\b(ms|s|µs) ago"):
            spans.end_at_last_hook()
        [fit] = meter.spans_named("fit")
        assert last_ns < fit.stop_ns == step.start_ns == step.stop_ns
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            spans.end_at_last_hook()


def test_the_total_includes_failed_attempts_and_the_time_between_epochs(fit_of, energy_until):
    fit = fit_of(total_steps=40)
    fit.begin_attempt(total_steps=40)
    run_epoch(fit, 0)
    fit.begin_attempt(total_steps=80)
    [attempt] = fit._attempts[:-1]
    first = fit._span
    run_epoch(fit, 0)
    fit.begin_validation()
    fit.end_validation()
    run_epoch(fit, 1)
    rows = fit.new_metrics(now=True)
    assert len(rows) == 2, "epochs of a failed attempt are not logged"
    for epoch, row in rows:
        assert row["total_gross_j"] == pytest.approx(energy_until(first, epoch.span), rel=1e-3)
    assert rows[1][1]["forecast_gross_j"] > rows[1][1]["total_gross_j"]
    finished = fit.end()
    assert finished.metrics["fit_gross_j"] == pytest.approx(energy_until(first, first), rel=1e-3)
    assert finished.metrics["fit_failed_attempts"] == 1
    assert finished.metrics["fit_failed_gross_j"] == pytest.approx(
        energy_until(attempt, attempt), rel=1e-3
    )
    assert finished.lines[-1].startswith("1 attempt failed and used ")


def test_carbon_of_the_configured_site_and_watt_hours_are_logged(monkeypatch):
    monkeypatch.setenv("JOULELAB_INTENSITY", "360")
    with joulelab.Meter() as meter:
        hooks = EnergyHooks(meter, wh=True)
        hooks._fit = Fit(hooks._spans)
        run_epoch(hooks._fit, 0)
        [(_, row)] = hooks._fit.new_metrics(now=True)
        row = hooks._in_units(row)
        fit = hooks._in_units(hooks._end_fit())
    for found, name in ((row, "epoch"), (row, "total"), (fit, "fit")):
        gross_j = found[f"{name}_gross_j"]
        assert found[f"{name}_carbon_g"] == pytest.approx(gross_j * 1e-4)
        assert found[f"{name}_gross_wh"] == pytest.approx(gross_j / 3600)


def test_the_summary_has_short_lines_and_can_be_left_out(capsys, monkeypatch):
    monkeypatch.setenv("JOULELAB_INTENSITY", "360")
    with joulelab.Meter() as meter:
        for quiet in (True, False):
            hooks = EnergyHooks(meter, quiet=quiet)
            hooks._fit = Fit(hooks._spans)
            assert hooks._end_fit()
            lines = capsys.readouterr().err.splitlines()
            assert bool(lines) is not quiet
    assert lines[0].startswith("joulelab: ")
    assert lines[1].split()[0] == "gpu:0"
    assert any("CO2e" in line for line in lines)
    assert max(map(len, lines)) < 100


def test_epochs_wait_while_their_energies_would_cost_too_much(fit_of, monkeypatch):
    monkeypatch.setattr(loop, "COST_SHARE", 1e-9)
    fit = fit_of()
    run_epoch(fit, 0)
    assert fit.new_metrics() == []
    run_epoch(fit, 1)
    rows = fit.new_metrics(now=True)
    assert [epoch.epoch for epoch, _ in rows] == [0, 1]
    first_j, second_j = (row["epoch_gross_j"] for _, row in rows)
    assert rows[1][1]["total_gross_j"] >= first_j + second_j
    assert fit.new_metrics() == []


def test_validation_does_not_count_as_training(fit_of):
    fit = fit_of()
    run_epoch(fit, 0, validations=2)
    fit.begin_validation()
    fit.end_validation()
    [(epoch, row)] = fit.new_metrics(now=True)
    within, also_within, after = (span.energy.gross_j for span in epoch.validations)
    assert row["validate_gross_j"] == pytest.approx(within + also_within + after)
    assert row["train_j_per_sample"] == pytest.approx(
        (row["epoch_gross_j"] - within - also_within) / 100
    )


def test_the_fit_is_forecast_from_its_number_of_epochs_or_steps(fit_of):
    for options in ({"total_epochs": 100}, {"total_steps": 1000}):
        fit = fit_of(**options)
        for index in range(4):
            # Epochs of some microseconds differ so much that the first count as start-up.
            run_epoch(fit, index, pause_s=0.05)
        found = fit.new_metrics(now=True)
        epoch, row = found[-1]
        fit.end()
        assert epoch.span.attributes.get("total") == options.get("total_epochs")
        assert row["total_gross_j"] <= row["forecast_low_j"]
        assert row["forecast_low_j"] < row["forecast_gross_j"] < row["forecast_high_j"]
        epochs_j = sum(one["epoch_gross_j"] for _, one in found)
        before_j = row["total_gross_j"] - epochs_j
        assert row["forecast_gross_j"] - before_j == pytest.approx(25 * epochs_j, rel=0.5)


def test_there_is_no_forecast_without_an_end_or_after_it(fit_of):
    for options in ({}, {"total_epochs": 2}):
        fit = fit_of(**options)
        for index in range(2):
            run_epoch(fit, index)
        assert "forecast_gross_j" not in fit.new_metrics(now=True)[-1][1]
        fit.end()


def test_a_failure_warns_once_and_the_training_continues(fit_of, monkeypatch):
    fit = fit_of()
    monkeypatch.setattr(joulelab.Meter, "energies", lambda *_: 1 / 0)
    run_epoch(fit, 0)
    with pytest.warns(RuntimeWarning, match="no more energies are logged"):
        assert fit.new_metrics(now=True) == []
    run_epoch(fit, 1)
    assert fit.new_metrics(now=True) == []
    assert fit.end() is None


def test_processes_whose_tokens_do_not_arrive_count_as_this_one(monkeypatch):
    monkeypatch.setattr(hook_spans, "WAIT_FOR_PROCESSES_S", 0.0)
    with joulelab.Meter() as meter:
        spans = HookSpans(meter)
        spans.processes = spans.replicas = 4.0
        spans.begin("epoch")
        spans.add(Tokens(100, 28))
        spans.add(Tokens(50, 6))
        span = spans.end("epoch")
        assert span.attributes == {"tokens": 150.0, "padding_tokens": 34.0}
        with pytest.warns(RuntimeWarning, match="each counts as many as this one"):
            [found] = spans.host_tokens([span])
        assert found[:2] == (600.0, 136.0)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert spans.host_tokens([span])[0][:2] == (600.0, 136.0)


@pytest.mark.parametrize(("processes", "tokens"), [(4.0, {}), (math.nan, {"tokens": 100.0})])
def test_unknown_tokens_are_not_waited_for(processes, tokens, monkeypatch):
    with joulelab.Meter() as meter:
        spans = HookSpans(meter)
        spans.processes = spans.replicas = processes
        span = spans.begin("epoch", **tokens)
        spans.end("epoch")
        monkeypatch.setattr(HookSpans, "_of_all_processes", lambda *_: 1 / 0)
        [found] = spans.host_tokens([span])
    assert math.isnan(found.processed)


class Failed:
    """A number on a device that has failed."""

    def __add__(self, _):
        return self

    __radd__ = __add__

    def __float__(self):
        raise RuntimeError("CUDA error: device-side assert triggered")


@pytest.mark.parametrize(
    ("counted", "message"), [(Failed(), "device-side assert"), ("many", "TypeError")]
)
def test_tokens_that_cannot_be_added_up_are_unknown(counted, message):
    with joulelab.Meter() as meter:
        spans = HookSpans(meter)
        spans.tokens_in = lambda batch: counted

        def run():
            spans.begin("epoch")
            for _ in range(2):
                spans.add(spans.count({}))
            return spans.end("epoch")

        with pytest.warns(RuntimeWarning, match=f"tokens are not counted: .*{message}") as warned:
            span = run()
    assert len(warned) == 1
    assert span.stop_ns is not None
    assert span.attributes == {}


def test_a_checkpoint_within_a_validation_is_in_one_part(fit_of, energy_of):
    fit = fit_of()
    fit.begin_epoch(0, 0)
    fit.begin_validation()
    fit._spans.begin("checkpoint")
    checkpoint = fit._spans.end("checkpoint")
    fit.end_validation()
    fit.end_epoch(0, 5)
    epoch, [validation] = fit._pending[0].span, fit._pending[0].validations
    metrics = fit.end().metrics
    expected_j = {
        "train": energy_of(epoch) - energy_of(validation),
        "validate": energy_of(validation) - energy_of(checkpoint),
        "checkpoint": energy_of(checkpoint),
        "other": energy_of(fit._span) - energy_of(epoch),
    }
    for name, true_j in expected_j.items():
        assert metrics[f"fit_{name}_gross_j"] == pytest.approx(true_j, rel=1e-3, abs=1e-6)
