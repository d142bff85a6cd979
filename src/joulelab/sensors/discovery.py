"""Discovery of the sensors that this process may use, and why the others are absent."""

from __future__ import annotations

import importlib
import json
import os
import platform
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from statistics import fmean
from typing import NamedTuple, TypeGuard

import psutil

from joulelab.errors import UserError, nearest
from joulelab.sensors.amd_smi import discover_amd_smi
from joulelab.sensors.apple import discover_apple
from joulelab.sensors.cray import discover_cray
from joulelab.sensors.estimates import CpuEstimate, DramEstimate, cpu_model, dram_power
from joulelab.sensors.host import HostSensor
from joulelab.sensors.host_hardware import chip_tdp_w, cpu_limit, known_dimms, processors
from joulelab.sensors.hwmon import HwmonSensor, discover_hwmon
from joulelab.sensors.meters import discover_meters
from joulelab.sensors.nvml import NO_GPU, discover_gpus
from joulelab.sensors.plausibility import implausible, is_plausible, with_thread_bound
from joulelab.sensors.rapl import discover_rapl
from joulelab.sensors.sensor import (
    Absence,
    Channel,
    Discovery,
    Gap,
    Quantity,
    Reading,
    Sensor,
    SensorEvent,
)
from joulelab.sensors.visible_devices import environment_selection
from joulelab.validation import InvalidData, decode

MEASURABLE = (
    "gpu", "cpu", "dram", "soc", "socket", "rail", "module", "card", "psu", "plug", "node",
)  # fmt: skip
"""The kinds of components that have a power."""
HARDWARE = (*MEASURABLE, "host")
"""The sensors to discover by default."""
KNOWN = (*HARDWARE, "simulated")
ENVIRONMENT = "JOULELAB_SENSORS"
X86 = ("x86_64", "amd64", "i686", "i386")
SETTLE_S = 0.25
"""Time between two readings, so that counters and utilisations have changed."""


def discover(request: Sequence[str] | None = None) -> Discovery:
    """Open the sensors of this machine that this process may use.

    CPU and DRAM energy that cannot be measured is estimated; the source that would have measured it
    is then listed as absent, with the reason.

    Args:
        request: Kinds of components (:data:`HARDWARE`); ``gpu:2`` for one GPU by its index;
            ``simulated`` or ``simulated:SPEC`` for the simulated machine;
            ``package.module:factory`` for a callable that returns a sensor or a list of sensors.
            ``None`` reads ``$JOULELAB_SENSORS`` (names separated by commas, or one entry that
            starts with ``simulated:``), and otherwise takes everything that the hardware has.

    Raises:
        UserError: A name is unknown, or a factory cannot be imported or returns no sensor.
    """
    names = list(dict.fromkeys(_from_environment() if request is None else request))
    check_names(names)
    chosen_gpus = [name for name in names if _is_gpu(name)]
    asked = {*names, *(["gpu"] if chosen_gpus else [])}
    kinds = [kind for kind in MEASURABLE if kind in asked]
    sensors: list[Sensor] = []
    absent: list[Absence] = []
    for family in FAMILIES if kinds else ():
        found, missing = family(kinds, _addresses(sensors))
        sensors += found
        absent += missing
    if chosen_gpus and "gpu" not in names:
        sensors, absent = _chosen(sensors, absent, chosen_gpus)
    _bound_from_below(sensors)
    measured = {component.partition(":")[0] for component in _components(sensors)}
    if "gpu" in measured or any(one.component.startswith("gpu:") for one in absent):
        absent = [one for one in absent if one.reason != NO_GPU]
    sensors += _estimates([kind for kind in kinds if kind not in measured])
    if "host" in names:
        sensors.append(HostSensor())
    for name in names:
        if name == "simulated" or name.startswith("simulated:"):
            sensors += _simulated(name)
        elif name not in HARDWARE and not _is_gpu(name):
            sensors += _from_factory(name)
    return Discovery(tuple(sensors), tuple(absent))


class ChannelNow(NamedTuple):
    """A channel's present value (power for an energy channel), or why there is none."""

    channel: Channel
    value: float | None
    reason: str


