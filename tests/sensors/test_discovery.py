from __future__ import annotations

import math
import sys
import types
from dataclasses import replace

import pynvml
import pytest

from joulelab.errors import UserError
from joulelab.sensors.discovery import discover, present_values
from joulelab.sensors.host import HostSensor
from joulelab.sensors.host_hardware import known_dimms
from joulelab.sensors.sensor import Reading


@pytest.fixture(autouse=True)
def bare(monkeypatch, tmp_path):
    def missing():
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "_LoadNvmlLibrary", missing)
    monkeypatch.setenv("JOULELAB_SYSFS", str(tmp_path))
    monkeypatch.delenv("JOULELAB_SENSORS", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return tmp_path


def rapl(root, directory, name, energy_uj):
    path = root / "class" / "powercap" / directory
    path.mkdir(parents=True)
    (path / "name").write_text(name)
    (path / "energy_uj").write_text(str(energy_uj))
    (path / "max_energy_range_uj").write_text("262143328850")


def sources(found):
    return [c.source for s in found.sensors for c in s.channels]


def test_a_machine_without_sensors_is_estimated_with_the_reason():
    found = discover()
    assert sources(found)[:2] == ["estimate.cpu", "estimate.dram"]
    assert {(a.component, a.source) for a in found.absent} == {
        ("gpu", "nvml"),
        ("cpu", "rapl"),
        ("dram", "rapl"),
    }
    assert all(a.reason for a in found.absent)
    assert all(a.hint for a in found.absent if a.source == "rapl")


def test_measured_components_are_not_estimated(bare):
    rapl(bare, "intel-rapl:0", "package-0", 5)
    rapl(bare, "intel-rapl:0:0", "dram", 9)
    assert sources(discover(["cpu", "dram"])) == ["rapl.package-0", "rapl.package-0.dram"]


def test_a_client_measures_its_cpu_and_estimates_its_dram(bare):
    rapl(bare, "intel-rapl:0", "package-0", 5)
    found = discover(["cpu", "dram"])
    assert sources(found) == ["rapl.package-0", "estimate.dram"]


def test_the_environment_is_used_by_default(monkeypatch):
    monkeypatch.setenv("JOULELAB_SENSORS", "host, cpu")
    assert {s.split(".")[0] for s in sources(discover())} == {"os", "estimate"}
    assert {s.split(".")[0] for s in sources(discover(["host"]))} == {"os"}


def test_the_simulated_machine_gets_its_text(monkeypatch):
    seen = []

    def simulated_sensors(text):
        seen.append(text)
        return [HostSensor()]

    module = types.SimpleNamespace(simulated_sensors=simulated_sensors)
    monkeypatch.setitem(sys.modules, "joulelab.sensors.simulated", module)
    monkeypatch.setenv("JOULELAB_SENSORS", 'simulated:{"a": 1, "b": "x:y"}')
    assert len(discover().sensors) == 1
    discover(["simulated"])
    assert seen == ['{"a": 1, "b": "x:y"}', ""]


def test_a_factory(monkeypatch):
    module = types.SimpleNamespace(
        one=HostSensor,
        many=lambda: [HostSensor(), HostSensor()],
        none=lambda: 3,
        number=3,
        failing=lambda: 1 / 0,
    )
    monkeypatch.setitem(sys.modules, "my_sensors", module)
    assert len(discover(["my_sensors:one", "my_sensors:many"]).sensors) == 3
    for bad in ("none", "number", "missing", "failing"):
        with pytest.raises(UserError, match=f"my_sensors:{bad}"):
            discover([f"my_sensors:{bad}"])


@pytest.mark.parametrize(
    ("field", "value"),
    [("window_s", -1.0), ("wrap", math.inf), ("max_power_w", math.nan), ("note", 5)],
)
def test_a_channel_whose_trace_could_not_be_read_is_refused(monkeypatch, field, value):
    sensor = HostSensor()
    sensor.channels = [replace(sensor.channels[0], **{field: value})]
    module = types.SimpleNamespace(one=lambda: sensor)
    monkeypatch.setitem(sys.modules, "my_sensors", module)
    with pytest.raises(UserError, match=f"my_sensors:one.*impossible channel: .*{field}"):
        discover(["my_sensors:one"])


@pytest.mark.parametrize(("name", "near"), [("gpus", "gpu"), ("drm", "dram"), ("zzz", "choose")])
def test_unknown_names_give_the_nearest_as_a_hint(name, near):
    with pytest.raises(UserError, match=near):
        discover([name])


def test_a_factory_that_cannot_be_imported():
    with pytest.raises(UserError, match="no_such_module"):
        discover(["no_such_module:x"])


def test_an_smbios_table_with_too_little_memory_is_not_used(bare):
    path = bare / "firmware" / "dmi" / "tables"
    path.mkdir(parents=True)
    (path / "DMI").write_bytes(bytes([127, 4, 0, 0, 0, 0]))
    dimms, why = known_dimms()
    assert dimms == []
    assert "less memory" in why


@pytest.mark.parametrize(("machine", "is_bounded"), [("x86_64", True), ("aarch64", False)])
def test_what_a_busy_thread_draws_at_least_is_known_of_x86(bare, monkeypatch, machine, is_bounded):
    monkeypatch.setattr("platform.machine", lambda: machine)
    for number in (0, 1):
        rapl(bare, f"intel-rapl:{number}", f"package-{number}", 5 + number)
    rapl(bare, "intel-rapl:2", "psys", 9)
    [sensor] = discover(["cpu", "soc"]).sensors
    least_w = [channel.least_use_w for channel in sensor.channels]
    assert least_w == ([0.01, 0.01, 0.02] if is_bounded else [0, 0, 0])


@pytest.mark.parametrize(
    ("power_w", "used_pct", "problem"),
    [
        (0.05, 100, "reports 50.0 mW, less than a processor package draws with 8.00 threads at"),
        (0.05, 1, ""),
        (5.0, 100, ""),
        (0.0, 100, "did not change"),
    ],
)
def test_a_package_at_full_load_does_not_draw_next_to_nothing(
    bare, monkeypatch, power_w, used_pct, problem
):
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr("psutil.cpu_count", lambda logical=True: 8)
    rapl(bare, "intel-rapl:0", "package-0", 5)
    package, host = discover(["cpu", "host"]).sensors
    readings = [
        [Reading(10**9, 0, 5.0), Reading(2 * 10**9, 0, 5.0 + power_w)],
        [Reading(10**9, 0, 50.0), Reading(2 * 10**9, 0, float(used_pct))],
    ]
    now = present_values([package, host], readings)[0]
    assert now.value == (None if problem else pytest.approx(power_w))
    assert problem in now.reason
