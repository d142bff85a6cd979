"""Power and energy from Linux's hwmon drivers: AMD and Intel GPUs, Jetsons, Grace, POWER, servers.

Which files measure what is in :mod:`joulelab.sensors.hwmon_gpus` and
:mod:`joulelab.sensors.hwmon_boards`. Units are those of Documentation/hwmon/sysfs-interface.rst.

Power is read as often as it may change and a small part of a core allows. A driver can hang: each
is a sensor of its own, which the recorder then leaves behind on a thread of its own.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import time
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from joulelab.format import duration
from joulelab.sensors.hwmon_boards import (
    JETSON_DRIVERS,
    acpi_meters,
    amd_energy_meters,
    jetson_meters,
    power_meters,
)
from joulelab.sensors.hwmon_devices import Device, Found, Meter, list_devices
from joulelab.sensors.hwmon_gpus import AMD_DRIVER, GPU_DRIVERS, Gpu, amd_meters, intel_meters
from joulelab.sensors.hwmon_pace import ReadRate, interval_s, polling_cost_s, read_rate
from joulelab.sensors.interfaces import system_root
from joulelab.sensors.nvml_binding import NvmlError, within
from joulelab.sensors.nvml_channels import update_periods_s
from joulelab.sensors.plausibility import implausible, max_power_w
from joulelab.sensors.sensor import Absence, Channel, Gap, Quantity, Reading
from joulelab.sensors.sysfs_files import failure_reason, read_number, read_number_or_none
from joulelab.sensors.visible_devices import GpuIdentity, visible_gpus

ANSWER_S = 10.0
MAX_READ_NS = 200_000_000
"""A value that took longer has no time: the driver may have read it at any moment."""
SEARCH_NS = 500_000_000
"""A device that is gone is looked for this often."""
TRIES, TRY_APART_S = 3, 0.01
OBSERVE_S = 0.3
"""It delays the other sensors: enough for four values that change each 75 ms."""
EARLY_APART_NS = 10_000_000
DISTINCT_VALUES = 4
GONE = frozenset({errno.ENOENT, errno.ENODEV, errno.ENXIO, errno.ENOTDIR})
DRIVERS = (*GPU_DRIVERS, *JETSON_DRIVERS, "power_meter", "amd_energy", "ibmpowernv")
AMD_VARIABLES = ("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")
NVIDIA_VENDOR, DISPLAY_CLASS = "0x10de", "0x03"


class HwmonSensor:
    """Files of some hwmon devices.

    Their directories are held open: a number that changes does not matter, and a number that
    another device takes over is not mistaken for the first. A device that is gone is a gap until it
    is found again, by its identity.

    Attributes:
        addresses: The PCI addresses of the components that are, or are part of, a GPU.
    """

    def __init__(
        self, meters: Sequence[Meter], interval_s: float, root: Path, early: Sequence[Reading] = ()
    ) -> None:
        self.channels: Sequence[Channel] = [meter.channel for meter in meters]
        self.interval_s = interval_s
        self._meters = meters
        self._root = root
        self._early = list(early)
        self._directories = {one: _open(one.path) for one in {meter.device for meter in meters}}
        self._searched_ns = dict.fromkeys(self._directories, 0)
        self.addresses = {
            meter.channel.component: meter.device.identity
            for meter in meters
            if meter.device.driver in GPU_DRIVERS
        }

    def read(self) -> list[Reading | Gap]:
        """Read every file; at first, return what was read while the meters were observed, too."""
        readings: list[Reading | Gap] = [*self._early]
        self._early = []
        for position, meter in enumerate(self._meters):
            before_ns = time.monotonic_ns()
            try:
                value = meter.scale
                for file in meter.files:
                    value *= read_number(file, self._directories[meter.device])
            except (OSError, ValueError) as error:
                readings.append(Gap(before_ns, position, failure_reason(error)))
                if isinstance(error, OSError) and error.errno in GONE:
                    self._search(meter.device, before_ns)
                continue
            took_ns = time.monotonic_ns() - before_ns
            if took_ns > MAX_READ_NS:
                reason = f"the driver answered after {duration(took_ns * 1e-9)}"
                readings.append(Gap(before_ns, position, reason))
            elif value == 0 and meter.needs_power:
                readings.append(Gap(before_ns, position, "the driver shows 0 W"))
            else:
                readings.append(Reading(before_ns + took_ns // 2, position, value))
        return readings

    def without(self, components: Collection[str]) -> HwmonSensor:
        """Return a sensor that leaves some components out, in place of this one."""
        self.close()
        kept = [one for one in self._meters if one.channel.component not in components]
        return HwmonSensor(kept, self.interval_s, self._root)

    def close(self) -> None:
        """Close the directories."""
        for directory in self._directories.values():
            os.close(directory)
        self._directories.clear()

    def _search(self, device: Device, now_ns: int) -> None:
        """Open the directory that a device has now."""
        if now_ns < self._searched_ns[device]:
            return
        self._searched_ns[device] = now_ns + SEARCH_NS
        for found in list_devices(self._root, [device.driver]):
            if found.identity == device.identity:
                with contextlib.suppress(OSError):
                    lost, self._directories[device] = self._directories[device], _open(found.path)
                    os.close(lost)


def discover_hwmon(
    kinds: Collection[str], found: Collection[str], *, root: Path | None = None
) -> tuple[list[HwmonSensor], list[Absence]]:
    """Find the hwmon meters of this machine.

    Args:
        kinds: Kinds of components to measure, for example ``gpu``.
        found: Components that other sources measure: GPUs are numbered after theirs.
        root: Another root for ``/sys``.

    Returns:
        Sensors, and what is absent; nothing of either on a machine without such drivers.
    """
    try:
        return within(ANSWER_S, partial(_discover, kinds, found, root or system_root()))
    except (NvmlError, OSError) as error:
        reason = failure_reason(error) if isinstance(error, OSError) else str(error)
        return [], [Absence(kind, "hwmon", reason) for kind in kinds]


def _discover(
    kinds: Collection[str], found: Collection[str], root: Path
) -> tuple[list[HwmonSensor], list[Absence]]:
    devices = list_devices(root, DRIVERS)
    if not devices:
        return [], []
    first = _gpus_of_others(found, root)
    gpus = _number_gpus(devices, first)
    by_driver = {name: [one for one in devices if one.driver == name] for name in DRIVERS}
    jetson = [one for name in JETSON_DRIVERS for one in by_driver[name]]
    count = first + len(gpus)
    meters: list[Meter] = []
    absent: list[Absence] = []
    for some, missing in (
        _visible_amd_meters([gpu for gpu in gpus if gpu.device.driver == AMD_DRIVER]),
        intel_meters([gpu for gpu in gpus if gpu.device.driver != AMD_DRIVER]),
        # No Jetson has a GPU of AMD or Intel, but their machines may have such a chip on the board.
        jetson_meters(jetson, f"gpu:{count if gpus else 0}"),
        acpi_meters(by_driver["power_meter"], count),
        amd_energy_meters(by_driver["amd_energy"]),
        power_meters(by_driver["ibmpowernv"], count),
    ):
        meters += some
        absent += missing
    meters = [one for one in meters if _is_wanted(one.channel.component, kinds)]
    absent = [one for one in absent if _is_wanted(one.component, kinds)]
    readable = []
    for meter in meters:
        refusal = _refusal(meter)
        if refusal is None:
            readable.append(meter)
        elif meter.channel.gives_energy:
            absent.append(refusal)
    return _sensors(readable, found, root), absent


def list_driver_gpus(found: Collection[str]) -> list[Gpu]:
    """List the GPUs of AMD and Intel that this process may use.

    Args:
        found: Components of other GPUs: these are numbered after theirs.
    """

    def gpus() -> list[Gpu]:
        root = system_root()
        devices = list_devices(root, GPU_DRIVERS)
        numbered = _number_gpus(devices, _gpus_of_others(found, root) if devices else 0)
        amd = [one for one in numbered if one.device.driver == AMD_DRIVER]
        hidden = [one for one in amd if one not in _visible_amd_gpus(amd)[0]]
        return [one for one in numbered if one not in hidden]

    try:
        return within(ANSWER_S, gpus)
    except (NvmlError, OSError):
        return []


def _number_gpus(devices: Sequence[Device], first: int) -> list[Gpu]:
    gpus = (one for one in devices if one.driver in GPU_DRIVERS)
    return [Gpu(device, number) for number, device in enumerate(gpus, first)]


def _kind(component: str) -> str:
    return component.partition(":")[0]


def _is_wanted(component: str, kinds: Collection[str]) -> bool:
    kind = _kind(component)
    return not {kind, *kind.split("+")}.isdisjoint(kinds)


def _gpus_of_others(found: Collection[str], root: Path) -> int:
    """Count NVIDIA's GPUs, also those that this process may not use."""
    numbers = [
        int(number)
        for kind, _, number in (component.partition(":") for component in found)
        if kind == "gpu" and number.isdigit()
    ]
    cards = [
        path.parent
        for path in root.glob("bus/pci/devices/*/vendor")
        if path.read_text().strip() == NVIDIA_VENDOR
        and (path.parent / "class").exists()
        and (path.parent / "class").read_text().startswith(DISPLAY_CLASS)
    ]
    return max(len(cards), max(numbers, default=-1) + 1)


