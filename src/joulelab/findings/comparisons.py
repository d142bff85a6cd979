"""Comparison of phases and of machines: ratios of time and energy, model by model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from joulelab.findings.cell_means import CellMeans
from joulelab.findings.schema import (
    ALPHA,
    INTERVAL,
    KEY,
    NAMES,
    PHASE_PAIRS,
    PHASES,
    QUANTITIES,
    Finding,
    PhasePair,
    frame,
    records,
)
from joulelab.findings.summary import setting_text, varying
from joulelab.format import (
    count,
    is_undetermined,
    join_words,
    number,
    p_value,
    percent,
    sentence,
    undetermined,
    with_interval,
)
from joulelab.runs import FACTORS
from joulelab.stats.blocked_means import (
    block_variance,
    mean_difference,
    mean_over,
    simultaneous_ratio,
)
from joulelab.stats.difference import Difference
from joulelab.stats.estimates import Estimate, estimate_ratio, mean_with_errors
from joulelab.uncertain import ratio_interval

ROUNDING = 1e-9
"""Ratios that differ relatively by less are equal."""

PHASE_RATIOS = (
    *KEY, "model", "first", "second", "quantity", *INTERVAL, "n", "rule", "off_rule",
)  # fmt: skip
"""Columns of :func:`phase_ratios`. ``first`` and ``second`` are a pair of phases and ``rule`` what
their ratio should be (:data:`~joulelab.findings.schema.PHASE_PAIRS`); ``quantity`` is ``time``,
``gross`` or ``net``; ``n`` is the number of repeats of the phase that has fewer; ``off_rule``
states whether the interval excludes the rule, and is empty without an interval."""

SIDE_BY_SIDE = (
    "unit", "model", "phase", "quantity", "machine", "reference", "setting", "ratio", "low", "high",
)  # fmt: skip
"""Columns of :func:`side_by_side`. ``quantity`` is ``net``, ``gross`` or ``time``."""

BY_CHANCE = "1 in 20 would by chance"
"""How many of intervals of 95 % exclude the truth."""


def phase_ratios(measured: pd.DataFrame) -> pd.DataFrame:
    """Divide one phase by another, both per unit: a row per model, pair and quantity.

    Both phases were read by the same sensors, so their gain cancels in ratios of gross energy. The
    interval of net energy has all uncertainty, because idle power does not cancel.
    """
    models: dict[tuple[int, str], dict[str, dict[str, Any]]] = {}
    for row in records(measured):
        models.setdefault((row["group"], row["model"]), {})[row["phase"]] = row
    rows: list[dict[str, Any]] = []
    for phases in models.values():
        for pair in PHASE_PAIRS:
            if pair.first in phases and pair.second in phases:
                rows += _phase_ratios(pair, phases[pair.first], phases[pair.second])
    return frame(rows, PHASE_RATIOS)


def _phase_ratios(
    pair: PhasePair, first: Mapping[str, Any], second: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    for quantity, column in QUANTITIES.items():
        found = estimate_ratio(first, second, column, shared=quantity == "net")
        if math.isnan(found.value):
            continue
        known = not math.isnan(found.low)
        yield {name: first[name] for name in (*KEY, "model")} | {
            "first": pair.first,
            "second": pair.second,
            "rule": pair.rule,
            "quantity": quantity,
            "estimate": found.value,
            "low": found.low,
            "high": found.high,
            "n": found.n,
            "off_rule": not found.low <= pair.rule <= found.high if known else None,
        }


def phase_findings(ratios: pd.DataFrame, means: CellMeans) -> list[Finding]:
    """Compare phases, and test rules of thumb over models.

    Ids: ``ratio.<time|gross|net>`` for training and inference, for other pairs such as
    ``ratio.decode-prefill.net``.
    """
    return [
        _phase_finding(part.sort_values("estimate", kind="stable"), means)
        for _, part in ratios.groupby(["group", "first", "second", "quantity"], sort=False)
    ]


def _phase_finding(part: pd.DataFrame, means: CellMeans) -> Finding:
    rows = records(part)
    first, quantity, n = rows[0], rows[0]["quantity"], len(rows)
    pair = PhasePair(first["first"], first["second"], first["rule"])
    mean = _mean_ratio(rows, means)
    found = Estimate(first["estimate"], first["low"], first["high"], 1)
    if n > 1:
        found = simultaneous_ratio(mean)
    phase, other = PHASES[pair.first], PHASES[pair.second]
    compared = f"as long as {other}" if quantity == "time" else f"the {NAMES[quantity]} of {other}"
    verb = "takes" if quantity == "time" else "uses"
    verb_asked = verb.removesuffix("s")
    times = f"{with_interval(found.value, found.low, found.high)} times {compared}"
    text = f"per {first['unit']}, {phase} {verb} {times}"
    if is_undetermined(found.low, found.high):
        unknown = undetermined(count(int(part["n"].min()), "repeat"))
        text = f"how many times {compared} {phase} {verb} {unknown}"
    differs = n > 1 and replace(mean, value=mean.value - math.log(pair.rule)).p < ALPHA
    has_rule = pair.rule != 1
    if n == 1:
        texts = [f"{text} for {first['model']}"]
        answer = sentence(texts[0])
        texts += ["more models are needed to test the rule"] if has_rule else []
    else:
        texts = [
            f"{text} (geometric mean of {n} models), {_range(rows, 'estimate')}",
            *_against_rule(pair.rule, rows, mean, part["off_rule"].dropna()),
        ]
        answer = " ".join(map(sentence, texts[:2]))
    question = f"Does {phase} {verb_asked} three times {compared}?"
    if not has_rule:
        question = f"How many times {compared} does {phase} {verb_asked}?"
    return Finding.about(
        first,
        f"ratio.{pair.id}{quantity}",
        question,
        texts,
        answer=answer,
        estimate=found.value,
        low=found.low if n > 1 or not has_rule else math.nan,
        high=found.high if n > 1 or not has_rule else math.nan,
        n=n,
        figure="ratio",
        significant=differs if n > 1 else None,
    )


def _mean_ratio(rows: Sequence[Mapping[str, Any]], means: CellMeans) -> Difference:
    """Return the mean logarithm of the first phase over the second, over models and blocks."""
    quantity, phases = rows[0]["quantity"], [rows[0]["first"], rows[0]["second"]]
    values = np.log([row["estimate"] for row in rows])
    if len(rows) == 1:
        return Difference(float(values[0]), 0.0, 0.0)
    of, pairs = means[quantity], []
    for row in rows:
        first, second = ((row["group"], row["model"], phase) for phase in phases)
        if first in of and second in of:
            pairs.append((of[first], of[second]))
    errors = mean_difference(pairs) if pairs else Difference(0.0, 0.0, 0.0)
    table = means.runs[["group", "model", "block", "phase"]].assign(value=means.values(quantity))
    table = table[(table["group"] == rows[0]["group"]) & np.isfinite(table["value"])]
    both = table.pivot_table(index=["model", "block"], columns="phase", values="value")
    both = both.reindex(columns=phases).dropna()
    models, numbers = (pd.factorize(both.index.get_level_values(level))[0] for level in (0, 1))
    ratios = (both[phases[0]] - both[phases[1]]).to_numpy(dtype=float)
    blocks = block_variance(ratios, models, numbers)
    return mean_over(values, errors, *blocks)


def _range(rows: Sequence[Mapping[str, Any]], column: str) -> str:
    """Name the ends of rows in ascending order."""
    first, last = rows[0], rows[-1]
    return (
        f"from {number(first[column])} ({first['model']}) to {number(last[column])} "
        f"({last['model']})"
    )


def _against_rule(
    rule: float,
    rows: Sequence[Mapping[str, Any]],
    mean: Difference,
    off_rule: pd.Series[bool],
) -> list[str]:
    """Compare ratios with a rule of thumb, or with 1 where there is none."""
    logs = np.log([row["estimate"] for row in rows])
    texts = []
    if np.ptp(logs) > ROUNDING:
        p = replace(mean, value=mean.value - math.log(rule)).p
        verb = "differs significantly" if p < ALPHA else "does not differ significantly"
        texts.append(f"the mean {verb} from {rule:g} ({p_value(p)})")
    intervals = "no model has an interval of its own without repeats"
    if len(off_rule):
        of_models = f"the intervals of {int(off_rule.sum())} of {count(len(off_rule), 'model')}"
        intervals = f"{of_models} exclude {'it' if texts or rule != 1 else '1'} ({BY_CHANCE})"
    if rule == 1:
        return [*texts, intervals]
    error = percent(float(np.median(np.abs(np.exp(logs) / rule - 1))))
    return [*texts, f"for a single model the rule is off by {error} (median); {intervals}"]


def matches(measured: pd.DataFrame) -> list[tuple[str, dict[str, pd.DataFrame]]]:
    """Find groups with the same factors on two or more machines.

    Returns:
        The setting (levels of the factors that vary; empty where none does) and the rows of one
        group per machine, the one with the most models.
    """
    names = varying(measured)
    found = []
    for _, part in measured.groupby(list(FACTORS), dropna=False, sort=False):
        first = records(part.drop_duplicates("machine"))
        if len(first) > 1:
            setting = setting_text({name: first[0][name] for name in names})
            groups = {row["machine"]: part[part["group"] == row["group"]] for row in first}
            found.append((setting, groups))
    return found


def side_by_side(measured: pd.DataFrame) -> pd.DataFrame:
    """Divide each model's energy and time per unit on each machine by those on the reference.

    The reference is the machine with the most models. Intervals contain the full uncertainty of
    both measurements, gains included, because the sensors differ.
    """
    rows: list[dict[str, Any]] = []
    for setting, groups in matches(measured):
        (reference, base), *others = groups.items()
        known = {(row["model"], row["phase"]): row for row in records(base)}
        for machine, group in others:
            named = {"machine": machine, "reference": reference, "setting": setting}
            pairs = [(row, known.get((row["model"], row["phase"]))) for row in records(group)]
            rows += [
                {name: row[name] for name in ("unit", "model", "phase")} | named | found
                for row, other in pairs
                if other is not None
                for found in _ratios(row, other)
            ]
    return frame(rows, SIDE_BY_SIDE)


def _ratios(row: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for quantity, column in QUANTITIES.items():
        found = estimate_ratio(row, other, column, shared=True)
        if not math.isnan(found.value):
            ends = {"ratio": found.value, "low": found.low, "high": found.high}
            yield {"quantity": quantity} | ends


def machine_findings(compared: pd.DataFrame, measured: pd.DataFrame) -> list[Finding]:
    """State the ratios between machines, or that there are none.

    Ids: ``machines.ratio.<phase>.<net|gross|time>``, and ``machines`` where several machines have
    no model and setting in common.
    """
    machines = list(dict.fromkeys(measured["machine"]))
    if len(machines) > 1 and compared.empty:
        texts = [
            f"{join_words(machines)} have no model in common that ran with the same settings, so "
            "they are not compared",
            "run the same plan on each machine",
        ]
        question = "How do the machines compare?"
        return [Finding.about({}, "machines", question, texts, figure="machines")]
    keys = ["setting", "phase", "quantity", "machine", "reference"]
    return [
        _machine_finding(part.sort_values("ratio", kind="stable"))
        for _, part in compared.groupby(keys, sort=False)
    ]


def _machine_finding(part: pd.DataFrame) -> Finding:
    rows = records(part)
    first, n = rows[0], len(rows)
    quantity, phase = first["quantity"], PHASES[first["phase"]]
    machine, reference = first["machine"], first["reference"]
    mean, low, high = first["ratio"], first["low"], first["high"]
    if n > 1:
        logs = np.log(part["ratio"].to_numpy(dtype=float))
        halves = np.log((part["high"] / part["ratio"]).to_numpy(dtype=float))
        mean_log, half = mean_with_errors(logs, halves)
        mean = math.exp(mean_log)
        low, high = ratio_interval(mean, half)
    verb = "takes" if quantity == "time" else "uses"
    compared = "as long" if quantity == "time" else f"as much {NAMES[quantity]}"
    place = f"on {machine} as on {reference}"
    times = f"{with_interval(mean, low, high)} times {compared}"
    text = f"per {first['unit']}, {phase} {verb} {times} {place}"
    if is_undetermined(low, high):
        text = f"how many times {compared} {phase} {verb} {place} {undetermined()}"
    differs = None if math.isnan(low) else not low <= 1 <= high
    different = {True: "significant", False: "not significant"}
    texts = [f"{text}, for {first['model']}, the only model measured on both"]
    if n > 1:
        apart = [row for row in rows if not math.isnan(row["low"])]
        excluding = sum(not row["low"] <= 1 <= row["high"] for row in apart)
        texts = [f"{text} (geometric mean of {n} models), {_range(rows, 'ratio')}"]
        texts.append(
            f"the intervals of {excluding} of {count(len(apart), 'model')} exclude equality, the "
            f"uncertainty of the sensors' gains included; {BY_CHANCE}"
        )
    if differs is not None:
        texts.insert(
            1, f"the difference{' of the mean' if n > 1 else ''} is {different[differs]} (95 %)"
        )
    return Finding.about(
        first,
        f"machines.ratio.{first['phase']}.{quantity}",
        f"How does the {NAMES[quantity]} of {phase} on {machine} compare with {reference}?",
        texts,
        estimate=mean,
        low=low,
        high=high,
        n=n,
        figure="machines",
        significant=differs,
    )
