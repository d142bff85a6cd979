"""A short profile of a run, and what the whole run will take."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median
from typing import Any

import numpy as np

from joulelab.carbon.quantities import carbon_g
from joulelab.energy.energy import Energy
from joulelab.errors import UserError
from joulelab.forecast.series import Total, forecast_total, load_scipy
from joulelab.uncertain import COVERAGE_FACTOR

MAIN = "epoch"
"""The phase that makes up a run, whole or in sections."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A piece of a run that was seen.

    Attributes:
        phase: :data:`MAIN`, or what else a run does, as ``"validate"`` or ``"checkpoint"``.
        duration_s: How long it took.
        gross_j: What it took; NaN when it was not measured.
        work: How much of a typical piece of its phase it is.
        gain_uncertainty: Relative standard uncertainty of the sensors' scale, the same error in
            every row.
        edge_uncertainty_j: Standard uncertainty that differs from row to row.
    """

    phase: str
    duration_s: float
    gross_j: float
    work: float = 1.0
    gain_uncertainty: float = 0.0
    edge_uncertainty_j: float = 0.0

    @classmethod
    def of(cls, phase: str, energy: Energy, work: float = 1.0) -> Row:
        """From the energy of a span."""
        parts = energy.components.values()
        edge_j = math.hypot(*(part.edge_uncertainty_j for part in parts))
        whole_j = math.hypot(*(part.uncertainty_j for part in parts))
        common_j = math.sqrt(max(0.0, whole_j**2 - edge_j**2))
        gross_j = energy.gross_j
        return cls(
            phase=phase,
            duration_s=energy.duration_s,
            gross_j=gross_j,
            work=work,
            gain_uncertainty=common_j / gross_j if gross_j > 0 else 0.0,
            edge_uncertainty_j=edge_j,
        )

    def less(self, inner: Row) -> Row:
        """What is left without a row that lies within this one."""
        return Row(
            phase=self.phase,
            duration_s=self.duration_s - inner.duration_s,
            gross_j=self.gross_j - inner.gross_j,
            work=self.work,
            gain_uncertainty=max(self.gain_uncertainty, inner.gain_uncertainty),
            edge_uncertainty_j=math.hypot(self.edge_uncertainty_j, inner.edge_uncertainty_j),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseForecast:
    """One phase's share of a forecast.

    Attributes:
        phase: Its name.
        count: How often it happens in the whole run.
        gross_j: Its energy in the whole run.
        duration_s: Its time in the whole run.
    """

    phase: str
    count: float
    gross_j: float
    duration_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What a whole run will take, with 95 % prediction intervals. Not known is NaN.

    Attributes:
        epochs: Of the whole run.
        epochs_seen: How many the profile has; less than 1 within the first.
        gross_j: Energy of the whole run, what was seen included.
        gross_low_j: Lower end of its interval, the sensors' scale included.
        gross_high_j: Upper end.
        duration_s: Time of the whole run, in what was marked.
        duration_low_s: Lower end of its interval.
        duration_high_s: Upper end.
        spent_j: Energy that the profile took.
        spent_fraction: Its share of the forecast energy; of the time where no energy is known.
        uncertainty: Relative half-width of the interval of energy without the sensors' scale, which
            no longer profile makes surer; of the time where no energy is known.
        within: What ``uncertainty`` was asked to be at most; ``None`` when nothing was asked.
        startup: Rows at the beginning that are unlike the rest, and are counted once.
        phases: What the energy and the time are made of.
        carbon_intensity_g_per_kwh: As given; ``None`` when it was not.
        pue: As given.
    """

    epochs: float
    epochs_seen: float
    gross_j: float
    gross_low_j: float
    gross_high_j: float
    duration_s: float
    duration_low_s: float
    duration_high_s: float
    spent_j: float
    spent_fraction: float
    uncertainty: float
    startup: int
    phases: tuple[PhaseForecast, ...]
    within: float | None = None
    carbon_intensity_g_per_kwh: float | None = None
    pue: float = 1.0

    @property
    def sure(self) -> bool:
        """Whether the forecast is as sure as was asked."""
        return self.within is not None and self.uncertainty <= self.within

    @property
    def carbon_g(self) -> tuple[float, float, float] | None:
        """Grams of CO2-equivalent and the ends of their interval; ``None`` without an intensity.

        The interval is that of the energy: the intensity is taken as exact.
        """
        intensity = self.carbon_intensity_g_per_kwh
        if intensity is None:
            return None
        value, low, high = (
            carbon_g(energy_j, intensity, pue=self.pue)
            for energy_j in (self.gross_j, self.gross_low_j, self.gross_high_j)
        )
        return value, low, high

    def to_json(self) -> dict[str, Any]:
        """Every figure; NaN becomes ``None``."""
        figures = {
            name: getattr(self, name) for name in self.__dataclass_fields__ if name != "phases"
        }
        if self.within is not None:
            figures["sure"] = self.sure
        if self.carbon_g is not None:
            figures |= zip(
                ("carbon_g", "carbon_low_g", "carbon_high_g"), self.carbon_g, strict=True
            )
        figures["phases"] = [
            {name: _plain(getattr(phase, name)) for name in phase.__dataclass_fields__}
            for phase in self.phases
        ]
        return {name: _plain(value) for name, value in figures.items()}


