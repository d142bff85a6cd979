from __future__ import annotations

import threading
import time

import fake_nvml
import pynvml
import pytest
from fake_nvml import FakeGpu, FakeNvml, live

import joulelab.machine
from joulelab.sensors import nvml, nvml_channels
from joulelab.sensors.discovery import discover
from joulelab.sensors.nvml import MIG_NOTE, discover_gpus, list_boards
from joulelab.sensors.sensor import Gap, Quantity, Reading


def machine(monkeypatch, *gpus, init_code=0):
    for gpu in gpus:
        if gpu.ring == []:
            gpu.fill_ring()
    return fake_nvml.install(monkeypatch, FakeNvml(list(gpus), init_code))


@pytest.fixture
def discovered(monkeypatch):
    """Discover the GPUs of a machine; their sensors are closed at the end."""
    opened = []

    def discover_all(*gpus, visible=None):
        machine(monkeypatch, *gpus)
        sensors, absent = discover_gpus(visible)
        opened.extend(sensors)
        return sensors, absent

    yield discover_all
    for sensor in opened:
        sensor.close()


def sources(sensor):
    return [c.source for c in sensor.channels if c.gives_energy]


def of(sensor, readings, source):
    position = [c.source for c in sensor.channels].index(source)
    return [r for r in readings if r.channel == position]


def test_a_whole_gpu(monkeypatch):
    library = machine(monkeypatch, FakeGpu("GPU-a", power_mw=123_456))
    [sensor], absent = discover_gpus()
    assert absent == []
    assert {c.component for c in sensor.channels} == {"gpu:0"}
    assert sources(sensor) == ["nvml.samples", "nvml.energy_counter"]
    assert [c.priority for c in sensor.channels if c.gives_energy] == [0, 1]
    assert all(c.update_period_s > 0 for c in sensor.channels)
    readings = sensor.read()
    assert len(of(sensor, readings, "nvml.samples")) == 120
    assert of(sensor, readings, "nvml.samples")[0].value == pytest.approx(123.456)
    assert of(sensor, readings, "nvml.energy_counter")[0].value == pytest.approx(5000.0)
    values = {c.quantity: of(sensor, readings, c.source)[-1].value for c in sensor.channels}
    assert values[Quantity.TEMPERATURE] == 55
    assert values[Quantity.MEMORY_USED] == 3 * 2**30
    assert values[Quantity.SM_CLOCK] == pytest.approx(1980e6)
    assert values[Quantity.MEMORY_CLOCK] == pytest.approx(2619e6)
    by_quantity = {sensor.channels[r.channel].quantity: r.value for r in readings}
    assert by_quantity[Quantity.UTILIZATION] == 87
    assert by_quantity[Quantity.MEMORY_UTILIZATION] == 41
    sensor.close()
    assert library.open == 0


def hang(monkeypatch, library, function):
    """Let a function of the driver hang until the end of the test."""
    end = threading.Event()
    answer = getattr(library, function)

    def hung(*arguments):
        end.wait()
        return answer(*arguments)

    monkeypatch.setattr(library, function, hung)
    monkeypatch.setattr(nvml, "ANSWER_S", 0.05)
    monkeypatch.setattr(joulelab.machine, "ANSWER_S", 0.05)
    monkeypatch.setattr(nvml, "LEAST_ANSWER_S", 0.05)
    monkeypatch.setattr(nvml, "JOIN_ANSWER_S", 0.05)
    return end


def test_a_driver_that_hangs_as_it_starts_is_left_out(monkeypatch):
    end = hang(monkeypatch, machine(monkeypatch, FakeGpu("GPU-a")), "nvmlInitWithFlags")
    found = discover(["gpu", "cpu"])
    assert "cpu:0" in {channel.component for one in found.sensors for channel in one.channels}
    [absent] = [one for one in found.absent if one.source == "nvml"]
    assert absent.reason == "NVML does not start: the driver has not answered for 50.0 ms"
    assert "nvidia-smi" in absent.hint
    assert nvml.visible_components(None, None) is None
    assert joulelab.machine.describe().gpus == ()
    end.set()


