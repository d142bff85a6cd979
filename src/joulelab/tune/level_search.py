"""The search over the levels of one knob.

After each probe, time and energy at every level are drawn from their posterior
(:mod:`~joulelab.tune.level_curves`). From these draws follow the choice if the search ended now,
and the expected gain of each possible next probe: outcomes are drawn, the draws are weighted by
how well they agree with an outcome, and the choice is made again (the expected value of sample
information: Raiffa and Schlaifer, Applied Statistical Decision Theory, 1961). One probe alone
often cannot change a choice although several could, so that several probes are considered as one,
too, and their gain is divided by their number (Frazier and Powell, Decision Analysis 7, 378, 2010).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from joulelab.arrays import Bools, Floats, Indices
from joulelab.errors import UserError
from joulelab.format import percent
from joulelab.tune.confirmation import Confirmation, confirm
from joulelab.tune.knobs import settings_text
from joulelab.tune.level_curves import CurveDraws, LevelCurves
from joulelab.tune.probes import Knob, Probe, Settings
from joulelab.tune.result import Estimate, FrontPoint, Result

OBJECTIVES = ("energy", "edp")
TOLERANCE = 0.005
"""Slow-downs that differ by less than half a point are equally acceptable."""
RISK = 0.1
"""Accepted probability of a slow-down that exceeds the bound by more than the tolerance."""
MORE_LIKELY = 0.5
"""Accepted probability of a slow-down above the bound, by any amount."""
NOT_BETTER = 0.025
"""Accepted probability that the choice is no better than the baseline: a 95 % interval above 0."""
CLEAR_GAIN = 4.5
"""A limit that saves this many deviations needs no repeats, since how smooth the curve over limits
is shows the noise. Below, and for other knobs, repeats confirm the choice."""
EXCEEDED_COST = 0.25
"""Cost of a bound that is exceeded, in energies of the baseline, when probes are planned."""
LEAST_GAIN = 1e-3
LEAST_CHANCE = 0.02
"""A level is no longer measured if it is the best with less than this probability."""
MOST_CANDIDATES = 10
OUTCOMES = 32
BATCHES = (1, 3, 8)
"""Numbers of probes that are considered as one."""
BASELINE_EVERY = (6, 10)
"""The baseline is measured again after at most 6 to 9 other probes, at random."""
MOST_REPEATS = 8
"""A level is measured at most this often: more would hardly settle what these did not."""
MOST_PER_LEVEL = 3
MOST_LEVELS = 40
"""Of more levels, evenly spaced ones are searched: their neighbours hardly differ."""


class LevelSearch:
    """Finds the level of a knob with the least energy within a slow-down.

    Ask it for settings, measure them, and hand it the measurement, until it returns ``None``::

        search = LevelSearch(knob, max_slowdown=0.05)
        while (settings := search.next()) is not None:
            search.add(measure(settings))
        result = search.result()

    Time and energy of all probes must be for the same unit of work, for example a step. The
    baseline comes first and again at random, so that drift becomes visible scatter. Settings that
    cannot be measured are left out.

    The choice is a level whose energy is significantly below the baseline's: by the model, and by
    repeated probes of both (:mod:`~joulelab.tune.confirmation`), which the search makes at its end.
    Its slow-down is more likely than not within the bound, and with a probability of 90 % at most
    half a point beyond it. A stricter rule would reject most levels near the bound, which save the
    most, since a few probes cannot show on which side they are.

    Args:
        knob: What to change. Of more than 40 levels, evenly spaced ones are searched.
        max_slowdown: Accepted additional time, as a part of the baseline's.
        objective: What to minimise: ``"energy"``, or ``"edp"`` for energy times time.
        seed: Of all random choices; the same probes and seed give the same proposals and result.
        least_gain: Part of the baseline's energy that one more probe must be expected to save;
            one divided by the number of probes that would fit into the rest of the work is a good
            choice.
        max_probes: Largest number of probes; ``None`` for three per level.

    Raises:
        UserError: The objective is unknown, or the slow-down is negative.
    """

    def __init__(
        self,
        knob: Knob,
        max_slowdown: float,
        *,
        objective: str = "energy",
        seed: int = 0,
        least_gain: float = LEAST_GAIN,
        max_probes: int | None = None,
    ) -> None:
        if objective not in OBJECTIVES:
            raise UserError(f"no objective {objective!r}", hint=f"choose {' or '.join(OBJECTIVES)}")
        if not max_slowdown >= 0:
            raise UserError(f"the slow-down {max_slowdown} is negative", hint="give 0 or more")
        self.knob = knob = _thin_out(knob)
        self.max_slowdown = max_slowdown
        self.objective = objective
        self.least_gain = least_gain
        self.max_probes = max_probes or MOST_PER_LEVEL * len(knob.levels)
        self.probes: list[Probe] = []
        self._baseline = knob.levels.index(knob.baseline)
        self._left_out: set[int] = set()
        self._rng = np.random.default_rng(seed)
        self._curves = LevelCurves(knob, self._rng)
        self._queue: list[int] = [self._baseline]
        self._until_baseline = self._draw_gap()
        self._outlook: _Outlook | None = None

    def next(self) -> Settings | None:
        """Return the settings to measure next; ``None`` if the search is over."""
        if len(self.probes) >= self.max_probes:
            return None
        if not self._queue:
            self._queue = self._plan()
        return self._settings(self._queue[0]) if self._queue else None

    def add(self, probe: Probe) -> None:
        """Take the measurement of the settings that :meth:`next` returned last."""
        level = self.knob.levels.index(probe.settings[self.knob.name])
        if self._queue and self._queue[0] == level:
            self._queue.pop(0)
        is_baseline = level == self._baseline
        self._until_baseline = self._draw_gap() if is_baseline else self._until_baseline - 1
        self.probes.append(probe)
        self._outlook = None

    def leave_out(self, settings: Settings) -> None:
        """Take that the settings that :meth:`next` returned last cannot be measured.

        Raises:
            UserError: They are the baseline, which no other level can replace.
        """
        level = self.knob.levels.index(settings[self.knob.name])
        if level == self._baseline:
            raise UserError("the baseline cannot be measured", hint="choose another baseline")
        self._left_out.add(level)
        self._queue = [other for other in self._queue if other != level]
        self._outlook = None

    def result(self) -> Result:
        """Return the choice from the measurements so far. The baseline must have been measured."""
        outlook = self._look()
        confirmation = self._confirm()
        choice = outlook.choice if confirmation.is_better else self._baseline
        slowdown = _estimate(outlook.slowdown[:, choice])
        saving = _estimate(1 - outlook.relative_energy[:, choice])
        return Result(
            self._settings(choice),
            self._settings(self._baseline),
            saving,
            slowdown,
            len(self.probes),
            tuple(self._front_point(level) for level in outlook.front(choice)),
            self._reason(choice, confirmation),
        )

    def _plan(self) -> list[int]:
        """Return the levels to measure next, in random order; none if it is not worth it."""
        outlook = self._look()
        gain, levels = max(outlook.gains(self._rng), default=(0.0, []), key=lambda one: one[0])
        if gain < self.least_gain:
            levels = [
                self.knob.levels.index(one[self.knob.name]) for one in self._confirm().missing
            ]
        elif self._until_baseline <= 0 and self._baseline not in levels:
            levels = [*levels, self._baseline]
        return [levels[i] for i in self._rng.permutation(len(levels))]

    def _confirm(self) -> Confirmation:
        """Report whether the choice is confirmed, and what to measure to find out."""
        if self.knob.is_limit and self._look().gain_in_noise() >= CLEAR_GAIN:
            return Confirmation(True)
        choice, baseline = (self._settings(one) for one in (self._look().choice, self._baseline))
        return confirm(self.probes, choice, baseline, self.objective)

    def _look(self) -> _Outlook:
        if self._outlook is None:
            levels = [self.knob.levels.index(one.settings[self.knob.name]) for one in self.probes]
            if self._baseline not in levels:
                raise UserError("the baseline was not measured", hint="measure it first")
            allowed = np.ones(len(self.knob.levels), dtype=bool)
            allowed[list(self._left_out)] = False
            draws = self._curves.posterior(self.probes)
            repeats = np.bincount(levels, minlength=len(allowed))
            self._outlook = _Outlook(
                draws, self._baseline, self.max_slowdown, self.objective, allowed, repeats
            )
        return self._outlook

    def _draw_gap(self) -> int:
        return int(self._rng.integers(*BASELINE_EVERY))

    def _settings(self, level: int) -> Settings:
        return {self.knob.name: self.knob.levels[level]}

    def _front_point(self, level: int) -> FrontPoint:
        draws = self._look().draws
        return FrontPoint(
            self._settings(level),
            _estimate(np.exp(draws.log_time[:, level])),
            _estimate(np.exp(draws.log_energy[:, level])),
        )

    def _reason(self, choice: int, confirmation: Confirmation) -> str:
        bound = percent(self.max_slowdown)
        if choice != self._baseline:
            goal = "energy" if self.objective == "energy" else "energy times time"
            return f"least {goal} of the settings within a slow-down of {bound}"
        reason = f"no setting within a slow-down of {bound} is significantly better"
        if not confirmation.missing:
            return reason
        favourite = settings_text(self._settings(self._look().choice))
        return f"{reason}; {favourite} may be, with more probes"


@dataclass
class _Outlook:
    """What is known after some probes, and what more probes could change."""

    draws: CurveDraws
    baseline: int
    max_slowdown: float
    objective: str
    allowed: Bools
    repeats: Indices
    slowdown: Floats = field(init=False)
    relative_energy: Floats = field(init=False)
    cost: Floats = field(init=False)

    def __post_init__(self) -> None:
        self.seen = self.repeats > 0
        log_ratio = self.draws.log_time - self.draws.log_time[:, [self.baseline]]
        self.slowdown = np.expm1(log_ratio)
        log_energy = self.draws.log_energy - self.draws.log_energy[:, [self.baseline]]
        self.relative_energy = np.exp(log_energy)
        self.cost = np.exp(log_energy + log_ratio * (self.objective == "edp"))
        self._exceeds = (self.slowdown > self.max_slowdown + TOLERANCE).astype(float)
        self._exceeds[:, self.baseline] = 0.0
        self._is_slower = (self.slowdown > self.max_slowdown).astype(float)
        self._is_slower[:, self.baseline] = 0.0
        self._is_worse = (self.cost >= 1).astype(float)

    @cached_property
    def choice(self) -> int:
        """The level to choose now."""
        even = np.full((1, len(self.cost)), 1 / len(self.cost))
        return int(self._choose(even, self.seen)[0][0])

    def gain_in_noise(self) -> float:
        """Return how far the choice is below the baseline, in deviations that noise may make."""
        repeats = 1 / np.maximum(self.repeats[[self.choice, self.baseline]], 1)
        noise = np.quantile(self.draws.energy_noise, 0.975) * repeats.sum() ** 0.5
        return -float(np.log(np.median(self.cost[:, self.choice])) / noise)

    def front(self, choice: int) -> list[int]:
        """Return the choice and the levels that no other beats in both, the fastest first."""
        time, energy = self.draws.log_time.mean(0), self.draws.log_energy.mean(0)
        levels: list[int] = []
        for level in np.argsort(time, kind="stable").tolist():
            is_candidate = self.seen[level] and self.allowed[level]
            if level == choice or (
                is_candidate and all(energy[level] < energy[other] for other in levels)
            ):
                levels.append(level)
        return levels

    def gains(self, rng: np.random.Generator) -> Iterator[tuple[float, list[int]]]:
        """Estimate what probes of each level are expected to save, alone and with the baseline.

        Yields:
            The part of the baseline's energy, per time of a probe of the baseline; and the levels.
        """
        duration = 1 + np.median(self.slowdown, axis=0)
        candidates = self._candidates()
        for level in candidates:
            for levels in ([level], [level, self.baseline]):
                if len(set(levels)) == len(levels) and levels[-1] in candidates:
                    for number in BATCHES:
                        weight = self._imagine(levels, number, rng)
                        yield self._gain(weight, level) / (number * duration[levels].sum()), levels

    def _imagine(self, levels: list[int], number: int, rng: np.random.Generator) -> Floats:
        """Draw outcomes of probes of some levels; return how much each draw agrees with them."""
        draws = self.draws
        truths = rng.integers(len(self.cost), size=OUTCOMES)
        log_weight = np.zeros((OUTCOMES, len(self.cost)))
        for level in levels:
            for curve, noise in (
                (draws.log_time, draws.time_noise),
                (draws.log_energy, draws.energy_noise),
            ):
                values, scatter = curve[:, level], noise / number**0.5
                outcomes = rng.normal(values[truths], scatter[truths])
                log_weight -= 0.5 * (np.subtract.outer(outcomes, values) / scatter) ** 2
                log_weight -= np.log(scatter)
        weight: Floats = np.exp(log_weight - log_weight.max(1, keepdims=True))
        weight /= weight.sum(1, keepdims=True)
        return weight

    def _candidates(self) -> list[int]:
        """Return the levels that may be the best: choice, baseline and the most likely others."""
        is_better = (self.cost < self.cost[:, [self.choice]]) & (self._exceeds == 0)
        chance = is_better.mean(0) * self.allowed
        likely = np.argsort(-chance, kind="stable")[:MOST_CANDIDATES]
        likely = likely[chance[likely] >= LEAST_CHANCE]
        levels = dict.fromkeys([self.choice, self.baseline, *likely.tolist()])
        return [level for level in levels if self.repeats[level] < MOST_REPEATS]

    def _gain(self, weight: Floats, level: int) -> float:
        """Return how much lower the cost is if the choice is made after the outcomes."""
        seen = self.seen.copy()
        seen[level] = True
        _, value = self._choose(weight, seen)
        return float(np.mean(self._value(weight)[:, self.choice] - value))

    def _value(self, weight: Floats) -> Floats:
        return weight @ (self.cost + EXCEEDED_COST * self._exceeds)

    def _choose(self, weight: Floats, seen: Bools) -> tuple[Indices, Floats]:
        """Choose a level for each row of weights of the draws; return its cost, too."""
        is_eligible = (weight @ self._exceeds <= RISK) & (weight @ self._is_worse <= NOT_BETTER)
        is_eligible &= weight @ self._is_slower <= MORE_LIKELY
        is_eligible &= seen & self.allowed
        is_eligible[:, self.baseline] = True
        value = np.where(is_eligible, self._value(weight), np.inf)
        return value.argmin(1), value.min(1)


def _thin_out(knob: Knob) -> Knob:
    """Keep at most :data:`MOST_LEVELS` levels, and the baseline."""
    if len(knob.levels) <= MOST_LEVELS:
        return knob
    kept = set(np.linspace(0, len(knob.levels) - 1, MOST_LEVELS).round().astype(int).tolist())
    kept.add(knob.levels.index(knob.baseline))
    return replace(knob, levels=tuple(knob.levels[i] for i in sorted(kept)))


def _estimate(draws: Floats) -> Estimate:
    low, middle, high = np.quantile(draws, (0.025, 0.5, 0.975)).tolist()
    return Estimate(middle, low, high)
