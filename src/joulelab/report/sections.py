"""What the page's sections say, in words and formatted figures; the template only places them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from joulelab.findings.summary import FACTORS, varying
from joulelab.findings.words import counted, interval, listed, moment, number, prefix, span_of_time
from joulelab.report.origin import absences, component_name, origins, provenance_in_short
from joulelab.report.scopes import Material, Scope
from joulelab.report.theme import PHASES
from joulelab.runs.studies import Study
from joulelab.study.plan import Plan

Section = Mapping[str, Any]

MOST_ROWS = 400
"""A page's table has no more; the files beside it have all."""

_TIMES = ("started_unix_s", "stopped_unix_s")
_FACTOR_WORDS = {
    "batch_size": "batch size {}",
    "precision": "{}",
    "memory_format": "{} memory format",
    "compile": "{}",
    "optimizer": "{} optimiser",
    "input_path": "{} input path",
    "device": "device {}",
    "dataset": "data set {}",
}


def overview(study: Study, rows: pd.DataFrame) -> Section:
    """Title, what was run, when, and how much it came to."""
    cells = study.cells()
    failed = sum(run.status != "done" for run in study.runs)
    known = rows[rows["gross_j"].notna()]
    simulated = bool((rows["provenance"] == "simulated").any())
    phases = " and ".join(PHASES[phase].lower() for phase in study.plan.phases)
    unit, factor = prefix(pd.Series([known["gross_j"].sum()]))
    energy = f"{number(known['gross_j'].sum() / factor)} {unit}J" if len(known) else "not known"
    return {
        "title": study.label,
        "simulated": simulated,
        "what": f"{counted(len(study.plan.models), 'model')}, {phases}, "
        f"{counted(study.plan.repeats, 'repeat')}"
        f"{' in randomised blocks' if isinstance(study.plan, Plan) else ''}.",
        "data": _sentence(_data(study.readable()[0].data["data"])),
        "settings": _sentence(", ".join(_levels(rows))),
        "when": _when(study),
        "facts": [
            (
                "Runs finished",
                f"{len(cells)} of {study.plan.cells}" + (f", {failed} failed" * bool(failed)),
            ),
            ("Energy of all phases, gross", energy),
            ("Time in all phases", span_of_time(float(rows["duration_s"].sum()))),
            ("The power was", provenance_in_short(study) or "not known"),
        ],
    }


def results(material: Material) -> Section:
    """The main table, a group of rows a phase, the most frugal model of each scope first."""
    unit, factor = prefix(material.summary["gross_j_per_sample"])
    order = [scope.key for scope in material.scopes]
    settings = {scope.key: scope for scope in material.scopes}
    table = material.summary.assign(rank=material.summary["scope"].map(order.index))
    table = table.sort_values(["rank", "gross_j_per_sample"], kind="stable")
    shown = table.head(MOST_ROWS)
    groups = []
    for phase, title in PHASES.items():
        part = shown[shown["phase"] == phase]
        if not part.empty:
            rows = [_result(row, factor, settings) for _, row in part.iterrows()]
            groups.append({"title": title, "rows": rows})
    columns = [
        ("Gross energy", "J"),
        ("Net of idle", "J"),
        ("Gross per sample", f"{unit}J"),
        ("Net per sample", f"{unit}J"),
        ("Time", "s"),
        ("Mean power", "W"),
        ("Accuracy", "%"),
    ]
    return {"columns": columns, "groups": groups, "left_out": len(table) - len(shown)}


def of_study(study: Study, material: Material) -> Section:
    """What is said of each study by itself."""
    data = material.data
    idle = data.idle[data.idle["study"] == study.label]
    failures = data.failures[data.failures["study"] == study.label].fillna("")
    return {
        "overview": overview(study, data.runs[data.runs["study"] == study.label]),
        "origins": origins(study),
        "absences": absences(study),
        "baseline": baseline(idle),
        "failures": failures.head(MOST_ROWS).to_dict("records"),
        "failures_left_out": max(0, len(failures) - MOST_ROWS),
        "plan": study.plan.to_toml(),
    }