def test_a_driver_that_hangs_as_a_gpu_is_opened_is_left_out(monkeypatch):
    library = machine(monkeypatch, FakeGpu("GPU-a"), FakeGpu("GPU-b"))
    end = hang(monkeypatch, library, "nvmlDeviceGetPowerManagementLimitConstraints")
    sensors, absent = discover_gpus()
    assert sensors == []
    assert [one.component for one in absent] == ["gpu:0", "gpu:1"]
    assert all("cannot open this GPU: the driver has not" in one.reason for one in absent)
    end.set()


def test_ring_is_mapped_to_the_monotonic_clock_and_read_once(discovered):
    gpu = FakeGpu("GPU-a")
    [sensor], _ = discovered(gpu)
    newest_us = gpu.ring[-1][0]
    expected_ns = time.monotonic_ns() - (time.time_ns() - newest_us * 1000)
    first = of(sensor, sensor.read(), "nvml.samples")
    assert first[-1].t_ns == pytest.approx(expected_ns, abs=5e6)
    assert [r.t_ns for r in first] == sorted(r.t_ns for r in first)
    assert of(sensor, sensor.read(), "nvml.samples") == []
    gpu.ring = [*gpu.ring[1:], (newest_us + 20_000, 222_000)]
    assert [r.value for r in of(sensor, sensor.read(), "nvml.samples")] == [222.0]
    # The driver computes the timestamps of the same readings again.
    gpu.ring = [(stamp_us + 700, power_mw) for stamp_us, power_mw in gpu.ring]
    assert of(sensor, sensor.read(), "nvml.samples") == []


@pytest.mark.parametrize("period_us", [20_000, 50_000, 100_000])
def test_the_update_period_is_that_of_the_timestamps(discovered, period_us):
    gpu = FakeGpu("GPU-a")
    gpu.fill_ring(60, period_us)
    [sensor], _ = discovered(gpu)
    assert sensor.channels[0].update_period_s == pytest.approx(period_us / 1e6)


def test_a_nearly_empty_ring_has_the_usual_period(discovered):
    gpu = FakeGpu("GPU-a")
    gpu.fill_ring(2, 1)
    [sensor], _ = discovered(gpu)
    assert sensor.channels[0].update_period_s == pytest.approx(0.02)


def test_a_hole_in_the_ring_is_a_gap_where_it_begins(discovered):
    gpu = FakeGpu("GPU-a")
    gpu.fill_ring()
    gpu.ring = gpu.ring[:50] + gpu.ring[60:]
    [sensor], _ = discovered(gpu)
    readings = of(sensor, sensor.read(), "nvml.samples")
    gaps = [r for r in readings if isinstance(r, Gap)]
    assert len(gaps) == 1
    assert len(readings) == 111
    before, after = readings[49], readings[51]
    assert before.t_ns < gaps[0].t_ns < after.t_ns


def test_a_silent_ring_is_a_gap(discovered, monkeypatch):
    [sensor], _ = discovered(FakeGpu("GPU-a"))
    sensor.read()
    monkeypatch.setattr(nvml_channels, "SILENCE_S", 0)
    [gap] = of(sensor, sensor.read(), "nvml.samples")
    assert isinstance(gap, Gap)
    assert "nothing new" in gap.reason


