"""Bytes that the processes of a job read and write, from ``/proc/PID/io`` (proc(5))."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Self

from joulelab.sensors.processes import PROC, Process, read_file

_LONGEST_IO = 4096


class FileBytes(NamedTuple):
    """Bytes of a process, and of its children that it waited for."""

    # Through system calls, from files and pipes, cached or not; not from sockets with ``recv``, nor
    # from files that are mapped into memory.
    read: float = 0.0
    written: float = 0.0  # Likewise.
    from_disks: float = 0.0  # Fetched from disks, for mapped files too.
    to_disks: float = 0.0  # Handed over for writing to disks.

    def plus(self, other: Self, sign: int = 1) -> FileBytes:
        """Return the sum, or the difference."""
        return FileBytes(*(one + sign * two for one, two in zip(self, other, strict=True)))


def parse_io(data: bytes) -> FileBytes:
    """Parse ``/proc/PID/io``.

    Example:
        >>> parse_io(b"rchar: 10\\nwchar: 5\\nread_bytes: 4096\\nwrite_bytes: 8192\\n")
        FileBytes(read=10.0, written=5.0, from_disks=4096.0, to_disks=8192.0)
    """
    fields = dict(line.split(b": ", 1) for line in data.splitlines())
    names = (b"rchar", b"wchar", b"read_bytes", b"write_bytes")
    return FileBytes(*(float(fields[name]) for name in names))


class JobFiles:
    """Adds up what the job's processes read and write.

    Args:
        since: Start time in ticks; a process of the job that started later counts from its start,
            an older one from when it is first seen.
        recorder_pid: A process of the job that does not count.
        proc: Root of procfs.
    """

    def __init__(self, since: int, recorder_pid: int, proc: Path = PROC) -> None:
        self._since, self._recorder_pid, self._proc = since, recorder_pid, proc
        self._seen: dict[int, tuple[Process, FileBytes]] = {}
        self.total = FileBytes()

    def update(self, members: Mapping[int, Process]) -> None:
        """Read the counters of the job's processes, by pid; those that have ended are left out.

        Raises:
            OSError: No process shows what it reads and writes.
            ValueError: The kernel does not count it.
        """
        before, now = self._seen, self._read(members)
        used = {pid: self._since_then(before.get(pid), *one) for pid, one in now.items()}
        for gone, total in before.values():
            heir = None if _is_in(now, gone) else _heir(gone, before, now)
            if heir is not None:
                # What it had used by the last scan now counts for its parent, too.
                used[heir] = used[heir].plus(total, -1)
        self._seen = now
        for one in used.values():
            self.total = self.total.plus(FileBytes(*(max(0.0, value) for value in one)))

    def _read(self, members: Mapping[int, Process]) -> dict[int, tuple[Process, FileBytes]]:
        found: dict[int, tuple[Process, FileBytes]] = {}
        refused: OSError | None = None
        for pid, process in members.items():
            if pid == self._recorder_pid:
                continue
            try:
                data = read_file(f"{self._proc}/{pid}/io", _LONGEST_IO)
                found[pid] = process, parse_io(data)
            except (FileNotFoundError, ProcessLookupError):
                continue
            except KeyError as error:
                raise ValueError(f"the kernel does not count {error}") from error
            except OSError as error:
                refused = error
        if refused is not None and not found:
            raise refused
        return found

    def _since_then(
        self, earlier: tuple[Process, FileBytes] | None, process: Process, total: FileBytes
    ) -> FileBytes:
        if earlier is not None and earlier[0].key == process.key:
            return total.plus(earlier[1], -1)
        return total if process.started >= self._since else FileBytes()


_Seen = Mapping[int, tuple[Process, FileBytes]]


def _is_in(seen: _Seen, process: Process) -> bool:
    return process.pid in seen and seen[process.pid][0].key == process.key


def _heir(gone: Process, before: _Seen, now: _Seen) -> int | None:
    """Return the nearest ancestor of an ended process that still runs: it waited for it."""
    parent = gone.parent
    while parent in before:
        if _is_in(now, before[parent][0]):
            return parent
        parent = before[parent][0].parent
    return None
