"""The host as the operating system sees it: processors, utilisation and memory."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from joulelab.sensors.sensor import Channel, Gap, Provenance, Quantity, Reading

READ_INTERVAL_S = 0.5
KERNEL_TICK_S = 0.01
"""The kernel counts CPU time in ticks of 1/USER_HZ = 10 ms (``man 5 proc``, /proc/stat)."""


def system_root() -> Path:
    """Where ``/sys`` is: ``$JOULELAB_SYSFS``, or ``/sys``."""
    return Path(os.environ.get("JOULELAB_SYSFS") or "/sys")


@dataclass(frozen=True, slots=True)
class Processors:
    """The processors of this machine. ``None`` where the system does not tell.

    Attributes:
        model: The name in ``/proc/cpuinfo``.
        vendor: The vendor's identifier there, as ``"GenuineIntel"``.
        sockets: Chips.
        threads: Hardware threads, or the virtual CPUs of a virtual machine.
        virtual: Whether a hypervisor says that it is there.
    """

    model: str | None
    vendor: str | None
    sockets: int | None
    threads: int
    virtual: bool


def parse_cpuinfo(text: str, threads: int) -> Processors:
    """What ``/proc/cpuinfo`` says.

    Args:
        text: The file's text.
        threads: The number of logical processors, as the operating system counts them.

    Example:
        >>> text = "processor: 0\\nvendor_id : AuthenticAMD\\nmodel name\\t: AMD EPYC 7763\\n"
        >>> parse_cpuinfo(text + "physical id\\t: 0\\nflags: fpu hypervisor\\n", 2)
        Processors(model='AMD EPYC 7763', vendor='AuthenticAMD', sockets=1, threads=2, virtual=True)
    """
    values: dict[str, list[str]] = {}
    for key, value in re.findall(r"^([\w ]+?)\s*:[ \t]*(.*)$", text, flags=re.MULTILINE):
        values.setdefault(key, []).append(value.strip())
    sockets = len(set(values.get("physical id", ())))
    flags = values.get("flags", [""])[0].split()
    return Processors(
        model=_first(values.get("model name")),
        vendor=_first(values.get("vendor_id")),
        sockets=sockets or None,
        threads=threads,
        virtual="hypervisor" in flags,
    )


def processors() -> Processors:
    """The processors of this machine."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    return parse_cpuinfo(text, psutil.cpu_count(logical=True) or os.cpu_count() or 1)


def cpu_limit(root: Path | None = None) -> float | None:
    """How many CPUs the control group of this process may use; ``None`` when there is no limit.

    Args:
        root: Where ``/sys`` is; :func:`system_root` by default.
    """
    base = (root or system_root()) / "fs" / "cgroup"
    try:
        quota, period = (base / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (base / "cpu" / "cpu.cfs_quota_us").read_text().strip()
            period = (base / "cpu" / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    if not (quota.isdigit() and period.isdigit() and int(period) > 0):
        return None
    return int(quota) / int(period)


class CpuLoad:
    """Utilisation of all hardware threads, averaged, between two calls.

    Each object keeps its own last count, so that several readers do not disturb each other.
    """

    def __init__(self) -> None:
        self._last = _busy_and_total_s()

    def utilization(self) -> float | None:
        """The mean over the threads since the last call, 0 to 1.

        Returns:
            ``None`` when the kernel has not counted any time since the last call.
        """
        last, now = self._last, _busy_and_total_s()
        shares = [
            min(max((busy - busy_0) / (total - total_0), 0.0), 1.0)
            for (busy_0, total_0), (busy, total) in zip(last, now, strict=False)
            if total > total_0
        ]
        if not shares:
            return None
        self._last = now
        return sum(shares) / len(shares)


class HostSensor:
    """CPU utilisation (per thread, averaged), memory utilisation and memory used."""

    interval_s = READ_INTERVAL_S

    def __init__(self) -> None:
        self.channels: Sequence[Channel] = (
            _channel(Quantity.UTILIZATION, "os.cpu", window_s=READ_INTERVAL_S),
            _channel(Quantity.MEMORY_UTILIZATION, "os.memory", note="100 x (1 - available/total)"),
            _channel(Quantity.MEMORY_USED, "os.memory", resolution=4096),
        )
        self._load = CpuLoad()

    def read(self) -> list[Reading | Gap]:
        """One reading of each channel."""
        utilization = self._load.utilization()
        memory = psutil.virtual_memory()
        t_ns = time.monotonic_ns()
        cpu: Reading | Gap
        if utilization is None:
            cpu = Gap(t_ns, 0, "the kernel has counted no CPU time since the last reading")
        else:
            cpu = Reading(t_ns, 0, 100 * utilization)
        return [cpu, Reading(t_ns, 1, memory.percent), Reading(t_ns, 2, float(memory.used))]

    def close(self) -> None:
        """Holds nothing."""


def _channel(
    quantity: Quantity, source: str, *, window_s: float = 0, resolution: float = 0, note: str = ""
) -> Channel:
    return Channel(
        component="host",
        quantity=quantity,
        source=source,
        provenance=Provenance.MEASURED,
        update_period_s=READ_INTERVAL_S,
        window_s=window_s,
        resolution=resolution,
        note=note,
    )


def _busy_and_total_s() -> list[tuple[float, float]]:
    """Busy and total seconds of each hardware thread since boot."""
    counts = []
    for times in psutil.cpu_times(percpu=True):
        fields = times._asdict()
        # The kernel counts guests within user and nice.
        total = sum(s for name, s in fields.items() if name not in ("guest", "guest_nice"))
        idle = fields["idle"] + fields.get("iowait", 0.0)
        counts.append((total - idle, total))
    return counts


def _first(values: list[str] | None) -> str | None:
    return next((value for value in values or () if value), None)
