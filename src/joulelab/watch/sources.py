"""What can be watched: a recording, a run, a study, or this machine."""

from __future__ import annotations

import contextlib
import math
import platform
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

import psutil

from joulelab.carbon.costs import Costs
from joulelab.carbon.site import local_costs
from joulelab.energy.baseline import Baseline
from joulelab.energy.energy import Energy
from joulelab.errors import TraceError, UserError, optional_packages
from joulelab.machine import describe
from joulelab.meter import Meter
from joulelab.recording.trace import TraceReader
from joulelab.recording.trace_format import READINGS_FILE
from joulelab.runs.record import Run, read_record, read_run, saved_run_directories
from joulelab.runs.saved_baseline import load_baseline
from joulelab.runs.selection import open_run
from joulelab.runs.study_runs import idle_points, is_study, read_study
from joulelab.sensors.host import boot_id
from joulelab.storage import file_errors
from joulelab.watch.growing_trace import GrowingTrace, Snapshot
from joulelab.watch.view import Ended, State, Study, View

if TYPE_CHECKING:
    from joulelab.study.cells import Cell

SILENT_S = 10.0
"""A recorder is lost if its process is gone and its latest reading is older than this."""
FINISHING_S = 5.0
"""How long after the end of its recording the record of a run may still be written."""
LAST_RUNS = 5
LOCK_DELAY_S = 1.0
"""The lock file is written up to this long after the start of its process, given both clocks."""


class Source(Protocol):
    """Something that can be watched."""

    def poll(self) -> View:
        """Return what is known now."""


def open_source(path: Path, *, epochs: int | None = None) -> Source:
    """Open the study, run or recording in a directory, or a saved run by its name or id.

    Of a job of several processes, the newest recording is opened. ``epochs`` is the length of the
    run.
    """
    if not path.exists():
        path = open_run(path).directory
    if is_study(path):
        return StudySource(path)
    if not (path / READINGS_FILE).exists():
        of_hosts = sorted(path.glob(f"*/*/{READINGS_FILE}"), key=lambda file: file.stat().st_mtime)
        path = of_hosts[-1].parent if of_hosts else path
    record = read_record(path)
    if record is not None and record["kind"] == "command":
        return RunSource(path, record, epochs=epochs)
    if (path / READINGS_FILE).exists():
        # The saved idle power is on the clock of this boot.
        baseline = load_baseline(describe) if is_this_boot(header_of(path)) else None
        return RecordingSource(path, title=path.resolve().name, baseline=baseline, epochs=epochs)
    raise UserError(
        f"there is nothing to watch in {path}",
        why="it contains no run, no study and no recording",
        hint="give what `joulelab run`, `joulelab study` or a Meter writes to",
    )


class RecordingSource:
    """A directory with a trace, which need not exist yet, of a Meter or a run of a study."""

    is_behind = False

    def __init__(
        self,
        directory: Path,
        *,
        title: str,
        detail: str = "",
        baseline: Baseline | None = None,
        start_ns: int | None = None,
        epochs: int | None = None,
    ) -> None:
        self._directory, self._baseline = directory, baseline
        self._waiting = View(title=title, detail=detail, state="waiting")
        self._open = partial(GrowingTrace, directory, start_ns=start_ns, epochs=epochs)
        self._trace: GrowingTrace | None = None
        self._costs_of: Energy | None = None
        self._costs: Costs | None = None

    def poll(self) -> View:
        """Return what is known now."""
        try:
            return self._poll()
        except OSError as error:
            reason = error.strerror or str(error)
            raise TraceError(f"cannot read the trace in {self._directory}", why=reason) from error

    def _poll(self) -> View:
        waiting = self._waiting
        if self._trace is None:
            path = self._directory / READINGS_FILE
            if not path.exists() or not path.stat().st_size:
                return replace(waiting, state_words="the recording has not begun")
            self._trace = self._open(baseline=self._baseline)
        trace, snapshot = self._trace, self._trace.poll()
        self.is_behind = snapshot.read_share < 1
        if self.is_behind:
            return replace(waiting, state_words=f"reading, {100 * snapshot.read_share:.0f} %")
        state, reason = _state(trace, snapshot)
        if state in ("ended", "lost"):
            snapshot = trace.poll(final=True)
        is_live, is_here = state in ("live", "waiting"), is_this_boot(trace.header)
        now_ns = time.monotonic_ns() if is_live and is_here else snapshot.until_ns
        # Processes of another machine may well be alive.
        is_alive = psutil.pid_exists if is_here else lambda _: True
        return replace(
            snapshot.view,
            title=waiting.title,
            detail=waiting.detail,
            state=state,
            state_words=reason,
            elapsed_s=(now_ns - trace.start_ns) * 1e-9 if now_ns else math.nan,
            stacks=trace.stacks(now_ns, is_alive) if is_live else (),
            forecast_words=snapshot.view.forecast_words if state == "live" else "",
            costs=self._current_costs(trace, snapshot),
        )

    def _current_costs(self, trace: GrowingTrace, snapshot: Snapshot) -> Costs | None:
        """Return the costs, at a carbon intensity that is updated with the settled energy."""
        energy, settled = snapshot.view.energy, snapshot.settled
        if energy is None or settled is None:
            return None
        if self._costs is None or settled is not self._costs_of:
            start_s = trace.start_unix_s
            self._costs = local_costs(
                settled, started_unix_s=start_s, stopped_unix_s=start_s + settled.duration_s
            )
            self._costs_of = settled
        return replace(self._costs, energy_j=energy.gross_j, interval_j=energy.interval_j)


