"""Delete saved runs that are old: only what JouleLab wrote, and nothing that is in use."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from joulelab.recording.trace_format import EVENTS_FILE, READINGS_FILE, RUN_FILE
from joulelab.runs.listing import newest_first
from joulelab.runs.old_schemas import STARTED_FILE
from joulelab.runs.record import Run, saved_run_directories
from joulelab.storage import file_errors, is_in_use

OWN_FILES = {RUN_FILE, STARTED_FILE, READINGS_FILE, EVENTS_FILE, "recorder.log", "report.html"}
OWN_FIGURES = "figures"
FIGURE_SUFFIXES = {".csv", ".pdf", ".png", ".svg"}


@dataclass(frozen=True, slots=True)
class Pruning:
    """Runs to delete, the newest first, and those that are old but must stay, with the reason."""

    runs: tuple[Run, ...]
    kept: tuple[tuple[Run, str], ...] = ()

    @property
    def size_bytes(self) -> int:
        """Size of the files that would be deleted."""
        files = (file for run in self.runs for file in _files(run.directory))
        return sum(file.lstat().st_size for file in files)


def find_prunable(
    runs: Iterable[Run], *, older_than_s: float | None = None, keep: int = 0
) -> Pruning:
    """Find the saved runs that may be deleted.

    Args:
        runs: What :func:`joulelab.runs.selection.open_runs` found.
        older_than_s: Only runs that started longer ago than this; one of an unknown time stays.
        keep: Never the newest runs of this number.
    """
    limit_unix_s = time.time() - (older_than_s or 0.0)
    chosen: list[Run] = []
    kept: list[tuple[Run, str]] = []
    for run in newest_first(runs)[keep:]:
        if not run.started_unix_s < limit_unix_s:
            continue
        reason = why_kept(run)
        if reason:
            kept.append((run, reason))
        else:
            chosen.append(run)
    return Pruning(tuple(chosen), tuple(kept))


def why_kept(run: Run) -> str:
    """Return why a run must not be deleted; empty if it may be."""
    directory = run.directory
    if run.study is not None:
        return "it belongs to a study"
    if directory.is_symlink() or directory.parent not in saved_run_directories():
        return "it is not among the saved runs"
    if is_alive(run.host, run.pid) and not run.finished:
        return "it is still running"
    if is_in_use(directory):
        return "it is in use"
    foreign = _foreign(directory)
    return f"it has files of something else: {foreign}" if foreign else ""


def delete_run(run: Run) -> int:
    """Delete a run that :func:`why_kept` has nothing against; return the freed bytes.

    The record goes last: until then it is a run without readings.

    Raises:
        StoreError: It cannot be deleted.
    """
    freed_bytes = 0
    with file_errors(f"cannot delete {run.directory}"):
        for file in sorted(_files(run.directory), key=lambda one: one.name == RUN_FILE):
            size_bytes = file.lstat().st_size
            file.unlink()
            freed_bytes += size_bytes
        figures = run.directory / OWN_FIGURES
        if figures.is_dir():
            figures.rmdir()
        run.directory.rmdir()
    return freed_bytes


def is_alive(host: str, pid: int | None) -> bool:
    """Report whether a process still runs on this host."""
    return bool(pid and host == os.uname().nodename and psutil.pid_exists(pid))


def _files(directory: Path) -> Sequence[Path]:
    figures = directory / OWN_FIGURES
    inner = list(figures.iterdir()) if figures.is_dir() and not figures.is_symlink() else []
    return [path for path in (*directory.iterdir(), *inner) if path != figures]


def _foreign(directory: Path) -> str:
    """Name a file that JouleLab did not write; empty if there is none."""
    for path in _files(directory):
        is_figure = path.parent != directory and path.suffix in FIGURE_SUFFIXES
        if path.is_dir() or not (is_figure or path.name in OWN_FILES):
            return path.name
    return ""
