"""All that findings, figures and pages are made from: studies and their tables, built once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import pandas as pd

from joulelab.findings.summary import FACTORS, summary, varying
from joulelab.findings.tables import epoch_table, failure_table, idle_table, run_table
from joulelab.runs.studies import Study

ALIKE = ("study", "machine", "host", "gpu_name", "sources", *FACTORS)
"""Models that agree in all of these were measured alike."""

LEADING = 4
"""Settings of one study on one machine that are looked into, see :meth:`Data.leading_groups`."""

Place = tuple[str, str]
"""A machine's host and identity."""


@dataclass(frozen=True, slots=True, eq=False)
class Data:
    """Studies and their tables.

    Attributes:
        studies: As :func:`joulelab.runs.studies.read_studies` gives them.
        runs: See :func:`joulelab.findings.tables.run_table`.
        epochs: See :func:`joulelab.findings.tables.epoch_table`.
        summary: See :func:`joulelab.findings.summary.summary`.
        idle: See :func:`joulelab.findings.tables.idle_table`.
        failures: See :func:`joulelab.findings.tables.failure_table`.
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
        labels = machine_labels(self.summary)
        told = {
            str(study): _told(part) for study, part in self.summary.groupby("study", sort=False)
        }
        found = [
            Group.of(part.reset_index(drop=True), told[str(part["study"].iloc[0])], labels)
            for _, part in self.summary.groupby(list(ALIKE), dropna=False, sort=False)
        ]
        return sorted(found, key=lambda group: -group.table["model"].nunique())

    def leading_groups(self, most: int = LEADING) -> list[Group]:
        """Of each study and machine the groups with the most models.

        A study of hundreds of settings would otherwise need hundreds of correlations.

        Args:
            most: How many settings of one study on one machine; those with the most models, and
                among equals those that were run first.
        """
        taken: Counter[tuple[str, str]] = Counter()
        leading = []
        for group in self.groups():
            taken[group.study, group.machine] += 1
            if taken[group.study, group.machine] <= most:
                leading.append(group)
        return leading


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Models measured alike: one study, one machine, the same sensors and settings.

    Only within a group may energies of models be compared, ranked and correlated.

    Attributes:
        study: The study's label.
        host: The machine's name.
        gpu_name: Its GPUs; empty without one.
        machine: What it is called beside the other machines, see :func:`machine_labels`.
        levels: The level of each factor that varies within the study, machines and sensors
            among them.
        table: Rows of :func:`joulelab.findings.summary.summary`: one a model and phase.
    """

    study: str
    host: str
    gpu_name: str
    machine: str
    levels: Mapping[str, str]
    table: pd.DataFrame

    @property
    def setting(self) -> str:
        """The levels, as ``"batch_size=128"``; empty where nothing varies."""
        return _setting(self.levels)

    def setting_but(self, factor: str) -> str:
        """The levels without that of one factor."""
        return _setting({name: self.levels[name] for name in self.levels if name != factor})

    @classmethod
    def of(cls, part: pd.DataFrame, told: Sequence[str], labels: Mapping[Place, str]) -> Self:
        """The group of these rows of a summary.

        Args:
            part: Rows that agree in :data:`ALIKE`.
            told: What varies within the study, see :attr:`levels`.
            labels: See :func:`machine_labels`.
        """
        first = part.iloc[0]
        machine = labels[str(first["host"]), str(first["machine"])]
        levels = {name: machine if name == "machine" else str(first[name]) for name in told}
        gpu_name = first["gpu_name"]
        return cls(
            study=str(first["study"]),
            host=str(first["host"]),
            gpu_name="" if pd.isna(gpu_name) else str(gpu_name),
            machine=machine,
            levels=levels,
            table=part,
        )

    def phase(self, phase: str) -> pd.DataFrame:
        """The rows of one phase: one a model."""
        return self.table[self.table["phase"] == phase].reset_index(drop=True)


def _setting(levels: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={level}" for name, level in levels.items())


def _told(study: pd.DataFrame) -> list[str]:
    """The columns that vary within a study: its machines, factors and sensors."""
    several = len(study[["host", "machine"]].drop_duplicates()) > 1
    return ["machine"] * several + varying(study, (*FACTORS, "sources"))


def placed(groups: Sequence[Group]) -> pd.DataFrame:
    """The groups' tables in one, ``machine`` being its label and ``setting`` beside it.

    Returns:
        Columns ``study``, ``machine``, ``setting`` and the others of a summary; no rows without
        groups.
    """
    parts = [
        group.table.assign(study=group.study, machine=group.machine, setting=group.setting)
        for group in groups
    ]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame({"study": []})


def machine_labels(table: pd.DataFrame) -> dict[Place, str]:
    """A name for each machine, by host and identity: as short as tells them apart.

    The host's name; with the GPU's where unlike machines share it; with the identity where they
    share that too.

    Args:
        table: Any with the columns ``host``, ``machine`` and ``gpu_name``.
    """
    places = table[["host", "machine", "gpu_name"]].drop_duplicates(["host", "machine"])
    short: dict[Place, str] = {}
    long: dict[Place, str] = {}
    for host, machine, gpu_name in places.itertuples(index=False):
        short[host, machine] = host
        long[host, machine] = f"{host} ({'no GPU' if pd.isna(gpu_name) else gpu_name})"
    full = {place: f"{name}, {place[1]}" for place, name in long.items()}
    for shorter, longer in ((long, full), (short, long)):
        shared = Counter(shorter.values())
        for place, name in shorter.items():
            if shared[name] > 1:
                shorter[place] = longer[place]
    return short
