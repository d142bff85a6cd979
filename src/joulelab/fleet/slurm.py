"""Slurm as an engine: a job for each share, submitted through submitit.

Host and driver meet in ``STUDY/.fleet``, which is on a file system that all nodes share: a host
writes each report as a file, whole or not at all, and the driver removes ``<share>.wanted`` when it
counts a share as lost, so that a node which lives on regardless stops before its next cell. Whether
a job still exists is asked of ``squeue``, because not every cluster has accounting for ``sacct``.
"""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from joulelab.errors import StoreError, UserError, optional_packages
from joulelab.fleet.host import Job, decode, run_job
from joulelab.storage import Lock, file_errors, make_private_directories, read_whole, write_whole
from joulelab.study.plan import Plan
from joulelab.study.share import Report, Share
from joulelab.study.store import FLEET, StudyStore
from joulelab.study.worker import Json

POLL_S = 0.5
"""Time between two scans of the reports."""

ASK_S = 5.0
"""Least time between two questions to Slurm's controller."""

LATE_S = 60.0
"""Network file systems show a file at most this late on another host: actimeo of nfs(5)."""

CANCEL_S = 45.0
"""Jobs that are cancelled get SIGTERM, and SIGKILL after KillWait, 30 s by default."""

_ALIVE = {"PENDING", "CONFIGURING", "RUNNING", "SUSPENDED", "STOPPED", "RESIZING", "SIGNALING",
          "STAGE_OUT"}  # fmt: skip
_LATE = {"COMPLETING", "COMPLETED"}
_UNUSABLE = ("down", "drain", "fail", "error", "unknown", "power_down", "powering_down")


@dataclass(slots=True)
class _Submitted:
    """A job of Slurm and what is known of it."""

    share: Share
    id: str
    node: str = ""
    reason: str = ""
    is_noted: bool = False
    ended_s: float | None = None