@pytest.mark.parametrize("step_ns", [3_600_000_000_000, -3_600_000_000_000])
def test_a_step_of_the_wall_clock_gives_a_gap_and_no_wrong_times(discovered, monkeypatch, step_ns):
    gpu = FakeGpu("GPU-a")
    [sensor], _ = discovered(gpu)
    sensor.read()
    real = time.clock_gettime_ns
    monkeypatch.setattr(time, "clock_gettime_ns", lambda clock: real(clock) + step_ns)
    [gap] = of(sensor, sensor.read(), "nvml.samples")
    assert isinstance(gap, Gap)
    assert "wall clock" in gap.reason
    sensor._ring._unsettled_until_ns = 0  # as after RING_S
    gpu.fill_ring(5, newest_us=(time.time_ns() + step_ns) // 1000 + 100_000)
    readings = [r for r in of(sensor, sensor.read(), "nvml.samples") if isinstance(r, Reading)]
    assert readings
    assert all(abs(r.t_ns - time.monotonic_ns()) < 1e9 for r in readings)


class Clock:
    """Time that passes by sleeping, and 0.1 ms whenever it is read."""

    def __init__(self, monkeypatch):
        self.now_s = 100.0
        monkeypatch.setattr(nvml_channels, "time", self)

    def monotonic(self):
        self.now_s += 1e-4
        return self.now_s

    def sleep(self, seconds):
        self.now_s += seconds

    perf_counter = staticmethod(time.perf_counter)
    thread_time = staticmethod(time.thread_time)


class LiveGpu(FakeGpu):
    """Its power and counter are updated every ``period_s``."""

    clock = None
    period_s = 0.1

    @live
    def power_mw(self):
        return 100_000 + self.update() * 37 % 1000 if self.clock else 100_000

    @live
    def energy_mj(self):
        return round(self.update() * self.period_s * 1e5) if self.clock else 0

    def update(self):
        return int(self.clock.now_s / self.period_s)


OLD = {"nvmlDeviceGetSamples", "nvmlDeviceGetTotalEnergyConsumption"}


@pytest.mark.parametrize("period_s", [0.015, 0.02, 0.05, 0.1])
@pytest.mark.parametrize("unsupported", [OLD, {"nvmlDeviceGetSamples"}])
def test_a_boards_own_update_period_is_observed(discovered, monkeypatch, period_s, unsupported):
    gpu = LiveGpu("GPU-a", unsupported=unsupported)
    gpu.clock, gpu.period_s = Clock(monkeypatch), period_s
    [sensor], _ = discovered(gpu)
    for channel in sensor.channels:
        if channel.gives_energy:
            assert channel.update_period_s == pytest.approx(period_s, abs=0.002)
            assert "assumed" not in channel.note
    assert sensor.interval_s >= 0.02


def test_a_board_whose_values_do_not_change_is_assumed_to_have_the_usual_period(
    discovered, monkeypatch
):
    Clock(monkeypatch)
    [sensor], _ = discovered(FakeGpu("GPU-a", unsupported=OLD))
    power = [channel for channel in sensor.channels if channel.gives_energy]
    assert {channel.update_period_s for channel in power} == {0.1}
    assert all("period assumed" in channel.note for channel in power)


def test_boards_of_one_model_are_observed_once(discovered, monkeypatch):
    clock = Clock(monkeypatch)
    sensors, _ = discovered(*(FakeGpu(f"GPU-{i}", unsupported=OLD) for i in range(8)))
    assert clock.now_s < 100.0 + 1.1 * nvml_channels.OBSERVE_S
    assert len(sensors) == 8


def test_a_virtual_gpu_is_absent_with_a_reason_and_a_hint(discovered):
    unsupported = {*OLD, "nvmlDeviceGetPowerUsage", "power_instant"}
    gpu = FakeGpu("GPU-a", unsupported=unsupported)
    gpu.virtualization = pynvml.NVML_GPU_VIRTUALIZATION_MODE_VGPU
    [sensor], absent = discovered(gpu)
    assert sources(sensor) == []
    assert absent
    assert all("virtual GPU" in one.reason and "host" in one.hint for one in absent)


def test_a_board_that_its_instance_may_not_see_is_absent_with_a_reason(discovered):
    refused = dict.fromkeys(
        ("nvmlDeviceGetSamples", "nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetPowerUsage"),
        pynvml.NVML_ERROR_NO_PERMISSION,
    )
    refused["power_instant"] = pynvml.NVML_ERROR_NO_PERMISSION
    [sensor], absent = discovered(
        FakeGpu("GPU-a", mig_uuids=("MIG-1",), errors=refused), visible="MIG-1"
    )
    assert sources(sensor) == []
    assert {one.source for one in absent} >= {"nvml.samples", "nvml.energy_counter"}
    assert all("Permission" in one.reason and "MIG" in one.reason for one in absent)


def test_without_a_ring_the_counter_is_read_more_often(discovered):
    gpu = FakeGpu("GPU-a", unsupported={"nvmlDeviceGetSamples"})
    [sensor], absent = discovered(gpu)
    assert sources(sensor) == ["nvml.energy_counter", "nvml.power_usage"]
    assert 0.1 <= sensor.interval_s <= 1.0
    assert [a.source for a in absent] == ["nvml.samples"]
    assert "Not Supported" in absent[0].reason


@pytest.mark.parametrize(
    ("capability", "window_s"), [((7, 0), 0.0), ((8, 0), 0.0), ((8, 6), 1.0), ((9, 0), 1.0)]
)
def test_polled_power_only_where_nothing_better_exists(discovered, capability, window_s):
    gpu = FakeGpu(
        "GPU-a",
        capability=capability,
        unsupported={"nvmlDeviceGetSamples", "nvmlDeviceGetTotalEnergyConsumption"},
    )
    [sensor], _ = discovered(gpu)
    assert sources(sensor) == ["nvml.power_instant", "nvml.power_usage"]
    assert sensor.channels[1].window_s == window_s
    assert sensor.interval_s == pytest.approx(0.1)
    readings = sensor.read()
    assert of(sensor, readings, "nvml.power_usage")[0].value == pytest.approx(100.0)


def test_a_gpu_that_reports_no_power_is_absent(discovered):
    gpu = FakeGpu(
        "GPU-a",
        unsupported={
            "nvmlDeviceGetSamples",
            "nvmlDeviceGetTotalEnergyConsumption",
            "nvmlDeviceGetPowerUsage",
            "power_instant",
        },
    )
    [sensor], absent = discovered(gpu)
    assert sources(sensor) == []
    assert {a.source for a in absent} >= {"nvml.samples", "nvml.energy_counter", "nvml.power_usage"}
    assert {a.component for a in absent} == {"gpu:0"}


@pytest.mark.parametrize("unsupported", [set(), {"nvmlDeviceGetSamples"}])
def test_zero_is_no_power_of_a_gpu(discovered, unsupported):
    gpu = FakeGpu("GPU-a", power_mw=0, unsupported=unsupported)
    gpu.fill_ring()
    [sensor], _ = discovered(gpu)
    of_power = {i for i, one in enumerate(sensor.channels) if one.quantity is Quantity.POWER}
    found = [one for one in sensor.read() if one.channel in of_power]
    assert found
    assert {one.reason for one in found} == {"the driver shows 0 W"}


def test_a_lost_gpu_is_a_gap_and_comes_back(discovered):
    gpu = FakeGpu("GPU-a")
    [sensor], _ = discovered(gpu)
    sensor.read()
    gpu.errors = {
        "nvmlDeviceGetSamples": pynvml.NVML_ERROR_GPU_IS_LOST,
        "nvmlDeviceGetHandleByUUID": pynvml.NVML_ERROR_GPU_IS_LOST,
    }
    lost = of(sensor, sensor.read(), "nvml.samples")
    assert [type(r) for r in lost] == [Gap]
    assert "GPU is lost" in lost[0].reason
    still = sensor.read()
    assert len(still) == len(sensor.channels)
    assert all(isinstance(r, Gap) for r in still)
    gpu.errors = {}
    gpu.fill_ring(10, newest_us=gpu.ring[-1][0] + 200_000)
    back = of(sensor, sensor.read(), "nvml.samples")
    assert len([r for r in back if isinstance(r, Reading)]) == 10


def test_errors_after_some_calls_are_gaps_never_zero(discovered):
    function = "nvmlDeviceGetTotalEnergyConsumption"
    gpu = FakeGpu("GPU-a", fail_after={function: (1, pynvml.NVML_ERROR_UNKNOWN)})
    [sensor], _ = discovered(gpu)
    [gap] = of(sensor, sensor.read(), "nvml.energy_counter")
    assert isinstance(gap, Gap)


def test_a_value_of_a_call_that_hung_is_a_gap_since_its_time_is_unknown(discovered, monkeypatch):
    [sensor], _ = discovered(FakeGpu("GPU-a"))
    monkeypatch.setattr(nvml, "MAX_CALL_NS", -1)
    readings = sensor.read()
    [gap] = of(sensor, readings, "nvml.energy_counter")
    assert isinstance(gap, Gap)
    assert "NVML: it answered after" in gap.reason
    # The ring has times of its own.
    assert {type(one) for one in of(sensor, readings, "nvml.samples")} == {Reading}


def test_mig_belongs_to_its_board_and_cannot_be_split(monkeypatch):
    machine(
        monkeypatch,
        FakeGpu("GPU-a", mig_uuids=()),
        FakeGpu("GPU-b", mig_uuids=("MIG-1", "MIG-2")),
    )
    assert [board.mig for board in list_boards()] == [False, True]
    [sensor], absent = discover_gpus("MIG-2")
    assert sensor.channels[0].component == "gpu:1"
    assert all(MIG_NOTE in c.note for c in sensor.channels)
    assert absent == []
    sensor.close()


def test_visible_devices_select_and_order_gpus(discovered):
    gpus = [FakeGpu(f"GPU-{n}") for n in range(11)]
    sensors, absent = discovered(*gpus, visible="10,0")
    assert [s.channels[0].component for s in sensors] == ["gpu:10", "gpu:0"]
    assert absent == []


@pytest.mark.parametrize("visible", ["", "-1", "99"])
def test_no_visible_gpu_is_absent_with_its_reason(monkeypatch, visible):
    machine(monkeypatch, FakeGpu("GPU-a"))
    sensors, [absence] = discover_gpus(visible)
    assert sensors == []
    assert "CUDA_VISIBLE_DEVICES" in absence.reason
    assert absence.hint


def test_no_driver_library(monkeypatch, tmp_path):
    def missing():
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "_LoadNvmlLibrary", missing)
    monkeypatch.setenv("JOULELAB_SYSFS", str(tmp_path))
    sensors, [absence] = discover_gpus()
    assert (sensors, absence.reason, absence.hint) == ([], nvml.NO_GPU, "")
    device = tmp_path / "bus/pci/devices/0000:41:00.0"
    device.mkdir(parents=True)
    (device / "vendor").write_text("0x10de\n")
    sensors, [absence] = discover_gpus()
    assert sensors == []
    assert "libnvidia-ml.so.1" in absence.reason
    assert "--gpus all" in absence.hint


