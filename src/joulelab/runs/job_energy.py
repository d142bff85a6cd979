"""Idle power in a record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from joulelab.energy.baseline import Baseline


def baseline_of(points: Sequence[Mapping[str, Any]] | None) -> Baseline | None:
    """Read the idle power in a record."""
    return None if points is None else Baseline.from_json(points)
