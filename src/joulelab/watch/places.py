"""What can be watched: this machine, a recording, and (in ``studies.py``) a study."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import psutil

from joulelab.accounting.baseline import Baseline
from joulelab.accounting.energy import Energy
from joulelab.costs import Costs
from joulelab.errors import TraceError, UserError
from joulelab.idle import kept
from joulelab.jobs.account import baseline_of
from joulelab.jobs.record import FINISHED_FILE, STARTED_FILE, Job, is_job, read_job
from joulelab.recording.format import READINGS_FILE, boot_id
from joulelab.recording.trace import TraceReader
from joulelab.site import Site
from joulelab.watch.following import Figures, Following
from joulelab.watch.model import Component, Ended, State, View

SILENT_S = 10.0
"""A recorder whose last reading is older, and whose process is not there, is gone."""
FINISHING_S = 5.0
"""So long after the end of the recording the record of a job is waited for."""


class Place(Protocol):
    """Something that can be watched."""

    def look(self) -> View:
        """What it shows now."""
        ...


class RecordingPlace:
    """A directory with a trace, as a Meter or a run of a study has it.

    Args:
        directory: Holds the trace, or will.
        title: What it is called.
        detail: More of it.
        baseline: Idle power on the trace's clock.
        start_ns: Where what is watched began; ``None``: with the recording.
        epochs: How many there will be, where that is known.
    """

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
        self._directory = directory
        self._title, self._detail = title, detail
        self._baseline, self._start_ns, self._epochs = baseline, start_ns, epochs
        self._following: Following | None = None
        self._site = Site.configured()
        self._costed: Energy | None = None
        self._costs: Costs | None = None

    def look(self) -> View:
        """What it shows now.

        Raises:
            TraceError: The trace is damaged, or was removed.
        """
        try:
            return self._look()
        except OSError as error:
            raise TraceError(
                f"cannot read the trace in {self._directory}", why=error.strerror or str(error)
            ) from error

    def _look(self) -> View:
        following = self._follow()
        if following is None:
            return View(
                title=self._title, detail=self._detail, state="waiting",
                state_words="the recording has not begun",
            )  # fmt: skip
        figures = following.look()
        if figures.read_share < 1:
            return View(
                title=self._title, detail=self._detail, state="waiting",
                state_words=f"reading, {100 * figures.read_share:.0f} %",
            )  # fmt: skip
        state, words = _state(following, figures)
        if state in ("ended", "lost"):
            figures = following.look(final=True)
        return self._view(following, figures, state, words)

    def _follow(self) -> Following | None:
        """What follows the trace, once there is one."""
        if self._following is None:
            path = self._directory / READINGS_FILE
            if not path.exists() or not path.stat().st_size:
                return None
            self._following = Following(
                self._directory,
                baseline=self._baseline,
                start_ns=self._start_ns,
                epochs=self._epochs,
            )
        return self._following

    def _view(self, following: Following, figures: Figures, state: State, words: str) -> View:
        """The figures with what is known beside them."""
        until_ns = figures.until_ns
        live, here = state in ("live", "waiting"), _is_this_boot(following.header)
        now_ns = time.monotonic_ns() if live and here else until_ns
        is_alive = psutil.pid_exists if here else _unknown_to_us
        costs = self._costs_of(following, figures)
        absent = {one.component: str(one) for one in following.absent}
        if figures.energy is not None:
            absent = dict(figures.energy.absent)
        notes = figures.energy.notes if figures.energy else ()
        if state == "ended":
            notes = tuple(note for note in notes if note != "the recording had ended")
        return View(
            title=self._title,
            detail=self._detail,
            state=state,
            state_words=words,
            elapsed_s=(now_ns - following.start_ns) * 1e-9 if now_ns else math.nan,
            components=figures.components,
            power_w=figures.power_w,
            energy=figures.energy,
            job_words=figures.energy.job_words if figures.energy else "",
            gauges=figures.gauges,
            stacks=following.book.stacks(now_ns, is_alive) if live else (),
            ended=figures.ended,
            forecast=figures.outlook.forecast,
            forecast_words=figures.outlook.words if state == "live" else "",
            costs=costs,
            absent=absent,
            notes=notes,
        )

    def _costs_of(self, following: Following, figures: Figures) -> Costs | None:
        """What the energy costs, at an intensity that is worked out as seldom as all of it."""
        energy, accounted = figures.energy, figures.accounted
        if energy is None or accounted is None:
            return None
        if self._costs is None or accounted is not self._costed:
            start_unix_s = following.unix_s(following.start_ns)
            self._costs = self._site.costs(
                accounted,
                started_unix_s=start_unix_s,
                stopped_unix_s=start_unix_s + accounted.duration_s,
            )
            self._costed = accounted
        return replace(self._costs, energy_j=energy.gross_j, interval_j=energy.interval_j)


class JobPlace(RecordingPlace):
    """A job of ``joulelab run``.

    Args:
        directory: Of the job.
        epochs: As for :class:`RecordingPlace`.
    """

    def __init__(self, directory: Path, *, epochs: int | None = None) -> None:
        data = _started(directory)
        super().__init__(
            Path(data["joined"] or directory),
            title=str(data["name"]),
            detail=" ".join(data["command"]),
            start_ns=data["start_ns"],
            epochs=epochs,
        )
        self._job_directory = directory
        self._is_prepared = False
        self._stopped_s = math.inf

    def look(self) -> View:
        """What it shows now; when it has finished, the figures of its record."""
        finished = (self._job_directory / FINISHED_FILE).exists()
        self._prepare()
        view = super().look()
        if finished:
            return _with_record(view, read_job(self._job_directory))
        if view.state != "ended":
            return view
        self._stopped_s = min(self._stopped_s, time.monotonic())
        if time.monotonic() - self._stopped_s < FINISHING_S:
            return replace(view, state="live", state_words="finishing")
        return replace(view, state="lost", state_words="its end was not recorded")

    def _prepare(self) -> None:
        """Idle power is known to the record a moment after the command was started."""
        if self._is_prepared:
            return
        data = _started(self._job_directory)
        self._is_prepared = data["machine"] is not None
        self._baseline = baseline_of(data["baseline"])
        if self._following is not None:
            self._following.baseline = self._baseline


def _started(directory: Path) -> dict[str, Any]:
    """What ``job.json`` says."""
    path = directory / STARTED_FILE
    try:
        data = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}", why=str(error)) from error
    assert isinstance(data, dict)
    return data


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
        job_words=job.energy.job_words,
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


def _state(following: Following, figures: Figures) -> tuple[State, str]:
    """Whether a recording goes on, and how it ended."""
    stop = following.book.stop
    if stop is not None:
        return "ended", str(stop["reason"])
    silent_s = _silent_s(following.header, figures.newest_ns)
    if silent_s > SILENT_S and not _recorder_is_there(following.header):
        return "lost", "the recorder is gone"
    return ("live", "") if figures.until_ns else ("waiting", "no reading yet")


def _unknown_to_us(_pid: int) -> bool:
    """A process of another machine may well be there."""
    return True


def _is_this_boot(header: Mapping[str, Any]) -> bool:
    return bool(header.get("boot_id")) and header["boot_id"] == boot_id()


def _silent_s(header: Mapping[str, Any], newest_ns: int) -> float:
    """How long ago the last reading was; other machines' clocks are taken to agree with ours."""
    start_ns = int(header.get("start_ns", 0))
    newest_s = max(newest_ns, start_ns) * 1e-9
    if _is_this_boot(header):
        return time.monotonic() - newest_s
    return time.time() - (float(header.get("start_unix_s", 0.0)) + newest_s - start_ns * 1e-9)


