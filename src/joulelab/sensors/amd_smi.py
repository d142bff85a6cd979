"""AMD GPUs through ROCm's management library: their energy counter, and power next to it.

The package ``amdsmi`` comes with ROCm. ``amdsmi_get_energy_count`` gives an accumulator and its
step in µJ (AMD SMI Python API reference); up to ROCm 6.1 the accumulator's name was ``power``. On
some GPUs the counter is wrong by a factor (ROCm/amdsmi, issue 38), so that power is polled next to
it and a contradiction is found. What a GPU does not support reads ``"N/A"`` or is all ones.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import math
import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

from joulelab.format import duration
from joulelab.sensors.nvml_accuracy import GAIN_UNCERTAINTY
from joulelab.sensors.nvml_binding import ANSWER_S, NvmlError, within
from joulelab.sensors.sensor import Absence, Channel, Gap, Provenance, Quantity, Reading

PACKAGE = "amdsmi"
COUNTER_INTERVAL_S = 0.1
UPDATE_PERIOD_S = 1e-3
"""The firmware adds to its accumulator each millisecond (Linux, amdgpu gpu_metrics)."""
POWER_PERIOD_S = 1.0
POWERS = ("average_socket_power", "current_socket_power", "socket_power")
"""By preference; older versions lack the last two, and newer GPUs have only the second."""
ALL_ONES = (2**16 - 1, 2**32 - 1, 2**64 - 1)
"""The library's numbers for "not supported"."""
MAX_CALL_NS = 200_000_000
VARIABLES = ("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")


