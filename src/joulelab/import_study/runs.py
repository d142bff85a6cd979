"""What ``run.json`` says of a run that others recorded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from joulelab.energy.energy import Energy, total
from joulelab.energy.estimator import energies_of, mean_reading
from joulelab.import_study.cells import RecordedCell, RecordedIdle
from joulelab.import_study.rows import FIGURES, RecordedSpan
from joulelab.logs.power_log import Log
from joulelab.machine import Machine
from joulelab.recording.trace_spans import Window
from joulelab.runs.store import SCHEMA
from joulelab.sensors.sensor import Quantity

SINCE_1970_S = 1e9
"""A log whose times are later (2001) counts from 1970; of an earlier one the date is not known."""
_SUMS = ("samples", "steps", "data_wait_s")
_LAST = ("loss", "accuracy_pct", "train_accuracy_pct")
_READ = {
    "gpu_utilization_pct": Quantity.UTILIZATION,
    "memory_utilization_pct": Quantity.MEMORY_UTILIZATION,
    "cpu_utilization_pct": Quantity.UTILIZATION,
}
"""What the log's own readings tell where the table does not."""

Record = dict[str, Any]


class RecordedRuns:
    """Works out the runs' records.

    Args:
        log: The readings.
        rows: Every span that belongs to a run.
        machine: What was recorded on.
        study: The study's name.
        clock: Names the log's clock: runs of one clock share their idle baseline.
    """

    def __init__(
        self, log: Log, rows: Sequence[RecordedSpan], machine: Machine, study: str, clock: str
    ) -> None:
        self._log, self._machine = log, machine.to_json()
        self._study, self._clock = study, clock
        energies = energies_of(log.trace, [self._window(row) for row in rows])
        times = [(row.start_s, row.stop_s) for row in rows]
        self._energies = dict(zip(times, energies, strict=True))
        gpus = [one for one in log.trace.channels if one.component.startswith("gpu")]
        self._gpu = gpus[0].component if gpus else "gpu:0"

    def unmeasured(self) -> list[str]:
        """Why the energy of some spans is not, or not all, known; each reason once."""
        missing: dict[str, int] = {}
        for energy in self._energies.values():
            for component, why in energy.absent.items():
                text = f"{component}: {why}"
                missing[text] = missing.get(text, 0) + 1
        return [f"{count} spans without {text}" for text, count in missing.items()]

    def idle(self, idle: RecordedIdle) -> Record:
        """The record of a measurement of idle."""
        record = self._frame(idle.run_id, "idle", idle.block, [idle.span])
        return record | {
            "repeat": idle.block,
            "order": None,
            "phases": ["idle"],
            "characteristics": None,
            "spans": [self._span(idle.span, "idle", {})],
            "results": {},
            "epochs": [],
        }

    def cell(self, cell: RecordedCell, characteristics: Mapping[str, Any] | None) -> Record:
        """The record of a run."""
        spans: list[Record] = []
        epochs: list[Record] = []
        results: Record = {}
        for phase, rows in cell.phases.items():
            for place, row in enumerate(rows):
                index = row.place.get("epoch", place)
                attributes = {"phase": phase, "index": index, "row": row.row} | dict(row.attributes)
                spans.append(self._span(row, "epoch", attributes))
                if _is_epoch(row):
                    epochs.append(self._epoch(row, phase, index))
            results[phase] = self._result(rows)
        record = self._frame(cell.run_id, "cell", cell.block, cell.spans)
        return record | {
            "repeat": cell.repeat,
            "order": cell.order,
            "factors": cell.factors,
            "phases": list(cell.phases),
            "characteristics": characteristics,
            "spans": sorted(spans, key=lambda span: int(span["start_ns"])),
            "results": results,
            "epochs": epochs,
        }

    def _frame(self, run_id: str, kind: str, block: int, spans: Sequence[RecordedSpan]) -> Record:
        known = self._log.start_s >= SINCE_1970_S
        return {
            "schema": SCHEMA,
            "run_id": run_id,
            "kind": kind,
            "status": "done",
            "failure": None,
            "study": self._study,
            "block": block,
            "boot_id": self._clock,
            "machine": self._machine,
            "data": {},
            "settings": {},
            "seed": None,
            "started_unix_s": min(span.start_s for span in spans) if known else None,
            "stopped_unix_s": max(span.stop_s for span in spans) if known else None,
        }

    def _span(self, row: RecordedSpan, name: str, attributes: Mapping[str, Any]) -> Record:
        window = self._window(row)
        return {
            "name": name,
            "attributes": dict(attributes),
            "start_ns": window.start_ns,
            "stop_ns": window.stop_ns,
            "energy": self._energy(row).to_json(),
        }

    def _epoch(self, row: RecordedSpan, phase: str, index: int) -> Record:
        figures = ("samples", "steps", "loss", "train_accuracy_pct", "accuracy_pct")
        return {
            "phase": phase,
            "index": index,
            "energy": self._energy(row).to_json(),
            "duration_s": row.stop_s - row.start_s,
            **{name: row.figures.get(name) for name in figures},
            "complete": True,
        }

    def _result(self, rows: Sequence[RecordedSpan]) -> Record:
        """The figures of a phase: sums, the last one's scores, means over its time."""
        result: Record = dict.fromkeys(FIGURES)
        for name in _SUMS:
            values = [row.figures.get(name) for row in rows]
            result[name] = None if None in values else sum(v for v in values if v is not None)
        result["epochs"] = len(rows) if "epoch" in rows[0].place else rows[0].figures.get("epochs")
        for name in _LAST:
            result[name] = next(
                (row.figures[name] for row in reversed(rows) if name in row.figures), None
            )
        peaks = [row.figures["vram_peak_bytes"] for row in rows if "vram_peak_bytes" in row.figures]
        result["vram_peak_bytes"] = max(peaks, default=None)
        for name, quantity in _READ.items():
            result[name] = self._mean(rows, name, quantity)
        result["energy"] = total(self._energy(row) for row in rows).to_json()
        result["cudnn_benchmark"] = None
        return result

    def _mean(self, rows: Sequence[RecordedSpan], name: str, quantity: Quantity) -> float | None:
        """The mean over time of what the table says, or else of the readings."""
        given = [row.figures.get(name) for row in rows]
        if None not in given:
            lengths_s = [row.stop_s - row.start_s for row in rows]
            weighted = [v * s for v, s in zip(given, lengths_s, strict=True) if v is not None]
            return math.fsum(weighted) / math.fsum(lengths_s)
        component = "host" if name.startswith("cpu") else self._gpu
        windows = [self._window(row) for row in rows]
        return mean_reading(self._log.trace, component, quantity, windows)

    def _window(self, row: RecordedSpan) -> Window:
        times_ns = (round((t - self._log.origin_s) * 1e9) for t in (row.start_s, row.stop_s))
        return Window(*times_ns)

    def _energy(self, row: RecordedSpan) -> Energy:
        return self._energies[row.start_s, row.stop_s]


def _is_epoch(row: RecordedSpan) -> bool:
    """Whether a span is one epoch, and not a phase of an unknown number of them."""
    return "epoch" in row.place or row.figures.get("epochs") == 1
