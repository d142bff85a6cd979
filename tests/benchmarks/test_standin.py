"""The NVML stand-in reports its waveform as its sensor settings specify."""

import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import standin
from joulelab.sensors.simulated import Waveform

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc builds the stand-in")

ROOT = Path(__file__).resolve().parents[2]

READ = """
import json, time, pynvml
pynvml.nvmlInit()
h = pynvml.nvmlDeviceGetHandleByIndex(0)
def read_clocks():
    before_ns, wall_ns, after_ns = time.monotonic_ns(), time.time_ns(), time.monotonic_ns()
    return after_ns - before_ns, wall_ns - (before_ns + after_ns) // 2
_, wall_minus_mono_ns = min(read_clocks() for _ in range(5))
def field(number):
    value = pynvml.nvmlDeviceGetFieldValues(h, [number])[0]
    assert value.nvmlReturn == 0
    return value.value.ullVal if value.valueType == 3 else value.value.uiVal
def timed(read):
    before = time.monotonic_ns(); value = read(); return [before, time.monotonic_ns(), value]
kind, ring = pynvml.nvmlDeviceGetSamples(h, pynvml.NVML_TOTAL_POWER_SAMPLES, 0)
newest = ring[-1].timeStamp
refused = {}
for name, call in {
    "fan": lambda: pynvml.nvmlDeviceGetFanSpeed(h),
    "c2c": lambda: pynvml.nvmlDeviceGetC2cModeInfoV(h),
    "limit": lambda: pynvml.nvmlDeviceSetPowerManagementLimit(h, 300000),
    "index": lambda: pynvml.nvmlDeviceGetHandleByIndex(1),
    "field": lambda: pynvml.nvmlDeviceGetSamples(h, pynvml.NVML_GPU_UTILIZATION_SAMPLES, 0),
}.items():
    try:
        call()
    except pynvml.NVMLError as error:
        refused[name] = error.value
time.sleep(0.1)
later = pynvml.nvmlDeviceGetSamples(h, pynvml.NVML_TOTAL_POWER_SAMPLES, newest)[1]
result = {
    "wall_minus_mono_ns": wall_minus_mono_ns, "kind": kind, "refused": refused,
    "name": pynvml.nvmlDeviceGetName(h),
    "same": pynvml.nvmlDeviceGetIndex(
        pynvml.nvmlDeviceGetHandleByUUID(pynvml.nvmlDeviceGetUUID(h))),
    "ring": [[s.timeStamp, s.sampleValue.uiVal] for s in ring],
    "later": [[s.timeStamp, s.sampleValue.uiVal] for s in later],
    "counter": [timed(lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(h)) for _ in range(40)],
    "counter_field": timed(lambda: field(83)),
    "usage": timed(lambda: pynvml.nvmlDeviceGetPowerUsage(h)),
    "average": timed(lambda: field(185)), "instant": timed(lambda: field(186)),
    "limits": pynvml.nvmlDeviceGetPowerManagementLimitConstraints(h),
    "memory": pynvml.nvmlDeviceGetMemoryInfo(h).total,
    "processes": len(pynvml.nvmlDeviceGetComputeRunningProcesses(h)),
}
pynvml.nvmlShutdown()
try:
    pynvml.nvmlDeviceGetCount()
except pynvml.NVMLError as error:
    result["after_shutdown"] = error.value
print(json.dumps(result))
"""
UPDATE_S, PHASE_S = 0.1, 0.037
WAVES = {
    "steady": Waveform.constant(350),
    "square": Waveform.square(low_w=100, high_w=600, period_s=0.2),
    "ramp": Waveform.ramp(low_w=100, high_w=600, period_s=2.0),
    "bursts": Waveform.square(low_w=100, high_w=600, period_s=0.2, duty=0.3),
}


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return standin.build(tmp_path_factory.mktemp("standin"))


def play(library, path, waveform, sensor=None, code=READ, controls=None):
    environment = standin.environment(library, standin.write(path, waveform, sensor, controls))
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def updates(before_ns, after_ns, period_s=UPDATE_S, phase_s=PHASE_S):
    """Return the update times that a value read between these times may come from."""
    first = (before_ns * 1e-9 - phase_s) // period_s
    last = (after_ns * 1e-9 - phase_s) // period_s
    return [phase_s + i * period_s for i in range(int(first), int(last) + 1)]


