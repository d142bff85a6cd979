"""GPUs of AMD's and Intel's drivers: their power and energy, by hwmon.

Linux: Documentation/gpu/amdgpu/thermal.rst; Documentation/ABI/testing/sysfs-driver-intel-xe-hwmon
and sysfs-driver-intel-i915-hwmon.

- ``amdgpu``: of an MI250's two dies one shows the power of both, the other 0 or nothing. On a
  processor with graphics the power is that of the whole chip.
- ``xe``, ``i915``: counters of the card and, inside it, of the GPU's package.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass, replace

from joulelab.sensors.hwmon_devices import MICRO, MILLI, Device, Found, Meter, polled_channel
from joulelab.sensors.nvml_accuracy import GAIN_UNCERTAINTY
from joulelab.sensors.plausibility import with_gpu_bounds
from joulelab.sensors.sensor import Absence, Quantity
from joulelab.sensors.sysfs_files import read_number

AMD_DRIVER = "amdgpu"
GPU_DRIVERS = (AMD_DRIVER, "xe", "i915")
NOT_SUPPORTED = frozenset({errno.ENODATA, errno.EOPNOTSUPP, errno.EINVAL})
INTEL_WRAP_J = 2.0**18
"""The hardware's 32-bit register in steps of 2^-14 J. The driver adds up its differences when it is
read: it loses as much if it is not read for so long."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU of a driver of this family; ``number`` counts all GPUs of the machine."""

    device: Device
    number: int

    @property
    def component(self) -> str:
        """``"gpu:N"``."""
        return f"gpu:{self.number}"

    @property
    def model(self) -> str:
        """The product's name where the driver shows it, otherwise its PCI identifiers."""
        if name := self.device.text("product_name"):
            return name
        maker = "AMD" if self.device.driver == AMD_DRIVER else "Intel"
        numbers = (self.device.text(one).removeprefix("0x") for one in ("vendor", "device/device"))
        return f"{maker} GPU {':'.join(numbers)}".removesuffix(" :")

    @property
    def power_limits_w(self) -> tuple[float | None, float | None]:
        """Its power limit and the limit's default; ``None`` where the driver shows none."""
        names = (("power1_cap", "power1_max"), ("power1_cap_default", "power1_rated_max"))
        found = (filter(None, (self.device.number(one) for one in some)) for some in names)
        set_w, default_w = (next((value * MICRO for value in some), None) for some in found)
        return set_w, default_w


def part_of(gpus: int, parts: int, number: int) -> tuple[str, ...]:
    """Name the GPUs that belong to one of several equal parts of a machine, in their order.

    Example:
        >>> part_of(8, 4, 1), part_of(0, 4, 1), part_of(3, 2, 0)
        (('gpu:2', 'gpu:3'), ('gpu:1',), ('gpu',))
    """
    each = gpus // parts or 1
    if gpus > parts and gpus % parts:
        return ("gpu",)
    return tuple(f"gpu:{number * each + k}" for k in range(each))


def amd_meters(gpus: Sequence[Gpu]) -> Found:
    """Return the power and the telemetry of AMD's GPUs, by ascending PCI address."""
    files = [_power_file(gpu.device) for gpu in gpus]
    meters: list[Meter] = []
    absent: list[Absence] = []
    shared: dict[str, list[str]] = {}
    for position, (gpu, file) in enumerate(zip(gpus, files, strict=True)):
        meters += _amd_telemetry(gpu)
        if file is not None:
            meters.append(_amd_power(gpu, file))
            continue
        # Two dies of a module follow each other.
        near = (position ^ 1, *range(position - 1, -1, -1), *range(position + 1, len(gpus)))
        model = gpu.device.text("device/device")
        others = (
            gpus[k].component
            for k in near
            if k < len(gpus) and files[k] and gpus[k].device.text("device/device") == model
        )
        if other := next(others, None):
            shared.setdefault(other, []).append(gpu.component)
            reason = f"its meter is that of {other}, which measures both dies of the module"
            absent.append(Absence(gpu.component, AMD_DRIVER, reason))
        else:
            reason = "amdgpu shows no power1_average or power1_input for this GPU, or 0 W"
            hint = "a newer kernel may; otherwise `pip install amdsmi` where ROCm is installed"
            absent.append(Absence(gpu.component, AMD_DRIVER, reason, hint))
    return [_with_dies(meter, shared) for meter in meters], absent


