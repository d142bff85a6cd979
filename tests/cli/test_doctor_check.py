"""``joulelab doctor --check`` on simulated machines and on counters that count."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import fake_nvml
import psutil
import pytest
from live_files import enable
from live_sysfs import LiveRapl
from measured_runs import joulelab

from joulelab.cli import doctor_check
from joulelab.doctor import self_test
from joulelab.sensors.simulated import SimulatedMachine, SimulatedSource, Waveform

GPU = SimulatedSource(component="gpu:0", waveform=Waveform.constant(200.0), gain_uncertainty=0.02)
COUNTER = replace(GPU, kind="counter", update_period_s=0.1, interval_s=0.2)


@pytest.fixture
def sensors(monkeypatch):
    """A function that sets the sensors, which are checked in two seconds."""
    real = doctor_check.run_self_test
    short = {"duration_s": 2.0}
    monkeypatch.setattr(doctor_check, "run_self_test", lambda **kept: real(**kept | short))
    return partial(monkeypatch.setenv, "JOULELAB_SENSORS")


def test_a_machine_whose_sensors_agree(sensors, printed):
    sensors(SimulatedMachine((GPU, COUNTER)).spec())
    out = printed("doctor", "--check")
    assert "trust: energy of spans from" in out
    assert "A span costs" in out
    assert "of a core" in out


def test_a_planted_contradiction_exits_with_1(sensors, run):
    sensors(SimulatedMachine((GPU, replace(COUNTER, gain=1.8))).spec())
    code, out, _ = run("doctor", "--check", "--json")
    assert code == 1
    found = json.loads(out)
    assert found["contradiction"] is True
    [one] = found["components"]
    assert one["verdict"] == "contradiction"
    assert "1.80 times" in one["text"]
    assert found["costs"]["span_s"] < 1e-3
    assert 0 <= found["costs"]["cpu_share"] < 0.5
    assert 1e6 < found["costs"]["memory_bytes"] < 80e6
    assert found["loads"] == {}


def test_a_gpu_of_the_driver(sensors, printed, monkeypatch, tmp_path):
    """The driver's ring and counter, 200 W."""
    site, faults = tmp_path / "site", tmp_path / "faults"
    site.mkdir()
    faults.mkdir()
    (site / "sitecustomize.py").write_text("import faulty_world\nfaulty_world.install()\n")
    modules = str(Path(fake_nvml.__file__).parent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), modules]))
    monkeypatch.setenv("FAULTS", str(faults))
    # PyTorch would be imported, to find no GPU.
    monkeypatch.setattr(self_test, "_loadable", lambda trace: [])
    sensors("gpu")
    found = json.loads(printed("doctor", "--check", "--json"))
    [one] = found["components"]
    assert (one["component"], one["verdict"]) == ("gpu:0", "trust")
    assert one["idle_w"] == pytest.approx(200.0, rel=0.02)
    by_source = {one["source"]: one for one in found["sources"]}
    assert by_source["nvml.samples"]["update_period_s"] == pytest.approx(0.02, abs=0.002)
    assert by_source["nvml.samples"]["noise_w"] == pytest.approx(0.0, abs=1e-6)


def test_counters_of_the_kernel(sensors, printed, monkeypatch, tmp_path):
    monkeypatch.setenv("JOULELAB_SYSFS", str(tmp_path))
    enable(monkeypatch, tmp_path / "site")
    tree = LiveRapl(tmp_path)
    tree.zone("intel-rapl:0", "package-0", 60.0)
    tree.zone("intel-rapl:0:0", "dram", 6.0)
    sensors("cpu,dram")
    found = json.loads(printed("doctor", "--check", "--json"))
    assert found["loads"]["cpu"].startswith("a load on ")
    components = {one["component"]: one for one in found["components"]}
    assert components["cpu:0"]["idle_w"] == pytest.approx(60.0, rel=0.05)
    assert components["dram:0"]["idle_w"] == pytest.approx(6.0, rel=0.05)
    # The power of these files follows no load.
    assert components["cpu:0"]["follows_load"] in (False, None)
    sources = {one["source"]: one for one in found["sources"]}
    assert sources["rapl.package-0"]["gaps"] == 0
    assert sources["rapl.package-0"]["resolution"] == pytest.approx(61e-6)


def test_an_unknown_sensor_is_the_users_error(tmp_path):
    found = joulelab("doctor", "--check", home=tmp_path, JOULELAB_SENSORS="nonsense")
    assert found.returncode == 2
    assert "no sensor 'nonsense'" in found.stderr
    assert "Traceback" not in found.stderr


def test_an_interrupt_ends_it_and_its_processes(tmp_path):
    environment = os.environ | {"JOULELAB_SENSORS": "cpu", "JOULELAB_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "joulelab", "doctor", "--check"]
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    started = psutil.Process(process.pid)
    # It first times spans with a recorder of its own.
    deadline_s, seen = time.monotonic() + 60, set()
    while len(seen) < 2 and time.monotonic() < deadline_s:
        seen |= {child.pid for child in started.children(recursive=True)}
        time.sleep(0.02)
    children = started.children(recursive=True)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130
    assert err.splitlines()[-1] == "joulelab: interrupted"
    assert "Traceback" not in err
    assert psutil.wait_procs(children)[1] == []
