from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import types

import pytest
from stand_in_macmon import Macmon

from joulelab.sensors import apple
from joulelab.sensors.apple import AppleCounters, AppleMonitor, discover_apple
from joulelab.sensors.discovery import MEASURABLE
from joulelab.sensors.sensor import Gap, Provenance, Quantity, Reading


class Metrics:
    """What the package returns: every field, None where the chip has no such counter."""

    def __init__(self, **fields):
        for name in (
            "cpu_total_mj",
            "efficiency_cores_mj",
            "performance_cores_mj",
            "efficiency_core_manager_mj",
            "performance_core_manager_mj",
            "dram_mj",
            "gpu_mj",
            "gpu_sram_mj",
            "ane_mj",
        ):
            setattr(self, name, fields.get(name))


class Monitor:
    """``AppleEnergyMonitor`` of zeus-apple-silicon 1.0."""

    now = Metrics(cpu_total_mj=9000, gpu_mj=4000, gpu_sram_mj=100, dram_mj=700, ane_mj=50)
    error = None

    def get_cumulative_energy(self):
        if self.error:
            raise RuntimeError(self.error)
        return self.now


@pytest.fixture
def package(monkeypatch):
    monitor = Monitor()
    module = types.SimpleNamespace(AppleEnergyMonitor=lambda: monitor)
    monkeypatch.setitem(sys.modules, "zeus_apple_silicon", module)
    return monitor


@pytest.fixture
def macmon(monkeypatch, tmp_path):
    monkeypatch.setattr(apple, "PIPE_INTERVAL_S", 0.02)
    return Macmon(tmp_path, monkeypatch)


def values(sensor, readings):
    return {
        sensor.channels[one.channel].component: one.value
        for one in readings
        if isinstance(one, Reading)
    }


def read_until(sensor, accept):
    """Read until a call gives what is accepted; return that."""
    deadline_s = time.monotonic() + 30
    while time.monotonic() < deadline_s:
        found = sensor.read()
        if found and accept(found):
            return found
        time.sleep(0.01)
    raise AssertionError("nothing like that was read")


def has_gap(text):
    return lambda found: any(isinstance(one, Gap) and text in one.reason for one in found)


def test_the_package_gives_counters_of_the_parts_and_of_the_chip(package):
    [sensor], absent = discover_apple(MEASURABLE, set())
    assert absent == []
    assert isinstance(sensor, AppleCounters)
    assert values(sensor, sensor.read()) == {
        "cpu:0": 9.0,
        "gpu:0": 4.1,
        "dram:0": 0.7,
        "soc": pytest.approx(13.85),
    }
    by_name = {channel.component: channel for channel in sensor.channels}
    assert by_name["soc"].contains == ("cpu", "gpu", "dram")
    assert by_name["cpu:0"].contains == ()
    assert {channel.quantity for channel in sensor.channels} == {Quantity.ENERGY}
    assert {channel.provenance for channel in sensor.channels} == {Provenance.MEASURED}
    assert all(channel.gain_uncertainty >= 0.1 for channel in sensor.channels)


def test_counters_that_the_chip_lacks_are_not_there(package):
    package.now = Metrics(cpu_total_mj=9000, gpu_mj=4000)
    [sensor], _ = discover_apple(MEASURABLE, set())
    assert [channel.component for channel in sensor.channels] == ["cpu:0", "gpu:0"]
    package.now = Metrics(cpu_total_mj=9000)
    readings = sensor.read()
    assert values(sensor, readings) == {"cpu:0": 9.0}
    assert has_gap("no value")(readings)


def test_a_counter_that_cannot_be_read_is_a_gap_with_its_reason(package):
    [sensor], _ = discover_apple(MEASURABLE, set())
    package.error = "Failed to create IOReport samples"
    readings = sensor.read()
    assert len(readings) == len(sensor.channels)
    assert all(isinstance(one, Gap) and "IOReport" in one.reason for one in readings)
    package.error = None
    assert len(values(sensor, sensor.read())) == 4


def test_only_requested_kinds_are_read(package):
    [sensor], _ = discover_apple({"gpu"}, set())
    assert [channel.component for channel in sensor.channels] == ["gpu:0"]
    assert discover_apple({"plug"}, set()) == ([], [])
    # Another sensor measures the processor: this is no Apple chip.
    assert discover_apple(MEASURABLE, {"cpu:0"}) == ([], [])


def test_macmon_gives_powers_and_that_of_the_machine(macmon):
    [sensor], absent = discover_apple(MEASURABLE, set())
    try:
        assert absent == []
        assert isinstance(sensor, AppleMonitor)
        begin_ns = time.monotonic_ns()
        found = read_until(sensor, lambda found: True)
        assert values(sensor, found) == {
            "cpu:0": 8.0,
            "gpu:0": 12.5,
            "dram:0": 2.0,
            "soc": 24.0,
            "node": 40.0,
        }
        assert all(begin_ns <= one.t_ns <= time.monotonic_ns() for one in found)
        by_name = {channel.component: channel for channel in sensor.channels}
        assert by_name["node"].contains == ("cpu", "gpu", "dram", "soc")
        assert by_name["soc"].contains == ("cpu", "gpu", "dram")
        assert by_name["cpu:0"].window_s == by_name["cpu:0"].update_period_s
    finally:
        sensor.close()


