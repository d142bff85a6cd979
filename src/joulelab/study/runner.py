"""Run what is missing of a study, and store what each cell did. Imports no torch."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import joulelab.errors
from joulelab.errors import JoulelabError, StoreError, UserError
from joulelab.machine import Machine
from joulelab.runs.record import Run
from joulelab.runs.shared_machine import shared_energies
from joulelab.runs.study_runs import PLAN_FILE, DamagedRun, read_study
from joulelab.study.cells import (
    IDLE_WAIT_S,
    Cell,
    blocks,
    cell_frame,
    failed_body,
    idle_frame,
)
from joulelab.study.plan import Plan
from joulelab.study.progress import Cost, Display, cost_of, cost_of_all, spent
from joulelab.study.store import StudyStore
from joulelab.study.worker import Json, WorkerFailure, WorkerProcess

ATTEMPTS = 3
"""Times a run is started whose recorder or worker dies; the killer may have meant another."""

PREPARE_S = 3600.0
"""A worker that imports PyTorch and downloads or reads its data is stopped after this silence."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The state of a study when its runner ends: recorded cells, and how many of them failed."""

    directory: Path
    cells: int
    failed: int


def run_study(
    directory: str | Path,
    plan: Plan,
    *,
    retry_failed: bool = False,
    retry_shared: bool = False,
    start_worker: Callable[[Path], WorkerProcess] = WorkerProcess,
) -> Outcome:
    """Run what is missing of a study.

    Args:
        directory: Directory of the study; made if it is missing.
        plan: What to run.
        retry_failed: Run failed cells again.
        retry_shared: Run cells again during which other processes used the machine.
        start_worker: Starts a worker that logs to a file.

    Raises:
        StoreError: The directory cannot be used; see :class:`StudyStore`.
        UserError: The data set, a device or a sensor of the plan is missing.
        JoulelabError: The worker or the recorder cannot be started at all.
    """
    directory = Path(directory).resolve()
    with StudyStore(directory, plan.to_dict()) as store:
        study = read_study(directory)
        _check_whole(study.damaged)
        runs = list(study.runs)
        again = study.failed() if retry_failed else []
        again += [run for run in study.cells() if retry_shared and shared_energies(run)]
        for run in again:
            store.discard(run.id)
            runs.remove(run)
        with _Session(store, plan, runs, start_worker) as session:
            session.run()
        cells = [run for run in runs if run.study and not run.study.is_idle]
        return Outcome(directory, len(cells), sum(run.status == "failed" for run in cells))


@dataclass(frozen=True, slots=True)
class ListedCell:
    """A cell of a plan, its status (``"missing"`` if it has not run) and its estimated cost."""

    cell: Cell
    status: str
    cost: Cost


def list_cells(plan: Plan, directory: Path) -> tuple[list[ListedCell], Cost]:
    """List the cells of a plan, and estimate what the missing ones will cost."""
    runs: list[Run] = []
    status: dict[str, str] = {}
    if (directory / PLAN_FILE).exists():
        study = read_study(directory)
        runs = list(study.runs)
        status = {run.id: "damaged" for run in study.damaged}
        status |= {run.id: run.status for run in runs}
    cells = [cell for block in blocks(plan) for cell in block]
    missing = [cell for cell in cells if cell.run_id not in status]
    listed = [
        ListedCell(cell, status.get(cell.run_id, "missing"), cost_of(cell, plan, runs))
        for cell in cells
    ]
    return listed, cost_of_all(missing, plan, runs)


