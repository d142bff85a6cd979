"""Energy against batch size: the best size, and the floor beyond which little is gained."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from joulelab.findings.data import LEADING, Group
from joulelab.findings.findings import Finding
from joulelab.findings.frames import FLAG, INT, INTERVAL, PLACE, REAL, TEXT, frame, records
from joulelab.findings.terms import ENERGIES, NAMES, PHASES
from joulelab.findings.words import counted, listed, number, sentence
from joulelab.stats.estimates import estimate_ratio

TOLERANCE = 0.05
"""A batch size whose energy is at most so much above the least is at the floor."""

BATCH_CURVES: Mapping[str, str] = {
    **PLACE,
    "model": TEXT,
    "phase": TEXT,
    "quantity": TEXT,
    "batch_size": INT,
    **INTERVAL,
    "least": FLAG,
    "at_floor": FLAG,
    "n": INT,
}
"""Columns of :func:`batch_curves`. ``quantity`` is ``net`` or ``gross``, J per sample; ``setting``
leaves the batch size out; ``least`` marks the batch size of least energy, ``at_floor`` those at
most :data:`TOLERANCE` above it; ``n`` counts repeats."""

BATCH_FLOORS: Mapping[str, str] = {
    **PLACE,
    "model": TEXT,
    "phase": TEXT,
    "quantity": TEXT,
    "best_batch_size": INT,
    "floor_batch_size": INT,
    "floor_low": INT,
    "floor_high": INT,
    "least_j_per_sample": REAL,
    "smallest_batch_size": INT,
    "largest_batch_size": INT,
    "saving_pct": REAL,
    "saving_low_pct": REAL,
    "saving_high_pct": REAL,
}
"""Columns of :func:`batch_floors`. The floor is the smallest batch size at it; ``floor_low`` the
smallest that is not shown to be above it, ``floor_high`` the smallest that is shown to be at it
(both by 95 % intervals of the ratio to the least; empty where there are none). ``saving_pct`` is
what the best batch size saves over the smallest one that was run."""

_ENDS = ("", "_low", "_high", "_n", "_random")
_NEEDED = (
    "model",
    "phase",
    "batch_size",
    *(f"{name}{end}" for name in ENERGIES.values() for end in _ENDS),
)


def batch_curves(groups: Sequence[Group]) -> pd.DataFrame:
    """Energy per sample at each batch size, of models that ran at two or more.

    Args:
        groups: All groups. Of each study and machine, the :data:`joulelab.findings.data.LEADING`
            settings with the most batch sizes and models are taken.
    """
    rows: list[dict[str, Any]] = []
    for place, table in _families(groups):
        for (model, phase), part in table.groupby(["model", "phase"], sort=False):
            by_size = part.sort_values("batch_size")
            if len(by_size) < 2:
                continue
            for quantity, column in ENERGIES.items():
                named = {"model": model, "phase": phase, "quantity": quantity}
                rows += [place | named | row for row in _curve(by_size, column)]
    return frame(rows, BATCH_CURVES)


def batch_floors(groups: Sequence[Group]) -> pd.DataFrame:
    """The best batch size and the floor of each model, phase and quantity.

    Args:
        groups: As :func:`batch_curves` takes them. Ratios are of runs of one machine and one
            sensor, so that the sensor's gain leaves them.
    """
    rows: list[dict[str, Any]] = []
    for place, table in _families(groups):
        for (model, phase), part in table.groupby(["model", "phase"], sort=False):
            for quantity, column in ENERGIES.items():
                known = part[part[column].notna()].sort_values("batch_size")
                if len(known) > 1 and known[column].min() > 0:
                    named = {"model": model, "phase": phase, "quantity": quantity}
                    rows.append(place | named | _floor(records(known), column))
    return frame(rows, BATCH_FLOORS)


def _families(groups: Sequence[Group]) -> list[tuple[dict[str, str], pd.DataFrame]]:
    """Groups that differ in their batch sizes alone, one table a family, with its place."""
    by_place: dict[tuple[str, str, str], list[Group]] = {}
    for group in groups:
        place = (group.study, group.machine, group.setting_but("batch_size"))
        by_place.setdefault(place, []).append(group)
    several = {place: members for place, members in by_place.items() if len(members) > 1}
    largest = sorted(several.items(), key=lambda item: -sum(len(g.table) for g in item[1]))
    taken: Counter[tuple[str, str]] = Counter()
    families = []
    for (study, machine, setting), members in largest:
        taken[study, machine] += 1
        if taken[study, machine] <= LEADING:
            table = pd.concat([group.table for group in members], ignore_index=True)
            named = {"study": study, "machine": machine, "setting": setting}
            families.append((named, table.loc[table["batch_size"].notna(), list(_NEEDED)]))
    return families


def _curve(by_size: pd.DataFrame, column: str) -> list[dict[str, Any]]:
    known = by_size[by_size[column].notna()]
    least = known[column].min()
    return [
        {
            "batch_size": row["batch_size"],
            "estimate": row[column],
            "low": row[f"{column}_low"],
            "high": row[f"{column}_high"],
            "least": row[column] == least,
            "at_floor": bool(0 < row[column] <= (1 + TOLERANCE) * least),
            "n": row[f"{column}_n"],
        }
        for row in records(known)
    ]


def _floor(rows: list[dict[str, Any]], column: str) -> dict[str, Any]:
    """The floor of one model's rows, which are in order of batch size."""
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


