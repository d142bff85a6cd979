"""The search over settings of several knobs."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from joulelab.arrays import Bools, Floats
from joulelab.errors import UserError
from joulelab.format import percent
from joulelab.tune.confirmation import LOOKS, Confirmation, confirm
from joulelab.tune.knobs import settings_text
from joulelab.tune.level_search import LevelSearch
from joulelab.tune.probes import Knob, Probe, Search, Settings
from joulelab.tune.proposals import Cell, propose
from joulelab.tune.result import Estimate, FrontPoint, Result
from joulelab.tune.surface import Scales, Surface, coordinates

TO_TARGET = "energy-to-target"
OBJECTIVES = ("energy", "edp", TO_TARGET)
MOST_CELLS = 1500
"""If there are more combinations of levels, Optuna proposes which ones are considered."""
MOST_PROBES = 60
LEAST_PROBES = 12
"""Before this, the model is too uncertain to stop."""
LEAST_FREEDOM = 6
"""Degrees of freedom of the noise if no settings are measured twice; it is known in advance."""
MOST_PER_CELL = 4
BLOCK = 5
"""Each block of this many probes has one of the baseline, at a random position."""
HORIZON_PROBES = 1000.0
"""Work that follows the search, in probes: a probe that gains less than a probe is not made."""
MISFIT = 1.3
"""Scale of an energy's uncertainty, for what the model lacks: without it, intervals of recorded
trainings contain the true saving in 85 % of cases."""
CAUTION = 2.0
"""Scale of the model's uncertainty of an improvement: its lengths are estimated, too."""
RUN_SCALES = Scales((0.05, 0.1, 0.2, 0.4), 0.1, (0.0,))
"""How much the work to a target differs between runs of the same settings."""
NEVER_REACHED = 2.0
"""A run that missed the target counts as this times the most work of any that reached it."""
ONE_SIDED, TWO_SIDED = NormalDist().inv_cdf(0.95), NormalDist().inv_cdf(0.975)
"""Standard deviations of 95 % confidence and of a 95 % interval."""


class _Model(NamedTuple):
    """Logs of energy and time relative to the baseline, at each candidate.

    ``energy``, ``duration`` and ``objective`` are pairs of mean and standard deviation, widened
    for noise that is estimated from few measurements. ``base_energy`` and ``base_duration`` are
    those of the logs at the baseline, and ``covariances`` are those of the objective between the
    candidates.
    """

    cells: list[Cell]
    energy: tuple[Floats, Floats]
    duration: tuple[Floats, Floats]
    objective: tuple[Floats, Floats]
    covariances: Floats
    base_energy: tuple[float, float]
    base_duration: tuple[float, float]


