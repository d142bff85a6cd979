r"""Notice that the time or the power of steps has changed since settings were chosen.

Windows of steps are compared with the first ones after the choice, as logarithms: the difference of
two means, with Welch's interval (Biometrika 34, 1947). Looking again and again would find a change
sooner or later although there is none, so look *k* uses the error probability

.. math:: \alpha_k = \frac{6}{\pi^2 k^2}\,\alpha, \qquad \sum_{k=1}^{\infty} \alpha_k = \alpha

half of it for the time and half for the power: without any change, at most 5 % of trainings of any
length are searched again. A change counts only beyond what the search itself left open, because a
smaller one could not have changed its choice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from joulelab.arrays import Floats
from joulelab.forecast.series import load_scipy
from joulelab.format import percent
from joulelab.tune.probes import Probe
from joulelab.tune.result import Result

GROUP = 8
"""Windows in a mean. With fewer, the interval is wide: Student's factor is 2.1 at 8, 4.3 at 2."""
ERROR = 0.05
"""Probability of a search in vain, in a training of any length."""


class Change(NamedTuple):
    """A significant change of a quantity: the new value over the old one."""

    name: str
    ratio: float

    def __str__(self) -> str:
        return f"{self.name} has changed by {percent(self.ratio - 1, 2, signed=True)}"


@dataclass(slots=True)
class DriftTest:
    """Compares windows of steps, one after the other, with the first ones."""

    # Changes of the logarithms of time and power that do not count.
    tolerances: tuple[float, float]
    _windows: list[tuple[float, float]] = field(default_factory=list)
    _looks: int = 0

    @classmethod
    def of(cls, result: Result) -> DriftTest:
        """Make a test that ignores changes within the intervals of a result."""
        time = math.log1p(result.slowdown.high) - math.log1p(result.slowdown.low)
        energy = math.log1p(-result.saving.low) - math.log1p(-result.saving.high)
        return cls((time / 2, math.hypot(time, energy) / 2))

    def add(self, probe: Probe) -> Change | None:
        """Add a window; return a change once there is one."""
        power_w = probe.energy_j / probe.duration_s
        self._windows.append((math.log(probe.duration_s), math.log(power_w)))
        if len(self._windows) < 2 * GROUP or len(self._windows) % GROUP:
            return None
        self._looks += 1
        error = ERROR * 6 / (math.pi * self._looks) ** 2 / 2
        first, latest = np.array(self._windows[:GROUP]), np.array(self._windows[-GROUP:])
        del self._windows[GROUP:-GROUP]
        for i, name in enumerate(("the time of a step", "the power")):
            change, half = _difference(first[:, i], latest[:, i], error)
            if abs(change) - half > self.tolerances[i]:
                return Change(name, math.exp(change))
        return None


def _difference(before: Floats, after: Floats, error: float) -> tuple[float, float]:
    """Return the difference of two means and the half-width of its interval (Welch)."""
    _, special = load_scipy()
    variances = np.var(before, ddof=1) / len(before), np.var(after, ddof=1) / len(after)
    variance = float(sum(variances))
    change = float(np.mean(after) - np.mean(before))
    if variance == 0:
        return change, 0.0
    freedom = variance**2 / sum(
        float(one) ** 2 / (len(values) - 1)
        for one, values in zip(variances, (before, after), strict=True)
    )
    return change, float(special.stdtrit(freedom, 1 - error / 2)) * math.sqrt(variance)
