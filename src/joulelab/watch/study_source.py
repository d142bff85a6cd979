"""A study that is running: its cells, their energy so far, and the current run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from joulelab.energy.baseline import Baseline, IdlePoint
from joulelab.energy.energy import Energy
from joulelab.errors import TraceError, UserError
from joulelab.recording.trace_format import READINGS_FILE, boot_id
from joulelab.watch.sources import RecordingSource
from joulelab.watch.view import State, Study, View

try:
    from joulelab.runs.store import Store
    from joulelab.storage import file_errors
    from joulelab.study.estimate import cost_of_all, spent
    from joulelab.study.order import Cell, blocks
    from joulelab.study.plan import Plan
    from joulelab.study.progress import summary
except ImportError as error:
    raise UserError(
        "a study cannot be watched here",
        why=f"{error.name} is not installed",
        hint="pip install 'joulelab[study]'",
    ) from error

LAST_RUNS = 5
WRITTEN_S = 1.0
"""The lock's file is written a moment after its process began, by clocks that may differ so."""


class StudySource:
    """A study's directory.

    Args:
        directory: Of the study.

    Raises:
        StoreError: It is none, or cannot be read.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._store = Store.open(directory)
        self._cells = _cells(self._store)
        self._names: set[str] = set()
        self._runs: list[Mapping[str, Any]] = []
        self._running: tuple[Path, RecordingSource] | None = None

    def poll(self) -> View:
        """Return what is known now."""
        self._read_new_runs()
        missing = self._missing()
        view = self._poll_run()
        if view is None:
            state, words = self._without_run(missing)
            view = View(title="", state=state, state_words=words)
        study = self._study(missing, view.elapsed_s)
        return replace(view, title=study.name, study=study, elapsed_s=math.nan)

    def _poll_run(self) -> View | None:
        """The run that is being measured; nothing where there is none."""
        run = self._under_way()
        if run is None:
            return None
        try:
            view = run.poll()
        except TraceError:
            # It has ended and lies in another place now.
            self._running = None
            return None
        goes_on = view.state in ("live", "waiting")
        return replace(
            view,
            state="live",
            state_words="" if goes_on else "a run ends",
            forecast_words=view.forecast_words if view.forecast else "",
        )

    def _without_run(self, missing: Sequence[Cell]) -> tuple[State, str]:
        if _runner_is_there(self._directory):
            return "live", "between two runs"
        return ("lost", "no process here runs it") if missing else ("ended", "complete")

    def _read_new_runs(self) -> None:
        directory = self._directory / "runs"
        with file_errors(f"cannot read {directory}"):
            names = {path.name for path in directory.iterdir()} if directory.is_dir() else set()
        if names != self._names:
            records = self._store.runs()
            self._names = names
            self._runs = [record.data for record in records if not record.problem]

    def _missing(self) -> list[Cell]:
        finished = {run["run_id"] for run in self._runs}
        return [cell for cell in self._cells if cell.run_id not in finished]

    def _under_way(self) -> RecordingSource | None:
        """The run that is being measured, where there is one."""
        partial = self._directory / ".partial"
        paths = [path for path in partial.glob("*") if (path / READINGS_FILE).exists()]
        if not paths or not _runner_is_there(self._directory):
            self._running = None
            return None
        path = max(paths)
        if self._running is None or self._running[0] != path:
            place = RecordingSource(
                path, title="", baseline=self._baseline(), epochs=self._epochs()
            )
            self._running = path, place
        return self._running[1]

    def _baseline(self) -> Baseline | None:
        """The idle power that the study has measured since this machine started."""
        points = [
            IdlePoint.from_energy(
                Energy.from_json(span["energy"]), (span["start_ns"] + span["stop_ns"]) * 0.5e-9
            )
            for run in self._runs
            if run["kind"] == "idle" and run["status"] == "done" and run["boot_id"] == boot_id()
            for span in run["spans"]
            if span["energy"] is not None
        ]
        return Baseline(tuple(points)) if points else None

    def _epochs(self) -> int | None:
        plan = self._store.plan
        return plan.train.epochs if isinstance(plan, Plan) and "train" in plan.phases else None

    def _study(self, missing: list[Cell], running_s: float) -> Study:
        plan = self._store.plan
        cells = [run for run in self._runs if run["kind"] == "cell"]
        in_order = sorted(self._runs, key=lambda run: float(run["stopped_unix_s"]))
        to_go = ""
        if missing and isinstance(plan, Plan):
            cost = cost_of_all(missing, plan, self._runs)
            to_go = "" if math.isnan(cost.duration_s) and cost.energy_j is None else str(cost)
        return Study(
            name=plan.name,
            cells=len(self._cells) or len(cells),
            done=len(cells),
            failed=sum(run["status"] == "failed" for run in cells),
            running=self._running[0].name.rpartition("-")[0] if self._running else "",
            running_s=running_s if self._running else math.nan,
            spent=str(spent(self._runs)) if self._runs else "",
            to_go=to_go,
            last=tuple(summary(run) for run in in_order[-LAST_RUNS:]),
        )


def _cells(store: Store) -> list[Cell]:
    """All that the plan has; none of a study of recorded logs, which are all there."""
    plan = store.plan
    return [cell for block in blocks(plan) for cell in block] if isinstance(plan, Plan) else []


def _runner_is_there(directory: Path) -> bool:
    """Whether the process that last took the study's lock is still there."""
    lock = directory / ".lock"
    try:
        pid = int(lock.read_text())
        return psutil.Process(pid).create_time() <= lock.stat().st_mtime + WRITTEN_S
    except (OSError, ValueError, psutil.Error):
        return False
