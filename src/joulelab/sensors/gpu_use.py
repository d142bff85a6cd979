"""Which processes use a GPU, and how much each does, as the driver tells it (NVML)."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pynvml

from joulelab.sensors.process_table import PROC, Key, Process, sees_whole_machine

CLOCK_SLACK_US = 1_000_000
"""A sample is not from a later time than this after now."""
TRIES = 3
"""So often samples are asked for when there are more of them than there were a moment before."""


class Use(NamedTuple):
    """What was used of a component since the last look.

    Attributes:
        job_s: By the job, in seconds of full use.
        all_s: By all.
        others: By each of the others, with its name.
    """

    job_s: float
    all_s: float
    others: Mapping[Key, tuple[str, float]]


class CannotTell(Exception):
    """How a component's use is divided cannot be told; the message says why."""


class GpuUse:
    """One GPU's use by process: the time for which each had a kernel running, as of the SMs.

    Args:
        component: As ``"gpu:0"``.
        uuid: The board's.
        proc: Where ``/proc`` is.

    Raises:
        pynvml.NVMLError: NVML does not start.
    """

    def __init__(self, component: str, uuid: str, proc: Path = PROC) -> None:
        self.component = component
        self._uuid = uuid
        self._proc = proc
        self._handle: Any = None
        self._last_us = time.time_ns() // 1000
        pynvml.nvmlInit()

    def close(self) -> None:
        """Lets go of NVML."""
        pynvml.nvmlShutdown()

    def look(self, job: Collection[int], table: Mapping[int, Process], duration_s: float) -> Use:
        """Who used it since the last look.

        Args:
            job: The job's processes.
            table: All processes that can be seen.
            duration_s: Since the last look.

        Raises:
            CannotTell: The driver does not say, or not in a way that can be understood here.
        """
        try:
            if self._handle is None:
                self._handle = pynvml.nvmlDeviceGetHandleByUUID(self._uuid)
            there = self._there()
            is_busy = pynvml.nvmlDeviceGetUtilizationRates(self._handle).gpu > 0
        except pynvml.NVMLError as error:
            self._handle = None
            raise CannotTell(f"the driver does not tell who uses it: {error}") from error
        utilization, refused = self._utilization()
        pids = there | utilization.keys()
        if pids or is_busy:
            self._check_namespace(pids, table)
        others = pids - set(job)
        if refused is not None:
            if others:
                names = ", ".join(_named(pid, table) for pid in sorted(others))
                raise CannotTell(
                    f"{names} may use it too, and the driver does not tell how much each process "
                    f"does: {refused}"
                )
            used_s = duration_s if pids else 0.0
            return Use(used_s, used_s, {})
        used = {pid: utilization.get(pid, 0.0) * duration_s for pid in pids}
        named = {_key(pid, table): (_name(pid, table), used[pid]) for pid in others}
        return Use(sum(used[pid] for pid in pids - others), sum(used.values()), named)

    def _there(self) -> set[int]:
        """The processes with a context on the GPU."""
        found = pynvml.nvmlDeviceGetComputeRunningProcesses(self._handle)
        with contextlib.suppress(pynvml.NVMLError_NotSupported):
            found = [*found, *pynvml.nvmlDeviceGetGraphicsRunningProcesses(self._handle)]
        return {int(one.pid) for one in found}

    def _utilization(self) -> tuple[dict[int, float], pynvml.NVMLError | None]:
        """SM utilisation by process since the last look, 0 to 1; or why there is none."""
        latest_us = time.time_ns() // 1000 + CLOCK_SLACK_US
        # The driver stamps in wall time, and the wall clock may have been set back.
        self._last_us = min(self._last_us, latest_us)
        try:
            samples = self._samples()
        except pynvml.NVMLError_NotFound:
            # Nobody has done anything since.
            return {}, None
        except pynvml.NVMLError as error:
            # The binding takes an empty list for an error.
            return {}, None if error.value == pynvml.NVML_SUCCESS else error
        newest_us = self._last_us
        by_pid: dict[int, list[float]] = {}
        for sample in samples:
            # Drivers are known to fill up the list with rubbish.
            if self._last_us < sample.timeStamp <= latest_us and sample.smUtil <= 100:
                by_pid.setdefault(int(sample.pid), []).append(sample.smUtil / 100)
                newest_us = max(newest_us, int(sample.timeStamp))
        self._last_us = newest_us
        # A process has no sample for a period in which it did nothing.
        periods = max((len(values) for values in by_pid.values()), default=0)
        return {pid: sum(values) / periods for pid, values in by_pid.items()}, None

    def _samples(self) -> list[Any]:
        """What the driver has sampled since the last look.

        The binding asks how many there are and then for so many: one may come in between.
        """
        for _ in range(TRIES - 1):
            with contextlib.suppress(pynvml.NVMLError_InsufficientSize):
                return list(pynvml.nvmlDeviceGetProcessUtilization(self._handle, self._last_us))
        return list(pynvml.nvmlDeviceGetProcessUtilization(self._handle, self._last_us))

    def _check_namespace(self, pids: Collection[int], table: Mapping[int, Process]) -> None:
        """The driver's pids are the host's: in a container they mean nothing, or are not given.

        Raises:
            CannotTell: So it is here, or nobody is named who uses it.
        """
        if sees_whole_machine(self._proc):
            if not pids:
                raise CannotTell("it is at work, and the driver names no process that uses it")
            return
        if not pids:
            raise CannotTell("which processes use it cannot be seen in this container")
        if not all(pid in table and _has_device(self._proc, pid) for pid in pids):
            count = len(pids)
            raise CannotTell(
                f"{count} processes use it, and which of them are yours cannot be told in this "
                "container"
                if count > 1
                else "one process uses it, and whether it is yours cannot be told in this container"
            )


def _has_device(proc: Path, pid: int) -> bool:
    """Whether a process holds a device file of the NVIDIA driver."""
    try:
        links = [str(link.readlink()) for link in (proc / str(pid) / "fd").iterdir()]
    except OSError:
        return False
    return any(link.startswith("/dev/nvidia") for link in links)


def _key(pid: int, table: Mapping[int, Process]) -> Key:
    return table[pid].key if pid in table else (pid, 0)


def _name(pid: int, table: Mapping[int, Process]) -> str:
    return table[pid].name if pid in table else "a process that cannot be seen"


def _named(pid: int, table: Mapping[int, Process]) -> str:
    return f"{_name(pid, table)} (pid {pid})"
