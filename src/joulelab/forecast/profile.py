"""Forecast the energy and time of a whole run from a short profile of it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import pairwise
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from joulelab import format as fmt
from joulelab.carbon.costs import carbon_g
from joulelab.energy.energy import Energy
from joulelab.errors import UserError
from joulelab.forecast.series import Total, forecast_total, load_scipy
from joulelab.uncertain import COVERAGE_FACTOR

MAIN = "epoch"
"""The phase that a run repeats, whole or in sections."""


class Row(NamedTuple):
    """A measured piece of a run: :data:`MAIN` or another phase, with its work.

    Work is the size relative to a typical piece of the phase. The gain uncertainty (relative) is
    one common error of all rows; that of the edges is independent. Both are standard uncertainties.
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
        gain = common_j / gross_j if gross_j > 0 else 0.0
        return cls(phase, energy.duration_s, gross_j, work, gain, edge_j)

    def less(self, inner: Row) -> Row:
        """Subtract a row that lies within this one."""
        return self._replace(
            duration_s=self.duration_s - inner.duration_s,
            gross_j=self.gross_j - inner.gross_j,
            gain_uncertainty=max(self.gain_uncertainty, inner.gain_uncertainty),
            edge_uncertainty_j=math.hypot(self.edge_uncertainty_j, inner.edge_uncertainty_j),
        )


@dataclass(frozen=True, slots=True)
class PhaseForecast:
    """How often a phase happens in the whole run, and its energy and time there."""

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
        if self.carbon_intensity_g_per_kwh is None:
            return None
        per_j = carbon_g(1.0, self.carbon_intensity_g_per_kwh, pue=self.pue)
        return self.gross_j * per_j, self.gross_low_j * per_j, self.gross_high_j * per_j

    def __str__(self) -> str:
        """Format energy, time and carbon with their intervals on one line."""
        low, high = fmt.duration(self.duration_low_s), fmt.duration(self.duration_high_s)
        parts = [f"{fmt.duration(self.duration_s)} (95 % CI {low} to {high})"]
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
        phases = self.phases if len(self.phases) > 1 else ()
        return [seen] + [
            f"{one.count:g} x {one.phase}: {fmt.quantity(one.gross_j, 'J')}, "
            f"{fmt.duration(one.duration_s)}"
            for one in phases
        ]

    def to_json(self) -> dict[str, Any]:
        """Return every value under its attribute's name, with ``None`` for NaN."""
        data = {one.name: getattr(self, one.name) for one in fields(self)}
        data["phases"] = [asdict(phase) for phase in self.phases]
        if self.within is not None:
            data["sure"] = self.sure
        if self.carbon_g is not None:
            data |= zip(("carbon_g", "carbon_low_g", "carbon_high_g"), self.carbon_g, strict=True)
        plain: dict[str, Any] = fmt.finite_or_none(data)
        return plain


class Profile:
    """Measured rows of a run, in order of time; ``pieces`` of :data:`MAIN` and work 1 per epoch.

    Rows before the first row of :data:`MAIN` happen once. Every other phase is expected to
    return as it did so far: after each epoch, after every few, or several times per epoch.

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
            hint = "measure at least one, or mark its steps"
            raise UserError("nothing to forecast from", why="no epoch was measured", hint=hint)
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
            own = [i for i, row in enumerate(self.rows) if i >= self._first and row.phase == phase]
            count = self._count(phase, own, epochs)
            energy = self._total(own, count, "gross_j")
            duration = self._total(own, count, "duration_s")
            energies.append(energy)
            durations.append(duration)
            edges_j = (self.rows[i].edge_uncertainty_j for i in own)
            work = sum(self.rows[i].work for i in own)
            edge_j = math.hypot(edge_j, math.hypot(*edges_j) * count / work)
            shown = count / self.pieces if phase == MAIN else count
            phases.append(PhaseForecast(phase, shown, energy.value, duration.value))
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
        """Forecast a run of a likely number of epochs, at least ``low`` and at most ``high``."""
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
        values = np.array([getattr(self.rows[i], quantity) for i in positions])
        known = np.array(positions)[np.isfinite(values) & (values > 0)]
        if not known.size:
            return Total(math.nan, math.nan, math.nan, math.nan, 0)
        values, durations_s, work = (
            np.array([getattr(self.rows[i], name) for i in known])
            for name in (quantity, "duration_s", "work")
        )
        return forecast_total(values, self._stop_s[known], durations_s, count, work)

    def _count(self, phase: str, positions: Sequence[int], epochs: float) -> float:
        """Count the pieces of a phase in this many epochs."""
        if phase == MAIN:
            return epochs * self.pieces
        done = np.cumsum([row.work * (row.phase == MAIN) for row in self.rows]) / self.pieces
        after = sorted({max(1, round(float(done[i]))) for i in positions})
        period = median([later - earlier for earlier, later in pairwise(after)] or after)
        times = max(0, math.floor((epochs - after[0]) / period) + 1)
        return times * len(positions) / len(after)


def _sum(totals: Iterable[Total], once: float) -> Total:
    """Add up totals, and what happens once."""
    totals = list(totals)
    value, low, high, seen = (
        once + math.fsum(getattr(total, name) for total in totals)
        for name in ("value", "low", "high", "seen")
    )
    return Total(value, low, high, seen, 0)