@pytest.mark.parametrize("name", WAVES)
def test_values_are_the_waveform_through_the_sensors_windows(library, tmp_path, name):
    wave = WAVES[name]
    seen = play(library, tmp_path / "wave.txt", wave)
    for key, window_s in (("usage", 1.0), ("average", 1.0), ("instant", 0.025)):
        before_ns, after_ns, value_mw = seen[key]
        expected_w = [
            wave.energy_j(t - window_s, t) / window_s for t in updates(before_ns, after_ns)
        ]
        assert any(value_mw * 1e-3 == pytest.approx(w, abs=2e-3) for w in expected_w), key
    for before_ns, after_ns, value_mj in [*seen["counter"], seen["counter_field"]]:
        expected_j = [wave.energy_j(0.0, t) for t in updates(before_ns, after_ns)]
        assert any(value_mj * 1e-3 == pytest.approx(j, abs=2e-3) for j in expected_j)


@pytest.mark.parametrize("name", WAVES)
def test_the_ring_has_means_over_20_ms_with_wall_clock_timestamps(library, tmp_path, name):
    wave = WAVES[name]
    seen = play(library, tmp_path / "wave.txt", wave)
    assert seen["kind"] == 1
    assert len(seen["ring"]) == 120
    stamps_us = [stamp_us for stamp_us, _ in seen["ring"]]
    assert all(abs(b - a - 20_000) <= 1 for a, b in itertools.pairwise(stamps_us))
    steepest_w_per_s = 500 / 0.02 if name in ("square", "bursts") else 500
    for stamp_us, value_mw in seen["ring"]:
        stop_s = stamp_us * 1e-6 - seen["wall_minus_mono_ns"] * 1e-9
        expected_w = wave.energy_j(stop_s - 0.02, stop_s) / 0.02
        # The offset between the clocks is read once here and once there, microseconds apart.
        assert value_mw * 1e-3 == pytest.approx(expected_w, abs=2e-4 * steepest_w_per_s + 2e-3)


def test_the_ring_returns_only_newer_readings(library, tmp_path):
    seen = play(library, tmp_path / "wave.txt", Waveform.constant(350))
    newest_us = seen["ring"][-1][0]
    assert len(seen["later"]) >= 5
    assert all(stamp_us > newest_us for stamp_us, _ in seen["later"])
    assert seen["later"][0][0] - newest_us == pytest.approx(20_000, abs=1)


def test_gain_noise_delay_and_jitter_are_as_specified(library, tmp_path):
    sensor = standin.Sensor(
        gain=1.1, noise_w=3.0, stamp_delay_s=0.0025, stamp_jitter_s=0.005, ring_phase_s=0.004
    )
    seen = play(library, tmp_path / "wave.txt", Waveform.constant(350), sensor)
    powers_w = [value_mw * 1e-3 for _, value_mw in seen["ring"]]
    mean_w = sum(powers_w) / len(powers_w)
    deviation_w = (sum((p - mean_w) ** 2 for p in powers_w) / len(powers_w)) ** 0.5
    assert mean_w == pytest.approx(385, abs=4 * 3.0 / 120**0.5)
    assert 2.0 < deviation_w < 4.0
    offset_s = seen["wall_minus_mono_ns"] * 1e-9
    lags_s = [(us * 1e-6 - offset_s - 0.004 + 0.008) % 0.02 - 0.008 for us, _ in seen["ring"]]
    assert -0.0066 < min(lags_s) < -0.001
    assert 0.006 < max(lags_s) < 0.0116
    stamps_us = [us for us, _ in seen["ring"]]
    assert stamps_us == sorted(set(stamps_us))
    assert max(b - a for a, b in itertools.pairwise(stamps_us)) > 21_000


def test_it_is_one_gpu_that_refuses_unsupported_calls(library, tmp_path):
    seen = play(library, tmp_path / "wave.txt", Waveform.constant(350))
    assert "H100" in seen["name"]
    assert seen["same"] == 0
    assert seen["limits"] == [200_000, 700_000]
    assert seen["memory"] == 80 * 2**30
    assert seen["processes"] == 0
    function_not_found, not_supported, no_permission, invalid_argument = 13, 3, 4, 2
    assert seen["refused"] == {
        "fan": function_not_found,
        "c2c": not_supported,
        "limit": no_permission,
        "index": invalid_argument,
        "field": not_supported,
    }
    assert seen["after_shutdown"] == 1


