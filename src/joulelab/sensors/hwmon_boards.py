"""Processors, boards and whole machines of hwmon drivers: of which component each power is.

Linux: Documentation/hwmon/ina3221.rst, acpi_power_meter.rst, amd_energy.rst, ibmpowernv.rst.

- ``ina3221``: a Jetson's rails. The rail at the module's input contains all others.
- ``power_meter``: ACPI meters. On NVIDIA Grace, of each socket's module, which contains the
  processor ("Grace"), which contains its cores ("CPU"), its rest ("SysIO") and its memory;
  elsewhere of the whole machine.
- ``amd_energy``: counters of sockets, which contain those of their cores.
- ``ibmpowernv``: POWER's processors, their memory and their GPUs, and the whole machine.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace

from joulelab.sensors.hwmon_devices import MICRO, MILLI, Device, Found, Meter, polled_channel
from joulelab.sensors.hwmon_gpus import part_of
from joulelab.sensors.rapl import GAIN_UNCERTAINTY, MODELLED_GAIN_UNCERTAINTY
from joulelab.sensors.sensor import Absence, Quantity

EVERYTHING: tuple[str, ...] = (
    "gpu", "cpu", "dram", "soc", "socket", "module", "card", "rail", "cpu+gpu",
)  # fmt: skip
"""Kinds of components within a machine."""
JETSON_DRIVERS = ("ina3221", "ina3221x")
AMD_WRAP_J = 2.0**16
"""32 bits in steps of 2^-16 J (15.3 uJ). Linux 5.8's driver shows the register, later ones add up.
"""
SHUNT_OHM = 0.005
INA_STEP_V, INA_OFFSET_V, INA_GAIN_UNCERTAINTY = 40e-6, 80e-6, 0.01
INA_RANGES_V = 0.1638, 26.0
"""Texas Instruments, INA3221 data sheet (SBOS576): step and largest offset of the shunt's voltage,
and the ranges of the shunt's and the rail's. The gain is within 0.25 %, and shunts are commonly
within 1 %; the drop in the traces counts too. 5 milliohms is what Jetsons have where the driver
does not say it."""
LEAST_ACPI_UNCERTAINTY = 0.02
"""Some firmware states 100 % accuracy, which no meter has."""
ACPI_INTERVAL_S = 1.0


def jetson_meters(devices: Sequence[Device], own_gpu: str = "gpu:0") -> Found:
    """Return the power of a Jetson's rails, from the layouts of JetPack 4 and later.

    ``own_gpu`` is the component of the GPU that is on the chip.
    """
    rails = [rail for device in devices for rail in _rails(device)]
    names = {label for label, *_ in rails}
    has_input = any(_is_input(label) for label in names)
    meters: list[Meter] = []
    absent: list[Absence] = []
    taken: set[str] = set()
    for label, device, files, scale, number in rails:
        component, inside = _rail_component(label, names, own_gpu)
        if component.startswith("rail:") and has_input:
            # Where it belongs is not known, and the input contains it.
            continue
        if component in taken:
            component, inside = f"rail:{label}", ()
        taken.add(component)
        volts, ohm = _rail_volts(device, number), _shunt_ohm(device, number)
        period_s = (device.number("update_interval") or 0) * MILLI
        channel = polled_channel(
            component,
            f"ina3221.{label}",
            gain_uncertainty=INA_GAIN_UNCERTAINTY,
            resolution=INA_STEP_V / ohm * volts,
            offset_uncertainty_w=INA_OFFSET_V / ohm * volts / math.sqrt(3),
            max_power_w=math.prod(INA_RANGES_V) / ohm,
            contains=inside,
            window_s=period_s,
            # Another measurement of an integrated GPU, as by NVML, is preferred.
            priority=4,
        )
        if period_s:
            channel = replace(channel, update_period_s=period_s)
        meters.append(Meter(channel=channel, device=device, files=files, scale=scale))
    return meters, absent


def _rails(device: Device) -> list[tuple[str, Device, tuple[str, ...], float, int]]:
    """Return label, device, files, scale and number of each connected rail.

    JetPack 4's driver counts from 0. The other's channel 7 is the sum of shunt voltages.
    """
    is_old = device.path.name.startswith("iio:")
    rails = []
    for number in (0, 1, 2) if is_old else (1, 2, 3):
        names = (
            [f"in_power{number}_input"] if is_old else [f"in{number}_input", f"curr{number}_input"]
        )
        files = [file for name in names if (file := device.find(name))]
        label = device.text(f"rail_name_{number}" if is_old else f"in{number}_label")
        is_off = label.upper() in ("", "NC") or device.text(f"in{number}_enable") == "0"
        if not is_off and len(files) == len(names):
            rails.append((label, device, tuple(files), MILLI if is_old else MICRO, number))
    return rails


def _rail_volts(device: Device, number: int) -> float:
    volts = device.number(f"in{number}_input") or device.number(f"in_voltage{number}_input")
    return (volts or 5000) * MILLI


def _shunt_ohm(device: Device, number: int) -> float:
    return (device.number(f"shunt{number}_resistor") or 0) * MICRO or SHUNT_OHM


def _is_input(label: str) -> bool:
    return re.fullmatch(r"(VDD|VIN|POM_5V|POM|SYS)_?(IN|MUX)|VIN", label.upper()) is not None


_RAIL_WORDS = (
    (r"CPU", "cpu:0"),
    (r"V?DDR.*|VDDQ.*|DRAM", "dram:0"),
    (r"SOC|CORE", "soc"),
)


def _rail_component(
    label: str, names: set[str], own_gpu: str = "gpu:0"
) -> tuple[str, tuple[str, ...]]:
    """Return a rail's component, and what it contains.

    Combined rails count for the unit that uses most of them; one of processor and GPU is both.

    Example:
        >>> _rail_component("VDD_CPU_CV", set()), _rail_component("VDD_CPU_GPU_CV", set())
        (('cpu:0', ()), ('cpu+gpu', ('cpu:0', 'gpu:0')))
    """
    if _is_input(label):
        # A developer kit's multiplexer feeds the board, and through it the module.
        if "VDD_MUX" in names and label != "VDD_MUX":
            return "module:0", tuple(kind for kind in EVERYTHING if kind != "module")
        return "node", EVERYTHING
    words = re.split(r"[\W_]+", label.upper())
    if {"CPU", "GPU"} <= set(words):
        return "cpu+gpu", ("cpu:0", own_gpu)
    if "GPU" in words:
        return own_gpu, ()
    for pattern, component in _RAIL_WORDS:
        if any(re.fullmatch(pattern, word) for word in words):
            return component, ()
    # NVIDIA, Jetson Linux Developer Guide: on an AGX Orin the memory's rail comes from this one.
    return f"rail:{label}", ("dram",) if label == "VIN_SYS_5V0" else ()


_ACPI_PARTS = {
    "module": "module", "grace": "socket", "total": "socket", "cpu": "cpu", "sysio": "soc",
    "soc": "soc", "dram": "dram", "gpu": "card",
}  # fmt: skip
_ACPI_LABEL = re.compile(
    r"\b(module|grace|total|cpu|sysio|soc|dram|gpu)\b.*\bsocket\s*(\d+)", re.IGNORECASE
)


def acpi_meters(devices: Sequence[Device], gpus: int) -> Found:
    """Return the power of ACPI's meters: of parts of NVIDIA Grace, or of the whole machine."""
    meters: list[Meter] = []
    absent: list[Absence] = []
    labels = {device: device.text("power1_oem_info") for device in devices}
    matches = {device: _ACPI_LABEL.search(label) for device, label in labels.items()}
    sockets = {int(match[2]) for match in matches.values() if match}
    taken: set[str] = set()
    for device in devices:
        match = matches[device]
        component, inside = "node", EVERYTHING
        if match:
            socket = int(match[2])
            component = f"{_ACPI_PARTS[match[1].lower()]}:{socket}"
            chip = (f"cpu:{socket}", f"soc:{socket}", f"dram:{socket}")
            own_gpus = part_of(gpus, len(sockets), socket)
            module = (f"socket:{socket}", f"card:{socket}", *chip, *own_gpus)
            inside = {"module": module, "socket": chip, "card": own_gpus}.get(
                component.partition(":")[0], ()
            )
        file = device.find("power1_average") or device.find("power1_input")
        if file is None or device.text("power1_is_battery") == "1":
            continue
        if component in taken or (sockets and not match):
            reason = f"it is unknown what the meter {labels[device]!r} at {device.path} measures"
            absent.append(Absence("node", "power_meter", reason))
            continue
        taken.add(component)
        interval_s = (device.number("power1_average_interval") or 0) * MILLI or ACPI_INTERVAL_S
        accuracy = re.match(r"[\d.]+", device.text("power1_accuracy"))
        wrong = 1 - float(accuracy[0]) / 100 if accuracy else math.sqrt(3) * GAIN_UNCERTAINTY
        channel = polled_channel(
            component,
            f"power_meter.{labels[device] or 'power1_average'}",
            gain_uncertainty=max(wrong / math.sqrt(3), LEAST_ACPI_UNCERTAINTY),
            update_period_s=interval_s,
            window_s=interval_s,
            unverified_window=True,
            contains=inside,
            priority=2,
        )
        meters.append(Meter(channel=channel, device=device, files=(file,), scale=MICRO))
    return meters, absent


