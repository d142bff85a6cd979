"""All that findings, figures and pages are made from: studies and their tables, built once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import pandas as pd

from joulelab.analysis.studies import Study
from joulelab.analysis.summary import FACTORS, summary, varying
from joulelab.analysis.tables import epoch_table, failure_table, idle_table, run_table

ALIKE = ("study", "machine", "host", "gpu_name", "sources", *FACTORS)
"""Models that agree in all of these were measured alike."""


@dataclass(frozen=True, slots=True, eq=False)
class Data:
    """Studies and their tables.

    Attributes:
        studies: As :func:`joulelab.analysis.studies.read_studies` gives them.
        runs: See :func:`joulelab.analysis.tables.run_table`.
        epochs: See :func:`joulelab.analysis.tables.epoch_table`.
        summary: See :func:`joulelab.analysis.summary.summary`.
        idle: See :func:`joulelab.analysis.tables.idle_table`.
        failures: See :func:`joulelab.analysis.tables.failure_table`.
    """

    studies: tuple[Study, ...]
    runs: pd.DataFrame
    epochs: pd.DataFrame
    summary: pd.DataFrame
    idle: pd.DataFrame
    failures: pd.DataFrame

    @classmethod
    def of(cls, studies: Sequence[Study]) -> Self:
        """The tables of these studies.

        Raises:
            StoreError: A record lacks what it should have.
        """
        runs = run_table(studies)
        return cls(
            studies=tuple(studies),
            runs=runs,
            epochs=epoch_table(studies),
            summary=summary(runs),
            idle=idle_table(studies),
            failures=failure_table(studies),
        )

    def groups(self) -> list[Group]:
        """The models that were measured alike, those with the most models first."""
        found = [
            Group.of(part, self.summary)
            for _, part in self.summary.groupby(list(ALIKE), dropna=False, sort=False)
        ]
        return sorted(found, key=lambda group: -group.table["model"].nunique())


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Models measured alike: one study, one machine, the same sensors and settings.

    Only within a group may energies of models be compared, ranked and correlated.

    Attributes:
        study: The study's label.
        host: The machine's name.
        gpu_name: Its GPUs; empty without one.
        setting: The levels of the factors that vary within the study, as ``"batch_size=128"``;
            empty where none does.
        table: Rows of :func:`joulelab.analysis.summary.summary`: one a model and phase.
    """

    study: str
    host: str
    gpu_name: str
    setting: str
    table: pd.DataFrame

    @classmethod
    def of(cls, part: pd.DataFrame, whole: pd.DataFrame) -> Self:
        """The group of these rows of a summary."""
        first = part.iloc[0]
        study = whole[whole["study"] == first["study"]]
        setting = ", ".join(f"{name}={first[name]}" for name in varying(study))
        gpu_name = first["gpu_name"]
        return cls(
            study=str(first["study"]),
            host=str(first["host"]),
            gpu_name="" if pd.isna(gpu_name) else str(gpu_name),
            setting=setting,
            table=part.reset_index(drop=True),
        )

    def phase(self, phase: str) -> pd.DataFrame:
        """The rows of one phase: one a model."""
        return self.table[self.table["phase"] == phase].reset_index(drop=True)
