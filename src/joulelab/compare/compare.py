"""Compare a candidate with a baseline: the effect in each cell and over all of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from typing import Any

from joulelab.carbon.costs import Costs
from joulelab.carbon.site import Site
from joulelab.compare.caveats import Mismatch, find_caveats, find_mismatches
from joulelab.compare.measurement import Group
from joulelab.compare.pairing import (
    Measured,
    checked_levels,
    compared_components,
    default_levels,
    measured_values,
    pair_cells,
)
from joulelab.energy.energy import total
from joulelab.energy.uncertainty import Metric
from joulelab.errors import UserError
from joulelab.format import finite_or_none
from joulelab.recording.trace import read_trace
from joulelab.recording.trace_format import READINGS_FILE
from joulelab.stats.difference import Cell, Difference, Repeats, difference, holm
from joulelab.uncertain import CONFIDENCE, MOST_MULTIPLE, ratio_interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """The candidate relative to the baseline. Unknown values are NaN.

    For several cells together, means and the difference are unknown.
    """

    levels: Mapping[str, str]  # of the cell; empty for all cells together
    baseline_mean: float
    candidate_mean: float
    n_baseline: int  # number of measurements: a run of a study has one for each phase
    n_candidate: int
    runs_baseline: int  # number of runs that they are of
    runs_candidate: int
    ratio: float  # of geometric means; NaN if a value is not positive
    ratio_interval: tuple[float, float]  # ends beyond a factor of 10 are 0 and infinite
    difference: float  # candidate minus baseline
    difference_interval: tuple[float, float]  # where tested, it agrees with that of the ratio
    p: float  # p-value of no difference
    test: str  # that p is from; empty if it cannot be tested
    detectable_ratio: float  # detected with a power of 0.8; NaN if too large to mean anything
    significant: bool | None  # whether the interval excludes no difference; None if not tested
    logarithms: Difference  # what the ratio was computed from

    def is_above(self, limit: float) -> bool | None:
        """Report whether the candidate exceeds the baseline by more than a fraction.

        ``True`` if the whole interval of the ratio is above ``1 + limit``, ``False`` if none of it
        is, ``None`` if it is undecided, which it always is without a test.
        """
        low, high = self.ratio_interval
        if not self.test or math.isnan(low):
            return None
        if low > 1 + limit:
            return True
        return False if high <= 1 + limit else None

    def to_json(self) -> dict[str, Any]:
        """Return a plain dictionary; NaN becomes ``None``."""
        names = (one.name for one in fields(self) if one.name != "logarithms")
        return {name: finite_or_none(getattr(self, name)) for name in names}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Comparison:
    """A candidate compared with a baseline."""

    baseline: Group
    candidate: Group
    metric: Metric
    confidence: float  # coverage of every interval
    effect: Effect  # over all cells
    cells: tuple[Effect, ...]  # if there are several; significant after Holm's correction
    costs: tuple[Costs | None, Costs | None]  # of all that was compared, on each side
    mismatches: tuple[Mismatch, ...]  # in machine, software, sensors and settings
    caveats: tuple[str, ...]  # what the user should know before relying on it

    def is_above(self, limit: float, *, each: bool = False) -> bool | None:
        """Report whether the candidate exceeds the baseline by more than a fraction.

        The result is that of :meth:`Effect.is_above`. With ``each``, each cell is checked instead
        of their mean, with Holm's correction for their number.
        """
        if not (each and self.cells):
            return self.effect.is_above(limit)
        p = [cell.logarithms.p_above(math.log1p(limit)) for cell in self.cells]
        if any(one <= (1 - self.confidence) / 2 for one in holm(p)):
            return True
        return False if all(cell.is_above(limit) is False for cell in self.cells) else None

    def to_json(self) -> dict[str, Any]:
        """Return a plain dictionary; NaN becomes ``None``."""
        costs = [None if one is None else one.to_json() for one in self.costs]
        return {
            "metric": self.metric.name,
            "unit": self.metric.unit,
            "confidence": self.confidence,
            "baseline": self.baseline.to_json() | {"costs": costs[0]},
            "candidate": self.candidate.to_json() | {"costs": costs[1]},
            "effect": self.effect.to_json(),
            "cells": [cell.to_json() for cell in self.cells],
            "differences": [asdict(one) for one in self.mismatches],
            "caveats": list(self.caveats),
        }


def compare(
    baseline: Group,
    candidate: Group,
    metric: Metric,
    *,
    by: Sequence[str] | None = None,
    confidence: float = CONFIDENCE,
    assumed_scatter: float | None = None,
    site: Site | None = None,
) -> Comparison:
    """Compare a candidate with a baseline.

    Runs must agree in the levels ``by`` to be compared; by default, in those that vary in a group.
    ``confidence`` is the coverage of the intervals. ``assumed_scatter``, the relative standard
    deviation of a run, is used if there are too few repeats.
    """
    if baseline.kind != candidate.kind:
        raise UserError(
            f"{baseline.label} contains {baseline.kind} and {candidate.label} {candidate.kind}",
            hint="compare runs with runs and studies with studies",
        )
    measured = [{one.key for one in group.measurements} for group in (baseline, candidate)]
    twice = set.intersection(*measured)
    if twice:
        directory, _ = min(twice)
        raise UserError(
            f"{directory} is in both groups", hint="compare it with another run, or other levels"
        )
    components, not_compared = compared_components(metric, baseline, candidate)
    if by is None:
        levels = default_levels(baseline, candidate)
    else:
        levels = checked_levels(by, baseline, candidate)
    known_a, missing_a = measured_values(baseline, metric, components)
    known_b, missing_b = measured_values(candidate, metric, components)
    pairs = pair_cells(known_a, known_b, levels)
    cells = [
        (of_cell, Cell(_repeats(in_a, metric), _repeats(in_b, metric), unit=of_cell.get("model")))
        for of_cell, in_a, in_b in pairs
    ]
    effects = [
        estimate_effect([cell], of_cell, confidence, assumed_scatter, _count_runs(in_a, in_b))
        for (of_cell, cell), (_, in_a, in_b) in zip(cells, pairs, strict=True)
    ]
    paired_a = _only(baseline, [one for _, in_a, _ in pairs for one in in_a])
    paired_b = _only(candidate, [one for _, _, in_b in pairs for one in in_b])
    several = len(cells) > 1
    overall = effects[0]
    if several:
        both = (paired_a.runs, paired_b.runs)
        overall = estimate_effect(
            [cell for _, cell in cells], {}, confidence, assumed_scatter, both
        )
        corrected = holm([one.p for one in effects])
        effects = [
            one if one.significant is None else replace(one, significant=p <= 1 - confidence)
            for one, p in zip(effects, corrected, strict=True)
        ]
    return Comparison(
        baseline=baseline,
        candidate=candidate,
        metric=metric,
        confidence=confidence,
        effect=overall,
        cells=tuple(effects) if several else (),
        costs=(_costs(paired_a, site or Site()), _costs(paired_b, site or Site())),
        mismatches=tuple(find_mismatches(paired_a, paired_b, levels)),
        caveats=(
            *not_compared,
            *missing_a,
            *missing_b,
            *_unpaired(paired_a, len(known_a), baseline.kind_of_measurement),
            *_unpaired(paired_b, len(known_b), candidate.kind_of_measurement),
            *find_caveats(paired_a, paired_b, metric, levels, cells),
        ),
    )


def estimate_effect(
    cells: Sequence[Cell],
    levels: Mapping[str, str] | None = None,
    confidence: float = CONFIDENCE,
    assumed_scatter: float | None = None,
    runs: tuple[int, int] | None = None,
) -> Effect:
    """Estimate the candidate relative to the baseline over cells; see :func:`compare`.

    ``runs`` are the numbers of runs on each side; by default, each value is of a run of its own.
    """
    one = cells[0] if len(cells) == 1 else None
    is_positive = all(cell.is_positive for cell in cells)
    on_logs = on_values = Difference(math.nan, 0.0, 0.0)
    if is_positive:
        on_logs = difference([cell.logarithms() for cell in cells], assumed_scatter)
    if one is not None:
        assumed_sd = None
        if assumed_scatter is not None:
            assumed_sd = assumed_scatter * abs(one.baseline.mean)
        on_values = difference(cells, assumed_sd)
    tested = on_logs if is_positive else on_values
    significant = tested.half_width(confidence) < abs(tested.value) if tested.is_tested else None
    of_ratio = ratio_ends(on_logs, confidence, significant=significant)
    of_difference = on_values.interval(confidence)
    if one is not None and is_positive and on_logs.is_tested:
        of_difference = difference_ends(one.baseline.mean, of_ratio, on_values, confidence)
    n_baseline = sum(cell.baseline.n for cell in cells)
    n_candidate = sum(cell.candidate.n for cell in cells)
    runs_baseline, runs_candidate = runs or (n_baseline, n_candidate)
    detectable = on_logs.detectable(confidence)
    is_known = detectable <= math.log(MOST_MULTIPLE)
    return Effect(
        levels=levels or {},
        baseline_mean=one.baseline.ratio_of_sums if one else math.nan,
        candidate_mean=one.candidate.ratio_of_sums if one else math.nan,
        n_baseline=n_baseline,
        n_candidate=n_candidate,
        runs_baseline=runs_baseline,
        runs_candidate=runs_candidate,
        ratio=_exp(on_logs.value),
        ratio_interval=of_ratio,
        difference=on_values.value,
        difference_interval=of_difference,
        p=tested.p,
        test=tested.test,
        detectable_ratio=math.exp(detectable) if is_known else math.nan,
        significant=significant,
        logarithms=on_logs,
    )


def ratio_ends(
    on_logs: Difference, confidence: float, *, significant: bool | None
) -> tuple[float, float]:
    """Return the interval of a ratio, of which an end that determines nothing is 0 or infinite.

    If the ratio is significant, the end towards 1 is known nevertheless.

    Example:
        >>> wide = Difference(math.log(50), 0.0, 0.0, scatter=0.3, df=1.0)
        >>> [round(end, 1) for end in ratio_ends(wide, 0.95, significant=True)]
        [1.1, inf]
    """
    half = on_logs.half_width(confidence)
    low, high = ratio_interval(_exp(on_logs.value), half)
    if significant and math.isinf(high):
        if on_logs.value > 0:
            low = _exp(on_logs.value - half)
        else:
            high = _exp(on_logs.value + half)
    return low, high


def difference_ends(
    baseline: float, of_ratio: tuple[float, float], on_values: Difference, confidence: float
) -> tuple[float, float]:
    """Return the interval of a difference from that of the ratio, so that the two agree.

    What sensors share and does not cancel in the difference is added in quadrature, but no end
    moves beyond 0, nor below where the candidate would be negative.

    Example:
        >>> found = Difference(10.0, shared=0.0, own=0.0, scatter=9.0, df=2.0)
        >>> [round(end, 6) for end in difference_ends(100.0, (0.5, 1.3), found, 0.95)]
        [-50.0, 30.0]
    """
    low, high = (baseline * (ratio - 1) for ratio in of_ratio)
    value = on_values.value
    shared = replace(on_values, own=0.0, scatter=math.nan).half_width(confidence)
    below = value - math.hypot(max(value - low, 0.0), shared)
    above = value + math.hypot(max(high - value, 0.0), shared)
    least = 0.0 if low > 0 else -baseline
    return max(below, least), min(above, 0.0) if high < 0 else above


def _costs(group: Group, site: Site) -> Costs | None:
    """Compute the costs of all runs together, with the intensity at its time for a single run."""
    runs = [one for one in group.measurements if one.energy.components]
    if not runs:
        return None
    if len(runs) > 1:
        return site.costs(total(one.energy for one in runs))
    run = runs[0]
    is_recorded = (run.directory / READINGS_FILE).exists()
    return site.costs(
        run.energy,
        started_unix_s=run.started_unix_s,
        stopped_unix_s=run.started_unix_s + run.energy.duration_s,
        trace=partial(read_trace, run.directory) if is_recorded else None,
    )


def _repeats(measured: Sequence[Measured], metric: Metric) -> Repeats:
    divisors = {
        "samples": (one.samples for one, _ in measured),
        "duration": (one.energy.duration_s for one, _ in measured),
    }
    return Repeats(
        tuple(value for _, value in measured),
        tuple(one.block for one, _ in measured),
        tuple(divisors.get(metric.per, ())),
    )


def _count_runs(baseline: Sequence[Measured], candidate: Sequence[Measured]) -> tuple[int, int]:
    first, second = ({one.directory for one, _ in side} for side in (baseline, candidate))
    return len(first), len(second)


def _only(group: Group, measured: Sequence[Measured]) -> Group:
    return replace(group, measurements=tuple(one for one, _ in measured))


def _unpaired(paired: Group, known: int, kind: str) -> list[str]:
    unpaired = known - len(paired.measurements)
    if not unpaired:
        return []
    return [f"{paired.role}: {unpaired} of {known} {kind} not compared: no counterpart"]


def _exp(value: float) -> float:
    """Return the exponential; NaN if the ratio is too large to mean anything."""
    return math.exp(value) if abs(value) < 50 else math.nan
