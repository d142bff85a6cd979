"""Predictors of energy: rank correlations of models' energy with their characteristics."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from joulelab.findings.model_differences import no_difference_p
from joulelab.findings.schema import (
    ALPHA,
    ENERGIES,
    INTERVAL,
    KEY,
    NAMES,
    PHASES,
    Finding,
    frame,
    records,
)
from joulelab.format import join_words, p_value, sentence, with_interval
from joulelab.stats.difference import holm
from joulelab.stats.ranks import (
    LEAST,
    Rank,
    bootstrap,
    rank_correlations,
    spearman,
    tested_twice,
)

PREDICTORS = ("macs_per_parameter", "macs", "parameters", "size_bytes", "operators", "time")
"""Predictors of a model's energy. ``time``, per unit, must be measured first."""

FAVOURITE = "macs_per_parameter"
"""The paper's predictor, with which the others are compared."""

_COLUMNS = {"time": "duration_s_per_unit"}
_SYMBOLS = {"spearman": "Spearman's ρ", "kendall": "Kendall's τ"}

CORRELATIONS = (*KEY, "phase", "quantity", "predictor", "method", *INTERVAL, "p", "p_holm", "n")
"""Columns of :func:`correlations`. ``quantity`` is the energy per unit, ``net`` or ``gross``;
``method`` is ``spearman`` or ``kendall``; ``n`` is the number of models; ``p`` tests for no
correlation, and ``p_holm`` is corrected for all correlations of its method within the group."""

DIFFERENCES = (*KEY, "phase", "quantity", "predictor", "other", *INTERVAL, "p", "p_holm", "n")
"""Columns of :func:`differences`: Spearman's ρ of ``predictor`` minus that of ``other``."""


def correlations(measured: pd.DataFrame) -> pd.DataFrame:
    """Correlate energy per unit with each predictor, by Spearman and Kendall.

    Each model is one point, its mean over repeats. A predictor that no model has is left out; one
    that some lack is correlated over the models that have it. Since the noise of a run's time is
    also noise of its energy, p of time is at least that of models that do not differ.

    Returns:
        Columns :data:`CORRELATIONS`. Intervals are those of
        :func:`joulelab.stats.ranks.rank_correlations`.
    """
    rows: list[dict[str, Any]] = []
    for _, group in measured.groupby("group", sort=False):
        found = []
        for named, models in _families(group):
            models_p = _no_difference_p(group, named)
            for names, part in _complete(models):
                ranks = rank_correlations(part["energy"], {name: part[name] for name in names})
                found += [
                    named
                    | {"method": method, "predictor": name}
                    | rank_values(tested_twice(rank, models_p) if name == "time" else rank)
                    for method, ranked in ranks.items()
                    for name, rank in zip(names, ranked, strict=True)
                ]
        for method in ("spearman", "kendall"):
            rows += _corrected([row for row in found if row["method"] == method])
    return frame(rows, CORRELATIONS)


def differences(measured: pd.DataFrame) -> pd.DataFrame:
    """Compare how well MACs per parameter and each other predictor rank energy.

    Both correlations use the same resamples of the models that have both predictors. ``p`` is
    twice the share of resamples on the far side of no difference.

    Returns:
        Columns :data:`DIFFERENCES`; no interval and no p with fewer than
        :data:`joulelab.stats.ranks.LEAST` models.
    """
    rows: list[dict[str, Any]] = []
    for _, group in measured.groupby("group", sort=False):
        found = []
        for named, models in _families(group):
            favourite = models[models[FAVOURITE].notna()]
            for names, part in _complete(favourite):
                others = [name for name in names if name != FAVOURITE]
                varied = part[["energy", FAVOURITE, *others]].nunique() > 1
                if others and varied.all():
                    found += [
                        named | {"predictor": FAVOURITE} | row for row in _compared(part, others)
                    ]
        rows += _corrected(found)
    return frame(rows, DIFFERENCES)


def _families(group: pd.DataFrame) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """Yield the key and the models with a known energy: columns ``energy`` and predictors."""
    for phase, (quantity, column) in product(PHASES, ENERGIES.items()):
        models = group[group["phase"] == phase]
        known = pd.DataFrame(
            {name: models[_COLUMNS.get(name, name)].astype("float64") for name in PREDICTORS}
        ).assign(energy=models[column])
        named = {name: group[name].iloc[0] for name in KEY}
        named |= {"phase": phase, "quantity": quantity}
        yield named, known[np.isfinite(known["energy"])]


def _no_difference_p(group: pd.DataFrame, named: dict[str, Any]) -> float:
    """Return p of models that differ only by the noise that time and energy of a run share."""
    models = group[group["phase"] == named["phase"]]
    columns = (ENERGIES[named["quantity"]], _COLUMNS["time"])
    return float(np.max([no_difference_p(models, column) for column in columns]))


def _complete(models: pd.DataFrame) -> list[tuple[list[str], pd.DataFrame]]:
    """Return predictors that the same models have, with those models."""
    by_models: dict[tuple[bool, ...], list[str]] = {}
    for name in PREDICTORS:
        known = np.isfinite(models[name])
        if known.sum() > 1:
            by_models.setdefault(tuple(known), []).append(name)
    return [(names, models[list(known)]) for known, names in by_models.items()]


