"""How much of the machine the job uses, and who else does: a sensor of processes.

Processes are looked at once a second where that costs less than :data:`CPU_SHARE` of a core, and
as seldom as it takes otherwise; what is asked for is looked at on credit, and paid back by fewer
looks later. Their names are recorded, and never their arguments.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import psutil

from joulelab.sensors.gpu_use import CannotTell, GpuUse, Use
from joulelab.sensors.job_processes import JobProcesses
from joulelab.sensors.nvml import NvmlSensor
from joulelab.sensors.others import Others
from joulelab.sensors.process_table import (
    KERNEL_TICKS_PER_S,
    PROC,
    Key,
    Process,
    busy_s,
    environment_has,
    read_processes,
)
from joulelab.sensors.sensor import (
    Channel,
    Discovery,
    Gap,
    Happening,
    Provenance,
    Quantity,
    Reading,
)

READ_INTERVAL_S = 1.0
CPU_SHARE = 0.003
"""Looks take no more of one core than this."""
CREDIT_S = 0.1
"""So much of its time can be had in advance, for looks that are asked for."""
LEAST_APART_NS = 250_000_000
"""What is used in less than this is lost in the ticks that the kernel counts."""
WORTH_TELLING = 1.25
"""A pace is told again when it is slower by this factor."""
NOT_SEEN = "the process that is measured cannot be seen from here"


class SharingSensor:
    """What the job and all processes together use of each component, as counters.

    Args:
        roots: Tells the processes that are measured now.
        gpus: The GPUs that are recorded.
        host: Whether processors and memory are.
        mark: What only the job's processes have in their environment, as ``b"NAME=value"``.
        recorder_pid: Who looks: it is there because of the job, and belongs to it.
        proc: Where ``/proc`` is.
    """

    interval_s = READ_INTERVAL_S

    def __init__(
        self,
        roots: Callable[[], Collection[int]],
        gpus: Sequence[GpuUse],
        *,
        host: bool,
        mark: bytes,
        recorder_pid: int,
        proc: Path = PROC,
    ) -> None:
        self._roots = roots
        self._recorder_pid = recorder_pid
        self._gpus = gpus
        self._proc = proc
        self._job = JobProcesses(lambda process: environment_has(process.pid, mark, proc))
        self._table: dict[int, Process] = {}
        self._busy_s = 0.0
        self._last_ns = time.monotonic_ns()
        self._debt_s = 0.0
        self._asked = False
        self._looks = 0
        self._pace_s = READ_INTERVAL_S
        sources = {"cpu": "proc.cpu_time", "dram": "proc.resident_memory"} if host else {}
        sources |= {gpu.component: "nvml.process_utilization" for gpu in gpus}
        self._components = tuple(sources)
        self.channels: Sequence[Channel] = tuple(
            _channel(component, quantity, source)
            for component, source in sources.items()
            for quantity in (Quantity.USE, Quantity.JOB_USE)
        )
        self._counted = dict.fromkeys(self._components, (0.0, 0.0))
        self._others = {name: Others(name, self._last_ns) for name in self._components}

    def ask(self) -> None:
        """Lets the next look come early, on credit: somebody wants to know by now."""
        self._asked = True

    def read(self) -> list[Reading | Gap | Happening]:
        """The counters, and who else there is; nothing where it is too early for a look."""
        t_ns = time.monotonic_ns()
        since_ns = t_ns - self._last_ns
        asked, self._asked = self._asked, False
        debt_s = max(0.0, self._debt_s - CPU_SHARE * since_ns * 1e-9)
        # The second look may follow at once: with it there is something to say.
        too_early = self._looks > 1 and since_ns < LEAST_APART_NS
        if too_early or debt_s > (CREDIT_S if asked else 0.0):
            return []
        begin_s = time.thread_time()
        self._last_ns = t_ns
        found = self._look(t_ns, since_ns * 1e-9)
        if self._looks > 0:
            cost_s = time.thread_time() - begin_s
            self._debt_s = debt_s + cost_s
            found += self._slower(t_ns, cost_s / CPU_SHARE)
        self._looks += 1
        return found

    def close(self) -> None:
        """Lets go of the GPUs."""
        for gpu in self._gpus:
            gpu.close()

    def _slower(self, t_ns: int, pace_s: float) -> list[Happening]:
        """Tells how far apart looks are, where that is farther than was said."""
        if pace_s < WORTH_TELLING * self._pace_s:
            return []
        self._pace_s = pace_s
        return [Happening(t_ns, {"event": "looks", "pace_s": round(pace_s, 3)})]

    def _look(self, t_ns: int, duration_s: float) -> list[Reading | Gap | Happening]:
        roots = self._roots()
        try:
            table = read_processes(self._proc)
        except OSError as error:
            return self._gaps(t_ns, f"processes cannot be read: {error}")
        if not any(pid in table for pid in roots) and not self._job.pids:
            return self._gaps(t_ns, NOT_SEEN)
        before, self._table = self._table, table
        job_s = self._job.update(table, {*roots, self._recorder_pid})
        found: list[Reading | Gap | Happening] = []
        for position, component in enumerate(self._components):
            try:
                if component == "cpu":
                    use = self._cpu(before, job_s)
                elif component == "dram":
                    use = self._memory(duration_s)
                else:
                    gpu = next(one for one in self._gpus if one.component == component)
                    use = gpu.look(self._job.pids, table, duration_s)
            except (CannotTell, OSError, ValueError) as error:
                found += [Gap(t_ns, 2 * position + k, str(error)) for k in (0, 1)]
                continue
            if before:
                found += self._count(component, use, t_ns)
            all_s, own_s = self._counted[component]
            found += [Reading(t_ns, 2 * position, all_s), Reading(t_ns, 2 * position + 1, own_s)]
        return found

    def _count(self, component: str, use: Use, t_ns: int) -> list[Happening]:
        all_s, own_s = self._counted[component]
        self._counted[component] = all_s + use.all_s, own_s + use.job_s
        others = self._others[component]
        others.add(use.others, use.all_s)
        told = others.told(t_ns)
        return [] if told is None else [told]

    def _cpu(self, before: Mapping[int, Process], job_s: float) -> Use:
        """CPU time. What no process accounts for is others': the kernel's, or short-lived."""
        busy_before_s, self._busy_s = self._busy_s, busy_s(self._proc)
        others: dict[Key, tuple[str, float]] = {}
        for pid, process in self._table.items():
            if pid not in self._job.pids:
                used_s = process.own_since_s(before)
                if used_s > 0:
                    others[process.key] = process.name, used_s
        # The kernel samples the whole and measures the parts: the whole may come out smaller.
        parts_s = job_s + sum(used_s for _, used_s in others.values())
        return Use(job_s, max(self._busy_s - busy_before_s, parts_s), others)

    def _memory(self, duration_s: float) -> Use:
        """Memory in RAM times time, as a part of all memory of the machine."""
        memory = psutil.virtual_memory()
        used_bytes = memory.total - memory.available
        own_bytes = min(sum(one.resident_bytes for one in self._job.members), used_bytes)
        return Use(
            own_bytes / memory.total * duration_s, used_bytes / memory.total * duration_s, {}
        )

    def _gaps(self, t_ns: int, reason: str) -> list[Reading | Gap | Happening]:
        return [Gap(t_ns, position, reason) for position in range(len(self.channels))]


def with_sharing(
    found: Discovery, roots: Callable[[], Collection[int]], directory: Path
) -> Discovery:
    """The sensors, and beside real ones that of who uses what they measure.

    Args:
        found: The sensors.
        roots: Tells the processes that are measured now.
        directory: Where is recorded to, which is in the environment of what ``joulelab run``
            started.
    """
    real = {
        channel.component.partition(":")[0]
        for sensor in found.sensors
        for channel in sensor.channels
        if channel.gives_energy and channel.provenance is not Provenance.SIMULATED
    }
    host = bool(real & {"cpu", "dram"})
    gpus = [
        GpuUse(sensor.channels[0].component, sensor.uuids[0])
        for sensor in found.sensors
        if isinstance(sensor, NvmlSensor)
    ]
    if not host and not gpus:
        return found
    mark = b"JOULELAB_RECORDING=" + os.fsencode(directory)
    sharing = SharingSensor(roots, gpus, host=host, mark=mark, recorder_pid=os.getpid())
    return Discovery((*found.sensors, sharing), found.absent)


def _channel(component: str, quantity: Quantity, source: str) -> Channel:
    return Channel(
        component=component,
        quantity=quantity,
        source=source,
        provenance=Provenance.MEASURED,
        update_period_s=READ_INTERVAL_S,
        resolution=1 / KERNEL_TICKS_PER_S,
    )
