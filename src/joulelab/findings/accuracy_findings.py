"""What accuracy costs, in words."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from joulelab.findings.findings import Finding
from joulelab.findings.frames import PLACE, records
from joulelab.findings.terms import NAMES, PHASES
from joulelab.findings.words import (
    ABSENT,
    counted,
    listed,
    number,
    scaled,
    sentence,
    with_interval,
)


def accuracy_findings(points: pd.DataFrame) -> list[Finding]:
    """The Pareto front, and the frugal choice at equal accuracy.

    Ids: ``front.<phase>.<net|gross>`` and ``frugal.<phase>.<net|gross>``.

    Args:
        points: See :func:`joulelab.findings.accuracy.accuracy`.
    """
    keys = [*PLACE, "phase", "quantity"]
    found = []
    for _, part in points.groupby(keys, sort=False):
        rows = records(part.sort_values("energy_j", kind="stable"))
        found += [_front(rows), _frugal(rows)]
    return found


def _front(rows: list[dict[str, Any]]) -> Finding:
    first, n = rows[0], len(rows)
    front = [row for row in rows if row["on_front"]]
    cheap, dear = front[0], front[-1]
    texts = [
        f"{len(front)} of {counted(n, 'model')} {'is' if len(front) == 1 else 'are'} beaten by no "
        f"other in both accuracy and energy: {listed([_told(row) for row in front])}"
    ]
    price = math.nan
    if dear["accuracy_pct"] > cheap["accuracy_pct"]:
        gain = dear["accuracy_pct"] - cheap["accuracy_pct"]
        price = (dear["energy_j"] - cheap["energy_j"]) / gain
        texts.append(
            f"from {cheap['model']} to {dear['model']} a point of accuracy costs {scaled(price)}J"
            f"{_per(first)}"
        )
    if n == 1:
        texts.append("more models are needed to compare")
    elif any(math.isnan(row["accuracy_low_pct"]) for row in rows):
        texts.append("accuracies without intervals: repeats with other seeds would tell how sure")
    return _finding(
        "front", "Which models give the most accuracy for their {}?", rows, texts, price
    )


def _frugal(rows: list[dict[str, Any]]) -> Finding:
    best = max(rows, key=lambda row: (row["accuracy_pct"], -row["energy_j"]))
    equal = [row for row in rows if row["equal_to_best"]]
    choice = equal[0]
    accuracy = with_interval(
        best["accuracy_pct"], best["accuracy_low_pct"], best["accuracy_high_pct"], "%"
    )
    texts = [f"{best['model']} is the most accurate of {counted(len(rows), 'model')}: {accuracy}"]
    saving, low, high = (choice[f"saving_{end}pct"] for end in ("", "low_", "high_"))
    others = listed([row["model"] for row in equal if row is not best])
    if others:
        texts.append(f"not shown to be less accurate: {others}")
    if choice is best:
        texts.append("of these it needs the least energy" if others else "no other equals it")
    else:
        texts.append(
            f"of these {choice['model']} needs the least energy, "
            f"{with_interval(saving, low, high, '%')} less than {best['model']}"
        )
    if math.isnan(best["accuracy_low_pct"]):
        texts.append("without repeats or a known test set no accuracy has an interval")
    elif others:
        texts.append("more repeats, with other seeds, would tell more accuracies apart")
    question = "Which model is the frugal choice at equal accuracy, by {}?"
    return _finding("frugal", question, rows, texts, saving, low, high, "%")


def _finding(
    name: str,
    question: str,
    rows: list[dict[str, Any]],
    texts: list[str],
    estimate: float,
    low: float = math.nan,
    high: float = math.nan,
    unit: str = "J",
) -> Finding:
    first = rows[0]
    what = f"{NAMES[first['quantity']]} of {PHASES[first['phase']]}"
    return Finding(
        id=f"{name}.{first['phase']}.{first['quantity']}",
        question=question.format(what),
        statement=" ".join(sentence(text) for text in texts),
        estimate=estimate,
        low=low,
        high=high,
        n=len(rows),
        unit=unit,
        study=first["study"],
        setting=first["setting"],
        figure="accuracy",
    )


def _per(row: dict[str, Any]) -> str:
    return " a sample" if row["phase"] == "infer" else ""


def _told(row: dict[str, Any]) -> str:
    points = number(row["accuracy_pct"])
    text = f"{row['model']} ({points} %, {scaled(row['energy_j'])}J{_per(row)}"
    per_point = scaled(row["j_per_point"])
    return f"{text})" if per_point == ABSENT else f"{text}, {per_point}J a point)"