def rank_values(rank: Rank) -> dict[str, float]:
    """Return a rank correlation as columns."""
    return {"estimate": rank.value, "low": rank.low, "high": rank.high, "p": rank.p, "n": rank.n}


def _compared(part: pd.DataFrame, others: Sequence[str]) -> list[dict[str, Any]]:
    n = len(part)
    energy = part["energy"].to_numpy(dtype=float)
    both = [part[name].to_numpy(dtype=float) for name in (FAVOURITE, *others)]
    of = spearman(energy, both)

    def better(index: Any) -> Any:
        values = of(index)
        return values[0] - values[1:]

    rows: list[dict[str, Any]] = [
        {"other": name, "estimate": float(value), "n": n}
        for name, value in zip(others, better(np.arange(n)), strict=True)
    ]
    if n >= LEAST:
        found = bootstrap(n, better)
        beyond = np.minimum((found.values <= 0).mean(-1), (found.values >= 0).mean(-1))
        smallest = 1 / found.values.shape[-1]
        for row, low, high, share in zip(rows, found.low, found.high, beyond, strict=True):
            row |= {"low": float(low), "high": float(high)}
            row["p"] = min(1.0, 2 * max(float(share), smallest))
    return rows


def _corrected(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add Holm's p to the rows of one family."""
    known = [row for row in rows if math.isfinite(row.get("p", math.nan))]
    for row, p in zip(known, holm([row["p"] for row in known]), strict=True):
        row["p_holm"] = p
    return rows


def predictor_findings(correlated: pd.DataFrame, compared: pd.DataFrame) -> list[Finding]:
    """State which characteristic ranks energy best, then each correlation and difference.

    Ids: ``predictors.<phase>.<net|gross>``, ``spearman.<phase>.<net|gross>.<predictor>``,
    ``kendall.<phase>.<net|gross>.<predictor>`` and
    ``difference.<phase>.<net|gross>.macs_per_parameter-<predictor>``.
    """
    keys = ["group", "phase", "quantity"]
    families = correlated[correlated["method"] == "spearman"].groupby(keys, sort=False)
    by_family = dict(iter(compared.groupby(keys, sort=False)))
    best = [_best(part, by_family.get(key, compared.head(0))) for key, part in families]
    return [
        *best,
        *(_correlation(row) for row in records(correlated)),
        *(_difference(row) for row in records(compared)),
    ]


def _correlation(row: dict[str, Any]) -> Finding:
    energy = f"{NAMES[row['quantity']]} per {row['unit']}"
    predictor, phase = NAMES[row["predictor"]], PHASES[row["phase"]]
    return _detail(
        row,
        name=f"{row['method']}.{row['phase']}.{row['quantity']}.{row['predictor']}",
        question=f"Is {energy} in {phase} correlated with {predictor}?",
        what=f"{_SYMBOLS[row['method']]} between {energy} and {predictor}",
        effect="correlation",
    )


def _difference(row: dict[str, Any]) -> Finding:
    energy, phase = NAMES[row["quantity"]], PHASES[row["phase"]]
    mine, other = NAMES[row["predictor"]], NAMES[row["other"]]
    return _detail(
        row,
        name=f"difference.{row['phase']}.{row['quantity']}.{row['predictor']}-{row['other']}",
        question=f"Does {mine} rank models by {energy} in {phase} better than {other}?",
        what=f"the difference in Spearman's ρ, {mine} minus {other},",
        effect="difference",
    )


def _detail(row: dict[str, Any], name: str, question: str, what: str, effect: str) -> Finding:
    n = row["n"]
    if math.isnan(row["estimate"]):
        texts = [f"{what} is undefined: over {n} models, one of the two does not vary"]
    else:
        text = f"{what} is {_rho(row)} over {n} models, {p_value(row['p'])}"
        if not math.isnan(row["p_holm"]):
            text += f" ({p_value(row['p_holm'])} after Holm's correction)"
        texts = [text, _uncertainty(row, effect)]
    shown = None if math.isnan(row["low"]) or math.isnan(row["p"]) else _is_shown(row)
    return Finding.about(
        row, name, question, texts, figure="predictors", detail=True, significant=shown
    )


def _is_shown(row: dict[str, Any]) -> bool:
    """Report whether a value is significant: by its interval, and by its corrected p-value."""
    return bool((row["low"] > 0 or row["high"] < 0) and row["p_holm"] < ALPHA)


def _uncertainty(row: dict[str, Any], effect: str) -> str:
    """State why a value is not significant, and how many models would be needed."""
    n, value, low, high = row["n"], row["estimate"], row["low"], row["high"]
    if n < LEAST:
        return f"{n} models are too few for an interval; at least {LEAST} are needed"
    if math.isnan(low):
        return "all resamples of the models give the same value; more models are needed"
    if _is_shown(row):
        return f"the {effect} is significant"
    if low > 0 or high < 0:
        return f"the {effect} is not significant after the correction"
    text = f"the {effect} is not significant at n = {n}"
    if row["predictor"] == "time":
        noise = "the noise that time and energy of a run share"
        return (
            f"without repeats, {noise} is unknown"
            if math.isnan(row["p"])
            else (f"{text}, beyond {noise}")
        )
    needed = models_needed(n, value, low, high)
    return f"{text}; about {needed:,} models would confirm one of this size" if needed else text


def models_needed(n: int, value: float, low: float, high: float) -> int:
    """Estimate how many models would make an interval exclude 0, if the value stayed the same.

    The interval's width scales with the root of the number of models.

    Returns:
        0 if more than a hundred times as many models would be needed.

    Example:
        >>> models_needed(16, 0.1, -0.1, 0.3), models_needed(16, 0.001, -0.1, 0.1)
        (65, 0)
    """
    reach = value - low if value > 0 else high - value
    if value == 0 or not math.isfinite(reach / value):
        return 0
    factor = (reach / value) ** 2
    return math.floor(n * factor) + 1 if factor < 100 else 0


def _best(part: pd.DataFrame, compared: pd.DataFrame) -> Finding:
    """State the characteristic that ranks best, and those that differ significantly from it."""
    ordered = records(part.sort_values("estimate", ascending=False, kind="stable"))
    first = ordered[0]
    known = [row for row in ordered if not math.isnan(row["estimate"])]
    characteristics = [row for row in known if row["predictor"] != "time"]
    times = [row for row in known if row["predictor"] == "time"]
    energy, phase = NAMES[first["quantity"]], PHASES[first["phase"]]
    texts = [f"no known characteristic varies over these {first['n']} models"]
    best, answer = {"n": first["n"]}, texts[0]
    if characteristics:
        best = characteristics[0]
        texts = _ranking(characteristics, f"{energy} per {first['unit']}")
        answer = _ranking(characteristics[:1], f"{energy} per {first['unit']} in {phase}")[0]
    texts += [f"time, which must be measured first, gives {_rho(row, level='')}" for row in times]
    if characteristics:
        texts += _comparisons(compared)
    return Finding.about(
        first,
        f"predictors.{first['phase']}.{first['quantity']}",
        f"Which characteristic of a model ranks {energy} best in {phase}?",
        texts,
        answer=sentence(answer),
        estimate=best.get("estimate", math.nan),
        low=best.get("low", math.nan),
        high=best.get("high", math.nan),
        n=best["n"],
        figure="predictors",
        significant=None if math.isnan(best.get("low", math.nan)) else _is_shown(best),
    )


def _ranking(rows: list[dict[str, Any]], energy: str) -> list[str]:
    best, *others = rows
    n = best["n"]
    name = NAMES[best["predictor"]]
    if n < LEAST:
        texts = [
            f"{n} models are too few for a conclusion; at least {LEAST} are needed",
            f"Spearman's ρ with {energy} is highest for {name}: {_rho(best)}",
        ]
    elif _is_shown(best):
        texts = [f"{name} ranks {n} models by {energy} with the highest Spearman's ρ, {_rho(best)}"]
    else:
        texts = [
            f"no characteristic ranks {n} models significantly by {energy} (Holm-corrected)",
            f"Spearman's ρ is highest for {name}: {_rho(best)}",
        ]
    if others:
        values = [f"{_rho(row, level='')} for {NAMES[row['predictor']]}" for row in others]
        texts[-1] += f"; it is {join_words(values)}"
    return texts


def _comparisons(compared: pd.DataFrame) -> list[str]:
    rows = [row for row in records(compared) if not math.isnan(row["low"])]
    if not rows:
        return []
    mine = NAMES[rows[0]["predictor"]]
    better = [row for row in rows if row["low"] > 0 and _is_shown(row)]
    worse = [row for row in rows if row["high"] < 0 and _is_shown(row)]
    texts = [
        f"{mine} ranks significantly {word} than {_names(found)}"
        for found, word in ((better, "better"), (worse, "worse"))
        if found
    ]
    equal = [row for row in rows if row not in better and row not in worse]
    macs = [row for row in equal if row["other"] == "macs"]
    others = [row for row in equal if row["other"] != "macs"]
    for row in macs:
        needed = models_needed(row["n"], row["estimate"], row["low"], row["high"])
        text = (
            f"{mine} and MACs do not differ significantly at n = {row['n']}: the difference in ρ "
            f"is {_rho(row)}"
        )
        texts.append(
            f"{text}; about {needed:,} models would confirm one of this size" if needed else text
        )
    if others and macs:
        texts.append(f"nor does {mine} differ significantly from {_names(others)} (Holm-corrected)")
    elif others:
        texts.append(f"{mine} does not differ significantly from {_names(others)} (Holm-corrected)")
    return texts


def _rho(row: dict[str, Any], level: str = "95 % CI ") -> str:
    return with_interval(row["estimate"], row["low"], row["high"], digits=2, level=level)


def _names(rows: list[dict[str, Any]]) -> str:
    return join_words([NAMES[row["other"]] for row in rows])
