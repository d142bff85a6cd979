"""A stand-in for the driver's library, at the level of its C interface.

It takes the place of the library that pynvml loads, so that pynvml itself is exercised: functions
get ctypes arguments, fill the structures they point to, and return NVML codes.
"""

# ruff: noqa: N802 (the functions have their C names)
from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import pynvml

OK = pynvml.NVML_SUCCESS
MIG_HANDLE_STEP = 100


class live(property):  # noqa: N801 (a decorator)
    """A value of a GPU that changes with time, whatever :class:`FakeGpu` sets at first."""

    def __set__(self, _, value):
        pass


@dataclass
class FakeGpu:
    uuid: str
    name: str = "NVIDIA Test GPU"
    power_limit_mw: int = 300_000
    default_limit_mw: int = 300_000
    max_limit_mw: int = 400_000
    min_limit_mw: int | None = None
    """A third of the limit, if it is not stated."""
    graphics_mhz: tuple[int, ...] = (1980, 1500, 1200, 900)
    memory_mhz: tuple[int, ...] = (2619, 1593)
    locked: dict[str, tuple[int, int]] = field(default_factory=dict)
    sent: list[tuple[str, int]] = field(default_factory=list)
    """(function, value) of each setting that was asked for."""
    power_mw: int = 100_000
    module_mw: int | None = None
    """Power of the module, where NVML knows scopes."""
    energy_mj: int = 5_000_000
    capability: tuple[int, int] = (9, 0)
    mig_uuids: tuple[str, ...] | None = None
    virtualization: int = pynvml.NVML_GPU_VIRTUALIZATION_MODE_NONE
    ring: list[tuple[int, int]] | None = field(default_factory=list)
    utilization_pct: int = 87
    processes: tuple[int, ...] = ()
    graphics_processes: tuple[int, ...] = ()
    """Those with a compute context."""
    used: list[tuple[int, int, int]] = field(default_factory=list)
    """Samples of (pid, stamp in µs, SM utilisation in %)."""
    unsupported: set[str] = field(default_factory=set)
    errors: dict[str, int] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)
    fail_after: dict[str, tuple[int, int]] = field(default_factory=dict)
    """function -> (calls that succeed, code returned from then on)"""

    def fill_ring(self, count: int = 120, period_us: int = 20_000, newest_us: int | None = None):
        newest_us = newest_us or time.time_ns() // 1000
        stamps = (newest_us - (count - 1 - i) * period_us for i in range(count))
        self.ring = [(stamp_us, self.power_mw) for stamp_us in stamps]

    def code(self, name: str) -> int:
        self.calls[name] = self.calls.get(name, 0) + 1
        if name in self.unsupported:
            return pynvml.NVML_ERROR_NOT_SUPPORTED
        if name in self.errors:
            return self.errors[name]
        allowed, code = self.fail_after.get(name, (0, OK))
        return code if code != OK and self.calls[name] > allowed else OK


def _list_processes(pids, code, count, processes):
    """Answer a request for a list of processes, or for its length."""
    count._obj.value = len(pids)
    if not pids:
        return code
    if processes is None:
        return pynvml.NVML_ERROR_INSUFFICIENT_SIZE
    for position, pid in enumerate(pids):
        processes[position].pid = pid
        processes[position].usedGpuMemory = 2**30
    return OK


