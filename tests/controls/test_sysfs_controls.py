"""Power limits in trees of files like those of the kernel."""

import os

import pynvml
import pytest
from fake_nvml import FakeNvml, install
from sysfs_limits import hwmon, package

from joulelab.controls.machine_controls import find_controls
from joulelab.errors import ControlError


@pytest.fixture(autouse=True)
def sysfs(tmp_path, monkeypatch):
    install(monkeypatch, FakeNvml([], init_code=pynvml.NVML_ERROR_DRIVER_NOT_LOADED))
    monkeypatch.setenv("JOULELAB_SYSFS", str(tmp_path))
    return tmp_path


def test_each_package_has_its_long_term_limit(sysfs):
    package(sysfs, 0, limit_w=125, max_w=150, first="short_term")
    package(sysfs, 1, limit_w=125, max_w=150)
    first, second = find_controls().named("cpu_power_limit")
    assert (first.component, second.component) == ("cpu:0", "cpu:1")
    assert (first.low, first.high, first.read()) == (37.5, 150, 125)
    first.set(90.5)
    zone = sysfs / "class/powercap/intel-rapl:0"
    assert (zone / "constraint_1_power_limit_uw").read_text() == "90500000\n"
    assert (zone / "constraint_0_power_limit_uw").read_text() == "250000000\n"
    assert second.read() == 125


def test_a_limit_above_the_stated_maximum_can_be_restored(sysfs):
    package(sysfs, 0, limit_w=4095, max_w=65)
    (limit,) = find_controls().named("cpu_power_limit")
    assert limit.high == 4095
    limit.set(1100)
    limit.restore(4095.0)
    assert limit.read() == 4095


@pytest.mark.parametrize("text", ["", "0", "unknown", "-5"])
def test_a_package_without_a_stated_maximum_has_its_limit_as_the_highest(sysfs, text):
    zone = package(sysfs, 0, limit_w=65)
    (zone / "constraint_0_max_power_uw").write_text(text)
    (limit,) = find_controls().named("cpu_power_limit")
    assert (limit.low, limit.high) == (16.25, 65)


@pytest.mark.parametrize(
    ("file", "text", "reason"),
    [
        ("enabled", "0", "limits of this package are disabled"),
        ("constraint_0_power_limit_uw", "0", "this device's power limit is off"),
        ("constraint_0_power_limit_uw", "x", "this device has no power limit"),
        ("constraint_0_name", "peak_power", "no power limit in powercap"),
    ],
)
def test_a_package_whose_limit_cannot_be_set_is_absent_with_a_reason(sysfs, file, text, reason):
    (package(sysfs, 0, limit_w=65) / file).write_text(text)
    with pytest.raises(ControlError, match=f"no cpu power limit can be set: .*{reason}"):
        find_controls().named("cpu_power_limit")


def test_gpus_are_found_by_their_drivers_name_in_the_order_of_their_addresses(sysfs):
    hwmon(sysfs, 0, "k10temp", "0000:00:18.3")
    hwmon(sysfs, 1, "xe", "0000:83:00.0", power1_max=150e6, power1_rated_max=200e6)
    hwmon(sysfs, 2, "amdgpu", "0000:03:00.0",
        power1_cap=203e6, power1_cap_min=10e6, power1_cap_max=264e6)  # fmt: skip
    amd, intel = find_controls().named("power_limit")
    assert (amd.component, amd.low, amd.high, amd.read()) == ("gpu:0", 10, 264, 203)
    assert (intel.component, intel.low, intel.high, intel.read()) == ("gpu:1", 50, 200, 150)
    intel.set(120)
    assert (sysfs / "class/hwmon/hwmon1/power1_max").read_text() == "120000000\n"


def test_a_second_die_without_limits_of_its_own_is_absent(sysfs):
    hwmon(sysfs, 0, "amdgpu", "0000:03:00.0", power1_cap=0, power1_cap_min=0, power1_cap_max=0)
    assert find_controls().controls == ()


@pytest.mark.parametrize("value", [0, 9.99, 264.1, float("nan")])
def test_a_limit_outside_the_constraints_is_not_written(sysfs, value):
    files = {"power1_cap": 203e6, "power1_cap_min": 10e6, "power1_cap_max": 264e6}
    hwmon(sysfs, 0, "amdgpu", "0000:03:00.0", **files)
    (limit,) = find_controls().named("power_limit")
    with pytest.raises(ControlError, match=r"it allows 10.* to 264"):
        limit.set(value)
    assert limit.read() == 203


def test_a_vanished_file_is_an_error_and_is_not_created(sysfs):
    zone = package(sysfs, 0, limit_w=65)
    (limit,) = find_controls().named("cpu_power_limit")
    limit.path.unlink()
    for action in (limit.read, lambda: limit.set(50), limit.check_rights):
        with pytest.raises(ControlError, match="the power limit of cpu:0"):
            action()
    assert not (zone / "constraint_0_power_limit_uw").exists()


@pytest.mark.parametrize("user", [0, 1000])
def test_a_refused_write_says_how_to_get_the_right(sysfs, user, monkeypatch):
    package(sysfs, 0, limit_w=65)
    (limit,) = find_controls().named("cpu_power_limit")
    limit.path.unlink()
    limit.path.symlink_to("/proc/self/nothing")  # Not writable, not even for root.
    monkeypatch.setattr(os, "geteuid", lambda: user)
    hint = "docker run -v /sys:/host/sys" if user == 0 else "run as root, for example with sudo"
    error = limit._refused(PermissionError(13, "Permission denied"))
    assert hint in str(error)
    assert "\n" not in str(error)
