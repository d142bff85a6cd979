"""Which batch size a recurring training takes next, from what its earlier runs used.

Thompson sampling: a batch size is chosen as often as it is likely to be the best one. The energy to
the target is modelled as smooth over the batch size (:mod:`~joulelab.tune.surface`), so that a run
says something about similar batch sizes, too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from joulelab.tune.probes import Knob
from joulelab.tune.settings_search import RUN_SCALES
from joulelab.tune.surface import Surface, coordinates

Outcome = Literal["reached", "missed", "stopped", "failed"]

STOP_FACTOR = 2.0
"""A run is stopped when it has used this times the energy to target of the best batch size.

You et al., Zeus, NSDI 2023, section 4.4, find 2 a good value of what they call beta.
"""
EXPLORATION = 0.6
"""Scale of the sampled uncertainty. With 1, 50 recurrences cost more in four of the five trainings
of the benchmark on which it was chosen."""
LATEST = 100
"""Number of latest runs that are considered, since data and machine change."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """A finished run of a recurring training."""

    batch_size: int  # Its batch size.
    energy_j: float  # Energy until the target was reached or the run ended.
    # ``"reached"`` the target; ``"missed"`` it, though it ran to its end; was ``"stopped"`` since
    # it used too much; or ``"failed"`` for another reason.
    outcome: Outcome


def choose_batch_size(
    batch_sizes: Iterable[int], attempts: Sequence[Attempt], rng: np.random.Generator
) -> int:
    """Choose the batch size of the next run.

    The first run takes the middle one. The energy of a run that was stopped counts as it is, the
    least that the target would have taken. A batch size whose runs miss the target or fail needs
    several of them per success, so its energy is divided by the share of its runs that do not.

    Args:
        batch_sizes: The batch sizes to choose from.
        attempts: Earlier runs, oldest first; those of other batch sizes are ignored.
        rng: Source of randomness.
    """
    sizes = sorted(set(batch_sizes))
    known = [one for one in attempts if one.batch_size in sizes][-LATEST:]
    unsuccessful = dict.fromkeys(sizes, 0)
    successful = dict.fromkeys(sizes, 0)
    for one in known:
        is_lost = one.outcome in {"missed", "failed"}
        (unsuccessful if is_lost else successful)[one.batch_size] += 1
    # A run that failed may have ended at any time, so its energy says nothing.
    measured = [one for one in known if one.outcome != "failed" and one.energy_j > 0]
    knob = Knob("batch_size", tuple(sizes), sizes[0])
    logs = np.zeros(len(sizes))
    if measured:
        points = coordinates([knob], [{knob.name: one.batch_size} for one in measured])
        surface = Surface(points, np.log(_energies(measured)), RUN_SCALES)
        means, covariances = surface.predict(coordinates([knob], [{knob.name: s} for s in sizes]))
        logs = rng.multivariate_normal(means, EXPLORATION**2 * covariances, method="eigh")
    elif not known:
        return sizes[len(sizes) // 2]
    for index, size in enumerate(sizes):
        if unsuccessful[size]:
            logs[index] -= math.log(rng.beta(successful[size] + 0.5, unsuccessful[size] + 0.5))
    return sizes[int(np.argmin(logs))]


def _energies(attempts: Sequence[Attempt]) -> list[float]:
    """Return the energy of each run; of stopped ones, the most that its batch size used."""
    most: dict[int, float] = {}
    for one in attempts:
        if one.outcome == "stopped":
            most[one.batch_size] = max(one.energy_j, most.get(one.batch_size, 0.0))
    return [most[one.batch_size] if one.outcome == "stopped" else one.energy_j for one in attempts]


def mean_energies_j(attempts: Sequence[Attempt]) -> dict[int, float]:
    """Return the mean energy of the runs that reached the target, by batch size."""
    energies: dict[int, list[float]] = {}
    for one in attempts[-LATEST:]:
        if one.outcome == "reached":
            energies.setdefault(one.batch_size, []).append(one.energy_j)
    return {size: sum(found) / len(found) for size, found in sorted(energies.items())}


def most_energy_j(attempts: Sequence[Attempt]) -> float:
    """Return the energy at which a run is stopped; infinite while no run reached the target."""
    return STOP_FACTOR * min(mean_energies_j(attempts).values(), default=math.inf)
