"""Forecast random runs in memory: steady, correlated, warming, throttled, changing power."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from benchmarks.forecast_case import Case
from joulelab.forecast.profile import MAIN, Profile, Row

RUNS = 150
LENGTHS = ((100, 3, 60.0, "100 epochs of 60 s"), (3000, 90, 1.0, "3000 steps of 1 s"))
"""Number of pieces, number used, seconds per piece, and description."""

Floats = NDArray[np.float64]
Maker = Callable[[np.random.Generator, Floats], tuple[Floats, Floats]]
"""Maps the times of the pieces, in s, to relative durations and powers."""


def _noise(
    rng: np.random.Generator, count: int, scatter: float = 0.01, correlation: float = 0.0
) -> Floats:
    """Return serially correlated values with the standard deviation ``scatter``."""
    innovation = scatter * np.sqrt(1 - correlation**2)
    noise = rng.normal(0.0, innovation, count)
    noise[0] = rng.normal(0.0, scatter)
    for i in range(1, count):
        noise[i] += correlation * noise[i - 1]
    return noise


def _steady(rng: np.random.Generator, t_s: Floats) -> tuple[Floats, Floats]:
    return 1 + _noise(rng, t_s.size), 1 + _noise(rng, t_s.size)


def _correlated(rng: np.random.Generator, t_s: Floats) -> tuple[Floats, Floats]:
    return 1 + _noise(rng, t_s.size, 0.02, 0.8), 1 + _noise(rng, t_s.size)


def _first_dear(rng: np.random.Generator, t_s: Floats) -> tuple[Floats, Floats]:
    duration, power = _steady(rng, t_s)
    duration[0] *= rng.uniform(1.1, 3.0)
    return duration, power


def _warming(rng: np.random.Generator, t_s: Floats) -> tuple[Floats, Floats]:
    """Let idle power, 30 to 60 % of the total, rise by 7.6 %."""
    duration, power = _steady(rng, t_s)
    rise = 0.076 * rng.uniform(0.3, 0.6)
    tau_s = rng.uniform(30.0, 200.0)
    return duration, power - rise * np.exp(-t_s / tau_s)


def _throttled(rng: np.random.Generator, t_s: Floats) -> tuple[Floats, Floats]:
    """Let clocks fall by 2 to 8 % as the chip warms; power falls with their square."""
    duration, power = _steady(rng, t_s)
    fall = rng.uniform(0.02, 0.08) * (1 - np.exp(-t_s / rng.uniform(30.0, 200.0)))
    return duration / (1 - fall), power * (1 - fall) ** 2


def _stepping(rng: np.random.Generator, t_s: Floats) -> tuple[Floats, Floats]:
    """Let the power change permanently by a few percent at two random times."""
    duration, power = _steady(rng, t_s)
    for at_s in rng.uniform(0.0, t_s[-1], 2):
        power = power + rng.normal(0.0, 0.03) * (t_s > at_s)
    return duration, power


def _disturbed(rng: np.random.Generator, t_s: Floats) -> tuple[Floats, Floats]:
    """Let two pieces in a hundred take half again as long."""
    duration, power = _steady(rng, t_s)
    return duration * (1 + 0.5 * (rng.random(t_s.size) < 0.02)), power


KINDS: dict[str, Maker] = {
    "steady, 1 % scatter": _steady,
    "correlated 0.8, 2 % scatter": _correlated,
    "first piece 1.1 to 3 times as long": _first_dear,
    "idle power rises 7.6 % in minutes": _warming,
    "clocks fall 2 to 8 %": _throttled,
    "power steps by 3 %, twice": _stepping,
    "2 % of pieces disturbed by half": _disturbed,
}


def cases() -> Iterator[Case]:
    """Return the forecasts of every kind at both lengths."""
    for count, seen, pace_s, words in LENGTHS:
        for kind, make in KINDS.items():
            for seed in range(RUNS):
                rng = np.random.default_rng([seed, count])
                t_s = pace_s * (np.arange(count) + 0.5)
                duration, power = make(rng, t_s)
                yield _case(f"{kind}; {words}", pace_s * duration, 300.0 * power, seen)


def _case(name: str, duration_s: Floats, power_w: Floats, seen: int) -> Case:
    energy_j = duration_s * power_w
    rows = [
        Row(phase=MAIN, duration_s=float(s), gross_j=float(j))
        for s, j in zip(duration_s[:seen], energy_j[:seen], strict=True)
    ]
    count = energy_j.size
    return Case(
        name=name,
        cut=seen / count,
        truth_j=float(energy_j.sum()),
        truth_s=float(duration_s.sum()),
        forecast=Profile(rows).forecast(count),
        first_j=float(energy_j[0]) * count,
        mean_j=float(energy_j[:seen].mean()) * count,
    )
