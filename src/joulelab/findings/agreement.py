"""Do training and inference, and do machines, rank models alike?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import pandas as pd
from scipy import stats

from joulelab.findings.data import Group
from joulelab.findings.findings import Finding
from joulelab.findings.frames import INT, INTERVAL, PLACE, REAL, TEXT, frame, records
from joulelab.findings.machines import matches
from joulelab.findings.terms import NAMES, PHASES, QUANTITIES
from joulelab.findings.words import counted, probability, sentence, with_interval
from joulelab.stats.ranks import LEAST, rank_correlations

AGREEMENT: Mapping[str, str] = {
    **PLACE,
    "between": TEXT,
    "first": TEXT,
    "second": TEXT,
    "phase": TEXT,
    "quantity": TEXT,
    "method": TEXT,
    **INTERVAL,
    "p": REAL,
    "n": INT,
}
"""Columns of :func:`agreement`. ``between`` is ``phases`` or ``machines``; ``first`` and
``second`` name the two (for Kendall's W, which is of all machines, ``first`` counts them and
``second`` is empty); ``quantity`` is ``net``, ``gross`` or ``time``; ``method`` is ``spearman``,
``kendall`` or ``kendall_w``; ``n`` counts models. Between machines, ``study`` and ``machine`` are
empty."""

_SYMBOLS = {"spearman": "Spearman's ρ", "kendall": "Kendall's τ", "kendall_w": "Kendall's W"}


def agreement(groups: Sequence[Group]) -> pd.DataFrame:
    """Rank correlations between phases within a group, and between machines.

    Args:
        groups: Models measured alike, those with the most models first.
    """
    rows: list[dict[str, Any]] = []
    for group in groups:
        place = {"study": group.study, "machine": group.machine, "setting": group.setting}
        named = place | {"between": "phases", "first": "train", "second": "infer", "phase": ""}
        rows += [named | row for row in _ranked(group.phase("train"), group.phase("infer"))]
    for match in matches(groups):
        place = {"study": "", "machine": "", "setting": match.setting, "between": "machines"}
        for phase in PHASES:
            tables = {machine: group.phase(phase) for machine, group in match.groups.items()}
            for (first, one), (second, other) in combinations(tables.items(), 2):
                named = place | {"first": first, "second": second, "phase": phase}
                rows += [named | row for row in _ranked(one, other)]
            if len(tables) > 2:
                named = place | {"first": f"{len(tables)} machines", "second": "", "phase": phase}
                rows += [named | row for row in _concordance(list(tables.values()))]
    return frame(rows, AGREEMENT)


def _ranked(one: pd.DataFrame, other: pd.DataFrame) -> list[dict[str, Any]]:
    rows = []
    for quantity, column in QUANTITIES.items():
        both = _shared([one, other], column)
        if len(both) < 2:
            continue
        first, second = (both[name].to_numpy(dtype=float) for name in both)
        for method, (rank,) in rank_correlations(first, {"other": second}).items():
            ends = {"estimate": rank.value, "low": rank.low, "high": rank.high}
            rows.append({"quantity": quantity, "method": method, "p": rank.p, "n": rank.n} | ends)
    return rows


def _concordance(tables: Sequence[pd.DataFrame]) -> list[dict[str, Any]]:
    """Kendall's W of three or more machines, from Friedman's statistic with its p."""
    rows = []
    for quantity, column in QUANTITIES.items():
        shared = _shared(tables, column)
        n, machines = shared.shape
        if n < 3 or (shared.nunique() < 2).any():
            continue
        test = stats.friedmanchisquare(*shared.to_numpy(dtype=float))
        value = float(test.statistic) / (machines * (n - 1))
        rows.append(
            {"quantity": quantity, "method": "kendall_w", "estimate": value}
            | {"p": float(test.pvalue), "n": n}
        )
    return rows


def _shared(tables: Sequence[pd.DataFrame], column: str) -> pd.DataFrame:
    """A quantity of the models that all tables have, a column a table."""
    parts = [table.set_index("model")[column] for table in tables]
    return pd.concat(parts, axis=1, keys=range(len(parts))).dropna()


def agreement_findings(found: pd.DataFrame) -> list[Finding]:
    """Rank agreement in words.

    Ids: ``phases.<spearman|kendall>.<net|gross|time>`` and
    ``machines.<spearman|kendall|kendall_w>.<phase>.<net|gross|time>``.
    """
    return [_finding(row) for row in records(found)]


def _finding(row: dict[str, Any]) -> Finding:
    what, n = NAMES[row["quantity"]], row["n"]
    if row["between"] == "phases":
        name = f"phases.{row['method']}.{row['quantity']}"
        question = f"Do training and inference rank models alike by {what} per sample?"
    else:
        name = f"machines.{row['method']}.{row['phase']}.{row['quantity']}"
        pair = f"{row['first']} and {row['second']}" if row["second"] else row["first"]
        question = f"Do {pair} rank models alike by {what} per sample in {PHASES[row['phase']]}?"
    symbol = _SYMBOLS[row["method"]]
    return Finding(
        id=name,
        question=question,
        statement=" ".join(sentence(text) for text in _texts(row, symbol)),
        estimate=row["estimate"],
        low=row["low"],
        high=row["high"],
        n=n,
        study=row["study"],
        setting=row["setting"],
        figure="phases" if row["between"] == "phases" else "machines",
        detail=row["method"] == "kendall",
    )


def _texts(row: dict[str, Any], symbol: str) -> list[str]:
    n = counted(row["n"], "model")
    if math.isnan(row["estimate"]):
        return [f"{symbol} is not defined: over {n} one of the two does not vary"]
    value = with_interval(row["estimate"], row["low"], row["high"], digits=2)
    texts = [f"{symbol} is {value} over {n}, {probability(row['p'])}"]
    if row["method"] == "kendall_w":
        return [*texts, "1 is full agreement, 0 is none"]
    if row["n"] < LEAST:
        return [*texts, f"fewer than {LEAST} models are too few to tell"]
    if math.isnan(row["low"]):
        return [*texts, "every resample of these models gives the same: only others can test it"]
    if row["low"] > 0:
        return [*texts, "so models that take more in the one tend to take more in the other"]
    return [*texts, "so it is not shown that they rank alike"]
