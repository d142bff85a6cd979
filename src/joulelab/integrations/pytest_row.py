"""What is known of one test."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from joulelab.energy.energy import Energy


@dataclass(slots=True)
class Row:
    """What is known of one test.

    Attributes:
        nodeid: The test.
        energy: Of its call; ``None`` when it was not measured.
        passed: Whether it passed, its budget and its baseline included.
        budget_j: That it was given.
        told: What came of the budget and the baseline, in words.
        open: Whether one of them could not be told.
        started_unix_s: When its call began.
    """

    nodeid: str
    energy: Energy | None
    passed: bool = True
    budget_j: float | None = None
    told: list[str] = field(default_factory=list)
    open: bool = False
    started_unix_s: float = math.nan

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary; :meth:`from_json` is its inverse."""
        energy = None if self.energy is None else self.energy.to_json()
        return {name: getattr(self, name) for name in Row.__slots__} | {"energy": energy}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """What :meth:`to_json` wrote."""
        energy = None if data["energy"] is None else Energy.from_json(data["energy"])
        return cls(**{**data, "energy": energy})
