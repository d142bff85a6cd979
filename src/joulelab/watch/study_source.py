"""A study that is running: its cells, their energy so far, and the current run."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import psutil

from joulelab.energy.baseline import Baseline
from joulelab.errors import TraceError, UserError
from joulelab.recording.trace_format import READINGS_FILE, boot_id
from joulelab.watch.sources import RecordingSource
from joulelab.watch.view import Study, View

try:
    from joulelab.runs.record import Run
    from joulelab.runs.study_runs import idle_points, read_study
    from joulelab.storage import file_errors
    from joulelab.study.cells import Cell, blocks
    from joulelab.study.plan_file import parse
    from joulelab.study.progress import cost_of_all, describe_run, spent
except ImportError as error:
    raise UserError(
        "a study cannot be watched here",
        why=f"{error.name} is not installed",
        hint="pip install 'joulelab[study]'",
    ) from error

LAST_RUNS = 5
LOCK_DELAY_S = 1.0
"""The lock file is written up to this long after the start of its process, given both clocks."""


class StudySource:
    """A study's directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        study = read_study(directory)
        self._name = str(study.plan["name"])
        # A study of recorded logs is complete; its plan has no cells.
        self._plan = None if study.is_imported else parse(study.plan, str(directory))
        self._cells = [cell for block in blocks(self._plan) for cell in block] if self._plan else []
        self._names: set[str] = set()
        self._runs: list[Run] = []
        self._current: tuple[Path, RecordingSource] | None = None

    def poll(self) -> View:
        """Return what is known now."""
        self._read_new_runs()
        finished = {run.id for run in self._runs}
        missing = [cell for cell in self._cells if cell.run_id not in finished]
        is_running = _is_runner_alive(self._directory)
        view = self._poll_run(is_running=is_running)
        if view is None and is_running:
            view = View(title="", state="live", state_words="between two runs")
        elif view is None and missing:
            view = View(title="", state="lost", state_words="no process on this machine runs it")
        elif view is None:
            view = View(title="", state="ended", state_words="complete")
        study = self._progress(missing, view.elapsed_s)
        return replace(view, title=study.name, study=study, elapsed_s=math.nan)

    def _read_new_runs(self) -> None:
        directory = self._directory / "runs"
        with file_errors(f"cannot read {directory}"):
            names = {path.name for path in directory.iterdir()} if directory.is_dir() else set()
        if names != self._names:
            self._names = names
            self._runs = list(read_study(self._directory).runs)

    def _poll_run(self, *, is_running: bool) -> View | None:
        """Poll the run that is being measured, if there is one."""
        partial = self._directory / ".partial"
        paths = [path for path in partial.glob("*") if (path / READINGS_FILE).exists()]
        if not paths or not is_running:
            self._current = None
            return None
        path = max(paths)
        if self._current is None or self._current[0] != path:
            epochs = None
            if self._plan is not None and "train" in self._plan.phases:
                epochs = self._plan.train.epochs
            baseline = self._baseline()
            self._current = path, RecordingSource(path, title="", baseline=baseline, epochs=epochs)
        try:
            view = self._current[1].poll()
        except TraceError:
            # The run has ended and was moved.
            self._current = None
            return None
        return replace(
            view,
            state="live",
            state_words="a run is ending" if view.is_over else "",
            forecast_words=view.forecast_words if view.forecast else "",
        )

    def _baseline(self) -> Baseline | None:
        """Return the idle power that the study has measured since this machine was started."""
        points = [
            point
            for run in self._runs
            if run.study and run.study.is_idle and run.status == "done"
            if run.boot_id == boot_id()
            for point in idle_points(run)
        ]
        return Baseline(tuple(points)) if points else None

    def _progress(self, missing: list[Cell], running_s: float) -> Study:
        cells = [run for run in self._runs if run.study and not run.study.is_idle]
        in_order = sorted(self._runs, key=lambda run: run.ended_unix_s)
        to_go = ""
        if missing and self._plan is not None:
            to_go = str(cost_of_all(missing, self._plan, self._runs)).removeprefix("unknown")
        return Study(
            name=self._name,
            cells=len(self._cells) or len(cells),
            done=len(cells),
            failed=sum(run.status == "failed" for run in cells),
            running=self._current[0].name.rpartition("-")[0] if self._current else "",
            running_s=running_s if self._current else math.nan,
            spent=str(spent(self._runs)) if self._runs else "",
            to_go=to_go,
            last=tuple(describe_run(run) for run in in_order[-LAST_RUNS:]),
        )


def _is_runner_alive(directory: Path) -> bool:
    """Whether the process that last took the study's lock is alive."""
    lock = directory / ".lock"
    try:
        pid = int(lock.read_text())
        return psutil.Process(pid).create_time() <= lock.stat().st_mtime + LOCK_DELAY_S
    except (OSError, ValueError, psutil.Error):
        return False
