"""Estimates of power that no sensor measures, with a stated error.

Both models state their assumptions in the note of their channel.

*DRAM* (the paper's section IV-A): the sum over modules of 1/2 C V² f.
*CPU*: a straight line from idle power to full power by utilisation.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

from joulelab.format import memory_size
from joulelab.sensors.host import CpuLoad
from joulelab.sensors.host_hardware import Dimm, Processors, chip_tdp_w, chip_threads
from joulelab.sensors.sensor import Channel, Gap, NothingOpen, Provenance, Quantity, Reading

DRAM_W_PER_GB = (0.03, 0.38)
"""Measured DDR4 modules from idle to busy, in watts per 10^9 bytes."""
DIMM_MAX_W = 12.0
"""Upper bound for one module, chosen here somewhat above the roughly 10 W of a large registered
module at full bandwidth. Power does not grow with capacity indefinitely, since one rank of a
channel works at a time."""
REFERENCE_VOLTAGE_V = 1.2
REFERENCE_CLOCK_HZ = 1333e6
"""DDR4-2666, the middle of DDR4's speeds (JESD79-4), at its 1.2 V."""
SUPPLY_V = {"DDR2": 1.8, "DDR3": 1.5, "DDR4": 1.2, "DDR5": 1.1, "LPDDR4": 1.1, "LPDDR5": 1.05}
"""Nominal supply if the firmware gives none (JESD79-2, -3, -4, -5, JESD209-4, -5)."""

VCPU_IDLE_W = 0.74
VCPU_FULL_W = 3.5
"""Averages over cloud machines (Cloud Carbon Footprint, methodology, "Compute", AWS)."""
IDLE_SHARE = VCPU_IDLE_W / VCPU_FULL_W
"""Idle power as a share of full power: 0.21."""
CPU_GAIN_UNCERTAINTY = 0.25
"""Such estimates are off by -50 to +43 % (other tools against meters): about twice this."""

CPU_INTERVAL_S = 0.5
CPU_TICK_S = 0.01
"""The kernel counts processor time in ticks of 10 ms (USER_HZ, proc(5))."""
CLOCK_PERIOD_S = 1e-6
DRAM_INTERVAL_S = 1.0


@dataclass(frozen=True, slots=True)
class PowerEstimate:
    """A power between two bounds (all values are equally likely), and what was assumed."""

    low_w: float
    high_w: float
    note: str

    @property
    def power_w(self) -> float:
        """The middle."""
        return (self.low_w + self.high_w) / 2

    @property
    def relative_uncertainty(self) -> float:
        """Standard uncertainty (k = 1) relative to the middle: half-width / √3 (GUM 4.3.7)."""
        return (self.high_w - self.low_w) / 2 / math.sqrt(3) / self.power_w


def dimm_power(dimm: Dimm) -> PowerEstimate:
    """Estimate the power of one module: 1/2 C V² f, with C proportional to capacity.

    C per byte is such that a DDR4-2666 module at 1.2 V spans :data:`DRAM_W_PER_GB`; voltage and
    clock scale it. The upper bound stops at :data:`DIMM_MAX_W`, and the lower at half of that. If
    the firmware reports no voltage or speed, the type's nominal voltage and the reference clock
    are used.

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
    """Estimate the power of all memory: the sum over modules, or by capacity if none is known.

    Example:
        >>> estimate = dram_power([], 24 * 10**9)
        >>> round(estimate.power_w, 2), round(estimate.relative_uncertainty, 2)
        (4.92, 0.49)
    """
    span = "{:.2f} to {:.2f} W/GiB (measured DDR4)".format(
        *(w_per_gb * 2**30 / 1e9 for w_per_gb in DRAM_W_PER_GB)
    )
    if not dimms:
        low_w, high_w = (w_per_gb * total_bytes / 1e9 for w_per_gb in DRAM_W_PER_GB)
        note = f"estimated: {memory_size(total_bytes)} of memory x {span}, modules unknown"
        return PowerEstimate(low_w, high_w, note)
    estimates = [dimm_power(dimm) for dimm in dimms]
    capacity = memory_size(sum(dimm.size_bytes for dimm in dimms))
    note = (
        f"estimated: {len(dimms)} modules, {capacity}, x 1/2 C V² f, C from {span}, "
        f"at most {DIMM_MAX_W:g} W a module"
    )
    return PowerEstimate(
        sum(estimate.low_w for estimate in estimates),
        sum(estimate.high_w for estimate in estimates),
        note,
    )


@dataclass(frozen=True, slots=True)
class CpuModel:
    """Power of all processors from utilisation 0 to 1, and what was assumed."""

    idle_w: float
    full_w: float
    note: str

    def power_w(self, utilization: float) -> float:
        """Return the power at a utilisation, which is clipped to 0 to 1."""
        return self.idle_w + (self.full_w - self.idle_w) * min(max(utilization, 0.0), 1.0)


def cpu_model(cpu: Processors, limit_cpus: float | None = None) -> CpuModel:
    """Choose the model for these processors.

    - A known chip on bare metal: its thermal design power x sockets at full load.
    - A known chip with known threads, in a virtual machine: the machine's share of it.
    - Otherwise :data:`VCPU_IDLE_W` to :data:`VCPU_FULL_W` per thread, but at most the chips'
      thermal design power if it is known.

    The CPUs that the process's control group may use appear only in the note, since the
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


class DramEstimate(NothingOpen):
    """Energy of all memory modules since the sensor was opened, at constant power.

    The interval is that which activity can span. A counter is exact at the edges of a span.
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
                idle_w=estimate.power_w,
                note=estimate.note,
            ),
        )

    def read(self) -> list[Reading | Gap]:
        """Return the energy so far."""
        t_ns = time.monotonic_ns()
        return [Reading(t_ns, 0, self._power_w * (t_ns - self._since_ns) * 1e-9)]


class CpuEstimate(NothingOpen):
    """Energy of all processors since the sensor was opened, from their utilisation."""

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
                idle_w=model.idle_w,
                note=model.note,
            ),
        )

    def read(self) -> list[Reading | Gap]:
        """Return the energy so far; nothing if the kernel has not counted time since."""
        first, self._first = self._first, []
        utilization = self._load.utilization()
        if utilization is None:
            return first
        t_ns = time.monotonic_ns()
        duration_s = (t_ns - self._counted_until_ns) * 1e-9
        self._energy_j += self._model.power_w(utilization) * duration_s
        self._counted_until_ns = t_ns
        return [*first, Reading(t_ns, 0, self._energy_j)]


def _capacitance_f(w_per_gb: float, size_bytes: int) -> float:
    """The switched capacitance at which a reference module draws ``w_per_gb``."""
    power_w = w_per_gb * size_bytes / 1e9
    return 2 * power_w / (REFERENCE_VOLTAGE_V**2 * REFERENCE_CLOCK_HZ)
