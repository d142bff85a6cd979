"""Which runs of two sides are compared with which, and by what figures."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

from joulelab.compare.measurement import Measurement
from joulelab.compare.sides import Side
from joulelab.energy.uncertainty import Metric, metric_value
from joulelab.errors import UserError, nearest
from joulelab.findings.words import listed
from joulelab.uncertain import UncertainValue

DISTINCT = ("name", "project")
"""Levels of jobs that tell cells apart where both sides have one in common."""

Known = tuple[Measurement, UncertainValue]
"""A run and its figure."""


def components_in_common(metric: Metric, a: Side, b: Side) -> tuple[frozenset[str], list[str]]:
    """Those measured in every run, and words on those that were only in some.

    Raises:
        UserError: There is none.
    """
    if not metric.is_energy:
        return frozenset(), []
    runs = [
        {name for name in run.energy.components if metric.includes(name)}
        for side in (a, b)
        for run in side.measurements
    ]
    measured = [names for names in runs if names]
    common = frozenset.intersection(*map(frozenset, measured)) if measured else frozenset()
    if not common:
        raise UserError(
            f"nothing in common was measured of the {metric.label}",
            why="; ".join(_absent(side) for side in (a, b)),
            hint="run joulelab doctor on each machine",
        )
    partly = sorted(set().union(*measured) - common)
    if not partly:
        return common, []
    return common, [f"{listed(partly)} left out: not measured in every run of both sides"]


def _absent(side: Side) -> str:
    names = sorted({name for run in side.measurements for name in run.energy.components})
    return f"{side.label} has {listed(names) or 'nothing'}"


def known_figures(
    side: Side, metric: Metric, components: frozenset[str]
) -> tuple[list[Known], list[str]]:
    """The runs that have the figure, and words on those that have not.

    Raises:
        UserError: None has it.
    """
    found = [
        (
            run,
            metric_value(
                metric,
                run.energy,
                run.boards,
                components,
                samples=run.samples,
                baseline=run.baseline,
                pieces=run.pieces,
            ),
        )
        for run in side.measurements
    ]
    known = [(run, value) for run, value in found if math.isfinite(value.value)]
    if not known:
        raise UserError(
            f"{side.label} has no {metric.name}", why=_why(metric), hint=_mend(metric, side)
        )
    lost = len(found) - len(known)
    if not lost:
        return known, []
    return known, [f"{side.letter}: {lost} of {len(found)} runs have no {metric.name}"]


def _why(metric: Metric) -> str:
    if metric.per == "samples":
        return "how many samples it took is not known"
    return "idle power is not known" if metric.quantity == "net" else "it was not measured"


def _mend(metric: Metric, side: Side) -> str:
    if metric.per == "samples" and side.kind == "jobs":
        return "give --tag samples=N to joulelab run, or another --metric"
    if metric.quantity == "net":
        return "run joulelab idle before measuring, or compare gross_j"
    return "choose another --metric"


def telling_levels(a: Side, b: Side) -> list[str]:
    """The levels that tell cells apart: those that vary within a side.

    Jobs that are all called otherwise are repeats, and so are those whose tags have not the same
    levels on both sides, as seeds.
    """
    sets: dict[str, tuple[set[str], set[str]]] = {}
    for place, side in enumerate((a, b)):
        for run in side.measurements:
            for name, level in run.levels.items():
                sets.setdefault(name, (set(), set()))[place].add(level)
    varying = [name for name, (in_a, in_b) in sets.items() if len(in_a) > 1 or len(in_b) > 1]
    if a.kind == "studies":
        return varying
    return [
        name
        for name in varying
        if (sets[name][0] & sets[name][1] if name in DISTINCT else sets[name][0] == sets[name][1])
    ]


def checked_levels(by: Sequence[str], a: Side, b: Side) -> list[str]:
    """The levels that a person asked for; a tag by its name alone.

    Raises:
        UserError: Neither side has one of them.
    """
    known = {
        name.removeprefix("tag "): name
        for side in (a, b)
        for run in side.measurements
        for name in run.levels
    }
    for name in by:
        if name not in known:
            raise UserError(f"nothing is known by {name!r}", hint=nearest(name, known))
    return [known[name] for name in by]


def paired(
    a: Sequence[Known], b: Sequence[Known], by: Sequence[str]
) -> list[tuple[dict[str, str], list[Known], list[Known]]]:
    """The cells that both sides have: their levels, and the runs of each side.

    Raises:
        UserError: There is none.
    """
    cells: dict[tuple[str, ...], tuple[list[Known], list[Known]]] = defaultdict(lambda: ([], []))
    for place, side in enumerate((a, b)):
        for known in side:
            cells[tuple(known[0].levels.get(name, "") for name in by)][place].append(known)
    both = [
        (dict(zip(by, key, strict=True)), in_a, in_b)
        for key, (in_a, in_b) in cells.items()
        if in_a and in_b
    ]
    if not both:
        raise UserError(
            "the two sides have no cell in common",
            why=f"none agrees in {listed(by)}",
            hint=f"choose with --by fewer of {', '.join(by)}",
        )
    return both
