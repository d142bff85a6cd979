from __future__ import annotations

import struct

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulelab.sensors.estimates import (
    DIMM_MAX_W,
    CpuEstimate,
    CpuModel,
    DramEstimate,
    cpu_model,
    dimm_power,
    dram_power,
)
from joulelab.sensors.host import CpuLoad, HostSensor
from joulelab.sensors.host_hardware import (
    Dimm,
    Processors,
    _tdp_table,
    chip_tdp_w,
    chip_threads,
    cpu_limit,
    normalise,
    parse_cpuinfo,
    parse_dimms,
    read_dimms,
)
from joulelab.sensors.sensor import Gap, Provenance, Reading

GB = 10**9


def memory_device(size_mib, kind=0x1A, speed=3200, millivolts=1200, slot=b"DIMM_A1"):
    small, extended = (size_mib, 0) if size_mib < 0x7FFF else (0x7FFF, size_mib)
    fields = bytearray(0x28)
    fields[0], fields[1] = 17, 0x28
    struct.pack_into("<H", fields, 0x0C, small)
    fields[0x10], fields[0x12] = 1, kind
    struct.pack_into("<H", fields, 0x15, speed)
    struct.pack_into("<I", fields, 0x1C, extended)
    struct.pack_into("<H", fields, 0x20, speed)
    struct.pack_into("<H", fields, 0x26, millivolts)
    return bytes(fields) + slot + b"\0\0"


OTHER = bytes([1, 5, 0, 0, 9]) + b"\0\0"
END = bytes([127, 4, 0, 0]) + b"\0\0"


def test_smbios_modules_are_parsed():
    table = OTHER + memory_device(16384) + memory_device(0) + memory_device(65536, 0x22, 4800, 1100)
    first, second = parse_dimms(table + END)
    assert first == Dimm(16 * 2**30, "DDR4", 3200e6, 1.2, "DIMM_A1")
    assert (second.size_bytes, second.type, second.transfers_hz) == (64 * 2**30, "DDR5", 4800e6)


def test_unknown_speed_and_voltage_are_none():
    [dimm] = parse_dimms(memory_device(8192, kind=2, speed=0, millivolts=0))
    assert (dimm.type, dimm.transfers_hz, dimm.voltage_v) == (None, None, None)


def test_a_missing_smbios_table_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_dimms(tmp_path)


@given(st.binary(max_size=400))
def test_any_bytes_can_be_parsed(table):
    parse_dimms(table)


@given(st.integers(0, 300))
def test_a_table_that_is_cut_short_gives_the_modules_before(cut):
    table = memory_device(8192) + memory_device(16384)
    assert len(parse_dimms(table[:cut])) <= 2


@given(st.integers(1, 256), st.integers(1, 256))
def test_more_memory_is_never_less_power(small, more):
    sizes = small * GB, (small + more) * GB
    assert dimm_power(Dimm(sizes[0])).power_w <= dimm_power(Dimm(sizes[1])).power_w
    assert dram_power([], sizes[0]).power_w < dram_power([], sizes[1]).power_w
    two = [Dimm(sizes[0]), Dimm(sizes[1])]
    assert dram_power(two, 0).power_w > dram_power(two[:1], 0).power_w


@given(
    st.integers(1, 512),
    st.sampled_from([None, "DDR3", "DDR4", "DDR5"]),
    st.one_of(st.none(), st.floats(800e6, 8800e6)),
    st.one_of(st.none(), st.floats(1.0, 1.65)),
)
def test_the_power_of_a_module_is_plausible(size_gb, kind, transfers_hz, voltage_v):
    estimate = dimm_power(Dimm(size_gb * GB, kind, transfers_hz, voltage_v))
    assert 0 < estimate.low_w < estimate.high_w <= DIMM_MAX_W
    assert 0 < estimate.relative_uncertainty <= 0.58


def test_dram_follows_voltage_and_clock():
    slow = dimm_power(Dimm(8 * GB, "DDR4", 2133e6, 1.2))
    fast = dimm_power(Dimm(8 * GB, "DDR4", 3200e6, 1.2))
    hot = dimm_power(Dimm(8 * GB, "DDR4", 2133e6, 1.35))
    assert fast.power_w / slow.power_w == pytest.approx(3200 / 2133)
    assert hot.power_w / slow.power_w == pytest.approx((1.35 / 1.2) ** 2)


def test_dram_sensor_is_an_estimate_with_its_note():
    estimate = dram_power([Dimm(16 * GB, "DDR4", 3200e6, 1.2)] * 4, 64 * GB)
    sensor = DramEstimate(estimate)
    [channel] = sensor.channels
    assert channel.provenance is Provenance.ESTIMATED
    assert channel.gain_uncertainty == pytest.approx(estimate.relative_uncertainty)
    assert "4 modules" in channel.note
    [first], [second] = sensor.read(), sensor.read()
    assert second.value - first.value == pytest.approx(
        estimate.power_w * (second.t_ns - first.t_ns) * 1e-9
    )


XEON = "Intel(R) Xeon(R) CPU E5-2680 v4 @ 2.40GHz"
EPYC = "AMD EPYC 7763 64-Core Processor"