SET = """
import json, subprocess, sys, time, pynvml
from joulelab.sensors.nvml_binding import call
pynvml.nvmlInit()
h = pynvml.nvmlDeviceGetHandleByIndex(0)
def clock(): return pynvml.nvmlDeviceGetClockInfo(h, pynvml.NVML_CLOCK_SM)
def counter(): return pynvml.nvmlDeviceGetTotalEnergyConsumption(h) / 1e3
def set_in_another_process(call):
    code = f"import pynvml; pynvml.nvmlInit(); pynvml.{call}"
    subprocess.run([sys.executable, "-c", code], check=True)
result = {"before": clock()}
set_in_another_process(
    "nvmlDeviceSetPowerManagementLimit(pynvml.nvmlDeviceGetHandleByIndex(0), 300000)")
limited_ns = time.monotonic_ns()
result |= {"limit": pynvml.nvmlDeviceGetPowerManagementLimit(h), "limited": clock()}
time.sleep(0.3)
result["usage"] = pynvml.nvmlDeviceGetFieldValues(h, [186])[0].value.uiVal
pynvml.nvmlDeviceSetPowerManagementLimit(h, 700000)
pynvml.nvmlDeviceSetGpuLockedClocks(h, 345, 990)
time.sleep(0.3)
result["locked"] = clock()
result["locked_usage"] = pynvml.nvmlDeviceGetFieldValues(h, [186])[0].value.uiVal
pynvml.nvmlDeviceResetGpuLockedClocks(h)
result["reset"] = clock()
time.sleep(0.2)
result |= {"counter": counter(), "now_ns": time.monotonic_ns()}
result["refused"] = []
for low, high in ((0, 800000), (0, 199999)):
    try:
        pynvml.nvmlDeviceSetPowerManagementLimit(h, high)
    except pynvml.NVMLError as error:
        result["refused"].append(error.value)
print(json.dumps(result))
"""


SEVERAL = """
import pynvml
pynvml.nvmlInit()
assert pynvml.nvmlDeviceGetCount() == 3
for index in range(3):
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    uuid, bus = pynvml.nvmlDeviceGetUUID(handle), pynvml.nvmlDeviceGetPciInfo(handle).busId
    for found in (
        pynvml.nvmlDeviceGetHandleByUUID(uuid), pynvml.nvmlDeviceGetHandleByPciBusId(bus)
    ):
        assert pynvml.nvmlDeviceGetIndex(found) == index
    print(uuid, pynvml.nvmlDeviceGetPowerUsage(handle))
"""


def test_several_gpus_have_their_own_names_and_the_same_power(library, tmp_path):
    waveform = standin.write(tmp_path / "w", Waveform.constant(350), standin.Sensor(gpus=3))
    environment = standin.environment(library, waveform)
    command = [sys.executable, "-c", SEVERAL]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = [line.split() for line in done.stdout.splitlines()]
    assert len({uuid for uuid, _ in found}) == 3
    assert {power_mw for _, power_mw in found} == {"350000"}


def test_power_and_speed_follow_limits_and_clocks_set_by_any_process(library, tmp_path):
    controls = standin.Controls(may_set=True, idle_w=60)
    path = tmp_path / "wave.txt"
    seen = play(library, path, Waveform.constant(600), code=SET, controls=controls)
    assert (seen["before"], seen["limit"], seen["reset"]) == (1980, 300_000, 1980)
    # Power above idle follows the cube of the clock.
    assert seen["limited"] == int(1980 * (240 / 540) ** (1 / 3))
    assert seen["usage"] == 300_000
    assert seen["locked"] == 990
    assert seen["locked_usage"] == pytest.approx(60_000 + 540_000 / 8, abs=1)
    assert seen["refused"] == [2, 2]
    assert [(one.limit_w, one.clock_mhz) for one in standin.changes(path)] == [
        (300, 1980), (700, 1980), (700, 990), (700, 1980)
    ]  # fmt: skip
    assert [one.limit_w for one in standin.requests(path)][-2:] == [800, 199.999]