class RunSource(RecordingSource):
    """A run of ``joulelab run``, with the record that it has so far."""

    def __init__(
        self, directory: Path, record: Mapping[str, Any], *, epochs: int | None = None
    ) -> None:
        super().__init__(
            Path(record.get("inside") or directory),
            title=str(record["name"]),
            detail=" ".join(record.get("command") or ()),
            start_ns=record.get("start_ns"),
            epochs=epochs,
        )
        self._run_directory = directory
        self._has_baseline = False

    def poll(self) -> View:
        """Return what is known now; after its end, the values of its record."""
        record = read_record(self._run_directory) or {}
        finished = record.get("status", "unfinished") != "unfinished"
        # Idle power is recorded a moment after the command was started.
        if not self._has_baseline and record.get("machine") is not None:
            points = record.get("baseline")
            self._has_baseline = True
            self._baseline = None if points is None else Baseline.from_json(points)
            if self._trace is not None:
                self._trace.baseline = self._baseline
        view = super().poll()
        if self.is_behind:
            return view
        if finished:
            return _with_record(view, read_run(self._run_directory))
        if view.state != "ended" or self._trace is None:
            return view
        stop = self._trace.stop
        if stop and silent_s(self._trace.header, int(stop["t_ns"])) < FINISHING_S:
            return replace(view, state="live", state_words="finishing")
        return replace(view, state="lost", state_words="its end was not recorded")


class StudySource:
    """A study that is running: its cells, their energy so far, and the current run."""

    def __init__(self, directory: Path) -> None:
        with optional_packages("cannot watch a study", "study"):
            from joulelab.study import cells, plan_file, progress  # noqa: PLC0415
        self._directory, self._texts = directory, progress
        study = read_study(directory)
        self._name = str(study.plan["name"])
        # A study of recorded logs is complete; its plan has no cells.
        self._plan = None if study.is_imported else plan_file.parse(study.plan, str(directory))
        recorded = [run.id for run in study.runs]
        blocks = cells.blocks(self._plan, recorded) if self._plan else []
        self._cells = [cell for block in blocks for cell in block]
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
            estimated = self._texts.cost_of_all(missing, self._plan, self._runs)
            to_go = str(estimated).removeprefix("unknown")
        return Study(
            name=self._name,
            cells=len(self._cells) or len(cells),
            done=len(cells),
            failed=sum(run.status == "failed" for run in cells),
            running=self._current[0].name.rpartition("-")[0] if self._current else "",
            running_s=running_s if self._current else math.nan,
            spent=str(self._texts.spent(self._runs)) if self._runs else "",
            to_go=to_go,
            last=tuple(self._texts.describe_run(run) for run in in_order[-LAST_RUNS:]),
        )


