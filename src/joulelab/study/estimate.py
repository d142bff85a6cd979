"""What a study has cost so far, and what is to go."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from joulelab.study.order import Cell
from joulelab.study.plan import Plan
from joulelab.study.records import spent_j


@dataclass(frozen=True, slots=True)
class Cost:
    """Time and gross energy. ``None`` or NaN: not known.

    Example:
        >>> str(Cost(95.0, 1234.5)), str(Cost(8.0, None)), str(Cost(math.nan, None))
        ('1 min 35 s, 1.23 kJ', '8.0 s, energy unknown', 'unknown')
    """

    duration_s: float
    energy_j: float | None

    def __str__(self) -> str:
        if math.isnan(self.duration_s) and self.energy_j is None:
            return "unknown"
        return f"{duration_text(self.duration_s)}, {self.energy_text}"

    @property
    def energy_text(self) -> str:
        """The energy with its unit."""
        if self.energy_j is None:
            return "energy unknown"
        for size, unit in ((1e6, "MJ"), (1e3, "kJ")):
            if abs(self.energy_j) >= size:
                return f"{self.energy_j / size:.3g} {unit}"
        return f"{self.energy_j:.3g} J"


def duration_text(duration_s: float) -> str:
    """A time as a person says it.

    Example:
        >>> duration_text(3.25), duration_text(95), duration_text(7260)
        ('3.2 s', '1 min 35 s', '2 h 1 min')
    """
    if math.isnan(duration_s):
        return "time unknown"
    if duration_s < 60:
        return f"{duration_s:.1f} s"
    minutes, seconds = divmod(round(duration_s), 60)
    if minutes < 60:
        return f"{minutes} min {seconds} s"
    return f"{minutes // 60} h {minutes % 60} min"


def spent(runs: Iterable[Mapping[str, Any]]) -> Cost:
    """What finished runs cost together, idle and failed ones included."""
    runs = list(runs)
    energies = [spent_j(run) for run in runs if run["spans"]]
    known = [energy_j for energy_j in energies if energy_j is not None]
    return Cost(
        sum(_duration_s(run) for run in runs),
        sum(known) if len(known) == len(energies) and known else None,
    )


def cost_of(cell: Cell, plan: Plan, runs: Sequence[Mapping[str, Any]]) -> Cost:
    """What a cell will take.

    From runs of the same combination; else of the same model; else of all; else from the
    plan's seconds.
    """
    done = [run for run in runs if run["kind"] == "cell" and run["status"] == "done"]
    name = cell.run_id.partition("-")[2]
    same = [run for run in done if run["run_id"].partition("-")[2] == name]
    like = [run for run in done if run["factors"]["model"] == cell.factors.model]
    for group in (same, like, done):
        if group:
            energies = [spent_j(run) for run in group]
            known = [energy_j for energy_j in energies if energy_j is not None]
            return Cost(fmean(map(_duration_s, group)), fmean(known) if known else None)
    lengths = {"train": plan.train.seconds, "infer": plan.infer.seconds}
    return Cost(
        math.fsum(math.nan if lengths[p] is None else lengths[p] or 0 for p in plan.phases), None
    )


def cost_of_all(cells: Sequence[Cell], plan: Plan, runs: Sequence[Mapping[str, Any]]) -> Cost:
    """What several cells will take, idle left out."""
    costs = [cost_of(cell, plan, runs) for cell in cells]
    known = [cost.energy_j for cost in costs if cost.energy_j is not None]
    return Cost(
        math.fsum(cost.duration_s for cost in costs),
        math.fsum(known) if len(known) == len(costs) else None,
    )


def _duration_s(run: Mapping[str, Any]) -> float:
    return float(run["stopped_unix_s"]) - float(run["started_unix_s"])
