"""Idle power that is saved for a machine, and the command that measures it."""

import json
import math
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from energy_parts import idle_point
from live_files import enable
from live_sysfs import LiveRapl

import joulelab
from joulelab.energy.baseline import Baseline
from joulelab.energy.estimator import EnergyEstimator
from joulelab.machine import describe
from joulelab.recording.trace import Trace
from joulelab.recording.trace_spans import Window
from joulelab.runs.saved_baseline import baseline_file, load_baseline, save_baseline
from joulelab.sensors.simulated import SimulatedMachine, SimulatedSource, Waveform

STEADY = SimulatedMachine((SimulatedSource(component="gpu:0", waveform=Waveform.constant(150.0)),))

pytestmark = pytest.mark.usefixtures("home")


def save(age_s=0.0):
    point = idle_point(
        {"gpu:0": 100.0},
        uncertainty_w=0.5,
        source="simulated.samples",
        time_s=time.monotonic() - age_s,
    )
    return save_baseline(point, describe())


def load():
    return load_baseline(describe)


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


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"machine": "another"}, "with other hardware, power limits or drivers"),
        ({"host": "node7", "boot": "another"}, "on node7"),
        ({"gpus": {"gpu:0": "GPU-1"}}, "with other GPUs"),
    ],
)
def test_a_point_of_another_machine_is_not_used_and_that_is_stated(values, why):
    assert load() is None
    change(save(), **values)
    expected = f"because it was measured {why}: measure it again with `joulelab idle`"
    assert load() == Baseline((), f"idle power is unknown, {expected}")


def test_a_container_on_the_same_host_uses_its_idle_power():
    change(save(), host="container")
    assert load().points[0].power_w == {"gpu:0": 100.0}


