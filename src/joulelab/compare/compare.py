"""Two sides compared: which runs are paired, the effect of each pair, and of all."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from joulelab.carbon.costs import Costs
from joulelab.carbon.site import Site
from joulelab.compare.costs import costs_of
from joulelab.compare.doubts import Difference, differences, doubts
from joulelab.compare.pairing import (
    Known,
    checked_levels,
    components_in_common,
    known_figures,
    paired,
    telling_levels,
)
from joulelab.compare.sides import Side
from joulelab.energy.uncertainty import Metric
from joulelab.errors import UserError
from joulelab.stats.difference import Cell, Repeats, holm
from joulelab.stats.difference import Difference as MeanDifference
from joulelab.stats.difference import difference as mean_difference
from joulelab.uncertain import CONFIDENCE


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """The second side over the first. What is not known is NaN.

    Attributes:
        levels: Of the cell; empty for all cells together.
        a: Mean of the first side; NaN for several cells together.
        b: Mean of the second.
        n_a: How many runs.
        n_b: Likewise.
        ratio: Of geometric means; NaN where a figure is not positive.
        ratio_interval: Its ends.
        difference: The second less the first; NaN for several cells together.
        difference_interval: Its ends.
        p: Of no difference.
        test: What p is by; empty where it cannot be tested.
        detectable_ratio: A ratio this large would be shown four times in five.
        shown: Whether the interval leaves out no difference; ``None`` where it cannot be tested.
        logarithms: What the ratio was worked out from.
    """

    levels: Mapping[str, str]
    a: float
    b: float
    n_a: int
    n_b: int
    ratio: float
    ratio_interval: tuple[float, float]
    difference: float
    difference_interval: tuple[float, float]
    p: float
    test: str
    detectable_ratio: float
    shown: bool | None
    logarithms: MeanDifference

    def above(self, limit: float) -> bool | None:
        """Whether the interval of the ratio is above 1 by more than a fraction.

        Returns:
            ``True``: all of it. ``False``: none of it. ``None``: it cannot be told, which is
            always so without a test.
        """
        low, high = self.ratio_interval
        if not self.test or math.isnan(low):
            return None
        if low > 1 + limit:
            return True
        return False if high <= 1 + limit else None

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary; NaN becomes ``None``."""
        from joulelab.runs.store import plain  # noqa: PLC0415

        told = (name for name in self.__dataclass_fields__ if name != "logarithms")
        return dict(plain({name: getattr(self, name) for name in told}))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Comparison:
    """What is known of two sides.

    Attributes:
        a: The first side.
        b: The second side.
        metric: What is compared.
        confidence: Of every interval.
        effect: Over all cells.
        cells: Of each cell, where there are several; ``shown`` after Holm's correction.
        costs: Of the first side and the second, all of what was compared.
        differences: In machines, software, sensors and settings.
        doubts: What a person should know before believing it, in words.
    """

    a: Side
    b: Side
    metric: Metric
    confidence: float
    effect: Effect
    cells: tuple[Effect, ...]
    costs: tuple[Costs | None, Costs | None]
    differences: tuple[Difference, ...]
    doubts: tuple[str, ...]

    def above(self, limit: float, *, each: bool = False) -> bool | None:
        """Whether the second side is shown to be above the first by more than a fraction.

        Args:
            limit: As 0.05 for 5 %.
            each: Whether each cell has to keep to it, not their mean alone; that a cell does not
                is shown after Holm's correction for their number.

        Returns:
            See :meth:`Effect.above`.
        """
        if not (each and self.cells):
            return self.effect.above(limit)
        alpha = (1 - self.confidence) / 2
        if any(
            _rejected([cell.logarithms.p_above(math.log1p(limit)) for cell in self.cells], alpha)
        ):
            return True
        return False if all(cell.above(limit) is False for cell in self.cells) else None

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary; NaN becomes ``None``."""
        return {
            "metric": self.metric.name,
            "unit": self.metric.unit,
            "confidence": self.confidence,
            "a": self.a.to_json() | {"costs": _costs_json(self.costs[0])},
            "b": self.b.to_json() | {"costs": _costs_json(self.costs[1])},
            "effect": self.effect.to_json(),
            "cells": [cell.to_json() for cell in self.cells],
            "differences": [difference.to_json() for difference in self.differences],
            "doubts": list(self.doubts),
        }


def compare(
    a: Side,
    b: Side,
    metric: Metric,
    *,
    by: Sequence[str] | None = None,
    confidence: float = CONFIDENCE,
    stated_scatter: float | None = None,
    site: Site | None = None,
) -> Comparison:
    """Compares two sides.

    Args:
        a: What is compared with.
        b: What is compared.
        metric: In what.
        by: Levels in which runs must agree to be compared; ``None``: those that vary within a
            side.
        confidence: Of the intervals, as 0.95.
        stated_scatter: Relative standard deviation of a run, for where runs do not tell it.
        site: Where the electricity comes from; ``None``: not known.

    Raises:
        UserError: There is nothing to compare.
    """
    if a.kind != b.kind:
        raise UserError(
            f"{a.label} holds {a.kind} and {b.label} {b.kind}",
            hint="compare jobs with jobs and studies with studies",
        )
    twice = {run.directory.resolve() for run in a.measurements}.intersection(
        run.directory.resolve() for run in b.measurements
    )
    if twice:
        raise UserError(f"{min(twice)} is on both sides", hint="compare it with another run")
    components, left_out = components_in_common(metric, a, b)
    chosen = telling_levels(a, b) if by is None else checked_levels(by, a, b)
    (known_a, missing_a), (known_b, missing_b) = (
        known_figures(one, metric, components) for one in (a, b)
    )
    pairs = paired(known_a, known_b, chosen)
    cells = [
        (levels, Cell(_repeats(in_a), _repeats(in_b), unit=levels.get("model")))
        for levels, in_a, in_b in pairs
    ]
    each = [_effect([cell], levels, confidence, stated_scatter) for levels, cell in cells]
    paired_a = _only(a, [known for _, in_a, _ in pairs for known in in_a])
    paired_b = _only(b, [known for _, _, in_b in pairs for known in in_b])
    several = len(cells) > 1
    return Comparison(
        a=a,
        b=b,
        metric=metric,
        confidence=confidence,
        effect=_effect([cell for _, cell in cells], {}, confidence, stated_scatter)
        if several
        else each[0],
        cells=tuple(_corrected(each, confidence)) if several else (),
        costs=(costs_of(paired_a, site or Site()), costs_of(paired_b, site or Site())),
        differences=tuple(differences(paired_a, paired_b, chosen)),
        doubts=(
            *left_out,
            *missing_a,
            *missing_b,
            *_unpaired(paired_a, known_a),
            *_unpaired(paired_b, known_b),
            *doubts(paired_a, paired_b, metric, chosen, cells),
        ),
    )


def _costs_json(costs: Costs | None) -> dict[str, Any] | None:
    return None if costs is None else costs.to_json()


def _repeats(runs: Sequence[Known]) -> Repeats:
    return Repeats(tuple(value for _, value in runs), tuple(run.block for run, _ in runs))


def _only(side: Side, paired: Sequence[Known]) -> Side:
    return replace(side, measurements=tuple(run for run, _ in paired))


def _unpaired(paired: Side, known: Sequence[Known]) -> list[str]:
    left = len(known) - len(paired.measurements)
    if not left:
        return []
    return [
        f"{paired.letter}: {left} of {len(known)} runs left out: the other side has none like them"
    ]


def _effect(
    cells: Sequence[Cell],
    levels: Mapping[str, str],
    confidence: float,
    stated_scatter: float | None,
) -> Effect:
    one = cells[0] if len(cells) == 1 else None
    positive = all(cell.baseline.is_positive and cell.candidate.is_positive for cell in cells)
    unknown = MeanDifference(math.nan, 0.0, 0.0)
    on_logs = (
        mean_difference([cell.logarithms() for cell in cells], stated_scatter)
        if positive
        else unknown
    )
    plain_scatter = None
    if stated_scatter is not None and one is not None:
        plain_scatter = stated_scatter * abs(one.baseline.mean)
    on_values = mean_difference(cells, plain_scatter) if one else unknown
    tested = on_logs if positive else on_values
    low, high = on_logs.interval(confidence)
    apart = tested.half_width(confidence) < abs(tested.value)
    return Effect(
        levels=levels,
        a=one.baseline.mean if one else math.nan,
        b=one.candidate.mean if one else math.nan,
        n_a=sum(cell.baseline.n for cell in cells),
        n_b=sum(cell.candidate.n for cell in cells),
        ratio=_exp(on_logs.value),
        ratio_interval=(_exp(low), _exp(high)),
        difference=on_values.value,
        difference_interval=on_values.interval(confidence),
        p=tested.p,
        test=tested.test,
        detectable_ratio=_exp(on_logs.detectable(confidence)),
        shown=apart if tested.is_tested else None,
        logarithms=on_logs,
    )


def _exp(value: float) -> float:
    """The ratio; NaN beyond what numbers can tell."""
    return math.exp(value) if abs(value) < 50 else math.nan


def _corrected(effects: Sequence[Effect], confidence: float) -> list[Effect]:
    """What is shown after Holm's correction for looking at many cells."""
    rejected = _rejected([effect.p for effect in effects], 1 - confidence)
    return [
        effect if effect.shown is None else replace(effect, shown=shown)
        for effect, shown in zip(effects, rejected, strict=True)
    ]


def _rejected(p: Sequence[float], alpha: float) -> list[bool]:
    """Which hypotheses Holm's procedure rejects; none that has no p."""
    return [value <= alpha for value in holm(p)]
