"""Thirteen faults of NVML and RAPL: a gap or a refusal with a reason, never a wrong energy.

The drivers' calls are those of the stand-ins, in a time that passes as fast as they are read. The
power is a square wave whose period no reading interval divides; a fault lasts from 8 s to 11 s of
25 s.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from dataclasses import replace

import fake_nvml
import pynvml
import pytest
from fake_nvml import FakeGpu, FakeNvml, live

from joulelab.energy.estimator import EnergyEstimator
from joulelab.recording.sensor_reader import SensorReader
from joulelab.recording.trace import Trace
from joulelab.recording.trace_spans import Window
from joulelab.sensors.nvml import discover_gpus
from joulelab.sensors.rapl import discover_rapl
from joulelab.sensors.sensor import Gap
from joulelab.sensors.simulated import Waveform

WAVE = Waveform.square(low_w=80.0, high_w=220.0, period_s=0.74)
START_S, STOP_S = 1000.0, 1025.0
FROM_S, UNTIL_S = 1008.0, 1011.0
BEFORE, DURING, AFTER = (1001.0, 1007.0), (1007.5, 1011.5), (1014.0, 1024.0)
WHOLE = (1001.0, 1024.0)
STEP_S = 0.05


class Clock:
    """Time that passes when the test says so."""

    def __init__(self, monkeypatch):
        self.now_s = START_S
        self.wall_s = 1.7e9
        monkeypatch.setattr(time, "monotonic_ns", lambda: round(self.now_s * 1e9))
        monkeypatch.setattr(time, "monotonic", lambda: self.now_s)
        monkeypatch.setattr(time, "sleep", self.advance)
        monkeypatch.setattr(
            time, "clock_gettime_ns", lambda clock: round((self.now_s + self.wall_s) * 1e9)
        )

    def advance(self, seconds):
        self.now_s += seconds

    @property
    def is_faulty(self):
        return FROM_S <= self.now_s < UNTIL_S


def record(clock, sensor):
    """Read a sensor as the recorder does."""
    readings, events, due_s = [], [], clock.now_s
    while clock.now_s < STOP_S:
        if clock.now_s >= due_s:
            due_s = max(due_s, clock.now_s - STEP_S) + sensor.interval_s
            found = sensor.read()
            readings += found
            events += [
                {"event": "gap", "channel": one.channel, "t_ns": one.t_ns, "reason": one.reason}
                for one in found
                if isinstance(one, Gap)
            ]
        clock.advance(STEP_S)
    intervals_s = getattr(sensor, "intervals_s", [sensor.interval_s] * len(sensor.channels))
    trace = Trace.of(sensor.channels, readings)
    return replace(trace, header={"intervals_s": list(intervals_s)}, events=events)


def check(trace, component, *, stated=()):
    """Check that no energy is wrong: the truth is inside its interval, or it is absent."""
    windows = [BEFORE, DURING, AFTER, WHOLE]
    spans = [Window(round(one * 1e9), round(other * 1e9)) for one, other in windows]
    edges_ns = [edge for span in spans for edge in (span.start_ns, span.stop_ns)]
    energies = EnergyEstimator(trace, change_points_ns=edges_ns).energies(spans)
    for (start_s, stop_s), energy in zip(windows, energies, strict=True):
        part = energy.components.get(component)
        if part is None:
            assert energy.absent[component]
            continue
        truth_j = WAVE.energy_j(start_s, stop_s)
        low_j, high_j = part.interval_j
        assert low_j <= truth_j <= high_j, (start_s, part.gross_j, truth_j)
        assert part.gross_j == pytest.approx(truth_j, rel=0.5)
    for clear in (energies[0], energies[2]):
        part = clear.components.get(component)
        if part is not None:
            truth_j = WAVE.energy_j(*(windows[0] if clear is energies[0] else windows[2]))
            assert part.gross_j == pytest.approx(truth_j, rel=0.05)
    texts = [note for one in energies for note in (*one.notes, *one.absent.values())]
    texts += trace.gap_reasons(component)
    for text in stated:
        assert any(text in one for one in texts), texts
    return energies


# RAPL


@pytest.fixture
def package(monkeypatch, tmp_path):
    """A package's files, a clock that moves them, and what a read gives during a fault."""
    path = tmp_path / "class" / "powercap" / "intel-rapl:0"
    path.mkdir(parents=True)
    (path / "name").write_text("package-0\n")
    (path / "max_energy_range_uj").write_text("262143328850\n")
    (path / "energy_uj").write_text("1000\n")
    clock = Clock(monkeypatch)
    real_open = os.open
    state = {"fault": None, "offset_j": 260_500.0}

    def opened(file, *arguments, **options):
        if os.fspath(file).endswith("energy_uj"):
            counted_j = state["offset_j"] + WAVE.energy_j(START_S, clock.now_s)
            fault = state["fault"] if clock.is_faulty else None
            text = fault(counted_j) if fault else None
            if isinstance(text, OSError):
                raise text
            if text is None:
                text = str(round(counted_j % 262_143.328850 * 1e6))
            (path / "energy_uj").write_text(text)
        return real_open(file, *arguments, **options)

    monkeypatch.setattr(os, "open", opened)
    return clock, state, tmp_path


