"""One forecast compared with the whole run."""

from __future__ import annotations

from dataclasses import dataclass

from joulelab.forecast.profile import Forecast


@dataclass(frozen=True, kw_only=True)
class Case:
    """A run that was forecast from its beginning.

    Attributes:
        name: Name of the run, or of its kind.
        cut: Share of the run's time that the forecast used.
        truth_j: Energy of the whole run, by the same sensors.
        truth_s: Duration of the whole run.
        forecast: Forecast from the beginning.
        first_j: The first epoch times the number of epochs.
        mean_j: The profile's energy per work times the work of the run.
        kind: Kind of power and times, if there are several.
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
        """Return the absolute relative error."""
        return abs(energy_j / self.truth_j - 1)

    @property
    def half_width(self) -> float:
        """Half width of the interval without the sensors' scale, relative to the forecast."""
        return self.forecast.uncertainty

    @property
    def spent(self) -> float:
        """Share of the run's energy that was spent before the forecast."""
        return self.forecast.spent_j / self.truth_j

    @property
    def energy_covered(self) -> bool:
        """Whether the interval without the sensors' scale contains the truth.

        The scale has the same error in the forecast and in the truth here.
        """
        return abs(self.forecast.gross_j - self.truth_j) <= self.half_width * self.forecast.gross_j

    @property
    def time_covered(self) -> bool:
        """Whether the interval of the time contains the truth."""
        return self.forecast.duration_low_s <= self.truth_s <= self.forecast.duration_high_s
