"""The outcome of a search: what to set, what it saves, and how sure that is."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import Any

from joulelab.format import with_ends
from joulelab.tune.probes import Settings


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class FrontPoint:
    """Settings for which no others are both faster and use less energy, per unit of work."""

    settings: Settings
    duration_s: Estimate
    energy_j: Estimate

    def to_json(self) -> dict[str, Any]:
        """Convert to a plain dictionary."""
        fields: dict[str, Any] = {"settings": dict(self.settings)}
        for name in ("duration_s", "energy_j"):
            stem, _, unit = name.rpartition("_")
            estimate: Estimate = getattr(self, name)
            fields |= with_ends(stem, f"_{unit}", *astuple(estimate))
        return fields


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome of a search."""

    settings: Settings  # The choice; equal to ``baseline`` if no settings are significantly better.
    baseline: Settings  # The settings without tuning.
    saving: Estimate  # Part of the baseline's energy that it saves; negative if it uses more.
    slowdown: Estimate  # Additional time for a unit of work, as a part of the baseline's.
    probes: int  # Number of measurements, those of the baseline included.
    front: tuple[FrontPoint, ...]  # The settings worth choosing from, the fastest first.
    reason: str  # Why these settings, in one sentence.

    def to_json(self) -> dict[str, Any]:
        """Convert to the dictionary that ``joulelab tune --json`` prints."""
        return {
            "settings": dict(self.settings),
            "baseline": dict(self.baseline),
            **with_ends("saving", "", *astuple(self.saving)),
            **with_ends("slowdown", "", *astuple(self.slowdown)),
            "probes": self.probes,
            "front": [point.to_json() for point in self.front],
            "reason": self.reason,
        }
