"""Read the directory of a study: its plan, its runs with net energies, and what is damaged.

The reader needs only TOML and JSON: :mod:`joulelab.study`, which checks plans, is built on it.
"""

from __future__ import annotations

import gc
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Required, TypedDict

from joulelab.energy.baseline import Baseline, IdlePoint
from joulelab.energy.energy import Energy
from joulelab.errors import StoreError, UserError
from joulelab.machine import Machine
from joulelab.recording.trace_format import RUN_FILE
from joulelab.runs import phase_name
from joulelab.runs.record import Run, read_record, read_run, run_of_record
from joulelab.runs.study_part import PhaseRecord, SpanRecord
from joulelab.storage import read_whole
from joulelab.validation import Count, InvalidData, convert, decode, parse_toml

_Clock = tuple[int, str, str]
"""Block, host and boot of a run."""

Position = tuple[int, int, str]

PLAN_FILE = "plan.toml"
LABELS_FILE = "ledger.json"
"""Project and phase of a study, set after it ran; other runs have them in their own record."""
LABELS_SCHEMA = "joulelab-ledger-1"


class _Labels(TypedDict, total=False):
    schema: Required[str]
    project: str | None
    phase: str | None


class _Plan(TypedDict):
    """The fields of a plan that are read here."""

    name: str
    models: list[str]
    factors: dict[str, list[Any]]
    repeats: Count


class _Recorded(TypedDict):
    cells: Count


class _ImportedPlan(TypedDict):
    """The same of an imported study."""

    name: str
    recorded: _Recorded


@dataclass(frozen=True, slots=True, kw_only=True)
class DamagedRun:
    """A run of a study whose record cannot be used."""

    id: str
    directory: Path
    problem: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """A study and its runs."""

    label: str  # Name of the study; with its directory if several studies share the name.
    directory: Path  # Directory of the study.
    # The plan as parsed TOML. It has all defaults written out;
    # :func:`joulelab.study.plan_file.parse` checks it and makes a ``Plan``.
    plan: Mapping[str, Any]
    plan_text: str  # The plan as it was written.
    runs: tuple[Run, ...]  # Runs that ended, done or failed, with net energies, by id.
    damaged: tuple[DamagedRun, ...]  # Runs whose record cannot be used.

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
        return sorted(self._done(idle=False), key=position)

    def idles(self) -> list[Run]:
        """Return the finished idle runs, in order of time."""
        return sorted(self._done(idle=True), key=lambda run: (run.started_unix_s, run.id))

    def failed(self) -> list[Run]:
        """Return the runs that failed."""
        return [run for run in self.runs if run.status == "failed"]

    def machines(self) -> list[Machine]:
        """Return the machines that it ran on, each once, in order of first appearance."""
        found: dict[tuple[str, str], Machine] = {}
        for run in self.runs:
            if run.machine is not None:
                found.setdefault((run.machine.host, run.machine.identity), run.machine)
        return list(found.values())

    def _done(self, *, idle: bool) -> list[Run]:
        return [
            run
            for run in self.runs
            if run.study and run.status == "done" and run.study.is_idle is idle
        ]


def is_study(directory: Path) -> bool:
    """Report whether a directory is that of a study."""
    return (directory / PLAN_FILE).is_file() and not (directory / RUN_FILE).exists()


def planned_levels(directory: Path) -> dict[str, list[Any]]:
    """Return the models, phases and levels of factors of a study's plan; none if it has no such."""
    plan = parse_toml(read_whole(directory / PLAN_FILE))
    listed = {"model": plan.get("models"), "phase": plan.get("phases"), **plan.get("factors", {})}
    return {name: levels for name, levels in listed.items() if isinstance(levels, list)}


def read_study(directory: str | Path) -> Study:
    """Read the study in a directory."""
    return read_studies([directory])[0]


def read_studies(
    directories: Sequence[str | Path], *, each: Callable[[Run], Run] = lambda run: run
) -> list[Study]:
    """Read the studies in these directories; a directory that is given twice is read once.

    ``each`` gets every run as it is read, and returns what of it the study keeps.

    Raises:
        StoreError: One of them is not a study, or cannot be read.
    """
    distinct = {Path(directory).resolve(): Path(directory) for directory in directories}
    with _collector_paused():
        studies = [_read(directory, each) for directory in distinct.values()]
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
    """Read one run of a study, with net energies from the idle runs next to it."""
    idle_runs = filter(_is_named_idle, directory.resolve().parent.iterdir())
    return _net(read_run(directory), _baselines(_read_runs(idle_runs, [])))


def idle_points(run: Run) -> list[IdlePoint]:
    """Return the idle power that an idle run measured; older records have only its spans."""
    if run.baseline is not None:
        return list(run.baseline.points)
    spans = run.study.spans if run.study else ()
    return [
        IdlePoint.from_energy(span.energy, (span.start_ns + span.stop_ns) / 2 * 1e-9)
        for span in spans
        if span.name == "idle" and span.energy.components
    ]


