"""What accuracy costs: joules per point, the Pareto front, the frugal choice at equal accuracy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from statsmodels.stats.proportion import proportion_confint  # type: ignore[import-untyped]

from joulelab.findings.data import Group, placed
from joulelab.findings.frames import FLAG, PLACE, REAL, TEXT, frame, records
from joulelab.runs.studies import Study
from joulelab.stats.estimates import estimate_ratio

ENERGY_COLUMNS: Mapping[tuple[str, str], str] = {
    ("train", "net"): "net_j",
    ("train", "gross"): "gross_j",
    ("infer", "net"): "net_j_per_sample",
    ("infer", "gross"): "gross_j_per_sample",
}
"""What accuracy is held against, by phase and quantity: columns of a summary."""

ACCURACY: Mapping[str, str] = {
    **PLACE,
    "model": TEXT,
    "phase": TEXT,
    "quantity": TEXT,
    "accuracy_pct": REAL,
    "accuracy_low_pct": REAL,
    "accuracy_high_pct": REAL,
    "energy_j": REAL,
    "energy_low_j": REAL,
    "energy_high_j": REAL,
    "j_per_point": REAL,
    "on_front": FLAG,
    "equal_to_best": FLAG,
    "saving_pct": REAL,
    "saving_low_pct": REAL,
    "saving_high_pct": REAL,
}
"""Columns of :func:`accuracy`. ``quantity`` is ``net`` or ``gross``. ``energy_j`` is that of the
whole training for ``train``, of one sample for ``infer``; ``on_front``: no model is both as
accurate and cheaper, or more accurate and as cheap; ``equal_to_best``: not shown to be less
accurate than the most accurate model; ``saving_pct``: of that model's energy."""


def accuracy(studies: Sequence[Study], groups: Sequence[Group]) -> pd.DataFrame:
    """Accuracy and energy, one row a model, phase and quantity for which both are known.

    The accuracy of a phase that was not told its accuracy is that of the other. Its interval is
    over repeats; with one repeat it is Wilson's for the images of the test set, where their
    number is known. Two accuracies are equal where the interval of their difference, the two
    half-widths added in quadrature (Newcombe 1998), holds 0.

    Args:
        studies: Where the test sets of the groups are described.
        groups: Models measured alike.
    """
    tested = {study.label: _test_count(study) for study in studies}
    rows: list[dict[str, Any]] = []
    for group in groups:
        table = _with_accuracy(placed([group]), tested.get(group.study))
        for (phase, quantity), column in ENERGY_COLUMNS.items():
            part = table[(table["phase"] == phase) & table[column].notna()]
            found = _rows(records(part), column)
            rows += [row | {"phase": phase, "quantity": quantity} for row in found]
    return frame(rows, ACCURACY)


def _test_count(study: Study) -> int | None:
    """Images of the test set; not known of recorded logs."""
    counts = {run.data["data"].get("test_count") for run in study.cells()}
    return counts.pop() if len(counts) == 1 else None


def _with_accuracy(table: pd.DataFrame, tested: int | None) -> pd.DataFrame:
    """Rows whose accuracy is known, from the other phase where need be, with its interval."""
    columns = ["accuracy_pct", "accuracy_pct_low", "accuracy_pct_high"]
    filled = table.copy()
    for _, part in table.groupby("model", sort=False):
        known = part[part["accuracy_pct"].notna()]
        missing = part.index.difference(known.index)
        if len(known) and len(missing):
            filled.loc[missing, columns] = known[columns].iloc[0].to_numpy()
    filled = filled[filled["accuracy_pct"].notna()].copy()
    alone = filled["accuracy_pct_low"].isna()
    if tested and alone.any():
        right = (filled.loc[alone, "accuracy_pct"] / 100 * tested).clip(0, tested)
        low, high = proportion_confint(right.to_numpy(), tested, method="wilson")
        filled.loc[alone, "accuracy_pct_low"] = 100 * low
        filled.loc[alone, "accuracy_pct_high"] = 100 * high
    return filled


def _rows(models: list[dict[str, Any]], column: str) -> list[dict[str, Any]]:
    if not models:
        return []
    best = max(models, key=lambda row: (row["accuracy_pct"], -row[column]))
    rows = []
    for row in models:
        energy_j, points = row[column], row["accuracy_pct"]
        saved = estimate_ratio(row, best, column, shared=False)
        rows.append(
            {name: row[name] for name in (*PLACE, "model")}
            | {
                "accuracy_pct": points,
                "accuracy_low_pct": row["accuracy_pct_low"],
                "accuracy_high_pct": row["accuracy_pct_high"],
                "energy_j": energy_j,
                "energy_low_j": row[f"{column}_low"],
                "energy_high_j": row[f"{column}_high"],
                "j_per_point": energy_j / points if points > 0 else math.nan,
                "on_front": not any(_beats(other, row, column) for other in models),
                "equal_to_best": _equal(row, best),
                "saving_pct": 100 * (1 - saved.value),
                "saving_low_pct": 100 * (1 - saved.high) if row is not best else math.nan,
                "saving_high_pct": 100 * (1 - saved.low) if row is not best else math.nan,
            }
        )
    return rows


def _beats(other: dict[str, Any], row: dict[str, Any], column: str) -> bool:
    as_good = other["accuracy_pct"] >= row["accuracy_pct"] and other[column] <= row[column]
    better = other["accuracy_pct"] > row["accuracy_pct"] or other[column] < row[column]
    return bool(as_good and better)


def _equal(row: dict[str, Any], best: dict[str, Any]) -> bool:
    less = best["accuracy_pct"] - row["accuracy_pct"]
    if less == 0:
        return True
    above = row["accuracy_pct_high"] - row["accuracy_pct"]
    below = best["accuracy_pct"] - best["accuracy_pct_low"]
    return bool(less <= math.hypot(above, below))
