"""Which processes use a GPU, and how much each of them does, as the driver reports it (NVML)."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from joulelab.sensors.nvml_binding import (
    FUNCTION_NOT_FOUND,
    INSUFFICIENT_SIZE,
    NOT_FOUND,
    NOT_SUPPORTED,
    SUCCESS,
    UPGRADE_HINT,
    NvmlError,
    call,
)
from joulelab.sensors.processes import PROC, Key, Process, sees_whole_machine

CLOCK_SLACK_US = 1_000_000
"""A sample's timestamp may be at most this far in the future."""
MOST_PID = 1 << 22
"""The kernel's largest (PID_MAX_LIMIT, linux/threads.h)."""
TRIES = 3
"""How often samples are requested while new ones keep coming."""


class Use(NamedTuple):
    """The use of a component since the last scan, in seconds of full use."""

    job_s: float
    all_s: float
    others: Mapping[Key, tuple[str, float]]


class UseUnknown(Exception):
    """It is unknown how a component's use is divided; the message says why.

    Attributes:
        holders: Other processes that have a context for computing, which may use it.
    """

    def __init__(
        self, message: str, holders: Mapping[Key, tuple[str, float]] | None = None
    ) -> None:
        super().__init__(message)
        self.holders = holders or {}


class GpuUse:
    """One GPU's use by process: the time for which each had a kernel on its SMs."""

    def __init__(self, component: str, uuid: str, proc: Path = PROC) -> None:
        self.component = component
        self._uuid = uuid
        self._proc = proc
        self._is_host = sees_whole_machine(proc)
        self._handle: Any = None
        self._last_us = time.time_ns() // 1000
        call("nvmlInit")

    def close(self) -> None:
        """Shut NVML down."""
        call("nvmlShutdown")

    def scan(self, job: Collection[int], table: Mapping[int, Process], duration_s: float) -> Use:
        """Find out who used the GPU since the last scan, by the job's and all visible processes.

        Raises:
            UseUnknown: The driver does not report it, or its pids have no meaning here.
        """
        try:
            if self._handle is None:
                self._handle = call("nvmlDeviceGetHandleByUUID", self._uuid)
            computing, present = self._present()
            is_busy = call("nvmlDeviceGetUtilizationRates", self._handle).gpu > 0
        except NvmlError as error:
            self._handle = None
            raise UseUnknown(
                f"the driver does not report which processes use it: {error}"
            ) from error
        utilization, refused = self._utilization()
        pids = present | utilization.keys()
        if pids or is_busy:
            self._check_namespace(pids, table)
        others = pids - set(job)
        used = {pid: utilization.get(pid, 0.0) * duration_s for pid in pids}
        named = {
            (table[pid].key if pid in table else (pid, 0)): (_name(pid, table), used[pid])
            for pid in others
            if used[pid] or pid in computing
        }
        if refused is not None:
            if others:
                names = ", ".join(f"{_name(pid, table)} (pid {pid})" for pid in sorted(others))
                raise UseUnknown(
                    f"{names} may use it too, and the driver does not report the use of each "
                    f"process: {refused}",
                    named,
                )
            used_s = duration_s if pids else 0.0
            return Use(used_s, used_s, {})
        return Use(sum(used[pid] for pid in pids - others), sum(used.values()), named)

    def _present(self) -> tuple[set[int], set[int]]:
        """The processes with a context for computing on the GPU, and those with any context."""
        found = call("nvmlDeviceGetComputeRunningProcesses", self._handle)
        computing = {int(one.pid) for one in found}
        try:
            found = [*found, *call("nvmlDeviceGetGraphicsRunningProcesses", self._handle)]
        except NvmlError as error:
            if error.code not in (NOT_SUPPORTED, FUNCTION_NOT_FOUND):
                raise
        present = {int(one.pid) for one in found}
        wrong = next((pid for pid in present if not 0 < pid <= MOST_PID), None)
        if wrong is not None:
            # nvidia-ml-py 12.535.77 takes an entry for larger than it is.
            raise UseUnknown(
                f"nvidia-ml-py misreads the driver's list of processes (pid {wrong}): "
                f"{UPGRADE_HINT}"
            )
        return computing, present

    def _utilization(self) -> tuple[dict[int, float], NvmlError | None]:
        """SM utilisation by process since the last scan, 0 to 1; or why there is none."""
        latest_us = time.time_ns() // 1000 + CLOCK_SLACK_US
        # The driver's timestamps are wall time, and the wall clock may have been set back.
        self._last_us = min(self._last_us, latest_us)
        try:
            samples = self._samples()
        except NvmlError as error:
            # No process has done anything since, or the binding reports an empty list as an error.
            return {}, None if error.code in (NOT_FOUND, SUCCESS) else error
        newest_us = self._last_us
        by_pid: dict[int, list[float]] = {}
        for sample in samples:
            # Some drivers fill up the list with garbage.
            if self._last_us < sample.timeStamp <= latest_us and sample.smUtil <= 100:
                by_pid.setdefault(int(sample.pid), []).append(sample.smUtil / 100)
                newest_us = max(newest_us, int(sample.timeStamp))
        self._last_us = newest_us
        # A process has no sample for a period in which it did nothing.
        periods = max((len(values) for values in by_pid.values()), default=0)
        return {pid: sum(values) / periods for pid, values in by_pid.items()}, None

    def _samples(self) -> list[Any]:
        """The driver's samples since the last scan.

        The binding first requests their number: another may come in between.
        """
        for _ in range(TRIES - 1):
            try:
                return list(call("nvmlDeviceGetProcessUtilization", self._handle, self._last_us))
            except NvmlError as error:
                if error.code != INSUFFICIENT_SIZE:
                    raise
        return list(call("nvmlDeviceGetProcessUtilization", self._handle, self._last_us))

    def _check_namespace(self, pids: Collection[int], table: Mapping[int, Process]) -> None:
        """Check that the driver's pids, which are the host's, mean the processes in ``/proc``."""
        if self._is_host:
            if not pids:
                raise UseUnknown("it is working, but the driver names no process that uses it")
            return
        if not pids:
            raise UseUnknown("a container cannot see which processes use it")
        if not all(pid in table and _has_device(self._proc, pid) for pid in pids):
            raise UseUnknown(
                f"{len(pids)} processes use it, and a container cannot see which of them are yours"
                if len(pids) > 1
                else "one process uses it, and a container cannot see whether it is yours"
            )


def _has_device(proc: Path, pid: int) -> bool:
    """Whether a process has a device file of the NVIDIA driver open."""
    try:
        links = [str(link.readlink()) for link in (proc / str(pid) / "fd").iterdir()]
    except OSError:
        return False
    return any(link.startswith("/dev/nvidia") for link in links)


def _name(pid: int, table: Mapping[int, Process]) -> str:
    return table[pid].name if pid in table else "an invisible process"