def read_moment(
    sensors: Sequence[Sensor], duration_s: float
) -> list[list[Reading | Gap | SensorEvent]]:
    """Return what each sensor gives within a moment, :data:`SETTLE_S` apart."""
    found = [list(sensor.read()) for sensor in sensors]
    until_s = time.monotonic() + duration_s
    while time.monotonic() < until_s:
        time.sleep(SETTLE_S)
        for sensor, readings in zip(sensors, found, strict=True):
            readings.extend(sensor.read())
    return found


def present_values(
    sensors: Sequence[Sensor], readings: Sequence[Sequence[Reading | Gap | SensorEvent]]
) -> list[ChannelNow]:
    """Return the present value of every channel from what the sensors gave."""
    found = [
        (channel, [one for one in given if _is_of(one, position)])
        for sensor, given in zip(sensors, readings, strict=True)
        for position, channel in enumerate(sensor.channels)
    ]
    used = _used([one for one in found if one[0].quantity is Quantity.UTILIZATION])
    return [
        ChannelNow(channel, *_now(channel, own, used.get(_used_as(channel), 0.0)))
        for channel, own in found
    ]


def _used(found: Sequence[tuple[Channel, Sequence[Reading | Gap]]]) -> dict[str, float]:
    """Return the mean use of each component whose utilisation was read: GPUs, and hardware threads.

    The first of several readings is of a time before.
    """
    used = {}
    for channel, own in found:
        shares = [one.value / 100 for one in own if isinstance(one, Reading)]
        if shares:
            threads = psutil.cpu_count() or 1 if channel.component == "host" else 1
            used[channel.component] = threads * fmean(shares[1:] or shares)
    return used


def _used_as(channel: Channel) -> str:
    return channel.component if channel.component.startswith("gpu") else "host"


def _is_of(one: Reading | Gap | SensorEvent, position: int) -> TypeGuard[Reading | Gap]:
    return not isinstance(one, SensorEvent) and one.channel == position


def _now(channel: Channel, found: Sequence[Reading | Gap], use: float) -> tuple[float | None, str]:
    readings = [one for one in found if isinstance(one, Reading)]
    if not readings:
        gaps = [one.reason for one in found if isinstance(one, Gap)]
        return None, gaps[-1] if gaps else "no reading yet"
    if channel.quantity is not Quantity.ENERGY:
        return _plausible(channel, readings[-1].value, use)
    first, last = readings[0], readings[-1]
    duration_s = (last.t_ns - first.t_ns) / 1e9
    if not duration_s or last.value < first.value:
        return None, "a counter: its power shows in a recording"
    if last.value == first.value:
        return None, f"the counter did not change for {duration_s:.2g} s"
    return _plausible(channel, (last.value - first.value) / duration_s, use)


def _plausible(channel: Channel, value: float, use: float) -> tuple[float | None, str]:
    if channel.gives_energy and not is_plausible(channel, value, use):
        return None, implausible(channel, value, use)
    return value, ""


def check_names(names: Sequence[str]) -> None:
    """Check the names of sensors before anything is opened. Raise ``UserError`` for a wrong one."""
    for name in names:
        if name not in KNOWN and ":" not in name:
            raise UserError(
                f"no sensor {name!r}", hint=f"{nearest(name, KNOWN)} (or package.module:factory)"
            )


def _from_environment() -> list[str]:
    text = os.environ.get(ENVIRONMENT, "").strip()
    if not text:
        return list(HARDWARE)
    if text.startswith("simulated:"):
        return [text]
    return [name.strip() for name in text.split(",") if name.strip()]


def _is_gpu(name: str) -> bool:
    kind, _, index = name.partition(":")
    return kind == "gpu" and (name == kind or index.isdigit())


def _components(sensors: Sequence[Sensor]) -> set[str]:
    """Name the components whose energy sensors give."""
    return {
        channel.component
        for sensor in sensors
        for channel in sensor.channels
        if channel.gives_energy
    }


def _bound_from_below(sensors: Sequence[Sensor]) -> None:
    """State what parts with processors draw at least for each thread that works."""
    if platform.machine().lower() not in X86:
        return
    parts = Counter(component.partition(":")[0] for component in _components(sensors))
    for sensor in sensors:
        sensor.channels = tuple(
            with_thread_bound(channel, parts[channel.component.partition(":")[0]])
            for channel in sensor.channels
        )


def _addresses(sensors: Sequence[Sensor]) -> dict[str, str]:
    """Return the components that sensors know, with their PCI addresses where they have one."""
    found = {channel.component: "" for sensor in sensors for channel in sensor.channels}
    for sensor in sensors:
        found |= getattr(sensor, "addresses", {})
    return found


