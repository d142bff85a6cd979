"""A study from logs of other tools: the same directory as that of a study measured here."""

from __future__ import annotations

import hashlib
import math
import re
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from joulelab.energy.energy import total
from joulelab.energy.estimator import energies_of, mean_reading
from joulelab.errors import StoreError, UserError
from joulelab.import_study.descriptions import Sample, canonical_names, characteristics_of
from joulelab.import_study.run_spans import RESULTS, Cell, IdleRun, RunSpan, group_cells, group_idle
from joulelab.logs.power_log import Log
from joulelab.machine import Machine
from joulelab.recording.trace import RECORD
from joulelab.recording.trace_format import CHECK, TraceWriter
from joulelab.recording.trace_spans import Window
from joulelab.runs import FACTORS
from joulelab.runs.study_runs import read_study
from joulelab.sensors.sensor import Quantity
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
SINCE_1970_S = 1e9  # A log with later times (2001) counts from 1970; others have no known date.
MARGIN_S = 2.0  # Readings to save before and after each span: an average may extend back 1 s.
_UTILIZATION = {
    "gpu_utilization_pct": Quantity.UTILIZATION,
    "memory_utilization_pct": Quantity.MEMORY_UTILIZATION,
    "cpu_utilization_pct": Quantity.UTILIZATION,
}
"""Results that the log's readings give if the table does not."""

Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ImportedStudy:
    """An imported study: numbers of runs, models, and notes on what was assumed or is unknown."""

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

    ``files`` are the table of spans, then the logs.
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
    made = _Records(log, spans, machine, plan["name"], clock)
    notes += made.notes()
    characteristics = characteristics_of(spans, names, sample, notes)
    records = [made.idle_record(idle) for idle in idle_runs]
    records += [made.cell_record(cell, characteristics[cell.factors["model"]]) for cell in cells]
    partial = directory.with_name(f".{directory.name}.partial")
    _remove_leftovers(partial)
    with StudyStore(partial, plan) as store:
        try:
            for record in records:
                run = store.begin(record["id"])
                with file_errors(f"cannot write {run}"):
                    _write_trace(run, log, record["measured"])
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
        with file_errors(f"cannot read {path}"):
            digest.update(path.read_bytes())
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
    replaced = partial.with_name(f".{directory.name}.replaced")
    with file_errors(f"cannot write {directory}"):
        shutil.rmtree(replaced, ignore_errors=True)
        if directory.exists():
            directory.rename(replaced)
        partial.rename(directory)
        sync(directory.parent)
    shutil.rmtree(replaced, ignore_errors=True)


