"""Read the directory of a study: its plan, its runs with net energies, and what is damaged."""

from __future__ import annotations

import gc
import json
import math
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from joulelab.energy.baseline import Baseline, IdlePoint
from joulelab.errors import StoreError, UserError
from joulelab.machine import Machine
from joulelab.runs import phase_name
from joulelab.runs.record import (
    RUN_FILE,
    Run,
    StudyPart,
    idle_points,
    read_run,
    with_baseline,
)

PLAN_FILE = "plan.toml"
LABELS_FILE = "ledger.json"
"""Project and phase of a study, set after it ran; other runs have them in their own record."""
LABELS_SCHEMA = "joulelab-ledger-1"


@dataclass(frozen=True, slots=True, kw_only=True)
class DamagedRun:
    """A run of a study whose record cannot be used."""

    id: str
    directory: Path
    problem: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """A study and its runs.

    Attributes:
        label: Name of the study; with its directory if several studies share the name.
        directory: Directory of the study.
        plan: The plan as parsed TOML. It has all defaults written out;
            :func:`joulelab.study.plan_file.parse` checks it and makes a ``Plan``.
        plan_text: The plan as it was written.
        runs: Runs that ended, done or failed, with net energies, by id.
        damaged: Runs whose record cannot be used.
    """

    label: str
    directory: Path
    plan: Mapping[str, Any]
    plan_text: str
    runs: tuple[Run, ...]
    damaged: tuple[DamagedRun, ...]

    @property
    def is_imported(self) -> bool:
        """Whether it was made from recorded logs, so that nothing of it can be run."""
        return "recorded" in self.plan

    @property
    def cells_planned(self) -> int:
        """Number of runs in the plan, without idle runs."""
        if self.is_imported:
            return int(self.plan["recorded"]["cells"])
        levels = math.prod(len(one) for one in self.plan["factors"].values())
        return len(self.plan["models"]) * levels * int(self.plan["repeats"])

    def cells(self) -> list[Run]:
        """Return the runs that measured something, by block and order."""
        found = [(one, run) for one, run in self._parts() if not one.is_idle]
        return [run for _, run in sorted(found, key=lambda x: (x[0].block, x[0].order, x[1].id))]

    def idles(self) -> list[Run]:
        """Return the finished idle runs, in order of time."""
        found = [run for one, run in self._parts() if one.is_idle]
        return sorted(found, key=lambda run: (run.started_unix_s, run.id))

    def failed(self) -> list[Run]:
        """Return the runs that failed."""
        return [run for run in self.runs if run.status == "failed"]

    def machines(self) -> list[Machine]:
        """Return the machines that it ran on, each once, in order of first appearance."""
        found = {
            (run.machine.host, run.machine.identity): run.machine
            for run in reversed(self.runs)
            if run.machine is not None
        }
        return list(reversed(found.values()))

    def _parts(self) -> Iterator[tuple[StudyPart, Run]]:
        for run in self.runs:
            if run.study is not None and run.status == "done":
                yield run.study, run


def is_study(directory: Path) -> bool:
    """Report whether a directory is that of a study."""
    return (directory / PLAN_FILE).is_file() and not (directory / RUN_FILE).exists()


def read_study(directory: str | Path) -> Study:
    """Read the study in a directory.

    Raises:
        StoreError: It is not a study, or cannot be read.
    """
    return read_studies([directory])[0]


def read_studies(directories: Sequence[str | Path]) -> list[Study]:
    """Read the studies in these directories; a directory that is given twice is read once.

    Raises:
        StoreError: One of them is not a study, or cannot be read.
    """
    distinct = {Path(directory).resolve(): Path(directory) for directory in directories}
    with _without_collecting():
        studies = [_read(directory) for directory in distinct.values()]
    names = [study.label for study in studies]
    labelled: list[Study] = []
    for study, resolved in zip(studies, distinct, strict=True):
        label = study.label
        if names.count(label) > 1:
            label = f"{label} ({resolved.name})"
        if label in {one.label for one in labelled}:
            label = f"{study.label} ({resolved})"
        labelled.append(replace(study, label=label))
    return labelled


def read_study_run(directory: Path) -> Run:
    """Read one run of a study, with net energies from the idle runs next to it.

    Raises:
        UserError: The record is damaged.
    """
    run = read_run(directory)
    idle = [path.parent for path in directory.resolve().parent.glob(f"*idle*/{RUN_FILE}")]
    runs, _ = _read_runs(idle)
    return _net([run, *runs])[0]


def study_labels(directory: Path) -> tuple[str | None, str | None]:
    """Return the project and phase of a study, if the user set them.

    Raises:
        UserError: The file is damaged.
    """
    path = directory / LABELS_FILE
    try:
        data = json.loads(path.read_bytes())
        known = data["schema"] == LABELS_SCHEMA
        labels = data.get("project"), phase_name(data.get("phase"))
    except FileNotFoundError:
        return None, None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is damaged", why=str(error), hint="remove it, and tag the study again"
        ) from error
    if not known:
        raise UserError(f"{path} has schema {data['schema']!r}", why=f"expected {LABELS_SCHEMA}")
    return labels


def _read(directory: Path) -> Study:
    path = directory / PLAN_FILE
    try:
        text = path.read_text(encoding="utf-8")
        plan = tomllib.loads(text)
        name = str(plan["name"])
        entries = sorted((directory / "runs").iterdir()) if (directory / "runs").exists() else []
    except FileNotFoundError:
        raise StoreError(f"{directory} is not a study", why="it has no plan.toml") from None
    except OSError as error:
        raise StoreError(f"cannot read {directory}", why=error.strerror or str(error)) from error
    except (ValueError, KeyError) as error:
        raise StoreError(
            f"{path} is damaged", why=str(error), hint="choose another directory"
        ) from None
    runs, damaged = _read_runs([entry for entry in entries if entry.is_dir()])
    project, phase = study_labels(directory)
    runs = [replace(run, project=project, phase=phase) for run in _net(runs)]
    return Study(
        label=name,
        directory=directory,
        plan=plan,
        plan_text=text,
        runs=tuple(runs),
        damaged=tuple(damaged),
    )


def _read_runs(directories: Sequence[Path]) -> tuple[list[Run], list[DamagedRun]]:
    runs, damaged = [], []
    for directory in directories:
        try:
            if not (directory / RUN_FILE).exists():
                raise UserError("run.json is missing")  # noqa: TRY301  (the trace is no cell)
            run = read_run(directory)
            problem = "" if run.study and run.id == directory.name else f"it is of run {run.id!r}"
        except UserError as error:
            problem = str(error).replace(f"{directory}/", "")
        if problem:
            damaged.append(DamagedRun(id=directory.name, directory=directory, problem=problem))
        else:
            runs.append(run)
    return runs, damaged


def _net(runs: Sequence[Run]) -> list[Run]:
    """Subtract from each run the idle power of its own block and boot, whose clock is one."""
    points: dict[tuple[int, str], list[IdlePoint]] = {}
    for run in runs:
        if run.study and run.study.is_idle and run.status == "done" and run.boot_id:
            points.setdefault((run.study.block, run.boot_id), []).extend(idle_points(run))
    baselines = {key: Baseline(tuple(found)) for key, found in points.items()}
    net = []
    for run in runs:
        baseline = None
        if run.study and not run.study.is_idle:
            baseline = baselines.get((run.study.block, run.boot_id))
        net.append(run if baseline is None else with_baseline(run, baseline))
    return net


@contextmanager
def _without_collecting() -> Iterator[None]:
    """Pause the garbage collector.

    Records have no cycles, and scanning those already read again and again would double the time
    that thousands of them take.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
