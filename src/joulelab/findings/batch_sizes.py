"""Energy against batch size: the best size, and the smallest one whose energy is close to it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from joulelab.findings.cell_means import Cell, CellMeans
from joulelab.findings.schema import (
    ENERGIES,
    INTERVAL,
    NAMES,
    PHASES,
    READABLE,
    Finding,
    frame,
    records,
)
from joulelab.findings.summary import ANALYZED
from joulelab.format import count, join_words, undetermined, with_interval
from joulelab.stats.blocked_means import CellMean, mean_difference, simultaneous_ratio
from joulelab.stats.estimates import Estimate

TOLERANCE = 0.05
"""A batch size whose energy is at most this share above the least is at the floor."""

_KEY = ("family", *READABLE)

_ENDS = ("", "_low", "_high", "_n")
_NEEDED = (
    "group", "model", "phase", "batch_size",
    *(name + end for name in ENERGIES.values() for end in _ENDS),
)  # fmt: skip

BATCH_CURVES = (
    *_KEY, "model", "phase", "quantity", "batch_size", *INTERVAL, "best", "at_floor", "n",
)  # fmt: skip
"""Columns of :func:`batch_curves`. ``family`` are groups that differ in batch size alone, and
``setting`` is theirs; ``quantity`` is ``net`` or ``gross``, in J per unit; ``best`` marks
the batch size of least energy, ``at_floor`` those at most :data:`TOLERANCE` above it; ``n`` is the
number of repeats."""

BATCH_FLOORS = (
    *_KEY, "model", "phase", "quantity", "best_batch_size", "shown", "floor_batch_size",
    "floor_low", "floor_high", "least_j_per_unit", "smallest_batch_size", "largest_batch_size",
    "saving_pct", "saving_low_pct", "saving_high_pct", "repeats",
)  # fmt: skip
"""Columns of :func:`batch_floors`. ``shown``: whether the energy of a size is significantly above
the least, and by more than :data:`TOLERANCE`; empty without repeats. Only then is there a floor:
the smallest batch size whose energy is close to the least. ``floor_low`` is the smallest that is
not significantly above it, ``floor_high`` the smallest that is significantly at it. ``saving_pct``
is the saving of the best batch size over the smallest one. Intervals hold for all sizes of all
models together (see :mod:`joulelab.stats.blocked_means`)."""


def batch_curves(measured: pd.DataFrame) -> pd.DataFrame:
    """Return energy per unit at each batch size, of models that ran at two or more."""
    rows: list[dict[str, Any]] = []
    for named, part in _models(measured):
        for quantity, column in ENERGIES.items() if len(part) > 1 else ():
            known = part[part[column].notna()]
            least = known[column].min()
            rows += [
                {**named, "quantity": quantity, "batch_size": row["batch_size"]}
                | {
                    "estimate": row[column],
                    "low": row[f"{column}_low"],
                    "high": row[f"{column}_high"],
                    "best": row[column] == least,
                    "at_floor": bool(0 < row[column] <= (1 + TOLERANCE) * least),
                    "n": row[f"{column}_n"],
                }
                for row in records(known)
            ]
    return frame(rows, BATCH_CURVES)


def batch_floors(measured: pd.DataFrame, means: CellMeans) -> pd.DataFrame:
    """Find the best batch size and the floor of each model, phase and quantity.

    Sizes are compared within blocks, on one machine and one sensor, so that what a block has in
    common and the sensor's gain cancel.
    """
    rows: list[dict[str, Any]] = []
    for quantity, column in ENERGIES.items():
        known = [
            (named, sizes)
            for named, part in _models(measured)
            if len(sizes := _sizes(part, column, means[quantity])) > 1
        ]
        pairs = Counter[int]()
        for named, sizes in known:
            pairs[named["family"]] += math.comb(len(sizes), 2)
        rows += [
            {**named, "quantity": quantity} | _floor(sizes, pairs[named["family"]])
            for named, sizes in known
        ]
    rows.sort(key=lambda row: row["family"])
    return frame(rows, BATCH_FLOORS)


def _models(measured: pd.DataFrame) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """Yield the key and the rows by batch size of each model and phase, in the largest families."""
    families = measured.groupby("family")
    several = families["group"].nunique() > 1
    sizes = families.size()[several].sort_values(ascending=False, kind="stable")
    taken: Counter[tuple[str, str]] = Counter()
    for family in sizes.index:
        table = measured[measured["family"] == family]
        place = table["study"].iloc[0], table["machine"].iloc[0]
        taken[place] += 1
        if taken[place] > ANALYZED:
            continue
        named = (family, *place, table["family_setting"].iloc[0], table["unit"].iloc[0])
        key = dict(zip(_KEY, named, strict=True))
        sized = table.loc[table["batch_size"].notna(), list(_NEEDED)]
        for (model, phase), part in sized.groupby(["model", "phase"], sort=False):
            yield {**key, "model": model, "phase": phase}, part.sort_values("batch_size")


@dataclass(frozen=True, slots=True)
class _Size:
    """A batch size of one model."""

    batch_size: int
    j_per_unit: float
    repeats: int
    mean: CellMean


def _sizes(part: pd.DataFrame, column: str, means: Mapping[Cell, CellMean]) -> list[_Size]:
    """Return the sizes of one model's rows, which are in order of batch size."""
    return [
        _Size(int(row["batch_size"]), row[column], int(row[f"{column}_n"]), means[cell])
        for row in records(part)
        if (cell := (row["group"], row["model"], row["phase"])) in means
    ]


