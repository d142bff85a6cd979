"""The record of a job: a command that was run under ``joulelab run``.

::

    JOB/job.json       what was run; written before the command starts
    JOB/trace.bin      every reading, and
    JOB/events.jsonl   the spans that the command marked; by the recorder
    JOB/run.json       all of job.json and what came of it; appears whole, at the end

Without ``run.json`` a job is under way, or whoever was to write it was killed. Its energy is then
worked out from the trace up to the last reading.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from joulelab.errors import JoulelabError, UserError
from joulelab.runs.record import SpanTotal, is_run, read_record, read_run, saved_run_directories
from joulelab.storage import home, write_whole, writing

if TYPE_CHECKING:
    from joulelab.energy.energy import Energy
    from joulelab.machine import Machine

SCHEMA = "joulelab-job-1"
STARTED_FILE = "job.json"
FINISHED_FILE = "run.json"
PHASES = ("data", "experimentation", "training", "inference")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A command that was measured.

    Attributes:
        directory: Where its record is.
        id: Unique, and in order of time.
        command: As it was given, the program first.
        name: What it is called; by default after its program or script.
        project: What it belongs to, where that was said.
        phase: One of :data:`joulelab.run.options.PHASES`, where that was said.
        tags: Whatever else was said of it.
        host: Where it ran.
        machine: The hardware and software; ``None`` when it ended before that was known.
        settings: How it was measured.
        started_unix_s: When the command was started.
        ended_unix_s: When it ended, or was last seen; NaN when nobody knows.
        duration_s: Between the two, on a clock that nobody sets.
        finished: Whether its end was recorded; the figures of one that was not go up to the
            last reading.
        exit_code: Of the command; ``None`` when a signal ended it or it has not finished.
        signal: That ended the command.
        energy: Of the whole machine's metered components while it ran.
        spans: What it marked from inside, by name.
        notes: What a person should know of it, beside the energy's own notes.
    """

    directory: Path
    id: str
    command: tuple[str, ...]
    name: str
    project: str | None
    phase: str | None
    tags: Mapping[str, str]
    host: str
    machine: Machine | None
    settings: Mapping[str, Any]
    started_unix_s: float
    ended_unix_s: float
    duration_s: float
    finished: bool
    exit_code: int | None
    signal: int | None
    energy: Energy
    spans: tuple[SpanTotal, ...] = ()
    notes: tuple[str, ...] = field(default=())


def default_place() -> Path:
    """Where jobs are kept unless ``--out`` says otherwise. It may not exist yet."""
    return next(iter(saved_run_directories()[::-1]), home() / "jobs")


def is_job(path: str | os.PathLike[str]) -> bool:
    """Whether that directory is a job's."""
    directory = Path(path)
    if not is_run(directory):
        return False
    try:
        data = read_record(directory)
    except UserError:
        return True
    return data is not None and data["kind"] != "study"


def read_job(path: str | os.PathLike[str]) -> Job:
    """The job in a directory, also one under way or cut off."""
    run = read_run(path)
    values = {one: getattr(run, one) for one in Job.__dataclass_fields__}
    old = {"experiment": "experimentation", "train": "training", "infer": "inference"}
    return Job(**values | {"phase": old.get(run.phase or "", run.phase)})


def find_jobs(
    *paths: str | os.PathLike[str], complain: Callable[[JoulelabError], None] | None = None
) -> list[Job]:
    """The jobs in these directories and all below them, oldest first.

    Args:
        *paths: Jobs, or directories that hold some; none: the default place.
        complain: Is told of a job that cannot be read, which is then left out.

    Raises:
        UserError: There is no such directory, or a job cannot be read and nobody is to be told.
    """
    jobs = []
    for directory in _directories(*paths):
        try:
            jobs.append(read_job(directory))
        except JoulelabError as error:
            if complain is None:
                raise
            complain(error)
    return sorted(jobs, key=lambda job: (job.started_unix_s, job.id))


def write_record(path: Path, data: Mapping[str, Any]) -> None:
    """Writes ``job.json`` or ``run.json``, whole or not at all.

    Raises:
        UserError: It cannot be written.
    """
    with writing(path):
        write_whole(path, json.dumps(data, indent=1).encode() + b"\n")


def _directories(*paths: str | os.PathLike[str]) -> Iterator[Path]:
    roots = [Path(path) for path in paths]
    for root in roots:
        if not root.is_dir():
            raise UserError(f"there is no directory {root}", hint="give jobs, or where they lie")
    for root in roots or saved_run_directories():
        for directory, below, files in os.walk(root):
            if {STARTED_FILE, FINISHED_FILE}.intersection(files) and is_job(directory):
                below.clear()
                yield Path(directory)
