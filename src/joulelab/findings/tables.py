"""Tables of studies, built from their records: runs, epochs, idle power, failures and the summary.

A value that was not measured is NaN or NA here, empty in CSV and null in Parquet; never 0.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from joulelab.energy.baseline import Baseline
from joulelab.energy.energy import Energy
from joulelab.findings.schema import (
    EPOCH_COLUMNS,
    FAILURE_COLUMNS,
    IDLE_COLUMNS,
    RUN_COLUMNS,
    frame,
)
from joulelab.findings.summary import measurements, summary
from joulelab.machine import Machine
from joulelab.runs.store import RunRecord
from joulelab.runs.studies import (
    Study,
    energy_of,
    idle_points,
    less_idle,
    phase_energy,
    read_studies,
    understood,
)
from joulelab.storage import write_whole, writing


@dataclass(frozen=True, slots=True, eq=False)
class StudyTables:
    """Studies and their tables: everything that findings, charts and pages are made from.

    Attributes:
        studies: The studies, as read from disk.
        runs: One row per finished run and phase, see :func:`run_table`.
        epochs: One row per epoch, see :func:`epoch_table`.
        summary: One row per model, phase and setting: means over repeats with intervals, see
            :func:`joulelab.findings.summary.summary`.
        measurements: The summary with its groups of comparable rows, which findings and charts
            read; see :func:`joulelab.findings.summary.measurements`.
        idle: One row per idle measurement and component, see :func:`idle_table`.
        failures: One row per failed or damaged run, see :func:`failure_table`.

    Example:
        >>> tables = StudyTables.of([])
        >>> len(tables.runs), "gross_j" in tables.summary
        (0, True)
    """

    studies: tuple[Study, ...]
    runs: pd.DataFrame
    epochs: pd.DataFrame
    summary: pd.DataFrame
    measurements: pd.DataFrame
    idle: pd.DataFrame
    failures: pd.DataFrame

    @classmethod
    def read(cls, directories: Sequence[str | Path]) -> Self:
        """Read studies from their directories, once.

        Raises:
            StoreError: A directory is no study, cannot be read, or has a malformed record.
        """
        return cls.of(read_studies(directories))

    @classmethod
    def of(cls, studies: Sequence[Study]) -> Self:
        """Make the tables of studies.

        Raises:
            StoreError: A record is malformed.
        """
        runs = run_table(studies)
        means = summary(runs)
        return cls(
            studies=tuple(studies),
            runs=runs,
            epochs=epoch_table(studies),
            summary=means,
            measurements=measurements(means),
            idle=idle_table(studies),
            failures=failure_table(studies),
        )


def run_table(studies: Iterable[Study]) -> pd.DataFrame:
    """Make one row per finished run and phase, by study, block, order and phase.

    Net energy uses the idle measurements of the run's own block and boot, over the span from its
    first epoch's start to its last epoch's stop.

    Returns:
        Columns :data:`~joulelab.findings.schema.RUN_COLUMNS`.

    Raises:
        StoreError: A record is malformed.
    """
    return frame(_rows_of_runs(studies, _run_rows), RUN_COLUMNS)


def epoch_table(studies: Iterable[Study]) -> pd.DataFrame:
    """Make one row per epoch of each finished run, in training and in inference.

    Returns:
        Columns :data:`~joulelab.findings.schema.EPOCH_COLUMNS`.

    Raises:
        StoreError: A record is malformed.
    """
    return frame(_rows_of_runs(studies, _epoch_rows), EPOCH_COLUMNS)


def _rows_of_runs(
    studies: Iterable[Study], rows_of: Callable[[RunRecord, Baseline], Iterable[dict[str, Any]]]
) -> Iterator[dict[str, Any]]:
    for study in studies:
        baselines = study.baselines()
        for run in study.cells():
            with understood(run):
                for row in rows_of(run, baselines.around(run)):
                    yield row | {"run_id": run.run_id, "study": study.label}


def _run_rows(run: RunRecord, baseline: Baseline) -> Iterator[dict[str, Any]]:
    data = run.data
    for phase, result in data["results"].items():
        energy = phase_energy(run, phase, baseline)
        samples = result["samples"]
        row = {name: result.get(name) for name in RUN_COLUMNS if name in result}
        row |= data["characteristics"] or {}
        row |= data["factors"]
        row |= _machine_columns(data["machine"])
        row |= _energy_columns(energy)
        row |= {"phase": phase, "status": run.status}
        row |= {name: data[name] for name in ("repeat", "block", "order")}
        row["gross_j_per_sample"] = energy.gross_j / samples if samples else math.nan
        row["net_j_per_sample"] = energy.net_j / samples if samples else math.nan
        yield row


def _epoch_rows(run: RunRecord, baseline: Baseline) -> Iterator[dict[str, Any]]:
    spans: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for span in run.data["spans"]:
        if span["name"] == "epoch":
            key = span["attributes"]["phase"], span["attributes"]["index"]
            spans.setdefault(key, []).append(span)
    for epoch in run.data["epochs"]:
        key = epoch["phase"], epoch["index"]
        energy = less_idle(energy_of(epoch["energy"]), spans.get(key, []), baseline)
        row = {name: epoch[name] for name in EPOCH_COLUMNS if name in epoch}
        row |= {"epoch": epoch["index"], "model": run.data["factors"]["model"]}
        yield row | {"gross_j": energy.gross_j, "net_j": energy.net_j}


def failure_table(studies: Iterable[Study]) -> pd.DataFrame:
    """List the runs that failed or whose record is damaged, with the reason.

    Returns:
        Columns :data:`~joulelab.findings.schema.FAILURE_COLUMNS`; ``factors`` is a text such as
        ``"batch_size=128, precision=fp32"``.
    """
    rows: list[dict[str, Any]] = []
    for study in studies:
        for run in study.runs:
            row: dict[str, Any] = {"run_id": run.run_id, "study": study.label}
            if run.problem is not None:
                rows.append(row | {"kind": "damaged", "reason": run.problem})
            elif run.status == "failed":
                with understood(run):
                    rows.append(row | _failure(run.data))
    return frame(rows, FAILURE_COLUMNS)


def idle_table(studies: Iterable[Study]) -> pd.DataFrame:
    """Make one row per idle measurement and component, in order of time.

    Returns:
        Columns :data:`~joulelab.findings.schema.IDLE_COLUMNS`.

    Raises:
        StoreError: A record is malformed.
    """
    rows: list[dict[str, Any]] = []
    for study in studies:
        for run in study.idles():
            rows += [
                {
                    "run_id": run.run_id,
                    "study": study.label,
                    "block": run.data["block"],
                    "component": component,
                    "time_s": run.data["started_unix_s"],
                    "duration_s": point.duration_s,
                    "power_w": power_w,
                    "uncertainty_w": point.uncertainty_w[component],
                }
                for point in idle_points(run)
                for component, power_w in point.power_w.items()
            ]
    return frame(rows, IDLE_COLUMNS)


def write_results(tables: StudyTables, directory: Path) -> list[Path]:
    """Write ``results.parquet``, ``results.csv`` and ``epochs.parquet``.

    The same runs give the same bytes.

    Returns:
        The three paths.

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
    return table.to_csv(index=False, lineterminator="\n").encode()


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


def _machine_columns(data: Mapping[str, Any]) -> dict[str, Any]:
    machine = Machine.from_json(dict(data))
    names = dict.fromkeys(str(gpu["name"]) for gpu in data["gpus"])
    return {
        "host": machine.host,
        "machine": machine.identity,
        "gpu_name": ", ".join(names) or None,
    }


def _failure(data: Mapping[str, Any]) -> dict[str, Any]:
    factors = dict(data.get("factors") or {})
    model = factors.pop("model", None)
    return {
        "model": model,
        "factors": ", ".join(f"{name}={value}" for name, value in factors.items()) or None,
        "kind": data["failure"]["kind"],
        "reason": data["failure"]["reason"],
    }
