"""What studies measured, as steps to fit on, to compare with, and to predict."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from joulelab.errors import UserError
from joulelab.findings.tables import run_table
from joulelab.predict.cases import Case, Measurement, parse_input
from joulelab.predict.measurements import CASE_COLUMNS, grouped
from joulelab.predict.operators import PHASES
from joulelab.runs.studies import read_studies, understood

ONE_OF_EACH = ("machine", "gpu_name", "precision", "memory_format", "compile", "resolved_device")
"""A profile is of one device and one way of computing."""


def study_frame(directories: Sequence[Path], unknown_input: tuple[int, ...]) -> pd.DataFrame:
    """A row for each run and phase of studies, as results have it, and the ``input`` of each.

    Args:
        directories: Studies.
        unknown_input: Shape of a sample where the study does not tell it, as one that was made
            from recorded logs.

    Raises:
        StoreError: A directory is no study, or cannot be read.
        UserError: Nothing was measured.
    """
    studies = read_studies(directories)
    frame = run_table(studies)
    shapes: dict[str, Sequence[int]] = {}
    for study in studies:
        for run in study.cells():
            with understood(run):
                shapes[run.run_id] = run.data["data"].get("image_shape", unknown_input)
    frame["input"] = ["x".join(map(str, shapes[run_id])) for run_id in frame["run_id"]]
    frame["seconds_per_step"] = frame["duration_s"] / frame["steps"]
    frame["energy_per_step_j"] = frame["gross_j"] / frame["steps"]
    frame = frame[(frame["energy_per_step_j"] > 0) & frame["phase"].isin(PHASES)]
    if frame.empty:
        raise UserError(
            f"{', '.join(map(str, directories))} has no run with an energy and a number of steps"
        )
    return frame


def cases_of(frame: pd.DataFrame) -> list[Case]:
    """The case of each row of :func:`study_frame`."""
    return [
        Case(model, phase, int(batch_size), parse_input(shape))
        for model, phase, batch_size, shape in zip(
            *(frame[name] for name in CASE_COLUMNS), strict=True
        )
    ]


def measurements_of(frame: pd.DataFrame) -> list[Measurement]:
    """The rows of :func:`study_frame` as measurements.

    Raises:
        UserError: They are of more than one device or way of computing.
    """
    for name in ONE_OF_EACH:
        values: list[Any] = sorted(map(str, frame[name].dropna().unique()))
        if len(values) > 1:
            raise UserError(
                f"the runs differ in {name}",
                why=f"there are {', '.join(values)}",
                hint="fit a profile on runs of one device and one setting",
            )
    measured = frame[["seconds_per_step", "energy_per_step_j", "idle_power_w"]]
    return grouped(cases_of(frame), measured)


def numerics_of(frame: pd.DataFrame) -> str:
    """How the runs computed, in words."""
    names = ("precision", "memory_format", "resolved_device")
    return ", ".join(str(value) for name in names for value in frame[name].dropna().unique())


def device_of(frame: pd.DataFrame) -> str | None:
    """The GPU of the runs; nothing for runs on a CPU, or where it is not known."""
    on_cpu = frame["resolved_device"].dropna().astype(str).str.startswith("cpu")
    names = frame["gpu_name"].dropna().unique()
    return str(names[0]) if len(names) and not (len(on_cpu) and on_cpu.all()) else None
