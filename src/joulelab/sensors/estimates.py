"""Power that no sensor measures, estimated with a stated error.

Two models. Both say in their channel's note what they assume.

*DRAM* (the paper's section IV-A): the sum over modules of 1/2 C V² f.
*CPU*: idle power and full power, joined in a straight line by utilisation.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

from joulelab.sensors.dmi import Dimm
from joulelab.sensors.host import CpuLoad, Processors
from joulelab.sensors.sensor import Channel, Gap, Provenance, Quantity, Reading
from joulelab.sensors.tdp import chip_tdp_w, chip_threads

DRAM_W_PER_GB = (0.03, 0.38)
"""Measured DDR4 modules, idle to busy, in watts per 10^9 bytes."""
DIMM_MAX_W = 12.0
"""No module is taken to draw more than this: a bound of this project, somewhat above the 10 W or
so of a large registered module at full bandwidth. Power does not grow with capacity without end,
since one rank of a channel works at a time."""
REFERENCE_VOLTAGE_V = 1.2
REFERENCE_CLOCK_HZ = 1333e6
"""DDR4-2666, the middle of DDR4's speeds (JESD79-4), at its 1.2 V."""
SUPPLY_V = {"DDR2": 1.8, "DDR3": 1.5, "DDR4": 1.2, "DDR5": 1.1, "LPDDR4": 1.1, "LPDDR5": 1.05}
"""Nominal supply where the firmware gives none (JESD79-2, -3, -4, -5, JESD209-4, -5)."""

VCPU_IDLE_W = 0.74
VCPU_FULL_W = 3.5
"""Averages over cloud machines (Cloud Carbon Footprint, methodology, "Compute", AWS)."""
IDLE_SHARE = VCPU_IDLE_W / VCPU_FULL_W
"""Idle power as a share of full power: 0.21."""
CPU_GAIN_UNCERTAINTY = 0.25
"""Tools of this kind are off by -50 to +43 % (peers against meters): about twice this."""

CPU_INTERVAL_S = 0.5
CPU_TICK_S = 0.01
"""The kernel counts processor time in ticks of 10 ms (USER_HZ, proc(5))."""
CLOCK_PERIOD_S = 1e-6
DRAM_INTERVAL_S = 1.0


@dataclass(frozen=True, slots=True)
class PowerEstimate:
    """A power between two bounds, all values in between equally likely.

    Attributes:
        low_w: Lower bound.
        high_w: Upper bound.
        note: What is assumed.
    """

    low_w: float
    high_w: float
    note: str

    @property
    def power_w(self) -> float:
        """The middle."""
        return (self.low_w + self.high_w) / 2

    @property
    def relative_uncertainty(self) -> float:
        """Standard uncertainty (k = 1) over the middle: half-width / √3 (GUM 4.3.7)."""
        return (self.high_w - self.low_w) / 2 / math.sqrt(3) / self.power_w


def dimm_power(dimm: Dimm) -> PowerEstimate:
    """The power of one module: 1/2 C V² f, with C proportional to capacity.

    C per byte is such that a DDR4-2666 module at 1.2 V spans :data:`DRAM_W_PER_GB`; voltage and
    clock then scale it. The upper bound stops at :data:`DIMM_MAX_W`, and the lower at half of
    that. A module whose voltage or speed the firmware does not tell gets its type's nominal
    voltage and the reference clock.

    Example:
        >>> estimate = dimm_power(Dimm(16 * 10**9, "DDR4", 2666e6, 1.2))
        >>> round(estimate.low_w, 2), round(estimate.high_w, 2)
        (0.48, 6.08)
    """
    voltage_v = dimm.voltage_v or SUPPLY_V.get(dimm.type or "", REFERENCE_VOLTAGE_V)
    clock_hz = dimm.transfers_hz / 2 if dimm.transfers_hz else REFERENCE_CLOCK_HZ
    low_w, high_w = (
        0.5 * _capacitance_f(w_per_gb, dimm.size_bytes) * voltage_v**2 * clock_hz
        for w_per_gb in DRAM_W_PER_GB
    )
    return PowerEstimate(min(low_w, DIMM_MAX_W / 2), min(high_w, DIMM_MAX_W), "")


def dram_power(dimms: Sequence[Dimm], total_bytes: int) -> PowerEstimate:
    """The power of all memory: the sum over modules, or by capacity where no module is known.

    Args:
        dimms: Modules; empty when the firmware's table is missing or refused.
        total_bytes: Memory as the operating system reports it; used when ``dimms`` is empty.

    Example:
        >>> estimate = dram_power([], 24 * 10**9)
        >>> round(estimate.power_w, 2), round(estimate.relative_uncertainty, 2)
        (4.92, 0.49)
    """
    span = f"{DRAM_W_PER_GB[0]} to {DRAM_W_PER_GB[1]} W/GB (measured DDR4)"
    if not dimms:
        low_w, high_w = (w_per_gb * total_bytes / 1e9 for w_per_gb in DRAM_W_PER_GB)
        note = f"estimated: {total_bytes / 1e9:.1f} GB of memory x {span}, modules unknown"
        return PowerEstimate(low_w, high_w, note)
    estimates = [dimm_power(dimm) for dimm in dimms]
    capacity_gb = sum(dimm.size_bytes for dimm in dimms) / 1e9
    note = (
        f"estimated: {len(dimms)} modules, {capacity_gb:.0f} GB, x 1/2 C V² f, C from {span}, "
        f"at most {DIMM_MAX_W:g} W a module"
    )
    return PowerEstimate(
        sum(estimate.low_w for estimate in estimates),
        sum(estimate.high_w for estimate in estimates),
        note,
    )