class FakeNvml:
    """The loaded library: pynvml finds each C function as an attribute."""

    def __init__(self, gpus: list[FakeGpu], init_code: int = OK) -> None:
        self.gpus = gpus
        self.init_code = init_code
        self.open = 0
        functions = (name for name in dir(self) if name.startswith("_c_"))
        for name in functions:
            # pynvml sets attributes of the function, which bound methods do not take.
            setattr(self, name.removeprefix("_c_"), _plain(getattr(self, name)))

    def _gpu(self, handle) -> FakeGpu:
        return self.gpus[_address(handle) % MIG_HANDLE_STEP - 1]

    def _c_nvmlInitWithFlags(self, flags):
        if self.init_code == OK:
            self.open += 1
        return self.init_code

    def _c_nvmlShutdown(self):
        self.open -= 1
        return OK

    def _c_nvmlErrorString(self, code):
        return b"unknown"

    def _c_nvmlDeviceGetCount_v2(self, count):
        count._obj.value = len(self.gpus)
        return OK

    def _c_nvmlDeviceGetHandleByIndex_v2(self, index, device):
        code = self.gpus[index.value].code("nvmlDeviceGetHandleByIndex")
        return _point(device, index.value + 1) if code == OK else code

    def _c_nvmlDeviceGetHandleByUUID(self, uuid, device):
        for position, gpu in enumerate(self.gpus):
            if gpu.uuid.encode() == uuid.value:
                code = gpu.code("nvmlDeviceGetHandleByUUID")
                return _point(device, position + 1) if code == OK else code
        return pynvml.NVML_ERROR_NOT_FOUND

    def _c_nvmlDeviceGetUUID(self, handle, buffer, length):
        address = _address(handle)
        gpu = self._gpu(handle)
        instance = address // MIG_HANDLE_STEP
        buffer.value = (gpu.mig_uuids[instance - 1] if instance else gpu.uuid).encode()
        return OK

    def _c_nvmlDeviceGetName(self, handle, buffer, length):
        buffer.value = self._gpu(handle).name.encode()
        return OK

    def _c_nvmlDeviceGetMigMode(self, handle, current, pending):
        gpu = self._gpu(handle)
        if gpu.mig_uuids is None:
            return pynvml.NVML_ERROR_NOT_SUPPORTED
        current._obj.value = pending._obj.value = 1 if gpu.mig_uuids else 0
        return OK

    def _c_nvmlDeviceGetVirtualizationMode(self, handle, mode):
        mode._obj.value = self._gpu(handle).virtualization
        return OK

    def _c_nvmlDeviceGetMaxMigDeviceCount(self, handle, count):
        count._obj.value = 7
        return OK

    def _c_nvmlDeviceGetMigDeviceHandleByIndex(self, handle, index, device):
        if index.value >= len(self._gpu(handle).mig_uuids):
            return pynvml.NVML_ERROR_NOT_FOUND
        return _point(device, (index.value + 1) * MIG_HANDLE_STEP + _address(handle))

    def _c_nvmlDeviceGetCudaComputeCapability(self, handle, major, minor):
        major._obj.value, minor._obj.value = self._gpu(handle).capability
        return OK

    def _c_nvmlDeviceGetSamples(self, handle, kind, since, value_type, count, samples):
        gpu = self._gpu(handle)
        code = gpu.code("nvmlDeviceGetSamples")
        if code != OK:
            return code
        new = [pair for pair in gpu.ring if pair[0] > since.value]
        if not new:
            return pynvml.NVML_ERROR_NOT_FOUND
        value_type._obj.value = 1
        if samples is not None:
            # No more than there is room for.
            new = new[: count._obj.value]
        count._obj.value = len(new)
        if samples is not None:
            for position, (stamp_us, power_mw) in enumerate(new):
                samples[position].timeStamp = stamp_us
                samples[position].sampleValue.uiVal = power_mw
        return OK

    def _c_nvmlDeviceGetComputeRunningProcesses_v3(self, handle, count, processes):
        gpu = self._gpu(handle)
        code = gpu.code("nvmlDeviceGetComputeRunningProcesses")
        return _list_processes(gpu.processes if code == OK else (), code, count, processes)

    def _c_nvmlDeviceGetGraphicsRunningProcesses_v3(self, handle, count, processes):
        return _list_processes(self._gpu(handle).graphics_processes, OK, count, processes)

    def _c_nvmlDeviceGetProcessUtilization(self, handle, samples, count, since):
        gpu = self._gpu(handle)
        code = gpu.code("nvmlDeviceGetProcessUtilization")
        if code != OK:
            return code
        new = [one for one in gpu.used if one[1] > since.value]
        if not new:
            return pynvml.NVML_ERROR_NOT_FOUND
        room, count._obj.value = count._obj.value, len(new)
        if samples is None or room < len(new):
            return pynvml.NVML_ERROR_INSUFFICIENT_SIZE
        for position, (pid, stamp_us, sm_pct) in enumerate(new):
            samples[position].pid = pid
            samples[position].timeStamp = stamp_us
            samples[position].smUtil = sm_pct
        return OK

    def _c_nvmlDeviceGetFieldValues(self, handle, count, values):
        gpu = self._gpu(handle)
        for entry in values._obj:
            entry.nvmlReturn = gpu.code("power_instant")
            entry.value.uiVal = gpu.power_mw
            if entry.scopeId:
                entry.value.uiVal = gpu.module_mw or 0
                entry.nvmlReturn = OK if gpu.module_mw else pynvml.NVML_ERROR_NOT_SUPPORTED
        return OK

    def _c_nvmlDeviceGetTotalEnergyConsumption(self, handle, value):
        return self._scalar(handle, "nvmlDeviceGetTotalEnergyConsumption", value, "energy_mj")

    def _c_nvmlDeviceGetPowerUsage(self, handle, value):
        return self._scalar(handle, "nvmlDeviceGetPowerUsage", value, "power_mw")

    def _c_nvmlDeviceGetPowerManagementLimit(self, handle, value):
        return self._scalar(handle, "nvmlDeviceGetPowerManagementLimit", value, "power_limit_mw")

    def _c_nvmlDeviceGetPowerManagementLimitConstraints(self, handle, least, most):
        gpu = self._gpu(handle)
        code = gpu.code("nvmlDeviceGetPowerManagementLimitConstraints")
        lowest_mw = gpu.min_limit_mw or gpu.power_limit_mw // 3
        least._obj.value, most._obj.value = lowest_mw, gpu.max_limit_mw
        return code

    def _c_nvmlDeviceSetPowerManagementLimit(self, handle, limit):
        gpu = self._gpu(handle)
        gpu.sent.append(("power_limit", _number(limit)))
        code = gpu.code("nvmlDeviceSetPowerManagementLimit")
        if code == OK:
            gpu.power_limit_mw = _number(limit)
        return code

    def _c_nvmlDeviceSetGpuLockedClocks(self, handle, low, high):
        return self._lock(handle, "GpuLockedClocks", low, high)

    def _c_nvmlDeviceSetMemoryLockedClocks(self, handle, low, high):
        return self._lock(handle, "MemoryLockedClocks", low, high)

    def _c_nvmlDeviceResetGpuLockedClocks(self, handle):
        return self._lock(handle, "GpuLockedClocks")

    def _c_nvmlDeviceResetMemoryLockedClocks(self, handle):
        return self._lock(handle, "MemoryLockedClocks")

    def _lock(self, handle, name, low=None, high=None):
        gpu = self._gpu(handle)
        code = gpu.code(f"nvmlDeviceSet{name}")
        if code == OK:
            gpu.locked.pop(name, None)
            if high is not None:
                gpu.sent.append((name, _number(high)))
                gpu.locked[name] = (_number(low), _number(high))
        return code

    def _c_nvmlDeviceGetSupportedMemoryClocks(self, handle, count, clocks):
        return self._clocks(handle, "nvmlDeviceGetSupportedMemoryClocks", count, clocks)

    def _c_nvmlDeviceGetSupportedGraphicsClocks(self, handle, memory, count, clocks):
        return self._clocks(handle, "nvmlDeviceGetSupportedGraphicsClocks", count, clocks)

    def _clocks(self, handle, function, count, clocks):
        gpu = self._gpu(handle)
        values = gpu.memory_mhz if "Memory" in function else gpu.graphics_mhz
        code = gpu.code(function)
        if code != OK:
            return code
        count._obj.value = len(values)
        if clocks is None:
            return pynvml.NVML_ERROR_INSUFFICIENT_SIZE
        clocks[:] = values
        return OK

    def _c_nvmlDeviceGetMaxClockInfo(self, handle, kind, value):
        gpu = self._gpu(handle)
        value._obj.value = max(gpu.memory_mhz if kind.value == 2 else gpu.graphics_mhz)
        return gpu.code("nvmlDeviceGetMaxClockInfo")

    def _c_nvmlDeviceGetPowerManagementDefaultLimit(self, handle, value):
        return self._scalar(handle, "default_limit", value, "default_limit_mw")

    def _scalar(self, handle, function, value, attribute):
        gpu = self._gpu(handle)
        code = gpu.code(function)
        if code == OK:
            value._obj.value = getattr(gpu, attribute)
        return code

    def _c_nvmlDeviceGetUtilizationRates(self, handle, value):
        code = self._gpu(handle).code("nvmlDeviceGetUtilizationRates")
        value._obj.gpu, value._obj.memory = self._gpu(handle).utilization_pct, 41
        return code

    def _c_nvmlDeviceGetMemoryInfo(self, handle, value):
        value._obj.total, value._obj.used = 80 * 2**30, 3 * 2**30
        return self._gpu(handle).code("nvmlDeviceGetMemoryInfo")

    def _c_nvmlDeviceGetTemperature(self, handle, kind, value):
        value._obj.value = 55
        return self._gpu(handle).code("nvmlDeviceGetTemperature")

    def _c_nvmlDeviceGetClockInfo(self, handle, kind, value):
        value._obj.value = {1: 1980, 2: 2619}[kind.value]
        return self._gpu(handle).code("nvmlDeviceGetClockInfo")

    def _c_nvmlSystemGetDriverVersion(self, buffer, length):
        buffer.value = b"580.159.04"
        return OK

    def _c_nvmlSystemGetCudaDriverVersion_v2(self, value):
        value._obj.value = 13000
        return OK


def install(monkeypatch, library: FakeNvml) -> FakeNvml:
    monkeypatch.setattr(pynvml, "nvmlLib", library)
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    return library


def _plain(method: Callable[..., int]) -> Callable[..., int]:
    def function(*arguments):
        return method(*arguments)

    return function


def _point(device, address: int) -> int:
    ctypes.memmove(device, ctypes.byref(ctypes.c_void_p(address)), ctypes.sizeof(ctypes.c_void_p))
    return OK


def _number(value) -> int:
    """Plain numbers and those of ctypes: bindings pass either."""
    return getattr(value, "value", value)


def _address(handle) -> int:
    return ctypes.cast(handle, ctypes.c_void_p).value
