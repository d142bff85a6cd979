"""The model of least energy, and the effect of each factor on energy per unit."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from joulelab.findings.cell_means import Cell, CellMeans
from joulelab.findings.comparisons import TOO_WIDE
from joulelab.findings.schema import ENERGIES, INTERVAL, KEY, NAMES, PHASES, Finding, frame, records
from joulelab.findings.summary import setting_text, varying
from joulelab.format import count, join_words, with_interval
from joulelab.runs import FACTORS
from joulelab.stats.blocked_means import CellMean, mean_difference, simultaneous_ratio

MODEL_RATIOS = (*KEY, "phase", "quantity", "model", "other", *INTERVAL, "shown", "n")
"""Columns of :func:`model_ratios`: energy per unit of ``model`` over that of ``other``, the model
of least energy, with intervals that hold for all pairs of the ``n`` models and all phases
together; ``shown`` states whether the interval excludes 1, and is empty without repeats."""

FACTOR_EFFECTS = (
    "study", "machine", "unit", "phase", "quantity", "predictor", "level", "reference", *INTERVAL,
    "shown", "n",
)  # fmt: skip
"""Columns of :func:`factor_effects`: energy per unit at a level of a factor (``predictor``) over
that at the ``reference`` level, the geometric mean over ``n`` combinations of model and other
factors; intervals hold for all factors, levels and phases of a study and machine together."""


def model_ratios(measured: pd.DataFrame, means: CellMeans) -> pd.DataFrame:
    """Compare each model with the one of least energy per unit, within blocks."""
    rows: list[dict[str, Any]] = []
    for _, group in measured.groupby("group", sort=False):
        named = {name: group[name].iloc[0] for name in KEY}
        for quantity in ENERGIES:
            by_phase = {phase: _models(group, phase, means[quantity]) for phase in PHASES}
            pairs = sum(math.comb(len(models), 2) for models in by_phase.values())
            for phase, models in by_phase.items():
                key = named | {"phase": phase, "quantity": quantity, "n": len(models)}
                rows += [key | row for row in _over_least(models, pairs)]
    return frame(rows, MODEL_RATIOS)


def _models(group: pd.DataFrame, phase: str, means: Mapping[Cell, CellMean]) -> dict[str, CellMean]:
    part = group[group["phase"] == phase]
    cells = zip(part["group"], part["model"], part["phase"], strict=True)
    return {cell[1]: means[cell] for cell in cells if cell in means}


def _over_least(means: Mapping[str, CellMean], pairs: int) -> Iterator[dict[str, Any]]:
    if len(means) < 2:
        return
    least = min(means, key=lambda name: means[name].value)
    for model in sorted(means, key=lambda name: means[name].value):
        if model != least:
            yield {"model": model, "other": least} | _ratio([(means[model], means[least])], pairs)


def _ratio(pairs: list[tuple[CellMean, CellMean]], comparisons: int) -> dict[str, Any]:
    found = simultaneous_ratio(mean_difference(pairs), comparisons)
    shown = None if math.isnan(found.low) else not found.low <= 1 <= found.high
    ends = {"estimate": found.value, "low": found.low, "high": found.high}
    return ends | {"shown": shown}


def factor_effects(measured: pd.DataFrame, means: CellMeans) -> pd.DataFrame:
    """Compare the levels of each factor but the batch size, within blocks and all else equal."""
    rows: list[dict[str, Any]] = []
    for _, part in measured.groupby(["study", "identity", "sources"], dropna=False, sort=False):
        named = {name: part[name].iloc[0] for name in ("study", "machine", "unit")}
        factors = [name for name in varying(part) if name != "batch_size"]
        for quantity in ENERGIES:
            pairs = [
                (named | {"phase": phase, "quantity": quantity, "predictor": factor} | levels, both)
                for factor in factors
                for phase in PHASES
                for levels, both in _level_pairs(part, factor, phase, means[quantity])
            ]
            rows += [row | {"n": len(both)} | _ratio(both, len(pairs)) for row, both in pairs]
    return frame(rows, FACTOR_EFFECTS)


def _level_pairs(
    part: pd.DataFrame, factor: str, phase: str, means: Mapping[Cell, CellMean]
) -> Iterator[tuple[dict[str, str], list[tuple[CellMean, CellMean]]]]:
    """Yield the levels with the cells that have a counterpart at the reference level."""
    others = ["model", *(name for name in FACTORS if name != factor)]
    by_level: dict[Any, dict[tuple[Any, ...], CellMean]] = {}
    for row in records(part[part["phase"] == phase][["group", "phase", *others, factor]]):
        cell = (row["group"], row["model"], row["phase"])
        if cell in means and not pd.isna(row[factor]):
            key = tuple(str(row[name]) for name in others)
            by_level.setdefault(row[factor], {})[key] = means[cell]
    if not by_level:
        return
    reference = max(sorted(by_level), key=lambda level: len(by_level[level]))
    for level in sorted(by_level):
        both = [
            (mean, by_level[reference][key])
            for key, mean in by_level[level].items()
            if key in by_level[reference]
        ]
        if level != reference and both:
            yield {"level": str(level), "reference": str(reference)}, both


def efficiency_findings(ratios: pd.DataFrame, effects: pd.DataFrame) -> list[Finding]:
    """State the model of least energy, and the effect of each factor.

    Ids: ``models.<phase>.<net|gross>`` and ``factor.<phase>.<net|gross>.<factor>.<level>``.
    """
    by_model = ratios.groupby(["group", "phase", "quantity"], sort=False)
    return [
        *(_least(records(part)) for _, part in by_model),
        *(_effect(row) for row in records(effects)),
    ]


def _least(rows: list[dict[str, Any]]) -> Finding:
    nearest, least, n = rows[0], rows[0]["other"], rows[0]["n"]
    energy, phase = f"{NAMES[nearest['quantity']]} per {nearest['unit']}", PHASES[nearest["phase"]]
    tested = not pd.isna(nearest["shown"])
    apart = [row for row in rows if tested and row["shown"]]
    close = [row["model"] for row in rows if not (tested and row["shown"])]
    if not tested:
        texts = [
            f"which of {n} models uses the least {energy} in {phase} cannot be determined without "
            f"repeats in two blocks or more; the least was measured for {least}"
        ]
    elif not apart:
        texts = [
            f"which of {n} models uses the least {energy} in {phase} cannot be determined: the "
            f"least was measured for {least}, and none uses significantly more"
        ]
    elif not close:
        texts = [
            f"{least} uses the least {energy} in {phase}: the next, {nearest['model']}, uses "
            f"{_times(nearest)}"
        ]
    else:
        texts = [
            f"the least {energy} in {phase} was measured for {least}; "
            f"{_some(close)} cannot be distinguished from it (95 %)"
        ]
    if apart:
        first, last = apart[0], apart[-1]
        more = f"{last['model']} uses the most, {_times(last)}"
        if close and len(apart) > 1:
            more = (
                f"{len(apart)} models use significantly more, from {_times(first)} "
                f"({first['model']}) to {_times(last)} ({last['model']})"
            )
        if close or len(apart) > 1:
            texts.append(more)
        texts.append("intervals hold for all pairs of models together")
    return Finding.about(
        nearest,
        f"models.{nearest['phase']}.{nearest['quantity']}",
        f"Which model uses the least {energy} in {phase}?",
        texts,
        figure="energy",
        significant=bool(apart) if tested else None,
    )


def _some(names: list[str]) -> str:
    left = len(names) - 3
    return join_words([*names[:3], f"{left} others"] if left > 1 else names)


def _times(row: dict[str, Any]) -> str:
    if math.isinf(row["high"]):
        return f"an unknown number of times as much ({TOO_WIDE})"
    return f"{with_interval(row['estimate'], row['low'], row['high'])} times as much"


def _effect(row: dict[str, Any]) -> Finding:
    energy, phase = f"{NAMES[row['quantity']]} per {row['unit']}", PHASES[row["phase"]]
    level, reference = (
        setting_text({row["predictor"]: row[name]}) for name in ("level", "reference")
    )
    over = f"geometric mean over {count(row['n'], 'combination')} of model and other factors"
    ratio = f"{_times(row)} as {reference} ({over})"
    if pd.isna(row["shown"]):
        text = f"{level} was measured to use {ratio}; repeats are needed to test the difference"
    elif not row["shown"]:
        text = f"no significant difference (95 %): {level} was measured to use {ratio}"
    else:
        text = f"{level} uses significantly {'more' if row['estimate'] > 1 else 'less'}: {ratio}"
    return Finding.about(
        row,
        f"factor.{row['phase']}.{row['quantity']}.{row['predictor']}.{row['level']}",
        f"Does {level} change the {energy} of {phase}, compared with {reference}?",
        [text],
        figure="energy",
        significant=None if pd.isna(row["shown"]) else bool(row["shown"]),
        detail=False,
    )
