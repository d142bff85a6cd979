"""What probes say about time and energy at every level of a knob, as draws from a posterior.

The logarithm of time over a knob is a smooth trend plus a deviation of each level, and so is that
of power; energy is their product. The trend is a straight line plus an integrated Wiener process
(the Bayesian form of a cubic smoothing spline: Wahba, J. R. Stat. Soc. B 40, 364, 1978), which
starts at the highest level, where a limit changes least. Levels thus share what they have in
common, and a curve with bumps or without any trend is as normal as a smooth one.

How strong each part is, and how much repeated probes scatter, is unknown: a few hundred
combinations are drawn from wide priors and weighted by how well they explain the probes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from joulelab.arrays import Floats, Indices
from joulelab.tune.probes import Knob, Level, Probe

HYPOTHESES = 400
DRAWS = 500
OFFSET_VARIANCE = 0.25
"""Prior variance of the level of both curves, relative to the first probe: it may be far off."""
JITTER = 1e-10

PRIORS: Mapping[str, tuple[float, float, float]] = {
    "noise": (1.5e-3, 0.03, 0.5),
    "energy_noise": (0.5, 2.0, 2.0),
    "time_slope": (3e-3, 0.5, 5.0),
    "time_bend": (0.03, 10.0, 10.0),
    "time_deviation": (5e-4, 0.06, 1.0),
    "power_slope": (0.01, 2.0, 2.0),
    "power_bend": (0.03, 10.0, 10.0),
    "power_deviation": (3e-4, 0.02, 1.0),
}
"""Least, usually largest and largest standard deviation: relative noise of a probe's time, that of
its energy as a multiple of it, and the parts of both curves over the range of levels. Of the
hypotheses, 95 % are in the usual range and the rest above it, evenly in the logarithm."""
USUAL = 0.95
UNORDERED_DEVIATION = (0.01, 1.0, 1.0)
"""Prior of both deviations of a knob whose levels have no order."""


@dataclass(frozen=True, slots=True)
class CurveDraws:
    """Draws of both curves from the posterior."""

    log_time: Floats  # Natural logarithm of the time in s, draws x levels.
    log_energy: Floats  # Natural logarithm of the energy in J, draws x levels.
    time_noise: Floats  # Relative standard deviation of the next probe's time, by draw.
    energy_noise: Floats  # That of its energy.


class LevelCurves:
    """Time and energy over the levels of a knob.

    Args:
        knob: Its levels; numbers are ordered, others are not.
        rng: Source of the drawn hypotheses.
    """

    def __init__(self, knob: Knob, rng: np.random.Generator) -> None:
        self._rng = rng
        self._position = {level: i for i, level in enumerate(knob.levels)}
        distance = _distances(knob.levels)
        priors = dict(PRIORS)
        if distance is None:
            distance = np.zeros(len(knob.levels))
            priors |= dict.fromkeys(("time_deviation", "power_deviation"), UNORDERED_DEVIATION)
        drawn = {name: _draw(prior, rng) for name, prior in priors.items()}
        self._time_noise = drawn["noise"]
        self._energy_noise = drawn["noise"] * drawn["energy_noise"]
        time, power = (
            _covariance(distance, *(drawn[f"{curve}_{part}"] for part in _PARTS))
            for curve in ("time", "power")
        )
        self._covariance = np.block([[time, time], [time, time + power]])
        rise = np.zeros_like(time[:, 0])
        if knob.is_limit:
            rise = np.outer(drawn["time_slope"], distance) + np.outer(
                drawn["time_bend"], distance**2 / 2
            )
        self._mean = np.hstack([rise, np.zeros_like(rise)])

    def posterior(self, probes: Sequence[Probe]) -> CurveDraws:
        """Draw both curves, given probes of any levels."""
        level = np.array([self._position[_only_level(probe)] for probe in probes])
        log_time = np.log([probe.duration_s for probe in probes])
        log_energy = np.log([probe.energy_j for probe in probes])
        reference = np.repeat([log_time[0], log_energy[0]], len(self._position))
        time = _pool(level, log_time - log_time[0], self._time_noise,
            [probe.duration_uncertainty_s / probe.duration_s for probe in probes])  # fmt: skip
        energy = _pool(level, log_energy - log_energy[0], self._energy_noise,
            [probe.energy_uncertainty_j / probe.energy_j for probe in probes])  # fmt: skip
        seen = np.unique(level)
        seen = np.concatenate([seen, seen + len(self._position)])
        values = (np.hstack([time.mean, energy.mean]) - self._mean[:, seen])[..., None]
        variances = np.hstack([time.variance, energy.variance])
        evidence = self._covariance[:, seen[:, None], seen]
        evidence[:, np.arange(len(seen)), np.arange(len(seen))] += variances
        root = np.linalg.cholesky(evidence)
        scaled = np.linalg.solve(root, values)[..., 0]
        weights = time.log_likelihood + energy.log_likelihood - 0.5 * (scaled**2).sum(1)
        weights -= np.log(np.diagonal(root, axis1=1, axis2=2)).sum(1)
        chosen = self._resample(np.exp(weights - weights.max()))
        kinds, kind = np.unique(chosen, return_inverse=True)
        gain = np.linalg.solve(root[kinds], self._covariance[kinds][:, seen])
        mean = self._mean[kinds] + np.einsum("hsl,hs->hl", gain, scaled[kinds])
        rest = self._covariance[kinds] - gain.transpose(0, 2, 1) @ gain
        rest += JITTER * np.eye(rest.shape[1])
        normal = self._rng.standard_normal((DRAWS, rest.shape[1], 1))
        curves = mean[kind] + (np.linalg.cholesky(rest)[kind] @ normal)[..., 0] + reference
        log_time_draws, log_energy_draws = np.hsplit(curves, 2)
        return CurveDraws(
            log_time_draws,
            log_energy_draws,
            np.hypot(self._time_noise[chosen], time.own_uncertainty),
            np.hypot(self._energy_noise[chosen], energy.own_uncertainty),
        )

    def _resample(self, weights: Floats) -> Indices:
        """Draw hypotheses by their weights, evenly (systematic resampling)."""
        steps = (np.arange(DRAWS) + self._rng.random()) / DRAWS
        chosen = np.searchsorted(np.cumsum(weights) / weights.sum(), steps)
        return np.minimum(chosen, len(weights) - 1)


def _draw(prior: tuple[float, float, float], rng: np.random.Generator) -> Floats:
    """Draw one standard deviation for each hypothesis, spread evenly over its prior."""
    share = (rng.permutation(HYPOTHESES) + 0.5) / HYPOTHESES
    return np.exp(np.interp(share, (0.0, USUAL, 1.0), np.log(prior)))


_PARTS = ("slope", "bend", "deviation")


def _distances(levels: Sequence[Level]) -> Floats | None:
    """Return how far each level is from the highest, from 0 to 1; ``None`` without an order."""
    numbers = [level for level in levels if not isinstance(level, str | bool)]
    if len(numbers) < len(levels):
        return None
    values = np.array(numbers, dtype=float)
    is_positive = values.min() > 0
    distance: Floats = np.log(values.max() / values) if is_positive else values.max() - values
    return distance / max(float(distance.max()), JITTER)


def _covariance(distance: Floats, slope: Floats, bend: Floats, deviation: Floats) -> Floats:
    """Return the prior covariance of a curve at the levels, for each hypothesis."""
    near = np.minimum(distance[:, None], distance)
    spline = near**3 / 3 + near**2 * np.abs(distance[:, None] - distance) / 2
    return (
        OFFSET_VARIANCE
        + np.multiply.outer(slope**2, np.outer(distance, distance))
        + np.multiply.outer(bend**2, spline)
        + np.multiply.outer(deviation**2, np.eye(len(distance)))
    )


@dataclass(frozen=True, slots=True)
class _Pooled:
    """Means of the probes of each level that was measured, for each hypothesis.

    ``log_likelihood`` is that of the scatter about the means, ``own_uncertainty`` the typical
    uncertainty that the probes stated themselves.
    """

    mean: Floats
    variance: Floats
    log_likelihood: Floats
    own_uncertainty: float


def _pool(level: Indices, values: Floats, noise: Floats, uncertainties: Sequence[float]) -> _Pooled:
    own = np.nan_to_num(np.array(uncertainties))
    variance = np.add.outer(noise**2, own**2)
    member = (level[:, None] == np.unique(level)).astype(float)
    precision = (1 / variance) @ member
    mean = (values / variance) @ member / precision
    deviations = values - mean @ member.T
    log_likelihood = -0.5 * (deviations**2 / variance + np.log(variance)).sum(1)
    log_likelihood -= 0.5 * np.log(precision).sum(1)
    return _Pooled(mean, 1 / precision, log_likelihood, math.sqrt(np.mean(own**2)))


def _only_level(probe: Probe) -> Level:
    (level,) = probe.settings.values()
    return level