def batch_findings(floors: pd.DataFrame) -> list[Finding]:
    """Where the floor is. Ids: ``batch.<phase>.<net|gross>``.

    Args:
        floors: See :func:`batch_floors`.
    """
    keys = [*PLACE, "phase", "quantity"]
    return [_finding(records(part)) for _, part in floors.groupby(keys, sort=False)]


def _finding(rows: list[dict[str, Any]]) -> Finding:
    first, n = rows[0], len(rows)
    energy, phase = NAMES[first["quantity"]], PHASES[first["phase"]]
    floors = sorted(row["floor_batch_size"] for row in rows)
    median = float(pd.Series(floors).median())
    low, high = math.nan, math.nan
    if n == 1 and not pd.isna(first["floor_low"]):
        low, high = float(first["floor_low"]), float(first["floor_high"])
    texts = [_best(rows), _where(rows, floors), _saving(rows, energy), _edge(rows)]
    return Finding(
        id=f"batch.{first['phase']}.{first['quantity']}",
        question=f"From which batch size on does a larger one save no {energy} in {phase}?",
        statement=" ".join(sentence(text) for text in texts if text),
        estimate=median,
        low=low,
        high=high,
        n=n,
        unit="samples",
        study=first["study"],
        setting=first["setting"],
        figure="batch-size",
    )


def _best(rows: list[dict[str, Any]]) -> str:
    counts = Counter(int(row["best_batch_size"]) for row in rows)
    told = [f"{size:,} for {counted(count, 'model')}" for size, count in sorted(counts.items())]
    return f"the batch size of least energy is {listed(told)}"


def _where(rows: list[dict[str, Any]], floors: list[int]) -> str:
    text = f"the floor, the smallest batch size within {100 * TOLERANCE:g} % of the least, is at "
    if floors[0] == floors[-1]:
        text += f"{floors[0]:,}" + (" for all" if len(rows) > 1 else "")
    else:
        text += f"{floors[0]:,} to {floors[-1]:,}, with a median of {pd.Series(floors).median():,g}"
    unsure = [row for row in rows if pd.isna(row["floor_low"])]
    if unsure:
        return f"{text}; how sure that is only repeats can tell"
    open_ = [row for row in rows if row["floor_low"] != row["floor_high"]]
    if not open_:
        return f"{text}, as the intervals of all show"
    least = min(row["floor_low"] for row in open_)
    most = max(row["floor_high"] for row in open_)
    return (
        f"{text}; by their intervals it may be anywhere from {least:,} to {most:,} for "
        f"{len(open_)} of {counted(len(rows), 'model')}, which more repeats would narrow"
    )


def _saving(rows: list[dict[str, Any]], energy: str) -> str:
    savings = sorted((row["saving_pct"], row["model"]) for row in rows)
    smallest = listed(
        [f"{size:,}" for size in sorted({row["smallest_batch_size"] for row in rows})]
    )
    text = f"against the smallest size that was run ({smallest}), the best one saves "
    if len(rows) == 1:
        return f"{text}{number(savings[0][0])} % of the {energy} of a sample"
    (least, one), (most, other) = savings[0], savings[-1]
    return (
        f"{text}{number(least)} % ({one}) to {number(most)} % ({other}) of the {energy} of a sample"
    )


def _edge(rows: list[dict[str, Any]]) -> str:
    """What cannot be known since no larger size was run."""
    at_edge = [row for row in rows if row["best_batch_size"] == row["largest_batch_size"]]
    if not at_edge:
        return ""
    return (
        f"for {len(at_edge)} of {counted(len(rows), 'model')} the best size is the largest that "
        "was run, so that a larger one may be better still"
    )