def study_labels(directory: Path) -> tuple[str | None, str | None]:
    """Return the project and phase of a study, if the user set them."""
    path = directory / LABELS_FILE
    try:
        labels = decode(read_whole(path), _Labels)
    except FileNotFoundError:
        return None, None
    except (OSError, InvalidData) as error:
        raise UserError(
            f"{path} is damaged", why=str(error), hint="remove it, and tag the study again"
        ) from error
    if labels["schema"] != LABELS_SCHEMA:
        raise UserError(f"{path} has schema {labels['schema']!r}", why=f"expected {LABELS_SCHEMA}")
    return labels.get("project"), phase_name(labels.get("phase"))


def _is_named_idle(directory: Path) -> bool:
    return "idle" in directory.name


def position(run: Run) -> Position:
    """Return the block, order and id of a cell: cells sort by them."""
    assert run.study is not None
    return run.study.block, run.study.order or 0, run.id


def _read(directory: Path, each: Callable[[Run], Run]) -> Study:
    path = directory / PLAN_FILE
    try:
        data = read_whole(path)
        plan = parse_toml(data)
        name = convert(plan, _ImportedPlan if "recorded" in plan else _Plan)["name"]
        entries = sorted((directory / "runs").iterdir()) if (directory / "runs").exists() else []
    except FileNotFoundError:
        raise StoreError(f"{directory} is not a study", why="it has no plan.toml") from None
    except OSError as error:
        raise StoreError(f"cannot read {directory}", why=error.strerror or str(error)) from error
    except InvalidData as error:
        raise StoreError(
            f"{path} is damaged", why=str(error), hint="choose another directory"
        ) from None
    project, phase = study_labels(directory)
    directories = [entry for entry in entries if entry.is_dir()]
    damaged: list[DamagedRun] = []
    idles = list(_read_runs(filter(_is_named_idle, directories), damaged))
    baselines = _baselines(idles)
    cells = _read_runs(itertools.filterfalse(_is_named_idle, directories), damaged)
    runs = [
        each(replace(_net(run, baselines), project=project, phase=phase))
        for run in itertools.chain(idles, cells)
    ]
    return Study(
        label=name,
        directory=directory,
        plan=plan,
        plan_text=data.decode(),
        runs=tuple(sorted(runs, key=lambda run: run.id)),
        damaged=tuple(sorted(damaged, key=lambda one: one.id)),
    )


def _read_runs(directories: Iterable[Path], damaged: list[DamagedRun]) -> Iterator[Run]:
    """Yield the runs in these directories; add those whose record cannot be used."""
    for directory in directories:
        try:
            yield _study_run(directory)
        except UserError as error:
            problem = str(error).replace(f"{directory}/", "")
            damaged.append(DamagedRun(id=directory.name, directory=directory, problem=problem))


def _study_run(directory: Path) -> Run:
    data = read_record(directory)
    if data is None:
        is_there = (directory / RUN_FILE).exists()
        raise UserError(f"{RUN_FILE} is {'not the record of a run' if is_there else 'missing'}")
    run = run_of_record(directory, data)
    if run.study is None or run.id != directory.name:
        raise UserError(f"{RUN_FILE} is of another run, {run.name!r}")
    return run


def _baselines(idles: Iterable[Run]) -> dict[_Clock, Baseline]:
    """Return the idle power of each block, host and boot, whose clock is one."""
    points: dict[_Clock, list[IdlePoint]] = {}
    for run in idles:
        if run.study and run.study.is_idle and run.status == "done" and run.boot_id:
            points.setdefault(_clock_of(run), []).extend(idle_points(run))
    return {key: Baseline(tuple(found)) for key, found in points.items() if found}


def _clock_of(run: Run) -> _Clock:
    return run.study.block if run.study else -1, run.host, run.boot_id


def _net(run: Run, baselines: Mapping[_Clock, Baseline]) -> Run:
    """Subtract idle power from a run that is a cell."""
    baseline = baselines.get(_clock_of(run))
    is_cell = run.study is not None and not run.study.is_idle
    return _with_baseline(run, baseline) if baseline and is_cell else run


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Pause the garbage collector, which would double the time that thousands of records take."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _with_baseline(run: Run, baseline: Baseline) -> Run:
    """Return a study run with net energies.

    Idle power is subtracted over the stretch from the first to the last span of an energy.
    """
    study = run.study
    assert study is not None

    def net(energy: Energy, spans: Sequence[SpanRecord]) -> Energy:
        if not spans:
            return energy
        start_s = min(span.start_ns for span in spans) * 1e-9
        stop_s = max(span.stop_ns for span in spans) * 1e-9
        return baseline.subtract(energy, start_s, stop_s)

    def net_part(part: PhaseRecord) -> PhaseRecord:
        return replace(part, energy=net(part.energy, study.spans_of(part.phase, part.index)))

    return replace(
        run,
        baseline=baseline,
        energy=net(run.energy, study.whole),
        study=replace(
            study,
            results={phase: net_part(result) for phase, result in study.results.items()},
            epochs=tuple(map(net_part, study.epochs)),
        ),
    )
