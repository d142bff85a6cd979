from __future__ import annotations

import json
from dataclasses import replace

import fake_nvml
import pytest
from click.testing import CliRunner

from joulelab.cli.doctor import command
from joulelab.machine import Machine, describe
from joulelab.sensors.host_hardware import Dimm


@pytest.fixture(autouse=True)
def two_gpus(monkeypatch, tmp_path):
    gpus = [
        fake_nvml.FakeGpu("GPU-a", name="NVIDIA A100-SXM4-40GB", power_limit_mw=400_000),
        fake_nvml.FakeGpu("GPU-b", name="NVIDIA A100-SXM4-40GB", power_limit_mw=250_000),
    ]
    for gpu in gpus:
        gpu.fill_ring()
    fake_nvml.install(monkeypatch, fake_nvml.FakeNvml(gpus))
    monkeypatch.setenv("JOULELAB_SYSFS", str(tmp_path))
    monkeypatch.delenv("JOULELAB_SENSORS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    return gpus


def test_it_has_the_gpus_that_may_be_used():
    [gpu] = describe("1").gpus
    assert (gpu.index, gpu.uuid, gpu.power_limit_w) == (1, "GPU-b", 250.0)
    assert gpu.default_power_limit_w == 300.0
    assert (gpu.driver, gpu.cuda_version, gpu.mig) == ("580.159.04", "13.0", None)
    assert len(describe().gpus) == 2
    assert describe("").gpus == ()


def test_a_machine_is_restored_from_json():
    machine = replace(describe(), dimms=(Dimm(16 * 2**30, "DDR4", 3200e6, 1.2, "A1"),))
    data = json.loads(json.dumps(machine.to_json()))
    assert Machine.from_json(data) == machine
    assert data["identity"] == machine.identity


def test_the_identity_covers_what_makes_energies_comparable():
    machine = describe()
    assert replace(machine, host="other", python="3.13.0", packages={}).identity == machine.identity
    other = replace(machine, gpus=describe("0").gpus, cpu_model="another chip")
    assert other.identity != machine.identity
    what = {name for name, _, _ in machine.differences(other)}
    assert {"cpu model", "gpu power limits (W)", "gpus"} == what
    assert machine.differences(describe()) == []


def test_the_hardware_configuration_reads_like_the_papers_table():
    dimms = (Dimm(16 * 2**30, "DDR4", 3600e6, 1.35),) * 4
    machine = replace(
        describe("1"), dimms=dimms, cpu_model="Intel Core i7-8700K", cpu_tdp_w=95.0, cpu_sockets=1
    )
    rows = machine.hardware_configuration()
    assert rows["CPU"].startswith("Intel Core i7-8700K (95 W)")
    assert rows["DRAM"] == "4x16 GiB DDR4 3600 MT/s"
    assert rows["GPU"] == "NVIDIA A100-SXM4-40GB (250 W, default 300 W) 80 GiB"
    assert rows["Driver"] == "NVIDIA 580.159.04, CUDA 13.0"


def test_without_a_driver_there_are_no_gpus(monkeypatch):
    library = fake_nvml.FakeNvml([], init_code=9)
    fake_nvml.install(monkeypatch, library)
    machine = describe()
    assert machine.gpus == ()
    assert machine.hardware_configuration()["GPU"] == "none that this process may use"


def test_doctor_prints_each_sensor_and_each_absence():
    result = CliRunner().invoke(command, [], env={"COLUMNS": "80"})
    assert result.exit_code == 0, result.output
    for word in ("gpu:1", "nvml.samples", "estimate.cpu", "measured", "100 W", "rapl", "Absent"):
        assert word in result.output
    assert "gpu:0" not in result.output
    choice = "energy by nvml.samples (means of 20.0 ms), its scale and gaps by nvml.energy_counter"
    assert choice in " ".join(result.output.split())
    assert max(len(line) for line in result.output.splitlines()) <= 80


def test_doctor_prints_json():
    result = CliRunner().invoke(command, ["--json"])
    data = json.loads(result.output)
    sensors = {sensor["source"]: sensor for sensor in data["sensors"]}
    assert sensors["nvml.samples"]["power_w"] == 100.0
    assert sensors["estimate.dram"]["provenance"] == "estimated"
    assert sensors["nvml.samples"]["use"] == "energy"
    assert sensors["nvml.energy_counter"]["use"] == "its scale and gaps"
    assert sensors["nvml.temperature"]["use"] is None
    assert {a["component"] for a in data["absent"]} == {"cpu", "dram"}
    assert data["machine"]["gpus"][0]["uuid"] == "GPU-b"


def test_doctor_reports_a_counter_that_does_not_change(tmp_path, monkeypatch):
    """And units of steps, and in one row what two components have in common."""
    for number in (0, 1):
        zone = tmp_path / "class" / "powercap" / f"intel-rapl:{number}"
        zone.mkdir(parents=True)
        (zone / "name").write_text(f"package-{number}")
        (zone / "energy_uj").write_text(str(7_000_000 + number))
    monkeypatch.setenv("JOULELAB_SYSFS", str(tmp_path))
    result = CliRunner().invoke(command, [], env={"COLUMNS": "120"})
    assert result.exit_code == 0, result.output
    assert "no value now: cpu:0 rapl.package-0: the counter did not change for " in result.output
    assert "61.0 µJ" in result.output
    assert "cpu:0, cpu:1: includes core and uncore" in result.output
    assert "RAPL counts no dram on this processor, only 'package-0', 'package-1'" in result.output
    sensors = json.loads(CliRunner().invoke(command, ["--json"]).output)["sensors"]
    assert [one["power_w"] for one in sensors if one["component"].startswith("cpu")] == [None] * 2


def test_doctor_gives_no_value_for_a_failing_gpu(two_gpus):
    two_gpus[1].fail_after = {"nvmlDeviceGetSamples": (2, 15)}
    result = CliRunner().invoke(command, ["--json"])
    [entry] = [s for s in json.loads(result.output)["sensors"] if s["source"] == "nvml.samples"]
    assert entry["power_w"] is None
    assert "lost" in entry["reason"]
