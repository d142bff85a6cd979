"""Energy against batch size: the best size, and the smallest one whose energy is close to it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pandas as pd

from joulelab.findings.schema import ENERGIES, INTERVAL, NAMES, PHASES, Finding, frame, records
from joulelab.findings.summary import ANALYZED
from joulelab.format import count, join_words, percent
from joulelab.stats.estimates import estimate_ratio

TOLERANCE = 0.05
"""A batch size whose energy is at most this share above the least is at the floor."""

_KEY = ("family", "study", "machine", "setting")

_ENDS = ("", "_low", "_high", "_n", "_random")
_NEEDED = (
    "model", "phase", "batch_size", *(name + end for name in ENERGIES.values() for end in _ENDS),
)  # fmt: skip

BATCH_CURVES = (
    *_KEY, "model", "phase", "quantity", "batch_size", *INTERVAL, "best", "at_floor", "n",
)  # fmt: skip
"""Columns of :func:`batch_curves`. ``family`` are groups that differ in batch size alone, and
``setting`` is theirs; ``quantity`` is ``net`` or ``gross``, in J per sample; ``best`` marks the
batch size of least energy, ``at_floor`` those at most :data:`TOLERANCE` above it; ``n`` is the
number of repeats."""

BATCH_FLOORS = (
    *_KEY, "model", "phase", "quantity", "best_batch_size", "floor_batch_size", "floor_low",
    "floor_high", "least_j_per_sample", "smallest_batch_size", "largest_batch_size", "saving_pct",
    "saving_low_pct", "saving_high_pct",
)  # fmt: skip
"""Columns of :func:`batch_floors`. The floor is the smallest batch size at it; ``floor_low`` is
the smallest that is not significantly above it, ``floor_high`` the smallest that is significantly
at it (both by the 95 % interval of the ratio to the least; empty without intervals).
``saving_pct`` is the saving of the best batch size over the smallest one."""


def batch_curves(measured: pd.DataFrame) -> pd.DataFrame:
    """Return energy per sample at each batch size, of models that ran at two or more."""
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


def batch_floors(measured: pd.DataFrame) -> pd.DataFrame:
    """Find the best batch size and the floor of each model, phase and quantity.

    Ratios are between runs on one machine and one sensor, so the sensor's gain cancels.
    """
    rows: list[dict[str, Any]] = []
    for named, part in _models(measured):
        for quantity, column in ENERGIES.items():
            known = part[part[column].notna()]
            if len(known) > 1 and known[column].min() > 0:
                rows.append({**named, "quantity": quantity} | _floor(records(known), column))
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
        key = dict(zip(_KEY, (family, *place, table["family_setting"].iloc[0]), strict=True))
        sized = table.loc[table["batch_size"].notna(), list(_NEEDED)]
        for (model, phase), part in sized.groupby(["model", "phase"], sort=False):
            yield {**key, "model": model, "phase": phase}, part.sort_values("batch_size")


def _floor(rows: list[dict[str, Any]], column: str) -> dict[str, Any]:
    """Find the floor in one model's rows, which are in order of batch size."""
    best = min(rows, key=lambda row: float(row[column]))
    over = [(row["batch_size"], estimate_ratio(row, best, column, shared=False)) for row in rows]
    # The best size is at the floor by definition, however wide its interval.
    others = {size: found for size, found in over if size != best["batch_size"]}
    most = 1 + TOLERANCE
    within = [size for size, found in over if found.value <= most]
    possible = [size for size, found in others.items() if found.low <= most]
    shown = [size for size, found in others.items() if found.high <= most]
    known = any(not math.isnan(found.low) for found in others.values())
    saved = estimate_ratio(best, rows[0], column, shared=False)
    return {
        "best_batch_size": best["batch_size"],
        "floor_batch_size": min(within),
        "floor_low": min([*possible, best["batch_size"]]) if known else None,
        "floor_high": min([*shown, best["batch_size"]]) if known else None,
        "least_j_per_sample": best[column],
        "smallest_batch_size": rows[0]["batch_size"],
        "largest_batch_size": rows[-1]["batch_size"],
        "saving_pct": 100 * (1 - saved.value),
        "saving_low_pct": 100 * (1 - saved.high),
        "saving_high_pct": 100 * (1 - saved.low),
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
    first, n = rows[0], len(rows)
    energy, phase = NAMES[first["quantity"]], PHASES[first["phase"]]
    floors = sorted(row["floor_batch_size"] for row in rows)
    low, high = math.nan, math.nan
    if n == 1 and not pd.isna(first["floor_low"]):
        low, high = float(first["floor_low"]), float(first["floor_high"])
    return Finding.about(
        first,
        f"batch.{first['phase']}.{first['quantity']}",
        f"Beyond which batch size does {energy} in {phase} stop falling?",
        [_best(rows), _where(rows, floors), _saving(rows, energy), _edge(rows)],
        estimate=float(pd.Series(floors).median()),
        low=low,
        high=high,
        n=n,
        unit="samples",
        figure="batch-size",
        groups=groups,
    )


def _best(rows: list[dict[str, Any]]) -> str:
    counts = Counter(int(row["best_batch_size"]) for row in rows)
    sizes = [f"{size:,} for {count(models, 'model')}" for size, models in sorted(counts.items())]
    return f"the batch size of least energy is {join_words(sizes)}"


def _where(rows: list[dict[str, Any]], floors: list[int]) -> str:
    text = f"the smallest batch size within {100 * TOLERANCE:g} % of the least energy is "
    if floors[0] == floors[-1]:
        text += f"{floors[0]:,}" + (" for all models" if len(rows) > 1 else "")
    else:
        text += f"{floors[0]:,} to {floors[-1]:,}, with a median of {pd.Series(floors).median():,g}"
    if any(pd.isna(row["floor_low"]) for row in rows):
        return f"{text}; repeats are needed to estimate its uncertainty"
    unsure = [row for row in rows if row["floor_low"] != row["floor_high"]]
    if not unsure:
        return f"{text}, which all intervals confirm"
    least = min(row["floor_low"] for row in unsure)
    most = max(row["floor_high"] for row in unsure)
    return (
        f"{text}; for {len(unsure)} of {count(len(rows), 'model')} the intervals allow any size "
        f"from {least:,} to {most:,}, which more repeats would narrow"
    )


def _saving(rows: list[dict[str, Any]], energy: str) -> str:
    savings = sorted((row["saving_pct"], row["model"]) for row in rows)
    sizes = [f"{size:,}" for size in sorted({row["smallest_batch_size"] for row in rows})]
    (least, one), (most, other) = savings[0], savings[-1]
    saved = percent(least / 100)
    if len(rows) > 1:
        saved = f"{saved} ({one}) to {percent(most / 100)} ({other})"
    return (
        f"compared with the smallest size measured ({join_words(sizes)}), the best one saves "
        f"{saved} of the {energy} per sample"
    )


def _edge(rows: list[dict[str, Any]]) -> str:
    """State for how many models a larger size may be better than any that was run."""
    at_edge = [row for row in rows if row["best_batch_size"] == row["largest_batch_size"]]
    if not at_edge:
        return ""
    return (
        f"for {len(at_edge)} of {count(len(rows), 'model')} the best size is the largest that was "
        "measured, so a larger one may be better still"
    )
