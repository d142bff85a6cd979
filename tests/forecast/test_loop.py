"""Loops that forecast themselves and keep to a budget, on a machine of known power."""

import re
import time
import warnings
from dataclasses import replace

import psutil
import pytest

from joulelab import Meter
from joulelab.errors import BudgetError, UserError
from joulelab.forecast import loop
from joulelab.forecast.profile import Profile, Row
from joulelab.sensors.simulated import SimulatedMachine, SimulatedSource, Waveform

POWER_W = 300.0
EPOCH_S = 0.05
MACHINE = SimulatedMachine(
    (SimulatedSource(component="gpu:0", waveform=Waveform.constant(POWER_W), noise_w=3.0),)
)


@pytest.fixture
def meter():
    with Meter(sensors=MACHINE) as meter:
        yield meter


def work():
    time.sleep(EPOCH_S)


def test_every_item_is_an_epoch(meter):
    items = []
    for item in meter.epochs(["a", "b", "c"], quiet=True):
        items.append(item)
        work()
    assert items == ["a", "b", "c"]
    spans = meter.spans_named("epoch")
    assert [span.attributes["index"] for span in spans] == [0, 1, 2]
    assert meter.energy("epoch").gross_j == pytest.approx(POWER_W * 3 * EPOCH_S, rel=0.5)


def test_breaking_out_of_a_loop_closes_its_epoch(meter):
    for _ in meter.epochs(range(10), quiet=True):
        break
    assert [span.stop_ns is None for span in meter.spans] == [False]


def test_within_ends_the_loop(meter, capsys):
    done = sum(1 for _ in meter.epochs(range(1000), within=0.2) if work() is None)
    assert 3 <= done < 1000
    last = capsys.readouterr().err.splitlines()[-1]
    (uncertainty_pct,) = re.findall(rf"^joulelab: sure to ([\d.]+) % after {done} epochs$", last)
    assert float(uncertainty_pct) <= 20
    forecast = meter.forecast(1000)
    assert forecast.epochs_seen == done
    assert forecast.gross_low_j < POWER_W * forecast.duration_s < forecast.gross_high_j
    assert forecast.spent_fraction < 0.5


def test_a_loop_is_not_sure_before_its_sensor_is_read():
    gpu = replace(MACHINE.sources[0], lost_s=((0.0, time.monotonic() + 2.0),))
    with Meter(sensors=SimulatedMachine((gpu,))) as meter:
        for _ in meter.epochs(range(1000), within=0.5, quiet=True):
            work()
        assert meter.forecast(1000).gross_j > 0


def test_a_quiet_loop_prints_nothing(meter, capsys):
    for _ in meter.epochs(range(5), max_energy_j=1e9, quiet=True):
        work()
    assert capsys.readouterr().err == ""


def test_a_measured_loop_stops_within_its_budget(meter):
    budget_j = 5.5 * POWER_W * EPOCH_S
    done = 0
    for _ in meter.epochs(range(12), max_energy_j=budget_j, on_budget="stop", quiet=True):
        work()
        done += 1
    assert 1 <= done <= 6
    energies_j = [span.energy.gross_j for span in meter.spans_named("epoch")]
    # An epoch that takes longer than the earlier ones may exceed the budget.
    assert sum(energies_j) <= budget_j + max(energies_j) - min(energies_j) + 0.02 * budget_j


KNOWN_J = 10.0
BUDGET_J = 55.0


@pytest.fixture
def known(meter, monkeypatch):
    """A meter on which every epoch takes 10 J and 1 s."""

    def profile(trace, since_ns, pid):
        begun = sum(span.start_ns >= since_ns for span in meter.spans_named("epoch"))
        return Profile([Row(phase="epoch", duration_s=1.0, gross_j=KNOWN_J)] * begun)

    monkeypatch.setattr(loop, "profile_of_trace", profile)
    return meter


def run(meter, items=range(12), **options):
    return sum(1 for _ in meter.epochs(items, **{"quiet": True, **options}))


def test_the_forecast_is_printed_a_few_times(known, capsys, monkeypatch):
    monkeypatch.setattr(loop, "FIRST_FORECAST_S", 0.0)
    monkeypatch.setattr(loop, "COST_SHARE", 1e9)
    run(known, range(60), quiet=False)
    lines = capsys.readouterr().err.splitlines()
    assert 1 <= len(lines) <= 6
    assert all(line.startswith("joulelab: 60 epochs: 600 J (") for line in lines)