def _recorder_is_there(header: Mapping[str, Any]) -> bool:
    return _is_this_boot(header) and psutil.pid_exists(header.get("pid", -1))


def place_of(path: Path, *, epochs: int | None = None) -> Place:
    """What a path stands for.

    Args:
        path: A study, a job, or a directory with a trace.
        epochs: How many there will be, where that is known.

    Raises:
        UserError: It is none of them.
    """
    if not path.is_dir():
        raise UserError(f"there is no directory {path}", mend="give a job, a study or a recording")
    if (path / "plan.toml").exists():
        from joulelab.watch.studies import StudyPlace  # noqa: PLC0415

        return StudyPlace(path)
    if (path / STARTED_FILE).exists() and is_job(path):
        return JobPlace(path, epochs=epochs)
    if (path / READINGS_FILE).exists():
        return RecordingPlace(path, title=path.resolve().name, baseline=kept(), epochs=epochs)
    raise UserError(
        f"there is nothing to watch in {path}",
        why="it holds no job, no study and no recording",
        mend="give what `joulelab run`, `joulelab study` or a Meter writes to",
    )


def is_recording(directory: Path) -> bool:
    """Whether a recorder of this machine writes to that directory."""
    try:
        header = TraceReader(directory).read_between(0, 0).header
    except TraceError:
        return False
    return _recorder_is_there(header)
