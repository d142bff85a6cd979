"""Makes a study of logs that others recorded: the same directory as one that was measured here."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from joulelab.errors import StoreError, UserError
from joulelab.import_study.cells import (
    RecordedCell,
    cells_of,
    idles_of,
    levels,
    most_repeats,
)
from joulelab.import_study.models import Sample, characteristics_of, study_names
from joulelab.import_study.rows import RecordedSpan
from joulelab.import_study.runs import Record, RecordedRuns
from joulelab.import_study.trace import write_slice
from joulelab.logs.power_log import Log
from joulelab.machine import Machine
from joulelab.runs.store import Store
from joulelab.storage import Lock, file_errors, sync
from joulelab.study.log_plan import RecordedFactors, RecordedFiles, RecordedPlan

_DERIVED = {
    *(
        f"{table}.{kind}"
        for table in ("hardware", "models", "summary")
        for kind in ("csv", "parquet", "tex")
    ),
    "results.csv",
    "results.parquet",
    "epochs.parquet",
    "predictions.parquet",
    "findings.json",
    "report.html",
    "figures",
}
"""What is made from runs, and may be replaced with them."""
_RECORD = {"plan.toml", "runs", ".partial", ".lock"}


@dataclass(frozen=True, slots=True)
class RecordedStudy:
    """What a study was made of, and what came of it.

    Attributes:
        directory: The study.
        runs: How many.
        idle_runs: How many measurements of idle, once for each block that they serve.
        models: As the study calls them.
        notes: What was assumed, left out or is not known, for a person to read.
    """

    directory: Path
    runs: int
    idle_runs: int
    models: tuple[str, ...]
    notes: tuple[str, ...]


def record_study(
    directory: Path,
    log: Log,
    rows: Sequence[RecordedSpan],
    files: Sequence[Path],
    *,
    machine: Machine,
    sample: Sample,
    replace: bool = False,
) -> RecordedStudy:
    """Makes the study; the directory appears whole or stays as it was.

    Args:
        directory: Where; not there, empty or, with ``replace``, a study of recorded logs.
        log: The readings.
        rows: The spans, see :func:`joulelab.import_study.rows.read_rows`.
        files: The table of spans, then the logs.
        machine: What was recorded on.
        sample: What the models were made for.
        replace: Whether a study of recorded logs that is there is replaced.

    Raises:
        StoreError: The directory holds something, or cannot be written.
        UserError: A span lies outside the log, or the spans contradict one another.
    """
    directory = directory.resolve()
    _check_place(directory, replace)
    _refuse_outside(log, rows)
    notes: list[str] = []
    names = study_names(rows, notes)
    cells = cells_of(rows, names)
    idles = idles_of(rows, cells)
    if not idles:
        notes.append("no span is idle, so net energies are not known; name one with --idle")
    plan = _plan(directory.name, cells, files)
    runs = RecordedRuns(log, rows, machine, plan.name, f"log-{plan.recorded.digest[:12]}")
    notes += runs.unmeasured()
    characteristics = characteristics_of(rows, names, sample, notes)
    aside = directory.with_name(f".{directory.name}.partial")
    _clear(aside)
    with Store.create(aside, plan) as store:
        try:
            for idle in idles:
                _write(store, log, runs.idle(idle))
            for cell in cells:
                _write(store, log, runs.cell(cell, characteristics[cell.factors["model"]]))
            _appear(aside, directory)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
    models = tuple(dict.fromkeys(names.values()))
    return RecordedStudy(directory, len(cells), len(idles), models, tuple(notes))


def _check_place(directory: Path, replace: bool) -> None:
    """Refuses to lose anything that could not be made again."""
    with file_errors(f"cannot read {directory}"):
        held = {entry.name for entry in directory.iterdir()} if directory.exists() else set()
    if not held:
        return
    foreign = sorted(held - _DERIVED - _RECORD)
    if foreign or "plan.toml" not in held:
        raise StoreError(
            f"{directory} is not empty",
            why=f"it holds {(foreign or sorted(held))[0]}",
            hint="choose another directory with --out",
        )
    if not isinstance(Store.open(directory).plan, RecordedPlan):
        raise StoreError(
            f"{directory} holds a study that was measured",
            hint="choose another directory with --out",
        )
    if not replace:
        raise StoreError(
            f"{directory} holds a study of recorded logs already",
            hint="replace it with --force, or choose another directory with --out",
        )


def _refuse_outside(log: Log, rows: Sequence[RecordedSpan]) -> None:
    outside = [row for row in rows if row.stop_s < log.start_s or row.start_s > log.stop_s]
    if outside:
        first = outside[0]
        others = f" (and of {len(outside) - 1} more)" if len(outside) > 1 else ""
        raise UserError(
            f"the span of {first.label}{others} lies outside the log",
            why=f"it goes from {first.start_s:.12g} to {first.stop_s:.12g} s, the log from "
            f"{log.start_s:.12g} to {log.stop_s:.12g} s",
            hint="put both on one clock, or leave out what was not logged",
        )


def _plan(name: str, cells: Sequence[RecordedCell], files: Sequence[Path]) -> RecordedPlan:
    known = levels(cells)
    found = {phase for cell in cells for phase in cell.phases}
    factors: dict[str, list[Any]] = {
        name: known[name] for name in RecordedFactors.model_fields if name in known
    }
    return RecordedPlan(
        name=re.sub(r"[^A-Za-z0-9._-]+", "-", name).lstrip("._-")[:64] or "recorded",
        models=known["model"],
        phases=[phase for phase in ("train", "infer") if phase in found],
        repeats=most_repeats(cells),
        factors=RecordedFactors(**factors),
        recorded=RecordedFiles(
            spans=files[0].name,
            logs=[path.name for path in files[1:]],
            digest=_digest(files),
            cells=len(cells),
        ),
    )


def _digest(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        with file_errors(f"cannot read {path}"), path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()


def _clear(aside: Path) -> None:
    """Removes what a killed process left, unless it is another that is at work."""
    if aside.exists():
        lock = Lock(aside / ".lock")
        try:
            with file_errors(f"cannot remove {aside}"):
                shutil.rmtree(aside)
        finally:
            lock.release()


def _write(store: Store, log: Log, run: Record) -> None:
    partial = store.begin(run["run_id"])
    with file_errors(f"cannot write {partial}"):
        write_slice(partial, log, run["spans"])
    store.finish(partial, run)


def _appear(aside: Path, directory: Path) -> None:
    """Puts the study in its place by one rename."""
    replaced = aside.with_name(f".{directory.name}.replaced")
    with file_errors(f"cannot write {directory}"):
        shutil.rmtree(replaced, ignore_errors=True)
        if directory.exists():
            directory.rename(replaced)
        aside.rename(directory)
        sync(directory.parent)
    shutil.rmtree(replaced, ignore_errors=True)