def test_a_driver_that_does_not_start(monkeypatch):
    machine(monkeypatch, init_code=pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH)
    sensors, [absence] = discover_gpus()
    assert sensors == []
    assert "mismatch" in absence.reason


def test_one_broken_gpu_does_not_hide_the_other(monkeypatch):
    broken = FakeGpu("GPU-a", errors={"nvmlDeviceGetHandleByUUID": pynvml.NVML_ERROR_GPU_IS_LOST})
    library = machine(monkeypatch, broken, FakeGpu("GPU-b"))
    [sensor], [absence] = discover_gpus()
    assert sensor.channels[0].component == "gpu:1"
    assert absence.component == "gpu:0"
    sensor.close()
    assert library.open == 0


def test_one_gpu_can_be_selected_by_its_index(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    machine(monkeypatch, *(FakeGpu(f"GPU-{i}") for i in range(11)))
    found = discover(["gpu:10", "gpu:3"])
    assert [sensor.channels[0].component for sensor in found.sensors] == ["gpu:3", "gpu:10"]
    assert found.absent == ()


def test_a_selected_gpu_that_does_not_exist_is_absent_with_a_reason(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    machine(monkeypatch, FakeGpu("GPU-0"), FakeGpu("GPU-1"))
    found = discover(["gpu:0", "gpu:1"])
    assert [sensor.channels[0].component for sensor in found.sensors] == ["gpu:0"]
    assert [absence.component for absence in found.absent] == ["gpu:1"]


def test_a_selected_gpu_without_a_driver_is_absent_with_the_drivers_reason(monkeypatch):
    machine(monkeypatch, init_code=pynvml.NVML_ERROR_DRIVER_NOT_LOADED)
    found = discover(["gpu:0"])
    assert found.sensors == ()
    assert len(found.absent) == 1


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA GH200 480GB",
        "NVIDIA GH200 144G HBM3e",
        "NVIDIA GB200",
        "NVIDIA GB300",
        "NVIDIA GB10",
    ],
)
@pytest.mark.parametrize("ring", [True, False])
def test_the_counter_of_a_superchip_is_its_modules(discovered, name, ring):
    unsupported = set() if ring else {"nvmlDeviceGetSamples"}
    [sensor], _ = discovered(FakeGpu("GPU-a", name=name, unsupported=unsupported))
    energy = {c.source: c for c in sensor.channels if c.gives_energy}
    own = ["nvml.samples"] if ring else ["nvml.power_instant", "nvml.power_usage"]
    assert list(energy) == [*own, "nvml.energy_counter"]
    module = energy["nvml.energy_counter"]
    assert module.component == "module:0"
    assert module.contains == ("gpu:0", "cpu:0", "dram:0")
    assert "superchip" in module.note
    assert module.max_power_w is None
    assert sensor.intervals_s[list(sensor.channels).index(module)] == 1.0
    assert all(energy[source].component == "gpu:0" for source in own)
    assert sensor.component == "gpu:0"


