"""Processes that the kernel shows, and which of them belong to the measured job (proc(5))."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

PROC = Path("/proc")
REPORT_EVERY_S = 10.0
"""Recordings name the busiest processes again after this time."""
KERNEL_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_LONGEST_STAT = 4096
_LONGEST_ENVIRONMENT = 1 << 20
_FIRST_NAMESPACE = "pid:[4026531836]"
"""PROC_PID_INIT_INO (linux/proc_ns.h)."""

Key = tuple[int, int]
"""Pid and start time: they identify a process even if its pid is used again."""


class Process(NamedTuple):
    """One process, from ``/proc/PID/stat``."""

    pid: int
    name: str  # Name of its program, at most 15 bytes; never its arguments, which may be secret.
    parent: int
    group: int
    session: int
    own_s: float  # CPU time of its threads.
    children_s: float  # CPU time of its descendants that have ended and were waited for.
    started: int  # Start time, in ticks since boot.
    resident_bytes: int  # Its memory in RAM, including memory shared with others.

    @property
    def key(self) -> Key:
        """Pid and start time."""
        return self.pid, self.started

    def used_since_s(self, before: Mapping[int, Process], *, children: bool) -> float:
        """Return its CPU time since an earlier scan, with or without children it waited for."""
        earlier = before.get(self.pid)
        if earlier is None or earlier.key != self.key:
            return self.own_s + children * self.children_s
        return self.own_s - earlier.own_s + children * (self.children_s - earlier.children_s)


def parse_stat(data: bytes) -> Process:
    """Parse a line of ``/proc/PID/stat``.

    Example:
        >>> line = b"7 (a) b) S 1 7 7 0 -1 0 0 0 0 0 150 50 30 20 20 0 1 0 900 0 3 0"
        >>> process = parse_stat(line)
        >>> process.name, process.parent, process.own_s, process.children_s, process.key
        ('a) b', 1, 2.0, 0.5, (7, 900))
    """
    # A name may contain spaces and brackets.
    head, _, tail = data.rpartition(b")")
    pid, _, name = head.partition(b" (")
    fields = tail.split(None, 23)
    return Process(
        pid=int(pid),
        name=name.decode(errors="replace"),
        parent=int(fields[1]),
        group=int(fields[2]),
        session=int(fields[3]),
        own_s=(int(fields[11]) + int(fields[12])) / KERNEL_TICKS_PER_S,
        children_s=(int(fields[13]) + int(fields[14])) / KERNEL_TICKS_PER_S,
        started=int(fields[19]),
        resident_bytes=int(fields[21]) * _PAGE_BYTES,
    )


def read_processes(
    proc: Path = PROC, idle: Mapping[int, Process] = MappingProxyType({})
) -> dict[int, Process]:
    """Read every visible process, by pid; one that ends during the scan is left out.

    Args:
        proc: Root of procfs.
        idle: Processes that are not read again if they still exist.

    Raises:
        OSError: There is no ``/proc``, or its pids are those of another namespace.
    """
    if os.readlink(f"{proc}/self") != str(os.getpid()):  # noqa: PTH115  (as below)
        raise OSError(f"{proc} has the pids of another namespace")
    found = {}
    for entry in os.listdir(proc):  # noqa: PTH208  (500 Path objects a second would cost too much)
        if entry.isdecimal():
            pid = int(entry)
            try:
                found[pid] = idle.get(pid) or parse_stat(
                    read_file(f"{proc}/{entry}/stat", _LONGEST_STAT)
                )
            except (OSError, ValueError, IndexError):
                continue
    return found


def busy_s(proc: Path = PROC) -> float:
    """Return the CPU time that all processors have worked since boot, without stolen time."""
    words = read_file(f"{proc}/stat", _LONGEST_STAT).split(b"\n", 1)[0].split()
    # The kernel counts guests within user and nice.
    user, nice, system, _idle, _iowait, irq, softirq = (int(word) for word in words[1:8])
    ticks = user + nice + system + irq + softirq
    if not ticks:
        raise ValueError(f"{proc}/stat counts no CPU time")
    return ticks / KERNEL_TICKS_PER_S


def environment_has(pid: int, entry: bytes, proc: Path = PROC) -> bool:
    """Return whether a process was started with ``b"NAME=value"``; false if it is not readable."""
    try:
        return entry in read_file(f"{proc}/{pid}/environ", _LONGEST_ENVIRONMENT).split(b"\0")
    except OSError:
        return False


def ticks_since_boot(t_ns: int) -> int:
    """Return a time on CLOCK_MONOTONIC as start times of processes are given."""
    suspended_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - time.monotonic_ns()
    return (t_ns + suspended_ns) * KERNEL_TICKS_PER_S // 1_000_000_000


def sees_whole_machine(proc: Path = PROC) -> bool:
    """Return whether ``/proc`` shows all processes of the machine: not so in a container."""
    try:
        return str((proc / "self/ns/pid").readlink()) == _FIRST_NAMESPACE
    except OSError:
        return False


def read_file(path: str, size: int) -> bytes:
    """Read a file of the kernel's in one piece.

    Raises:
        OSError: It cannot be read, or its process has ended.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, size)
    finally:
        os.close(descriptor)


