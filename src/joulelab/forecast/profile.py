"""Forecast the energy and time of a whole run from a short profile of it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from itertools import pairwise
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from joulelab import format as fmt
from joulelab.carbon.costs import carbon_g
from joulelab.energy.energy import Energy
from joulelab.errors import UserError
from joulelab.forecast.series import (
    ALONE,
    BRIEF,
    BRIEF_S,
    SHARED,
    Prior,
    Total,
    forecast_total,
    load_scipy,
)
from joulelab.uncertain import COVERAGE_FACTOR, is_determined

MAIN = "epoch"
"""The phase that a run repeats, whole or in sections."""

OTHERS_USE = 0.2
"""If other programs take a larger part of a component, the machine counts as shared with them: what
they do less or more later changes the energy by as much."""

LONGEST_S = 1e10
"""A row that lasts 300 years is a mistake."""


class Row(NamedTuple):
    """A measured piece of a run: :data:`MAIN` or another phase, with its work.

    Work is the size relative to a typical piece of the phase. The gain uncertainty (relative) is
    one common error of all rows; that of the edges is independent. Both are standard uncertainties.
    A row is shared if other programs are known to have used much of the machine.
    """

    phase: str
    duration_s: float
    gross_j: float
    work: float = 1.0
    gain_uncertainty: float = 0.0
    edge_uncertainty_j: float = 0.0
    is_shared: bool = False

    @classmethod
    def of(cls, phase: str, energy: Energy, work: float = 1.0) -> Row:
        """Make a row from the energy of a span."""
        parts = energy.components.values()
        edge_j = math.hypot(*(part.edge_uncertainty_j for part in parts))
        whole_j = math.hypot(*(part.uncertainty_j for part in parts))
        common_j = math.sqrt(max(0.0, whole_j**2 - edge_j**2))
        gross_j = energy.gross_j
        gain = common_j / gross_j if gross_j > 0 else 0.0
        shares = (part.share for part in parts if part.share is not None)
        is_shared = any(share.fraction < 1 - OTHERS_USE for share in shares)
        return cls(phase, energy.duration_s, gross_j, work, gain, edge_j, is_shared)

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

    def __str__(self) -> str:
        time, energy = fmt.duration(self.duration_s), fmt.quantity(self.gross_j, "J")
        text = f"{self.phase}: {self.count:g} times, {time} and {energy} in total"
        if not self.count > 0:
            return text
        time = fmt.duration(self.duration_s / self.count)
        energy = fmt.quantity(self.gross_j / self.count, "J")
        return f"{text}, {time} and {energy} each"


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """Energy and time of a whole run with 95 % prediction intervals. Unknown values are NaN.

    The intervals are for the totals that the same sensors will report, as long as the machine's
    other work goes on as in the profile. They begin above what the profile took.

    Attributes:
        epochs: Number of epochs of the whole run.
        epochs_seen: Number of epochs in the profile; below 1 within the first epoch.
        gross_j: Gross energy of the whole run, including the profile.
        gross_low_j: Lower end of its interval.
        gross_high_j: Upper end.
        duration_s: Time of the whole run, as far as spans cover it.
        duration_low_s: Lower end of its interval.
        duration_high_s: Upper end.
        spent_j: Energy of the profile.
        spent_fraction: Fraction of the forecast energy that is spent; of the time if no energy
            was measured.
        uncertainty: Relative half-width of the energy interval; of the time interval if no energy
            was measured.
        scale_uncertainty: By how much the sensors' scale may be off, relative (95 %). It is the
            same error in the profile and in the rest, so it is not in the interval.
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
    scale_uncertainty: float
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
    def is_determined(self) -> bool:
        """Whether the total is known within a factor of 10."""
        if math.isnan(self.gross_j):
            return is_determined(self.duration_s, self.duration_low_s, self.duration_high_s)
        return is_determined(self.gross_j, self.gross_low_j, self.gross_high_j)

    @property
    def gross_most_j(self) -> float:
        """Upper end of the energy's interval; infinite if the profile does not determine it."""
        return self.gross_high_j if self.is_determined else math.inf

    @property
    def carbon_g(self) -> tuple[float, float, float] | None:
        """Grams of CO2-equivalent and the ends of their interval; ``None`` without an intensity.

        The interval is that of the energy: the intensity is taken as exact.
        """
        if self.carbon_intensity_g_per_kwh is None:
            return None
        per_j = carbon_g(1.0, self.carbon_intensity_g_per_kwh, pue=self.pue)
        return self.gross_j * per_j, self.gross_low_j * per_j, self.gross_most_j * per_j

    def __str__(self) -> str:
        """Format energy, time and carbon with their intervals on one line."""
        of = _count_epochs(self.epochs)
        low, high = fmt.duration(self.duration_low_s), fmt.duration(self.duration_high_s)
        if not self.is_determined:
            least = [low]
            if math.isfinite(self.gross_j):
                least.insert(0, fmt.quantity(self.gross_low_j, "J"))
            seen = _count_epochs(self.epochs_seen)
            return f"{of}: {fmt.undetermined(seen)}; at least {fmt.join_words(least)}"
        parts = [fmt.duration(self.duration_s)]
        if low != high:
            parts[0] += f" (95 % CI {low} to {high})"
        if math.isfinite(self.gross_j):
            parts.insert(0, fmt.joules(self.gross_j, self.gross_low_j, self.gross_high_j))
            if self.carbon_g is not None:
                parts.append(f"{fmt.with_interval(*self.carbon_g, 'g')} CO2e")
        return f"{of}: {', '.join(parts)}"

    def details(self) -> list[str]:
        """Describe the profile and each phase, one line each."""
        seen = (
            f"{_count_epochs(self.epochs_seen)} measured, {fmt.percent(self.spent_fraction)} "
            "of the run"
        )
        if self.startup:
            seen += f"; {fmt.count(self.startup, 'start-up piece')} counted once"
        lines = [seen]
        if self.scale_uncertainty and math.isfinite(self.gross_j):
            scale = fmt.percent(self.scale_uncertainty, 2)
            lines.append(f"interval of what these sensors will report; their scale is ±{scale}")
        phases = self.phases if len(self.phases) > 1 else ()
        return lines + [str(one) for one in phases]

    def to_json(self) -> dict[str, Any]:
        """Return every value under its attribute's name; ``None`` if it is not determined."""
        data = {one.name: getattr(self, one.name) for one in fields(self)}
        data["phases"] = [asdict(phase) for phase in self.phases]
        data["is_determined"] = self.is_determined
        if not self.is_determined:
            data |= {"gross_high_j": self.gross_most_j, "uncertainty": math.inf}
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
        if not all(0 < row.duration_s < LONGEST_S for row in rows):
            raise UserError("a row has no possible duration", hint="give durations in seconds")
        self.rows, self.pieces = tuple(rows), pieces
        self._first = first

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
        them. The uncertainties at the edges of the rows are part of their scatter; they are also
        the least half-width, because the scatter of a few rows may be small by chance.

        Raises:
            UserError: ``epochs`` or ``within`` is not positive, or SciPy is not installed.
        """
        load_scipy()
        if not epochs > 0:
            raise UserError(f"epochs is {epochs}", why="it must be positive")
        if within is not None and not within > 0:
            raise UserError(f"within is {within}", why="it must be positive, for example 0.02")
        energies, durations, phases = [], [], []
        for phase in dict.fromkeys(row.phase for row in self.rows[self._first :]):
            own = [i for i, row in enumerate(self.rows) if i >= self._first and row.phase == phase]
            count = self._count(phase, own, epochs)
            energy = self._total(own, count, "gross_j")
            duration = self._total(own, count, "duration_s")
            energies.append(self._with_edges(energy, own))
            durations.append(duration)
            shown = count / self.pieces if phase == MAIN else count
            phases.append(PhaseForecast(phase, shown, energy.value, duration.value))
        once = self.rows[: self._first]
        time = _sum(durations, math.fsum(row.duration_s for row in once))
        total = _sum(energies, math.fsum(row.gross_j for row in once))
        gain = max((row.gain_uncertainty for row in self.rows), default=0.0)
        leading = total if math.isfinite(total.value) else time
        return Forecast(
            epochs=epochs,
            epochs_seen=self.epochs_seen,
            gross_j=total.value,
            gross_low_j=total.low,
            gross_high_j=total.high,
            duration_s=time.value,
            duration_low_s=time.low,
            duration_high_s=time.high,
            spent_j=self.spent_j,
            spent_fraction=min(1.0, leading.seen / leading.value),
            uncertainty=(leading.high - leading.low) / 2 / leading.value,
            scale_uncertainty=COVERAGE_FACTOR * gain,
            startup=max(energies[0].startup, durations[0].startup),
            phases=tuple(phases),
            within=within,
            carbon_intensity_g_per_kwh=carbon_intensity_g_per_kwh,
            pue=pue,
        )

    def forecast_between(self, low: float, epochs: float, high: float, **options: Any) -> Forecast:
        """Forecast a run of a likely number of epochs, at least ``low`` and at most ``high``."""
        fewest, likely, most = (self.forecast(count, **options) for count in (low, epochs, high))
        ends = fewest.gross_low_j, most.gross_high_j, likely.gross_j
        if math.isnan(likely.gross_j):
            ends = fewest.duration_low_s, most.duration_high_s, likely.duration_s
        return replace(
            likely,
            gross_low_j=fewest.gross_low_j,
            gross_high_j=most.gross_high_j,
            duration_low_s=fewest.duration_low_s,
            duration_high_s=most.duration_high_s,
            uncertainty=(ends[1] - ends[0]) / 2 / ends[2],
        )

    def _total(self, positions: Sequence[int], count: float, quantity: str) -> Total:
        """Forecast one phase's sum; rows that were not measured count as still to come."""
        values = np.array([getattr(self.rows[i], quantity) for i in positions])
        known = np.array(positions)[np.isfinite(values) & (values > 0)]
        if not known.size:
            return Total(math.nan, math.nan, math.nan, math.nan, 0)
        values, work = (
            np.array([getattr(self.rows[i], name) for i in known]) for name in (quantity, "work")
        )
        return forecast_total(values, count, work, self._prior)

    @cached_property
    def _prior(self) -> Prior:
        """What is assumed of the rows' scatter."""
        shared_s = math.fsum(row.duration_s for row in self.rows if row.is_shared)
        if 2 * shared_s >= math.fsum(row.duration_s for row in self.rows):
            return SHARED
        typical_s = median(row.duration_s for row in self.rows if row.phase == MAIN)
        return BRIEF if typical_s < BRIEF_S else ALONE

    def _with_edges(self, energy: Total, positions: Sequence[int]) -> Total:
        """Widen the interval of what is left to the uncertainty of the rows' edges."""
        rest_j = energy.value - energy.seen
        if not rest_j > 0:
            return energy
        edge_j = math.hypot(*(self.rows[i].edge_uncertainty_j for i in positions))
        factor = math.exp(min(COVERAGE_FACTOR * edge_j / energy.seen, 1.0))
        return replace(
            energy,
            low=min(energy.low, energy.seen + rest_j / factor),
            high=max(energy.high, energy.seen + rest_j * factor),
        )

    def _count(self, phase: str, positions: Sequence[int], epochs: float) -> float:
        """Count the pieces of a phase in this many epochs."""
        if phase == MAIN:
            return epochs * self.pieces
        done = np.cumsum([row.work * (row.phase == MAIN) for row in self.rows]) / self.pieces
        found = Counter(max(1, round(float(done[i]))) for i in positions)
        after = sorted(found)
        period = median([later - earlier for earlier, later in pairwise(after)] or after)
        times = max(0, math.floor((epochs - after[0]) / period) + 1)
        return times * median(found.values())


def _count_epochs(epochs: float) -> str:
    text = f"{epochs:,.0f}" if float(epochs).is_integer() else fmt.number(epochs)
    return f"{text} epoch{'' if epochs == 1 else 's'}"


def _sum(totals: Iterable[Total], once: float) -> Total:
    """Add up totals, and what happens once."""
    totals = list(totals)
    value, low, high, seen = (
        once + math.fsum(getattr(total, name) for total in totals)
        for name in ("value", "low", "high", "seen")
    )
    return Total(value, low, high, seen, 0)
