"""Which processes are the job's, and how much CPU time they use."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from joulelab.sensors.process_table import Process


class JobProcesses:
    """The processes that are measured, and everything that they start.

    A process is the job's when it was named, when its parent is the job's, and for as long as it
    lives. One whose parent has ended before it was seen (a daemon) is known by its process group
    or session, where a process of the job made that, or by what it was started with.

    Args:
        is_marked: Whether a process was started with what only this job's have in their
            environment.

    Example:
        >>> def process(pid, parent, own_s, children_s=0.0):
        ...     return Process(pid, "a", parent, pid, 1, own_s, children_s, pid, 0)
        >>> job = JobProcesses()
        >>> job.update({2: process(2, 1, 5.0), 3: process(3, 2, 1.0), 4: process(4, 1, 9.0)}, [2])
        0.0
        >>> sorted(job.pids)
        [2, 3]

        The child ends, and has used 0.5 s more; its parent has waited for it.

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
    def pids(self) -> Collection[int]:
        """Those that were there at the last look."""
        return self._members.keys()

    @property
    def members(self) -> Collection[Process]:
        """Those that were there at the last look."""
        return self._members.values()

    def update(self, table: Mapping[int, Process], roots: Collection[int]) -> float:
        """Looks again.

        What a process used that came and went between two looks is known from the parent that
        waited for it.

        Args:
            table: All processes.
            roots: Those that are measured.

        Returns:
            CPU time that the job has used since the last look, s; 0 at the first.
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
        # The pid of a leader that has ended goes to no other as long as it leads somebody.
        self._leaders = (leaders & led).union(found)
        return found

    def _is_orphan(self, process: Process, leaders: set[int]) -> bool:
        """Whether it is the job's though its parent may not be. Each is asked about once."""
        before = self._table.get(process.pid)
        is_new = before is None or before.key != process.key
        if not is_new or self._since is None or process.started < self._since:
            return False
        led = process.group in leaders or process.session in leaders
        return led or self._is_marked(process)

    def _used_s(self, before: Mapping[int, Process], table_before: Mapping[int, Process]) -> float:
        """What was used since, by those that are there and those that they waited for."""
        used_s = {pid: now.used_since_s(table_before) for pid, now in self._members.items()}
        for pid, gone in before.items():
            if pid not in self._members or self._members[pid].key != gone.key:
                heir = self._heir(gone, before)
                if heir is not None:
                    # What it had used by the last look is now its parent's, too.
                    used_s[heir] -= gone.own_s + gone.children_s
        return sum(max(0.0, one_s) for one_s in used_s.values())

    def _heir(self, gone: Process, before: Mapping[int, Process]) -> int | None:
        """The nearest ancestor that is there: who has waited for it."""
        parent = gone.parent
        while parent in before:
            now = self._members.get(parent)
            if now is not None and now.key == before[parent].key:
                return parent
            parent = before[parent].parent
        return None
