"""Scatter of repeats, and differences between blocks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from joulelab.findings.schema import (
    ALPHA,
    NAMES,
    PERCENT_DECIMALS,
    PHASES,
    Finding,
    frame,
    records,
)
from joulelab.findings.summary import KEYS, POOLS, machine_labels, units_of
from joulelab.format import count, number, p_value, percent, with_interval
from joulelab.stats.difference import holm
from joulelab.stats.estimates import UPPER
from joulelab.stats.variance import Scatter, scatter

REPEAT_SCATTER = (
    "study", "machine", "unit", "phase", "quantity", "scatter_pct", "low_pct", "high_pct",
    "block_scatter_pct", "block_p", "cells", "repeats", "df",
)  # fmt: skip
"""Columns of :func:`repeat_scatter`: the relative standard deviation of one repeat about the mean
of its cell (a model at one setting), pooled over the cells of a study and machine, with ``df``
degrees of freedom; that of blocks, and the p-value of no difference between blocks. ``quantity``
is ``time``, ``gross`` or ``net``, per unit; ``net`` is relative to gross energy. ``cells`` is
the number of cells with repeats."""

_COLUMNS = {"time": "duration_s", "gross": "gross_j", "net": "net_j"}


def repeat_scatter(runs: pd.DataFrame) -> pd.DataFrame:
    """Compute the scatter of repeats, a row per study, machine, phase and quantity.

    Returns:
        Columns :data:`REPEAT_SCATTER`; a row without values where nothing was repeated.
    """
    labels = machine_labels(runs)
    rows: list[dict[str, Any]] = []
    for _, part in runs.groupby(list(POOLS), dropna=False, sort=False):
        first = part.iloc[0]
        named = {"study": first["study"], "machine": labels[first["host"], first["machine"]]}
        named["unit"] = "sample" if pd.isna(first["tokens"]) else "token"
        for quantity, column in _COLUMNS.items():
            found = _pooled(part, column)
            if found is not None:
                rows.append(named | {"phase": first["phase"], "quantity": quantity} | found)
    return frame(rows, REPEAT_SCATTER)


def _pooled(part: pd.DataFrame, column: str) -> dict[str, Any] | None:
    value = part[column] / units_of(part)
    scale = part["gross_j"] / units_of(part) if column == "net_j" else value
    known = value.notna() & scale.notna()
    keyed = part[known].groupby(list(KEYS), dropna=False, sort=False)
    means = scale[known].groupby(keyed.ngroup()).transform("mean")
    cells = keyed.ngroup()[means > 0]
    if cells.empty:
        return None
    deviation = (value[cells.index] / means[cells.index]).to_numpy(dtype=float)
    blocks = part.loc[cells.index, "block"].astype("category").cat.codes
    found = scatter(deviation, cells.to_numpy(), blocks.to_numpy())
    counts = cells.value_counts()
    return {"cells": int((counts > 1).sum()), "repeats": len(cells)} | _percent(found)


def _percent(found: Scatter) -> dict[str, Any]:
    low, high = math.nan, math.nan
    if found.df > 0:
        low, high = np.sqrt(
            found.variance * found.df / stats.chi2.ppf((UPPER, 1 - UPPER), found.df)
        )
    return {
        "scatter_pct": 100 * math.sqrt(found.variance),
        "low_pct": 100 * float(low),
        "high_pct": 100 * float(high),
        "block_scatter_pct": 100 * math.sqrt(found.block_variance),
        "block_p": found.block_p,
        "df": found.df,
    }


def repeat_findings(scattered: pd.DataFrame, measured: pd.DataFrame) -> list[Finding]:
    """State the scatter. Ids: ``repeats.<phase>.<gross|net|time>``."""
    groups = {
        place: tuple(int(group) for group in part.unique())
        for place, part in measured.groupby(["study", "machine"])["group"]
    }
    found = []
    for place, part in scattered.groupby(["study", "machine"], sort=False):
        rows = records(part)
        # Phases and quantities are tested together.
        corrected = holm([row["block_p"] for row in rows])
        found += [
            _finding(row | {"block_p": p}, groups[place])
            for row, p in zip(rows, corrected, strict=True)
        ]
    return found


def _finding(row: dict[str, Any], groups: tuple[int, ...]) -> Finding:
    tested = not math.isnan(row["block_p"])
    name, phase = NAMES[row["quantity"]], PHASES[row["phase"]]
    return Finding.about(
        row,
        f"repeats.{row['phase']}.{row['quantity']}",
        f"How much does the {name} per {row['unit']} vary between repeats of {phase}?",
        _texts(row, name),
        estimate=row["scatter_pct"],
        low=row["low_pct"],
        high=row["high_pct"],
        n=row["repeats"],
        unit="%",
        detail=row["quantity"] == "net",
        groups=groups,
        significant=row["block_p"] < ALPHA if tested else None,
    )


def _texts(row: dict[str, Any], name: str) -> list[str]:
    if not row["df"] > 0:
        return [
            f"nothing was repeated in {count(row['repeats'], 'run')}, so the variation is unknown; "
            "at least two repeats of each model and setting are needed"
        ]
    scatter_pct, low_pct, high_pct = (
        round(float(row[f"{end}_pct"]), PERCENT_DECIMALS) for end in ("scatter", "low", "high")
    )
    value = with_interval(scatter_pct, low_pct, high_pct, "%")
    relative = ", relative to gross energy" if row["quantity"] == "net" else ""
    repeated = count(row["cells"], "combination", "combinations")
    return [
        f"the standard deviation of {name} between repeats is {value}{relative}, pooled over "
        f"{repeated} of model and setting ({number(row['df'], 2)} degrees of freedom)",
        _blocks(row),
        "the intervals of the results combine the variation of each with that of the others",
    ]


def _blocks(row: dict[str, Any]) -> str:
    if math.isnan(row["block_p"]):
        return (
            "blocks cannot be compared: at least two blocks with two models or settings each are "
            "needed"
        )
    if row["block_p"] < ALPHA:
        return (
            f"blocks differ significantly ({p_value(row['block_p'])}, Holm-corrected) by a "
            f"standard deviation of {percent(row['block_scatter_pct'] / 100, 2)}, which counts as "
            "one error for all runs of a block"
        )
    return (
        f"no significant difference between blocks (95 %, {p_value(row['block_p'])}, "
        "Holm-corrected)"
    )
