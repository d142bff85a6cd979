"""Forecast the energy and time of a whole run from a short profile of it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from statistics import median
from typing import Any

import numpy as np

from joulelab import format as fmt
from joulelab.carbon.costs import carbon_g
from joulelab.energy.energy import Energy
from joulelab.errors import UserError
from joulelab.forecast.series import Total, forecast_total, load_scipy
from joulelab.uncertain import COVERAGE_FACTOR

MAIN = "epoch"
"""The phase that a run repeats, whole or in sections."""

_QUANTITIES = ("gross_j", "duration_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A measured piece of a run.

    Attributes:
        phase: :data:`MAIN`, or another phase, for example ``"validate"`` or ``"checkpoint"``.
        duration_s: Duration in seconds.
        gross_j: Gross energy in joules; NaN if it was not measured.
        work: Size relative to a typical piece of its phase.
        gain_uncertainty: Relative standard uncertainty of the sensors' scale, which is the same
            error in every row.
        edge_uncertainty_j: Standard uncertainty that is independent in every row.
    """

    phase: str
    duration_s: float
    gross_j: float
    work: float = 1.0
    gain_uncertainty: float = 0.0
    edge_uncertainty_j: float = 0.0

    @classmethod
    def of(cls, phase: str, energy: Energy, work: float = 1.0) -> Row:
        """Make a row from the energy of a span."""
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
        """Subtract a row that lies within this one."""
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
    """Contribution of one phase to a forecast.

    Attributes:
        phase: Name of the phase.
        count: Number of times it happens in the whole run.
        gross_j: Gross energy in the whole run.
        duration_s: Time in the whole run.
    """

    phase: str
    count: float
    gross_j: float
    duration_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """Energy and time of a whole run with 95 % prediction intervals. Unknown values are NaN.

    Attributes:
        epochs: Number of epochs of the whole run.
        epochs_seen: Number of epochs in the profile; below 1 within the first epoch.
        gross_j: Gross energy of the whole run, including the profile.
        gross_low_j: Lower end of its interval, with the uncertainty of the sensors' scale.
        gross_high_j: Upper end.
        duration_s: Time of the whole run, as far as spans cover it.
        duration_low_s: Lower end of its interval.
        duration_high_s: Upper end.
        spent_j: Energy of the profile.
        spent_fraction: Fraction of the forecast energy that is spent; of the time if no energy
            was measured.
        uncertainty: Relative half-width of the energy interval without the uncertainty of the
            sensors' scale, which a longer profile does not reduce; of the time interval if no
            energy was measured.
        within: Requested upper limit of ``uncertainty``; ``None`` if there is none.
        startup: Number of first rows that differ from the rest and are counted once.
        phases: Contribution of each phase.
        carbon_intensity_g_per_kwh: Carbon intensity of the electricity; ``None`` if not given.
        pue: Power usage effectiveness of the site.
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
        """Whether the uncertainty is within the requested limit."""
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

    def __str__(self) -> str:
        """Format energy, time and carbon with their intervals on one line.

        Example:
            >>> rows = [Row(phase="epoch", duration_s=60.0, gross_j=30e3) for _ in range(4)]
            >>> print(Profile(rows).forecast(4, carbon_intensity_g_per_kwh=400.0))
            4 epochs: 120 kJ (95 % CI 120–120 kJ), 4 min (95 % CI 4 min to 4 min), \
13.3 g (95 % CI 13.3–13.3 g) CO2e
        """
        time, low, high = map(
            fmt.duration, (self.duration_s, self.duration_low_s, self.duration_high_s)
        )
        parts = [f"{time} (95 % CI {low} to {high})"]
        if math.isfinite(self.gross_j):
            energy = fmt.with_interval(self.gross_j, self.gross_low_j, self.gross_high_j, "J")
            parts.insert(0, energy)
            if self.carbon_g is not None:
                parts.append(f"{fmt.with_interval(*self.carbon_g, 'g')} CO2e")
        return f"{self.epochs:g} epochs: {', '.join(parts)}"

    def details(self) -> list[str]:
        """Describe the profile and each phase, one line each."""
        seen = (
            f"{self.epochs_seen:.3g} epochs measured, {fmt.percent(self.spent_fraction)} of the run"
        )
        if self.startup:
            seen += f"; {fmt.count(self.startup, 'start-up piece')} counted once"
        if len(self.phases) == 1:
            return [seen]
        lines = [seen]
        for phase in self.phases:
            values = [fmt.quantity(phase.gross_j, "J"), fmt.duration(phase.duration_s)]
            lines.append(f"{phase.count:g} x {phase.phase}: {', '.join(values)}")
        return lines

    def to_json(self) -> dict[str, Any]:
        """Return every value under its attribute's name, with ``None`` for NaN."""
        data = asdict(self)
        phases = data.pop("phases")
        if self.within is not None:
            data["sure"] = self.sure
        if self.carbon_g is not None:
            data |= zip(("carbon_g", "carbon_low_g", "carbon_high_g"), self.carbon_g, strict=True)
        plain: dict[str, Any] = fmt.finite_or_none(data | {"phases": phases})
        return plain