def opened_package(clock, state, root):
    [sensor], absent = discover_rapl(["cpu"], root=root)
    assert absent == []
    return sensor


def micro(energy_j):
    return str(round(energy_j * 1e6))


RAPL_FAULTS = {
    "vanish": (lambda _: OSError(errno.ENOENT, os.strerror(errno.ENOENT)), "no such file"),
    "permission": (lambda _: OSError(errno.EACCES, os.strerror(errno.EACCES)), "permission"),
    "input/output error": (lambda _: OSError(errno.EIO, os.strerror(errno.EIO)), "input/output"),
    "no data": (lambda _: OSError(errno.ENODATA, os.strerror(errno.ENODATA)), "no data"),
    "device gone": (lambda _: OSError(errno.ENODEV, os.strerror(errno.ENODEV)), "no such device"),
    "freeze": (lambda _: micro(261_500.0), ""),
    "NaN": (lambda _: "nan\n", "nan"),
    "empty": (lambda _: "", ""),
    "huge": (lambda _: str(2**63), ""),
    "negative": (lambda _: "-5000\n", "a negative number"),
    "text": (lambda _: "\x00\xff energy\n", ""),
}


@pytest.mark.parametrize("name", RAPL_FAULTS)
def test_a_fault_of_rapl_is_a_gap_or_a_refusal(package, name):
    clock, state, _ = package
    sensor = opened_package(*package)
    state["fault"], text = RAPL_FAULTS[name]
    state["offset_j"] = 240_000.0
    energies = check(record(clock, sensor), "cpu:0", stated=[text])
    assert energies[0].components["cpu:0"]


@pytest.mark.parametrize("offset_j", [261_000.0, 0.0])
def test_a_wrap_of_rapl_is_no_fault(package, offset_j):
    clock, state, _ = package
    state["offset_j"] = offset_j
    sensor = opened_package(*package)
    for energy in check(record(clock, sensor), "cpu:0"):
        assert energy.components["cpu:0"].gap_s == 0


@pytest.mark.parametrize("change_j", [-1e9, -400.0, 90_000.0, 3_000.0])
def test_a_reset_or_a_jump_of_rapl_is_a_gap(package, change_j):
    """The counter goes on from elsewhere: from 0 after a reset, or some kilojoules further."""
    clock, state, _ = package
    state["offset_j"] = 100_000.0
    sensor = opened_package(*package)
    start_j = state["offset_j"]

    def jumped(counted_j):
        state["offset_j"] = max(start_j + change_j, 0.0)
        if change_j < -1e6:
            state["offset_j"] = -WAVE.energy_j(START_S, clock.now_s)
        state["fault"] = None

    state["fault"] = jumped
    check(record(clock, sensor), "cpu:0")


def test_a_read_of_rapl_that_hangs_gives_nothing_until_it_returns(monkeypatch, tmp_path):
    """A thread of the recorder waits, and the other sensors go on."""
    path = tmp_path / "class" / "powercap" / "intel-rapl:0"
    path.mkdir(parents=True)
    (path / "name").write_text("package-0\n")
    (path / "max_energy_range_uj").write_text("262143328850\n")
    (path / "energy_uj").write_text("1000\n")
    [sensor], _ = discover_rapl(["cpu"], root=tmp_path)
    real_open, released = os.open, threading.Event()

    def hung(file, *arguments, **options):
        if os.fspath(file).endswith("energy_uj"):
            released.wait()
        return real_open(file, *arguments, **options)

    monkeypatch.setattr(os, "open", hung)
    reader = SensorReader([(sensor, 60.0)])
    assert reader.read_now([0]) == []
    assert reader.read_now([0]) == []
    released.set()
    while not (answers := reader.read_now([0])):
        pass
    assert [one.value for one in answers[0].found] == [pytest.approx(0.001)]
    reader.stop()


# NVML