@dataclass(frozen=True, slots=True)
class CpuModel:
    """Power of all the machine's processors as a straight line in utilisation.

    Attributes:
        idle_w: At utilisation 0.
        full_w: At utilisation 1.
        note: What is assumed.
    """

    idle_w: float
    full_w: float
    note: str

    def power_w(self, utilization: float) -> float:
        """Power at a utilisation from 0 to 1 (values outside are brought inside)."""
        return self.idle_w + (self.full_w - self.idle_w) * min(max(utilization, 0.0), 1.0)


def cpu_model(cpu: Processors, limit_cpus: float | None = None) -> CpuModel:
    """The model for these processors.

    - A known chip on bare metal: its thermal design power x sockets at full load.
    - A known chip in a virtual machine, whose threads are known: the machine's share of it.
    - Otherwise :data:`VCPU_IDLE_W` to :data:`VCPU_FULL_W` for each thread; never more than the
      chips' thermal design power where that is known.

    Args:
        cpu: The processors.
        limit_cpus: CPUs that the process's control group may use; only noted, since the
            utilisation is that of the whole machine.

    Example:
        >>> chip = Processors("AMD EPYC 7763 64-Core Processor", "AuthenticAMD", 1, 4, True)
        >>> cpu_model(chip).full_w
        8.75
    """
    chip_w = chip_tdp_w(cpu.model)
    threads_of_chip = chip_threads(cpu.model)
    sockets = cpu.sockets or 1
    name = cpu.model or "unknown processor"
    if chip_w and not cpu.virtual:
        full_w = chip_w * sockets
        note = f"{name}: TDP {chip_w:g} W x {sockets} socket(s)"
    elif chip_w and threads_of_chip:
        full_w = chip_w * min(cpu.threads / threads_of_chip, sockets)
        note = f"{name}: TDP {chip_w:g} W x {cpu.threads} vCPUs / {threads_of_chip} threads"
    else:
        full_w = VCPU_FULL_W * cpu.threads
        note = (
            f"{cpu.threads} {'vCPUs' if cpu.virtual else 'threads'} x {VCPU_IDLE_W} to "
            f"{VCPU_FULL_W} W (cloud averages), {name}: TDP {chip_w or 'unknown'}"
        )
        if chip_w:
            full_w = min(full_w, chip_w * sockets)
    note = f"estimated: {note}, idle share {IDLE_SHARE:.2f}, + utilisation"
    if limit_cpus is not None and limit_cpus < cpu.threads:
        note += f"; whole machine, of which this container may use {limit_cpus:g} CPUs"
    return CpuModel(IDLE_SHARE * full_w, full_w, note)


class DramEstimate:
    """A constant power for all memory modules, with the interval that activity can span.

    Given as the energy since it was opened, so that no span's edge falls between two values.
    """

    interval_s = DRAM_INTERVAL_S

    def __init__(self, estimate: PowerEstimate) -> None:
        self._power_w = estimate.power_w
        self._since_ns = time.monotonic_ns()
        self.channels: Sequence[Channel] = (
            Channel(
                component="dram:0",
                quantity=Quantity.ENERGY,
                source="estimate.dram",
                provenance=Provenance.ESTIMATED,
                update_period_s=CLOCK_PERIOD_S,
                gain_uncertainty=estimate.relative_uncertainty,
                priority=9,
                note=estimate.note,
            ),
        )

    def read(self) -> list[Reading | Gap]:
        """The estimate."""
        t_ns = time.monotonic_ns()
        return [Reading(t_ns, 0, self._power_w * (t_ns - self._since_ns) * 1e-9)]

    def close(self) -> None:
        """Holds nothing."""


class CpuEstimate:
    """Energy of all processors since it was opened, from their utilisation between readings."""

    interval_s = CPU_INTERVAL_S

    def __init__(self, model: CpuModel) -> None:
        self._model = model
        self._load = CpuLoad()
        self._energy_j = 0.0
        self._counted_until_ns = time.monotonic_ns()
        self._first: list[Reading | Gap] = [Reading(self._counted_until_ns, 0, 0.0)]
        self.channels: Sequence[Channel] = (
            Channel(
                component="cpu:0",
                quantity=Quantity.ENERGY,
                source="estimate.cpu",
                provenance=Provenance.ESTIMATED,
                update_period_s=CPU_TICK_S,
                polled=True,
                gain_uncertainty=CPU_GAIN_UNCERTAINTY,
                priority=9,
                note=model.note,
            ),
        )

    def read(self) -> list[Reading | Gap]:
        """The estimate up to now; nothing new when the kernel has not counted since the last."""
        first, self._first = self._first, []
        utilization = self._load.utilization()
        if utilization is None:
            return first
        t_ns = time.monotonic_ns()
        duration_s = (t_ns - self._counted_until_ns) * 1e-9
        self._energy_j += self._model.power_w(utilization) * duration_s
        self._counted_until_ns = t_ns
        return [*first, Reading(t_ns, 0, self._energy_j)]

    def close(self) -> None:
        """Holds nothing."""


def _capacitance_f(w_per_gb: float, size_bytes: int) -> float:
    """The switched capacitance with which a reference module draws ``w_per_gb``."""
    power_w = w_per_gb * size_bytes / 1e9
    return 2 * power_w / (REFERENCE_VOLTAGE_V**2 * REFERENCE_CLOCK_HZ)