class _Session:
    """One pass through the blocks; adds what it runs to ``runs``."""

    def __init__(
        self,
        store: StudyStore,
        plan: Plan,
        runs: list[Run],
        start_worker: Callable[[Path], WorkerProcess],
    ) -> None:
        self._store, self._plan, self._runs = store, plan, runs
        self._start_worker = start_worker
        self._finished = {run.id for run in runs}
        self._cells = [cell for block in blocks(plan) for cell in block]
        self._display = Display(len(self._cells), len(self._cells) - len(self._missing()))
        self._worker: WorkerProcess | None = None
        self._ready: Json = {}

    def __enter__(self) -> Self:
        self._display.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        try:
            if self._worker is not None:
                self._worker.kill()
        finally:
            self._display.__exit__(*exception)

    def _missing(self) -> list[Cell]:
        return [cell for cell in self._cells if cell.run_id not in self._finished]

    def run(self) -> None:
        for index in range(self._plan.repeats):
            missing = [cell for cell in self._missing() if cell.block == index]
            before, after = f"r{index}-idle-before", f"r{index}-idle-after"
            if missing:
                self._idle(self._unused(before), index)
            for cell in missing:
                self._cell(cell)
            if missing or after not in self._finished:
                self._idle(self._unused(after), index)
            self._stop_worker()

    def _unused(self, run_id: str) -> str:
        """Number the name if it is taken: an interrupted block is started again."""
        number, candidate = 1, run_id
        while candidate in self._finished:
            number += 1
            candidate = f"{run_id}-{number}"
        return candidate

    def _cell(self, cell: Cell) -> None:
        request = {
            "do": "cell",
            "factors": dict(cell.factors),
            "seed": self._plan.seed + cell.block,
        }
        self._attempt(cell.run_id, request, lambda: cell_frame(self._plan, cell, self._ready))

    def _idle(self, run_id: str, block: int) -> None:
        if self._plan.idle_s > 0:
            self._attempt(
                run_id, {"do": "idle"}, lambda: idle_frame(self._plan, run_id, block, self._ready)
            )

    def _attempt(self, run_id: str, request: Json, frame: Callable[[], Json]) -> None:
        """Run until there is something to record, and record it."""
        self._display.start(run_id)
        for left in reversed(range(ATTEMPTS)):
            worker = self._prepared_worker()
            partial = self._store.begin(run_id)
            started_unix_s = time.time()
            try:
                body = self._measured(worker, request | {"directory": str(partial)})
                break
            except WorkerFailure as failure:
                body = failed_body(
                    failure.kind,
                    str(failure),
                    started_unix_s=started_unix_s,
                    ended_unix_s=time.time(),
                )
                if failure.kind == "hang":
                    break
                if left:
                    self._display.note(f"{run_id}: {failure}; running it again")
        self._record(partial, frame() | body)

    def _measured(self, worker: WorkerProcess, request: Json) -> Json:
        """Return what the worker measured; raise WorkerFailure if it or its recorder died."""
        try:
            answer = worker.ask(
                request,
                hang_s=self._plan.hang_s + self._plan.idle_s + IDLE_WAIT_S,
                on_event=self._display.phase,
            )
        except WorkerFailure:
            self._worker = None
            raise
        if "unrecorded" in answer:
            reason = str(answer["unrecorded"])
            if os.strerror(errno.ENOSPC) in reason:
                raise StoreError(
                    f"cannot write below {self._store.directory}",
                    why=os.strerror(errno.ENOSPC),
                    hint="free some space and start again; all finished runs are saved",
                )
            raise WorkerFailure(reason, kind="recorder")
        body: Json = answer["body"]
        return body

    def _record(self, partial: Path, record: Json) -> None:
        duration_s = record["ended_unix_s"] - record["started_unix_s"]
        run = self._store.finish(partial, record | {"duration_s": duration_s})
        self._finished.add(run.id)
        self._runs.append(run)
        if run.status == "failed":
            # What a failure leaves behind in a process is unknown.
            self._stop_worker()
        to_go = cost_of_all(self._missing(), self._plan, self._runs)
        self._display.finish(run, spent(self._runs), to_go)

    def _stop_worker(self) -> None:
        if self._worker is not None:
            self._worker.stop()
            self._worker = None

    def _prepared_worker(self) -> WorkerProcess:
        if self._worker is not None:
            return self._worker
        log = self._store.directory / "worker.log"
        worker, ready = prepared_worker(self._plan, log, self._start_worker)
        self._worker = worker
        self._check_machine(Machine.from_json(ready["machine"]))
        self._ready = ready
        return worker

    def _check_machine(self, here: Machine) -> None:
        there = self._runs[0].machine if self._runs else None
        differences = here.differences(there) if there is not None else []
        if differences:
            what, mine, theirs = differences[0]
            raise StoreError(
                f"{self._store.directory} was started on another machine",
                why=f"{what} is {mine} here and {theirs} there",
                hint="a study needs one kind of machine; choose another directory with --out",
            )


def prepared_worker(
    plan: Plan, log: Path, start_worker: Callable[[Path], WorkerProcess] = WorkerProcess
) -> tuple[WorkerProcess, Json]:
    """Start a worker that is ready for the cells of a plan, and return what it answered too.

    Raises:
        UserError: The data set, a device or a sensor of the plan is missing.
        JoulelabError: The worker does not start.
    """
    request = {"do": "prepare", "plan": plan.to_dict()}
    for left in reversed(range(ATTEMPTS)):
        worker = start_worker(log)
        try:
            ready = worker.ask(request, hang_s=max(plan.hang_s, PREPARE_S))
            break
        except WorkerFailure as failure:
            if not left or failure.kind == "hang":
                raise JoulelabError(
                    "the worker did not start",
                    why=f"{failure.what}; {_last_line(log)}",
                    hint=f"see {log}",
                ) from None
        except BaseException:
            worker.kill()
            raise
    if "refused" in ready:
        worker.stop()
        name, what, why, hint = ready["refused"]
        raise getattr(joulelab.errors, name, UserError)(what, why=why, hint=hint)
    return worker, ready


def _check_whole(damaged: tuple[DamagedRun, ...]) -> None:
    for run in damaged:
        raise StoreError(
            f"{run.directory} is damaged",
            why=run.problem,
            hint="remove it to have that run measured again",
        )


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else "it wrote nothing"