class LiveGpu(FakeGpu):
    """A GPU of the known power, with faults while the clock says so."""

    def __init__(self, clock, **options):
        self.clock = clock
        self.returned = None  # Code of every call during the fault.
        self.changed = lambda value, kind: value  # What a call gives during the fault.
        self.frozen_s = None
        self.offset_mj = 5_000_000
        super().__init__("GPU-a", name="NVIDIA Test GPU", **options)

    @property
    def seen_s(self):
        return self.frozen_s if self.frozen_s and self.clock.is_faulty else self.clock.now_s

    def code(self, name):
        if self.returned is not None and self.clock.is_faulty:
            return self.returned
        return super().code(name)

    def _given(self, value, kind):
        return self.changed(value, kind) if self.clock.is_faulty else value

    @live
    def ring(self):
        newest = int(self.seen_s / 0.02)
        entries = []
        for update in range(newest - 119, newest + 1):
            power_mw = WAVE.energy_j((update - 1) * 0.02, update * 0.02) / 0.02 * 1e3
            stamp_us = round((update * 0.02 + self.clock.wall_s) * 1e6)
            if FROM_S <= update * 0.02 < UNTIL_S:
                power_mw = self.changed(power_mw, "ring")
            if power_mw is not None:
                entries.append((stamp_us, round(power_mw) % 2**32))
        return entries

    @live
    def energy_mj(self):
        update_s = int(self.seen_s / 0.1) * 0.1
        counted_mj = self.offset_mj + WAVE.energy_j(START_S, update_s) * 1e3
        return round(self._given(counted_mj, "counter")) % 2**64

    @live
    def power_mw(self):
        update_s = int(self.seen_s / 0.1) * 0.1
        mean_w = WAVE.energy_j(update_s - 0.1, update_s) / 0.1
        return round(self._given(mean_w * 1e3, "power")) % 2**32


KINDS = {
    "ring and counter": set(),
    "ring alone": {"nvmlDeviceGetTotalEnergyConsumption"},
    "counter alone": {"nvmlDeviceGetSamples"},
}


@pytest.fixture(params=KINDS)
def gpu(request, monkeypatch):
    clock = Clock(monkeypatch)
    # One sample of 0.1 s, as on GPUs before Ampere: the stand-in has no average of 1 s.
    one = LiveGpu(clock, capability=(7, 0), unsupported=set(KINDS[request.param]))
    fake_nvml.install(monkeypatch, FakeNvml([one]))
    one.kind = request.param
    return one


def opened_gpu(gpu):
    [sensor], _ = discover_gpus()
    return sensor


CODES = {
    "vanish": (pynvml.NVML_ERROR_GPU_IS_LOST, "NVML"),
    "permission": (pynvml.NVML_ERROR_NO_PERMISSION, "NVML"),
    "input/output error": (pynvml.NVML_ERROR_UNKNOWN, "NVML"),
    "no data": (pynvml.NVML_ERROR_NOT_SUPPORTED, "NVML"),
    "not found": (pynvml.NVML_ERROR_NOT_FOUND, ""),
    "driver unloaded": (pynvml.NVML_ERROR_UNINITIALIZED, "NVML"),
}


@pytest.mark.parametrize("name", CODES)
def test_a_refusal_of_nvml_is_a_gap(gpu, name):
    sensor = opened_gpu(gpu)
    gpu.returned, text = CODES[name]
    energies = check(record(gpu.clock, sensor), "gpu:0", stated=[text])
    assert energies[0].components["gpu:0"]
    assert energies[2].components["gpu:0"]


def test_a_driver_whose_values_freeze_gives_a_gap(gpu):
    sensor = opened_gpu(gpu)
    gpu.frozen_s = FROM_S
    check(record(gpu.clock, sensor), "gpu:0")


VALUES = {
    "empty": (lambda value, kind: None if kind == "ring" else value),
    "huge": lambda value, kind: 2**32 - 1 if kind != "counter" else value,
    "huge counter": lambda value, kind: 2**63 if kind == "counter" else value,
    "negative": lambda value, kind: -5_000 if kind != "counter" else value,
    "all ones": lambda value, kind: 2**64 - 1 if kind == "counter" else 2**32 - 1,
    "zero": lambda value, kind: 0 if kind == "counter" else value,
    "other unit": lambda value, kind: value * 1e3 if kind != "counter" else value,
}


@pytest.mark.parametrize("name", VALUES)
def test_a_value_that_cannot_be_is_refused(gpu, name):
    sensor = opened_gpu(gpu)
    gpu.changed = VALUES[name]
    check(record(gpu.clock, sensor), "gpu:0")


@pytest.mark.parametrize("change_mj", [-5_000_000, -100_000, 2_000_000, 10**9])
def test_a_reset_or_a_jump_of_the_counter_is_no_energy(gpu, change_mj):
    sensor = opened_gpu(gpu)

    def jump(value, kind):
        if kind == "counter":
            gpu.offset_mj += change_mj
            if change_mj == -5_000_000:
                gpu.offset_mj = -value + 5_000_000
            gpu.changed = lambda value, kind: value
            return gpu.energy_mj
        return value

    gpu.changed = jump
    check(record(gpu.clock, sensor), "gpu:0")


def test_a_call_of_nvml_that_hangs_has_no_time(gpu):
    sensor = opened_gpu(gpu)

    def slow(value, kind):
        if kind != "ring":
            gpu.clock.advance(0.7)
        return value

    gpu.changed = slow
    stated = ["answered after"] if gpu.kind != "ring alone" else []
    check(record(gpu.clock, sensor), "gpu:0", stated=stated)
