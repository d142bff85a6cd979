"""Section of the page on studies with factors: each setting, and the effects of the factors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from joulelab.findings.all import Analysis
from joulelab.findings.cell_means import ACCURACY
from joulelab.findings.factor_effects import COLUMNS
from joulelab.findings.schema import ENERGIES, records
from joulelab.findings.summary import level_text, limit_name, varying
from joulelab.format import (
    ABSENT,
    interval,
    is_undetermined,
    number,
    scale,
    time_scale,
    undetermined,
    with_interval,
)
from joulelab.report.charts.effects import drawn_effects
from joulelab.report.charts.style import PHASES
from joulelab.runs import FACTORS, LIMIT_UNITS

Section = Mapping[str, Any]

MOST_SETTINGS = 24
"""Settings of a model and phase on the page, those of least energy; the file has all."""

_HEADINGS = {
    "net": ("Net energy per {}", "J"),
    "gross": ("Gross energy per {}", "J"),
    "time": ("Time per {}", "s"),
    ACCURACY: ("Accuracy", "%"),
}


def setting_table(analysis: Analysis) -> pd.DataFrame:
    """Return the compared settings with the levels of the factors that vary, for a file."""
    settings = analysis.setting_effects
    groups = analysis.tables.measurements.drop_duplicates("group")
    levels = groups[["group", *varying(groups, FACTORS)]]
    return levels.merge(settings, on="group", how="right").drop(columns=["group", "setting"])


def settings_sections(analysis: Analysis) -> Sequence[Section]:
    """Return the settings and effects of each study and machine with factors that vary."""
    measured = analysis.tables.measurements
    sections = []
    for (study, machine), part in analysis.setting_effects.groupby(
        ["study", "machine"], sort=False
    ):
        groups = measured[measured["group"].isin(part["group"])].drop_duplicates("group")
        effects = analysis.factor_effects
        effects = effects[(effects["study"] == study) & (effects["machine"] == machine)]
        sections.append(_section(part, groups, effects) | {"title": f"{study} · {machine}"})
    return sections


def _section(part: pd.DataFrame, groups: pd.DataFrame, effects: pd.DataFrame) -> dict[str, Any]:
    factors = varying(groups)
    levels = {
        row["group"]: [_level(name, row[name]) for name in factors] for row in records(groups)
    }
    units: dict[str, tuple[float, str]] = {}
    for name in _HEADINGS:
        values = part.loc[part["quantity"] == name, "value"].abs()
        if len(values):
            units[name] = _scale(name, float(values.median()))
    models = {
        str(phase): _models(of_phase, levels, units)
        for phase, of_phase in part.groupby("phase", sort=False)
    }
    work = part["unit"].iloc[0]
    headings = [(name, _HEADINGS[name][0].format(work), _shown_with(name)) for name in units]
    return {
        "groups": " ".join(str(group) for group in groups["group"]),
        "factors": [_heading(name) for name in factors],
        "columns": [(text, units[name][1], energy) for name, text, energy in headings],
        "changes": [
            (text, "points" if name == ACCURACY else "%", energy) for name, text, energy in headings
        ],
        "phases": [(phase, PHASES[phase], of_phase) for phase, of_phase in models.items()],
        "left_out": sum(model["left_out"] for of_phase in models.values() for model in of_phase),
        "effects": _effects(effects, list(units)),
    }


def _scale(quantity: str, value: float) -> tuple[float, str]:
    unit = _HEADINGS[quantity][1]
    return time_scale(value) if unit == "s" else scale(value, unit)


def _heading(factor: str) -> str:
    name = limit_name(factor) if factor in LIMIT_UNITS else factor.replace("_", " ")
    return name[:1].upper() + name[1:]


def _level(factor: str, level: Any) -> str:
    name = limit_name(factor) if factor in LIMIT_UNITS else factor.replace("_", " ")
    return level_text(factor, level).removeprefix(f"{name} ")


def _models(
    part: pd.DataFrame,
    levels: Mapping[int, list[str]],
    units: Mapping[str, tuple[float, str]],
) -> Sequence[Section]:
    models = []
    for model, of_model in part.groupby("model", sort=False):
        by_group: dict[int, dict[str, dict[str, Any]]] = {}
        for row in records(of_model):
            by_group.setdefault(row["group"], {})[row["quantity"]] = row
        energy = next(name for name in (*ENERGIES, *COLUMNS) if name in set(of_model["quantity"]))
        order = of_model[of_model["quantity"] == energy].sort_values("value", kind="stable")
        shown = {*order["group"].head(MOST_SETTINGS), next(iter(by_group))}
        rows = [_row(levels[group], by_group[group], units) for group in by_group if group in shown]
        models.append({"model": model, "rows": rows, "left_out": len(by_group) - len(rows)})
    return models


def _row(
    levels: list[str],
    found: Mapping[str, dict[str, Any]],
    units: Mapping[str, tuple[float, str]],
) -> Section:
    cells = []
    for name, (size, _) in units.items():
        cell = {"quantity": _shown_with(name), "value": ABSENT, "interval": "", "change": ""}
        if row := found.get(name):
            value, low, high = (row[end] / size for end in ("value", "value_low", "value_high"))
            cell |= {"value": number(value), "interval": interval(low, high, value)}
            if not row["first_setting"] and not math.isnan(row["estimate"]):
                text, _ = _change(row)
                if text != undetermined():
                    unit = "points" if name == ACCURACY else "%"
                    text, _, star = text.partition(" ")
                    text = f"{text} {unit}{' ' + star if star else ''}"
                cell["change"] = text
        cells.append(cell)
    first = next(iter(found.values()))
    return {
        "levels": levels,
        "n": max(row["n"] for row in found.values()),
        "first": first["first_setting"],
        "best": [name for name in ENERGIES if name in found and found[name]["best"]],
        "cells": cells,
    }


def _change(row: Mapping[str, Any]) -> tuple[str, str]:
    """Return a change in percent or points and its interval; a star if it is significant."""
    values = [row[end] for end in ("estimate", "low", "high")]
    if is_undetermined(*values[1:]):
        return undetermined(), ""
    if row["quantity"] != ACCURACY:
        values = [100 * (value - 1) for value in values]
    text, _, ends = with_interval(*values, level="").partition(" (")
    signed = f"{'+' if values[0] > 0 else ''}{text}"
    return f"{signed}{' *' if row['shown'] is True else ''}", ends.removesuffix(")")


def _effects(effects: pd.DataFrame, quantities: list[str]) -> Sequence[Section]:
    """Return the rows of the table of effects, by phase: first effects, then interactions."""
    sections = []
    for phase, part in drawn_effects(effects).groupby("phase", sort=False):
        rows = []
        for name, of_effect in part.groupby("effect", sort=False):
            found = {row["quantity"]: row for row in records(of_effect)}
            first = next(iter(found.values()))
            cells = [
                (*(_change(found[one]) if one in found else (ABSENT, "")), _shown_with(one))
                for one in quantities
            ]
            rows.append({"name": name, "n": first["n"], "cells": cells})
        sections.append({"phase": phase, "title": PHASES[str(phase)], "rows": rows})
    return sections


def _shown_with(quantity: str) -> str:
    """Return the energy with which a column is shown; empty for always."""
    return quantity if quantity in ENERGIES else ""