def test_a_tdp_is_exact_or_unknown():
    assert chip_tdp_w(XEON) == 120
    assert chip_tdp_w("12th Gen Intel(R) Core(TM) i5-12500") == 65
    assert chip_tdp_w("11th Gen Intel(R) Core(TM) i9-11900KF @ 3.50GHz") == 125
    assert chip_tdp_w("AMD Ryzen 9 5950X 16-Core Processor") == 105
    assert chip_tdp_w("Intel(R) Xeon(R) CPU E5-2680 v9 @ 2.40GHz") is None
    assert chip_tdp_w("Intel(R) Xeon(R) CPU @ 2.20GHz") is None
    assert chip_tdp_w("QEMU Virtual CPU version 2.5+") is None
    assert chip_tdp_w(None) is None
    assert chip_threads(EPYC) == 128
    assert chip_threads("AMD EPYC Processor") is None


def test_every_name_of_the_tdp_table_can_be_found():
    names = list(_tdp_table())
    assert len(names) > 2000
    assert [name for name in names if normalise(name) != name] == []


def test_bare_metal_uses_tdp_and_sockets():
    model = cpu_model(Processors(XEON, "GenuineIntel", 2, 56, False))
    assert model.full_w == 240
    assert model.power_w(0) == pytest.approx(240 * 0.74 / 3.5)
    assert "120 W x 2" in model.note


def test_a_virtual_machine_has_its_share_of_a_known_chip():
    model = cpu_model(Processors(EPYC, "AuthenticAMD", 1, 32, True))
    assert model.full_w == pytest.approx(280 * 32 / 128)


def test_an_unknown_chip_has_the_cloud_average_per_thread():
    model = cpu_model(Processors("Intel(R) Xeon(R) Processor", "GenuineIntel", 1, 2, True))
    assert (model.power_w(0), model.power_w(1)) == (pytest.approx(1.48), pytest.approx(7.0))
    assert "vCPUs" in model.note


@given(
    st.sampled_from([XEON, EPYC, "Intel(R) Xeon(R) Platinum 8259CL CPU @ 2.50GHz"]),
    st.one_of(st.none(), st.integers(1, 8)),
    st.integers(1, 1024),
    st.booleans(),
    st.floats(-1, 5),
)
def test_power_is_at_most_that_of_the_chips(model, sockets, threads, virtual, utilization):
    estimate = cpu_model(Processors(model, None, sockets, threads, virtual))
    power_w = estimate.power_w(utilization)
    assert 0 < power_w <= chip_tdp_w(model) * (sockets or 1) + 1e-9


def test_a_containers_limit_is_in_the_note(tmp_path):
    (tmp_path / "fs" / "cgroup").mkdir(parents=True)
    (tmp_path / "fs" / "cgroup" / "cpu.max").write_text("150000 100000\n")
    limit = cpu_limit(tmp_path)
    assert limit == 1.5
    assert "1.5 CPUs" in cpu_model(Processors(XEON, None, 1, 8, False), limit).note
    (tmp_path / "fs" / "cgroup" / "cpu.max").write_text("max 100000\n")
    assert cpu_limit(tmp_path) is None
    assert cpu_limit(tmp_path / "none") is None


def test_cpuinfo_of_two_sockets_and_of_arm():
    text = "".join(
        f"processor\t: {n}\nvendor_id\t: GenuineIntel\nmodel name\t: {XEON}\n"
        f"physical id\t: {n % 2}\nflags\t\t: fpu sse2\n\n"
        for n in range(4)
    )
    assert parse_cpuinfo(text, 4) == Processors(XEON, "GenuineIntel", 2, 4, False)
    assert parse_cpuinfo("processor\t: 0\nBogoMIPS\t: 50.00\n", 4) == Processors(
        None, None, None, 4, False
    )


def scripted(monkeypatch, *counts):
    """Busy and idle seconds of all threads, one entry per call; the last one repeats."""
    fields = type(psutil.cpu_times())
    calls = list(counts)

    def cpu_times():
        busy, idle = calls.pop(0) if len(calls) > 1 else calls[0]
        zeros = dict.fromkeys(fields._fields, 0.0)
        return fields(**{**zeros, "user": busy, "idle": idle})

    monkeypatch.setattr(psutil, "cpu_times", cpu_times)


def test_load_is_the_mean_over_threads(monkeypatch):
    scripted(monkeypatch, (5, 5), (6.5, 5.5))
    load = CpuLoad()
    assert load.utilization() == pytest.approx(0.75)
    assert load.utilization() is None


def test_cpu_estimate_follows_load_and_waits_for_a_tick(monkeypatch):
    scripted(monkeypatch, (0, 0), (1, 1))
    sensor = CpuEstimate(CpuModel(10, 50, "note"))
    [opened, reading] = sensor.read()
    assert opened.value == 0
    assert isinstance(reading, Reading)
    assert reading.value == pytest.approx(30 * (reading.t_ns - opened.t_ns) * 1e-9, rel=0.05)
    assert sensor.read() == []
    assert sensor.channels[0].gain_uncertainty == 0.25


def test_host_sensor(monkeypatch):
    scripted(monkeypatch, (0, 0), (1, 3))
    sensor = HostSensor()
    cpu, memory, used = sensor.read()
    assert cpu.value == pytest.approx(25)
    assert 0 < memory.value < 100
    assert 0 < used.value < psutil.virtual_memory().total
    assert isinstance(sensor.read()[0], Gap)
