"""How much repeats scatter, and whether blocks differ."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from joulelab.findings.data import Data, machine_labels
from joulelab.findings.findings import Finding
from joulelab.findings.frames import INT, PLACE, REAL, TEXT, frame, records
from joulelab.findings.summary import KEYS, POOLS
from joulelab.findings.terms import NAMES, PHASES
from joulelab.findings.words import counted, number, probability, sentence, with_interval
from joulelab.stats.estimates import UPPER
from joulelab.stats.variance import Scatter, scatter

ALPHA = 0.05
"""What p is held against."""

REPEAT_SCATTER: Mapping[str, str] = {
    **PLACE,
    "phase": TEXT,
    "quantity": TEXT,
    "scatter_pct": REAL,
    "low_pct": REAL,
    "high_pct": REAL,
    "block_scatter_pct": REAL,
    "block_p": REAL,
    "cells": INT,
    "repeats": INT,
    "df": REAL,
}
"""Columns of :func:`repeat_scatter`: the relative standard deviation of one repeat about the mean
of its cell (a model at one combination of levels), pooled over the cells of a study and machine,
with ``df`` degrees of freedom; that of blocks within it, and the test of blocks that do not
differ. ``quantity`` is ``time``, ``gross`` or ``net``, a sample each; that of ``net`` is relative
to gross energy. ``cells`` counts those with repeats. ``setting`` is empty."""

_COLUMNS = {"time": "duration_s", "gross": "gross_j", "net": "net_j"}


def repeat_scatter(data: Data) -> pd.DataFrame:
    """The scatter of repeats, a row a study, machine, phase and quantity.

    Returns:
        Columns as :data:`REPEAT_SCATTER`; a row without figures where nothing was repeated.
    """
    labels = machine_labels(data.runs)
    rows: list[dict[str, Any]] = []
    for _, part in data.runs.groupby(list(POOLS), dropna=False, sort=False):
        first = part.iloc[0]
        machine = labels[str(first["host"]), str(first["machine"])]
        named = {"study": first["study"], "machine": machine, "setting": ""}
        for quantity, column in _COLUMNS.items():
            found = _pooled(part, column)
            if found is not None:
                rows.append(named | {"phase": first["phase"], "quantity": quantity} | found)
    return frame(rows, REPEAT_SCATTER)


def _pooled(part: pd.DataFrame, column: str) -> dict[str, Any] | None:
    value = part[column] / part["samples"].astype("float64")
    scale = part["gross_j"] / part["samples"].astype("float64") if column == "net_j" else value
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


def repeat_findings(scattered: pd.DataFrame) -> list[Finding]:
    """Scatter in words. Ids: ``repeats.<phase>.<gross|net|time>``.

    Args:
        scattered: See :func:`repeat_scatter`.
    """
    return [_finding(row) for row in records(scattered)]


def _finding(row: dict[str, Any]) -> Finding:
    what, phase = NAMES[row["quantity"]], PHASES[row["phase"]]
    texts = _texts(row, what) if row["df"] > 0 else [_never(row)]
    return Finding(
        id=f"repeats.{row['phase']}.{row['quantity']}",
        question=f"How much does the {what} of a sample scatter when {phase} is repeated?",
        statement=" ".join(sentence(text) for text in texts),
        estimate=row["scatter_pct"],
        low=row["low_pct"],
        high=row["high_pct"],
        n=row["repeats"],
        unit="%",
        study=row["study"],
        setting=row["setting"],
        detail=row["quantity"] == "net",
    )


def _never(row: dict[str, Any]) -> str:
    runs = counted(row["repeats"], "run")
    return (
        f"no cell of these {runs} was repeated, so the scatter is not known; at least two repeats "
        "of each are needed"
    )


def _texts(row: dict[str, Any], what: str) -> list[str]:
    value = with_interval(row["scatter_pct"], row["low_pct"], row["high_pct"], "%")
    relative = " of the gross energy" if row["quantity"] == "net" else ""
    return [
        f"the {what} of one repeat has a standard deviation of {value}{relative} about the mean of "
        f"its cell, pooled over {counted(row['cells'], 'cell')} with repeats "
        f"({number(row['df'], 2)} degrees of freedom)",
        _blocks(row),
        "the intervals of the results use each cell's own scatter, moderated by that of the others",
    ]


def _blocks(row: dict[str, Any]) -> str:
    if math.isnan(row["block_p"]):
        return "whether blocks differ cannot be told: two blocks with two cells each are needed"
    share = f"a standard deviation of {number(row['block_scatter_pct'], 2)} %"
    if row["block_p"] < ALPHA:
        return (
            f"blocks differ ({probability(row['block_p'])}), by {share}, which counts as one error "
            "for all cells of a block"
        )
    return f"blocks are not shown to differ ({probability(row['block_p'])})"