@pytest.mark.parametrize("counted", [True, False])
def test_the_power_of_a_superchips_module_is_read_next_to_its_counter(discovered, counted):
    unsupported = set() if counted else {"nvmlDeviceGetTotalEnergyConsumption"}
    gpu = FakeGpu("GPU-a", name="NVIDIA GH200 480GB", power_mw=400_000, unsupported=unsupported)
    gpu.module_mw = 640_000
    [sensor], _ = discovered(gpu)
    position = [channel.source for channel in sensor.channels].index("nvml.module_power")
    channel = sensor.channels[position]
    assert channel.component == "module:0"
    assert channel.contains == ("gpu:0", "cpu:0", "dram:0")
    assert sensor.intervals_s[position] == (1.0 if counted else 0.5)
    [reading] = of(sensor, sensor.read(), "nvml.module_power")
    assert reading.value == 640.0


@pytest.mark.parametrize(
    ("module_mw", "component"),
    [(None, "gpu:0"), (400_000, "gpu:0"), (410_000, "gpu:0"), (640_000, "module:0")],
)
def test_a_modules_power_above_the_gpus_reveals_a_superchip(discovered, module_mw, component):
    [sensor], _ = discovered(FakeGpu("GPU-a", power_mw=400_000, module_mw=module_mw))
    [counter] = [c for c in sensor.channels if c.source == "nvml.energy_counter"]
    assert counter.component == component


