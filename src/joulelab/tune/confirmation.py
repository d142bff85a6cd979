"""Confirm by repeated probes that the settings that look best are better than the baseline.

Of settings that do not differ, the one whose noise was most favourable looks best, and as long as
nothing is repeated, the noise is unknown. So a search ends by measuring its choice and the baseline
several times each, and the choice stands only if a one-sided t test of the means of log costs is
significant: with the scatter of all settings that were measured more than once, as in comparisons
with a control (Dunnett, J. Am. Stat. Assoc. 50, 1096, 1955), and with Bonferroni's correction for
the number of settings of which this one looked best.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

import numpy as np

from joulelab.tune.probes import Level, Probe, Settings

LOOKS = (3, 5)
"""Probes of the choice and of the baseline, each, after which the two are compared."""
ERROR = 0.025
"""Probability that a comparison is significant if no settings are better: half of 5 %, as there may
be two comparisons."""


class Confirmation(NamedTuple):
    """Whether settings are significantly better, and which ones to measure to find out."""

    is_better: bool
    missing: tuple[Settings, ...] = ()


def confirm(
    probes: Sequence[Probe], choice: Settings, baseline: Settings, objective: str
) -> Confirmation:
    """Compare the choice of a search with the baseline.

    Args:
        probes: All of the search.
        choice: The settings that look best.
        baseline: What they are compared with.
        objective: What is minimised: ``"energy"``, or ``"edp"`` for energy times time.
    """
    if choice == baseline:
        return Confirmation(False)
    groups: dict[frozenset[tuple[str, Level]], list[float]] = {}
    for probe in probes:
        cost = probe.energy_j * (probe.duration_s if objective == "edp" else 1.0)
        groups.setdefault(frozenset(probe.settings.items()), []).append(math.log(cost))
    ours, theirs = (groups.get(frozenset(one.items()), []) for one in (choice, baseline))
    repeats = min(len(ours), len(theirs))
    if repeats >= LOOKS[0]:
        own = np.nan_to_num([probe.energy_uncertainty_j / probe.energy_j for probe in probes])
        least = float(np.mean(own**2))
        if _p(ours, theirs, list(groups.values()), least) <= ERROR:
            return Confirmation(True)
    look = next((look for look in LOOKS if repeats < look), 0)
    both = ((choice, len(ours)), (baseline, len(theirs)))
    return Confirmation(False, tuple(one for one, n in both if n < look))


def _p(
    ours: Sequence[float], theirs: Sequence[float], groups: Sequence[Sequence[float]], least: float
) -> float:
    """Return the probability of a choice as good as ours if no settings are better.

    Args:
        ours: Log costs of the choice.
        theirs: Log costs of the baseline.
        groups: Log costs of all settings, these two included.
        least: Variance of the probes' own errors, below which the scatter is only by chance.
    """
    freedom = sum(len(group) - 1 for group in groups)
    variance = math.fsum(len(group) * float(np.var(group)) for group in groups) / freedom
    deviation = math.sqrt(max(variance, least) * (1 / len(ours) + 1 / len(theirs)))
    gain = fmean(theirs) - fmean(ours)
    if deviation == 0:
        return float(gain <= 0)
    return student_tail(gain / deviation, freedom) * (len(groups) - 1)


def student_tail(t: float, freedom: int) -> float:
    """Return the probability that Student's t is above a value (Abramowitz and Stegun, 26.7.3).

    SciPy has it, but is not needed otherwise to tune a command, and not part of the core install.

    Example:
        >>> round(student_tail(12.706, 1), 4), round(student_tail(2.228, 10), 4)
        (0.025, 0.025)
    """
    angle = math.atan(t / math.sqrt(freedom))
    is_odd, total = freedom % 2, 0.0
    term = math.cos(angle) if is_odd else 1.0
    for k in range(2 + is_odd, freedom + 1, 2):
        total += term
        term *= math.cos(angle) ** 2 * (k - 1) / k
    inside = math.sin(angle) * total
    return (1 - (2 / math.pi * (angle + inside) if is_odd else inside)) / 2
