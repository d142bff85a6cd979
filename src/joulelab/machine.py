"""A machine's hardware and software, and whether energies of two machines are comparable."""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
from dataclasses import asdict, dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from joulelab.format import memory_size
from joulelab.sensors.host_hardware import Dimm, chip_tdp_w, known_dimms, processors
from joulelab.sensors.hwmon import list_driver_gpus
from joulelab.sensors.hwmon_gpus import GPU_DRIVERS
from joulelab.sensors.hwmon_gpus import Gpu as DriverGpu
from joulelab.sensors.interfaces import system_root
from joulelab.sensors.nvml import Board, list_boards
from joulelab.sensors.nvml_binding import ANSWER_S, NvmlError, call, within
from joulelab.sensors.visible_devices import visible_gpus
from joulelab.validation import Count, Finite, NotNegative, convert

PACKAGES = ("joulelab", "torch", "torchvision", "numpy", "timm", "nvidia-ml-py", "psutil")
"""Packages whose versions are recorded with a run."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU. ``None`` where the driver reports no value."""

    index: int
    name: str
    uuid: str
    memory_bytes: int | None
    power_limit_w: Finite | None
    default_power_limit_w: Finite | None
    driver: str | None
    cuda_version: str | None
    mig: bool | None


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine's hardware and software. ``None`` where a value is not known."""

    host: str
    os: str | None  # Distribution, for example ``"Debian GNU/Linux 13 (trixie)"``.
    kernel: str | None
    cpu_model: str | None
    cpu_sockets: int | None
    cpu_cores: int | None  # Physical cores of all sockets.
    cpu_threads: int | None  # Hardware threads of all sockets.
    cpu_tdp_w: NotNegative | None  # Thermal design power of one chip.
    dram_bytes: Count | None  # Memory that the operating system reports.
    dimms: tuple[Dimm, ...] | None
    gpus: tuple[Gpu, ...]  # The GPUs that the process may use.
    virtualization: str | None  # For example ``"virtual machine (KVM), container"``.
    python: str | None
    packages: dict[str, str]  # Versions of the installed ones of :data:`PACKAGES`.

    @property
    def comparable(self) -> dict[str, Any]:
        """The plain values that make energies of two machines comparable.

        Names of hosts, UUIDs of GPUs and versions of packages do not.
        """
        return {
            "cpu model": self.cpu_model,
            "cpu sockets": self.cpu_sockets,
            "cpu cores": self.cpu_cores,
            "cpu threads": self.cpu_threads,
            # Kernels reserve different shares of the memory.
            "memory (GiB)": None if self.dram_bytes is None else round(self.dram_bytes / 2**30),
            "gpus": [[gpu.name, gpu.memory_bytes, gpu.mig] for gpu in self.gpus],
            "gpu power limits (W)": [gpu.power_limit_w for gpu in self.gpus],
            "gpu driver": self.gpus[0].driver if self.gpus else None,
        }

    @property
    def identity(self) -> str:
        """Twelve hexadecimal digits that are equal if :attr:`comparable` is equal."""
        text = json.dumps(self.comparable, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def differences(self, other: Machine) -> list[tuple[str, Any, Any]]:
        """Return what differs in :attr:`comparable`: (name, own value, other value)."""
        mine, theirs = self.comparable, other.comparable
        return [(key, mine[key], theirs[key]) for key in mine if mine[key] != theirs[key]]

    def hardware_configuration(self) -> dict[str, str]:
        """Return the rows of the paper's Table I as text: CPU, DRAM, GPU and driver."""
        rows = {"CPU": self._cpu_text(), "DRAM": self._dram_text()}
        if not self.gpus:
            rows["GPU"] = "none that this process may use"
        for gpu in self.gpus:
            rows["GPU" if len(self.gpus) == 1 else f"GPU {gpu.index}"] = _gpu_text(gpu)
        if self.gpus:
            driver, cuda = self.gpus[0].driver, self.gpus[0].cuda_version
            nvidia = f"NVIDIA {driver or 'unknown'}, CUDA {cuda or 'unknown'}"
            rows["Driver"] = f"{driver}, in Linux" if driver in GPU_DRIVERS else nvidia
        rows["System"] = f"{self.os}, Linux {self.kernel}" if self.os else "unknown"
        if self.virtualization:
            rows["Runs in"] = self.virtualization
        versions = [f"{name} {self.packages[name]}" for name in PACKAGES if name in self.packages]
        python = [f"Python {self.python}"] if self.python else []
        rows["Software"] = ", ".join([*python, *versions]) or "unknown"
        return rows

    def to_json(self) -> dict[str, Any]:
        """Convert to a plain dictionary; :meth:`from_json` is the inverse."""
        return {**json.loads(json.dumps(asdict(self))), "identity": self.identity}

    @classmethod
    def from_json(cls, data: Any) -> Machine:
        """Read what :meth:`to_json` wrote.

        Raises:
            InvalidData: It is damaged.
        """
        return convert(data, cls)

    def _cpu_text(self) -> str:
        if self.cpu_model is None and self.cpu_cores is None:
            return "unknown"
        text = self.cpu_model or "unknown"
        if self.cpu_sockets and self.cpu_sockets > 1:
            text = f"{self.cpu_sockets} x {text}"
        tdp = f"{self.cpu_tdp_w:g} W" if self.cpu_tdp_w else "TDP unknown"
        return f"{text} ({tdp}), {self.cpu_cores or '?'} cores, {self.cpu_threads or '?'} threads"

    def _dram_text(self) -> str:
        if not self.dimms:
            if self.dram_bytes is None:
                return "unknown"
            return f"{memory_size(self.dram_bytes)} (modules unknown)"
        kinds: dict[str, int] = {}
        for dimm in self.dimms:
            speed = f" {dimm.transfers_hz / 1e6:.0f} MT/s" if dimm.transfers_hz else ""
            kind = f"{memory_size(dimm.size_bytes)} {dimm.type or 'memory'}{speed}"
            kinds[kind] = kinds.get(kind, 0) + 1
        return ", ".join(f"{count}x{kind}" for kind, count in kinds.items())


def describe(visible: str | None = None, device_order: str | None = None) -> Machine:
    """Describe this machine, with the GPUs that these values of CUDA's variables allow."""
    cpu = processors()
    dimms, _ = known_dimms()
    return Machine(
        host=platform.node(),
        os=_os_name(),
        kernel=platform.release(),
        cpu_model=cpu.model,
        cpu_sockets=cpu.sockets,
        cpu_cores=psutil.cpu_count(logical=False),
        cpu_threads=psutil.cpu_count(logical=True),
        cpu_tdp_w=chip_tdp_w(cpu.model),
        dram_bytes=psutil.virtual_memory().total,
        dimms=tuple(dimms) if dimms else None,
        gpus=_gpus(visible, device_order),
        virtualization=_virtualization(cpu.virtual),
        python=platform.python_version(),
        packages=_versions(),
    )


def _gpus(visible: str | None, device_order: str | None) -> tuple[Gpu, ...]:
    try:
        nvidia = within(ANSWER_S, partial(_visible_gpus, visible, device_order))
    except NvmlError:
        nvidia = ()
    others = list_driver_gpus([f"gpu:{gpu.index}" for gpu in nvidia])
    return (*nvidia, *map(_driver_gpu, others))


def _driver_gpu(gpu: DriverGpu) -> Gpu:
    limit_w, default_w = gpu.power_limits_w
    return Gpu(
        index=gpu.number,
        name=gpu.model,
        uuid=gpu.device.text("unique_id") or gpu.device.identity,
        memory_bytes=gpu.device.number("mem_info_vram_total"),
        power_limit_w=limit_w,
        default_power_limit_w=default_w,
        driver=gpu.device.driver,
        cuda_version=None,
        mig=None,
    )


def _visible_gpus(visible: str | None, device_order: str | None) -> tuple[Gpu, ...]:
    boards = list_boards()
    call("nvmlInit")
    try:
        by_index = {board.identity.index: board for board in boards}
        selection = visible_gpus(visible, [board.identity for board in boards], device_order)
        return tuple(_gpu(by_index[index]) for index in selection.indices)
    finally:
        call("nvmlShutdown")


def _gpu(board: Board) -> Gpu:
    def ask(function: str, *arguments: Any) -> Any:
        try:
            return call(function, *arguments)
        except NvmlError:
            return None

    handle = ask("nvmlDeviceGetHandleByUUID", board.identity.uuid)
    memory = ask("nvmlDeviceGetMemoryInfo", handle)
    limit_mw = ask("nvmlDeviceGetPowerManagementLimit", handle)
    default_mw = ask("nvmlDeviceGetPowerManagementDefaultLimit", handle)
    cuda = ask("nvmlSystemGetCudaDriverVersion_v2")
    return Gpu(
        index=board.identity.index,
        name=board.identity.model,
        uuid=board.identity.uuid,
        memory_bytes=None if memory is None else int(memory.total),
        power_limit_w=None if limit_mw is None else limit_mw / 1e3,
        default_power_limit_w=None if default_mw is None else default_mw / 1e3,
        driver=ask("nvmlSystemGetDriverVersion"),
        cuda_version=None if cuda is None else f"{cuda // 1000}.{cuda % 1000 // 10}",
        mig=board.mig,
    )


def _gpu_text(gpu: Gpu) -> str:
    limit = f"{gpu.power_limit_w:g} W" if gpu.power_limit_w else "limit unknown"
    if gpu.default_power_limit_w and gpu.default_power_limit_w != gpu.power_limit_w:
        limit += f", default {gpu.default_power_limit_w:g} W"
    memory = f" {gpu.memory_bytes / 2**30:.0f} GiB" if gpu.memory_bytes else ""
    return f"{gpu.name or 'unknown'} ({limit}){memory}{', MIG on' if gpu.mig else ''}"


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return f"{platform.system()} {platform.release()}"


def _virtualization(virtual: bool) -> str | None:
    parts = []
    if virtual:
        try:
            vendor = (system_root() / "class" / "dmi" / "id" / "sys_vendor").read_text().strip()
        except OSError:
            vendor = ""
        parts.append(f"virtual machine ({vendor})" if vendor else "virtual machine")
    if any(Path(path).exists() for path in ("/.dockerenv", "/run/.containerenv")):
        parts.append("container")
    return ", ".join(parts) or None


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found
