"""How much of the machine the job uses, and who else uses it: a sensor that scans processes.

Processes are scanned once a second if that costs less than half of :data:`CPU_SHARE` of a core, and
less often otherwise. A scan that is requested may come earlier, on credit, which later scans pay
back by coming later. The names of processes are recorded, but never their arguments.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path

import psutil

from joulelab.sensors.gpu_processes import GpuUse, Use, UseUnknown
from joulelab.sensors.job_files import JobFiles
from joulelab.sensors.nvml import NvmlSensor
from joulelab.sensors.processes import (
    KERNEL_TICKS_PER_S,
    PROC,
    REPORT_EVERY_S,
    JobProcesses,
    Key,
    Process,
    busy_s,
    environment_has,
    read_processes,
    ticks_since_boot,
)
from joulelab.sensors.sensor import (
    Channel,
    DataPlace,
    Discovery,
    Gap,
    Provenance,
    Quantity,
    Reading,
    SensorEvent,
)

READ_INTERVAL_S = 1.0
CPU_SHARE = 0.002
"""Scans take at most this share of one core."""
CHEAP_INTERVAL_S = 1.5
"""Scans take half of that, as long as they are not further apart than the next second."""
IDLE_SCANS = 4
"""Other processes that did nothing between two scans are read again at one in this many scans."""
CREDIT_S = 0.1
"""CPU time that requested scans may take in advance."""
LEAST_APART_NS = 250_000_000
"""Use in less time than this is lost in the ticks that the kernel counts."""
WORTH_REPORTING = 1.25
"""A longer time between scans is reported again if it grew by this factor."""
NOT_SEEN = "the measured process is not visible"

_FILE_PLACES = tuple(
    (place, quantity)
    for place in (DataPlace.FILES, DataPlace.DISKS)
    for quantity in (Quantity.READ, Quantity.WRITTEN)
)
"""In the order of :class:`~joulelab.sensors.job_files.FileBytes`."""

MOST_NAMED = 10
"""Number of other processes that one event names."""
WORTH_NAMING = 0.01
"""Share of all use, and of the time, below which a process is not named."""
WORTH_NAMING_NOW = 0.05
"""Share above which a process that was not named before is reported immediately."""


class SharingSensor:
    """The use of each component by the job and by all processes, and the job's files, as counters.

    The job consists of the measured processes (``roots``), all that they start, the recorder, and
    processes with the entry ``mark`` in their environment. Its processes that started after the
    recorder was launched (CLOCK_MONOTONIC) count all that they read and write.
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
        launched_ns: int | None = None,
        proc: Path = PROC,
    ) -> None:
        self._roots = roots
        self._recorder_pid = recorder_pid
        self._gpus = {gpu.component: gpu for gpu in gpus}
        self._proc = proc
        self._job = JobProcesses(lambda process: environment_has(process.pid, mark, proc))
        self._table: dict[int, Process] = {}
        self._skipped: dict[int, Process] = {}
        self._idle: dict[int, Process] = {}
        self._busy_s = 0.0
        self._last_ns = self._start_ns = time.monotonic_ns()
        self._debt_s = 0.0
        self._requested = False
        self._scans = 0
        self._interval_s = READ_INTERVAL_S
        sources = {"cpu": "proc.cpu_time", "dram": "proc.resident_memory"} if host else {}
        sources |= dict.fromkeys(self._gpus, "nvml.process_utilization")
        self._components = tuple(sources)
        launched_ns = self._last_ns if launched_ns is None else launched_ns
        self._files = JobFiles(ticks_since_boot(launched_ns), recorder_pid, proc)
        self._has_files = False
        measured = partial(Channel, provenance=Provenance.MEASURED, update_period_s=READ_INTERVAL_S)
        tick_s = 1 / KERNEL_TICKS_PER_S
        self.channels: Sequence[Channel] = (
            *(
                measured(component=component, quantity=quantity, source=source, resolution=tick_s)
                for component, source in sources.items()
                for quantity in (Quantity.USE, Quantity.JOB_USE)
            ),
            *(
                measured(
                    component=place,
                    quantity=quantity,
                    source="proc.io",
                    resolution=1,
                    note="programs of the job",
                )
                for place, quantity in _FILE_PLACES
            ),
        )
        self._counted = dict.fromkeys(self._components, (0.0, 0.0))
        self._others = {name: OtherUse(name, self._last_ns) for name in self._components}

    def request(self) -> None:
        """Let the next scan come early, on credit: a client needs its result."""
        self._requested = True

    def read(self) -> list[Reading | Gap | SensorEvent]:
        """Return the counters and the other users; files alone if it is too early for a scan."""
        t_ns = time.monotonic_ns()
        since_ns = t_ns - self._last_ns
        requested, self._requested = self._requested, False
        debt_s = max(0.0, self._debt_s - CPU_SHARE * since_ns * 1e-9)
        # The second scan may follow immediately: it is the first that has a result.
        too_early = self._scans > 1 and since_ns < LEAST_APART_NS
        if too_early or debt_s > (CREDIT_S if requested else 0.0):
            # The processes that are known were waiting for any others.
            return list(self._files_read(t_ns)) if requested and self._has_files else []
        begin_s = time.thread_time()
        self._last_ns = t_ns
        found = self._scan(t_ns, since_ns * 1e-9)
        if self._scans > 0:
            cost_s = time.thread_time() - begin_s
            cost_s = min(2 * cost_s, max(cost_s, CHEAP_INTERVAL_S * CPU_SHARE))
            self._debt_s = debt_s + cost_s
            found += self._slower(t_ns, cost_s / CPU_SHARE)
        self._scans += 1
        return found

    def close(self) -> None:
        """Close the GPUs."""
        for gpu in self._gpus.values():
            gpu.close()

    def _slower(self, t_ns: int, interval_s: float) -> list[SensorEvent]:
        """Report the time between scans if it is longer than reported before."""
        if interval_s < WORTH_REPORTING * self._interval_s:
            return []
        self._interval_s = interval_s
        return [SensorEvent(t_ns, {"event": "looks", "pace_s": round(interval_s, 3)})]

    def _scan(self, t_ns: int, duration_s: float) -> list[Reading | Gap | SensorEvent]:
        roots = self._roots()
        late = self._skipped
        self._skipped = {
            pid: process
            for pid, process in self._idle.items()
            if (pid + self._scans) % IDLE_SCANS
            and pid not in roots
            and pid not in self._job.members
        }
        try:
            table = read_processes(self._proc, self._skipped)
        except OSError as error:
            return self._gaps(t_ns, f"processes cannot be read: {error}")
        if not any(pid in table for pid in roots) and not self._job.members:
            return self._gaps(t_ns, NOT_SEEN)
        before, self._table = self._table, table
        self._idle = {pid: one for pid, one in table.items() if one == before.get(pid)}
        job_s = self._job.update(table, {*roots, self._recorder_pid})
        found: list[Reading | Gap | SensorEvent] = []
        for position, component in enumerate(self._components):
            try:
                if component == "cpu":
                    use = self._cpu(before, job_s, late)
                elif component == "dram":
                    use = self._memory(duration_s)
                else:
                    use = self._gpus[component].scan(self._job.members, table, duration_s)
            except (UseUnknown, OSError, ValueError) as error:
                found += [Gap(t_ns, 2 * position + k, str(error)) for k in (0, 1)]
                if isinstance(error, UseUnknown) and before:
                    found += self._name(component, error.holders, 0.0, t_ns)
                continue
            if before:
                found += self._count(component, use, t_ns)
            all_s, own_s = self._counted[component]
            found += [Reading(t_ns, 2 * position, all_s), Reading(t_ns, 2 * position + 1, own_s)]
        return [*found, *self._files_read(t_ns)]

    def _files_read(self, t_ns: int) -> list[Reading | Gap]:
        """Return the counters of the job's files, which begin at 0."""
        first = 2 * len(self._components)
        found: list[Reading | Gap] = []
        if not self._has_files:
            self._has_files = True
            found += [Reading(self._start_ns, first + k, 0.0) for k in range(len(_FILE_PLACES))]
        try:
            self._files.update(self._job.members)
        except (OSError, ValueError) as error:
            return [Gap(t_ns, first + k, str(error)) for k in range(len(_FILE_PLACES))]
        total = enumerate(self._files.total, start=first)
        return [*found, *(Reading(t_ns, channel, value) for channel, value in total)]

    def _count(self, component: str, use: Use, t_ns: int) -> list[SensorEvent]:
        all_s, own_s = self._counted[component]
        self._counted[component] = all_s + use.all_s, own_s + use.job_s
        return self._name(component, use.others, use.all_s, t_ns)

    def _name(
        self, component: str, used: Mapping[Key, tuple[str, float]], all_s: float, t_ns: int
    ) -> list[SensorEvent]:
        """Add up what other processes used, and name them if it is time to."""
        others = self._others[component]
        others.add(used, all_s)
        report = others.report(t_ns)
        return [] if report is None else [report]

    def _cpu(self, before: Mapping[int, Process], job_s: float, late: Collection[int]) -> Use:
        """CPU time. What belongs to no process (kernel, short-lived) counts as others'."""
        busy_before_s, self._busy_s = self._busy_s, busy_s(self._proc)
        others: dict[Key, tuple[str, float]] = {}
        for pid, process in self._table.items():
            if pid not in self._job.members:
                used_s = process.used_since_s(before, children=False)
                if used_s > 0:
                    others[process.key] = process.name, used_s
        # The kernel samples the whole and measures the parts: the whole may come out smaller.
        # What was not read last time may have used its part before.
        parts_s = job_s + sum(used_s for (pid, _), (_, used_s) in others.items() if pid not in late)
        return Use(job_s, max(self._busy_s - busy_before_s, parts_s), others)

    def _memory(self, duration_s: float) -> Use:
        """Memory in RAM times time, as a share of all memory of the machine."""
        memory = psutil.virtual_memory()
        used_bytes = memory.total - memory.available
        own_bytes = min(self._job.resident_bytes, used_bytes)
        return Use(
            own_bytes / memory.total * duration_s, used_bytes / memory.total * duration_s, {}
        )

    def _gaps(self, t_ns: int, reason: str) -> list[Reading | Gap | SensorEvent]:
        return [Gap(t_ns, position, reason) for position in range(len(self.channels))]