class MachineSource:
    """This machine, with a recorder that writes to a temporary directory."""

    def __init__(self, sensors: Sequence[str] | None = None) -> None:
        self._hints = tuple(f"joulelab watch {directory}" for directory in running_runs())
        with contextlib.ExitStack() as stack:
            temporary = stack.enter_context(tempfile.TemporaryDirectory(prefix="joulelab-watch-"))
            meter = stack.enter_context(Meter(sensors=sensors, directory=temporary, record=False))
            self._close = stack.pop_all().close
        self._recording = RecordingSource(
            meter.directory, title=platform.node(), detail="this machine", baseline=meter.baseline
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def poll(self) -> View:
        """Return what is known now."""
        # The watcher itself is not a run whose share of the energy matters.
        return replace(self._recording.poll(), job_words="", hints=self._hints)


def running_runs() -> list[Path]:
    """Return the saved runs that are running on this machine, the latest first."""
    found = []
    for path in (path for root in saved_run_directories() for path in root.iterdir()):
        with contextlib.suppress(UserError, TraceError):
            record = read_record(path) or {"status": "unfinished", "inside": None}
            if record["status"] == "unfinished":
                found += [path] * _is_recorder_alive(header_of(Path(record.get("inside") or path)))
    return sorted(found, key=lambda path: path.name, reverse=True)


def is_this_boot(header: Mapping[str, Any]) -> bool:
    """Report whether a recording began after this machine was started."""
    return bool(header.get("boot_id")) and header["boot_id"] == boot_id()


def silent_s(header: Mapping[str, Any], newest_ns: int) -> float:
    """Return the age of the latest reading; clocks of other machines are taken to agree."""
    start_ns = int(header.get("start_ns", 0))
    newest_s = max(newest_ns, start_ns) * 1e-9
    if is_this_boot(header):
        return time.monotonic() - newest_s
    return time.time() - (float(header.get("start_unix_s", 0.0)) + newest_s - start_ns * 1e-9)


def header_of(directory: Path) -> Mapping[str, Any]:
    """Return the header of a trace."""
    return TraceReader(directory).header


def _is_recorder_alive(header: Mapping[str, Any]) -> bool:
    return is_this_boot(header) and psutil.pid_exists(header.get("pid", -1))


def _state(trace: GrowingTrace, snapshot: Snapshot) -> tuple[State, str]:
    """Return whether a recording continues, and how it ended."""
    if trace.stop is not None:
        return "ended", str(trace.stop["reason"])
    is_silent = silent_s(trace.header, snapshot.newest_ns) > SILENT_S
    if is_silent and not _is_recorder_alive(trace.header):
        return "lost", "the recorder is gone"
    return ("live", "") if snapshot.until_ns else ("waiting", "no reading yet")


def _is_runner_alive(directory: Path) -> bool:
    """Report whether the process that last took the study's lock is alive."""
    lock = directory / ".lock"
    try:
        pid = int(lock.read_text())
        return psutil.Process(pid).create_time() <= lock.stat().st_mtime + LOCK_DELAY_S
    except (OSError, ValueError, psutil.Error):
        return False


def _with_record(view: View, run: Run) -> View:
    """Replace the values of a run's trace by those of its record."""
    energy, costs = run.energy, view.costs
    if costs is not None:
        costs = replace(costs, energy_j=energy.gross_j, interval_j=energy.interval_j)
    seen, nothing = {one.name: one for one in view.ended}, Ended(name="", count=0, duration_s=0.0)
    how = f"exit code {run.exit_code}" if run.signal is None else f"signal {run.signal}"
    return replace(
        view,
        state="ended",
        state_words=how,
        elapsed_s=run.duration_s,
        # The trace is longer than the run: what the record lacks was not measured.
        components=tuple(
            replace(
                one,
                gross_j=energy.all_parts[one.name].gross_j,
                is_added=one.name in energy.components,
            )
            for one in view.components
            if one.name in energy.all_parts
        ),
        energy=energy,
        job_words=energy.job_text,
        costs=costs,
        ended=tuple(
            replace(
                seen.get(one.name, nothing),
                name=one.name,
                energy=one,
                count=one.count,
                duration_s=one.duration_s,
            )
            for one in run.spans
        ),
        stacks=(),
        absent=energy.absent,
        notes=tuple(dict.fromkeys((*energy.caveats, *run.notes))),
    )
