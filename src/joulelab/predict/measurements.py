"""Measured steps, read from tables and studies, and how well predictions agree with them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from joulelab.errors import UserError
from joulelab.findings.tables import csv, parquet, run_table, write_file
from joulelab.models.registry import PAPER_INPUT, parse_input_shape
from joulelab.predict.hardware_profile import HardwareProfile
from joulelab.predict.prediction import ESTIMATORS, predict
from joulelab.predict.steps import PHASES, TOKEN_PHASES, Case
from joulelab.runs.study_runs import read_studies
from joulelab.stats.ranks import Rank, rank_correlations

CASE_COLUMNS = ("model", "phase", "batch_size", "input")
MEASURED_COLUMNS = ("seconds_per_step", "energy_per_step_j")
SETTING_COLUMNS = (
    "machine", "gpu_name", "precision", "memory_format", "compile", "resolved_device",
)  # fmt: skip
"""Columns that must not vary within a profile, which describes one device and one setting."""


class Measurement(NamedTuple):
    """A step that was run, with medians over its repeats."""

    case: Case
    duration_s: float
    energy_j: float  # gross
    idle_power_w: float  # of the metered components; NaN if unknown
    repeats: int


class MeasuredTable(NamedTuple):
    """The measurements of one table or study, one per case."""

    measurements: list[Measurement]
    device: str | None  # name of the GPU, or "cpu" if all runs used it; None if unknown
    numerics: str  # number formats and settings of the runs


class Agreement(NamedTuple):
    """How well estimators rank the models that a study measured."""

    phase: str
    models: int
    ranks: dict[str, Rank]  # Spearman's correlation of each estimator with gross energy per sample
    device: str | None  # GPU that the study ran on, or "cpu"; None if not stated

    def to_json(self) -> dict[str, Any]:
        """Return the agreement for JSON."""
        ranks = {name: asdict(rank) for name, rank in self.ranks.items()}
        return {"phase": self.phase, "models": self.models, **ranks}

    def labelled_ranks(self) -> list[tuple[str, Rank]]:
        """Return the correlations with the names of their estimators for people."""
        return [(ESTIMATORS[name], rank) for name, rank in self.ranks.items()]


def read_cases(path: Path) -> list[Case]:
    """Read the cases in a CSV or Parquet file, one per row."""
    return _parse_cases(_read(path, CASE_COLUMNS), path)


def read_measurements(path: Path) -> list[Measurement]:
    """Read measured rows of a CSV or Parquet file and summarise repeats.

    The columns are :data:`CASE_COLUMNS`, :data:`MEASURED_COLUMNS` and optionally ``idle_power_w``.
    Lines that start with ``#`` are comments.
    """
    frame = _read(path, (*CASE_COLUMNS, *MEASURED_COLUMNS))
    numbers = {name: _parse_positive(frame, name, path) for name in MEASURED_COLUMNS}
    if "idle_power_w" in frame:
        numbers["idle_power_w"] = pd.to_numeric(frame["idle_power_w"], errors="coerce")
    return _summarise(_parse_cases(frame, path), pd.DataFrame(numbers))


def write_measurements(path: Path, measurements: Sequence[Measurement]) -> None:
    """Write a table that :func:`read_measurements` reads; see :data:`CASE_COLUMNS`.

    Raises:
        StoreError: The file cannot be written.
    """
    columns = (*CASE_COLUMNS, *MEASURED_COLUMNS, "idle_power_w")
    rows = [
        (
            *(one.case.model, one.case.phase, one.case.batch_size, one.case.input),
            *(float(f"{value:.6g}") for value in (one.duration_s, one.energy_j, one.idle_power_w)),
        )
        for one in measurements
    ]
    write_file(path, csv(pd.DataFrame(rows, columns=columns)))


def read_measured(path: Path, input_shape: tuple[int, ...]) -> MeasuredTable:
    """Read a file with :func:`read_measurements`, or a study whose runs share one setting."""
    if not path.is_dir():
        return MeasuredTable(read_measurements(path), None, "not stated")
    frame = read_study(path, input_shape)
    for name in SETTING_COLUMNS:
        values: list[Any] = sorted(map(str, frame[name].dropna().unique()))
        if len(values) > 1:
            raise UserError(
                f"the runs differ in {name}",
                why=f"they have {', '.join(values)}",
                hint="fit a profile to runs with one device and one setting",
            )
    measured = frame[[*MEASURED_COLUMNS, "idle_power_w"]]
    names = ("precision", "memory_format", "resolved_device")
    settings = [str(value) for name in names for value in frame[name].dropna().unique()]
    table = _summarise(_cases_of(frame), measured)
    return MeasuredTable(table, _device_of(frame), ", ".join(settings))


def _device_of(frame: pd.DataFrame) -> str | None:
    """Return the GPU that a study ran on, or "cpu"; ``None`` if it does not state it."""
    on_cpu = frame["resolved_device"].dropna().astype(str).str.startswith("cpu")
    gpus = frame["gpu_name"].dropna().unique()
    if len(on_cpu) and on_cpu.all():
        return "cpu"
    return str(gpus[0]) if len(gpus) else None


def study_models(directory: Path) -> list[str]:
    """List the models of a study, in the order of its rows."""
    return list(dict.fromkeys(read_study(directory, PAPER_INPUT)["model"]))


def read_study(directory: Path, input_shape: tuple[int, ...]) -> pd.DataFrame:
    """Read one row per run and phase of a study, with the columns of :data:`CASE_COLUMNS`.

    A study that was imported from logs does not state the shape of a sample; use ``input_shape``.
    A step of decoding becomes one token of each sequence, as it is predicted.
    """
    studies = read_studies([directory])
    frame = run_table(studies)
    shapes: dict[str, Sequence[int]] = {}
    for study in studies:
        for run in study.cells():
            data = run.study.data if run.study else {}
            shapes[run.id] = data.get("image_shape", input_shape)
    frame["input"] = ["x".join(map(str, shapes[run_id])) for run_id in frame["run_id"]]
    language = frame["prompt_tokens"].notna()
    frame.loc[language, "input"] = frame.loc[language, "prompt_tokens"].astype(str)
    step_tokens = frame["prompt_tokens"].where(frame["phase"] != "decode", 1) * frame["batch_size"]
    steps = frame["steps"].where(~language, frame["tokens"] / step_tokens)
    frame["seconds_per_step"] = frame["duration_s"] / steps
    frame["energy_per_step_j"] = frame["gross_j"] / steps
    predicted = frame["phase"].isin((*PHASES, *TOKEN_PHASES))
    frame = frame[(frame["energy_per_step_j"] > 0) & predicted]
    if frame.empty:
        raise UserError(f"{directory} has no run with an energy and a number of steps")
    return frame


def predict_study(
    directory: Path, profile: HardwareProfile, input_shape: tuple[int, ...]
) -> tuple[Path, int]:
    """Predict what a study ran into ``predictions.parquet`` in it, and count the predictions."""
    cases = list(dict.fromkeys(_cases_of(read_study(directory, input_shape))))
    if any(case.counts_tokens for case in cases):
        raise UserError(
            f"{directory} is a study of language models",
            why="its page compares no predictions of tokens",
            hint="predict its models by name, or in a table with --table",
        )
    frame = pd.DataFrame([one.to_row() for one in predict(cases, profile)]).drop(columns="input")
    return write_file(directory / "predictions.parquet", parquet(frame)), len(cases)


def compare_with_study(
    directory: Path, profile: HardwareProfile, input_shape: tuple[int, ...]
) -> list[Agreement]:
    """Test how well each estimator ranks the models of a study, by phase.

    The energy per sample of a model is that of its median run at the batch size that most models
    were run with. The profile must be of the device that the study ran on.
    """
    frame = read_study(directory, input_shape)
    frame["energy_per_sample_j"] = frame["gross_j"] / frame["samples"]
    cases = _cases_of(frame)
    predictions = {one.case: one for one in predict(list(dict.fromkeys(cases)), profile)}
    frame["predicted_j"] = [predictions[case].energy_per_sample_j for case in cases]
    names = list(ESTIMATORS)
    found = []
    for phase, rows in frame.groupby("phase", sort=False):
        common = rows.groupby("batch_size")["model"].nunique().idxmax()
        chosen = rows[rows["batch_size"] == common]
        by_model = chosen.groupby("model")[["energy_per_sample_j", *names]].median()
        by_model = by_model.dropna().astype(float)
        if len(by_model) < 3:
            continue
        ranks = rank_correlations(
            by_model["energy_per_sample_j"], {name: by_model[name] for name in names}
        )["spearman"]
        by_estimator = dict(zip(names, ranks, strict=True))
        found.append(Agreement(str(phase), len(by_model), by_estimator, _device_of(frame)))
    if not found:
        raise UserError(
            f"{directory} has too few models to rank",
            why="at least three models must have run with the same batch size",
        )
    return found


def _cases_of(frame: pd.DataFrame) -> list[Case]:
    """Return the case of each row of :func:`read_study`."""
    cases = []
    names = (*CASE_COLUMNS, "output_tokens", "precision")
    for model, phase, batch_size, shape, output_tokens, precision in zip(
        *(frame[name] for name in names), strict=True
    ):
        case = Case(model, phase, int(batch_size), parse_input_shape(shape))
        if case.counts_tokens:
            outputs = int(output_tokens) if case.decodes else 0
            case = case._replace(output_tokens=outputs, precision=str(precision))
        cases.append(case)
    return cases


def _summarise(cases: Sequence[Case], measured: pd.DataFrame) -> list[Measurement]:
    """Reduce the repeats of each case to their medians, in the order of first appearance."""
    numbers = {case: index for index, case in enumerate(dict.fromkeys(cases))}
    groups = measured.reset_index(drop=True).groupby([numbers[case] for case in cases])
    medians, sizes = groups.median(), groups.size()
    idle = medians.get("idle_power_w", pd.Series(np.nan, medians.index))
    return [
        Measurement(
            case,
            float(medians["seconds_per_step"][index]),
            float(medians["energy_per_step_j"][index]),
            float(idle[index]),
            int(sizes[index]),
        )
        for case, index in numbers.items()
    ]


def _read(path: Path, columns: Iterable[str]) -> pd.DataFrame:
    try:
        if path.suffix.lower() == ".parquet":
            frame = pd.read_parquet(path)
        else:
            frame = pd.read_csv(path, comment="#", skipinitialspace=True)
    except (OSError, ValueError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}", why=str(error)) from error
    missing = [name for name in columns if name not in frame]
    if missing:
        raise UserError(
            f"{path} has no column {', '.join(missing)}",
            why=f"its columns are {', '.join(map(str, frame.columns))}",
        )
    if frame.empty:
        raise UserError(f"{path} has no rows")
    return frame


def _parse_positive(frame: pd.DataFrame, name: str, path: Path) -> pd.Series:
    values = pd.to_numeric(frame[name], errors="coerce")
    invalid = ~(np.isfinite(values) & (values > 0))
    if invalid.any():
        row = int(np.flatnonzero(invalid)[0])
        raise UserError(
            f"{path}: row {row + 1} has no {name}",
            why=f"{frame[name].iloc[row]} is not a positive number",
            hint="remove rows that were not measured",
        )
    return values


def _parse_cases(frame: pd.DataFrame, path: Path) -> list[Case]:
    sizes = _parse_positive(frame, "batch_size", path)
    missing = pd.Series(np.nan, frame.index)
    outputs = pd.to_numeric(frame.get("output_tokens", missing), errors="coerce")
    precisions = frame.get("precision", missing).astype(object).fillna("bf16")
    known = dict.fromkeys((*PHASES, *TOKEN_PHASES))
    cases = []
    columns = (frame["model"], frame["phase"], sizes, frame["input"], outputs, precisions)
    for row, (model, phase, size, shape, output, precision) in enumerate(
        zip(*columns, strict=True), start=1
    ):
        if phase not in known:
            raise UserError(
                f"{path}: row {row} has no phase {phase!r}", hint=f"write {' or '.join(known)}"
            )
        if size != int(size):
            raise UserError(f"{path}: row {row} has a batch_size of {size}")
        case = Case(str(model), str(phase), int(size), parse_input_shape(str(shape)))
        if case.decodes:
            if not (output >= 1 and output == int(output)):
                raise UserError(f"{path}: row {row} has no number of output_tokens")
            case = case._replace(output_tokens=int(output))
        if case.counts_tokens:
            case = case._replace(precision=precision)
        cases.append(case)
    return cases
