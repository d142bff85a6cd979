"""Walks through a study and stores what each cell did. Imports no torch."""

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
from joulelab.runs.store import RunRecord, Store
from joulelab.study.estimate import cost_of_all, spent
from joulelab.study.order import Cell, blocks
from joulelab.study.plan import Plan
from joulelab.study.progress import Display, display_for
from joulelab.study.records import cell_frame, failed_body, idle_frame
from joulelab.study.worker_process import Event, WorkerFailure, WorkerProcess

ATTEMPTS = 3
"""How often a run is begun whose recorder or worker dies; the killer may have meant another."""

PREPARE_S = 3600.0
"""A worker that imports PyTorch and fetches or reads its data in silence is stopped after this."""

DisplayFactory = Callable[[int, int], Display]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a study stands when its runner ends.

    Attributes:
        directory: The study.
        cells: All that the plan has.
        failed: Those that are recorded as failed.
    """

    directory: Path
    cells: int
    failed: int


def run_study(
    directory: str | Path,
    plan: Plan,
    *,
    retry_failed: bool = False,
    display: DisplayFactory = display_for,
) -> Outcome:
    """Runs what is missing of a study.

    Args:
        directory: Of the study; made when it is not there.
        plan: What to run.
        retry_failed: Whether cells that failed are run again.
        display: Makes the display, from the number of cells and of those that are finished.

    Raises:
        StoreError: The directory cannot be used; see :meth:`Store.create`.
        UserError: The data set, a device or a sensor of the plan is not there.
        JoulelabError: The worker or the recorder cannot be started at all.
    """
    with Store.create(Path(directory).resolve(), plan) as store:
        records = store.runs()
        _refuse_damaged(records)
        if retry_failed:
            for record in records:
                if record.status == "failed":
                    store.discard(record.run_id)
            records = [record for record in records if record.status != "failed"]
        with _Session(store, plan, records, display) as session:
            session.run()
        cells = [record for record in store.runs() if record.kind == "cell"]
        failed = sum(record.status == "failed" for record in cells)
        return Outcome(store.directory, len(cells), failed)


class _Session:
    def __init__(
        self, store: Store, plan: Plan, records: list[RunRecord], display: DisplayFactory
    ) -> None:
        self._store, self._plan = store, plan
        self._runs = [dict(record.data) for record in records]
        self._finished = {record.run_id for record in records}
        self._cells = [cell for block in blocks(plan) for cell in block]
        self._display = display(len(self._cells), len(self._cells) - len(self._missing()))
        self._worker: WorkerProcess | None = None
        self._ready: Event = {}

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
        """Every block that lacks something."""
        for index in range(self._plan.repeats):
            missing = [cell for cell in self._missing() if cell.block == index]
            before, after = f"r{index}-idle-before", f"r{index}-idle-after"
            if missing:
                self._idle(self._unused(before), index)
            for cell in missing:
                self._cell(cell)
            if missing or after not in self._finished:
                self._idle(self._unused(after), index)
            if self._worker is not None:
                self._worker.stop()
                self._worker = None

    def _unused(self, run_id: str) -> str:
        """That name, or with a number behind it: a block is begun anew after an interruption."""
        number, candidate = 1, run_id
        while candidate in self._finished:
            number += 1
            candidate = f"{run_id}-{number}"
        return candidate

    def _cell(self, cell: Cell) -> None:
        self._display.begins(cell.run_id)
        request = {
            "do": "cell",
            "factors": cell.factors.to_json(),
            "seed": self._plan.seed + cell.block,
        }
        self._attempt(cell.run_id, request, lambda: cell_frame(self._plan, cell, self._ready))

    def _idle(self, run_id: str, block: int) -> None:
        if self._plan.idle_s == 0:
            return
        self._display.begins(run_id)
        self._attempt(
            run_id, {"do": "idle"}, lambda: idle_frame(self._plan, run_id, block, self._ready)
        )

    def _attempt(self, run_id: str, request: Event, frame: Callable[[], Event]) -> None:
        """Runs until there is something to record, and records it."""
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
                    stopped_unix_s=time.time(),
                )
                if failure.kind == "hang":
                    break
                if left:
                    self._display.note(f"{run_id}: {failure}; it is run again")
        self._record(partial, frame() | body)

    def _measured(self, worker: WorkerProcess, request: Event) -> Event:
        """What happened, as the worker says it.

        Raises:
            WorkerFailure: The worker died or hung, or its recorder died.
        """
        try:
            answer = worker.ask(
                request,
                hang_s=self._plan.hang_s + self._plan.idle_s,
                tell=self._display.phase,
            )
        except WorkerFailure:
            self._worker = None
            raise
        if "unrecorded" in answer:
            reason = str(answer["unrecorded"])
            _refuse_full_disk(reason, self._store.directory)
            raise WorkerFailure(reason, kind="recorder")
        body: Event = answer["body"]
        return body

    def _record(self, partial: Path, run: Event) -> None:
        self._store.finish(partial, run)
        self._finished.add(run["run_id"])
        self._runs.append(run)
        if run["status"] == "failed" and self._worker is not None:
            # What a failure leaves behind in a process cannot be known.
            self._worker.stop()
            self._worker = None
        to_go = cost_of_all(self._missing(), self._plan, self._runs)
        self._display.ended(run, spent(self._runs), to_go)

    def _prepared_worker(self) -> WorkerProcess:
        if self._worker is not None:
            return self._worker
        log = self._store.directory / "worker.log"
        for left in reversed(range(ATTEMPTS)):
            worker = WorkerProcess(log)
            self._worker = worker
            try:
                ready = worker.ask(
                    {"do": "prepare", "plan": self._plan.to_dict()},
                    hang_s=max(self._plan.hang_s, PREPARE_S),
                )
                break
            except WorkerFailure as failure:
                self._worker = None
                if not left or failure.kind == "hang":
                    raise JoulelabError(
                        "the worker did not start",
                        why=f"{failure.what}; {_last_line(log)}",
                        hint=f"see {log}",
                    ) from None
        if "refused" in ready:
            name, what, why, hint = ready["refused"]
            error = getattr(joulelab.errors, name, UserError)
            raise error(what, why=why, hint=hint)
        self._refuse_other_machine(ready)
        self._ready = ready
        return worker

    def _refuse_other_machine(self, ready: Event) -> None:
        if not self._runs:
            return
        here, there = (
            Machine.from_json(ready["machine"]),
            Machine.from_json(self._runs[0]["machine"]),
        )
        differences = here.differences(there)
        if differences:
            what, mine, theirs = differences[0]
            raise StoreError(
                f"{self._store.directory} was begun on another machine",
                why=f"{what} is {mine} here and {theirs} there",
                hint="energies of unlike machines do not mix; choose another directory with --out",
            )


def _refuse_damaged(records: list[RunRecord]) -> None:
    for record in records:
        if record.problem:
            raise StoreError(
                f"{record.directory} is damaged",
                why=record.problem,
                hint="remove it to have that run measured again",
            )


def _refuse_full_disk(reason: str, directory: Path) -> None:
    if os.strerror(errno.ENOSPC) in reason:
        raise StoreError(
            f"cannot write below {directory}",
            why=os.strerror(errno.ENOSPC),
            hint="free some space and start again; all finished runs are saved",
        )


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else "it said nothing"
