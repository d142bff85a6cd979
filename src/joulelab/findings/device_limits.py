"""Time and energy against power limit or clock, and the knee beyond which more buys no speed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from joulelab.findings.cell_means import CellMeans
from joulelab.findings.schema import (
    INTERVAL,
    NAMES,
    PHASES,
    QUANTITIES,
    READABLE,
    Finding,
    frame,
    records,
)
from joulelab.findings.summary import limit_name, setting_text, varying
from joulelab.format import count, with_interval
from joulelab.runs import FACTORS, LIMIT_UNITS
from joulelab.stats.blocked_means import mean_difference, simultaneous_ratio

TOLERANCE = 0.01
"""A level at which work takes at most this much longer than at the highest one is as fast."""

LIMIT_CURVES = (
    *READABLE, "factor", "model", "phase", "quantity", "at", "highest",
    *INTERVAL, "n",
)  # fmt: skip
"""Columns of :func:`limit_curves`. ``factor`` is the limit that varies, ``setting`` the levels of
the others; the estimate is the ratio of time or energy (``quantity``) per unit ``at`` a level to
that at the ``highest`` one; ``n`` is the number of repeats. Intervals hold for all levels of a
study and machine together (see :mod:`joulelab.stats.blocked_means`)."""

LIMIT_KNEES = (
    *READABLE, "factor", "model", "phase", "highest", *INTERVAL, "saving",
    "saving_low", "saving_high", "quantity",
)  # fmt: skip
"""Columns of :func:`limit_knees`. The estimate is the knee: the lowest level that is as fast as
the highest one, up to :data:`TOLERANCE`; ``low`` is the lowest that is not significantly slower,
``high`` the lowest that is significantly as fast; ``saving`` is the part of the energy
(``quantity``) that the knee saves over the highest level."""


def limit_curves(measured: pd.DataFrame, means: CellMeans) -> pd.DataFrame:
    """Compare time and energy at each level with those at the highest one, within blocks."""
    rows: list[dict[str, Any]] = []
    for named, curves in _curves(measured):
        for quantity, column in QUANTITIES.items():
            mean_of = means[quantity]
            known = [
                (key, {at: row for at, row in sorted(rows_at.items()) if _cell(row) in mean_of})
                for key, rows_at in curves
            ]
            comparisons = sum(max(len(rows_at) - 1, 0) for _, rows_at in known)
            for key, rows_at in known:
                for at, row in rows_at.items():
                    highest = max(rows_at)
                    pair = mean_of[_cell(row)], mean_of[_cell(rows_at[highest])]
                    found = simultaneous_ratio(mean_difference([pair]), comparisons)
                    ratio = {"estimate": found.value, "low": found.low, "high": found.high}
                    if at == highest:
                        ratio = dict.fromkeys(INTERVAL, 1.0)
                    position = {"at": at, "highest": highest, "n": row[f"{column}_n"]}
                    rows.append(named | key | position | ratio | {"quantity": quantity})
    return frame(rows, LIMIT_CURVES)


def limit_knees(curves: pd.DataFrame) -> pd.DataFrame:
    """Find the knee of each curve."""
    rows = []
    by = [*READABLE, "factor", "model", "phase"]
    for _, part in curves.groupby(by, dropna=False, sort=False):
        time = part[part["quantity"] == "time"]
        energies = [part[part["quantity"] == name] for name in ("net", "gross")]
        energy = next((one for one in energies if one["estimate"].notna().any()), None)
        if time.empty or energy is None:
            continue
        ends = INTERVAL if time["low"].notna().all() else ("estimate",)
        knee = {end: time.loc[time[end] <= 1 + TOLERANCE, "at"].min() for end in ends}
        at_knee = energy[energy["at"] == knee["estimate"]]
        first = records(time)[0]
        saving = {"quantity": energy["quantity"].iloc[0]}
        if not at_knee.empty:
            estimate, low, high = at_knee[list(INTERVAL)].iloc[0]
            saving |= {"saving": 1 - estimate, "saving_low": 1 - high, "saving_high": 1 - low}
        rows.append({name: first[name] for name in (*by, "highest")} | knee | saving)
    return frame(rows, LIMIT_KNEES)


def limit_findings(knees: pd.DataFrame) -> list[Finding]:
    """State where the knee is. Ids: ``limit.<phase>.<power_limit_w|clock_mhz>``."""
    keys = ["study", "machine", "setting", "phase", "factor"]
    return [_finding(records(part)) for _, part in knees.groupby(keys, dropna=False, sort=False)]


_Levels = dict[float, Mapping[str, Any]]
"""The row of each level."""


def _cell(row: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    return row["group"], row["model"], row["phase"]


def _curves(
    measured: pd.DataFrame,
) -> Iterator[tuple[dict[str, str], list[tuple[dict[str, Any], _Levels]]]]:
    """Yield each study and machine with its curves of two levels or more."""
    for _, part in measured.groupby(["study", "identity", "sources"], dropna=False, sort=False):
        named = {name: part[name].iloc[0] for name in ("study", "machine", "unit")}
        factors = varying(part)
        curves: dict[tuple[Any, ...], tuple[dict[str, Any], _Levels]] = {}
        for factor in (name for name in LIMIT_UNITS if name in factors):
            others = [name for name in FACTORS if name != factor]
            for row in records(part[part[factor].notna()]):
                levels = {name: row[name] for name in others if name in factors}
                key = {"setting": setting_text(levels), "factor": factor}
                key |= {"model": row["model"], "phase": row["phase"]}
                _, levels_of = curves.setdefault(tuple(key.values()), (key, {}))
                levels_of[row[factor]] = row
        found = [(key, rows_at) for key, rows_at in curves.values() if len(rows_at) > 1]
        if found:
            yield named, found


def _finding(rows: list[dict[str, Any]]) -> Finding:
    first = rows[0]
    factor, phase = first["factor"], PHASES[first["phase"]]
    name, unit = limit_name(factor), LIMIT_UNITS[factor]
    knees = sorted(row["estimate"] for row in rows)
    text = f"{knees[0]:g}" if knees[0] == knees[-1] else f"{knees[0]:g} to {knees[-1]:g}"
    texts = [
        f"{_models(rows)}the lowest {name} at which {phase} takes at most {100 * TOLERANCE:g} % "
        f"longer than at {first['highest']:g} {unit} is {text} {unit}{_allowed(rows, unit)}"
    ]
    saved = [row for row in rows if row["saving_low"] > 0 and row["estimate"] < row["highest"]]
    if saved:
        least, most = (choose(saved, key=lambda row: row["saving"]) for choose in (min, max))
        savings = _saving(least) if least is most else f"{_saving(least)} to {_saving(most)}"
        texts.append(
            f"there it saves {savings} of the {NAMES[first['quantity']]} per {first['unit']}"
        )
    tested = [row for row in rows if not math.isnan(row["saving_low"])]
    if tested and not saved and any(row["estimate"] < row["highest"] for row in rows):
        texts.append("no saving there is significant")
    return Finding.about(
        {name: first[name] for name in ("study", "setting", "phase")},
        f"limit.{first['phase']}.{factor}",
        f"Beyond which {name} does {phase} get no faster?",
        texts,
        estimate=float(pd.Series(knees).median()),
        low=first["low"] if len(rows) == 1 else math.nan,
        high=first["high"] if len(rows) == 1 else math.nan,
        n=len(rows),
        unit=unit,
        figure="limits",
        significant=bool(saved) if tested else None,
    )


def _models(rows: list[dict[str, Any]]) -> str:
    return f"over {count(len(rows), 'model')}, " if len(rows) > 1 else ""


def _allowed(rows: list[dict[str, Any]], unit: str) -> str:
    """State which levels the intervals allow; nothing without repeats."""
    ends = [row[name] for row in rows for name in ("low", "high")]
    if any(math.isnan(end) for end in ends):
        return " (repeats in two blocks or more are needed for an interval)"
    if min(ends) == max(ends):
        return ""
    return f" (the intervals allow {min(ends):g} to {max(ends):g} {unit})"


def _saving(row: Mapping[str, Any]) -> str:
    value, low, high = (100 * row[name] for name in ("saving", "saving_low", "saving_high"))
    return with_interval(value, low, high, "%")
