"""Knobs, the measurements that a search is given, and what every search can do."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from joulelab.tune.result import Result

Level = int | float | str | bool
Settings = Mapping[str, Level]
"""A level of each knob, by the knob's name."""


@dataclass(frozen=True, slots=True)
class Knob:
    """A setting that a search may change."""

    name: str  # With underscores, for example ``"power_limit"`` or ``"batch_size"``.
    levels: tuple[Level, ...]  # Possible values, in order if they are numbers.
    baseline: Level  # The level without tuning; one of ``levels``.
    is_limit: bool = False  # Whether a higher level never takes longer, as for limits and clocks.


@dataclass(frozen=True, slots=True)
class Probe:
    """Time and energy of one unit of work, measured once at some settings."""

    settings: Settings  # Level of each knob.
    duration_s: float  # Time for a unit of work.
    energy_j: float  # Energy of a unit of work.
    # Standard uncertainty of this measurement's own errors; NaN if unknown. Errors that all probes
    # share, such as a sensor's gain, are left out.
    duration_uncertainty_s: float = math.nan
    energy_uncertainty_j: float = math.nan  # Likewise for the energy.
    work: float = 1.0  # Number of units of work that were measured.
    # Units of work, for example epochs, after which a run at these settings reached its target;
    # infinite if it did not. NaN if no target was sought.
    work_to_target: float = math.nan


class Search(Protocol):
    """Proposes settings to measure until another measurement is not worth its cost."""

    def next(self) -> Settings | None:
        """Return the settings to measure next; ``None`` if the search is over."""

    def add(self, probe: Probe) -> None:
        """Take the measurement of the settings that :meth:`next` returned last."""

    def leave_out(self, settings: Settings) -> None:
        """Take that the settings that :meth:`next` returned last cannot be measured."""

    def result(self) -> Result:
        """Return what is known so far. The baseline must have been measured."""
