"""Power limits in files of the kernel: processor packages, and GPUs of AMD and Intel.

=========  ==============================  =====================================================
device     limit, in µW                    constraints
=========  ==============================  =====================================================
package    ``constraint_N_power_limit_uw`` ``constraint_N_max_power_uw``, and a minimum on few; N
                                           is the one named ``long_term``
amdgpu     ``power1_cap``                  ``power1_cap_min``, ``power1_cap_max``
i915, xe   ``power1_max``                  ``power1_rated_max``; 0 is no limit
=========  ==============================  =====================================================

Linux: Documentation/power/powercap/powercap.rst, Documentation/gpu/amdgpu/thermal.rst,
Documentation/ABI/testing/sysfs-driver-intel-i915-hwmon. Numbers of hwmon directories change with
each boot, so a GPU is found by the driver's ``name``. What is written lasts until the next boot.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from joulelab.controls.control import Control
from joulelab.errors import ControlError
from joulelab.format import number
from joulelab.sensors.interfaces import system_root
from joulelab.sensors.rapl import package_zones
from joulelab.sensors.sensor import Absence

LEAST_PART = 0.25
"""The lowest limit, as a part of the highest, where the driver states none (or 0): the machine has
to remain usable. A limit of 0 would even remove that of an Intel GPU."""
LONG_TERM = "long_term"
"""Limits the mean over seconds; ``short_term`` and ``peak_power`` limit bursts."""
CONSTRAINTS = 3
"""RAPL has at most these."""
HWMON_LIMITS = {
    "amdgpu": ("power1_cap", "power1_cap_min", "power1_cap_max"),
    "i915": ("power1_max", "", "power1_rated_max"),
    "xe": ("power1_max", "", "power1_rated_max"),
}
"""By the hwmon's name: the files of the limit, of its minimum and of its maximum."""


@dataclass(frozen=True, slots=True)
class SysfsLimit(Control):
    """A power limit in a file, in watts."""

    path: Path = Path()  # The file, which contains microwatts.

    def check_rights(self) -> None:
        """Write the limit that is there, which the kernel refuses without the right."""
        self._write(self.read())

    def read(self) -> float:
        """Return the limit, also if another program set it."""
        try:
            return _read_w(self.path)
        except (OSError, ValueError) as error:
            raise ControlError(f"cannot read {self.title}", why=f"{self.path}: {error}") from error

    def restore(self, found: float | None) -> None:
        """Write the limit that was found."""
        if found is not None:
            self._write(found)

    def _write(self, value: float) -> None:
        try:
            # A file that does not exist is not created.
            descriptor = os.open(self.path, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
            try:
                os.write(descriptor, b"%d\n" % round(value * 1e6))
            finally:
                os.close(descriptor)
        except OSError as error:
            raise self._refused(error) from error

    def _refused(self, error: OSError) -> ControlError:
        reason, hint = f"{self.path}: {error.strerror}", ""
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            hint = "run as root, for example with sudo"
            if os.geteuid() == 0:
                reason = f"{reason} even for root"
                hint = (
                    "in a container, mount the host's files with docker run -v /sys:/host/sys "
                    "-e JOULELAB_SYSFS=/host/sys; otherwise the firmware may have locked the limit"
                )
        return ControlError(f"cannot set {self.title}", why=reason, hint=hint)


def find_package_limits() -> tuple[list[Control], list[Absence]]:
    """Find the power limit of every processor package, and why others are absent."""
    controls: list[Control] = []
    absences: list[Absence] = []
    zones = package_zones()
    if not zones:
        powercap = system_root() / "class" / "powercap"
        reason = f"no processor packages in {powercap} (usual in virtual machines and containers)"
        absences.append(Absence("cpu", "powercap", reason))
    for i, zone in enumerate(zones):
        try:
            constraint = _long_term(zone)
            limit = zone / f"{constraint}_power_limit_uw"
            files = [zone / f"{constraint}_{end}_power_uw" for end in ("min", "max")]
            controls.append(_limit("cpu_power_limit", f"cpu:{i}", zone, limit, *files))
        except ControlError as error:
            absences.append(Absence(f"cpu:{i}", "powercap", str(error)))
    return controls, absences


def find_hwmon_limits(first_gpu: int) -> tuple[list[Control], list[Absence]]:
    """Find the power limits of AMD's and Intel's GPUs, and why others are absent.

    Args:
        first_gpu: Number of the first one's component: one more than NVIDIA's last.
    """
    controls: list[Control] = []
    absences: list[Absence] = []
    for i, (hwmon, driver) in enumerate(_gpu_hwmons(), first_gpu):
        limit, least, most = (hwmon / file for file in HWMON_LIMITS[driver])
        try:
            # The PCI device, whose path does not change with the number of its hwmon.
            device = (hwmon / "device").resolve()
            controls.append(_limit("power_limit", f"gpu:{i}", device, limit, least, most))
        except ControlError as error:
            absences.append(Absence(f"gpu:{i}", f"{driver}.power_limit", str(error)))
    return controls, absences


def _long_term(zone: Path) -> str:
    """Return the name of the constraint on mean power, with which its files begin."""
    if _read_text(zone / "enabled") == "0":
        raise ControlError(f"limits of this package are disabled ({zone / 'enabled'} is 0)")
    for i in range(CONSTRAINTS):
        if _read_text(zone / f"constraint_{i}_name") == LONG_TERM:
            return f"constraint_{i}"
    raise ControlError("this processor has no power limit in powercap (AMD's have none)")


def _gpu_hwmons() -> Iterator[tuple[Path, str]]:
    """Return the hwmon directory of each GPU with its driver, in order of PCI addresses."""
    directory = system_root() / "class" / "hwmon"
    if directory.is_dir():
        hwmons = sorted(directory.iterdir(), key=lambda path: str((path / "device").resolve()))
        for path in hwmons:
            driver = _read_text(path / "name")
            if driver in HWMON_LIMITS:
                yield path, driver


def _limit(
    name: str, component: str, device: Path, limit: Path, least: Path, most: Path
) -> Control:
    """Build the control of a limit; ``least`` and ``most`` may be missing."""
    try:
        now_w = _read_w(limit)
    except (OSError, ValueError) as error:
        raise ControlError("this device has no power limit", why=f"{limit}: {error}") from error
    if now_w <= 0:
        raise ControlError("this device's power limit is off", why=f"{limit} is 0")
    # Firmware may set more than the maximum, which is then no maximum.
    high_w = max(_read_w_or_zero(most), now_w)
    low_w = _read_w_or_zero(least) or LEAST_PART * high_w
    if low_w >= high_w:
        raise ControlError(f"this device allows no power limit but {number(high_w)} W")
    return SysfsLimit(name, component, str(device), "W", low_w, high_w, (), limit)


def _read_w(path: Path) -> float:
    text = path.read_text(errors="replace").strip()
    if not text.isdigit():
        raise ValueError(f"it contains {text!r}, not a number")
    return int(text) / 1e6


def _read_w_or_zero(path: Path) -> float:
    try:
        return _read_w(path)
    except (OSError, ValueError):
        return 0.0


def _read_text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