def _power_file(device: Device) -> str | None:
    """Return the file that shows the GPU's power; ``None`` if none does, or it shows 0."""
    for name in ("power1_average", "power1_input"):
        if file := device.find(name):
            try:
                if read_number(device.path / file) > 0:
                    return file
            except OSError as error:
                if error.errno not in NOT_SUPPORTED:
                    return file
            except ValueError:
                return file
    return None


def _amd_power(gpu: Gpu, file: str) -> Meter:
    limits_w = [(gpu.device.number(f"power1_{name}") or 0) * MICRO for name in ("cap", "cap_max")]
    channel = polled_channel(
        gpu.component,
        f"amdgpu.{file.rpartition('/')[2]}",
        gain_uncertainty=GAIN_UNCERTAINTY,
    )
    # Only chips with a processor have a northbridge.
    if gpu.device.text("in1_label") == "vddnb":
        note = "the whole chip: processor, graphics and memory controller"
        inside = ("cpu", gpu.component)
        channel = replace(channel, component="soc", contains=inside, note=note)
    else:
        channel = with_gpu_bounds(channel, max(limits_w))
    return Meter(channel=channel, device=gpu.device, files=(file,), scale=MICRO, needs_power=True)


def _with_dies(meter: Meter, shared: dict[str, list[str]]) -> Meter:
    dies = shared.get(meter.channel.component)
    if not dies or not meter.channel.gives_energy:
        return meter
    note = f"the meter of a module of several dies: includes {', '.join(dies)}"
    return replace(meter, channel=replace(meter.channel, contains=tuple(dies), note=note))


_AMD_TELEMETRY = (
    (Quantity.UTILIZATION, "gpu_busy_percent", 1.0),
    (Quantity.MEMORY_UTILIZATION, "mem_busy_percent", 1.0),
    (Quantity.MEMORY_USED, "mem_info_vram_used", 1.0),
    (Quantity.TEMPERATURE, "temp1_input", MILLI),
    (Quantity.SM_CLOCK, "freq1_input", 1.0),
    (Quantity.MEMORY_CLOCK, "freq2_input", 1.0),
)


def _amd_telemetry(gpu: Gpu) -> list[Meter]:
    meters = []
    for quantity, name, scale in _AMD_TELEMETRY:
        if file := gpu.device.find(name):
            channel = polled_channel(
                gpu.component, f"amdgpu.{name}", quantity, update_period_s=1.0, resolution=scale
            )
            meters.append(Meter(channel=channel, device=gpu.device, files=(file,), scale=scale))
    return meters


def intel_meters(gpus: Sequence[Gpu]) -> Found:
    """Return the counters of Intel's GPUs: of the package, and of the card that contains it."""
    meters: list[Meter] = []
    absent: list[Absence] = []
    for gpu in gpus:
        device = gpu.device
        usual = ("card", "pkg") if device.driver == "xe" else ("pkg", "card")
        counters = {}
        for number, name in enumerate(usual, 1):
            if file := device.find(f"energy{number}_input"):
                counters[device.text(f"energy{number}_label").lower() or name] = file
        if not counters:
            reason = f"{device.driver} shows no energy1_input for this GPU"
            hint = "discrete GPUs have it since Linux 6.2 (i915) and 6.8 (xe)"
            absent.append(Absence(gpu.component, device.driver, reason, hint))
            continue
        own = counters.get("pkg") or next(iter(counters.values()))
        limits = [f"power{k}_{name}" for k in (1, 2) for name in ("max", "rated_max", "cap")]
        limit_w = max((device.number(name) or 0) * MICRO for name in limits)
        for file in counters.values():
            inner = file == own
            component = gpu.component if inner else f"card:{gpu.number}"
            channel = polled_channel(
                component,
                f"{device.driver}.{file}",
                Quantity.ENERGY,
                gain_uncertainty=GAIN_UNCERTAINTY,
                wrap=INTEL_WRAP_J,
                contains=() if inner else (gpu.component,),
            )
            channel = with_gpu_bounds(channel, limit_w)
            meters.append(Meter(channel=channel, device=device, files=(file,), scale=MICRO))
    return meters, absent