class OtherUse:
    """Adds up what other processes use of a component, and reports the top ones at times.

    Example:
        >>> others = OtherUse("cpu", 0)
        >>> others.add({(7, 100): ("stress", 0.9)}, 1.5)
        >>> others.report(10**9).fields["used"]
        [[7, 'stress', 0.9]]
        >>> others.report(2 * 10**9) is None  # nothing since
        True
    """

    def __init__(self, component: str, t_ns: int) -> None:
        self._component = component
        self._since_ns = t_ns
        self._all_s = 0.0
        self._used: dict[Key, tuple[str, float]] = {}
        self._named: set[Key] = set()

    def add(self, used: Mapping[Key, tuple[str, float]], all_s: float) -> None:
        """Add each process's name and use since the last scan, and the use of all together, s."""
        self._all_s += all_s
        for key, (name, used_s) in used.items():
            self._used[key] = name, self._used.get(key, ("", 0.0))[1] + used_s

    def report(self, t_ns: int) -> SensorEvent | None:
        """Return the event that names them, if it is due and there are any."""
        period_s = (t_ns - self._since_ns) * 1e-9
        new = self._above(WORTH_NAMING_NOW, period_s).keys() - self._named
        if period_s < REPORT_EVERY_S and not new:
            return None
        worth = self._above(WORTH_NAMING, period_s)
        most = sorted(worth, key=lambda key: -worth[key][1])
        fields = {
            "event": "others",
            "component": self._component,
            "since_ns": self._since_ns,
            "all_s": round(self._all_s, 3),
            "used": [[key[0], worth[key][0], round(worth[key][1], 3)] for key in most[:MOST_NAMED]],
            "more": len(most[MOST_NAMED:]),
        }
        self._since_ns, self._all_s, self._used, self._named = t_ns, 0.0, {}, set(most)
        return SensorEvent(t_ns, fields) if most else None

    def _above(self, share: float, period_s: float) -> dict[Key, tuple[str, float]]:
        """Select who used more than a share, or has a context on a GPU and did nothing."""
        least_s = share * max(self._all_s, period_s)
        return {key: one for key, one in self._used.items() if one[1] > least_s or not one[1]}


def with_sharing(
    found: Discovery,
    roots: Callable[[], Collection[int]],
    directory: Path,
    launched_ns: int | None = None,
) -> Discovery:
    """Add to real sensors the one that finds out who uses what they measure.

    ``joulelab run`` names the recording's directory in the environment of the command.
    """
    real = {
        channel.component.partition(":")[0]
        for sensor in found.sensors
        for channel in sensor.channels
        if channel.gives_energy and channel.provenance is not Provenance.SIMULATED
    }
    host = bool(real & {"cpu", "dram"})
    gpus = [
        GpuUse(sensor.component, sensor.uuids[0])
        for sensor in found.sensors
        if isinstance(sensor, NvmlSensor)
    ]
    if not host and not gpus:
        return found
    mark = b"JOULELAB_RECORDING=" + os.fsencode(directory)
    sharing = SharingSensor(
        roots, gpus, host=host, mark=mark, recorder_pid=os.getpid(), launched_ns=launched_ns
    )
    return Discovery((*found.sensors, sharing), found.absent)