def _floor(sizes: list[_Size], comparisons: int) -> dict[str, Any]:
    """Find the floor among the sizes of one model."""
    best = min(sizes, key=lambda one: one.mean.value)
    over = {
        one.batch_size: simultaneous_ratio(mean_difference([(one.mean, best.mean)]), comparisons)
        for one in sizes
        if one is not best
    }
    most = 1 + TOLERANCE
    tested = not any(math.isnan(found.low) for found in over.values())
    shown = any(found.low > 1 and found.value > most for found in over.values())
    floor: dict[str, Any] = {}
    if tested and shown:
        close = {
            end: [size for size, found in over.items() if getattr(found, end) <= most]
            for end in ("value", "low", "high")
        }
        floor = {
            "floor_batch_size": min([*close["value"], best.batch_size]),
            "floor_low": min([*close["low"], best.batch_size]),
            "floor_high": min([*close["high"], best.batch_size]),
        }
    saved = over.get(sizes[0].batch_size, Estimate(1.0, math.nan, math.nan, 0))
    return floor | {
        "best_batch_size": best.batch_size,
        "shown": shown if tested else None,
        "least_j_per_unit": best.j_per_unit,
        "smallest_batch_size": sizes[0].batch_size,
        "largest_batch_size": sizes[-1].batch_size,
        "saving_pct": 100 * (1 - 1 / saved.value),
        "saving_low_pct": 100 * (1 - 1 / saved.low) if saved.low > 0 else -math.inf,
        "saving_high_pct": 100 * (1 - 1 / saved.high),
        "repeats": min(one.repeats for one in sizes),
    }


def batch_findings(floors: pd.DataFrame, measured: pd.DataFrame) -> list[Finding]:
    """State where the floor is. Ids: ``batch.<phase>.<net|gross>``."""
    groups = {
        family: tuple(int(group) for group in part.unique())
        for family, part in measured.groupby("family")["group"]
    }
    keys = ["family", "phase", "quantity"]
    return [
        _finding(records(part), groups[int(part["family"].iloc[0])])
        for _, part in floors.groupby(keys, sort=False)
    ]


