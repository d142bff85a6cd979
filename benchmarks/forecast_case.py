"""One forecast and what became of it."""

from __future__ import annotations

from dataclasses import dataclass

from joulelab.forecast.profile import Forecast


@dataclass(frozen=True, kw_only=True)
class Case:
    """A run of which the beginning was seen.

    Attributes:
        name: Of the run, or of its kind.
        cut: The share of the run's time that was seen.
        truth_j: What the whole run took, by the same sensors.
        truth_s: How long it took.
        forecast: From the beginning.
        first_j: The first epoch times the number of epochs.
        mean_j: The profile's energy per work times the work of the run.
        kind: Of the power and times, where there are several.
    """

    name: str
    cut: float
    truth_j: float
    truth_s: float
    forecast: Forecast
    first_j: float
    mean_j: float
    kind: str = ""

    def error(self, energy_j: float) -> float:
        """Relative, without its sign."""
        return abs(energy_j / self.truth_j - 1)

    @property
    def half_width(self) -> float:
        """Of the interval without the sensors' scale, relative to the forecast."""
        return self.forecast.uncertainty

    @property
    def spent(self) -> float:
        """The share of the run's energy that the profile took."""
        return self.forecast.spent_j / self.truth_j

    @property
    def energy_held(self) -> bool:
        """Whether the interval without the sensors' scale holds the truth.

        That scale is the same error in the forecast and in the truth here.
        """
        return abs(self.forecast.gross_j - self.truth_j) <= self.half_width * self.forecast.gross_j

    @property
    def time_held(self) -> bool:
        """Whether the interval of the time holds the truth."""
        return self.forecast.duration_low_s <= self.truth_s <= self.forecast.duration_high_s