def _visible_amd_meters(gpus: Sequence[Gpu]) -> Found:
    """Return the meters of the GPUs that AMD's variables allow."""
    meters, absent = amd_meters(gpus)
    visible, reasons = _visible_amd_gpus(gpus)
    allowed = {gpu.component for gpu in visible}
    others = {gpu.component for gpu in gpus} - allowed
    hint = f"unset {' and '.join(AMD_VARIABLES)}"
    return (
        [
            one
            for one in meters
            if one.channel.component not in others or allowed & {*one.channel.contains}
        ],
        [one for one in absent if one.component not in others]
        + [Absence("gpu", AMD_DRIVER, reason, hint) for reason in reasons if gpus],
    )


def _visible_amd_gpus(gpus: Sequence[Gpu]) -> tuple[list[Gpu], list[str]]:
    """Return the GPUs that AMD's variables allow, and why they allow none.

    ``HIP_VISIBLE_DEVICES`` counts those that ``ROCR_VISIBLE_DEVICES`` leaves.
    """
    visible = list(gpus)
    reasons = []
    for variable in AMD_VARIABLES:
        identities = [
            GpuIdentity(index, f"GPU-{gpu.device.text('unique_id')}")
            for index, gpu in enumerate(visible)
        ]
        chosen = visible_gpus(os.environ.get(variable), identities, variable=variable)
        visible = [visible[index] for index in chosen.indices]
        reasons += [chosen.reason] if chosen.reason else []
    return visible, reasons