def test_the_counter_adds_up_over_changes_of_the_limit(library, tmp_path):
    wave = Waveform.steps((100, 600, 250), step_s=0.4)
    path = tmp_path / "wave.txt"
    seen = play(library, path, wave, code=SET, controls=standin.Controls(may_set=True))
    lines = (tmp_path / "wave.txt.controls").read_text().splitlines()
    changes = [(0.0, 700.0, 1980)]
    for line in lines:
        t_s, limit_mw, clock_mhz, _ = line.split()
        changes.append((float(t_s), int(limit_mw) / 1e3, int(clock_mhz)))
    (stop_s,) = updates(seen["now_ns"] - 10_000_000, seen["now_ns"])[:1]
    candidates_j = [
        sum(
            limited_j(wave, start_s, min(end_s, t_s), limit_w, clock_mhz)
            for (start_s, limit_w, clock_mhz), end_s in zip(
                changes, [one[0] for one in changes[1:]] + [t_s], strict=True
            )
        )
        for t_s in (stop_s, stop_s - UPDATE_S, stop_s + UPDATE_S)
    ]
    assert any(seen["counter"] == pytest.approx(one, abs=0.01) for one in candidates_j)


def limited_j(wave, start_s, stop_s, limit_w, clock_mhz, idle_w=60.0):
    """Energy of a waveform of steps whose power follows the clock and the limit."""
    slope = (clock_mhz / 1980) ** 3

    def power_w(full_w):
        return min(limit_w, idle_w + (full_w - idle_w) * slope)

    limited = Waveform(tuple((t_s, power_w(full_w)) for t_s, full_w in wave.points))
    return limited.energy_j(start_s, stop_s)


def test_without_a_waveform_there_is_no_driver(library, tmp_path):
    environment = standin.environment(library, tmp_path / "missing.txt")
    code = "import pynvml\ntry: pynvml.nvmlInit()\nexcept pynvml.NVMLError as e: print(e.value)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    driver_not_loaded = 9
    assert int(done.stdout) == driver_not_loaded


def test_joulelab_measures_it(library, tmp_path):
    wave = Waveform.steps((100, 600, 250), step_s=0.4)
    code = (
        "import json, time, joulelab\n"
        "with joulelab.Meter(sensors=['gpu']) as meter:\n"
        "    with meter.span('window') as span: time.sleep(0.7)\n"
        "    gpu = span.energy.components['gpu:0']\n"
        "print(json.dumps([span.start_ns, span.stop_ns, gpu.gross_j]))\n"
    )
    start_ns, stop_ns, energy_j = play(library, tmp_path / "wave.txt", wave, code=code)
    truth_j = wave.energy_j(start_ns * 1e-9, stop_ns * 1e-9)
    assert energy_j == pytest.approx(truth_j, rel=0.05)


def test_the_counter_of_the_real_comparison_gives_mean_power_times_length(library, tmp_path):
    code = (
        "import json, time\n"
        "from benchmarks.real_gpu import Counter, gpu_name\n"
        "with Counter() as counter:\n"
        "    start_ns = time.monotonic_ns()\n"
        "    time.sleep(2.0)\n"
        "    stop_ns = time.monotonic_ns()\n"
        "energy_j = counter.energy_j(start_ns, stop_ns)\n"
        "print(json.dumps([gpu_name(), (stop_ns - start_ns) * 1e-9, energy_j]))\n"
    )
    wave = Waveform.constant(350)
    name, duration_s, energy_j = play(library, tmp_path / "wave.txt", wave, code=code)
    assert "H100" in name
    assert energy_j == pytest.approx(350 * duration_s, rel=0.15)


def test_environment_puts_the_stand_in_before_everything_else(library, tmp_path):
    base = {"PATH": "/bin", "CUDA_VISIBLE_DEVICES": "3", "HOME": "/nowhere"}
    environment = standin.environment(library, tmp_path / "wave.txt", base)
    assert environment["PATH"].split(os.pathsep)[0] == str(library)
    assert environment["LD_LIBRARY_PATH"] == str(library)
    assert "CUDA_VISIBLE_DEVICES" not in environment
    assert environment["HOME"] == "/nowhere"
