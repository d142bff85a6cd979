"""Select runs by what the user names: a directory, a pattern, a name, an id, "latest", "7d"."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from glob import glob
from pathlib import Path
from typing import Any

from joulelab.errors import JoulelabError, UserError, nearest
from joulelab.recording.trace_format import READINGS_FILE
from joulelab.runs.record import (
    Run,
    is_recording,
    is_run,
    read_record,
    read_run,
    run_of,
    saved_run_directories,
)
from joulelab.runs.study_runs import is_study, read_study, read_study_run

LATEST, PREVIOUS = "latest", "previous"
DAY_S = 86400.0
_DAYS_AGO = re.compile(r"^(\d+)d$")

OnError = Callable[[JoulelabError], None]


def open_run(name_or_path: str | os.PathLike[str]) -> Run:
    """Open one run, also one that is still running or was killed.

    Args:
        name_or_path: The directory of a run (``STUDY/runs/ID`` for a run of a study) or of a job
            with one run, or what :func:`select` takes; the newest of several runs.

    Raises:
        UserError: There is no such run, or its record is damaged.
        TraceError: The run is unfinished and its trace is damaged.
    """
    path = Path(name_or_path)
    if is_run(path) or is_recording(path):
        return _read(path)
    if is_study(path):
        raise UserError(f"{path} is a study", hint=f"name one of its runs, {path}/runs/ID")
    if not path.exists():
        return select(str(name_or_path))[-1]
    inside = [found for found, _ in _find([path])] if path.is_dir() else []
    if len(inside) > 1:
        raise UserError(
            f"{path} contains {len(inside)} runs or studies",
            hint=f"name one; list them with `joulelab runs {path}`, or add up the hosts of a job "
            f"with `joulelab gather {path}`",
        )
    if inside and not is_study(inside[0]):
        return _read(inside[0])
    # A program and a directory next to it often have the same name.
    saved = None if inside else saved_run(str(name_or_path))
    return read_run(path) if saved is None else saved


def saved_run(name: str) -> Run | None:
    """Return the newest saved run that a name, an id or ``latest`` stands for, if there is one."""
    try:
        return _saved(name)[-1]
    except UserError:
        return None


def open_runs(
    *paths: str | os.PathLike[str],
    on_error: OnError | None = None,
    on_read: Callable[[int], None] = lambda _: None,
) -> list[Run]:
    """Open all runs in these directories and below, oldest first.

    Args:
        *paths: Runs, studies, or directories that contain them; none: the saved runs.
        on_error: Called with the error of a run that cannot be read, which is then left out.
        on_read: Called with the number of runs that were read, now and then.

    Raises:
        UserError: There is no such directory, or a record is damaged and there is no ``on_error``.
    """
    runs: list[Run] = []
    for path, record in _find(paths or saved_run_directories()):
        try:
            on_read(len(runs))
            if not is_study(path):
                runs.append(_run_of(path, record or read_record(path)))
                continue
            study = read_study(path)
            runs += study.runs
            errors: list[JoulelabError] = [
                UserError(f"{run.directory} is damaged", why=run.problem) for run in study.damaged
            ]
        except JoulelabError as error:
            errors = [error]
        for one in errors:
            if on_error is None:
                raise one
            on_error(one)
    return sorted(runs, key=lambda run: (run.started_unix_s, run.id))


def select(
    name: str, *, on_error: OnError | None = None, with_failed_cells: bool = False
) -> list[Run]:
    """Return the runs that a name stands for, oldest first; of studies, the finished cells.

    Args:
        name: A run, a study, a directory or a pattern of either; the name or id of saved runs;
            ``latest``; ``previous`` (the one of the same name and project before it); or, for
            example, ``7d`` (the one of that name that started closest to seven days before the
            latest, and at least half as long before it).
        on_error: Called with the error of a run that cannot be read, which is then left out.
        with_failed_cells: Include the failed cells of studies.

    Raises:
        UserError: It stands for nothing, or for a damaged record.
    """
    paths = [name] if Path(name).exists() else sorted(glob(name))  # noqa: PTH207  (may be absolute)
    if not paths:
        return _saved(name)
    statuses = ("done", "failed") if with_failed_cells else ("done",)
    runs = [
        run
        for run in open_runs(*paths, on_error=on_error)
        if run.study is None or (not run.study.is_idle and run.status in statuses)
    ]
    if not runs:
        raise UserError(
            f"there is no finished run in {name}",
            hint="give what `joulelab run` or `joulelab study` printed, or previous and latest",
        )
    return runs


def split_levels(name: str) -> tuple[str, dict[str, list[str]]]:
    """Split ``STUDY:FACTOR=LEVEL,...`` into what :func:`select` takes, and levels by factor.

    A level without a factor is a model. A file of the whole name is not split.

    Example:
        >>> split_levels(".:LeNet,precision=bf16,precision=fp16")
        ('.', {'model': ['LeNet'], 'precision': ['bf16', 'fp16']})
    """
    colons = [index for index, character in enumerate(name) if character == ":"]
    if Path(name).exists():
        return name, {}
    for index in colons:
        path = name[:index]
        if Path(path).exists() or glob(path):  # noqa: PTH207  (may be absolute)
            wanted: dict[str, list[str]] = {}
            for part in name[index + 1 :].split(","):
                factor, _, level = part.rpartition("=")
                wanted.setdefault(factor.strip() or "model", []).append(level.strip())
            return path, wanted
    return name, {}


_Found = tuple[Path, dict[str, Any] | None]
"""A directory and its record, if that can be read."""


def _find(roots: Sequence[str | os.PathLike[str]]) -> Iterator[_Found]:
    """Find the directories of runs and of whole studies."""
    for root in map(Path, roots):
        if not root.is_dir():
            raise UserError(
                f"there is no directory {root}", hint="give runs, studies, or a folder of them"
            )
        for directory, below, _ in os.walk(root):
            below.sort()
            path = Path(directory)
            try:
                record, is_damaged = read_record(path), False
            except UserError:
                record, is_damaged = None, True
            if is_study(path) or record is not None or is_damaged:
                below.clear()
                yield path, record
            elif is_recording(path) and not (path / READINGS_FILE).is_symlink():
                # Meters of child processes may write below it.
                yield path, None


def _read(path: Path) -> Run:
    return _run_of(path, read_record(path))


def _run_of(path: Path, record: dict[str, Any] | None) -> Run:
    run = run_of(path, record)
    return run if run.study is None else read_study_run(path)


def _saved(name: str) -> list[Run]:
    runs = [run for run in open_runs() if run.finished and run.study is None]
    if name in (LATEST, PREVIOUS) or _DAYS_AGO.match(name):
        return [_relative(name, runs)]
    found = [run for run in runs if name in (run.id, run.name)]
    if not found:
        known = dict.fromkeys(run.name for run in runs)
        raise UserError(
            f"there is no {name!r}: no file, and no saved run of that name",
            hint=nearest(name, [*known, LATEST, PREVIOUS]),
        )
    return found


def _relative(name: str, runs: Sequence[Run]) -> Run:
    if not runs:
        raise UserError(
            f"there is no {name} run: none has finished yet",
            hint="measure one with `joulelab run -- COMMAND`",
        )
    latest = runs[-1]
    if name == LATEST:
        return latest
    same = (latest.name, latest.project)
    earlier = [run for run in runs[:-1] if (run.name, run.project) == same]
    days = _DAYS_AGO.match(name)
    if days:
        wanted_unix_s = latest.started_unix_s - DAY_S * int(days[1])
        half_unix_s = (wanted_unix_s + latest.started_unix_s) / 2
        earlier = [run for run in earlier if run.started_unix_s <= half_unix_s]
        earlier.sort(key=lambda run: -abs(run.started_unix_s - wanted_unix_s))
    if not earlier:
        raise UserError(
            f"there is no {name} run: no other saved {latest.name!r} is "
            f"{'about that old' if days else 'older'}",
            hint="name two runs by their directories",
        )
    return earlier[-1]