class SlurmEngine:
    """The nodes of a Slurm cluster.

    Args:
        store: Directory of the study, on a file system that the nodes share.
        plan: The plan, whose table ``[fleet]`` has the options of ``sbatch``.

    Raises:
        UserError: Slurm or submitit is missing, or no controller answers.
    """

    name = "slurm"

    def __init__(self, store: StudyStore, plan: Plan) -> None:
        self._plan, self._fleet = plan, plan.fleet
        self._directory = store.directory / FLEET
        self._reports = self._directory / "reports"
        self._excluded: set[str] = set()
        self._jobs: dict[str, _Submitted] = {}
        self._asked_s = -ASK_S
        self._places: int | None = None
        self._places_s = 0.0
        digits = hashlib.sha256(str(store.directory).encode()).hexdigest()[:8]
        self._job_name = f"joulelab-{digits}"
        self._executor = self._make_executor()
        with file_errors(f"cannot write {self._directory}"):
            make_private_directories(self._reports)
            for path in self._directory.glob("*.wanted"):
                path.unlink()
        # A driver that was killed has left its jobs; what they measured by now is not lost.
        self._cancel()

    def _make_executor(self) -> Any:
        with optional_packages("cannot use Slurm", "slurm"):
            import submitit  # noqa: PLC0415
        for program in ("sbatch", "srun", "squeue", "scancel", "sinfo"):
            if shutil.which(program) is None:
                raise UserError(
                    "this is not a host of a Slurm cluster",
                    why=f"there is no {program}",
                    hint="run the study on a login node, or with --on local",
                )
        _ask("sinfo", "--noheader", "--format=%P")
        options = dict(self._fleet.sbatch)
        if self._fleet.time is not None:
            options["time"] = self._fleet.time
        executor = submitit.SlurmExecutor(self._directory / "jobs", python=self._fleet.python)
        executor.update_parameters(
            job_name=self._job_name,
            nodes=1,
            ntasks_per_node=1,
            time=None,
            partition=self._fleet.partition,
            account=self._fleet.account,
            gres=self._fleet.gres,
            exclusive=True if self._fleet.exclusive else None,
            signal_delay_s=30,
            # What is left of a share is submitted again without what it has done.
            additional_parameters={"no-requeue": True, **options},
            # An exclusive job has all processors of its node, and its only task may use them.
            srun_args=["--cpu-bind=none"],
        )
        return executor

    def places(self) -> int:
        """Return the number of nodes, or 0 if Slurm can use none of them."""
        if self._places is not None and time.monotonic() - self._places_s < ASK_S:
            return self._places
        partition = [f"--partition={self._fleet.partition}"] if self._fleet.partition else []
        try:
            answer = _ask("sinfo", "--noheader", "--Node", "--format=%N %T", *partition)
        except UserError:
            if self._places is None:
                raise
            return self._places
        states = dict(line.split()[:2] for line in answer.splitlines() if line.strip())
        if not states:
            raise UserError(
                "Slurm has no node for the study",
                why=f"partition {self._fleet.partition!r} has none"
                if self._fleet.partition
                else "sinfo lists none",
                hint="see sinfo, and partition in [fleet]",
            )
        nodes = {node for node in states if node not in self._excluded}
        usable = any(not states[node].startswith(_UNUSABLE) for node in nodes)
        self._places_s = time.monotonic()
        self._places = min(len(nodes), self._fleet.nodes or len(nodes)) if usable else 0
        return self._places

    def start(self, share: Share) -> None:
        """Submit a job.

        Raises:
            UserError: Slurm refuses it.
        """
        job = Job(plan=self._plan, share=share, directory=Path.cwd())
        with file_errors(f"cannot write {self._directory}"):
            self._wanted(share.name).touch()
        self._executor.update_parameters(exclude=",".join(sorted(self._excluded)) or None)
        try:
            submitted = self._executor.submit(run_on_node, self._directory, job)
        except Exception as error:
            last = (getattr(error, "stderr", "") or str(error)).strip().splitlines()[-1:]
            raise UserError(
                "Slurm does not accept a job of the study",
                why="".join(last),
                hint="see [fleet] in the plan",
            ) from error
        self._jobs[share.name] = _Submitted(share, submitted.job_id)

    def reports(self, on_phase: Callable[[Json], None]) -> Iterator[Report]:
        """Yield the reports that are there, and end shares whose job is gone."""
        states = self._ask_states()
        found = False
        for report in self._scan():
            found = True
            yield report
        for submitted in list(self._jobs.values()):
            yield from self._follow(submitted, states)
        if not found:
            time.sleep(POLL_S)

    def _scan(self) -> Iterator[Report]:
        for path in sorted(self._reports.glob("*.report")):
            try:
                report = decode(read_whole(path))
            except msgspec.DecodeError:
                path.unlink()
                continue
            if report.kind == "ended":
                self._forget(report.share)
            yield report
            # It is in the study now.
            path.unlink(missing_ok=True)

    def _follow(
        self, submitted: _Submitted, states: dict[str, tuple[str, str, str]] | None
    ) -> Iterator[Report]:
        if states is None:
            return
        state, node, reason = states.get(submitted.id, ("COMPLETED", submitted.node, ""))
        name = submitted.share.name
        submitted.node = node or submitted.node
        if state in _ALIVE:
            submitted.ended_s = None
            is_waiting = state == "PENDING" and reason == submitted.reason
            if is_waiting and not submitted.is_noted:
                submitted.is_noted = True
                text = f"job {submitted.id} waits in the queue of Slurm ({reason})"
                yield Report(share=name, kind="note", text=text)
            submitted.reason = reason
            return
        now_s = time.monotonic()
        submitted.ended_s = submitted.ended_s or now_s
        if state in _LATE and now_s - submitted.ended_s < LATE_S:
            return
        self._forget(name)
        where = f" on {submitted.node}" if submitted.node else ""
        text = f"job {submitted.id}{where} ended ({state}); {self._last_words(submitted)}"
        yield Report(share=name, kind="ended", host=submitted.node, text=text)

    def _last_words(self, submitted: _Submitted) -> str:
        """Return the last line that a job wrote, or what the lack of a log means."""
        log = self._directory / "jobs" / f"{submitted.id}_0_log.err"
        try:
            lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        except OSError:
            return f"it wrote no log: is {self._directory.parent} visible on that node?"
        return f"{lines[-1].strip()} ({log})" if lines else f"see {log}"

    def exclude(self, host: str) -> None:
        """Submit no more jobs to a node."""
        self._excluded.add(host)
        self._places = None

    def close(self) -> Iterator[Report]:
        """Cancel all jobs, and yield what they reported."""
        if self._jobs:
            for name in list(self._jobs):
                self._forget(name)
            # Without a controller, jobs end by themselves before their next cell.
            with contextlib.suppress(UserError):
                self._cancel()
        yield from self._scan()

    def _forget(self, name: str) -> None:
        self._jobs.pop(name, None)
        self._wanted(name).unlink(missing_ok=True)

    def _wanted(self, name: str) -> Path:
        return self._directory / f"{name}.wanted"

    def _ask_states(self) -> dict[str, tuple[str, str, str]] | None:
        """Return state, node and reason of each job; ``None`` if they are not known now."""
        if time.monotonic() - self._asked_s < ASK_S:
            return None
        self._asked_s = time.monotonic()
        try:
            return self._states()
        except UserError:
            return None

    def _states(self) -> dict[str, tuple[str, str, str]]:
        lines = _ask(
            "squeue",
            "--noheader",
            f"--user={getpass.getuser()}",
            f"--name={self._job_name}",
            "--states=all",
            "--format=%i|%T|%N|%r",
        ).splitlines()
        rows = [line.strip().split("|", 3) for line in lines if line.count("|") == 3]
        return {job: (state, node, reason) for job, state, node, reason in rows}

    def _cancel(self) -> None:
        """Cancel all jobs of this study, and wait for them."""
        deadline_s = time.monotonic() + CANCEL_S
        while ids := [
            job
            for job, (state, *_) in self._states().items()
            if state in _ALIVE or state == "COMPLETING"
        ]:
            _ask("scancel", *ids)
            if time.monotonic() > deadline_s:
                break
            time.sleep(POLL_S)


