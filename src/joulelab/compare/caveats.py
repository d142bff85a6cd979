"""What differs between the baseline and the candidate, and why a comparison may be misleading."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from joulelab.compare.measurement import BASELINE, CANDIDATE, Group
from joulelab.energy.attribution import ALSO_USED
from joulelab.energy.baseline import IDLE_NOTE
from joulelab.energy.energy import REPORTED_GAP, Energy
from joulelab.energy.uncertainty import Metric
from joulelab.format import count, duration, first_words, join_words, number, percent
from joulelab.runs.shared_machine import Sharing
from joulelab.sensors.sensor import Provenance
from joulelab.stats.difference import Cell, Repeats

OUTLIER = 3.5
"""Modified z-score beyond which a run is reported (Iglewicz and Hoaglin 1993); none is removed."""

LEAST_FOR_OUTLIERS = 5
"""With fewer runs there are no outliers."""

DAY_S = 86400.0
MOST_NAMES = 3

_NORMAL_MAD = 0.6745
"""Median absolute deviation of the standard normal distribution."""


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A fact in which the baseline and the candidate differ, with the values in each.

    ``group`` is ``"machine"``, ``"software"``, ``"sensors"``, ``"settings"``, ``"command"`` or
    ``"levels"``.
    """

    group: str
    name: str
    baseline: tuple[str, ...]
    candidate: tuple[str, ...]

    def __str__(self) -> str:
        absent = "not set" if self.group in ("settings", "levels") else "unknown"
        before, after = (join_words(one) or absent for one in (self.baseline, self.candidate))
        return f"{self.name}: {before} (baseline), {after} (candidate)"


def find_mismatches(baseline: Group, candidate: Group, by: Sequence[str]) -> list[Mismatch]:
    """Return the facts in which the groups differ, except the levels that define cells."""
    before, after = _collect_facts(baseline, by), _collect_facts(candidate, by)
    return [
        Mismatch(group, name, before.get((group, name), ()), after.get((group, name), ()))
        for group, name in dict.fromkeys((*before, *after))
        if set(before.get((group, name), ())) != set(after.get((group, name), ()))
    ]


def find_caveats(
    baseline: Group,
    candidate: Group,
    metric: Metric,
    by: Sequence[str],
    cells: Sequence[tuple[Mapping[str, str], Cell]],
) -> list[str]:
    """Return what the user should know before relying on the comparison, the gravest first."""
    groups = (baseline, candidate)
    found = [
        f"{group.role}: {count(group.failed, 'failed run')} left out"
        for group in groups
        if group.failed
    ]
    found += [text for group in groups for text in _of_sharing(group)]
    found += [text for group in groups for text in _of_runs(group, metric)]
    found += [text for group in groups for text in _of_provenance(group, metric)]
    found += [text for group in groups for text in _of_varying_levels(group, by)]
    return [*found, *_of_times(baseline, candidate), *_of_outliers(cells)]


def _collect_facts(group: Group, by: Sequence[str]) -> dict[tuple[str, str], tuple[str, ...]]:
    """Collect all values of each fact; a level replaces a fact of the same name."""
    found: dict[tuple[str, str], dict[str, None]] = {}
    for one in group.measurements:
        levels = {name: level for name, level in one.levels.items() if name not in by}
        for kind, facts in {**one.facts, "levels": levels}.items():
            for name, value in facts.items():
                found.setdefault((kind, name), {})[value] = None
    covered = {name for kind, name in found if kind == "levels"} | set(by)
    return {
        (kind, name): tuple(values)
        for (kind, name), values in found.items()
        if kind == "levels" or name not in covered
    }


