"""A smooth model of a value over the settings of several knobs: a Gaussian process.

Values that are measured with noise, one after the other, are

    value = mean + f(settings) + drift(order) + noise

with a Matérn 3/2 kernel for ``f``, a squared-exponential kernel for the drift, and independent
noise (Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, chapters 2, 4 and 5).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from joulelab.arrays import Floats
from joulelab.tune.probes import Knob, Settings

DRIFT_PROBES = 8.0
"""Number of probes over which the machine's state changes noticeably."""
LENGTHS = (0.15, 0.3, 0.6, 1.2, 2.4, 4.8)
"""Distances over which a value changes; 1 is from a knob's lowest level to its highest."""
AMPLITUDES = (0.1, 0.3, 1.0, 3.0)
LEAST_VARIANCE = 1e-8
_SWEEPS = 3


class Scales(NamedTuple):
    """What the noise and drift of a value may be, and what they most likely are (natural logs)."""

    # Standard deviations of the noise.
    noises: tuple[float, ...] = (0.001, 0.003, 0.006, 0.01, 0.02, 0.04, 0.1, 0.3)
    usual_noise: float = 0.006  # The most likely one before anything is measured.
    drifts: tuple[float, ...] = (0.0, 0.01, 0.03)  # Standard deviations of the drift.


class Surface:
    """A value over settings, fitted to measurements.

    Args:
        points: Coordinates of each measurement, shape (n, dimensions); see :func:`coordinates`.
        values: Measured values, shape (n,).
        scales: Possible noise and drift.
        variances: Known variance of each measurement's own errors, shape (n,). Default: zero.

    Attributes:
        noise: Standard deviation of the noise of a measurement.
    """

    def __init__(
        self, points: Floats, values: Floats, scales: Scales, variances: Floats | None = None
    ) -> None:
        self._points, self._mean = points, float(np.mean(values))
        self._values = values - self._mean
        self._variances = np.zeros(len(values)) if variances is None else variances
        self._usual_noise = scales.usual_noise
        order = np.arange(len(values))
        self._drift = np.exp(-0.5 * ((order[:, None] - order) / DRIFT_PROBES) ** 2)
        choices = [*[LENGTHS] * points.shape[1], AMPLITUDES, scales.noises, scales.drifts]
        best = [0.6] * points.shape[1] + [0.3, scales.usual_noise, 0.0]
        likelihood = self._likelihood(best)
        for _ in range(_SWEEPS):
            before = list(best)
            for index, options in enumerate(choices):
                for option in options:
                    tried = [*best[:index], option, *best[index + 1 :]]
                    found = self._likelihood(tried)
                    if found > likelihood:
                        best, likelihood = tried, found
            if best == before:
                break
        self._parameters = best
        self.noise: float = best[-2]
        self._factor = np.linalg.cholesky(self._covariance(best))

    def predict(self, points: Floats) -> tuple[Floats, Floats]:
        """Return means and covariances of the value at some points, without noise and drift."""
        across = self._kernel(points, self._points, self._parameters)
        solved = np.linalg.solve(self._factor, across.T)
        means = self._mean + solved.T @ np.linalg.solve(self._factor, self._values)
        return means, self._kernel(points, points, self._parameters) - solved.T @ solved

    def _likelihood(self, parameters: Sequence[float]) -> float:
        """Log of the marginal likelihood times weak priors (Rasmussen and Williams, eq. 5.8)."""
        factor = np.linalg.cholesky(self._covariance(parameters))
        whitened = np.linalg.solve(factor, self._values)
        *lengths, amplitude, noise, drift = parameters
        prior = 0.1 * sum(math.log(length / 0.6) ** 2 for length in lengths)
        prior += 0.1 * math.log(amplitude / 0.3) ** 2 + 1.0 * (drift > 0)
        prior += 0.5 * math.log(noise / self._usual_noise) ** 2
        return float(-0.5 * whitened @ whitened - np.log(np.diag(factor)).sum() - prior)

    def _covariance(self, parameters: Sequence[float]) -> Floats:
        noise, drift = parameters[-2:]
        own = self._variances + noise**2 + LEAST_VARIANCE
        kernel = self._kernel(self._points, self._points, parameters)
        return kernel + drift**2 * self._drift + np.diag(own)

    @staticmethod
    def _kernel(first: Floats, second: Floats, parameters: Sequence[float]) -> Floats:
        *lengths, amplitude, _, _ = parameters
        scaled = (first[:, None, :] - second) / np.array(lengths)
        distance = math.sqrt(3) * np.sqrt((scaled**2).sum(axis=-1))
        kernel: Floats = amplitude**2 * (1 + distance) * np.exp(-distance)
        return kernel


def coordinates(knobs: Sequence[Knob], settings: Sequence[Settings]) -> Floats:
    """Return the position of each setting, shape (settings, dimensions).

    Numbers are in order, from 0 to 1, by their logarithm if all are positive. Any other knob has
    one dimension per level, so that all its levels are equally far apart.

    Example:
        >>> batch = Knob("batch_size", (16, 32, 64), 32)
        >>> kind = Knob("precision", ("fp32", "bf16"), "fp32")
        >>> coordinates([batch, kind], [{"batch_size": 32, "precision": "bf16"}]).round(2).tolist()
        [[0.5, 0.0, 0.71]]
    """
    columns: list[Floats] = [np.zeros((len(settings), 0))]
    for knob in knobs:
        levels = [one[knob.name] for one in settings]
        if is_ordered(knob):
            values = np.array([*knob.levels, *levels], dtype=np.float64)
            if values.min() > 0:
                values = np.log(values)
            known = values[: len(knob.levels)]
            width = float(known.max() - known.min()) or 1.0
            columns.append(((values[len(knob.levels) :] - known.min()) / width)[:, None])
        else:
            equal = [[one == level for level in knob.levels] for one in levels]
            columns.append(np.array(equal) * math.sqrt(0.5))
    return np.concatenate(columns, axis=1)


def is_ordered(knob: Knob) -> bool:
    """Report whether a knob's levels are numbers, of which close ones have close values."""
    return not any(isinstance(level, (str, bool)) for level in knob.levels)
