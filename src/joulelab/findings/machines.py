"""The same models on unlike machines, side by side; never averaged."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from joulelab.findings.data import Group
from joulelab.findings.findings import Finding
from joulelab.findings.frames import REAL, TEXT, frame, records
from joulelab.findings.summary import FACTORS, varying
from joulelab.findings.terms import NAMES, PHASES, QUANTITIES
from joulelab.findings.words import listed, number, sentence, with_interval
from joulelab.stats.estimates import estimate_ratio, geometric_mean_interval

SIDE_BY_SIDE: Mapping[str, str] = {
    "model": TEXT,
    "phase": TEXT,
    "quantity": TEXT,
    "machine": TEXT,
    "reference": TEXT,
    "setting": TEXT,
    "ratio": REAL,
    "low": REAL,
    "high": REAL,
}
"""Columns of :func:`side_by_side`. ``quantity``, a sample each: ``net``, ``gross`` or ``time``."""


@dataclass(frozen=True, slots=True, eq=False)
class Match:
    """Groups that differ in their machines, not in their factors.

    Attributes:
        setting: The levels of the factors that vary among all groups; empty where none does.
        groups: By machine, in order of the number of models.
    """

    setting: str
    groups: Mapping[str, Group]


def matches(groups: Sequence[Group]) -> list[Match]:
    """Groups on two or more machines with the same factors.

    Of several groups of one machine with these factors the first is taken: that with the most
    models.
    """
    by_factors: dict[tuple[object, ...], dict[str, Group]] = {}
    for group in groups:
        first = group.table.iloc[0]
        levels = tuple(None if pd.isna(first[name]) else first[name] for name in FACTORS)
        by_factors.setdefault(levels, {}).setdefault(group.machine, group)
    told = varying(pd.concat([group.table for group in groups])) if groups else []
    return [
        Match(_setting(dict(zip(FACTORS, levels, strict=True)), told), found)
        for levels, found in by_factors.items()
        if len(found) > 1
    ]


def _setting(levels: Mapping[str, object], told: Sequence[str]) -> str:
    return ", ".join(f"{name}={levels[name]}" for name in told)


def side_by_side(groups: Sequence[Group]) -> pd.DataFrame:
    """Each model's energy and time a sample on each machine over those on the reference.

    The reference is the machine with the most models. Intervals hold all of both measurements'
    uncertainty, gains included, since the sensors are not the same.

    Args:
        groups: Models measured alike, those with the most models first.
    """
    rows: list[dict[str, Any]] = []
    for match in matches(groups):
        (reference, base), *others = match.groups.items()
        known = {(row["model"], row["phase"]): row for row in records(base.table)}
        for machine, group in others:
            named = {"machine": machine, "reference": reference, "setting": match.setting}
            for row in records(group.table):
                other = known.get((row["model"], row["phase"]))
                if other is not None:
                    rows += [named | found for found in _ratios(row, other)]
    return frame(rows, SIDE_BY_SIDE)


def _ratios(row: dict[str, Any], other: dict[str, Any]) -> list[dict[str, Any]]:
    found = []
    for quantity, column in QUANTITIES.items():
        compared = estimate_ratio(row, other, column, shared=True)
        if not math.isnan(compared.value):
            ends = {"ratio": compared.value, "low": compared.low, "high": compared.high}
            named = {name: row[name] for name in ("model", "phase")}
            found.append(named | {"quantity": quantity} | ends)
    return found


def machine_findings(compared: pd.DataFrame, groups: Sequence[Group]) -> list[Finding]:
    """Machines' ratios in words, or that there are none to compare.

    Ids: ``machines.ratio.<phase>.<net|gross|time>``, and ``machines`` where several machines have
    no model and setting in common.

    Args:
        compared: See :func:`side_by_side`.
        groups: What it was made from.
    """
    machines = list(dict.fromkeys(group.machine for group in groups))
    if len(machines) > 1 and compared.empty:
        return [_nothing_in_common(machines)]
    keys = ["setting", "phase", "quantity", "machine", "reference"]
    return [_finding(part) for _, part in compared.groupby(keys, sort=False)]


def _nothing_in_common(machines: Sequence[str]) -> Finding:
    return Finding(
        id="machines",
        question="How do the machines compare?",
        statement=f"{listed(machines)} have no model in common that ran with the same factors, so "
        "they are not compared. The same plan has to be run on each.",
        figure="machines",
    )


def _finding(part: pd.DataFrame) -> Finding:
    rows = records(part.sort_values("ratio", kind="stable"))
    first, last, n = rows[0], rows[-1], len(rows)
    what, phase = NAMES[first["quantity"]], PHASES[first["phase"]]
    logs = np.log(part["ratio"].to_numpy(dtype=float))
    mean, low, high = float(np.exp(logs.mean())), first["low"], first["high"]
    if n > 1:
        low, high = geometric_mean_interval(logs)
    text = (
        f"a sample of {phase} takes {with_interval(mean, low, high)} times as much {what} on "
        f"{first['machine']} as on {first['reference']}"
    )
    texts = [f"{text} for {first['model']}, the only model on both"]
    if n > 1:
        shown = sum(not row["low"] <= 1 <= row["high"] for row in rows if row["low"] == row["low"])
        texts = [
            f"{text} (geometric mean over {n} models), from {number(first['ratio'])} "
            f"({first['model']}) to {number(last['ratio'])} ({last['model']})",
            f"{shown} of {n} models are shown to differ between the two by their own intervals, "
            "sensors' gains included",
        ]
    return Finding(
        id=f"machines.ratio.{first['phase']}.{first['quantity']}",
        question=f"How much {what} does {phase} take on {first['machine']}, over "
        f"{first['reference']}?",
        statement=" ".join(sentence(text) for text in texts),
        estimate=mean,
        low=low,
        high=high,
        n=n,
        setting=first["setting"],
        figure="machines",
    )