@pytest.mark.parametrize("name", ["NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-80GB", "Tesla V100"])
def test_the_counter_of_another_gpu_is_its_own(discovered, name):
    [sensor], _ = discovered(FakeGpu("GPU-a", name=name))
    assert not any(channel.contains for channel in sensor.channels)


@pytest.mark.parametrize(("gpus", "interval_s"), [(1, 1.0), (4, 4.0), (64, 8.0)])
def test_counters_of_many_gpus_without_a_ring_share_a_part_of_a_core(monkeypatch, gpus, interval_s):
    """A call for the counter takes 4 ms of the processor. Programs still get it when they ask."""
    no_ring = {"nvmlDeviceGetSamples"}
    machine(monkeypatch, *(FakeGpu(f"GPU-{i}", unsupported=no_ring) for i in range(gpus)))
    monkeypatch.setattr(nvml, "observe_periods", lambda scalars, handle: [0.1 for _ in scalars])
    monkeypatch.setattr(
        nvml, "cpu_s", lambda read, handle: 4e-3 if read(handle) == 5000.0 else 2e-6
    )
    sensors, _ = discover_gpus()
    sensor = sensors[0]
    counter = sources(sensor).index("nvml.energy_counter")
    assert sensor.intervals_s[counter] == pytest.approx(interval_s, abs=0.01)
    assert sensor.interval_s <= sensor.intervals_s[sources(sensor).index("nvml.power_usage")]
    assert of(sensor, sensor.read(), "nvml.energy_counter")
    read_s = time.monotonic()
    assert not of(sensor, sensor.read(), "nvml.energy_counter")
    sensor.request()
    while not of(sensor, sensor.read(), "nvml.energy_counter"):
        sensor.request()
    assert gpus == 1 or time.monotonic() - read_s < interval_s / 2
    for sensor in sensors:
        sensor.close()


