from __future__ import annotations

import sys
import time

import pytest
from stand_in_amdsmi import Gpu, Library

from joulelab.sensors import amd_smi
from joulelab.sensors.amd_smi import discover_amd_smi
from joulelab.sensors.sensor import Gap, Quantity, Reading

ADDRESS = "0000:c1:00.0"


@pytest.fixture(autouse=True)
def no_selection(monkeypatch):
    for name in amd_smi.VARIABLES:
        monkeypatch.delenv(name, raising=False)


def install(monkeypatch, *gpus, **options):
    library = Library(*gpus, **options)
    monkeypatch.setitem(sys.modules, "amdsmi", library)
    return library


def discovered(monkeypatch, *gpus, found=None, **options):
    install(monkeypatch, *gpus, **options)
    return discover_amd_smi({"gpu"}, found or {})


def by_source(sensor, readings):
    return {sensor.channels[one.channel].source: one for one in readings}


@pytest.mark.parametrize("key", ["energy_accumulator", "power"])
def test_the_counter_counts_joules_and_power_is_read_next_to_it(monkeypatch, key):
    gpu = Gpu(ADDRESS, 300, key)
    gpu.count = 10_000_000
    [sensor], absent = discovered(monkeypatch, gpu)
    assert absent == []
    assert {channel.component for channel in sensor.channels} == {"gpu:0"}
    first = by_source(sensor, sensor.read())
    assert first["amdsmi.power"].value == 300.0
    assert first["amdsmi.energy_counter"].value == pytest.approx(152.59)
    gpu.count += 2_000_000
    [after] = sensor.read()
    assert sensor.channels[after.channel].quantity is Quantity.ENERGY
    assert after.value == pytest.approx(152.59 + 30.518)
    assert first["amdsmi.energy_counter"].t_ns < after.t_ns <= time.monotonic_ns()


def test_newer_gpus_report_the_current_power(monkeypatch):
    gpu = Gpu(ADDRESS)
    gpu.power = {"average_socket_power": "N/A", "current_socket_power": 412, "socket_power": 412}
    [sensor], _ = discovered(monkeypatch, gpu)
    assert by_source(sensor, sensor.read())["amdsmi.power"].value == 412.0


def test_a_gpu_that_another_sensor_has_is_one_component(monkeypatch):
    gpus = Gpu("0000:c1:00.0"), Gpu("0000:05:00.0"), Gpu("0000:85:00.0")
    found = {"gpu:0": "", "gpu:1": "0000:05:00.0", "gpu:2": "0000:c1:00.0", "cpu:0": ""}
    sensors, _ = discovered(monkeypatch, *gpus, found=found)
    named = {one._address: one.channels[0].component for one in sensors}
    assert named == {"0000:05:00.0": "gpu:1", "0000:85:00.0": "gpu:3", "0000:c1:00.0": "gpu:2"}
    monkeypatch.setenv("HIP_VISIBLE_DEVICES", "0,1")
    sensors, _ = discover_amd_smi({"gpu"}, found)
    assert sorted(one.channels[0].component for one in sensors) == ["gpu:1", "gpu:2"]


def test_the_meter_of_a_chip_with_graphics_is_the_chips(monkeypatch):
    found = {"gpu:0": ADDRESS, "soc": ADDRESS}
    [sensor], _ = discovered(monkeypatch, Gpu(ADDRESS), found=found)
    assert sensor.channels[0].component == "soc"


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"fail": 31}, "Device Not Found"),
        ({"fail": 10}, "Permission Denied"),
        ({"fail": 2}, "Feature not supported"),
        ({"fail": 39}, "UNEXPECTED_DATA"),
        ({"count": "N/A"}, "does not report the counter ('N/A')"),
        ({"count": float("nan")}, "nan for the counter"),
        ({"count": -5}, "-5 for the counter"),
        ({"count": 2**64 - 1}, "does not report the counter"),
        ({"count": ""}, "does not report the counter ('')"),
        ({"count": None, "key": "unknown"}, "does not report the counter (None)"),
        ({"count": 0}, "reads 0"),
        ({"delay_s": 0.03}, "answered after"),
    ],
)
def test_a_fault_is_a_gap_with_its_reason_and_ends(monkeypatch, fault, reason):
    monkeypatch.setattr(amd_smi, "MAX_CALL_NS", 20_000_000)
    gpu = Gpu(ADDRESS)
    [sensor], _ = discovered(monkeypatch, gpu)
    healthy = dict(vars(gpu))
    vars(gpu).update(fault)
    found = by_source(sensor, sensor.read())["amdsmi.energy_counter"]
    assert isinstance(found, Gap)
    assert reason in found.reason
    vars(gpu).update(healthy)
    assert isinstance(by_source(sensor, sensor.read())["amdsmi.energy_counter"], Reading)


@pytest.mark.parametrize("power", ["N/A", 65535, None])
def test_power_that_is_not_reported_is_absent_and_the_counter_stays(monkeypatch, power):
    gpu = Gpu(ADDRESS)
    gpu.power = {"average_socket_power": power, "current_socket_power": "N/A"}
    [sensor], [absent] = discovered(monkeypatch, gpu)
    assert [channel.source for channel in sensor.channels] == ["amdsmi.energy_counter"]
    assert "does not report power" in absent.reason


def test_a_die_without_a_meter_is_absent(monkeypatch):
    other = Gpu("0000:c6:00.0")
    other.count, other.power = 0, {"average_socket_power": 0}
    sensors, absent = discovered(monkeypatch, Gpu(ADDRESS), other)
    assert [one.channels[0].component for one in sensors] == ["gpu:0"]
    assert {one.component for one in absent} == {"gpu:1"}
    assert all("share the meter of another" in one.reason for one in absent)


def test_a_gpu_that_comes_back_under_another_handle_is_found(monkeypatch):
    library = install(monkeypatch, Gpu(ADDRESS))
    [sensor], _ = discover_amd_smi({"gpu"}, {})
    library.gpus[0].fail = 31
    assert all(isinstance(one, Gap) for one in sensor.read())
    library.gpus = [Gpu("0000:05:00.0"), Gpu(ADDRESS, 111)]
    sensor._due_ns = 0
    assert by_source(sensor, sensor.read())["amdsmi.power"].value == 111.0
    library.gpus = []
    sensor._handle = None
    assert all(isinstance(one, Gap) for one in sensor.read())


def test_a_library_that_does_not_start_is_absent_with_a_hint(monkeypatch):
    sensors, [absent] = discovered(monkeypatch, init=10)
    assert sensors == []
    assert "Permission Denied" in absent.reason
    assert "ROCm" in absent.hint


def test_a_library_that_hangs_is_left_out(monkeypatch):
    gpu = Gpu(ADDRESS)
    gpu.delay_s = 0.5
    monkeypatch.setattr(amd_smi, "ANSWER_S", 0.05)
    sensors, [absent] = discovered(monkeypatch, gpu)
    assert sensors == []
    assert "has not answered" in absent.reason


def test_without_the_package_nothing_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "amdsmi", None)
    assert discover_amd_smi({"gpu"}, {}) == ([], [])
    install(monkeypatch, Gpu(ADDRESS))
    assert discover_amd_smi({"cpu"}, {}) == ([], [])