def run_on_node(directory: Path, job: Job) -> None:
    """Run a share in a job of Slurm, and write its reports to the directory of the study."""
    host = os.environ.get("SLURMD_NODENAME") or platform.node()
    name = job.share.name
    wanted = directory / f"{name}.wanted"
    with _alone_on(directory / f"{host}.lock", wanted.exists):
        for number, report in enumerate(run_job(job, host, wanted.exists)):
            path = directory / "reports" / f"{name}-{host}-{number:06}.report"
            write_whole(path, report, private=True)


@contextlib.contextmanager
def _alone_on(path: Path, is_wanted: Callable[[], bool]) -> Iterator[None]:
    """Wait until no other share of the study runs on this host, as Slurm may pack jobs on nodes."""
    lock = None
    while lock is None and is_wanted():
        try:
            lock = Lock(path)
        except StoreError:
            time.sleep(POLL_S)
    try:
        yield
    finally:
        if lock is not None:
            lock.release()


def _ask(*command: str) -> str:
    """Return what a command of Slurm printed.

    Raises:
        UserError: It failed.
    """
    try:
        return subprocess.run(
            command, check=True, capture_output=True, text=True, timeout=60
        ).stdout
    except subprocess.CalledProcessError as error:
        why = error.stderr.strip().splitlines()[-1:] or [f"exit code {error.returncode}"]
    except subprocess.TimeoutExpired:
        why = ["no answer in 60 s"]
    raise UserError(
        f"Slurm does not answer {command[0]}",
        why=why[0],
        hint="check sinfo; the controller may be down",
    )
