"""One forecast compared with the whole run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from joulelab.forecast.profile import MAIN, Forecast, Profile, Row


class Interval(NamedTuple):
    """An interval of the energy of a run."""

    low_j: float
    high_j: float
    uncertainty: float  # Relative half-width.

    def covers(self, energy_j: float) -> bool:
        """Whether the interval contains an energy."""
        return self.low_j <= energy_j <= self.high_j


@dataclass(frozen=True, kw_only=True)
class Case:
    """A run that was forecast from its beginning."""

    group: str  # Row of the table that it belongs to.
    truth_j: float  # Energy of the whole run, by the same sensors.
    truth_s: float  # Duration of the whole run.
    profile: Sequence[Row]  # The beginning of the run.
    forecast: Forecast  # Forecast from it.
    first_j: float  # The first epoch times the number of epochs.
    mean_j: float  # The profile's energy per epoch times the number of epochs.
    earlier: Interval | None = None  # Forecast of an earlier commit.

    @classmethod
    def of(cls, group: str, rows: Sequence[Row], seen: int) -> Case:
        """Forecast a run from the rows before the end of ``seen`` epochs and their phases."""
        starts = [i for i, row in enumerate(rows) if row.phase == MAIN]
        first_j = sum(row.gross_j for row in rows[: starts[1]])
        profile = rows[: starts[seen]]
        spent_j = sum(row.gross_j for row in profile)
        return cls(
            group=group,
            truth_j=float(sum(row.gross_j for row in rows)),
            truth_s=float(sum(row.duration_s for row in rows)),
            profile=profile,
            forecast=Profile(profile).forecast(len(starts)),
            first_j=first_j * len(starts),
            mean_j=spent_j / seen * len(starts),
        )

    def error(self, energy_j: float) -> float:
        """Return the absolute relative error."""
        return abs(energy_j / self.truth_j - 1)

    @property
    def energy_covered(self) -> bool:
        """Whether the interval of the energy contains the truth."""
        return self.forecast.gross_low_j <= self.truth_j <= self.forecast.gross_high_j

    @property
    def time_covered(self) -> bool:
        """Whether the interval of the time contains the truth."""
        return self.forecast.duration_low_s <= self.truth_s <= self.forecast.duration_high_s


def summary(cases: Sequence[Case]) -> dict[str, float]:
    """Return medians and quantiles of a group, all in percent.

    The keys are ``coverage`` and ``half-width`` of the energy's interval, ``error`` (median) and
    ``p90`` of the forecast, ``time coverage``, and the median errors of two simple rules. If an
    earlier commit has forecast the group, its coverage and half-width come first.
    """
    errors = [case.error(case.forecast.gross_j) for case in cases]
    earlier = [(case, case.earlier) for case in cases if case.earlier is not None]
    found = {}
    if earlier:
        found["earlier coverage"] = np.mean([one.covers(case.truth_j) for case, one in earlier])
        found["earlier half-width"] = np.median([one.uncertainty for _, one in earlier])
    found |= {
        "coverage": np.mean([case.energy_covered for case in cases]),
        "half-width": np.median([case.forecast.uncertainty for case in cases]),
        "error": np.median(errors),
        "p90": np.quantile(errors, 0.9),
        "time coverage": np.mean([case.time_covered for case in cases]),
        "first epoch": np.median([case.error(case.first_j) for case in cases]),
        "mean": np.median([case.error(case.mean_j) for case in cases]),
    }
    return {name: float(100 * value) for name, value in found.items()}
