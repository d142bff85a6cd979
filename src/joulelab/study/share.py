"""Run a share of a study on this host: cells of one block, with idle before and after.

A share is what an engine places on a host (:mod:`joulelab.study.engine`). It is a generator of
reports, so that their reader decides how they travel.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import joulelab.errors
from joulelab.errors import JoulelabError, StoreError, UserError
from joulelab.study.cells import IDLE_WAIT_S, Cell, cell_frame, failed_body, idle_frame
from joulelab.study.plan import Plan
from joulelab.study.store import StudyStore
from joulelab.study.worker import Json, WorkerFailure, WorkerProcess

ATTEMPTS = 3
"""Times a run is started whose recorder, worker or host dies; the killer may have meant another."""

PREPARE_S = 3600.0
"""A worker that imports PyTorch and downloads or reads its data is stopped after this silence."""

StartWorker = Callable[[Path], WorkerProcess]


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """Cells of a block that one host runs one after another."""

    name: str  # Distinguishes it from the other shares of a study, also from earlier ones.
    block: int
    cells: tuple[Cell, ...]
    before: str  # Name of the idle run before the cells; empty for none, like ``after``.
    after: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a host reports of a share."""

    share: str  # Name of the share.
    # ``ready`` once a worker can run cells, and ``refused`` if none can there; ``begin`` and
    # ``record`` of each run; ``note`` for the user; ``ended`` is the last one.
    kind: Literal["ready", "refused", "begin", "record", "note", "ended"]
    host: str = ""  # Where it runs; empty if unknown.
    run_id: str = ""  # The run that begins, or that was recorded.
    text: str = ""  # The note, or why the share ended before its work was done.
    # What the worker answered to ``prepare``; see :mod:`joulelab.study.worker`.
    ready: Json = field(default_factory=dict)
    refusal: tuple[str, ...] = ()  # Class, what, why and hint of the error.
    packed: bytes = b""  # The directory of the run, unless it is in the study already.


def run_share(
    store: StudyStore,
    plan: Plan,
    share: Share,
    *,
    host: str,
    start_worker: StartWorker = WorkerProcess,
    on_phase: Callable[[Json], None] = lambda event: None,
    is_wanted: Callable[[], bool] = lambda: True,
) -> Generator[Report, None, None]:
    """Run a share, and report what becomes of it; the last report is ``ended``.

    Args:
        store: Where its runs are stored.
        plan: The plan.
        share: What to run.
        host: Name of this host in records.
        start_worker: Starts a worker that logs to a file.
        on_phase: Called with each phase that a cell begins.
        is_wanted: Asked before each run; the share ends when it is not wanted any more.
    """
    session = _Session(store, plan, host, start_worker, on_phase)

    def report(kind: Any, **content: Any) -> Report:
        return Report(share=share.name, kind=kind, host=host, **content)

    try:
        session.prepare()
        yield report("ready", ready=session.ready)
        runs = [(share.before, None), *((cell.run_id, cell) for cell in share.cells)]
        for run_id, cell in [*runs, (share.after, None)]:
            if not is_wanted():
                break
            if run_id:
                yield report("begin", run_id=run_id)
                for note in session.run(run_id, share.block, cell):
                    yield report("note", text=note)
                yield report("record", run_id=run_id)
        session.stop()
        yield report("ended")
    except JoulelabError as error:
        yield report("refused", refusal=(type(error).__name__, error.what, error.why, error.hint))
        yield report("ended", text=error.what)
    finally:
        session.kill()


def error_of(refusal: tuple[str, ...]) -> JoulelabError:
    """Make the error that a host or a worker reported: class, what, why and hint."""
    name, what, why, hint = refusal
    error: JoulelabError = getattr(joulelab.errors, name, UserError)(what, why=why, hint=hint)
    return error


class _Session:
    """A worker on this host, replaced after failures, whose runs are stored."""

    def __init__(
        self,
        store: StudyStore,
        plan: Plan,
        host: str,
        start_worker: StartWorker,
        on_phase: Callable[[Json], None],
    ) -> None:
        self._store, self._plan, self._host = store, plan, host
        self._start_worker, self._on_phase = start_worker, on_phase
        self._worker: WorkerProcess | None = None
        self.ready: Json = {}

    def prepare(self) -> WorkerProcess:
        """Start a worker unless there is one."""
        if self._worker is None:
            log = self._store.directory / "worker.log"
            self._worker, ready = prepared_worker(self._plan, log, self._start_worker)
            self.ready = ready | {"machine": ready["machine"] | {"host": self._host}}
        return self._worker

    def run(self, run_id: str, block: int, cell: Cell | None) -> Iterator[str]:
        """Run a cell, or measure idle power, until there is something to record, and record it.

        Yields:
            Why it is started again.
        """
        request: Json = {"do": "idle"}
        if cell is not None:
            seed = self._plan.seed + cell.block
            request = {"do": "cell", "factors": dict(cell.factors), "seed": seed}
        for left in reversed(range(ATTEMPTS)):
            worker = self.prepare()
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
                    yield f"{run_id}: {failure}; running it again"
        if cell is None:
            frame = idle_frame(self._plan, run_id, block, self.ready)
        else:
            frame = cell_frame(self._plan, cell, self.ready)
        run = self._store.finish(partial, with_duration(frame | body))
        if run.status == "failed":
            # What a failure leaves behind in a process is unknown.
            self.stop()

    def _measured(self, worker: WorkerProcess, request: Json) -> Json:
        """Return what the worker measured; raise WorkerFailure if it or its recorder died."""
        try:
            answer = worker.ask(
                request,
                hang_s=self._plan.hang_s + self._plan.idle_s + IDLE_WAIT_S,
                on_event=self._on_phase,
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

    def stop(self) -> None:
        if self._worker is not None:
            self._worker.stop()
            self._worker = None

    def kill(self) -> None:
        if self._worker is not None:
            self._worker.kill()
            self._worker = None


def with_duration(record: Json) -> Json:
    """Complete a record by its duration."""
    return record | {"duration_s": record["ended_unix_s"] - record["started_unix_s"]}


def prepared_worker(
    plan: Plan, log: Path, start_worker: StartWorker = WorkerProcess
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
        raise error_of(tuple(ready["refused"]))
    return worker, ready


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else "it wrote nothing"
