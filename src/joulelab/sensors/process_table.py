"""The processes that the kernel shows, with what each has used so far (proc(5))."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")
KERNEL_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_LONGEST_STAT = 4096
_LONGEST_ENVIRONMENT = 1 << 20


Key = tuple[int, int]
"""Pid and start: one process and no other."""


class Process(NamedTuple):
    """One process as ``/proc/PID/stat`` has it.

    Attributes:
        pid: In the namespace of who looks.
        name: Of its program, at most 15 bytes; never its arguments, which may hold secrets.
        parent: The parent's pid.
        group: Its process group.
        session: Its session.
        own_s: CPU time of its threads.
        children_s: CPU time of its descendants that have ended and were waited for.
        started: When it began, ticks since boot: with the pid it is one process and no other.
        resident_bytes: Memory of its that is in RAM; what it shares with others counts in each.
    """

    pid: int
    name: str
    parent: int
    group: int
    session: int
    own_s: float
    children_s: float
    started: int
    resident_bytes: int

    @property
    def key(self) -> Key:
        """Tells it from another that had its pid."""
        return self.pid, self.started

    def used_since_s(self, table: Mapping[int, Process]) -> float:
        """CPU time, its own and of those that it waited for, since an earlier look.

        Args:
            table: All processes at that look; one that was not there has begun since.
        """
        before = table.get(self.pid)
        total_s = self.own_s + self.children_s
        if before is None or before.key != self.key:
            return total_s
        return total_s - before.own_s - before.children_s

    def own_since_s(self, table: Mapping[int, Process]) -> float:
        """The same of its own threads alone."""
        before = table.get(self.pid)
        if before is None or before.key != self.key:
            return self.own_s
        return self.own_s - before.own_s


def parse_stat(data: bytes) -> Process:
    """A process from its line.

    Example:
        >>> line = b"7 (a) b) S 1 7 7 0 -1 0 0 0 0 0 150 50 30 20 20 0 1 0 900 0 3 0"
        >>> process = parse_stat(line)
        >>> process.name, process.parent, process.own_s, process.children_s, process.key
        ('a) b', 1, 2.0, 0.5, (7, 900))
    """
    # A name may hold blanks and brackets.
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


def read_processes(proc: Path = PROC) -> dict[int, Process]:
    """Every process that can be seen, by pid.

    One that ends while it is looked at is left out.

    Raises:
        OSError: There is no ``/proc``, or its pids are those of another namespace.
    """
    if (proc / "self").readlink() != Path(str(os.getpid())):
        raise OSError(f"{proc} has the pids of another namespace")
    found = {}
    for entry in os.listdir(proc):  # noqa: PTH208  (500 paths a second are not for nothing)
        if entry.isdecimal():
            try:
                process = parse_stat(_read(f"{proc}/{entry}/stat", _LONGEST_STAT))
            except (OSError, ValueError, IndexError):
                continue
            found[process.pid] = process
    return found


def busy_s(proc: Path = PROC) -> float:
    """CPU time that this machine's processors have worked since boot, all together.

    Time that a hypervisor took for others is not in it.

    Raises:
        OSError: It cannot be read.
        ValueError: The kernel counts nothing.
    """
    words = _read(f"{proc}/stat", _LONGEST_STAT).split(b"\n", 1)[0].split()
    # The kernel counts guests within user and nice.
    user, nice, system, _idle, _iowait, irq, softirq = (int(word) for word in words[1:8])
    ticks = user + nice + system + irq + softirq
    if not ticks:
        raise ValueError(f"{proc}/stat counts no CPU time here")
    return ticks / KERNEL_TICKS_PER_S


def environment_has(pid: int, entry: bytes, proc: Path = PROC) -> bool:
    """Whether a process was started with this entry, as ``b"NAME=value"``, in its environment.

    False where it may not be read, as another user's.
    """
    try:
        return entry in _read(f"{proc}/{pid}/environ", _LONGEST_ENVIRONMENT).split(b"\0")
    except OSError:
        return False


def sees_whole_machine(proc: Path = PROC) -> bool:
    """Whether all the machine's processes are in ``/proc``: not so in a container."""
    try:
        return str((proc / "self/ns/pid").readlink()) == _FIRST_NAMESPACE
    except OSError:
        return False


_FIRST_NAMESPACE = "pid:[4026531836]"
"""PROC_PID_INIT_INO (linux/proc_ns.h)."""


def _read(path: str, size: int) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, size)
    finally:
        os.close(descriptor)
