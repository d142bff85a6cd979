"""A job of ``joulelab run``, as something to watch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from joulelab.energy.baseline import Baseline
from joulelab.energy.energy import Energy
from joulelab.errors import UserError
from joulelab.runs.job import Job, read_job
from joulelab.runs.record import read_record
from joulelab.watch.model import Component, Ended, View
from joulelab.watch.recording import RecordingPlace, silent_s

FINISHING_S = 5.0
"""So long after the end of the recording the record of a job is waited for."""
_STARTED = ("name", "command", "start_ns", "machine", "baseline", "inside", "status")


class JobPlace(RecordingPlace):
    """A job of ``joulelab run``.

    Args:
        directory: Of the job.
        epochs: As for :class:`RecordingPlace`.
    """

    def __init__(self, directory: Path, *, epochs: int | None = None) -> None:
        data = _started(directory)
        super().__init__(
            Path(data["inside"] or directory),
            title=str(data["name"]),
            detail=" ".join(data["command"]),
            start_ns=data["start_ns"],
            epochs=epochs,
        )
        self._job_directory = directory
        self._is_prepared = False

    def look(self) -> View:
        """What it shows now; when it has finished, the figures of its record."""
        finished = _started(self._job_directory)["status"] != "unfinished"
        self._prepare()
        view = super().look()
        if self.is_behind:
            return view
        if finished:
            return _with_record(view, read_job(self._job_directory))
        if view.state != "ended" or self._following is None:
            return view
        stop = self._following.book.stop
        if stop and silent_s(self._following.header, int(stop["t_ns"])) < FINISHING_S:
            return replace(view, state="live", state_words="finishing")
        return replace(view, state="lost", state_words="its end was not recorded")

    def _prepare(self) -> None:
        """Idle power is known to the record a moment after the command was started."""
        if self._is_prepared:
            return
        data = _started(self._job_directory)
        self._is_prepared = data["machine"] is not None
        points = data["baseline"]
        self._baseline = None if points is None else Baseline.from_json(points)
        if self._following is not None:
            self._following.baseline = self._baseline


def _started(directory: Path) -> dict[str, Any]:
    """What was known when the job began."""
    data = read_record(directory)
    if data is None or not data.keys() >= set(_STARTED):
        raise UserError(f"cannot read the record in {directory}")
    return {name: data[name] for name in _STARTED}


def _with_record(view: View, job: Job) -> View:
    """What a job's record says, over what its trace does."""
    costs = view.costs
    if costs is not None:
        costs = replace(costs, energy_j=job.energy.gross_j, interval_j=job.energy.interval_j)
    seen = {one.name: one for one in view.ended}
    return replace(
        view,
        state="ended",
        state_words=_how_it_ended(job),
        elapsed_s=job.duration_s,
        components=tuple(_with_energy(one, job.energy) for one in view.components),
        energy=job.energy,
        job_words=job.energy.job_text,
        costs=costs,
        ended=tuple(
            replace(
                seen.get(one.name, Ended(name=one.name, count=0, duration_s=0.0)),
                count=one.count,
                duration_s=one.duration_s,
                energy=one,
            )
            for one in job.spans
        ),
        stacks=(),
        absent=job.energy.absent,
        notes=tuple(dict.fromkeys((*job.energy.notes, *job.notes))),
    )


def _how_it_ended(job: Job) -> str:
    return f"signal {job.signal}" if job.exit_code is None else f"exit code {job.exit_code}"


def _with_energy(component: Component, energy: Energy) -> Component:
    part = energy.components.get(component.name)
    return component if part is None else replace(component, gross_j=part.gross_j)
