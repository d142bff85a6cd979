"""Sensors of the host: processor and memory utilisation, and its clocks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import psutil

from joulelab.sensors.sensor import Channel, Gap, NothingOpen, Provenance, Quantity, Reading

HOST_INTERVAL_S = 0.5
CLOCK_INTERVAL_S = 1.0
CLOCKS = {"realtime": time.CLOCK_REALTIME}
if hasattr(time, "CLOCK_BOOTTIME"):
    CLOCKS["boottime"] = time.CLOCK_BOOTTIME


class CpuLoad:
    """Utilisation of all hardware threads, averaged, between two calls.

    Each object has its own counts, so several readers do not disturb each other.
    """

    def __init__(self) -> None:
        self._busy_s, self._total_s = _busy_and_total_s()

    def utilization(self) -> float | None:
        """Return the mean over the threads since the last call, 0 to 1.

        Returns:
            ``None`` if the kernel has not counted any time since the last call.
        """
        busy_s, total_s = _busy_and_total_s()
        if total_s <= self._total_s:
            return None
        share = (busy_s - self._busy_s) / (total_s - self._total_s)
        self._busy_s, self._total_s = busy_s, total_s
        return min(max(share, 0.0), 1.0)


class HostSensor(NothingOpen):
    """CPU utilisation (averaged over threads), memory utilisation and memory used."""

    interval_s = HOST_INTERVAL_S

    def __init__(self) -> None:
        measured = partial(
            Channel,
            component="host",
            provenance=Provenance.MEASURED,
            update_period_s=HOST_INTERVAL_S,
        )
        of_memory = partial(measured, source="os.memory")
        self.channels: Sequence[Channel] = (
            measured(quantity=Quantity.UTILIZATION, source="os.cpu", window_s=HOST_INTERVAL_S),
            of_memory(quantity=Quantity.MEMORY_UTILIZATION, note="100 x (1 - available/total)"),
            of_memory(quantity=Quantity.MEMORY_USED, resolution=4096),
        )
        self._load = CpuLoad()

    def read(self) -> list[Reading | Gap]:
        """Read each channel once."""
        utilization = self._load.utilization()
        memory = psutil.virtual_memory()
        t_ns = time.monotonic_ns()
        cpu: Reading | Gap
        if utilization is None:
            cpu = Gap(t_ns, 0, "the kernel has counted no CPU time since the last reading")
        else:
            cpu = Reading(t_ns, 0, 100 * utilization)
        return [cpu, Reading(t_ns, 1, memory.percent), Reading(t_ns, 2, float(memory.used))]


class ClockSensor(NothingOpen):
    """Other clocks minus CLOCK_MONOTONIC.

    The wall clock dates readings; CLOCK_BOOTTIME, which also counts while the machine is suspended,
    shows suspends.
    """

    interval_s = CLOCK_INTERVAL_S

    def __init__(self) -> None:
        self.channels: Sequence[Channel] = tuple(
            Channel(
                component="clock",
                quantity=Quantity.CLOCK_OFFSET,
                source=f"clock.{name}",
                provenance=Provenance.MEASURED,
                update_period_s=CLOCK_INTERVAL_S,
            )
            for name in CLOCKS
        )

    def read(self) -> list[Reading | Gap]:
        """Read the offset of each clock."""
        t_ns = time.monotonic_ns()
        offsets_ns = (clock_offset_ns(clock) for clock in CLOCKS.values())
        return [Reading(t_ns, i, offset_ns * 1e-9) for i, offset_ns in enumerate(offsets_ns)]


def clock_offset_ns(clock: int) -> int:
    """Return a clock minus CLOCK_MONOTONIC, by the closest of three pairs of readings."""
    pairs = []
    for _ in range(3):
        before_ns = time.monotonic_ns()
        there_ns = time.clock_gettime_ns(clock)
        after_ns = time.monotonic_ns()
        pairs.append((after_ns - before_ns, there_ns - (before_ns + after_ns) // 2))
    return min(pairs)[1]


def boot_id() -> str:
    """Identify the time since the machine last started, for which CLOCK_MONOTONIC is valid."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _busy_and_total_s() -> tuple[float, float]:
    """Busy and total seconds of all hardware threads since boot."""
    fields = psutil.cpu_times()._asdict()
    # The kernel counts guests within user and nice.
    total_s = sum(s for name, s in fields.items() if name not in ("guest", "guest_nice"))
    return total_s - fields["idle"] - fields.get("iowait", 0.0), total_s
