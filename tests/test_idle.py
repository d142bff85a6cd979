"""Idle power that is kept for a machine, and the command that measures it."""

import json
import math
import os
import subprocess
import sys
import time

import pytest

import joulelab
from joulelab.energy.baseline import IdlePoint
from joulelab.energy.saved_baseline import idle_file, keep, kept
from joulelab.sensors.simulated import SimulatedMachine, SimulatedSource, Waveform
from joulelab.storage import write_whole

STEADY = SimulatedMachine((SimulatedSource(component="gpu:0", waveform=Waveform.constant(150.0)),))


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("JOULELAB_HOME", str(tmp_path / "home"))


def point(time_s):
    return IdlePoint(
        time_s=time_s,
        duration_s=5.0,
        power_w={"gpu:0": 100.0},
        uncertainty_w={"gpu:0": 0.5},
        source={"gpu:0": "simulated.samples"},
    )


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "joulelab", "idle", *arguments],
        env=os.environ | {"JOULELAB_SENSORS": STEADY.spec()},
        capture_output=True,
        text=True,
        check=False,
    )


def test_what_is_kept_is_used_by_the_next_meter():
    keep(point(time.monotonic() - 60))
    with joulelab.Meter(sensors=STEADY) as meter, meter.span("work") as span:
        sum(range(100000))
    assert span.energy.idle_j == pytest.approx(100.0 * span.energy.duration_s)


def test_idle_power_of_another_sensor_is_not_subtracted():
    keep(point(time.monotonic()))
    other = SimulatedMachine(
        (
            SimulatedSource(
                component="gpu:0",
                waveform=Waveform.constant(150.0),
                kind="counter",
                update_period_s=0.001,
                interval_s=0.05,
            ),
        )
    )
    with joulelab.Meter(sensors=other) as meter, meter.span("work") as span:
        sum(range(100000))
    assert math.isnan(span.energy.idle_j)


def test_it_keeps_its_age():
    keep(point(time.monotonic() - 100))
    baseline = kept()
    assert baseline.points[0].time_s == pytest.approx(time.monotonic() - 100, abs=5)


@pytest.mark.parametrize(
    "change",
    [{"machine": "another"}, {"schema": "joulelab-idle-0"}, {"point": {}}, {"unix_s": "x"}],
)
def test_what_is_not_this_machines_or_cannot_be_read_is_not_used(change):
    path = keep(point(time.monotonic()))
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert kept() is None


def test_nothing_kept_and_nonsense_kept_are_nothing():
    assert kept() is None
    idle_file().parent.mkdir(parents=True)
    idle_file().write_text("{")
    assert kept() is None


def test_the_command_measures_and_keeps():
    result = command("--seconds", "0.5")
    assert result.returncode == 0
    assert "gpu:0      150.00 W" in result.stdout
    assert "simulated" in result.stdout
    assert kept().points[0].power_w["gpu:0"] == pytest.approx(150.0)


def test_the_command_as_json_and_without_keeping():
    result = command("--seconds", "0.5", "--json", "--dry-run")
    answer = json.loads(result.stdout)
    assert answer["kept_in"] is None
    assert answer["idle"]["mean_power_w"] == pytest.approx(150.0)
    assert kept() is None


def test_a_bad_length_is_one_line():
    result = command("--seconds", "0")
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "file"
    write_whole(path, b"one")
    write_whole(path, b"two")
    assert path.read_bytes() == b"two"
    assert [entry.name for entry in tmp_path.iterdir() if entry.name != "home"] == ["file"]
    with pytest.raises(OSError, match=r"No such file|Not a directory"):
        write_whole(tmp_path / "nowhere" / "file", b"x")
