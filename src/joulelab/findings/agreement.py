"""Rank agreement of training and inference, and of machines, over models."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from joulelab.findings.comparisons import matches
from joulelab.findings.model_differences import no_difference_p
from joulelab.findings.predictors import rank_values
from joulelab.findings.schema import (
    ALPHA,
    INTERVAL,
    KEY,
    NAMES,
    PHASE_PAIRS,
    PHASES,
    QUANTITIES,
    Finding,
    frame,
    records,
)
from joulelab.format import count, p_value, with_interval
from joulelab.stats.difference import holm
from joulelab.stats.ranks import LEAST, rank_correlations, tested_twice

AGREEMENT = (
    *KEY, "between", "first", "second", "phase", "quantity", "method", *INTERVAL, "p", "p_holm",
    "n",
)  # fmt: skip
"""Columns of :func:`agreement`. ``between`` is ``phases`` or ``machines``; ``first`` and
``second`` name the two (for Kendall's W, which covers all machines, ``first`` is their number and
``second`` is empty); ``quantity`` is ``net``, ``gross`` or ``time``; ``method`` is ``spearman``,
``kendall`` or ``kendall_w``; ``p_holm`` is ``p``, corrected for the quantities and phases of the
two; ``n`` is the number of models. Between machines, ``group``, ``study``
and ``machine`` are empty."""

_SYMBOLS = {"spearman": "Spearman's ρ", "kendall": "Kendall's τ", "kendall_w": "Kendall's W"}


def agreement(measured: pd.DataFrame) -> pd.DataFrame:
    """Correlate the ranks of models between phases of a group, and between machines."""
    rows: list[dict[str, Any]] = []
    for _, group in measured.groupby("group", sort=False):
        named = {name: group[name].iloc[0] for name in KEY} | {"between": "phases", "phase": ""}
        ranked: list[dict[str, Any]] = []
        for first, second, _ in PHASE_PAIRS:
            tables = [group[group["phase"] == phase] for phase in (first, second)]
            both = named | {"first": first, "second": second}
            ranked += [both | row for row in _ranked(tables, same_runs=True)]
        rows += _corrected(ranked)
    for setting, groups in matches(measured):
        compared: list[dict[str, Any]] = []
        for phase in PHASES:
            named = {"study": "", "machine": "", "setting": setting, "between": "machines"}
            named |= {"phase": phase, "unit": next(iter(groups.values()))["unit"].iloc[0]}
            tables = [group[group["phase"] == phase] for group in groups.values()]
            for pair in combinations(range(len(tables)), 2):
                first, second = (list(groups)[place] for place in pair)
                both = named | {"first": first, "second": second}
                compared += [both | row for row in _ranked([tables[place] for place in pair])]
            if len(tables) > 2:
                all_ = named | {"first": f"{len(tables)} machines", "second": ""}
                compared += [all_ | row for row in _concordance(tables)]
        rows += _corrected(compared)
    return frame(rows, AGREEMENT)


def _corrected(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add Holm's p to the rows of each method."""
    for method in _SYMBOLS:
        of_method = [row for row in rows if row["method"] == method]
        for row, p in zip(of_method, holm([row["p"] for row in of_method]), strict=True):
            row["p_holm"] = p
    return rows


def _ranked(tables: Sequence[pd.DataFrame], *, same_runs: bool = False) -> Iterator[dict[str, Any]]:
    """Correlate two tables; phases of the same runs may share noise, which then is no agreement."""
    for quantity, column in QUANTITIES.items():
        both = _shared(tables, column)
        if len(both) < 2:
            continue
        first, second = (both[name].to_numpy(dtype=float) for name in both)
        models_p = [no_difference_p(table, column) for table in tables if same_runs]
        for method, (rank,) in rank_correlations(first, {"other": second}).items():
            found = tested_twice(rank, np.nanmax([0.0, *models_p]))
            yield {"quantity": quantity, "method": method} | rank_values(found)