def test_a_loop_stops_before_it_exceeds_its_budget(known):
    assert run(known, max_energy_j=BUDGET_J, on_budget="stop") == 5
    assert run(known, max_energy_j=5 * KNOWN_J, on_budget="stop") == 5
    assert run(known, max_energy_j=12 * KNOWN_J, on_budget="stop") == 12


def test_a_loop_of_unknown_length_has_a_budget_too(known):
    assert run(known, iter(range(12)), max_energy_j=BUDGET_J, on_budget="stop") == 5


def test_a_budget_can_raise(known):
    message = r"energy budget of 55\.0 J ends after epoch 5: 50\.0 J are spent, .* about 10\.0 J"
    with pytest.raises(BudgetError, match=message):
        run(known, max_energy_j=BUDGET_J, on_budget="raise")


def test_by_default_a_budget_warns_once(known):
    with pytest.warns(UserWarning, match="energy budget") as found:
        assert run(known, max_energy_j=BUDGET_J) == 12
    assert len(found) == 1
    assert found[0].filename == __file__


def test_a_budget_can_call_a_function_once(known):
    overruns = []
    assert run(known, max_energy_j=BUDGET_J, on_budget=overruns.append) == 12
    (overrun,) = overruns
    assert (overrun.spent, overrun.next_epoch, overrun.epochs) == (50.0, 10.0, 5)
    assert overrun.forecast.epochs == 12


def test_a_callback_can_stop_the_loop(known):
    assert run(known, max_energy_j=BUDGET_J, on_budget=lambda overrun: True) == 5


def test_a_carbon_budget_applies(known):
    grams = BUDGET_J / 3.6e6 * 400 * 1.5
    overruns = []
    run(
        known,
        max_carbon_g=grams,
        carbon_intensity_g_per_kwh=400.0,
        pue=1.5,
        on_budget=overruns.append,
    )
    assert (overruns[0].quantity, overruns[0].unit, overruns[0].epochs) == ("carbon", "g", 5)
    assert overruns[0].budget == pytest.approx(grams)
    assert overruns[0].spent == pytest.approx(grams * 50 / 55)


def test_the_tighter_of_two_budgets_applies(known):
    overruns = []
    run(
        known,
        max_energy_j=BUDGET_J,
        max_carbon_g=1e6,
        carbon_intensity_g_per_kwh=400.0,
        on_budget=overruns.append,
    )
    assert overruns[0].quantity == "energy"


def test_after_the_last_epoch_nothing_can_exceed_the_budget(known):
    overruns = []
    run(known, range(5), max_energy_j=BUDGET_J, on_budget=overruns.append)
    assert overruns == []


def test_earlier_epochs_of_the_meter_do_not_count(meter):
    for _ in meter.epochs(range(3), quiet=True):
        work()
    before_j = meter.energy("epoch").gross_j
    overruns = []
    for _ in meter.epochs(range(2), max_energy_j=1e-3, on_budget=overruns.append, quiet=True):
        work()
    assert overruns[0].epochs == 1
    first_j = meter.spans_named("epoch")[3].energy.gross_j
    assert overruns[0].spent == pytest.approx(first_j, rel=0.1)
    assert overruns[0].spent < before_j + first_j


def test_the_loop_continues_when_the_recorder_dies(meter):
    done = 0
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        for index in meter.epochs(range(8), max_energy_j=1e9, within=1e-9, quiet=True):
            work()
            if index == 1:
                recorder = psutil.Process(meter.recorder_pid)
                recorder.kill()
                recorder.wait(10)
            done += 1
    assert done == 8
    (warning,) = found
    expected = "no more forecasts and the budget is no longer checked: the recorder"
    assert expected in str(warning.message)
    assert warning.filename == __file__


def test_a_failing_forecast_does_not_stop_the_loop(meter, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("out of luck")

    monkeypatch.setattr(loop, "profile_of_trace", broken)
    with pytest.warns(RuntimeWarning, match="out of luck"):
        assert run(meter, max_energy_j=1.0, on_budget="raise") == 12


@pytest.mark.parametrize(
    "options",
    [
        {"max_carbon_g": 1.0},
        {"max_energy_j": 0.0},
        {"within": -0.1},
        {"on_budget": "explode"},
        {"total": 0},
    ],
    ids=str,
)
def test_invalid_options_are_refused_before_the_loop(meter, options):
    with pytest.raises(UserError):
        meter.epochs(range(3), **options)
    with pytest.raises(UserError, match="number of epochs"):
        meter.epochs(iter(range(3)), within=0.1)
