"""Which measurements of the baseline and the candidate are compared with which."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence

from joulelab.compare.measurement import Group, Measurement
from joulelab.energy.energy import Energy
from joulelab.energy.uncertainty import Metric, metric_value
from joulelab.errors import UserError, nearest
from joulelab.format import join_words
from joulelab.uncertain import UncertainValue

NAMING_LEVELS = ("name", "project")
"""Levels of runs that define cells if the groups have one of their values in common."""

Measured = tuple[Measurement, UncertainValue]
"""A measurement and its value of the metric."""


def common_components(
    metric: Metric, energies: Iterable[Energy]
) -> tuple[frozenset[str], list[str]]:
    """Return the components measured in every energy that has any, and the other components."""
    found = [frozenset(filter(metric.includes, energy.components)) for energy in energies]
    measured = [names for names in found if names]
    if not measured:
        return frozenset(), []
    common = frozenset.intersection(*measured)
    return common, sorted(frozenset().union(*measured) - common)


def compared_components(
    metric: Metric, baseline: Group, candidate: Group
) -> tuple[frozenset[str], list[str]]:
    """Return the components to compare, and caveats about those left out."""
    if not metric.is_energy:
        return frozenset(), []
    groups = (baseline, candidate)
    common, partly = common_components(
        metric, (one.energy for group in groups for one in group.measurements)
    )
    if not common:
        raise UserError(
            f"no component was measured in both groups for {metric.label}",
            why="; ".join(f"{group.label} has {_components(group)}" for group in groups),
            hint="run joulelab doctor on each machine",
        )
    if not partly:
        return common, []
    return common, [f"{join_words(partly)} not compared: not measured in every run"]


def _components(group: Group) -> str:
    names = {name for one in group.measurements for name in one.energy.components}
    return join_words(sorted(names)) or "none"


def measured_values(
    group: Group, metric: Metric, components: frozenset[str]
) -> tuple[list[Measured], list[str]]:
    """Return the measurements that have a value of the metric, and a caveat about the others."""
    found = [
        (
            one,
            metric_value(
                metric,
                one.energy,
                one.boards,
                components,
                samples=one.samples,
                baseline=one.idle_baseline,
                pieces=one.pieces,
            ),
        )
        for one in group.measurements
    ]
    known = [(one, value) for one, value in found if math.isfinite(value.value)]
    if not known:
        why, hint = "it was not measured", "choose another --metric"
        if metric.per == "samples":
            why = "the number of samples is unknown"
            if group.kind == "runs":
                hint = "pass --tag samples=N to joulelab run, or choose another --metric"
        elif metric.quantity == "net":
            why = "idle power is unknown"
            hint = "run joulelab idle before measuring, or compare gross_j"
        raise UserError(f"{group.label} has no {metric.name}", why=why, hint=hint)
    lost = len(found) - len(known)
    if not lost:
        return known, []
    of = f"{lost} of {len(found)} {group.kind_of_measurement}"
    return known, [f"{group.role}: {of} have no {metric.name}"]


def default_levels(baseline: Group, candidate: Group) -> list[str]:
    """Return the levels that define cells: those that vary within a group.

    A factor of which the user chose other levels in each group is what is compared.
    Runs that all have different names are repeats, and so are runs whose tags do not have the same
    values in both groups, for example seeds.
    """
    values: dict[str, tuple[set[str], set[str]]] = {}
    for index, group in enumerate((baseline, candidate)):
        for one in group.measurements:
            for name, level in one.levels.items():
                values.setdefault(name, (set(), set()))[index].add(level)
    contrasted = {
        name
        for name, levels in baseline.chosen.items()
        if {*levels} != {*candidate.chosen.get(name, levels)}
    }
    varying = [
        name
        for name, (a, b) in values.items()
        if (len(a) > 1 or len(b) > 1) and name not in contrasted
    ]
    if baseline.kind == "studies":
        return varying
    return [
        name
        for name in varying
        for a, b in (values[name],)
        if (a & b if name in NAMING_LEVELS else a == b)
    ]


def checked_levels(by: Sequence[str], baseline: Group, candidate: Group) -> list[str]:
    """Check the levels that the user asked for; a tag may be given by its name alone."""
    known = {
        name.removeprefix("tag "): name
        for group in (baseline, candidate)
        for one in group.measurements
        for name in one.levels
    }
    for name in by:
        if name not in known:
            raise UserError(f"there is no level {name!r}", hint=nearest(name, known))
    return [known[name] for name in by]


def pair_cells(
    baseline: Sequence[Measured], candidate: Sequence[Measured], by: Sequence[str]
) -> list[tuple[dict[str, str], list[Measured], list[Measured]]]:
    """Return the cells that both groups have: their levels, and the measurements of each group.

    Groups that have a block of a study in common are paired within blocks, too.
    """
    cells: dict[tuple[str, ...], tuple[list[Measured], list[Measured]]] = {}
    for index, group in enumerate((baseline, candidate)):
        for measured in group:
            key = tuple(measured[0].levels.get(name, "") for name in by)
            cells.setdefault(key, ([], []))[index].append(measured)
    if _blocks(baseline) & _blocks(candidate):
        cells = {key: _in_common_blocks(a, b) for key, (a, b) in cells.items()}
    both = [(dict(zip(by, key, strict=True)), a, b) for key, (a, b) in cells.items() if a and b]
    if not both:
        raise UserError(
            "the baseline and the candidate have no cell in common",
            why=f"no two runs agree in {join_words(by)}",
            hint=f"choose fewer levels with --by, out of {', '.join(by)}",
        )
    return both


def _blocks(measured: Iterable[Measured]) -> set[Hashable]:
    return {one.block for one, _ in measured}


def _in_common_blocks(
    a: Sequence[Measured], b: Sequence[Measured]
) -> tuple[list[Measured], list[Measured]]:
    common = _blocks(a) & _blocks(b)
    return [one for one in a if one[0].block in common], [
        one for one in b if one[0].block in common
    ]
