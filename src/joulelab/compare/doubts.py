"""In what two sides are not alike, and what else speaks against believing their comparison."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from joulelab.compare.measurement import Measurement
from joulelab.compare.sides import Side
from joulelab.energy.energy import REPORTED_GAP
from joulelab.energy.uncertainty import Metric
from joulelab.findings.words import counted, listed, number, span_of_time
from joulelab.sensors.sensor import Provenance
from joulelab.stats.difference import Cell, Repeats

OUTLIER = 3.5
"""Modified z-score beyond which a run is named (Iglewicz and Hoaglin 1993); none is dropped."""

LEAST_FOR_OUTLIERS = 5
"""Fewer runs do not tell which of them lies apart."""

OLD_S = 86400.0
"""Sides further apart in time than this had different days."""

_NORMAL_MAD = 0.6745
"""Median absolute deviation of the standard normal distribution."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Something in which the two sides are not alike.

    Attributes:
        group: ``"machine"``, ``"software"``, ``"sensors"``, ``"settings"``, ``"job"`` or
            ``"levels"``.
        name: What.
        a: The first side's, each once.
        b: The second's.
    """

    group: str
    name: str
    a: tuple[str, ...]
    b: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name}: {_values(self.a)} in A, {_values(self.b)} in B"

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary."""
        return {"group": self.group, "name": self.name, "a": list(self.a), "b": list(self.b)}


def differences(a: Side, b: Side, by: Sequence[str]) -> list[Difference]:
    """What is not the same on both sides, though nobody asked to tell it apart.

    Args:
        a: The first side's runs.
        b: The second's.
        by: Levels that tell cells apart, which are the same in each.
    """
    in_a, in_b = _gathered(a, by), _gathered(b, by)
    return [
        Difference(group, name, in_a.get((group, name), ()), in_b.get((group, name), ()))
        for group, name in dict.fromkeys((*in_a, *in_b))
        if set(in_a.get((group, name), ())) != set(in_b.get((group, name), ()))
    ]


def doubts(
    a: Side,
    b: Side,
    metric: Metric,
    by: Sequence[str],
    cells: Sequence[tuple[Mapping[str, str], Cell]],
) -> list[str]:
    """What else a person should know, in words, the gravest first.

    Args:
        a: The first side's runs.
        b: The second's.
        metric: What is compared.
        by: Levels that tell cells apart.
        cells: As they were compared.
    """
    found = [
        f"{side.letter}: {counted(side.failed, 'run')} failed and left out"
        for side in (a, b)
        if side.failed
    ]
    found += [text for side in (a, b) for text in _of_side(side, metric)]
    found += [text for side in (a, b) for text in _mixed(side, by)]
    return [*found, *_of_times(a, b), *_outliers(cells)]


def _gathered(side: Side, by: Sequence[str]) -> dict[tuple[str, str], tuple[str, ...]]:
    found: dict[tuple[str, str], dict[str, None]] = {}
    for run in side.measurements:
        levels = {name: level for name, level in run.levels.items() if name not in by}
        for group, facts in {**run.facts, "levels": levels}.items():
            for name, value in facts.items():
                found.setdefault((group, name), {})[value] = None
    told = {name for group, name in found if group == "levels"}
    return {
        (group, name): tuple(values)
        for (group, name), values in found.items()
        if group == "levels" or name not in told | set(by)
    }


def _of_side(side: Side, metric: Metric) -> list[str]:
    runs = side.measurements
    said = [(text, run.run) for run in runs for text in run.doubts]
    if metric.is_energy:
        said += [(text, run.run) for run in runs for text in run.energy.notes]
        said += [(text, run.run) for run in runs if (text := _gaps(run))]
    by_text: dict[str, list[str]] = {}
    for text, run_id in said:
        by_text.setdefault(text, []).append(run_id)
    found = [
        f"{side.letter}: {text}" + (f" ({_named(names)})" if len(runs) > 1 else "")
        for text, names in by_text.items()
    ]
    return found + _of_provenance(side, metric)


def _of_provenance(side: Side, metric: Metric) -> list[str]:
    names: dict[Provenance, dict[str, None]] = {}
    for run in side.measurements:
        for name, part in run.energy.components.items():
            if metric.includes(name) and part.provenance is not Provenance.MEASURED:
                names.setdefault(part.provenance, {})[name] = None
    return [
        f"{side.letter}: {provenance}, not measured: {listed(list(found))}"
        for provenance, found in names.items()
    ]


def _mixed(side: Side, by: Sequence[str]) -> list[str]:
    """What varies within a cell, so that it counts as scatter of runs."""
    levels: dict[str, dict[tuple[str, ...], set[str]]] = {}
    for run in side.measurements:
        cell = tuple(run.levels.get(name, "") for name in by)
        for name, level in run.levels.items():
            if name not in by:
                levels.setdefault(name, {}).setdefault(cell, set()).add(level)
    mixed = [
        name for name, cells in levels.items() if any(len(found) > 1 for found in cells.values())
    ]
    if not mixed:
        return []
    return [f"{side.letter}: {listed(mixed)} not told apart, so what that does counts as scatter"]


def _gaps(run: Measurement) -> str:
    if run.energy.gap_s > REPORTED_GAP * run.energy.duration_s:
        share_pct = 100 * run.energy.gap_s / run.energy.duration_s
        return f"{number(share_pct, 2)} % of its time has no readings"
    return ""


def _named(names: Sequence[str]) -> str:
    few = 3
    more = len(names) - few
    return listed([*names[:few], f"{more} more"]) if more > 0 else listed(names)


def _of_times(a: Side, b: Side) -> list[str]:
    (first_a, last_a), (first_b, last_b) = a.started_unix_s, b.started_unix_s
    apart_s = max(first_b - last_a, first_a - last_b)
    if not apart_s > 0:
        return []
    order = "A was measured before B" if first_b > last_a else "B was measured before A"
    if apart_s > OLD_S:
        days = number(apart_s / OLD_S)
        return [f"{order}, by {days} days: whatever changed meanwhile is in the effect"]
    if len(a.measurements) > 1 and len(b.measurements) > 1:
        return [
            f"{order}, by {span_of_time(apart_s)}, and not in turns: a drift would look like "
            "an effect"
        ]
    return []


def _outliers(cells: Sequence[tuple[Mapping[str, str], Cell]]) -> list[str]:
    found = []
    for levels, cell in cells:
        for name, repeats in (("A", cell.baseline), ("B", cell.candidate)):
            apart = _apart(repeats)
            if apart:
                where = f" at {', '.join(levels.values())}" if levels else ""
                found.append(
                    f"{counted(apart, 'run')} of {name}{where} lies far from the others; none is "
                    "left out"
                )
    return found


def _apart(repeats: Repeats) -> int:
    if repeats.n < LEAST_FOR_OUTLIERS:
        return 0
    values = np.array([figure.value for figure in repeats.values])
    deviations = np.abs(values - np.median(values))
    mad = float(np.median(deviations))
    if mad == 0 or math.isnan(mad):
        return 0
    return int((_NORMAL_MAD * deviations / mad > OUTLIER).sum())


def _values(values: Sequence[str]) -> str:
    return listed(values) if values else "not told"
