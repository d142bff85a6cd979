"""Tables of studies, built from their records: runs, epochs, idle power, failures and the summary.

A value that was not measured is NaN or NA here, empty in CSV and null in Parquet; never 0.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from joulelab.energy.energy import Energy
from joulelab.findings.hosts import pool_hosts
from joulelab.findings.schema import (
    EPOCH_COLUMNS,
    FAILURE_COLUMNS,
    IDLE_COLUMNS,
    RUN_COLUMNS,
    frame,
)
from joulelab.findings.summary import measurements, summary
from joulelab.format import csv_cell
from joulelab.machine import Machine
from joulelab.runs.record import Run
from joulelab.runs.shared_machine import has_busy_idle, was_shared
from joulelab.runs.study_part import StudyPart
from joulelab.runs.study_runs import (
    DamagedRun,
    Position,
    Study,
    idle_points,
    position,
    read_studies,
)
from joulelab.storage import write_whole, writing

ROWS_AT_A_TIME = 2000


@dataclass(frozen=True, slots=True, eq=False)
class StudyTables:
    """Studies and their tables: everything that findings, charts and pages are made from.

    Example:
        >>> tables = StudyTables.of([])
        >>> len(tables.runs), "gross_j" in tables.summary
        (0, True)
    """

    studies: tuple[Study, ...]  # The studies, as read from disk.
    runs: pd.DataFrame  # One row per finished run and phase, see :func:`run_table`.
    epochs: pd.DataFrame  # One row per epoch, see :func:`epoch_table`.
    # One row per model, phase and setting: means over repeats with intervals, see
    # :func:`joulelab.findings.summary.summary`.
    summary: pd.DataFrame
    # The summary with its groups of comparable rows, which findings and charts read; see
    # :func:`joulelab.findings.summary.measurements`.
    measurements: pd.DataFrame
    idle: pd.DataFrame  # One row per idle measurement and component, see :func:`idle_table`.
    failures: pd.DataFrame  # One row per failed or damaged run, see :func:`failure_table`.

    @classmethod
    def read(cls, directories: Sequence[str | Path]) -> Self:
        """Read studies from their directories, once.

        Of each run, its epochs and spans go to the tables and are not kept otherwise.

        Raises:
            StoreError: A directory is not a study, or cannot be read.
        """
        rows = _CellRows()
        studies = read_studies(directories, each=rows.take)
        return cls._of(studies, *rows.tables(studies))

    @classmethod
    def of(cls, studies: Sequence[Study]) -> Self:
        """Make the tables of studies."""
        return cls._of(studies, run_table(studies), epoch_table(studies))

    @classmethod
    def _of(cls, studies: Sequence[Study], runs: pd.DataFrame, epochs: pd.DataFrame) -> Self:
        means = summary(pool_hosts(runs))
        return cls(
            studies=tuple(studies),
            runs=runs,
            epochs=epochs,
            summary=means,
            measurements=measurements(means),
            idle=idle_table(studies),
            failures=failure_table(studies),
        )


class _CellRows:
    """Collects the rows of cells while they are read: many runs do not fit in memory whole."""

    def __init__(self) -> None:
        self._runs, self._epochs = _Columns(RUN_COLUMNS), _Columns(EPOCH_COLUMNS)
        self._machines: list[Machine] = []

    def take(self, run: Run) -> Run:
        """Take the rows of a run; return it without what is now in the tables."""
        if run.study is None or run.study.is_idle:
            return run
        if run.status == "done":
            self._runs.add(run, _run_rows(run))
            self._epochs.add(run, _epoch_rows(run))
        study = replace(run.study, spans=(), epochs=())
        return replace(run, machine=self._shared(run.machine), study=study, spans=())

    def tables(self, studies: Iterable[Study]) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Return the tables of runs and epochs; the studies have labels now."""
        labels = {study.directory: study.label for study in studies}
        return self._runs.table(labels), self._epochs.table(labels)

    def _shared(self, machine: Machine | None) -> Machine | None:
        """Return an equal machine that another run has, if there is one."""
        if machine is None:
            return None
        if machine not in self._machines:
            self._machines.append(machine)
        return self._machines[self._machines.index(machine)]


