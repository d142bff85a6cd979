"""What rank correlations of energy with characteristics say, in words."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from joulelab.findings.findings import Finding
from joulelab.findings.frames import PLACE, records
from joulelab.findings.terms import NAMES, PHASES
from joulelab.findings.words import (
    interval,
    listed,
    number,
    probability,
    sentence,
    with_interval,
)
from joulelab.stats.ranks import LEAST

ALPHA = 0.05
"""What p is held against."""

_SYMBOLS = {"spearman": "Spearman's ρ", "kendall": "Kendall's τ"}


def predictor_findings(correlations: pd.DataFrame, differences: pd.DataFrame) -> list[Finding]:
    """Which characteristic ranks energy best, then each correlation and difference.

    Ids: ``predictors.<phase>.<net|gross>``, ``spearman.<phase>.<net|gross>.<predictor>``,
    ``kendall.<phase>.<net|gross>.<predictor>`` and
    ``difference.<phase>.<net|gross>.macs_per_parameter-<predictor>``.

    Args:
        correlations: See :func:`joulelab.findings.predictors.correlations`.
        differences: See :func:`joulelab.findings.predictors.differences`.
    """
    keys = [*PLACE, "phase", "quantity"]
    families = correlations[correlations["method"] == "spearman"].groupby(keys, sort=False)
    compared = dict(iter(differences.groupby(keys, sort=False)))
    best = [_best(part, compared.get(key, differences.head(0))) for key, part in families]
    return [
        *best,
        *(_correlation(row) for row in records(correlations)),
        *(_difference(row) for row in records(differences)),
    ]


def _correlation(row: dict[str, Any]) -> Finding:
    energy, predictor = NAMES[row["quantity"]], NAMES[row["predictor"]]
    phase, symbol = PHASES[row["phase"]], _SYMBOLS[row["method"]]
    return Finding(
        id=f"{row['method']}.{row['phase']}.{row['quantity']}.{row['predictor']}",
        question=f"Do {predictor} rank models by {energy} per sample in {phase}?"
        if predictor.endswith("s")
        else f"Does {predictor} rank models by {energy} per sample in {phase}?",
        statement=_correlated(row, f"{symbol} of {energy} per sample with {predictor}"),
        estimate=row["estimate"],
        low=row["low"],
        high=row["high"],
        n=row["n"],
        figure=row["predictor"].replace("_", "-"),
        detail=True,
        study=row["study"],
        setting=row["setting"],
    )


def _correlated(row: dict[str, Any], what: str) -> str:
    n = row["n"]
    if math.isnan(row["estimate"]):
        return sentence(f"{what} is not defined: over {n} models one of the two does not vary")
    text = f"{what} is {_figure(row)} over {n} models, {probability(row['p'])}"
    if not math.isnan(row["p_holm"]):
        text = f"{text}, {probability(row['p_holm'])} after Holm's correction"
    return f"{sentence(text)} {_unsure(row, 'a correlation')}".strip()


def _unsure(row: dict[str, Any], what: str) -> str:
    """What keeps the figure from being sure, and how many models would tell."""
    n, value, low, high = row["n"], row["estimate"], row["low"], row["high"]
    if n < LEAST:
        return f"{n} models are too few for an interval: at least {LEAST} are needed."
    if math.isnan(low):
        return "All resamples of the models give the same figure: more models are needed."
    if low > 0 or high < 0:
        return ""
    text = f"So {what} is not shown at n = {n}"
    needed = models_needed(n, value, low, high)
    if needed:
        text = f"{text}; if it is as large as it looks, some {needed:,} models would show it"
    return sentence(text)


def models_needed(n: int, value: float, low: float, high: float) -> int:
    """How many models would make an interval exclude 0, were the value to stay.

    The interval's width goes with the root of the number of models. 0 where it would take more
    than a hundred times as many.

    Example:
        >>> models_needed(16, 0.1, -0.1, 0.3), models_needed(16, 0.001, -0.1, 0.1)
        (65, 0)
    """
    reach = value - low if value > 0 else high - value
    if value == 0 or not math.isfinite(reach / value):
        return 0
    factor = (reach / value) ** 2
    return math.floor(n * factor) + 1 if factor < 100 else 0


def _difference(row: dict[str, Any]) -> Finding:
    energy, phase = NAMES[row["quantity"]], PHASES[row["phase"]]
    mine, other = NAMES[row["predictor"]], NAMES[row["other"]]
    return Finding(
        id=f"difference.{row['phase']}.{row['quantity']}.{row['predictor']}-{row['other']}",
        question=f"Does {mine} rank models by {energy} in {phase} better than {other}?",
        statement=_correlated(row, f"Spearman's ρ with {mine} less that with {other}").replace(
            "a correlation is not shown", "a difference is not shown"
        ),
        estimate=row["estimate"],
        low=row["low"],
        high=row["high"],
        n=row["n"],
        detail=True,
        study=row["study"],
        setting=row["setting"],
    )


def _best(part: pd.DataFrame, compared: pd.DataFrame) -> Finding:
    """The characteristic that ranks best, and those that are not shown to be worse or better."""
    ordered = records(part.sort_values("estimate", ascending=False, kind="stable"))
    first = ordered[0]
    known = [row for row in ordered if not math.isnan(row["estimate"])]
    characteristics = [row for row in known if row["predictor"] != "time"]
    energy, phase = NAMES[first["quantity"]], PHASES[first["phase"]]
    if characteristics:
        texts = [*_ranking(characteristics, energy), *_time(known), *_comparisons(compared)]
    else:
        texts = [f"no characteristic is known that varies over {first['n']} models", *_time(known)]
    figure = characteristics[0] if characteristics else {"n": first["n"]}
    return Finding(
        id=f"predictors.{first['phase']}.{first['quantity']}",
        question=f"Which characteristic of a model ranks its {energy} best in {phase}?",
        statement=" ".join(sentence(text) for text in texts),
        estimate=figure.get("estimate", math.nan),
        low=figure.get("low", math.nan),
        high=figure.get("high", math.nan),
        n=figure["n"],
        study=first["study"],
        setting=first["setting"],
        figure="macs-per-parameter",
    )


def _ranking(rows: list[dict[str, Any]], energy: str) -> list[str]:
    best, *others = rows
    name, n = NAMES[best["predictor"]], best["n"]
    texts = [
        f"over {n} models, {name} ranks {energy} per sample best: Spearman's ρ {_figure(best)}"
    ]
    if others:
        told = [f"{NAMES[row['predictor']]} {_shortly(row)}" for row in others]
        texts[0] += f", before {listed(told)}"
    if n < LEAST:
        texts.append(f"{n} models are too few to tell, at least {LEAST} are needed")
    return texts


def _time(known: list[dict[str, Any]]) -> list[str]:
    """What ranking by time gives, which is no characteristic: it takes a run to know it."""
    return [
        f"time, which has to be measured first, gives {_shortly(row)}"
        for row in known
        if row["predictor"] == "time"
    ]


def _shortly(row: dict[str, Any]) -> str:
    value = number(row["estimate"], 2)
    ends = interval(row["low"], row["high"], row["estimate"], 2)
    return f"{value} ({ends})" if ends else value


def _comparisons(compared: pd.DataFrame) -> list[str]:
    rows = [row for row in records(compared) if not math.isnan(row["low"])]
    if not rows:
        return []
    mine = NAMES[rows[0]["predictor"]]
    told = []
    better = [row for row in rows if row["low"] > 0 and row["p_holm"] < ALPHA]
    worse = [row for row in rows if row["high"] < 0 and row["p_holm"] < ALPHA]
    for shown, word in ((better, "better"), (worse, "worse")):
        if shown:
            told.append(f"{mine} is shown to rank {word} than {_names(shown)}")
    alike = [row for row in rows if row not in better and row not in worse]
    told += [_not_shown(row, mine) for row in alike if row["other"] == "macs"]
    others = [row for row in alike if row["other"] != "macs"]
    if others:
        told.append(
            f"a difference to {_names(others)} is not shown either, after Holm's correction"
            if len(others) < len(alike)
            else f"{mine} and {_names(others)} are not shown to differ, after Holm's correction"
        )
    return told


def _not_shown(row: dict[str, Any], mine: str) -> str:
    needed = models_needed(row["n"], row["estimate"], row["low"], row["high"])
    text = (
        f"{mine} and {NAMES[row['other']]} are not shown to differ at n = {row['n']}: the "
        f"difference of ρ is {_figure(row)}"
    )
    return text + (f"; some {needed:,} models would show one so large" if needed else "")


def _figure(row: dict[str, Any]) -> str:
    return with_interval(row["estimate"], row["low"], row["high"], digits=2)


def _names(rows: list[dict[str, Any]]) -> str:
    return listed([NAMES[row["other"]] for row in rows])