def _refusal(meter: Meter) -> Absence | None:
    """Explain why a meter gives no value that can be believed; ``None`` if it gives one."""
    channel, directory = meter.channel, meter.device.path
    for attempt in range(TRIES):
        if attempt:
            time.sleep(TRY_APART_S)
        value, hint = meter.scale, ""
        try:
            for file in meter.files:
                value *= read_number(directory / file)
        except (OSError, ValueError) as error:
            reason = f"cannot read {directory / file}: {failure_reason(error)}"
            if isinstance(error, PermissionError) and error.errno != errno.EACCES:
                # amdgpu does not wake up a GPU that sleeps: it has power when it is used.
                return None
            if isinstance(error, PermissionError):
                hint = f"run as root, or until reboot: sudo chmod a+r {directory / file}"
        else:
            if channel.quantity is not Quantity.POWER or value <= max_power_w(channel):
                return None
            reason = implausible(channel, value)
    return Absence(channel.component, channel.source, reason, hint)


class _Watched:
    """A meter while its update period is observed; what it shows is the first of the recording."""

    def __init__(self, meter: Meter) -> None:
        self.meter = meter
        self.values: set[float] = set()
        self.readings: list[tuple[int, float]] = []
        self._last = 0.0

    def read(self) -> float:
        """Return the value, or what it was if it cannot be read."""
        numbers = [read_number_or_none(self.meter.device.path / one) for one in self.meter.files]
        known = [one for one in numbers if one is not None]
        if len(known) == len(numbers):
            now_ns, self._last = time.monotonic_ns(), self.meter.scale * math.prod(known)
            self.values.add(self._last)
            if not self.readings or now_ns - self.readings[-1][0] >= EARLY_APART_NS:
                self.readings.append((now_ns, self._last))
        return self._last

    def set_period(self, period_s: float | None) -> None:
        """Set the observed period. Power that steps between a few levels does not reveal it."""
        if period_s and len(self.values) > DISTINCT_VALUES:
            # Readings show whether a mean over a stated window is renewed within it.
            period_s = max(period_s, self.meter.channel.window_s)
            channel = replace(self.meter.channel, update_period_s=period_s)
            self.meter = replace(self.meter, channel=channel)


def _sensors(meters: Sequence[Meter], found: Collection[str], root: Path) -> list[HwmonSensor]:
    """Observe the meters, and divide them between sensors: by driver, and by how often to read."""
    watched = [_Watched(one) for one in meters]
    power = [one for one in watched if one.meter.channel.gives_energy]
    periods_s = update_periods_s([one.read for one in power], OBSERVE_S)
    for one, period_s in zip(power, periods_s, strict=True):
        one.set_period(period_s)
    parts = {*found, *(one.meter.channel.component for one in power)}
    groups: dict[tuple[str, ReadRate], list[_Watched]] = {}
    for one in watched:
        group = one.meter.device.driver, read_rate(one.meter.channel, parts)
        groups.setdefault(group, []).append(one)
    cost_s = polling_cost_s(
        [one.meter for (_, rate), some in groups.items() if rate is ReadRate.POWER for one in some]
    )
    sensors = []
    for (_, rate), some in groups.items():
        own = [one.meter for one in some]
        early = [
            Reading(t_ns, position, value)
            for position, one in enumerate(some)
            for t_ns, value in one.readings
            if value or not one.meter.needs_power
        ]
        sensors.append(HwmonSensor(own, interval_s(own, rate, cost_s), root, early))
    return sensors


def _open(directory: Path) -> int:
    return os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