class Profile:
    """Measured rows of a run, in order of time.

    Rows before the first row of :data:`MAIN` happen once. Every other phase is expected to
    return as it did so far: after each epoch, after every few, or several times per epoch.

    Args:
        rows: Measured pieces.
        pieces: Number of :data:`MAIN` rows of work 1 per epoch.

    Raises:
        UserError: There is no :data:`MAIN` row, or a row has no positive duration.

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
                why="no epoch was measured",
                hint="measure at least one, or mark its steps",
            )
        if not all(row.duration_s > 0 for row in rows):
            raise UserError("a row has no positive duration", hint="give durations in seconds")
        self.rows, self.pieces = tuple(rows), pieces
        self._first = first
        self._stop_s = np.cumsum([row.duration_s for row in rows])

    @property
    def epochs_seen(self) -> float:
        """Number of measured epochs."""
        return sum(row.work for row in self.rows if row.phase == MAIN) / self.pieces

    @property
    def spent_j(self) -> float:
        """Energy of all rows; NaN if none was measured."""
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
        """Forecast a run of this many epochs, counted from the first.

        The errors of the phases are added, because a cause such as a warming machine raises all of
        them. The uncertainty of the sensors' scale is common to all phases and is combined as the
        root of the sum of squares (GUM 5.1.2). The uncertainties at the edges of the rows are part
        of their scatter; they are also the least half-width, because the scatter of a few rows may
        be small by chance.

        Args:
            epochs: Length of the run, positive.
            within: Relative half-width that is narrow enough; see :attr:`Forecast.sure`.
            carbon_intensity_g_per_kwh: Carbon intensity of the electricity.
            pue: Power usage effectiveness of the site.

        Raises:
            UserError: ``epochs`` or ``within`` is not positive, or SciPy is not installed.
        """
        load_scipy()
        if not epochs > 0:
            raise UserError(f"epochs is {epochs}", why="it must be positive")
        if within is not None and not within > 0:
            raise UserError(f"within is {within}", why="it must be positive, for example 0.02")
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
        time = _sum(durations, math.fsum(row.duration_s for row in once))
        total = _sum(energies, math.fsum(row.gross_j for row in once))
        least_j = COVERAGE_FACTOR * edge_j
        total = replace(
            total,
            low=min(total.low, total.value - least_j),
            high=max(total.high, total.value + least_j),
        )
        gain = max((row.gain_uncertainty for row in self.rows), default=0.0)
        gain_j = COVERAGE_FACTOR * gain * total.value
        leading = total if math.isfinite(total.value) else time
        return Forecast(
            epochs=epochs,
            epochs_seen=self.epochs_seen,
            gross_j=total.value,
            gross_low_j=total.value - math.hypot(total.value - total.low, gain_j),
            gross_high_j=total.value + math.hypot(total.high - total.value, gain_j),
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

    def forecast_between(self, low: float, epochs: float, high: float, **options: Any) -> Forecast:
        """Forecast a run whose number of epochs is itself only known as an interval.

        The ends of the forecast's intervals are those of the fewest and of the most epochs.

        Args:
            low: Fewest epochs.
            epochs: Most likely number of epochs.
            high: Most epochs.
            **options: Options of :meth:`forecast`.
        """
        fewest, likely, most = (self.forecast(count, **options) for count in (low, epochs, high))
        return replace(
            likely,
            gross_low_j=fewest.gross_low_j,
            gross_high_j=most.gross_high_j,
            duration_low_s=fewest.duration_low_s,
            duration_high_s=most.duration_high_s,
        )

    def _total(self, positions: Sequence[int], count: float, quantity: str) -> Total:
        """Forecast one phase's sum; rows that were not measured count as still to come."""
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
        """Count the pieces of a phase in this many epochs."""
        if phase == MAIN:
            return epochs * self.pieces
        done = np.cumsum([row.work * (row.phase == MAIN) for row in self.rows]) / self.pieces
        after = sorted({max(1, round(float(done[i]))) for i in positions})
        period = median([later - earlier for earlier, later in pairwise(after)] or after)
        times = max(0, math.floor((epochs - after[0]) / period) + 1)
        return times * len(positions) / len(after)

    def _edge_j(self, positions: Sequence[int], count: float) -> float:
        """Compute the standard uncertainty of a phase's energy from the edges of its rows."""
        edges_j = [self.rows[i].edge_uncertainty_j for i in positions]
        work = sum(self.rows[i].work for i in positions)
        return math.hypot(*edges_j) * count / work


def _sum(totals: Iterable[Total], once: float) -> Total:
    """Add up totals, and what happens once."""
    totals = list(totals)
    value, low, high, seen = (
        once + math.fsum(getattr(total, name) for total in totals)
        for name in ("value", "low", "high", "seen")
    )
    return Total(value, low, high, seen, 0)