class _Records:
    """Makes the records of runs. Runs with the same ``clock`` share their idle power."""

    def __init__(
        self, log: Log, spans: Sequence[RunSpan], machine: Machine, study: str, clock: str
    ) -> None:
        self._log, self._machine = log, machine.to_json()
        self._study, self._clock = study, clock
        energies = energies_of(log.trace, [self._window(span) for span in spans])
        times = [(span.start_s, span.stop_s) for span in spans]
        self._energies = dict(zip(times, energies, strict=True))
        gpus = [one for one in log.trace.channels if one.component.startswith("gpu")]
        self._gpu = gpus[0].component if gpus else "gpu:0"

    def notes(self) -> list[str]:
        """State why energies of spans are missing; each reason once."""
        reasons = Counter(
            f"{component}: {why}"
            for energy in self._energies.values()
            for component, why in energy.absent.items()
        )
        return [f"{number} spans without {reason}" for reason, number in reasons.items()]

    def idle_record(self, idle: IdleRun) -> Record:
        """Make the record of an idle run."""
        return self._record(idle.run_id, idle.block, [idle.span]) | {
            "idle": True,
            "repeat": idle.block,
            "order": None,
            "phases": ["idle"],
            "characteristics": None,
            "measured": [self._span(idle.span, "idle", {})],
            "results": {},
            "epochs": [],
        }

    def cell_record(self, cell: Cell, characteristics: Mapping[str, Any] | None) -> Record:
        """Make the record of a run."""
        spans: list[Record] = []
        epochs: list[Record] = []
        for phase, members in cell.phases.items():
            for position, span in enumerate(members):
                index = span.values.get("epoch", position)
                attributes = {"phase": phase, "index": index, "row": span.row, **span.attributes}
                spans.append(self._span(span, "epoch", attributes))
                # Other spans are a phase of an unknown number of epochs.
                if "epoch" in span.values or span.values.get("epochs") == 1:
                    epochs.append(self._epoch(span, phase, index))
        return self._record(cell.run_id, cell.block, cell.spans) | {
            "idle": False,
            "model": cell.factors["model"],
            "repeat": cell.repeat,
            "order": cell.order,
            "factors": cell.factors,
            "phases": list(cell.phases),
            "characteristics": characteristics,
            "measured": sorted(spans, key=lambda span: int(span["start_ns"])),
            "results": {phase: self._result(members) for phase, members in cell.phases.items()},
            "epochs": epochs,
        }

    def _record(self, run_id: str, block: int, spans: Sequence[RunSpan]) -> Record:
        is_dated = self._log.start_s >= SINCE_1970_S
        start_s, stop_s = min(s.start_s for s in spans), max(s.stop_s for s in spans)
        return {
            "id": run_id,
            "kind": "study",
            "name": f"{self._study}/{run_id}",
            "host": self._machine["host"],
            "status": "done",
            "failure": None,
            "study": self._study,
            "block": block,
            "boot_id": self._clock,
            "machine": self._machine,
            "data": {},
            "settings": {},
            "seed": None,
            "started_unix_s": start_s if is_dated else None,
            "ended_unix_s": stop_s if is_dated else None,
            "duration_s": stop_s - start_s,
        }

    def _span(self, span: RunSpan, name: str, attributes: Mapping[str, Any]) -> Record:
        window = self._window(span)
        return {
            "name": name,
            "attributes": dict(attributes),
            "start_ns": window.start_ns,
            "stop_ns": window.stop_ns,
            "energy": self._energies[span.start_s, span.stop_s].to_json(),
        }

    def _epoch(self, span: RunSpan, phase: str, index: int) -> Record:
        names = ("samples", "steps", "loss", "train_accuracy_pct", "accuracy_pct")
        return {
            "phase": phase,
            "index": index,
            "energy": self._energies[span.start_s, span.stop_s].to_json(),
            "duration_s": span.stop_s - span.start_s,
            **{name: span.values.get(name) for name in names},
            "complete": True,
        }

    def _result(self, spans: Sequence[RunSpan]) -> Record:
        """Make the result of a phase: sums, last scores, and means over its time."""
        result: Record = dict.fromkeys(RESULTS)
        for name in ("samples", "steps", "data_wait_s"):
            values = [span.values.get(name) for span in spans]
            result[name] = None if None in values else sum(v for v in values if v is not None)
        first = spans[0]
        result["epochs"] = len(spans) if "epoch" in first.values else first.values.get("epochs")
        for name in ("loss", "accuracy_pct", "train_accuracy_pct"):
            values = [span.values[name] for span in spans if name in span.values]
            result[name] = values[-1] if values else None
        peaks = [one.values["vram_peak_bytes"] for one in spans if "vram_peak_bytes" in one.values]
        result["vram_peak_bytes"] = max(peaks, default=None)
        for name, quantity in _UTILIZATION.items():
            result[name] = self._mean(spans, name, quantity)
        result["energy"] = total(self._energies[one.start_s, one.stop_s] for one in spans).to_json()
        result["cudnn_benchmark"] = None
        return result

    def _mean(self, spans: Sequence[RunSpan], name: str, quantity: Quantity) -> float | None:
        """Average over time what the table states, or else the readings."""
        values = [span.values.get(name) for span in spans]
        if None not in values:
            lengths_s = [span.stop_s - span.start_s for span in spans]
            weighted = [v * s for v, s in zip(values, lengths_s, strict=True) if v is not None]
            return math.fsum(weighted) / math.fsum(lengths_s)
        component = "host" if name.startswith("cpu") else self._gpu
        windows = [self._window(span) for span in spans]
        return mean_reading(self._log.trace, component, quantity, windows)

    def _window(self, span: RunSpan) -> Window:
        return self._log.window(span.start_s, span.stop_s)


def _write_trace(directory: Path, log: Log, spans: Sequence[Mapping[str, Any]]) -> None:
    """Write the spans of a run, and the readings around them, into its directory."""
    header = {
        "channels": [channel.to_json() for channel in log.trace.channels],
        "intervals_s": list(log.trace.header["intervals_s"]),
        "absent": [],
        "recorded": list(log.notes),
        "origin_s": log.origin_s,
    }
    rows = [
        [i, None, 0, span["name"], span["attributes"], span["start_ns"], span["stop_ns"]]
        for i, span in enumerate(spans)
    ]
    writer = TraceWriter(directory, header)
    try:
        writer.readings([_pack_readings(log, spans)])
        writer.event(event="spans", pid=0, rows=rows)
    finally:
        writer.close()


def _pack_readings(log: Log, spans: Sequence[Mapping[str, Any]]) -> bytes:
    """Pack the readings of every channel around the spans, by time."""
    margin_ns = round(MARGIN_S * 1e9)
    parts = []
    for channel, (t_ns, value) in enumerate(log.trace.series):
        is_near = np.zeros(t_ns.size, dtype=bool)
        for span in spans:
            edges_ns = (span["start_ns"] - margin_ns, span["stop_ns"] + margin_ns)
            first, last = np.searchsorted(t_ns, edges_ns)
            # One more reading on either side: a slow log has none within the margin.
            is_near[max(0, first - 1) : last + 1] = True
        part = np.zeros(int(np.count_nonzero(is_near)), dtype=RECORD)
        part["t_ns"], part["value"], part["channel"] = t_ns[is_near], value[is_near], channel
        parts.append(part)
    records = np.concatenate(parts)
    records = records[np.argsort(records["t_ns"], kind="stable")]
    words = records.view("<u4").reshape(-1, RECORD.itemsize // 4)
    records["check"] = np.bitwise_xor.reduce(words[:, :-1], axis=1) ^ np.uint32(CHECK)
    return records.tobytes()
