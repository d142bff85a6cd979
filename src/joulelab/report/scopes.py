"""What may be shown together: models that were measured alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import pandas as pd

from joulelab.findings.answers import Answers
from joulelab.findings.data import ALIKE, Data, Group
from joulelab.findings.frames import PLACE


@dataclass(frozen=True, slots=True, eq=False)
class Scope:
    """One group of models measured alike. A page shows one at a time.

    Attributes:
        key: By which rows refer to it.
        family: Equal for scopes that differ in batch size alone.
        place: Study and machine.
        setting: What tells it apart from the others of that place; may be empty.
        group: The models.
        leading: Whether it is the first of its place, whose figures become files.
    """

    key: str
    family: str
    place: str
    setting: str
    group: Group
    leading: bool


@dataclass(frozen=True, slots=True, eq=False)
class Material:
    """What figures are made from.

    Attributes:
        data: Studies and their tables.
        answers: Tables worked out from them.
        scopes: Those with the most models first.
        summary: The scopes' rows of :func:`joulelab.findings.summary.summary`, with the columns
            ``scope`` and ``family``.
    """

    data: Data
    answers: Answers
    scopes: tuple[Scope, ...]
    summary: pd.DataFrame

    @classmethod
    def of(cls, data: Data, answers: Answers) -> Self:
        """The material in these data."""
        scopes = _scopes(data)
        parts = [scope.group.table.assign(scope=scope.key, family=scope.family) for scope in scopes]
        none = data.summary.assign(scope="", family="")
        table = pd.concat(parts, ignore_index=True) if parts else none
        return cls(data, answers, scopes, table)

    def scoped(self, table: pd.DataFrame) -> pd.DataFrame:
        """The rows of a table of answers with their ``scope``; those of no scope are left out."""
        return self._placed(table, "scope", {_place(scope): scope.key for scope in self.scopes})

    def of_families(self, table: pd.DataFrame) -> pd.DataFrame:
        """As :meth:`scoped`, of a table whose settings leave the batch size out: ``family``."""
        families = {
            (
                scope.group.study,
                scope.group.machine,
                without_batch_size(scope.setting),
            ): scope.family
            for scope in self.scopes
        }
        return self._placed(table, "family", families)

    def runs_of(self, scope: Scope) -> pd.DataFrame:
        """The rows of :attr:`Data.runs` that a scope's group was made from."""
        runs = self.data.runs
        first = scope.group.table.iloc[0]
        same = pd.Series(True, index=runs.index)
        for name in ALIKE:
            same &= runs[name].isna() if pd.isna(first[name]) else runs[name].eq(first[name])
        return runs[same.fillna(False).astype(bool)]

    def _placed(
        self, table: pd.DataFrame, name: str, keys: dict[tuple[str, str, str], str]
    ) -> pd.DataFrame:
        places = table[list(PLACE)].itertuples(index=False, name=None)
        found = pd.Series([keys.get(place) for place in places], index=table.index, dtype="str")
        placed = table.drop(columns=list(PLACE))
        placed.insert(0, name, found)
        return placed[found.notna()].reset_index(drop=True)


def without_batch_size(setting: str) -> str:
    """A setting without its batch size.

    Example:
        >>> without_batch_size("batch_size=8, precision=bf16")
        'precision=bf16'
    """
    return ", ".join(part for part in setting.split(", ") if not part.startswith("batch_size="))


def spoken_setting(setting: str) -> str:
    """A setting as a person reads it.

    Example:
        >>> spoken_setting("batch_size=8, precision=bf16")
        'batch size 8, precision bf16'
    """
    return setting.replace("_", " ").replace("=", " ")


def _place(scope: Scope) -> tuple[str, str, str]:
    return scope.group.study, scope.group.machine, scope.group.setting


def _scopes(data: Data) -> tuple[Scope, ...]:
    scopes: list[Scope] = []
    families: dict[tuple[str, str, str], str] = {}
    places: set[str] = set()
    for number, group in enumerate(data.groups()):
        alike = (group.study, group.machine, without_batch_size(group.setting))
        family = families.setdefault(alike, f"f{len(families)}")
        place = f"{group.study} · {group.machine}"
        scopes.append(Scope(f"s{number}", family, place, group.setting, group, place not in places))
        places.add(place)
    return tuple(scopes)