@pytest.mark.parametrize(
    ("printed", "component", "reason"),
    [
        ('{"cpu_power": NaN}', "cpu:0", "nan, which is no power"),
        ('{"cpu_power": Infinity}', "cpu:0", "inf, which is no power"),
        ('{"gpu_power": -3.5}', "gpu:0", "negative power"),
        ('{"ram_power": 0.0}', "dram:0", "does not report it"),
        ('{"sys_power": 0}', "node", "does not report it"),
        ('{"sys_power": null}', "node", "None, which is no power"),
        ('{"cpu_power": "8"}', "cpu:0", "'8', which is no power"),
        ('{"cpu_power": true}', "cpu:0", "True, which is no power"),
        ("", "cpu:0", "not an object of JSON"),
        ("[1, 2]", "gpu:0", "not an object of JSON"),
        ("Error: failed to read SMC", "soc", "not an object of JSON"),
    ],
)
def test_a_wrong_line_is_a_gap_with_its_reason(macmon, printed, component, reason):
    [sensor], _ = discover_apple(MEASURABLE, set())
    try:
        macmon.fail(printed)
        found = read_until(sensor, has_gap(reason))
        position = [channel.component for channel in sensor.channels].index(component)
        gaps = [one for one in found if isinstance(one, Gap)]
        assert position in {one.channel for one in gaps}
        macmon.recover()
        read_until(sensor, lambda found: len(values(sensor, found)) == 5)
    finally:
        sensor.close()


def test_a_program_that_ends_or_hangs_is_a_gap_and_is_started_again(macmon, monkeypatch):
    monkeypatch.setattr(apple, "SILENCE_S", 0.3)
    monkeypatch.setattr(apple, "RESTART_S", 0.05)
    [sensor], _ = discover_apple(MEASURABLE, set())
    try:
        read_until(sensor, lambda found: values(sensor, found))
        macmon.fail("exit")
        read_until(sensor, has_gap("macmon ended with exit code 3"))
        macmon.fail("hang")
        read_until(sensor, has_gap("has printed nothing for"))
        macmon.fail("exit")
        sensor._process.kill()
        read_until(sensor, has_gap("macmon ended with exit code"))
        macmon.recover()
        read_until(sensor, lambda found: len(values(sensor, found)) == 5)
    finally:
        sensor.close()
    assert sensor._process.returncode is not None


def test_a_mac_without_either_is_absent_with_a_hint(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert discover_apple(MEASURABLE, set()) == ([], [])
    monkeypatch.setattr(apple.sys, "platform", "darwin")
    sensors, [absent] = discover_apple(MEASURABLE, set())
    assert sensors == []
    assert "brew install macmon" in absent.hint


def test_a_package_that_fails_leaves_the_program(macmon, monkeypatch):
    def fail():
        raise RuntimeError("no IOReport")

    module = types.SimpleNamespace(AppleEnergyMonitor=fail)
    monkeypatch.setitem(sys.modules, "zeus_apple_silicon", module)
    [sensor], absent = discover_apple(MEASURABLE, set())
    sensor.close()
    assert (type(sensor), absent) == (AppleMonitor, [])
    monkeypatch.setenv("PATH", "/nowhere")
    sensors, [absent] = discover_apple(MEASURABLE, set())
    assert (sensors, absent.reason) == ([], "zeus-apple-silicon: no IOReport")


WITHOUT_LINUX = """
import fcntl, os, socket, sys, time
for module, names in {
    time: ["CLOCK_BOOTTIME"],
    os: ["pidfd_open", "sched_getaffinity", "sched_setaffinity"],
    socket: ["SO_PEERCRED", "MSG_NOSIGNAL"],
    fcntl: ["F_SETPIPE_SZ"],
}.items():
    for name in names:
        delattr(module, name)
from joulelab.cli.app import main
main(sys.argv[1:])
"""


def on_a_mac(arguments, tmp_path):
    """Run the command line without what only Linux has."""
    environment = os.environ | {"JOULELAB_HOME": str(tmp_path), "JOULELAB_SYSFS": str(tmp_path)}
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_LINUX, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_doctor_lists_an_apple_chip_without_what_only_linux_has(macmon, tmp_path):
    found = on_a_mac(["doctor", "--json"], tmp_path)
    assert found.returncode == 0, found.stderr
    sensors = {one["component"]: one for one in json.loads(found.stdout)["sensors"]}
    assert sensors["cpu:0"]["power_w"] == 8.0
    assert sensors["node"]["power_w"] == 40.0
    assert sensors["cpu:0"]["provenance"] == "measured"


def test_a_recording_says_that_it_needs_linux(macmon, tmp_path):
    found = on_a_mac(["idle", "--seconds", "1"], tmp_path)
    assert found.returncode == 1
    assert "recordings need Linux" in found.stderr
    assert "Traceback" not in found.stderr