def _concordance(tables: Sequence[pd.DataFrame]) -> Iterator[dict[str, Any]]:
    """Compute Kendall's W of three or more machines, from Friedman's statistic with its p."""
    for quantity, column in QUANTITIES.items():
        shared = _shared(tables, column)
        n, machines = shared.shape
        if n < 3 or (shared.nunique() < 2).any():
            continue
        test = stats.friedmanchisquare(*shared.to_numpy(dtype=float))
        value = float(test.statistic) / (machines * (n - 1))
        named = {"quantity": quantity, "method": "kendall_w"}
        yield named | {"estimate": value, "p": float(test.pvalue), "n": n}


def _shared(tables: Sequence[pd.DataFrame], column: str) -> pd.DataFrame:
    """Return a quantity of the models that all tables have, one column per table."""
    parts = [table.set_index("model")[column] for table in tables]
    return pd.concat(parts, axis=1, keys=range(len(parts))).dropna()


def agreement_findings(found: pd.DataFrame) -> list[Finding]:
    """State the rank agreement.

    Ids: ``phases.<spearman|kendall>.<net|gross|time>`` for training and inference, for other pairs
    such as ``phases.spearman.decode-prefill.net``, and
    ``machines.<spearman|kendall|kendall_w>.<phase>.<net|gross|time>``.
    """
    return [_finding(row) for row in records(found)]


def _finding(row: dict[str, Any]) -> Finding:
    quantity = f"{NAMES[row['quantity']]} per {row['unit']}"
    if row["between"] == "phases":
        (pair,) = (one for one in PHASE_PAIRS if one[:2] == (row["first"], row["second"]))
        name = f"phases.{row['method']}.{pair.id}{row['quantity']}"
        phases = f"{PHASES[pair.first]} and {PHASES[pair.second]}"
        question = f"Do {phases} rank models the same way by {quantity}?"
    else:
        name = f"machines.{row['method']}.{row['phase']}.{row['quantity']}"
        compared = f"{row['first']} and {row['second']}" if row["second"] else row["first"]
        phase = PHASES[row["phase"]]
        question = f"Do {compared} rank models the same way by {quantity} in {phase}?"
    figure = "ratio" if row["between"] == "phases" else "machines"
    detail = row["method"] == "kendall"
    shown = None
    if row["n"] >= LEAST and not math.isnan(row["p_holm"]):
        shown = _is_shown(row)
    return Finding.about(
        row, name, question, _texts(row), figure=figure, detail=detail, significant=shown
    )


def _is_shown(row: dict[str, Any]) -> bool:
    return bool(not row["low"] <= 0 <= row["high"] and row["p_holm"] < ALPHA)


def _texts(row: dict[str, Any]) -> list[str]:
    symbol, models = _SYMBOLS[row["method"]], count(row["n"], "model")
    if math.isnan(row["estimate"]):
        return [f"{symbol} is undefined: over {models}, one of the two does not vary"]
    value = with_interval(row["estimate"], row["low"], row["high"], digits=2)
    texts = [
        f"{symbol} is {value} over {models}, {p_value(row['p'])} "
        f"({p_value(row['p_holm'])} after Holm's correction)"
    ]
    if row["method"] == "kendall_w":
        agreed = "significant" if row["p_holm"] < ALPHA else "not significant"
        return [f"the agreement is {agreed} (95 %)", *texts, "1 is full agreement, 0 is none"]
    if row["n"] < LEAST:
        return [*texts, f"at least {LEAST} models are needed for a conclusion"]
    if math.isnan(row["low"]):
        reason = "every resample of these models gives the same value"
        return [*texts, f"there is no interval, because {reason}; more models are needed"]
    if not _is_shown(row):
        return ["no agreement is significant (95 %)", *texts]
    which = "more" if row["low"] > 0 else "less"
    return [f"models that need more in the one tend to need {which} in the other", *texts]