class JobProcesses:
    """The measured processes, and everything that they start.

    A process belongs to the job if it is measured or its parent belongs to the job, and for as
    long as it lives. One whose parent ended before it was seen (a daemon) is recognised by a
    process group or session that the job created, or by its environment (``is_marked``).

    Example:
        >>> def process(pid, parent, own_s, children_s=0.0):
        ...     return Process(pid, "a", parent, pid, 1, own_s, children_s, pid, 0)
        >>> job = JobProcesses()
        >>> job.update({2: process(2, 1, 5.0), 3: process(3, 2, 1.0), 4: process(4, 1, 9.0)}, [2])
        0.0
        >>> sorted(job.members)
        [2, 3]

        The child ends after another 0.5 s of CPU time; its parent has waited for it.

        >>> job.update({2: process(2, 1, 5.25, 1.5), 4: process(4, 1, 9.5)}, [2])
        0.75
    """

    def __init__(self, is_marked: Callable[[Process], bool] = lambda _: False) -> None:
        self._is_marked = is_marked
        self._table: Mapping[int, Process] = {}
        self._members: dict[int, Process] = {}
        self._leaders: set[int] = set()
        self._since: int | None = None

    @property
    def members(self) -> Mapping[int, Process]:
        """The job's processes at the last scan, by pid."""
        return self._members

    @property
    def resident_bytes(self) -> int:
        """Memory of the job's processes in RAM at the last scan."""
        return sum(one.resident_bytes for one in self._members.values())

    def update(self, table: Mapping[int, Process], roots: Collection[int]) -> float:
        """Take the result of a new scan. Return the job's CPU time since the last one, s.

        The use of a process that started and ended between two scans is known from the parent that
        waited for it. ``roots`` are the measured processes.
        """
        before, table_before = self._members, self._table
        self._members, self._table = self._find(table, roots), table
        return self._used_s(before, table_before) if table_before else 0.0

    def _find(self, table: Mapping[int, Process], roots: Collection[int]) -> dict[int, Process]:
        known = {process.key for process in self._members.values()}
        waiting = [
            process for pid, process in table.items() if pid in roots or process.key in known
        ]
        started = [table[pid].started for pid in roots if pid in table]
        if started:
            self._since = min(started if self._since is None else [self._since, *started])
        leaders = self._leaders.union(process.pid for process in waiting)
        waiting += [process for process in table.values() if self._is_orphan(process, leaders)]
        children: dict[int, list[Process]] = {}
        for process in table.values():
            children.setdefault(process.parent, []).append(process)
        found: dict[int, Process] = {}
        while waiting:
            process = waiting.pop()
            if process.pid not in found:
                found[process.pid] = process
                waiting += children.get(process.pid, ())
        led = {leader for one in table.values() for leader in (one.group, one.session)}
        # The pid of a leader that has ended is not used again while it leads any process.
        self._leaders = (leaders & led).union(found)
        return found

    def _is_orphan(self, process: Process, leaders: set[int]) -> bool:
        """Whether a new process belongs to the job although its parent may not."""
        before = self._table.get(process.pid)
        is_new = before is None or before.key != process.key
        if not is_new or self._since is None or process.started < self._since:
            return False
        led = process.group in leaders or process.session in leaders
        return led or self._is_marked(process)

    def _used_s(self, before: Mapping[int, Process], table_before: Mapping[int, Process]) -> float:
        """CPU time since then of the job's processes and of those they waited for."""
        used_s = {
            pid: now.used_since_s(table_before, children=True) for pid, now in self._members.items()
        }
        for pid, gone in before.items():
            if pid not in self._members or self._members[pid].key != gone.key:
                heir = self._heir(gone, before)
                if heir is not None:
                    # What it had used by the last scan now counts for its parent, too.
                    used_s[heir] -= gone.own_s + gone.children_s
        return sum(max(0.0, one_s) for one_s in used_s.values())

    def _heir(self, gone: Process, before: Mapping[int, Process]) -> int | None:
        """The nearest ancestor that still runs: the one that waited for it."""
        parent = gone.parent
        while parent in before:
            now = self._members.get(parent)
            if now is not None and now.key == before[parent].key:
                return parent
            parent = before[parent].parent
        return None