class _Columns:
    """Rows of cells as columns, in the order of the studies' designs."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._parts: list[pd.DataFrame] = []
        self._rows: list[dict[str, Any]] = []
        self._positions: list[tuple[Path, Position]] = []

    def add(self, run: Run, rows: Iterable[dict[str, Any]]) -> None:
        before = len(self._rows)
        self._rows += rows
        place = run.directory.parent.parent, position(run)
        self._positions += [place] * (len(self._rows) - before)
        if len(self._rows) >= ROWS_AT_A_TIME:
            self._pack()

    def table(self, labels: Mapping[Path, str]) -> pd.DataFrame:
        if self._rows or not self._parts:
            self._pack()
        number = {directory: i for i, directory in enumerate(labels)}
        keys = [(number[directory], own) for directory, own in self._positions]
        order = sorted(range(len(keys)), key=keys.__getitem__)
        named = [labels[directory] for directory, _ in self._positions]
        table = pd.concat(self._parts, ignore_index=True)
        table["study"] = pd.Series(named, dtype=table["study"].dtype)
        return table.iloc[order].reset_index(drop=True)

    def _pack(self) -> None:
        self._parts.append(frame(self._rows, self._names))
        self._rows = []


def run_table(studies: Iterable[Study]) -> pd.DataFrame:
    """Make one row per finished run and phase, by study, block, order and phase.

    Net energy uses the idle measurements of the run's own block and boot, over the span from its
    first epoch's start to its last epoch's stop.

    Returns:
        Columns :data:`~joulelab.findings.schema.RUN_COLUMNS`.
    """
    cells = [(study.label, run) for study in studies for run in study.cells()]
    rows = [row | {"study": label} for label, run in cells for row in _run_rows(run)]
    return frame(rows, RUN_COLUMNS)


def epoch_table(studies: Iterable[Study]) -> pd.DataFrame:
    """Make one row per epoch of each finished run, in training and in inference.

    Returns:
        Columns :data:`~joulelab.findings.schema.EPOCH_COLUMNS`.
    """
    cells = [(study.label, run) for study in studies for run in study.cells()]
    rows = [row | {"study": label} for label, run in cells for row in _epoch_rows(run)]
    return frame(rows, EPOCH_COLUMNS)


def failure_table(studies: Iterable[Study]) -> pd.DataFrame:
    """List the runs that failed or whose record is damaged, with the reason.

    Returns:
        Columns :data:`~joulelab.findings.schema.FAILURE_COLUMNS`; ``factors`` is a text such as
        ``"batch_size=128, precision=fp32"``.
    """
    rows: list[dict[str, Any]] = []
    for study in studies:
        runs: list[Run | DamagedRun] = [*study.failed(), *study.damaged]
        for run in sorted(runs, key=lambda run: run.id):
            row: dict[str, Any] = {"run_id": run.id, "study": study.label}
            if isinstance(run, DamagedRun):
                rows.append(row | {"kind": "damaged", "reason": run.problem})
            else:
                factors = [f"{name}={run.factors[name]}" for name in run.factors if name != "model"]
                row |= {"model": run.model, "factors": ", ".join(factors) or None}
                rows.append(row | dict(run.failure or {}))
    return frame(rows, FAILURE_COLUMNS)


def idle_table(studies: Iterable[Study]) -> pd.DataFrame:
    """Make one row per idle measurement and component, in order of time.

    Returns:
        Columns :data:`~joulelab.findings.schema.IDLE_COLUMNS`.
    """
    rows: list[dict[str, Any]] = []
    for study in studies:
        for run in study.idles():
            rows += [
                {
                    "run_id": run.id,
                    "study": study.label,
                    "block": _part(run).block,
                    "component": component,
                    "time_s": run.started_unix_s,
                    "duration_s": point.duration_s,
                    "power_w": power_w,
                    "uncertainty_w": point.uncertainty_w[component],
                }
                for point in idle_points(run)
                for component, power_w in point.power_w.items()
            ]
    return frame(rows, IDLE_COLUMNS)


def _part(run: Run) -> StudyPart:
    assert run.study is not None
    return run.study


def _run_rows(run: Run) -> Iterator[dict[str, Any]]:
    part = _part(run)
    for phase, result in part.results.items():
        samples, tokens = (result.values.get(name) for name in ("samples", "tokens"))
        energy = result.energy
        yield {
            **{name: result.values[name] for name in RUN_COLUMNS if name in result.values},
            **part.characteristics,
            **run.factors,
            **_machine_columns(run.machine),
            **_energy_columns(energy),
            "run_id": run.id,
            "phase": phase,
            "status": run.status,
            "repeat": part.repeat,
            "block": part.block,
            "order": part.order,
            "gross_j_per_sample": energy.gross_j / samples if samples else math.nan,
            "net_j_per_sample": energy.net_j / samples if samples else math.nan,
            "gross_j_per_token": energy.gross_j / tokens if tokens else math.nan,
            "net_j_per_token": energy.net_j / tokens if tokens else math.nan,
            "shared": was_shared(energy),
            "busy_idle": has_busy_idle(energy),
        }


def _epoch_rows(run: Run) -> Iterator[dict[str, Any]]:
    for epoch in _part(run).epochs:
        yield {
            **{name: epoch.values[name] for name in EPOCH_COLUMNS if name in epoch.values},
            "run_id": run.id,
            "model": run.model,
            "phase": epoch.phase,
            "epoch": epoch.index,
            "complete": epoch.complete,
            "gross_j": epoch.energy.gross_j,
            "net_j": epoch.energy.net_j,
        }


def write_results(tables: StudyTables, directory: Path) -> list[Path]:
    """Write ``results.parquet``, ``results.csv`` and ``epochs.parquet``.

    The same runs give the same bytes.

    Raises:
        StoreError: A file cannot be written.
    """
    contents = {
        "results.parquet": parquet(tables.runs),
        "results.csv": csv(tables.runs),
        "epochs.parquet": parquet(tables.epochs),
    }
    return [write_file(directory / name, content) for name, content in contents.items()]


def write_file(path: Path, content: bytes) -> Path:
    """Write a derived file, all of it or nothing, and create its directory.

    Raises:
        StoreError: The file cannot be written.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)
    return path


