"""Run what is missing of a study, and store what each cell did. Imports no torch."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from joulelab.errors import JoulelabError, StoreError, UserError
from joulelab.format import count
from joulelab.machine import Machine
from joulelab.runs.record import Run, read_run
from joulelab.runs.shared_machine import shared_energies
from joulelab.runs.study_runs import PLAN_FILE, DamagedRun, read_study
from joulelab.study.cells import Cell, blocks, cell_frame, failed_body
from joulelab.study.engine import Engine, LocalEngine
from joulelab.study.plan import Plan
from joulelab.study.progress import Cost, Display, cost_of, cost_of_all, spent
from joulelab.study.share import ATTEMPTS, Report, Share, error_of, with_duration
from joulelab.study.store import StudyStore
from joulelab.study.worker import Json


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
    engine: Callable[[StudyStore, Plan], Engine] = LocalEngine,
) -> Outcome:
    """Run what is missing of a study.

    Args:
        directory: Directory of the study; made if it is missing.
        plan: What to run.
        retry_failed: Run failed cells again.
        retry_shared: Run cells again during which other processes used the machine.
        engine: Makes the engine that places cells on hosts; see :mod:`joulelab.study.engine`.

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
        # Ray has a handler of its own.
        placing = engine(store, plan)
        with _ended_by_sigterm():
            _Driver(store, plan, runs, placing).run()
        cells = [run for run in runs if run.study and not run.study.is_idle]
        return Outcome(directory, len(cells), sum(run.status == "failed" for run in cells))


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Turn SIGTERM into an exception, so that what runs on hosts is ended, too."""

    def end(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@dataclass(frozen=True, slots=True)
class ListedCell:
    """A cell of a plan, its status (``"missing"`` if it has not run), its host and its cost."""

    cell: Cell
    status: str
    cost: Cost
    host: str | None


def list_cells(plan: Plan, directory: Path) -> tuple[list[ListedCell], Cost]:
    """List the cells of a plan, and estimate what the missing ones will cost."""
    runs: list[Run] = []
    status: dict[str, str] = {}
    if (directory / PLAN_FILE).exists():
        study = read_study(directory)
        runs = list(study.runs)
        status = {run.id: "damaged" for run in study.damaged}
        status |= {run.id: run.status for run in runs}
    hosts = {run.id: run.host for run in runs}
    cells = [cell for block in blocks(plan, status) for cell in block]
    missing = [cell for cell in cells if cell.run_id not in status]
    listed = [
        ListedCell(
            cell,
            status.get(cell.run_id, "missing"),
            cost_of(cell, plan, runs),
            hosts.get(cell.run_id),
        )
        for cell in cells
    ]
    return listed, cost_of_all(missing, plan, runs)


class _Placed:
    """A share that is on a host, or waits for one."""

    def __init__(self, share: Share) -> None:
        self.share = share
        self.host = ""
        self.ready: Json = {}
        self.was_refused = False


class _Driver:
    """Places shares until no cell is missing; adds what is recorded to ``runs``."""

    def __init__(self, store: StudyStore, plan: Plan, runs: list[Run], engine: Engine) -> None:
        self._store, self._plan, self._runs, self._engine = store, plan, runs, engine
        self._finished = {run.id for run in runs}
        self._names = set(self._finished)
        self._blocks = blocks(plan, self._finished)
        self._cells = {cell.run_id: cell for block in self._blocks for cell in block}
        missing = self._missing()
        to_go = cost_of_all(missing, plan, runs)
        self._display = Display(len(self._cells), len(self._cells) - len(missing), to_go)
        self._placed: dict[str, _Placed] = {}
        self._lost: Counter[str] = Counter()
        self._useless = 0
        self._useless_on: Counter[str] = Counter()
        self._has_run = False
        self._refusal: JoulelabError | None = None

    def run(self) -> None:
        with self._display:
            try:
                self._run()
            finally:
                for report in self._engine.close():
                    if report.kind == "record":
                        self._record(report)

    def _run(self) -> None:
        # What hosts have reported since the process ended that ran this study before.
        for report in self._engine.reports(self._display.phase):
            self._receive(report)
        waiting = deque(self._shares())
        while waiting or self._placed:
            while waiting and len(self._placed) < self._engine.places():
                self._start(*waiting.popleft())
            if not self._placed:
                raise self._refusal or UserError(
                    "no host is left to run cells on",
                    why=f"{self._engine.name} has none that is up and has what [fleet] asks for",
                    hint="run the same command again when there is one; finished cells are saved",
                )
            for report in self._engine.reports(self._display.phase):
                if left := self._receive(report):
                    waiting.append(left)

    def _missing(self) -> list[Cell]:
        return [cell for cell in self._cells.values() if cell.run_id not in self._finished]

    def _shares(self) -> Iterator[tuple[int, list[Cell]]]:
        """Divide what is missing: a block is a share, so that its cells are compared on one host.

        A single block is divided among all hosts, and several are if the plan wants more hosts
        than there are blocks.
        """
        missing = [
            (index, [cell for cell in block if cell.run_id not in self._finished])
            for index, block in enumerate(self._blocks)
        ]
        hosts = self._engine.places()
        wanted = self._plan.fleet.nodes or (hosts if self._plan.repeats == 1 else 1)
        blocks_left = sum(bool(cells) for _, cells in missing)
        parts = math.ceil(max(1, min(hosts, wanted)) / max(1, blocks_left))
        for index, cells in missing:
            size = math.ceil(len(cells) / parts)
            yield from ((index, cells[at : at + size]) for at in range(0, len(cells), size or 1))
            # Idle power after the block is only of use on the host that ran its cells.
            if not cells and self._engine.name == "local" and _after(index) not in self._names:
                yield index, []

    def _start(self, block: int, cells: list[Cell]) -> None:
        cells = [cell for cell in cells if cell.run_id not in self._finished]
        before = self._unused(f"r{block}-idle-before") if cells else ""
        share = Share(
            name=f"{time.time_ns():x}",
            block=block,
            cells=tuple(cells),
            before=before if self._plan.idle_s > 0 else "",
            after=self._unused(_after(block)) if self._plan.idle_s > 0 else "",
        )
        self._placed[share.name] = _Placed(share)
        self._engine.start(share)

    def _unused(self, run_id: str) -> str:
        """Number the name if it is taken: an interrupted block is started again."""
        number, candidate = 1, run_id
        while candidate in self._names:
            number += 1
            candidate = f"{run_id}-{number}"
        self._names.add(candidate)
        return candidate

    def _receive(self, report: Report) -> tuple[int, list[Cell]] | None:
        """Take in a report; return what is left of a share that has ended."""
        placed = self._placed.get(report.share)
        if placed is not None and report.host:
            placed.host = report.host
        match report.kind:
            case "record":
                self._record(report)
            case "begin" if placed is not None:
                self._display.start(self._label(report.run_id, report.host))
            case "note" if placed is not None:
                self._display.note(report.text)
            case "ready" if placed is not None:
                placed.ready = report.ready
                self._useless, self._has_run = 0, True
                self._check_machine(Machine.from_json(report.ready["machine"]))
            case "refused" if placed is not None:
                placed.was_refused = True
                self._refusal = error_of(report.refusal)
            case "ended" if placed is not None:
                del self._placed[report.share]
                return self._ended(placed, report)
        return None

    def _record(self, report: Report) -> None:
        """Store a run, unless another host was faster, and show it."""
        if report.run_id in self._finished:
            return
        if report.packed:
            self._add(self._store.adopt(report.run_id, report.packed))
        else:
            self._add(read_run(self._store.directory / "runs" / report.run_id))

    def _add(self, run: Run) -> None:
        self._finished.add(run.id)
        self._names.add(run.id)
        self._runs.append(run)
        to_go = cost_of_all(self._missing(), self._plan, self._runs)
        self._display.finish(run, spent(self._runs), to_go, self._label(run.id, run.host or ""))

    def _ended(self, placed: _Placed, report: Report) -> tuple[int, list[Cell]] | None:
        share, where = placed.share, self._where(placed.host) or ""
        left = [cell for cell in share.cells if cell.run_id not in self._finished]
        if placed.was_refused or not placed.ready:
            self._count_useless(placed, report.text)
        elif left:
            # Cells run one after another, so that the first one without a record was running.
            self._blame(left[0], placed, report.text)
            left = [cell for cell in left if cell.run_id not in self._finished]
            again = f"; {count(len(left), 'cell')} will run again" if left else ""
            self._display.note(f"block {share.block}{where}: {report.text}{again}")
        return (share.block, left) if left else None

    def _count_useless(self, placed: _Placed, reason: str) -> None:
        """Exclude a host that cannot run cells; end the study if it seems that none can."""
        error = self._refusal if placed.was_refused else None
        error = error or JoulelabError("a share of the study did not start", why=reason)
        self._refusal = error
        self._useless += 1
        self._useless_on[placed.host] += 1
        if placed.host and (placed.was_refused or self._useless_on[placed.host] > 1):
            self._engine.exclude(placed.host)
        if not self._engine.places():
            return
        if self._useless >= ATTEMPTS and not (self._has_run and placed.host):
            raise error
        self._display.note(f"{placed.host or 'a host'} runs no cell: {error}")

    def _blame(self, cell: Cell, placed: _Placed, reason: str) -> None:
        """Count a host that was lost during a cell, which fails if that happens too often."""
        self._lost[cell.run_id] += 1
        if self._lost[cell.run_id] < ATTEMPTS:
            return
        partial, now_s = self._store.begin(cell.run_id), time.time()
        body = failed_body("host", reason, started_unix_s=now_s, ended_unix_s=now_s)
        record = cell_frame(self._plan, cell, placed.ready) | body
        self._add(self._store.finish(partial, with_duration(record)))

    def _label(self, run_id: str, host: str) -> str:
        cell = self._cells.get(run_id)
        return f"{run_id if cell is None else cell.label}{self._where(host)}"

    def _where(self, host: str) -> str:
        return f" on {host}" if host and self._engine.name != "local" else ""

    def _check_machine(self, here: Machine) -> None:
        """Refuse to continue on one machine what another one began: it was a study of that one."""
        known = [run.machine for run in self._runs if run.machine is not None]
        differences = [here.differences(there) for there in known]
        if differences and all(differences) and self._engine.name == "local":
            what, mine, theirs = differences[0][0]
            raise StoreError(
                f"{self._store.directory} was started on another machine",
                why=f"{what} is {mine} here and {theirs} there",
                hint="a study needs one kind of machine; choose another directory with --out",
            )


def _after(block: int) -> str:
    return f"r{block}-idle-after"


def _check_whole(damaged: tuple[DamagedRun, ...]) -> None:
    for run in damaged:
        raise StoreError(
            f"{run.directory} is damaged",
            why=run.problem,
            hint="remove it to have that run measured again",
        )
