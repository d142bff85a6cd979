"""What a person may name as a side: jobs, studies, folders of them, ``previous``, ``latest``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import Any, Literal

from joulelab.compare.measurement import Measurement, of_job
from joulelab.errors import UserError, nearest
from joulelab.runs.job import Job, default_place, find_jobs, is_job

Kind = Literal["jobs", "studies"]

LATEST, PREVIOUS = "latest", "previous"
DAY_S = 86400.0
_DAYS_AGO = re.compile(r"^(\d+)d$")


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """One side of a comparison.

    Attributes:
        label: As it was named.
        letter: ``"A"`` or ``"B"``.
        kind: What it is made of.
        measurements: Oldest first; at least one.
        span: The name of the spans that stand for each; ``None`` for the whole of it.
        failed: How many runs of its studies failed or are damaged.
    """

    label: str
    letter: str
    kind: Kind
    measurements: tuple[Measurement, ...]
    span: str | None = None
    failed: int = 0

    @property
    def started_unix_s(self) -> tuple[float, float]:
        """When its first and its last run began."""
        times = [one.started_unix_s for one in self.measurements]
        return min(times), max(times)

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary."""
        return {
            "label": self.label,
            "kind": self.kind,
            "span": self.span,
            "started_unix_s": list(self.started_unix_s),
            "runs": [one.run for one in self.measurements],
        }


def read_side(name: str, letter: str, span: str | None = None) -> Side:
    """The jobs or studies that a name stands for.

    Args:
        name: A job, a study, a folder or a pattern of either, the name or id of jobs in the
            default place, ``latest``, ``previous`` (the one of the same name before it), or as
            ``7d`` (the one of that name that began nearest to so many days before it, and at
            least half as many).
        letter: What the side is called, ``"A"`` or ``"B"``.
        span: Compare the spans of that name in each job, instead of the whole.

    Raises:
        UserError: It stands for nothing, for both jobs and studies, or for a damaged record.
    """
    paths = [Path(name)] if Path(name).exists() else _matching(name)
    if not paths:
        return _jobs(name, _in_default_place(name), letter, span)
    studies = [found for path in paths for found in _studies(path)]
    folders = [path for path in paths if path.is_dir() and not _studies(path)]
    jobs = find_jobs(*folders) if folders else []
    if studies and jobs:
        raise UserError(
            f"{name} holds both jobs and studies", hint="name the ones or the others for each side"
        )
    if not studies:
        return _jobs(name, jobs, letter, span)
    if span is not None:
        raise UserError(
            f"{name} is of studies, whose spans are not compared", hint="leave --span out"
        )
    return _studied(name, studies, letter)


def _studied(name: str, directories: Sequence[Path], letter: str) -> Side:
    from joulelab.compare.studied import of_study  # noqa: PLC0415
    from joulelab.runs.studies import read_studies  # noqa: PLC0415

    studies = read_studies(directories)
    measured = [one for study in studies for one in of_study(study)]
    if not measured:
        raise UserError(f"{name} has no finished run", hint="run joulelab study on it first")
    measured.sort(key=lambda one: one.started_unix_s)
    failed = sum(run.status != "done" for study in studies for run in study.runs)
    return Side(name, letter, "studies", tuple(measured), failed=failed)


def _jobs(name: str, jobs: Sequence[Job], letter: str, span: str | None) -> Side:
    if not jobs:
        raise UserError(
            f"{name} is no job, no study and no folder of either",
            hint="give what `joulelab run` or `joulelab study` named, or previous and latest",
        )
    measured = tuple(of_job(job, letter) for job in jobs)
    if span is not None:
        from joulelab.compare.spanned import spanned  # noqa: PLC0415

        measured = tuple(spanned(one, span) for one in measured)
    return Side(name, letter, "jobs", measured, span)


def _matching(pattern: str) -> list[Path]:
    return [Path(one) for one in sorted(glob(pattern))]  # noqa: PTH207  (may be absolute)


def _studies(path: Path) -> list[Path]:
    """The study at a path, or those directly below it."""
    if (path / "plan.toml").is_file():
        return [path]
    if not path.is_dir() or is_job(path):
        return []
    return sorted(plan.parent for plan in path.glob("*/plan.toml"))


def _in_default_place(name: str) -> list[Job]:
    jobs = [job for job in find_jobs() if job.finished] if default_place().is_dir() else []
    if name in (LATEST, PREVIOUS) or _DAYS_AGO.match(name):
        return [_relative(name, jobs)]
    found = [job for job in jobs if name in (job.id, job.name)]
    if not found:
        known = dict.fromkeys(job.name for job in jobs)
        raise UserError(
            f"there is no {name!r}: no file, and no job of that name in {default_place()}",
            hint=nearest(name, [*known, LATEST, PREVIOUS]),
        )
    return found


def _relative(name: str, jobs: Sequence[Job]) -> Job:
    if not jobs:
        raise UserError(
            f"there is no {name} job: {default_place()} has none that finished",
            hint="measure one with joulelab run -- COMMAND",
        )
    latest = jobs[-1]
    if name == LATEST:
        return latest
    earlier = [job for job in jobs[:-1] if _alike(job) == _alike(latest)]
    days = _DAYS_AGO.match(name)
    if days:
        wanted_unix_s = latest.started_unix_s - DAY_S * int(days[1])
        half_unix_s = (wanted_unix_s + latest.started_unix_s) / 2
        earlier = sorted(
            (job for job in earlier if job.started_unix_s <= half_unix_s),
            key=lambda job: -abs(job.started_unix_s - wanted_unix_s),
        )
    if not earlier:
        raise UserError(
            f"there is no {name} job: {default_place()} has no other {latest.name!r} "
            f"from {'about then' if days else 'before'}",
            hint="name two jobs by their directories",
        )
    return earlier[-1]


def _alike(job: Job) -> tuple[str, str | None]:
    return job.name, job.project