def csv(table: pd.DataFrame) -> bytes:
    """Return a table as CSV."""
    text = table.select_dtypes(["object", "string"]).columns
    cells = table.assign(**{name: table[name].map(csv_cell) for name in text})
    return cells.to_csv(index=False, lineterminator="\n").encode()


def parquet(table: pd.DataFrame) -> bytes:
    """Return a table as Parquet, without the metadata that names the version of pandas."""
    target = io.BytesIO()
    bare = pa.Table.from_pandas(table, preserve_index=False).replace_schema_metadata(None)
    pq.write_table(bare, target, compression="zstd")
    return target.getvalue()


def _energy_columns(energy: Energy) -> dict[str, Any]:
    parts = energy.components.values()
    by_kind_j = {kind: _of_kind(energy, kind) for kind in ("gpu", "cpu", "dram")}
    known = bool(energy.components)
    outermost = energy.enclosures[-1] if energy.enclosing else None
    return {
        "duration_s": energy.duration_s,
        "gross_j": energy.gross_j,
        "idle_j": energy.idle_j,
        "net_j": energy.net_j,
        "gross_low_j": energy.interval_j[0],
        "gross_high_j": energy.interval_j[1],
        "net_low_j": energy.net_interval_j[0],
        "net_high_j": energy.net_interval_j[1],
        **{f"{kind}_j": value_j for kind, value_j in by_kind_j.items()},
        **{f"{kind}_power_w": _over(j, energy.duration_s) for kind, j in by_kind_j.items()},
        "provenance": str(energy.provenance) if known else None,
        "mean_power_w": energy.mean_power_w,
        "idle_power_w": _over(energy.idle_j, energy.duration_s),
        "gap_s": energy.gap_s if known else math.nan,
        "sources": " ".join(f"{part.component}={part.source}" for part in parts) or None,
        "absent": " ".join(sorted(energy.absent)) or None,
        "enclosing": outermost.name if outermost else None,
        "enclosing_j": outermost.gross_j if outermost else math.nan,
        "gross_correlated_uncertainty_j": _combined(
            math.hypot(
                part.gain_uncertainty * part.gross_j, part.offset_uncertainty_w * part.duration_s
            )
            for part in parts
        ),
        "gross_independent_uncertainty_j": _combined(part.edge_uncertainty_j for part in parts),
        "net_correlated_uncertainty_j": _combined(
            math.hypot(part.gain_uncertainty * part.net_j, part.idle_uncertainty_j)
            for part in parts
        ),
        "net_independent_uncertainty_j": _combined(part.edge_uncertainty_j for part in parts),
    }


def _of_kind(energy: Energy, kind: str) -> float:
    values_j = [
        part.gross_j for name, part in energy.components.items() if name.split(":")[0] == kind
    ]
    return math.fsum(values_j) if values_j else math.nan


def _over(value: float, duration_s: float) -> float:
    return value / duration_s if duration_s > 0 else math.nan


def _combined(uncertainties: Iterable[float]) -> float:
    """Add uncertainties of independent components in quadrature; NaN without components."""
    values = list(uncertainties)
    return math.hypot(*values) if values else math.nan


def _machine_columns(machine: Machine | None) -> dict[str, Any]:
    if machine is None:
        return {}
    names = ", ".join(dict.fromkeys(gpu.name for gpu in machine.gpus))
    return {"host": machine.host, "machine": machine.identity, "gpu_name": names or None}