def amd_energy_meters(devices: Sequence[Device]) -> Found:
    """Return the counters of AMD's sockets; those of cores are inside them."""
    meters: list[Meter] = []
    for device, file, label in _labelled(devices, "energy"):
        if socket := re.fullmatch(r"Esocket(\d+)", label):
            channel = polled_channel(
                f"cpu:{int(socket[1])}",
                f"amd_energy.{label}",
                Quantity.ENERGY,
                gain_uncertainty=MODELLED_GAIN_UNCERTAINTY,
                wrap=AMD_WRAP_J,
                note="includes its cores",
                # RAPL reads the same register.
                priority=1,
            )
            meters.append(Meter(channel=channel, device=device, files=(file,), scale=MICRO))
    return meters, []


_POWER_KINDS = {"": "cpu", "memory": "dram", "gpu": "card"}


def power_meters(devices: Sequence[Device], gpus: int) -> Found:
    """Return the counters and the power of POWER's chips, their memory and GPUs, and the machine.

    Labels are those of OPAL (skiboot, hw/occ-sensor.c). A chip's ``Vdd`` and ``Vdn`` are inside it.
    """
    found = [
        (quantity, device, file, match)
        for quantity, kind in ((Quantity.ENERGY, "energy"), (Quantity.POWER, "power"))
        for device, file, label in _labelled(devices, kind)
        if (match := re.fullmatch(r"(system)|chip (\d+)\s*(memory|gpu|)", label.lower()))
    ]
    chips = sorted({int(match[2]) for *_, match in found if match[2]})
    meters = []
    for quantity, device, file, match in found:
        component, inside = "node", EVERYTHING
        if match[2]:
            number = chips.index(int(match[2]))
            component = f"{_POWER_KINDS[match[3]]}:{number}"
            inside = part_of(gpus, len(chips), number) if match[3] == "gpu" else ()
        channel = polled_channel(
            component,
            f"ibmpowernv.{match[0].replace(' ', '-')}",
            quantity,
            gain_uncertainty=GAIN_UNCERTAINTY,
            contains=inside,
            priority=1 if quantity is Quantity.ENERGY else 2,
        )
        meters.append(Meter(channel=channel, device=device, files=(file,), scale=MICRO))
    return meters, []


def _labelled(devices: Sequence[Device], kind: str) -> list[tuple[Device, str, str]]:
    """Return device, file and label of each ``<kind>N_input``."""
    pattern = re.compile(rf"{kind}(\d+)_input")
    return [
        (device, match[0], device.text(f"{kind}{match[1]}_label"))
        for device in devices
        for name in sorted(path.name for path in device.path.iterdir())
        if (match := pattern.fullmatch(name))
    ]
