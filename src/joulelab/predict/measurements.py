"""Tables of cases and of measured steps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from joulelab.errors import UserError
from joulelab.predict.cases import Case, Measurement, parse_input
from joulelab.predict.operators import PHASES

CASE_COLUMNS = ("model", "phase", "batch_size", "input")
MEASURED_COLUMNS = ("seconds_per_step", "energy_per_step_j")


def read_cases(path: Path) -> list[Case]:
    """The cases in a CSV or Parquet file, one a row.

    Raises:
        UserError: The file cannot be read, or a row is not understood.
    """
    return _cases(_read(path, CASE_COLUMNS), path)


def read_measurements(path: Path) -> list[Measurement]:
    """Measured rows of a CSV or Parquet file, repeats of a case drawn together.

    Args:
        path: Its columns are :data:`CASE_COLUMNS`, :data:`MEASURED_COLUMNS` and, if it is known,
            ``idle_power_w``. Lines that begin with ``#`` are comments.

    Raises:
        UserError: The file cannot be read, or a row is not understood.
    """
    frame = _read(path, (*CASE_COLUMNS, *MEASURED_COLUMNS))
    numbers = {}
    for name in MEASURED_COLUMNS:
        numbers[name] = _positive(frame, name, path)
    if "idle_power_w" in frame:
        numbers["idle_power_w"] = pd.to_numeric(frame["idle_power_w"], errors="coerce")
    return grouped(_cases(frame, path), pd.DataFrame(numbers))


def grouped(cases: Sequence[Case], measured: pd.DataFrame) -> list[Measurement]:
    """Repeats of a case become one measurement, in the order of the first of each.

    Args:
        cases: One a row.
        measured: :data:`MEASURED_COLUMNS` and perhaps ``idle_power_w``. Shape: (rows, 2 or 3).
    """
    place = {case: index for index, case in enumerate(dict.fromkeys(cases))}
    groups = measured.reset_index(drop=True).groupby([place[case] for case in cases])
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
        for case, index in place.items()
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
            why=f"it has {', '.join(map(str, frame.columns))}",
        )
    if frame.empty:
        raise UserError(f"{path} has no rows")
    return frame


def _positive(frame: pd.DataFrame, name: str, path: Path) -> pd.Series:
    values = pd.to_numeric(frame[name], errors="coerce")
    wrong = ~(np.isfinite(values) & (values > 0))
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise UserError(
            f"{path}: row {row + 1} has no {name}",
            why=f"it is {frame[name].iloc[row]!r}, which is not a positive number",
            hint="leave out rows that were not measured",
        )
    return values


def _cases(frame: pd.DataFrame, path: Path) -> list[Case]:
    sizes = _positive(frame, "batch_size", path)
    cases = []
    for row, (model, phase, size, shape) in enumerate(
        zip(frame["model"], frame["phase"], sizes, frame["input"], strict=True), start=1
    ):
        if phase not in PHASES:
            raise UserError(
                f"{path}: row {row} has no phase {phase!r}", hint=f"it is {' or '.join(PHASES)}"
            )
        if size != int(size):
            raise UserError(f"{path}: row {row} has a batch_size of {size}")
        cases.append(Case(str(model), str(phase), int(size), parse_input(str(shape))))
    return cases
