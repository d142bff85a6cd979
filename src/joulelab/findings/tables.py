"""Tables of runs and epochs, built from the records and written whole or not at all.

A figure that was not measured is NaN or NA here, empty in CSV, null in Parquet; never 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from joulelab.energy.baseline import Baseline
from joulelab.energy.energy import Energy
from joulelab.findings.columns import EPOCH_COLUMNS, FAILURE_COLUMNS, IDLE_COLUMNS, RUN_COLUMNS
from joulelab.findings.files import parquet, write_bytes
from joulelab.findings.frames import frame
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

Directories = Sequence[str | Path]


def run_rows(directories: Directories) -> pd.DataFrame:
    """One row per finished run and phase, by study, block, order and phase.

    Net energy is worked out here, from the idle runs of the run's own block and boot, over the
    span from its first epoch's start to its last epoch's stop.

    Args:
        directories: Studies.

    Returns:
        Columns as :data:`~joulelab.findings.columns.RUN_COLUMNS`.

    Raises:
        StoreError: A directory is no study, or cannot be read.
    """
    return run_table(read_studies(directories))


def run_table(studies: Iterable[Study]) -> pd.DataFrame:
    """As :func:`run_rows`, of studies that are already read."""
    rows: list[dict[str, Any]] = []
    for study in studies:
        baselines = study.baselines()
        for run in study.cells():
            baseline = baselines.around(run)
            with understood(run):
                rows += [
                    _run_row(study, run, phase, result, baseline)
                    for phase, result in run.data["results"].items()
                ]
    return frame(rows, RUN_COLUMNS)


def epoch_rows(directories: Directories) -> pd.DataFrame:
    """One row per epoch of each finished run, in training and in inference.

    Args:
        directories: Studies.

    Returns:
        Columns as :data:`~joulelab.findings.columns.EPOCH_COLUMNS`. An epoch that was cut
        short is not ``complete``.

    Raises:
        StoreError: A directory is no study, or cannot be read.
    """
    return epoch_table(read_studies(directories))


def epoch_table(studies: Iterable[Study]) -> pd.DataFrame:
    """As :func:`epoch_rows`, of studies that are already read."""
    rows: list[dict[str, Any]] = []
    for study in studies:
        baselines = study.baselines()
        for run in study.cells():
            baseline = baselines.around(run)
            with understood(run):
                rows += [_epoch_row(study, run, epoch, baseline) for epoch in run.data["epochs"]]
    return frame(rows, EPOCH_COLUMNS)


def failures(directories: Directories) -> pd.DataFrame:
    """The runs that failed or whose record is damaged, with the reason.

    Args:
        directories: Studies.

    Returns:
        Columns as :data:`~joulelab.findings.columns.FAILURE_COLUMNS`; ``factors`` is text
        like ``batch_size=128, ...``.

    Raises:
        StoreError: A directory is no study, or cannot be read.
    """
    return failure_table(read_studies(directories))


def failure_table(studies: Iterable[Study]) -> pd.DataFrame:
    """As :func:`failures`, of studies that are already read."""
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
    """One row per idle measurement and component, in order of time.

    Args:
        studies: As :func:`joulelab.runs.studies.read_studies` gives them.

    Returns:
        Columns as :data:`~joulelab.findings.columns.IDLE_COLUMNS`; ``time_s`` is
        wall-clock time since 1970.

    Raises:
        StoreError: A record lacks what it should have.
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


def write_results(study_dir: str | Path) -> list[Path]:
    """Writes ``results.parquet``, ``results.csv`` and ``epochs.parquet`` into a study.

    The same runs give the same bytes.

    Args:
        study_dir: The study.

    Returns:
        The three paths.

    Raises:
        StoreError: It is no study, or cannot be read or written.
    """
    studies = read_studies([study_dir])
    return write_tables(run_table(studies), epoch_table(studies), Path(study_dir))


def write_tables(runs: pd.DataFrame, epochs: pd.DataFrame, directory: Path) -> list[Path]:
    """As :func:`write_results`, of tables that are already made, into any directory."""
    contents = {
        "results.parquet": parquet(runs),
        "results.csv": runs.to_csv(index=False, lineterminator="\n").encode(),
        "epochs.parquet": parquet(epochs),
    }
    return [write_bytes(directory / name, content) for name, content in contents.items()]


def _run_row(
    study: Study, run: RunRecord, phase: str, result: Mapping[str, Any], baseline: Baseline
) -> dict[str, Any]:
    data = run.data
    energy = phase_energy(run, phase, baseline)
    samples = result["samples"]
    row = {name: result.get(name) for name in RUN_COLUMNS if name in result}
    row |= data["characteristics"] or {}
    row |= data["factors"]
    row |= _machine_columns(data["machine"])
    row |= _energy_columns(energy)
    row |= {
        "run_id": run.run_id,
        "study": study.label,
        "phase": phase,
        "status": run.status,
        "repeat": data["repeat"],
        "block": data["block"],
        "order": data["order"],
        "gross_j_per_sample": energy.gross_j / samples if samples else math.nan,
        "net_j_per_sample": energy.net_j / samples if samples else math.nan,
    }
    return row


def _epoch_row(
    study: Study, run: RunRecord, epoch: Mapping[str, Any], baseline: Baseline
) -> dict[str, Any]:
    phase, index = epoch["phase"], epoch["index"]
    spans = [
        span
        for span in run.data["spans"]
        if span["name"] == "epoch"
        and (span["attributes"]["phase"], span["attributes"]["index"]) == (phase, index)
    ]
    energy = less_idle(energy_of(epoch["energy"]), spans, baseline)
    return {
        "run_id": run.run_id,
        "epoch": index,
        "duration_s": epoch["duration_s"],
        "gross_j": energy.gross_j,
        "net_j": energy.net_j,
        "loss": epoch["loss"],
        "accuracy_pct": epoch["accuracy_pct"],
        "study": study.label,
        "model": run.data["factors"]["model"],
        "phase": phase,
        "samples": epoch["samples"],
        "complete": epoch["complete"],
    }


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
    """In quadrature, components being independent; NaN for no component."""
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
