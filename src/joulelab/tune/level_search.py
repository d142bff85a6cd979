"""The search over the levels of one knob."""

from __future__ import annotations

import numpy as np

from joulelab.errors import UserError
from joulelab.format import percent
from joulelab.tune.probes import Knob, Level, Probe, Settings
from joulelab.tune.result import Estimate, FrontPoint, Result

OBJECTIVES = ("energy", "edp")


class LevelSearch:
    """Finds the level of a knob with the least energy within a slow-down.

    Ask it for settings, measure them, and hand it the measurement, until it returns ``None``::

        search = LevelSearch(knob, max_slowdown=0.05)
        while (settings := search.next()) is not None:
            search.add(measure(settings))
        result = search.result()

    Time and energy of all probes must be for the same unit of work, for example a step. A probe of
    a level that was not proposed is accepted, too.

    Args:
        knob: What to change.
        max_slowdown: Accepted additional time, as a part of the baseline's.
        objective: What to minimise: ``"energy"``, or ``"edp"`` for energy times time.
        seed: Of all random choices; the same probes and seed give the same proposals and result.
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
        max_probes: int | None = None,
    ) -> None:
        if objective not in OBJECTIVES:
            raise UserError(f"no objective {objective!r}", hint=f"choose {' or '.join(OBJECTIVES)}")
        if not max_slowdown >= 0:
            raise UserError(f"the slow-down {max_slowdown} is negative", hint="give 0 or more")
        self.knob = knob
        self.max_slowdown = max_slowdown
        self.objective = objective
        self.max_probes = max_probes or 3 * len(knob.levels)
        self.probes: list[Probe] = []
        self._rng = np.random.default_rng(seed)
        others = [level for level in knob.levels if level != knob.baseline]
        self._queue: list[Level] = [knob.baseline, *others]

    def next(self) -> Settings | None:
        """Return the settings to measure next; ``None`` if the search is over."""
        if len(self.probes) >= len(self._queue):
            return None
        return {self.knob.name: self._queue[len(self.probes)]}

    def add(self, probe: Probe) -> None:
        """Take the measurement of the settings that :meth:`next` returned last."""
        self.probes.append(probe)

    def leave_out(self, settings: Settings) -> None:
        """Take that the settings that :meth:`next` returned last cannot be measured."""
        self._queue.remove(settings[self.knob.name])

    def result(self) -> Result:
        """Return the choice from the measurements so far."""
        name, baseline = self.knob.name, self.knob.baseline
        by_level = {probe.settings[name]: probe for probe in self.probes}
        base = by_level[baseline]
        feasible = [
            probe
            for probe in by_level.values()
            if probe.duration_s <= (1 + self.max_slowdown) * base.duration_s
        ]
        best = min(feasible, key=lambda probe: probe.energy_j)
        saving = 1 - best.energy_j / base.energy_j
        slowdown = best.duration_s / base.duration_s - 1
        front = (_point(best),) if best is base else (_point(base), _point(best))
        return Result(
            best.settings,
            base.settings,
            Estimate(saving, saving, saving),
            Estimate(slowdown, slowdown, slowdown),
            len(self.probes),
            front,
            f"least energy within {percent(self.max_slowdown)} of the baseline's time",
        )


def _point(probe: Probe) -> FrontPoint:
    duration_s, energy_j = probe.duration_s, probe.energy_j
    return FrontPoint(
        probe.settings,
        Estimate(duration_s, duration_s, duration_s),
        Estimate(energy_j, energy_j, energy_j),
    )
