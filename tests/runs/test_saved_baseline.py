"""Idle power that is saved for a machine, and the command that measures it."""

import json
import math
import time

import pytest

import joulelab
from joulelab.energy.baseline import IdlePoint
from joulelab.machine import machine_identity
from joulelab.runs.saved_baseline import baseline_file, load_baseline, save_baseline
from joulelab.sensors.simulated import SimulatedMachine, SimulatedSource, Waveform

STEADY = SimulatedMachine((SimulatedSource(component="gpu:0", waveform=Waveform.constant(150.0)),))


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("JOULELAB_HOME", str(tmp_path / "home"))


def save(age_s=0.0):
    point = IdlePoint(
        time_s=time.monotonic() - age_s,
        duration_s=5.0,
        power_w={"gpu:0": 100.0},
        uncertainty_w={"gpu:0": 0.5},
        source={"gpu:0": "simulated.samples"},
    )
    return save_baseline(point, machine_identity())


def load():
    return load_baseline(machine_identity)


def test_the_next_meter_uses_the_saved_baseline():
    save(age_s=60)
    with joulelab.Meter(sensors=STEADY) as meter, meter.span("work") as span:
        sum(range(100000))
    assert span.energy.idle_j == pytest.approx(100.0 * span.energy.duration_s)


def test_idle_power_of_another_sensor_is_not_subtracted():
    save()
    counter = SimulatedSource(
        component="gpu:0",
        waveform=Waveform.constant(150.0),
        kind="counter",
        update_period_s=0.001,
        interval_s=0.05,
    )
    with joulelab.Meter(sensors=SimulatedMachine((counter,))) as meter, meter.span("work") as span:
        sum(range(100000))
    assert math.isnan(span.energy.idle_j)


def test_a_loaded_point_has_its_age():
    save(age_s=100)
    assert load().points[0].time_s == pytest.approx(time.monotonic() - 100, abs=5)


@pytest.mark.parametrize(
    "change",
    [{"machine": "another"}, {"schema": "joulelab-idle-0"}, {"point": {}}, {"unix_s": "x"}],
)
def test_a_point_of_another_machine_or_schema_is_not_used(change):
    path = save()
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert load() is None


def test_without_a_readable_file_there_is_no_baseline():
    assert load() is None
    baseline_file().parent.mkdir(parents=True)
    baseline_file().write_text("{")
    assert load() is None


def test_the_command_measures_and_saves(run, monkeypatch):
    monkeypatch.setenv("JOULELAB_SENSORS", STEADY.spec())
    code, out, _ = run("idle", "--seconds", "0.5", "--json", "--dry-run")
    answer = json.loads(out)
    assert (code, answer["kept_in"]) == (0, None)
    assert answer["idle"]["mean_power_w"] == pytest.approx(150.0)
    assert load() is None
    code, out, _ = run("idle", "--seconds", "0.5")
    assert code == 0
    assert "gpu:0    150 W ± " in out
    assert "simulated" in out
    assert f"saved in {baseline_file()}" in out
    assert load().points[0].power_w["gpu:0"] == pytest.approx(150.0)


def test_a_duration_out_of_range_is_an_error_of_one_line(run):
    code, _, err = run("idle", "--seconds", "0")
    assert code == 2
    assert len(err.splitlines()) == 1
