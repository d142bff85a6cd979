"""What can be watched, and which of it a path stands for."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from joulelab.energy.saved_baseline import kept
from joulelab.errors import UserError
from joulelab.recording.trace_format import READINGS_FILE
from joulelab.runs.job import is_job
from joulelab.watch.job import JobPlace
from joulelab.watch.model import View
from joulelab.watch.recording import RecordingPlace, header_of, is_this_boot


class Place(Protocol):
    """Something that can be watched."""

    def look(self) -> View:
        """What it shows now."""
        ...


def place_of(path: Path, *, epochs: int | None = None) -> Place:
    """What a path stands for.

    Args:
        path: A study, a job, or a directory with a trace.
        epochs: How many there will be, where that is known.

    Raises:
        UserError: It is none of them.
    """
    if not path.is_dir():
        raise UserError(f"there is no directory {path}", hint="give a job, a study or a recording")
    if (path / "plan.toml").exists():
        from joulelab.watch.studies import StudyPlace  # noqa: PLC0415

        return StudyPlace(path)
    if is_job(path):
        return JobPlace(path, epochs=epochs)
    if (path / READINGS_FILE).exists():
        # Idle power that was kept is on the clock of this start of this machine.
        baseline = kept() if is_this_boot(header_of(path)) else None
        return RecordingPlace(path, title=path.resolve().name, baseline=baseline, epochs=epochs)
    raise UserError(
        f"there is nothing to watch in {path}",
        why="it holds no job, no study and no recording",
        hint="give what `joulelab run`, `joulelab study` or a Meter writes to",
    )