def _of_runs(group: Group, metric: Metric) -> list[str]:
    by_text: dict[str, list[str]] = {}
    for one in group.measurements:
        texts, energy = [*one.caveats], one.energy
        if metric.is_energy:
            texts += _notes(energy, metric)
            if energy.gap_s > REPORTED_GAP * energy.duration_s:
                share = percent(energy.gap_s / energy.duration_s, 2)
                texts.append(f"no readings for {share} of its time")
        for text in texts:
            by_text.setdefault(text, []).append(one.name)
    several = len(group.measurements) > 1
    return [
        f"{group.role}: {text}" + (f" ({first_words(names, MOST_NAMES)})" if several else "")
        for text, names in by_text.items()
    ]


def _of_sharing(group: Group) -> list[str]:
    sharing = Sharing.of((str(one.directory), one.energy) for one in group.measurements)
    return [] if sharing is None else [f"{group.role}: {sharing}"]


def _notes(energy: Energy, metric: Metric) -> list[str]:
    """Return the notes that concern a metric; other users are summarised for the whole group."""
    others = (ALSO_USED,) if metric.quantity == "net" else (ALSO_USED, IDLE_NOTE)
    notes = energy.caveats if metric.quantity == "net" else energy.notes
    return [note for note in notes if not note.startswith(others)]


def _of_provenance(group: Group, metric: Metric) -> list[str]:
    names: dict[Provenance, dict[str, None]] = {}
    for one in group.measurements:
        for name, part in one.energy.components.items():
            if metric.includes(name) and part.provenance is not Provenance.MEASURED:
                names.setdefault(part.provenance, {})[name] = None
    return [
        f"{group.role}: {join_words(list(found))} {provenance}, not measured"
        for provenance, found in names.items()
    ]


def _of_varying_levels(group: Group, by: Sequence[str]) -> list[str]:
    """Find levels that vary within a cell, so that they count as scatter of runs."""
    levels: dict[str, dict[tuple[str, ...], set[str]]] = {}
    for one in group.measurements:
        cell = tuple(one.levels.get(name, "") for name in by)
        for name, level in one.levels.items():
            if name not in by:
                levels.setdefault(name, {}).setdefault(cell, set()).add(level)
    varying = [
        name for name, cells in levels.items() if any(len(found) > 1 for found in cells.values())
    ]
    if not varying:
        return []
    verb = "varies and is" if len(varying) == 1 else "vary and are"
    return [f"{group.role}: {join_words(varying)} {verb} not separated: the effect counts as noise"]


def _of_times(baseline: Group, candidate: Group) -> list[str]:
    (first_a, last_a), (first_b, last_b) = baseline.started_unix_s, candidate.started_unix_s
    apart_s = max(first_b - last_a, first_a - last_b)
    if not apart_s > 0:
        return []
    later, earlier = (CANDIDATE, BASELINE) if first_b > last_a else (BASELINE, CANDIDATE)
    if apart_s > DAY_S:
        days = number(apart_s / DAY_S)
        return [
            f"{later} measured {days} days after the {earlier}: the effect includes whatever else "
            "changed in between"
        ]
    if len(baseline.measurements) > 1 and len(candidate.measurements) > 1:
        return [
            f"{later} measured {duration(apart_s)} after the {earlier}, not alternating with it: a "
            "drift would look like an effect"
        ]
    return []


def _of_outliers(cells: Sequence[tuple[Mapping[str, str], Cell]]) -> list[str]:
    found = []
    for levels, cell in cells:
        for role, repeats in ((BASELINE, cell.baseline), (CANDIDATE, cell.candidate)):
            outliers = _count_outliers(repeats)
            if outliers:
                where = f" at {', '.join(levels.values())}" if levels else ""
                found.append(f"{role}: {count(outliers, 'outlier')}{where} (not removed)")
    return found


def _count_outliers(repeats: Repeats) -> int:
    if repeats.n < LEAST_FOR_OUTLIERS:
        return 0
    values = np.array([one.value for one in repeats.values])
    deviations = np.abs(values - np.median(values))
    mad = float(np.median(deviations))
    if mad == 0 or math.isnan(mad):
        return 0
    return int((_NORMAL_MAD * deviations / mad > OUTLIER).sum())
