"""A study from logs of other tools: the same directory as that of a study measured here."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from joulelab.errors import StoreError, UserError
from joulelab.import_study.descriptions import Sample, canonical_names, characteristics_of
from joulelab.import_study.records import RecordWriter, write_trace
from joulelab.import_study.run_spans import Cell, RunSpan, group_cells, group_idle
from joulelab.logs.power_log import Log
from joulelab.machine import Machine
from joulelab.runs import FACTORS
from joulelab.runs.study_runs import read_study
from joulelab.storage import Lock, file_errors, sync
from joulelab.study.store import StudyStore

_DERIVED = {
    *(f"{name}.{kind}" for name in ("hardware", "models", "summary")
        for kind in ("csv", "parquet", "tex")),
    "results.csv", "results.parquet", "epochs.parquet", "predictions.parquet", "findings.json",
    "report.html", "figures",
}  # fmt: skip
"""Files made from runs, which may be replaced with them."""
_RECORD = {"plan.toml", "runs", ".partial", ".lock"}


@dataclass(frozen=True, slots=True)
class ImportedStudy:
    """A study that was imported.

    Attributes:
        directory: Directory of the study.
        runs: Number of runs, without idle runs.
        idle_runs: Number of idle runs; a measurement counts once for each block that uses it.
        models: Models by their names in the study.
        notes: What was assumed, skipped or is unknown.
    """

    directory: Path
    runs: int
    idle_runs: int
    models: tuple[str, ...]
    notes: tuple[str, ...]


def import_study(
    directory: Path,
    log: Log,
    spans: Sequence[RunSpan],
    files: Sequence[Path],
    *,
    machine: Machine,
    sample: Sample,
    replace: bool = False,
) -> ImportedStudy:
    """Make the study; the directory appears whole or stays as it was.

    Args:
        directory: Where to; missing, empty or, with ``replace``, an imported study.
        log: The readings.
        spans: The spans, see :func:`joulelab.import_study.run_spans.read_run_spans`.
        files: The table of spans, then the logs.
        machine: Machine that was recorded.
        sample: Input and output of the models.
        replace: Whether to replace an imported study.

    Raises:
        StoreError: The directory contains something else, or cannot be written.
        UserError: A span is outside the log, or the spans contradict each other.
    """
    directory = directory.resolve()
    _check_replaceable(directory, replace)
    _check_covered(log, spans)
    notes: list[str] = []
    names = canonical_names(spans, notes)
    cells = group_cells(spans, names)
    idle_runs = group_idle(spans, cells)
    if not idle_runs:
        notes.append("no span is idle, so net energies are unknown; name one with --idle")
    plan = _plan(directory.name, cells, files)
    clock = f"log-{plan['recorded']['digest'][:12]}"
    writer = RecordWriter(log, spans, machine, plan["name"], clock)
    notes += writer.notes()
    characteristics = characteristics_of(spans, names, sample, notes)
    records = [writer.idle_record(idle) for idle in idle_runs]
    records += [writer.cell_record(one, characteristics[one.factors["model"]]) for one in cells]
    partial = directory.with_name(f".{directory.name}.partial")
    _remove_leftovers(partial)
    with StudyStore(partial, plan) as store:
        try:
            for record in records:
                run = store.begin(record["id"])
                with file_errors(f"cannot write {run}"):
                    write_trace(run, log, record["measured"])
                store.finish(run, record)
            _move(partial, directory)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    models = tuple(dict.fromkeys(names.values()))
    return ImportedStudy(directory, len(cells), len(idle_runs), models, tuple(notes))


def _check_replaceable(directory: Path, replace: bool) -> None:
    """Refuse to replace anything but an imported study, which can be made again."""
    with file_errors(f"cannot read {directory}"):
        entries = {entry.name for entry in directory.iterdir()} if directory.exists() else set()
    if not entries:
        return
    foreign = sorted(entries - _DERIVED - _RECORD)
    hint = "choose another directory with --out"
    if foreign or "plan.toml" not in entries:
        contained = (foreign or sorted(entries))[0]
        raise StoreError(f"{directory} is not empty", why=f"it contains {contained}", hint=hint)
    if not read_study(directory).is_imported:
        raise StoreError(f"{directory} is a study that was measured", hint=hint)
    if not replace:
        raise StoreError(
            f"{directory} is an imported study already", hint=f"replace it with --force, or {hint}"
        )


def _check_covered(log: Log, spans: Sequence[RunSpan]) -> None:
    outside = [span for span in spans if not log.overlaps(span.start_s, span.stop_s)]
    if outside:
        first = outside[0]
        others = f" (and {len(outside) - 1} more)" if len(outside) > 1 else ""
        raise UserError(
            f"the span of {first.label}{others} is outside the log",
            why=f"it goes from {first.start_s:.12g} to {first.stop_s:.12g} s, the log {log.extent}",
            hint="put both on one clock, or remove the spans that were not logged",
        )


def _plan(name: str, cells: Sequence[Cell], files: Sequence[Path]) -> dict[str, Any]:
    levels: dict[str, dict[Any, None]] = {}
    for cell in cells:
        for factor, level in cell.factors.items():
            levels.setdefault(factor, {})[level] = None
    phases = {phase for cell in cells for phase in cell.phases}
    return {
        "name": re.sub(r"[^A-Za-z0-9._-]+", "-", name).lstrip("._-")[:64] or "recorded",
        "models": list(levels["model"]),
        "phases": [phase for phase in ("train", "infer") if phase in phases],
        "repeats": max(Counter(tuple(cell.factors.items()) for cell in cells).values()),
        "factors": {factor: list(levels.get(factor, {})) for factor in FACTORS},
        "recorded": {
            "spans": files[0].name,
            "logs": [path.name for path in files[1:]],
            "digest": _digest(files),
            "cells": len(cells),
        },
    }


def _digest(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        with file_errors(f"cannot read {path}"), path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()


def _remove_leftovers(partial: Path) -> None:
    """Remove what a killed process left, unless another process is still writing it."""
    if partial.exists():
        lock = Lock(partial / ".lock")
        try:
            with file_errors(f"cannot remove {partial}"):
                shutil.rmtree(partial)
        finally:
            lock.release()


def _move(partial: Path, directory: Path) -> None:
    """Move the study to its directory with one rename."""
    replaced = partial.with_name(f".{directory.name}.replaced")
    with file_errors(f"cannot write {directory}"):
        shutil.rmtree(replaced, ignore_errors=True)
        if directory.exists():
            directory.rename(replaced)
        partial.rename(directory)
        sync(directory.parent)
    shutil.rmtree(replaced, ignore_errors=True)
