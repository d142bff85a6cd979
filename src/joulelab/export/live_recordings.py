"""Find what is recorded on this machine now, by whichever process: runs, studies and meters."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import psutil

from joulelab.errors import JoulelabError
from joulelab.recording.trace_format import READINGS_FILE, TEMPORARY
from joulelab.runs import name_of
from joulelab.runs.record import read_record
from joulelab.validation import decode
from joulelab.watch.sources import header_of, is_this_boot

RECORDER = "joulelab.recording.recorder"
YOUNG_S = 60.0
WATCHER = "joulelab-watch-"
"""Begins the name of the directory that `joulelab watch` records to: it watches, and is no run."""


@dataclass(frozen=True, slots=True)
class LiveRecording:
    """A recording that is being written."""

    directory: Path  # Where its trace is.
    name: str  # That of its directory; that of the program and its process for a temporary one.
    start_ns: int  # When the run began, CLOCK_MONOTONIC.
    recorder_pid: int  # The process that writes it.


class LiveRecordings:
    """Finds recordings by their recorders' processes, whose arguments name the directory.

    A recording is followed only if its recorder's user owns the trace and this process may read it.
    """

    def __init__(self) -> None:
        self._found: dict[int, LiveRecording] = {}
        self._others: set[int] = set()

    def scan(self) -> list[LiveRecording]:
        """Return what is being recorded. Other processes are looked at while they are young.

        A process that was just forked has its parent's arguments.
        """
        pids = set(psutil.pids())
        self._found = {pid: one for pid, one in self._found.items() if pid in pids}
        self._others &= pids
        for pid in pids - self._found.keys() - self._others:
            # A recorder that has just started has no header yet.
            with contextlib.suppress(JoulelabError, OSError, psutil.Error, ValueError):
                process = psutil.Process(pid)
                if time.time() - process.create_time() > YOUNG_S:
                    self._others.add(pid)
                if (directory := _recorded_directory(process)) is not None:
                    self._others.discard(pid)
                    if (found := _open(directory, pid)) is not None:
                        self._found[pid] = found
        return list(self._found.values())


class _Arguments(TypedDict):
    """The fields of a recorder's arguments that are read here."""

    directory: str


def _recorded_directory(process: psutil.Process) -> Path | None:
    """Return the directory that a recorder writes to; ``None`` for any other process."""
    command = process.cmdline()
    if RECORDER not in command[-2:-1]:
        return None
    directory = Path(decode(command[-1], _Arguments)["directory"])
    return directory if directory.is_absolute() else Path(process.cwd()) / directory


def _open(directory: Path, pid: int) -> LiveRecording | None:
    owner = (directory / READINGS_FILE).stat().st_uid
    header = header_of(directory)
    is_own = is_this_boot(header) and owner == psutil.Process(pid).uids().real
    if not is_own or directory.name.startswith(WATCHER):
        return None
    start_ns = None
    with contextlib.suppress(JoulelabError):
        start_ns = (read_record(directory) or {}).get("start_ns")
    start_ns = start_ns or header["start_ns"]
    return LiveRecording(directory, _name(directory, header), int(start_ns), pid)


def _name(directory: Path, header: Any) -> str:
    if directory.name.startswith(TEMPORARY):
        pid = header["parent_pid"]
        try:
            return f"{name_of(psutil.Process(pid).cmdline())}-{pid}"
        except (psutil.Error, ValueError):
            return f"process-{pid}"
    if directory.name.isdigit():
        # Of a job of several processes: DIRECTORY/HOST/NUMBER.
        return "/".join(directory.parts[-3:])
    return directory.name
