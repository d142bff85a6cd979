"""Does training take three times inference? Ratios of the phases, model by model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from statsmodels.stats.weightstats import DescrStatsW  # type: ignore[import-untyped]

from joulelab.findings.data import Group, placed
from joulelab.findings.findings import Finding
from joulelab.findings.frames import FLAG, INT, INTERVAL, PLACE, TEXT, frame, records
from joulelab.findings.terms import NAMES, QUANTITIES
from joulelab.findings.words import counted, number, probability, sentence, with_interval
from joulelab.stats.estimates import estimate_ratio, geometric_mean_interval

RULE = 3.0
"""Training over inference in time, by the paper's rule of thumb (section V-A)."""

ALPHA = 0.05
"""What p is held against."""

ROUNDING = 1e-9
"""Ratios that differ by less, relatively, do not differ."""

PHASE_RATIOS: Mapping[str, str] = {
    **PLACE,
    "model": TEXT,
    "quantity": TEXT,
    **INTERVAL,
    "n": INT,
    "off_rule": FLAG,
}
"""Columns of :func:`phase_ratios`. ``quantity``, a sample each: ``time``, ``gross`` or ``net``;
``n`` counts repeats of the phase that has fewer; ``off_rule`` says that the interval excludes
:data:`RULE`, and is empty without an interval."""


def phase_ratios(groups: Sequence[Group]) -> pd.DataFrame:
    """Training over inference, a sample each: one row a model and quantity.

    Both phases were read by the same sensors, whose gain leaves the ratio of gross energies. The
    interval of net energies keeps all their uncertainty, since idle power does not cancel.
    """
    table = placed(groups)
    rows: list[dict[str, Any]] = []
    for _, part in table.groupby([*PLACE, "model"], sort=False) if len(table) else ():
        phases = {row["phase"]: row for row in records(part)}
        if phases.keys() >= {"train", "infer"}:
            rows += _ratios(phases["train"], phases["infer"])
    return frame(rows, PHASE_RATIOS)


def _ratios(train: dict[str, Any], infer: dict[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for quantity, column in QUANTITIES.items():
        found = estimate_ratio(train, infer, column, shared=quantity == "net")
        if math.isnan(found.value):
            continue
        known = not math.isnan(found.low)
        rows.append(
            {name: train[name] for name in (*PLACE, "model")}
            | {
                "quantity": quantity,
                "estimate": found.value,
                "low": found.low,
                "high": found.high,
                "n": found.n,
                "off_rule": not found.low <= RULE <= found.high if known else None,
            }
        )
    return rows


def phase_findings(ratios: pd.DataFrame) -> list[Finding]:
    """The rule of three, tested over models. Ids: ``ratio.<time|gross|net>``."""
    return [
        _finding(part.sort_values("estimate", kind="stable"))
        for _, part in ratios.groupby([*PLACE, "quantity"], sort=False)
    ]


def _finding(part: pd.DataFrame) -> Finding:
    first = part.iloc[0]
    quantity, n = str(first["quantity"]), len(part)
    logs = np.log(part["estimate"].to_numpy(dtype=float))
    mean, low, high = float(np.exp(logs.mean())), math.nan, math.nan
    if n > 1:
        low, high = geometric_mean_interval(logs)
    question = (
        "Does training take three times as long as inference?"
        if quantity == "time"
        else f"Does training take three times the {NAMES[quantity]} of inference?"
    )
    return Finding(
        id=f"ratio.{quantity}",
        question=question,
        statement=" ".join(_texts(part, mean, low, high, logs)),
        estimate=mean,
        low=low,
        high=high,
        n=n,
        study=str(first["study"]),
        setting=str(first["setting"]),
        figure="duration",
    )


def _texts(part: pd.DataFrame, mean: float, low: float, high: float, logs: Any) -> list[str]:
    least, most, n = part.iloc[0], part.iloc[-1], len(part)
    what = NAMES[str(least["quantity"])]
    if n == 1:
        own = with_interval(mean, float(least["low"]), float(least["high"]))
        return [
            f"A sample of training takes {own} times the {what} of one of inference for "
            f"{least['model']}, the only model in both phases.",
            "More models are needed to test a rule.",
        ]
    texts = [
        f"A sample of training takes {with_interval(mean, low, high)} times the {what} of one of "
        f"inference (geometric mean over {n} models), from {number(float(least['estimate']))} "
        f"({least['model']}) to {number(float(most['estimate']))} ({most['model']})."
    ]
    p = math.nan
    if np.ptp(logs) > ROUNDING:
        p = float(DescrStatsW(logs).ttest_mean(math.log(RULE))[1])
    if not math.isnan(p):
        verdict = "is refuted as the mean" if p < ALPHA else "is not refuted as the mean"
        texts.append(f"A ratio of {RULE:g} {verdict} ({probability(p)}).")
    off = float(np.median(np.abs(np.exp(logs) / RULE - 1)))
    told = part["off_rule"].dropna()
    own = (
        f"{int(told.sum())} of {counted(len(told), 'model')} lie off it by more than their own "
        "interval"
        if len(told)
        else "no model's own interval is known: repeats are needed"
    )
    rule = f"as a rule for one model it errs by {number(100 * off)} % (median)"
    return [*texts, sentence(f"{rule}; {own}")]