def _chosen(
    sensors: Sequence[Sensor], absent: Sequence[Absence], gpus: Sequence[str]
) -> tuple[list[Sensor], list[Absence]]:
    """Select the named GPUs; an index that does not exist is absent."""
    chosen: list[Sensor] = []
    known: set[str] = set()
    for sensor in sensors:
        own = {channel.component for channel in sensor.channels if _is_gpu(channel.component)}
        known |= own
        if not own or own <= {*gpus}:
            chosen.append(sensor)
        elif own & {*gpus} and isinstance(sensor, HwmonSensor):
            chosen.append(sensor.without(own - {*gpus}))
        else:
            sensor.close()
    missing = [one for one in absent if not _is_gpu(one.component) or one.component in gpus]
    no_driver = [one for one in absent if one.component == "gpu"]
    known |= {one.component for one in missing}
    missing += no_driver or [
        Absence(name, "nvml", "this process may use no such GPU", "see `nvidia-smi -L`")
        for name in gpus
        if name not in known
    ]
    return chosen, missing


Family = Callable[[Collection[str], Mapping[str, str]], tuple[Sequence[Sensor], Sequence[Absence]]]
"""Find sensors of some kinds of components (:data:`MEASURABLE`), after those components were found
by others: a family numbers further GPUs after them. Their PCI addresses, where known, show which of
them it has, too. What cannot be read is absent, with a reason; what this machine does not have at
all is not mentioned."""


def _nvidia(kinds: Collection[str], found: Collection[str]) -> tuple[list[Sensor], list[Absence]]:
    if "gpu" not in kinds:
        return [], []
    gpus, absent = discover_gpus(*environment_selection())
    return [*gpus], absent


def _rapl(kinds: Collection[str], found: Collection[str]) -> tuple[list[Sensor], list[Absence]]:
    chosen = [kind for kind in ("cpu", "dram", "soc") if kind in kinds]
    if not chosen:
        return [], []
    cpu = processors()
    rapl, absent = discover_rapl(chosen, vendor=cpu.vendor, tdp_w=chip_tdp_w(cpu.model))
    return [*rapl], absent


FAMILIES: tuple[Family, ...] = (
    _nvidia,
    _rapl,
    discover_hwmon,
    discover_cray,
    discover_amd_smi,
    discover_apple,
    discover_meters,
)
"""The only list of who is asked for sensors, in this order."""


def _estimates(kinds: Collection[str]) -> list[Sensor]:
    """Estimate processors and memory that nothing measures."""
    sensors: list[Sensor] = []
    cpu = processors()
    if "cpu" in kinds:
        sensors.append(CpuEstimate(cpu_model(cpu, cpu_limit())))
    if "dram" in kinds:
        dimms, _ = known_dimms()
        # A virtual machine's table describes modules that do not exist.
        modules = [] if cpu.virtual else dimms
        sensors.append(DramEstimate(dram_power(modules, psutil.virtual_memory().total)))
    return sensors


def _simulated(name: str) -> list[Sensor]:
    simulated = importlib.import_module("joulelab.sensors.simulated")
    return list(simulated.simulated_sensors(name.partition(":")[2]))


def _from_factory(name: str) -> list[Sensor]:
    module_name, _, attribute = name.partition(":")
    hint = "name it as package.module:factory"
    try:
        factory = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"no sensor factory {name!r}", why=str(error), hint=hint) from error
    if not callable(factory):
        raise UserError(f"{name!r} is not callable", hint=hint)
    try:
        made = factory()
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
        raise UserError(f"sensor factory {name!r} failed", why=why, hint="fix it") from error
    sensors = list(made) if isinstance(made, list | tuple) else [made]
    if not sensors or not all(isinstance(sensor, Sensor) for sensor in sensors):
        raise UserError(
            f"{name!r} returned no sensor",
            why=f"it returned {type(made).__name__}",
            hint="return an object with channels, interval_s, read() and close(), or a list",
        )
    try:
        for channel in (channel for sensor in sensors for channel in sensor.channels):
            decode(json.dumps(channel.to_json()), Channel)
    except (AttributeError, TypeError, InvalidData) as error:
        why = str(error)
        raise UserError(f"{name!r} has an impossible channel", why=why, hint="fix it") from error
    return sensors
