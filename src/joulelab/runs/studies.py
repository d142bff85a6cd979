"""Studies as they lie on the disk, with the idle baseline that belongs to each run."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from joulelab.energy.baseline import Baseline, IdlePoint
from joulelab.energy.energy import Energy
from joulelab.errors import StoreError
from joulelab.machine import Machine
from joulelab.runs.store import RunRecord, records
from joulelab.runs.study_runs import read_study

NS = 1e-9
"""Seconds in a nanosecond."""


@dataclass(frozen=True, slots=True)
class Study:
    """A study's plan and runs.

    Attributes:
        label: The plan's name; with the directory's where several studies share a name.
        directory: Where it is.
        plan: What was to be run, or what was recorded.
        runs: Every run, finished, failed or damaged.
    """

    label: str
    directory: Path
    plan: Any
    runs: tuple[RunRecord, ...]

    def cells(self) -> list[RunRecord]:
        """The runs that measured something, by block and order of running."""
        done = [run for run in self.runs if run.kind == "cell" and run.status == "done"]
        return sorted(done, key=lambda run: (run.data["block"], run.data["order"], run.run_id))

    def readable(self) -> list[RunRecord]:
        """The runs that ended, done or failed, whose records are not damaged."""
        return [run for run in self.runs if run.problem is None]

    def idles(self) -> list[RunRecord]:
        """The finished idle measurements, in order of time."""
        done = [run for run in self.runs if run.kind == "idle" and run.status == "done"]
        return sorted(done, key=lambda run: (run.data["started_unix_s"], run.run_id))

    def machines(self) -> list[Machine]:
        """The machines that it ran on, each once, in order of first appearance."""
        found: dict[tuple[str, str], Machine] = {}
        known: dict[str, None] = {}
        for run in self.readable():
            described = repr(run.data["machine"])
            if described not in known:
                known[described] = None
                machine = Machine.from_json(dict(run.data["machine"]))
                found.setdefault((machine.host, machine.identity), machine)
        return list(found.values())

    def baselines(self) -> Baselines:
        """Idle power by block and boot."""
        points: dict[Place, list[IdlePoint]] = {}
        for idle in self.idles():
            points.setdefault(_place(idle), []).extend(idle_points(idle))
        return Baselines({place: Baseline(tuple(found)) for place, found in points.items()})


Place = tuple[int, str]
"""A block and a boot: their clock, CLOCK_MONOTONIC, begins anew with each boot."""


@dataclass(frozen=True, slots=True)
class Baselines:
    """The idle power of each block within one boot."""

    by_place: Mapping[Place, Baseline]

    def around(self, run: RunRecord) -> Baseline:
        """Idle power around a run: that of the same block and the same boot, if it is known."""
        place = _place(run)
        return self.by_place.get(place, NOTHING) if place[1] else NOTHING


NOTHING = Baseline(())
"""Idle power was not measured."""


def read_studies(directories: Sequence[str | Path]) -> list[Study]:
    """The studies in these directories; one that is named twice is read once.

    Raises:
        StoreError: One of them is no study, or cannot be read.
    """
    with _uncollected():
        return _read(directories)


class _Stored:
    def __init__(self, directory: Path) -> None:
        found = read_study(directory)
        self.directory = directory
        self.plan: Any = SimpleNamespace(**found.plan)
        if not found.is_imported:
            from joulelab.study.plan_file import parse  # noqa: PLC0415

            self.plan = parse(found.plan, "plan.toml")
            return
        self.plan.cells = found.cells_planned
        self.plan.to_toml = lambda: found.plan_text


def _read(directories: Sequence[str | Path]) -> list[Study]:
    distinct = {Path(directory).resolve(): Path(directory) for directory in directories}
    stores = [_Stored(Path(directory)) for directory in distinct.values()]
    names = [store.plan.name for store in stores]
    studies: list[Study] = []
    for store, resolved in zip(stores, distinct, strict=True):
        label = store.plan.name
        if names.count(label) > 1:
            label = f"{label} ({resolved.name})"
        taken = {study.label for study in studies}
        if label in taken:
            label = f"{store.plan.name} ({resolved})"
        studies.append(
            Study(label, store.directory, store.plan, tuple(records(store.directory / "runs")))
        )
    return studies


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without the collector of cyclic garbage.

    Records have no cycles, and looking through those already read, time and again, would double
    the time that thousands of them take.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def idle_points(run: RunRecord) -> list[IdlePoint]:
    """The idle power of an idle run, one point a span that was measured.

    Raises:
        StoreError: The record lacks what it should have.
    """
    with understood(run):
        return [
            IdlePoint.from_energy(energy, middle_s(span))
            for span in run.data["spans"]
            if span["name"] == "idle" and (energy := energy_of(span["energy"])).components
        ]


def energy_of(data: Mapping[str, Any] | None) -> Energy:
    """The energy in a record; one without components where nothing is recorded."""
    if data is None:
        return Energy(duration_s=float("nan"))
    return Energy.from_json(data)


def phase_energy(run: RunRecord, phase: str, baseline: Baseline) -> Energy:
    """The energy of a phase of a run, its idle share over the stretch of its epochs."""
    spans = [
        span
        for span in run.data["spans"]
        if span["name"] == "epoch" and span["attributes"]["phase"] == phase
    ]
    return less_idle(energy_of(run.data["results"][phase]["energy"]), spans, baseline)


def less_idle(energy: Energy, spans: Sequence[Mapping[str, Any]], baseline: Baseline) -> Energy:
    """The energy with its idle share over the stretch of these spans; none without spans."""
    if not spans:
        return energy
    start_s = min(int(span["start_ns"]) for span in spans) * NS
    stop_s = max(int(span["stop_ns"]) for span in spans) * NS
    return baseline.subtract(energy, start_s, stop_s)


def middle_s(span: Mapping[str, Any]) -> float:
    """The middle of a span on CLOCK_MONOTONIC, in seconds."""
    return (int(span["start_ns"]) + int(span["stop_ns"])) / 2 * NS


def _place(run: RunRecord) -> Place:
    return run.data["block"], run.data["boot_id"]


@contextmanager
def understood(run: RunRecord) -> Iterator[None]:
    """Maps what reading a malformed record raises.

    Raises:
        StoreError: In one line, naming the run.
    """
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StoreError(
            f"{run.directory / 'run.json'} is not as this version writes it",
            why=f"{type(error).__name__} {error}",
            hint="remove that run's directory and run the study again",
        ) from error
