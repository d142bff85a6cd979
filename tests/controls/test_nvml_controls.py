"""Power limits and clocks through NVML, on a stand-in of the driver's library."""

import pynvml
import pytest
from fake_nvml import FakeGpu, FakeNvml, install
from hypothesis import given
from hypothesis import strategies as st

from joulelab.controls.machine_controls import find_controls
from joulelab.errors import ControlError


@pytest.fixture(autouse=True)
def no_other_devices(tmp_path, monkeypatch):
    monkeypatch.setenv("JOULELAB_SYSFS", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.fixture
def gpu(monkeypatch):
    return install_gpu(monkeypatch)


def install_gpu(patch):
    gpu = FakeGpu("GPU-a", power_limit_mw=300_000, min_limit_mw=100_000, max_limit_mw=400_000)
    install(patch, FakeNvml([gpu]))
    return gpu


def control(name):
    return find_controls().named(name)[0]


def test_the_limit_that_is_set_is_read_and_neither_the_default_nor_the_maximum(gpu):
    limit = control("power_limit")
    assert (limit.low, limit.high, limit.unit, limit.levels) == (100, 400, "W", ())
    gpu.power_limit_mw, gpu.default_limit_mw = 212_500, 350_000
    assert limit.read() == 212.5
    limit.set(150.25)
    assert gpu.power_limit_mw == 150_250
    limit.restore(212.5)
    assert gpu.power_limit_mw == 212_500


@pytest.mark.parametrize("value", [99.9, 400.1, 0.0, -1.0, float("nan"), float("inf")])
def test_a_limit_outside_the_constraints_is_not_sent(gpu, value):
    with pytest.raises(ControlError, match=r"gpu:0 to .* W: it allows 100.* to 400.* W"):
        control("power_limit").set(value)
    assert gpu.sent == []


@given(value=st.floats())
def test_only_limits_within_the_constraints_are_ever_sent(value):
    with pytest.MonkeyPatch.context() as patch:
        gpu, limit = install_gpu(patch), control("power_limit")
        is_allowed = 100 <= value <= 400
        try:
            limit.set(value)
        except ControlError:
            assert not is_allowed
        assert gpu.sent == ([("power_limit", round(value * 1e3))] if is_allowed else [])


def test_a_clock_is_an_upper_limit_so_that_an_idle_gpu_slows_down(gpu):
    clock = control("clock")
    assert clock.levels == (900, 1200, 1500, 1980)
    assert clock.read() is None
    clock.set(1200)
    assert gpu.locked == {"GpuLockedClocks": (900, 1200)}
    clock.restore(None)
    assert gpu.locked == {}
    memory = control("memory_clock")
    memory.set(1593)
    assert gpu.locked == {"MemoryLockedClocks": (1593, 1593)}


def test_a_clock_between_two_levels_is_not_sent(gpu):
    with pytest.raises(ControlError, match="not one of its levels; the nearest one is 1,200 MHz"):
        control("clock").set(1210)
    assert gpu.sent == []


def test_without_the_right_an_error_says_which_and_how_to_grant_it(gpu):
    gpu.errors["nvmlDeviceSetPowerManagementLimit"] = pynvml.NVML_ERROR_NO_PERMISSION
    found = find_controls()
    assert found.named("power_limit")[0].read() == 300
    for one in found.controls:
        with pytest.raises(
            ControlError, match=r"only root may set it; .*sudo.*SYS_ADMIN"
        ) as caught:
            one.check_rights()
        assert caught.value.exit_code == 2


def test_checking_rights_changes_nothing(gpu):
    for one in find_controls().controls:
        one.check_rights()
    assert gpu.power_limit_mw == 300_000
    assert gpu.locked == {}


@pytest.mark.parametrize(
    "code", [pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_FUNCTION_NOT_FOUND]
)
def test_what_a_gpu_does_not_support_is_absent_with_a_reason(gpu, code):
    gpu.errors["nvmlDeviceGetPowerManagementLimit"] = code
    gpu.memory_mhz = (1215,)
    found = find_controls()
    assert [one.name for one in found.controls] == ["clock"]
    with pytest.raises(ControlError, match=r"no power limit can be set: .*does not support it"):
        found.named("power_limit")
    with pytest.raises(ControlError, match=r"no memory clock can be set: .*several"):
        found.named("memory_clock")
    found.named("clock")[0].check_rights()


def test_a_gpu_with_one_possible_limit_has_no_control(gpu):
    gpu.min_limit_mw = gpu.max_limit_mw = 300_000
    with pytest.raises(ControlError, match="allows no power limit but 300 W"):
        find_controls().named("power_limit")


def test_a_lost_gpu_is_an_error_and_no_traceback(gpu):
    limit = control("power_limit")
    gpu.errors["nvmlDeviceGetHandleByUUID"] = pynvml.NVML_ERROR_GPU_IS_LOST
    for action in (limit.read, lambda: limit.set(200), limit.check_rights):
        with pytest.raises(ControlError, match="the power limit of gpu:0: NVML: "):
            action()


def test_only_the_gpus_that_cuda_may_use_are_controlled(monkeypatch):
    install(monkeypatch, FakeNvml([FakeGpu("GPU-a"), FakeGpu("GPU-b")]))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert {one.component for one in find_controls().controls} == {"gpu:1"}
    assert {one.component for one in find_controls(all_gpus=True).controls} == {"gpu:0", "gpu:1"}


def test_without_a_driver_the_reason_is_that_there_is_no_gpu(monkeypatch):
    install(monkeypatch, FakeNvml([], init_code=pynvml.NVML_ERROR_DRIVER_NOT_LOADED))
    with pytest.raises(ControlError, match="no power limit can be set: NVML does not start"):
        find_controls().named("power_limit")