def table_of(texts: pd.DataFrame) -> Section:
    """A table of texts as the template places it."""
    rows = [["" if pd.isna(cell) else str(cell) for cell in row] for row in texts.to_numpy()]
    return {"columns": [str(name) for name in texts.columns], "rows": rows}


def baseline(idle: pd.DataFrame) -> Section:
    """Idle power before and after each block, and how it drifted."""
    components = sorted(idle["component"].unique())
    rows, drifts = [], []
    totals_w: dict[int, list[float]] = {}
    for run_id, part in idle.groupby("run_id", sort=False):
        by_component = part.set_index("component")["power_w"]
        total_w = by_component.sum()
        block = int(part["block"].iloc[0])
        totals_w.setdefault(block, []).append(total_w)
        rows.append(
            {
                "name": str(run_id),
                "block": block,
                "when": _moment(part["time_s"].iloc[0]),
                "duration": span_of_time(float(part["duration_s"].iloc[0])),
                "powers": [number(by_component.get(name)) for name in components],
                "total": number(total_w),
            }
        )
    for block, powers_w in totals_w.items():
        if len(powers_w) > 1:
            drift_w = powers_w[-1] - powers_w[0]
            share = f" ({100 * drift_w / powers_w[0]:+.1f} %)" if powers_w[0] else ""
            drifts.append(f"Block {block}: {drift_w:+.2f} W{share}".replace("-", "−"))
    return {
        "components": [component_name(name) for name in components],
        "rows": rows,
        "drifts": drifts,
    }


def _result(row: pd.Series[Any], per_sample: float, scopes: Mapping[str, Scope]) -> Section:
    def cell(column: str, factor: float = 1.0) -> tuple[str, str]:
        value, low, high = (row[column + end] / factor for end in ("", "_low", "_high"))
        return number(value), interval(low, high, value)

    scope = scopes[row["scope"]]
    return {
        "scope": scope.key,
        "phase": row["phase"],
        "name": row["model"],
        "setting": " · ".join(filter(None, [scope.place, scope.setting]))
        if len(scopes) > 1
        else "",
        "n": int(row["n"]),
        "cells": [
            cell("gross_j"),
            cell("net_j"),
            cell("gross_j_per_sample", per_sample),
            cell("net_j_per_sample", per_sample),
            cell("duration_s"),
            cell("mean_power_w"),
            cell("accuracy_pct"),
        ],
    }


def _levels(rows: pd.DataFrame) -> list[str]:
    """Each factor with its levels, those that vary first."""
    ordered = sorted(FACTORS, key=lambda name: name not in varying(rows))
    texts = []
    for name in ordered:
        levels = [_level(name, level) for level in sorted(rows[name].dropna().unique())]
        if levels:
            texts.append(_FACTOR_WORDS[name].format(listed(levels)))
    return texts


def _moment(unix_s: float) -> str:
    return "not known" if pd.isna(unix_s) else moment(float(unix_s))


def _when(study: Study) -> str:
    """From the first run's start to the last one's stop; recorded logs may not tell."""
    times = [run.data[key] for run in study.readable() for key in _TIMES]
    known = [float(time) for time in times if time is not None]
    return f"{moment(min(known))} to {moment(max(known))}" if known else "At a time not recorded"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def _level(name: str, level: Any) -> str:
    if name == "compile":
        return "compiled" if level else "not compiled"
    return str(level)


def _data(data: Mapping[str, Any]) -> str:
    """The data set in a sentence; empty where it is not known."""
    if not data:
        return ""
    shape = "×".join(str(size) for size in data["image_shape"])
    text = (
        f"{data['name']}: {data['train_count']:,} training and {data['test_count']:,} test images "
        f"of {shape}"
    )
    return text if data["real"] else f"{text}, synthetic"