@pytest.mark.parametrize(
    ("unsupported", "bound_w"),
    [
        (set(), 600.0),
        ({"nvmlDeviceGetPowerManagementLimitConstraints"}, 450.0),
        ({"nvmlDeviceGetPowerManagementLimitConstraints", "default_limit"}, None),
    ],
)
def test_the_bound_of_power_is_the_boards_highest_limit(discovered, unsupported, bound_w):
    [sensor], _ = discovered(FakeGpu("GPU-a", unsupported=unsupported))
    assert {c.max_power_w for c in sensor.channels if c.gives_energy} == {bound_w}


def test_a_limit_that_no_board_has_bounds_nothing(discovered):
    [sensor], _ = discovered(FakeGpu("GPU-a", max_limit_mw=0xFFFFFFFF))
    assert {c.max_power_w for c in sensor.channels if c.gives_energy} == {3000.0}


@pytest.mark.parametrize(
    ("gpus", "ring_s", "counter_s", "telemetry_s"),
    [(1, 0.5, 1.4, 1.0), (4, 1.6, 6.4, 1.6), (8, 1.8, 20.0, 1.8)],
)
def test_calls_of_many_gpus_share_a_part_of_a_core(
    monkeypatch, gpus, ring_s, counter_s, telemetry_s
):
    """With the processor time of an H100's calls: a ring takes 0.6 ms, its counter 4 ms."""
    machine(monkeypatch, *(FakeGpu(f"GPU-{index}") for index in range(gpus)))
    costs = {"ring": 0.6e-3, "nvml.energy_counter": 4e-3}
    monkeypatch.setattr(nvml_channels.PowerRing, "cpu_s", lambda ring, handle: costs["ring"])
    monkeypatch.setattr(nvml, "cpu_s", lambda read, handle: read_cost(read))

    def read_cost(read):
        own = [scalar for one in opened for scalar in one._scalars if scalar.read is read]
        return costs.get(own[0].channel.source, 10e-6)

    opened = []
    real = nvml.NvmlSensor.spare_processor
    monkeypatch.setattr(
        nvml.NvmlSensor,
        "spare_processor",
        lambda sensor, count: (opened.append(sensor), real(sensor, count)),
    )
    sensors, _ = discover_gpus()
    assert len(sensors) == gpus
    for sensor in sensors:
        by_source = {
            channel.source: interval_s
            for channel, interval_s in zip(sensor.channels, sensor.intervals_s, strict=True)
        }
        assert sensor.interval_s == pytest.approx(ring_s)
        assert by_source["nvml.samples"] == pytest.approx(ring_s)
        assert by_source["nvml.energy_counter"] == pytest.approx(counter_s, abs=0.05)
        assert by_source["nvml.temperature"] == pytest.approx(telemetry_s)
        sensor.close()
