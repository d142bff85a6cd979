"""This machine, watched by a recorder of its own, and the jobs on it that can be watched."""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

from joulelab.errors import UserError
from joulelab.meter import Meter
from joulelab.runs.record import read_record, saved_run_directories
from joulelab.watch.model import View
from joulelab.watch.recording import RecordingPlace, is_recording


class MachinePlace:
    """This machine. Its recorder writes to a temporary directory and ends with the context.

    Args:
        sensors: As for :class:`~joulelab.meter.Meter`.

    Raises:
        UserError: A sensor that was asked for does not exist.
        RecorderError: The recorder did not start.
    """

    def __init__(self, sensors: Sequence[str] | None = None) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="joulelab-watch-")
        try:
            self._meter = Meter(sensors=sensors, directory=self._temporary.name, record=False)
        except BaseException:
            self._temporary.cleanup()
            raise
        self._place = RecordingPlace(
            self._meter.directory,
            title=platform.node(),
            detail="this machine",
            baseline=self._meter.baseline,
        )
        self._hints = tuple(f"joulelab watch {directory}" for directory in running_jobs())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._meter.close()
        self._temporary.cleanup()

    def look(self) -> View:
        """What it shows now."""
        # Who watches is no job whose share would matter.
        return replace(self._place.look(), job_words="", hints=self._hints)


def running_jobs() -> list[Path]:
    """The jobs in the default place that are under way on this machine, the last one first."""
    places = saved_run_directories()
    found = sorted((path for place in places for path in place.iterdir()), reverse=True)
    return [path for path in found if _is_running(path)]


def _is_running(path: Path) -> bool:
    try:
        data = read_record(path)
    except UserError:
        return False
    if data is not None and data["status"] != "unfinished":
        return False
    return is_recording(Path((data and data["inside"]) or path))