def _finding(rows: list[dict[str, Any]], groups: tuple[int, ...]) -> Finding:
    first = rows[0]
    energy, phase = NAMES[first["quantity"]], PHASES[first["phase"]]
    shown = [row for row in rows if not pd.isna(row["shown"]) and row["shown"]]
    floors = sorted(row["floor_batch_size"] for row in shown)
    low, high = math.nan, math.nan
    if len(rows) == len(shown) == 1:
        low, high = float(first["floor_low"]), float(first["floor_high"])
    texts = [_undetermined(rows, energy)]
    if shown:
        texts = [_where(shown, floors, len(rows)), _saving(shown, energy), _edge(shown)]
    return Finding.about(
        first,
        f"batch.{first['phase']}.{first['quantity']}",
        f"Beyond which batch size does {energy} in {phase} stop falling?",
        texts,
        estimate=float(pd.Series(floors).median()) if floors else math.nan,
        low=low,
        high=high,
        n=len(rows),
        unit="samples",
        figure="batch-size",
        groups=groups,
        significant=None if all(pd.isna(row["shown"]) for row in rows) else bool(shown),
    )


def _undetermined(rows: list[dict[str, Any]], energy: str) -> str:
    repeats = min(int(row["repeats"]) for row in rows)
    sizes = sorted({int(row["best_batch_size"]) for row in rows})
    measured = join_words([f"{size:,}" for size in sizes], "or")
    if any(pd.isna(row["shown"]) for row in rows):
        return (
            f"this {undetermined()} without repeats in two blocks or more; the least {energy} "
            f"was measured at {measured}"
        )
    return (
        f"this {undetermined(count(repeats, 'repeat'))}: no batch size uses "
        f"significantly more {energy} per {rows[0]['unit']} than another, and more than "
        f"{100 * TOLERANCE:g} % more (the least was measured at {measured})"
    )


def _where(rows: list[dict[str, Any]], floors: list[int], n: int) -> str:
    text = f"{floors[0]:,}"
    if floors[0] != floors[-1]:
        text += f" to {floors[-1]:,} (median {pd.Series(floors).median():,g})"
    models = "" if n == 1 else f"for {len(rows)} of {n} models, "
    text = (
        f"{models}the smallest batch size within {100 * TOLERANCE:g} % of the least energy is "
        f"{text}; the least was measured at {_best(rows)}"
    )
    least = min(row["floor_low"] for row in rows)
    most = max(row["floor_high"] for row in rows)
    if least != most:
        text += f"; the intervals allow any size from {least:,} to {most:,}"
    if n > len(rows):
        text += "; for the other models no difference between sizes is significant"
    return text


def _best(rows: list[dict[str, Any]]) -> str:
    counts = Counter(int(row["best_batch_size"]) for row in rows)
    if len(counts) == 1:
        return f"{next(iter(counts)):,}"
    return join_words([f"{size:,} ({count(n, 'model')})" for size, n in sorted(counts.items())])


def _saving(rows: list[dict[str, Any]], energy: str) -> str:
    """State the saving over the smallest size, of the models for which it is significant."""
    known = sorted(
        (row for row in rows if row["saving_low_pct"] > 0), key=lambda row: row["saving_pct"]
    )
    if not known:
        return ""
    first, last = known[0], known[-1]
    smallest = sorted({row["smallest_batch_size"] for row in known})
    sizes = join_words([f"{size:,}" for size in smallest])
    saved = _percentage(first)
    if len(known) > 1:
        saved = f"{saved} for {first['model']} to {_percentage(last)} for {last['model']}"
    return (
        f"compared with the smallest size measured ({sizes}), the best one saves {saved} of the "
        f"{energy} per {first['unit']}"
    )


def _percentage(row: dict[str, Any]) -> str:
    return with_interval(row["saving_pct"], row["saving_low_pct"], row["saving_high_pct"], "%")


def _edge(rows: list[dict[str, Any]]) -> str:
    """State for how many models a larger size may be better than any that was run."""
    at_edge = [row for row in rows if row["best_batch_size"] == row["largest_batch_size"]]
    if not at_edge:
        return ""
    models = "" if len(rows) == 1 else f"for {len(at_edge)} of {count(len(rows), 'model')} "
    return (
        f"{models}the best size is the largest that was measured, so a larger one may be better "
        "still"
    )
