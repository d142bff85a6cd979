"""Forecast random runs: stationary, correlated, warming, drifting, throttled, disturbed."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from benchmarks.forecast_case import Case
from joulelab.arrays import Floats
from joulelab.forecast.profile import MAIN, Row

RUNS = 100
"""Number of random runs per kind."""
SEEN = (3, 5, 10, 20)
"""Numbers of epochs that forecasts use."""
LENGTHS = (50, 100, 200)
"""Numbers of epochs of a run."""
POWER_W = 300.0

Maker = Callable[[np.random.Generator, int, float], Floats]
"""Makes the relative duration of each epoch, from the number of epochs and their scatter."""


def _stationary(rng: np.random.Generator, count: int, scatter: float) -> Floats:
    return 1 + rng.normal(0.0, scatter, count)


def _correlated(rng: np.random.Generator, count: int, scatter: float) -> Floats:
    correlation = rng.uniform(0.3, 0.9)
    noise = rng.normal(0.0, scatter, count)
    for i in range(1, count):
        noise[i] = correlation * noise[i - 1] + np.sqrt(1 - correlation**2) * noise[i]
    return 1 + noise


def _warming(rng: np.random.Generator, count: int, scatter: float) -> Floats:
    """Let the power rise by 1 to 6 % over 2 to 20 epochs, after a first epoch that is longer."""
    rise = rng.uniform(0.01, 0.06) * np.exp(-np.arange(count) / rng.uniform(2.0, 20.0))
    values = _stationary(rng, count, scatter) * (1 - rise)
    values[0] *= rng.uniform(1.0, 2.0)
    return values


def _drifting(rng: np.random.Generator, count: int, scatter: float) -> Floats:
    """Let the epochs change by some 3 % over the run."""
    values = _stationary(rng, count, scatter)
    values *= np.exp(rng.normal(0.0, 0.03) * np.arange(count) / count)
    return values


def _throttled(rng: np.random.Generator, count: int, scatter: float) -> Floats:
    """Change the epochs by 2 to 8 % at a random time, for good."""
    step = rng.choice([-1.0, 1.0]) * rng.uniform(0.02, 0.08)
    values = _stationary(rng, count, scatter)
    values[np.arange(count) > rng.uniform(0, count)] *= 1 + step
    return values


def _heavy_tailed(rng: np.random.Generator, count: int, scatter: float) -> Floats:
    """Draw from Student's t with 2.5 degrees of freedom, and lengthen a few epochs by half."""
    values = np.maximum(1 + scatter * rng.standard_t(2.5, count), 0.3)
    values[rng.random(count) < 0.02] *= 1.5
    return values


def _busy(rng: np.random.Generator, count: int, scatter: float) -> Floats:
    """Let another program lengthen 3 to 30 % of epochs by 5 to 50 %, a few in a row."""
    share, in_a_row = rng.uniform(0.03, 0.3), rng.uniform(1.0, 8.0)
    slowed, busy = rng.uniform(0.05, 0.5), np.zeros(count)
    is_on = rng.random() < share
    for i in range(count):
        chance = 1 / in_a_row if is_on else share / (1 - share) / in_a_row
        is_on ^= rng.random() < chance
        busy[i] = is_on
    return _stationary(rng, count, scatter) * (1 + slowed * busy)


KINDS: dict[str, Maker] = {
    "stationary": _stationary,
    "correlated (0.3 to 0.9)": _correlated,
    "warming, longer first epoch": _warming,
    "drifting by some 3 %": _drifting,
    "throttled by 2 to 8 % at a random time": _throttled,
    "validated every few epochs": _stationary,
    "heavy-tailed": _heavy_tailed,
    "slowed by another program": _busy,
}


def cases() -> Iterator[Case]:
    """Return the forecasts of every kind from each number of epochs."""
    for index, (kind, make) in enumerate(KINDS.items()):
        for seed in range(RUNS):
            rng = np.random.default_rng([28, index, seed])
            count, scatter = int(rng.choice(LENGTHS)), 10 ** rng.uniform(-2.5, -1.0)
            pace_s = 10 ** rng.uniform(0.0, 2.0)
            duration_s = pace_s * np.maximum(make(rng, count, scatter), 0.2)
            power_w = POWER_W * (1 + rng.normal(0.0, 0.005, count))
            every = int(rng.choice([1, 2, 3])) if "validated" in kind else count + 1
            rows = []
            for i in range(count):
                row = Row(MAIN, float(duration_s[i]), float(duration_s[i] * power_w[i]))
                rows.append(row._replace(is_shared=make is _busy))
                if (i + 1) % every == 0:
                    length_s = pace_s * float(0.2 * (1 + rng.normal(0.0, scatter)))
                    rows.append(Row("validate", length_s, 0.6 * POWER_W * length_s))
            for seen in SEEN:
                yield Case.of(f"simulated: {kind}", rows, seen)