class Profile:
    """Rows of a run in the order in which they happened.

    What comes before the first row of :data:`MAIN` happens once. Any other phase comes back as it
    did: after each epoch, after each few, several times an epoch.

    Args:
        rows: What was seen.
        pieces: Rows of :data:`MAIN` and work 1 that make an epoch.

    Raises:
        UserError: There is no row of :data:`MAIN`, or a row took no time.

    Example:
        >>> rows = [Row(phase="epoch", duration_s=10.0 + i % 2, gross_j=2000.0 + 100 * (i % 2))
        ...     for i in range(6)]
        >>> forecast = Profile(rows).forecast(100)
        >>> round(forecast.gross_j / 205_000, 1), round(forecast.spent_fraction, 2)
        (1.0, 0.06)
    """

    def __init__(self, rows: Sequence[Row], pieces: float = 1.0) -> None:
        first = next((i for i, row in enumerate(rows) if row.phase == MAIN), None)
        if first is None:
            raise UserError(
                "nothing to forecast from",
                why="no epoch was seen",
                hint="profile at least one, or mark its steps",
            )
        if not all(row.duration_s > 0 for row in rows):
            raise UserError("a row has no positive duration", hint="give durations in seconds")
        self.rows, self.pieces = tuple(rows), pieces
        self._first = first
        self._stop_s = np.cumsum([row.duration_s for row in rows])

    @property
    def epochs_seen(self) -> float:
        """How many epochs the profile has."""
        return sum(row.work for row in self.rows if row.phase == MAIN) / self.pieces

    @property
    def spent_j(self) -> float:
        """The energy of all rows; NaN when none was measured."""
        known = [row.gross_j for row in self.rows if math.isfinite(row.gross_j)]
        return math.fsum(known) if known else math.nan

    def forecast(
        self,
        epochs: float,
        *,
        within: float | None = None,
        carbon_intensity_g_per_kwh: float | None = None,
        pue: float = 1.0,
    ) -> Forecast:
        """What so many epochs take, from the first on.

        The errors of the phases are added, since what makes one of them dearer, as a machine that
        warms, makes the others dearer too. The sensors' scale is common to all and joins by the
        root of the sum of squares (GUM 5.1.2). The edges of the rows are part of their scatter
        already; where the scatter of a few rows is small by chance they are the interval's floor.

        Args:
            epochs: Positive.
            within: Relative half-width that would be narrow enough; see :attr:`Forecast.sure`.
            carbon_intensity_g_per_kwh: Of the electricity.
            pue: See :func:`~joulelab.carbon.quantities.carbon_g`.

        Raises:
            UserError: ``epochs`` or ``within`` is not positive, or SciPy is not installed.
        """
        load_scipy()
        if not epochs > 0:
            raise UserError(f"epochs is {epochs}", why="it must be positive")
        if within is not None and not within > 0:
            raise UserError(f"within is {within}", why="it must be positive, as 0.02 for 2 %")
        energies, durations, phases = [], [], []
        edge_j = 0.0
        for phase in dict.fromkeys(row.phase for row in self.rows[self._first :]):
            positions = [
                i for i, row in enumerate(self.rows) if i >= self._first and row.phase == phase
            ]
            count = self._count(phase, positions, epochs)
            energy, duration = (self._total(positions, count, name) for name in _QUANTITIES)
            energies.append(energy)
            durations.append(duration)
            edge_j = math.hypot(edge_j, self._edge_j(positions, count))
            phases.append(
                PhaseForecast(
                    phase=phase,
                    count=count / self.pieces if phase == MAIN else count,
                    gross_j=energy.value,
                    duration_s=duration.value,
                )
            )
        once = self.rows[: self._first]
        once_j = math.fsum(row.gross_j for row in once)
        time = _sum(durations, math.fsum(row.duration_s for row in once))
        total = _widened(_sum(energies, once_j), COVERAGE_FACTOR * edge_j)
        gain = max((row.gain_uncertainty for row in self.rows), default=0.0)
        gross = _widened_too(total, COVERAGE_FACTOR * gain * total.value)
        leading = total if math.isfinite(total.value) else time
        return Forecast(
            epochs=epochs,
            epochs_seen=self.epochs_seen,
            gross_j=gross.value,
            gross_low_j=gross.low,
            gross_high_j=gross.high,
            duration_s=time.value,
            duration_low_s=time.low,
            duration_high_s=time.high,
            spent_j=self.spent_j,
            spent_fraction=min(1.0, leading.seen / leading.value),
            uncertainty=(leading.high - leading.low) / 2 / leading.value,
            startup=max(energies[0].startup, durations[0].startup),
            phases=tuple(phases),
            within=within,
            carbon_intensity_g_per_kwh=carbon_intensity_g_per_kwh,
            pue=pue,
        )

    def forecast_between(self, low: float, epochs: float, high: float, **further: Any) -> Forecast:
        """What a number of epochs takes that is itself only known to lie between two ends.

        The ends of the interval are those of the fewest and of the most epochs.

        Args:
            low: The fewest epochs.
            epochs: The likely number.
            high: The most epochs.
            **further: As for :meth:`forecast`.
        """
        fewest, likely, most = (self.forecast(count, **further) for count in (low, epochs, high))
        return replace(
            likely,
            gross_low_j=fewest.gross_low_j,
            gross_high_j=most.gross_high_j,
            duration_low_s=fewest.duration_low_s,
            duration_high_s=most.duration_high_s,
        )

    def _total(self, positions: Sequence[int], count: float, quantity: str) -> Total:
        """One phase's sum of a quantity; rows in which it was not measured are still to come."""
        rows = [self.rows[i] for i in positions]
        values = np.array([getattr(row, quantity) for row in rows])
        known = np.isfinite(values) & (values > 0)
        if not known.any():
            return Total(math.nan, math.nan, math.nan, math.nan, 0)
        return forecast_total(
            values[known],
            self._stop_s[positions][known],
            np.array([row.duration_s for row in rows])[known],
            count,
            np.array([row.work for row in rows])[known],
        )

    def _count(self, phase: str, positions: Sequence[int], epochs: float) -> float:
        """How many pieces of a phase there are in so many epochs."""
        if phase == MAIN:
            return epochs * self.pieces
        done = np.cumsum([row.work * (row.phase == MAIN) for row in self.rows]) / self.pieces
        after = sorted({max(1, round(float(done[i]))) for i in positions})
        period = median([later - earlier for earlier, later in pairwise(after)] or after)
        times = max(0, math.floor((epochs - after[0]) / period) + 1)
        return times * len(positions) / len(after)

    def _edge_j(self, positions: Sequence[int], count: float) -> float:
        """Standard uncertainty of a phase's energy from the edges of its rows alone."""
        edges_j = [self.rows[i].edge_uncertainty_j for i in positions]
        work = sum(self.rows[i].work for i in positions)
        return math.hypot(*edges_j) * count / work


_QUANTITIES = ("gross_j", "duration_s")


def _sum(totals: Iterable[Total], once: float) -> Total:
    totals = list(totals)
    value, low, high, seen = (
        once + math.fsum(getattr(total, name) for total in totals)
        for name in ("value", "low", "high", "seen")
    )
    return Total(value, low, high, seen, 0)


def _widened(total: Total, least: float) -> Total:
    """At least so far to either side."""
    low, high = min(total.low, total.value - least), max(total.high, total.value + least)
    return Total(total.value, low, high, total.seen, total.startup)


def _widened_too(total: Total, more: float) -> Total:
    """By the root of the sum of squares."""
    low = total.value - math.hypot(total.value - total.low, more)
    high = total.value + math.hypot(total.high - total.value, more)
    return Total(total.value, low, high, total.seen, total.startup)


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