def test_old_idle_power_is_used_with_a_note():
    change(save(), unix_s=time.time() - 20 * 86400)
    assert load().points[0].power_w == {"gpu:0": 100.0}
    assert re.match(r"idle power is from 20\d\d-\d\d-\d\d .* may have changed", load().problem)
    assert energy_of(load()).idle_j == pytest.approx(800)
    assert load().problem in energy_of(load()).notes


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"schema": "joulelab-idle-0"}, "schema"),
        ({"point": {}}, "point"),
        ({"point": None}, "point"),
        ({"unix_s": "x"}, "unix_s"),
        ({"unix_s": 1e300}, "unix_s"),
        ({"machine": 5}, "machine"),
    ],
)
def test_damaged_idle_power_is_a_note_that_names_the_file_and_the_fix(values, why):
    change(save(), **values)
    assert_stated(why)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("power_w", {"gpu:0": "much"}),
        ("power_w", {"gpu:0": -5.0}),
        ("power_w", {"gpu:0": math.nan}),
        ("power_w", [1]),
        ("uncertainty_w", {}),
        ("source", {"gpu:0": 5}),
        ("load", {"gpu:0": {"fraction": None}}),
        ("time_s", 1e300),
    ],
)
def test_a_damaged_idle_point_is_a_note(field, value):
    path = save()
    change(path, point=json.loads(path.read_text())["point"] | {field: value})
    assert_stated("point" if field == "uncertainty_w" else field)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\0", b"[" * 100_000])
def test_idle_power_that_is_no_json_is_a_note(content):
    save().write_bytes(content)
    assert_stated("JSON" if content[:1] != b"[" else "nested")


def test_a_pipe_in_the_place_of_idle_power_is_a_note():
    save().unlink()
    os.mkfifo(baseline_file())
    assert_stated("not a regular file")


def energy_of(baseline):
    """The energy of eight seconds at 150 W."""
    source = STEADY.sources[0]
    trace = Trace.of([source.channel()], source.readings(0, 10 * 10**9))
    return EnergyEstimator(trace, baseline).energies([Window(10**9, 9 * 10**9)])[0]


def assert_stated(why):
    """The energy has no idle part, and a note about the file."""
    note = load().problem
    assert note.startswith(f"idle power is unknown, because {baseline_file()} cannot be read (")
    assert why in note
    assert note.endswith("): measure it again with `joulelab idle`")
    energy = energy_of(load())
    assert energy.gross_j == pytest.approx(1200)
    assert math.isnan(energy.idle_j)
    assert note in energy.notes


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


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_value_that_cannot_be_saved_is_printed_all_the_same(run, monkeypatch, tmp_path, options):
    (tmp_path / "file").touch()
    monkeypatch.setenv("JOULELAB_HOME", str(tmp_path / "file" / "home"))
    monkeypatch.setenv("JOULELAB_SENSORS", STEADY.spec())
    code, out, err = run("idle", "--seconds", "0.5", *options)
    assert code == 2
    if options:
        assert json.loads(out)["point"]["power_w"]["gpu:0"] == pytest.approx(150.0)
    else:
        assert "gpu:0    150 W ± " in out
    (line,) = err.splitlines()
    assert line.startswith(f"joulelab: cannot write {baseline_file()}: ")
    assert line.endswith("choose another path")


def test_a_duration_out_of_range_is_an_error_of_one_line(run):
    code, _, err = run("idle", "--seconds", "0")
    assert code == 2
    assert len(err.splitlines()) == 1


@pytest.fixture
def busy(monkeypatch, busy_machine):
    monkeypatch.setenv("JOULELAB_SENSORS", busy_machine(Waveform.constant(0.6 * os.cpu_count())))


def test_a_busy_machine_is_refused_in_one_line(run, busy):
    code, out, err = run("idle", "--seconds", "0.5", "--wait", "0")
    assert (code, out) == (2, "")
    assert re.fullmatch(
        r"joulelab: the machine is busy: \d\d % of the CPU used; stop what is running, wait longer "
        r"with --wait SECONDS, or measure anyway with --force\n",
        err,
    )
    assert load() is None


def test_a_busy_machine_is_measured_by_force_with_doubt(run, busy):
    code, out, _ = run("idle", "--seconds", "0.5", "--force")
    assert code == 0
    assert "measured on a busy machine: " in out
    point = json.loads(baseline_file().read_text())["point"]
    assert point["load"]["cpu"]["fraction"] == pytest.approx(0.6, abs=0.05)
    assert point["busy_w"]["cpu:0"] == pytest.approx(7.0, rel=0.01)
    with joulelab.Meter() as meter, meter.span("work") as span:
        time.sleep(0.3)
    assert any("idle power was measured on a busy machine" in one for one in span.energy.notes)
    low_j, high_j = span.energy.net_interval_j
    assert low_j <= 0.01
    assert high_j > 0.9 * span.energy.gross_j


def test_a_machine_that_becomes_quiet_is_waited_for(run, monkeypatch, busy_machine):
    now_s, threads = time.monotonic(), float(os.cpu_count())
    # Busy until two seconds from now.
    until_s = now_s + 2.0
    load_until = Waveform(((0.0, threads), (until_s, threads), (until_s, 0.0), (10 * until_s, 0.0)))
    monkeypatch.setenv("JOULELAB_SENSORS", busy_machine(load_until))
    code, out, _ = run("idle", "--seconds", "0.5", "--wait", "30")
    assert code == 0
    assert "by the quietest 250 ms of" in out
    assert load().points[0].load == {}


def test_processes_that_keep_the_machine_busy_are_named(run, monkeypatch, tmp_path):
    monkeypatch.setenv("JOULELAB_SYSFS", str(tmp_path / "sys"))
    enable(monkeypatch, tmp_path / "site")
    rapl = LiveRapl(tmp_path / "sys")
    rapl.zone("intel-rapl:0", "package-0", 20.0)
    # In sessions of their own, with parents that ended: no children of this process.
    spin = "import os\nprint(os.getpid(), flush=True)\nwhile True: pass"
    start = ["setsid", "--fork", sys.executable, "-c", spin]
    spinning = [subprocess.Popen(start, stdout=subprocess.PIPE) for _ in range(os.cpu_count())]
    pids = [int(one.stdout.readline()) for one in spinning]
    try:
        code, out, err = run("idle", "--seconds", "1", "--wait", "0")
        assert (code, out) == (2, "")
        # On a machine that runs other tests, too, those may be named instead.
        assert re.search(r"the machine is busy: \d+ % of the CPU used by .+ \(pid \d+\)", err)
        code, out, _ = run("idle", "--seconds", "1", "--force")
        assert code == 0
    finally:
        for one, pid in zip(spinning, pids, strict=True):
            os.kill(pid, signal.SIGKILL)
            one.communicate()
    point = load().points[0]
    assert point.load["cpu"].fraction > 0.5
    assert point.power_w["cpu:0"] < point.busy_w["cpu:0"]


def test_a_saved_point_of_an_older_version_opens():
    path = save()
    content = json.loads(path.read_text())
    for name in ("host", "boot", "gpus"):
        del content[name]
    for name in ("load", "busy_w", "unknown"):
        del content["point"][name]
    path.write_text(json.dumps(content))
    assert load().points[0].power_w == {"gpu:0": 100.0}