class AmdSmiSensor:
    """One GPU. A failed call is a gap; the next reading looks up the GPU by its PCI address."""

    interval_s = COUNTER_INTERVAL_S

    def __init__(self, library: Any, component: str, address: str, handle: Any) -> None:
        self._library = library
        self._address = address
        self._handle = handle
        self._due_ns = 0
        self.absent: list[Absence] = []
        self._calls: list[tuple[Channel, Callable[[Any], float]]] = []
        for quantity, source, period_s, read in (
            (Quantity.ENERGY, "amdsmi.energy_counter", UPDATE_PERIOD_S, self._energy_j),
            (Quantity.POWER, "amdsmi.power", POWER_PERIOD_S, self._power_w),
        ):
            channel = Channel(
                component=component,
                quantity=quantity,
                source=source,
                provenance=Provenance.MEASURED,
                update_period_s=period_s,
                polled=True,
                gain_uncertainty=GAIN_UNCERTAINTY,
                priority=2 if quantity is Quantity.ENERGY else 4,
            )
            try:
                value = read(handle)
            except Exception as error:  # noqa: BLE001  (errors of the binding have many types)
                self.absent.append(Absence(component, source, _why(error)))
                continue
            if value == 0:
                reason = "it reads 0: this die may share the meter of another"
                self.absent.append(Absence(component, source, reason))
                continue
            self._calls.append((channel, read))
        self.channels: Sequence[Channel] = [channel for channel, _ in self._calls]

    def read(self) -> list[Reading | Gap]:
        """Read the counter, and power once a second."""
        now_ns = time.monotonic_ns()
        is_due = now_ns >= self._due_ns
        if is_due:
            self._due_ns = now_ns + round((POWER_PERIOD_S - COUNTER_INTERVAL_S / 2) * 1e9)
        readings: list[Reading | Gap] = []
        for position, (channel, read) in enumerate(self._calls):
            if channel.quantity is Quantity.POWER and not is_due:
                continue
            before_ns = time.monotonic_ns()
            try:
                if self._handle is None:
                    self._handle = list_gpus(self._library)[self._address]
                value = read(self._handle)
            except Exception as error:  # noqa: BLE001  (as above)
                self._handle = None
                readings.append(Gap(before_ns, position, _why(error)))
                continue
            took_ns = time.monotonic_ns() - before_ns
            if took_ns > MAX_CALL_NS:
                reason = f"AMD SMI answered after {duration(took_ns * 1e-9)}"
                readings.append(Gap(before_ns, position, reason))
            elif value == 0:
                readings.append(Gap(before_ns, position, f"{channel.source} reads 0"))
            else:
                readings.append(Reading(before_ns + took_ns // 2, position, value))
        return readings

    def close(self) -> None:
        """Leave the library open for the other GPUs; it ends with the process."""

    def _energy_j(self, handle: Any) -> float:
        found = self._library.amdsmi_get_energy_count(handle)
        count = found.get("energy_accumulator", found.get("power"))
        return _number(count, "the counter") * _number(found.get("counter_resolution")) * 1e-6

    def _power_w(self, handle: Any) -> float:
        found = self._library.amdsmi_get_power_info(handle)
        values = [found.get(name) for name in POWERS]
        known = (value for value in values if isinstance(value, int) and value not in ALL_ONES)
        return _number(next(known, values[0]), "power")


def discover_amd_smi(
    kinds: Collection[str], found: Mapping[str, str]
) -> tuple[list[AmdSmiSensor], list[Absence]]:
    """Find the counters of AMD's GPUs where Python can import ``amdsmi``.

    Args:
        kinds: Kinds of components.
        found: Components that other sensors measure, with their PCI addresses where they have one.
            A GPU that is among them has one component with several sources.

    Returns:
        One sensor per GPU, and what is absent.
    """
    if "gpu" not in kinds:
        return [], []
    try:
        return within(ANSWER_S, partial(_discover, found))
    except NvmlError as error:
        return [], [Absence("gpu", PACKAGE, str(error))]


def list_gpus(library: Any) -> dict[str, Any]:
    """Return the handles of the GPUs by PCI address, in the order of the addresses."""
    handles = {
        str(library.amdsmi_get_gpu_device_bdf(handle)).lower(): handle
        for handle in library.amdsmi_get_processor_handles()
    }
    return dict(sorted(handles.items()))


def _discover(found: Mapping[str, str]) -> tuple[list[AmdSmiSensor], list[Absence]]:
    try:
        # It prints what it misses.
        with contextlib.redirect_stdout(io.StringIO()):
            library = importlib.import_module(PACKAGE)
            library.amdsmi_init()
        gpus = list_gpus(library)
    except ModuleNotFoundError:
        return [], []
    except Exception as error:  # noqa: BLE001  (a library that is missing or of another version)
        hint = "install the amdsmi of the ROCm version that the driver belongs to"
        return [], [Absence("gpu", PACKAGE, f"AMD SMI does not start: {_why(error)}", hint)]
    sensors, absent = [], []
    for address, component in _components(gpus, found).items():
        sensor = AmdSmiSensor(library, component, address, gpus[address])
        absent += sensor.absent
        if sensor.channels:
            sensors.append(sensor)
    return sensors, absent


def _components(gpus: Collection[str], found: Mapping[str, str]) -> dict[str, str]:
    """Name the component of each GPU: that of its other sensors, or a new one.

    A GPU that no other sensor has, although AMD's variables select some, is not this process's.
    """
    # The meter of a processor with graphics is that of the whole chip.
    known: dict[str, str] = {}
    for component, address in found.items():
        if address and (address not in known or not component.startswith("gpu:")):
            known[address] = component
    is_chosen = any(os.environ.get(name) is not None for name in VARIABLES)
    numbers = (component.partition(":") for component in found)
    after = max((int(n) for kind, _, n in numbers if kind == "gpu" and n.isdigit()), default=-1)
    named = {}
    for address in gpus:
        if address in known:
            named[address] = known[address]
        elif not is_chosen:
            after += 1
            named[address] = f"gpu:{after}"
    return named


def _number(value: Any, name: str = "the counter's step") -> float:
    """Check a number. Raise ``ValueError`` for what the library says if there is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value in ALL_ONES:
        raise ValueError(f"this GPU does not report {name} ({value!r})")
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"AMD SMI reports {value!r} for {name}")
    return float(value)


def _why(error: Exception) -> str:
    info = getattr(error, "err_info", "") or str(error) or type(error).__name__
    return f"{info}" if isinstance(error, ValueError) else f"AMD SMI: {info}"