class SettingsSearch:
    """Finds the settings of several knobs with the least energy within a slow-down.

    Used like :class:`~joulelab.tune.level_search.LevelSearch`. Energy and time are modelled as
    smooth over the settings (:mod:`~joulelab.tune.surface`), and the settings with the largest
    expected improvement within the bound are measured next (Gardner et al., Bayesian Optimization
    with Inequality Constraints, 2014). So most combinations need not be measured.

    For ``"energy-to-target"``, energy and time are those until a target is reached: those of a unit
    of work, for example an epoch, times the number of units. A limit changes the former only, so
    the latter is modelled over the other knobs alone.

    Args:
        knobs: What to change.
        max_slowdown: Accepted additional time, as a part of the baseline's; may be infinite.
        objective: What to minimise: ``"energy"``, ``"edp"`` for energy times time, or
            ``"energy-to-target"``.
        seed: Of all random choices; the same probes and seed give the same proposals and result.
        max_probes: Largest number of probes. Default: a third of the combinations for
            ``"energy-to-target"``, of which a probe is a training, otherwise at most
            :data:`MOST_PROBES`.
        cells: Combinations of levels that are possible. Default: all.

    Raises:
        UserError: The objective is unknown, or the slow-down is negative.
    """

    def __init__(
        self,
        knobs: Sequence[Knob],
        max_slowdown: float,
        *,
        objective: str = "energy",
        seed: int = 0,
        max_probes: int | None = None,
        cells: Sequence[Cell] | None = None,
    ) -> None:
        if objective not in OBJECTIVES:
            raise UserError(
                f"no objective {objective!r}", hint=f"choose one of {', '.join(OBJECTIVES)}"
            )
        if not max_slowdown >= 0:
            raise UserError(f"the slow-down {max_slowdown} is negative", hint="give 0 or more")
        self.knobs = tuple(knobs)
        self.max_slowdown = max_slowdown
        self.objective = objective
        self.probes: list[Probe] = []
        self._rng = np.random.default_rng(seed)
        self._base: Cell = tuple(knob.baseline for knob in knobs)
        size = math.prod(len(knob.levels) for knob in knobs)
        if cells is None and size <= MOST_CELLS:
            cells = list(itertools.product(*(knob.levels for knob in knobs)))
        self._cells = None if cells is None else list(cells)
        size = len(cells or ()) or size
        is_costly = objective == TO_TARGET
        usual = max(size // 3, 6) if is_costly else min(max(size, 12), MOST_PROBES)
        # Those that confirm the choice come last.
        self._reserve = 0 if is_costly else 2 * (LOOKS[-1] - 1)
        self.max_probes = max_probes or usual + self._reserve
        self._first = self._first_cells()
        self._next: Cell | None = None
        self._left_out: set[Cell] = set()
        self._baseline_turn = 0
        self._is_over = False

    def next(self) -> Settings | None:
        """Return the settings to measure next; ``None`` if the search is over."""
        count = len(self.probes)
        if self._is_over or count >= self.max_probes:
            return None
        if count < len(self._first):
            return self._settings(self._first[count])
        if self._next is None and count < self.max_probes - self._reserve:
            turn = (count - len(self._first)) % BLOCK
            if turn == 0:
                self._baseline_turn = int(self._rng.integers(BLOCK))
            self._next = self._best_improvement()
            is_turn = turn == self._baseline_turn and self._base not in self._left_out
            if self._next is not None and is_turn:
                self._next = self._base
        if self._next is None:
            self._next = self._to_confirm()
        self._is_over = self._next is None
        return None if self._next is None else self._settings(self._next)

    def add(self, probe: Probe) -> None:
        """Take the measurement of the settings that :meth:`next` returned last."""
        self.probes.append(probe)
        self._next = None

    def leave_out(self, settings: Settings) -> None:
        """Take that the settings that :meth:`next` returned last cannot be measured."""
        self._left_out.add(tuple(settings[knob.name] for knob in self.knobs))
        self._first = [cell for cell in self._first if cell not in self._left_out]
        self._next = None

    def result(self) -> Result:
        """Return the choice from the measurements so far."""
        model, has_reached, best = self._favourite()
        index = model.cells.index(self._base)
        reason = "no setting is significantly better than the baseline"
        confirmation = self._confirm(model.cells[best])
        if confirmation.is_better:
            index = best
            what = {"edp": "energy times time"}.get(self.objective, self.objective)
            reason = f"least {what.replace('-', ' ')}"
            if math.isfinite(self.max_slowdown):
                reason += f" within {percent(self.max_slowdown)} of the baseline's time"
        elif confirmation.missing:
            reason += (
                f"; {settings_text(self._settings(model.cells[best]))} may be, with more probes"
            )
        saving = _interval(model.energy, index)
        return Result(
            settings=self._settings(model.cells[index]),
            baseline=self._settings(self._base),
            saving=Estimate(1 - saving.value, 1 - saving.high, 1 - saving.low),
            slowdown=_interval(model.duration, index, less=1.0),
            probes=len(self.probes),
            front=self._front(model, has_reached),
            reason=reason,
        )

    def _favourite(self) -> tuple[_Model, Bools, int]:
        """Return the model at what was measured, what reached the target, and the best of it."""
        measured = list(dict.fromkeys(self._cell(probe) for probe in self.probes))
        has_reached = self._has_reached(measured)
        if not has_reached.any():
            raise UserError("no run reached the target", hint="choose a lower target")
        model = self._model(measured, with_failed=False)
        mean, deviation = model.objective
        index = measured.index(self._base)
        # Any of the settings could seem better by chance (Bonferroni's correction).
        enough = NormalDist().inv_cdf(1 - 0.05 / len(measured))
        is_better = (mean + enough * deviation < 0) | (not has_reached[index])
        is_better &= self._is_within_bound(model) & has_reached
        if is_better.any():
            index = int(np.argmin(np.where(is_better, mean, np.inf)))
        return model, has_reached, index

    def _confirm(self, cell: Cell) -> Confirmation:
        """Report whether the best settings are confirmed, and what to measure to find out.

        Of trainings to a target, of which each is a probe, the model alone decides.
        """
        if self.objective == TO_TARGET:
            return Confirmation(cell != self._base)
        choice, baseline = self._settings(cell), self._settings(self._base)
        return confirm(self.probes, choice, baseline, self.objective)

    def _to_confirm(self) -> Cell | None:
        """Return the settings to measure next to confirm the choice."""
        model, _, best = self._favourite()
        missing = self._confirm(model.cells[best]).missing
        cells = [tuple(one[knob.name] for knob in self.knobs) for one in missing]
        cells = [cell for cell in cells if cell not in self._left_out]
        return cells[int(self._rng.integers(len(cells)))] if cells else None

    def _first_cells(self) -> list[Cell]:
        """The baseline, then settings that cover the levels of every knob evenly."""
        count = len(self.knobs) + 1
        columns = []
        for knob in self.knobs:
            strata = (self._rng.permutation(count) + self._rng.random(count)) / count
            columns.append([knob.levels[int(part * len(knob.levels))] for part in strata])
        cells = dict.fromkeys([self._base, *zip(*columns, strict=True)])
        return [cell for cell in cells if self._cells is None or cell in self._cells]

    def _best_improvement(self) -> Cell | None:
        """The settings that are most worth measuring; ``None`` if none are worth their cost."""
        counts = Counter(map(self._cell, self.probes))
        candidates = list(dict.fromkeys([self._base, *counts, *self._candidates()]))
        model = self._model(candidates)
        mean, _ = model.objective
        known = np.array([cell in counts for cell in candidates])
        allowed = self._is_within_bound(model) & known & self._has_reached(candidates)
        best = int(np.argmin(np.where(allowed, mean, np.inf))) if allowed.any() else 0
        # Relative to the best: what both have in common, such as a batch size, is no improvement.
        common = model.covariances
        variances = np.diag(common) + common[best, best] - 2 * common[best]
        deviation = CAUTION * np.sqrt(np.maximum(variances, 0.0))
        gain = _expected_improvement(mean[best] - mean, deviation)
        if math.isfinite(self.max_slowdown):
            slower, unsure = model.duration
            room = math.log1p(self.max_slowdown) - slower
            gain = gain * _normal_cdf(room / np.maximum(unsure, 1e-6))
        done = np.array([counts[cell] >= MOST_PER_CELL for cell in candidates])
        done[best] = True
        done |= np.array([cell in self._left_out for cell in candidates])
        gain = np.where(done, 0.0, gain)
        index = int(np.argmax(gain))
        is_early = len(self.probes) < LEAST_PROBES
        is_worth = gain[index] * HORIZON_PROBES > (0 if is_early else 1)
        return candidates[index] if is_worth else None

    def _candidates(self) -> Sequence[Cell]:
        """All settings or, if there are too many, some of them or those that Optuna proposes."""
        if self._cells is not None:
            count = len(self._cells)
            chosen = (
                self._rng.permutation(count)[:MOST_CELLS] if count > MOST_CELLS else range(count)
            )
            return [self._cells[index] for index in chosen]
        model = self._model([self._cell(probe) for probe in self.probes])
        seed = int(self._rng.integers(2**31))
        excess = np.maximum(model.duration[0] - math.log1p(self.max_slowdown), -1.0)
        return propose(self.knobs, model.cells, model.objective[0], excess, seed)

    def _model(self, cells: Sequence[Cell], *, with_failed: bool = True) -> _Model:
        """Fit energy and time, and predict them at some settings relative to the baseline.

        Runs that missed the target count as long ones, so that similar settings are avoided; they
        distort the estimates for other settings, so the result is without them.
        """
        measured = [probe.settings for probe in self.probes]
        wanted = [self._settings(cell) for cell in (self._base, *cells)]
        points = coordinates(self.knobs, [*measured, *wanted])
        here, there = points[: len(measured)], points[len(measured) :]
        parts = {}
        for name, unit in (("energy", "j"), ("duration", "s")):
            values = np.array([getattr(probe, f"{name}_{unit}") for probe in self.probes])
            own = np.array([getattr(probe, f"{name}_uncertainty_{unit}") for probe in self.probes])
            variances = np.nan_to_num(own / values) ** 2
            parts[name] = Surface(here, np.log(values), Scales(), variances).predict(there)
        if self.objective == TO_TARGET:
            work = self._work(measured, wanted, with_failed=with_failed)
            parts = {name: (one[0] + work[0], one[1] + work[1]) for name, one in parts.items()}
        energy, duration = parts["energy"], parts["duration"]
        both = (energy[0] + duration[0], energy[1] + duration[1])
        freedom = max(len(measured) - len({self._cell(one) for one in self.probes}), LEAST_FREEDOM)
        wider = _student(TWO_SIDED, freedom) / TWO_SIDED
        relative = [
            _relative_to_first(*one, scale * wider)
            for one, scale in ((energy, MISFIT), (duration, 1.0), (both, MISFIT))
        ]
        return _Model(
            list(cells),
            relative[0],
            relative[1],
            relative[2] if self.objective == "edp" else relative[0],
            (both if self.objective == "edp" else energy)[1][1:, 1:],
            _first(*energy, MISFIT * wider),
            _first(*duration, wider),
        )

    def _work(
        self, measured: Sequence[Settings], wanted: Sequence[Settings], *, with_failed: bool
    ) -> tuple[Floats, Floats]:
        """Predict the log of the units of work to the target; limits do not change it."""
        units = np.array([probe.work_to_target for probe in self.probes])
        if np.isnan(units).any():
            raise UserError("energy to target needs the work to the target of each probe")
        reached = np.isfinite(units)
        most = units[reached].max() if reached.any() else 1.0
        values = np.log(np.where(reached, units, NEVER_REACHED * most))
        used = reached | with_failed
        free = [knob for knob in self.knobs if not knob.is_limit]
        points = coordinates(free, [*measured, *wanted])
        # A target is usually checked at the end of each unit of work, so it is known to within
        # one, whose standard deviation is that of a uniform distribution.
        variances = np.exp(-2 * values) / 12
        surface = Surface(points[: len(units)][used], values[used], RUN_SCALES, variances[used])
        return surface.predict(points[len(units) :])

    def _has_reached(self, cells: Sequence[Cell]) -> Bools:
        """Whether runs at these settings reached the target at least as often as not."""
        if self.objective != TO_TARGET:
            return np.ones(len(cells), dtype=bool)
        outcomes: dict[Cell, list[bool]] = {}
        for probe in self.probes:
            key = self._without_limits(self._cell(probe))
            outcomes.setdefault(key, []).append(math.isfinite(probe.work_to_target))
        found = [outcomes.get(self._without_limits(cell), [True]) for cell in cells]
        return np.array([2 * sum(one) >= len(one) for one in found])

    def _without_limits(self, cell: Cell) -> Cell:
        both = zip(self.knobs, cell, strict=True)
        return tuple(level for knob, level in both if not knob.is_limit)

    def _is_within_bound(self, model: _Model) -> Bools:
        """Whether the slow-down is within the bound with 95 % confidence; the baseline's is."""
        mean, deviation = model.duration
        at_most = mean + ONE_SIDED * deviation
        is_base = np.array([cell == self._base for cell in model.cells])
        is_within: Bools = is_base | (at_most <= math.log1p(self.max_slowdown))
        return is_within

    def _front(self, model: _Model, allowed: Bools) -> tuple[FrontPoint, ...]:
        points = []
        least = math.inf
        for index in np.argsort(model.duration[0], kind="stable"):
            if not allowed[index] or model.energy[0][index] >= least:
                continue
            least = model.energy[0][index]
            points.append(
                FrontPoint(
                    self._settings(model.cells[index]),
                    _absolute(model.duration, model.base_duration, index),
                    _absolute(model.energy, model.base_energy, index),
                )
            )
        return tuple(points)

    def _settings(self, cell: Cell) -> Settings:
        return {knob.name: level for knob, level in zip(self.knobs, cell, strict=True)}

    def _cell(self, probe: Probe) -> Cell:
        return tuple(probe.settings[knob.name] for knob in self.knobs)


def search_over(
    knobs: Sequence[Knob],
    max_slowdown: float,
    *,
    objective: str = "energy",
    seed: int = 0,
    cells: Sequence[Cell] | None = None,
) -> Search:
    """Create the search that fits the knobs and the objective.

    The arguments are those of :class:`SettingsSearch`.
    """
    if len(knobs) == 1 and objective != TO_TARGET:
        return LevelSearch(knobs[0], max_slowdown, objective=objective, seed=seed)
    return SettingsSearch(knobs, max_slowdown, objective=objective, seed=seed, cells=cells)


def _relative_to_first(means: Floats, covariances: Floats, wider: float) -> tuple[Floats, Floats]:
    """Means and (wider) standard deviations of the differences from the first value."""
    variances = np.diag(covariances) + covariances[0, 0] - 2 * covariances[0]
    return means[1:] - means[0], wider * np.sqrt(np.maximum(variances[1:], 0.0))


def _first(means: Floats, covariances: Floats, wider: float) -> tuple[float, float]:
    """Mean and (wider) standard deviation of the first value, the baseline's."""
    return float(means[0]), wider * math.sqrt(covariances[0, 0])


def _student(normal: float, freedom: float) -> float:
    """Quantile of Student's t from that of the normal distribution.

    The first terms of Cornish and Fisher's expansion (Abramowitz and Stegun, 26.7.5).
    """
    first = (normal**3 + normal) / 4
    second = (5 * normal**5 + 16 * normal**3 + 3 * normal) / 96
    return normal + first / freedom + second / freedom**2


def _normal_cdf(values: Floats) -> Floats:
    return np.array([0.5 * math.erfc(-value / math.sqrt(2)) for value in values])


def _expected_improvement(improvement: Floats, deviation: Floats) -> Floats:
    """Mean of the positive part of normal distributions (Jones et al., 1998, equation 15)."""
    deviation = np.maximum(deviation, 1e-9)
    scaled = improvement / deviation
    density = np.exp(-0.5 * scaled**2) / math.sqrt(2 * math.pi)
    result: Floats = improvement * _normal_cdf(scaled) + deviation * density
    return result


def _interval(logs: tuple[Floats, Floats], index: int, less: float = 0.0) -> Estimate:
    """The exponential of a normal variable, minus a constant, with its 95 % interval."""
    mean, half = float(logs[0][index]), TWO_SIDED * float(logs[1][index])
    return Estimate(*(math.exp(one) - less for one in (mean, mean - half, mean + half)))


def _absolute(logs: tuple[Floats, Floats], base: tuple[float, float], index: int) -> Estimate:
    mean = base[0] + float(logs[0][index])
    half = TWO_SIDED * math.hypot(base[1], float(logs[1][index]))
    return Estimate(*(math.exp(one) for one in (mean, mean - half, mean + half)))
