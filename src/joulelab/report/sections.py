"""Sections of the page, as texts and formatted values; the templates only arrange them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from joulelab.energy.energy import NEGATIVE_NET
from joulelab.findings.all import Analysis
from joulelab.findings.schema import records
from joulelab.findings.summary import varying
from joulelab.format import (
    ABSENT,
    count,
    duration,
    interval,
    join_words,
    number,
    percent,
    relative_to,
    scale,
    sentence,
    time_scale,
    timestamp,
)
from joulelab.report.charts.style import PHASES, QUANTITIES
from joulelab.report.page_template import order
from joulelab.report.provenance import Origin, absences, component_name, origins, provenance_summary
from joulelab.runs import FACTORS, LIMIT_UNITS
from joulelab.runs.study_runs import Study

Section = Mapping[str, Any]

MOST_ROWS = 400
"""Rows of a table on the page; the files next to it have all."""

_RESULTS = (
    ("net_j_per_unit", "Net per {}", "J"),
    ("gross_j_per_unit", "Gross per {}", "J"),
    ("accuracy_pct", "Accuracy", "%"),
    ("duration_s_per_unit", "Time per {}", "s"),
    ("mean_power_w", "Mean power", "W"),
    ("net_j", "Net energy in total", "J"),
    ("gross_j", "Gross energy in total", "J"),
    ("duration_s", "Time in total", "s"),
)
_FACTORS = {
    "batch_size": "batch size {}",
    "precision": "{}",
    "memory_format": "{} memory format",
    "compile": "{}",
    "optimizer": "{} optimiser",
    "input_path": "{} input path",
    "device": "device {}",
    "dataset": "data set {}",
    "power_limit_w": "power limit {} W",
    "clock_mhz": "clock {} MHz",
    "prompt_tokens": "prompts of {} tokens",
    "output_tokens": "{} output tokens",
    "attention": "{} attention",
    "cache": "{} cache",
}


def results(measured: pd.DataFrame, ratios: pd.DataFrame, quantity: str) -> Section:
    """Return the main table: rows by phase, the most efficient model of each group first.

    The page shows the columns of one quantity, ``net`` or ``gross``, and sorts by it; at first by
    the one that is given. Columns without a value are left out.
    """
    known = [one for one in _RESULTS if measured[one[0]].notna().any()]
    columns = []
    work = " or ".join(dict.fromkeys(measured["unit"]))
    for name, heading, unit in known:
        typical = measured[name.replace("net_", "gross_")].abs().median()
        size, scaled = time_scale(typical) if unit == "s" else scale(typical, unit)
        energy = _quantity(name)
        column = {"name": name, "size": size, "quantity": energy}
        columns.append(column | {"heading": heading.format(work), "unit": scaled})
        if name.endswith("j_per_unit"):
            more = {"name": "difference", "heading": "Compared with the least", "unit": ""}
            columns.append(column | more)
    several = measured["group"].nunique() > 1
    table = measured.sort_values(["group", f"{quantity}_j_per_unit"], kind="stable")
    shown = table.head(MOST_ROWS)
    differences = _differences(ratios)
    phases = []
    for phase, title in PHASES.items():
        part = shown[shown["phase"] == phase]
        if not part.empty:
            rows = [_result(row, columns, differences, several) for row in records(part)]
            phases.append({"title": title, "rows": rows})
    return {
        "columns": columns,
        "sorted_by": f"{quantity}_j_per_unit",
        "phases": phases,
        "left_out": len(table) - len(shown),
        "negative": sentence(NEGATIVE_NET) if (table["net_j"] < 0).any() else "",
    }


def _result(
    row: Mapping[str, Any],
    columns: Sequence[Section],
    differences: Mapping[tuple[Any, ...], Section],
    several: bool,
) -> Section:
    cells = []
    for column in columns:
        name, size, energy = column["name"], column["size"], column["quantity"]
        if name == "difference":
            key = (row["group"], row["phase"], energy, row["model"])
            cell = differences.get(key, _NO_DIFFERENCE)
        else:
            value, low, high = (row[name + end] / size for end in ("", "_low", "_high"))
            ends = interval(low, high, value)
            cell = {"value": row[name], "text": number(value), "note": ends}
        cells.append({**cell, "quantity": energy, "order": order(cell["value"])})
    place = [row["study"], row["machine"], row["setting"]] if several else []
    return {
        "group": row["group"],
        "phase": row["phase"],
        "model": row["model"],
        "setting": " · ".join(filter(None, place)),
        "n": int(row["n"]),
        "shared": int(row["shared_runs"]),
        "cells": cells,
    }


_NO_DIFFERENCE: Section = {"value": math.nan, "text": ABSENT, "note": ""}


def _differences(ratios: pd.DataFrame) -> dict[tuple[Any, ...], Section]:
    """Return the cell of each model that states its energy relative to the least."""
    cells: dict[tuple[Any, ...], Section] = {}
    for row in records(ratios[ratios["to_least"]]):
        key = (row["group"], row["phase"], row["quantity"])
        cells[*key, row["other"]] = {"value": 1.0, "text": "least", "note": ""}
        text, ends = relative_to(row["estimate"], row["low"], row["high"])
        tested = not pd.isna(row["shown"])
        verdict = "" if not tested or row["shown"] else "not significant"
        note = ", ".join(filter(None, (ends, verdict)))
        cells[*key, row["model"]] = {"value": row["estimate"], "text": text, "note": note}
    return cells


def _quantity(column: str) -> str:
    """Return the quantity with which a column is shown; empty for always."""
    return next((name for name in QUANTITIES if column.startswith(f"{name}_")), "")


def study_section(study: Study, analysis: Analysis) -> Section:
    """Return what the page states about one study."""
    tables = analysis.tables
    idle = tables.idle[tables.idle["study"] == study.label]
    failures = tables.failures[tables.failures["study"] == study.label].fillna("")
    sources = origins(study)
    return {
        "overview": _overview(study, tables.runs[tables.runs["study"] == study.label], sources),
        "origins": sources,
        "absences": absences(study),
        "baseline": _baseline(idle),
        "failures": failures.head(MOST_ROWS).to_dict("records"),
        "failures_left_out": max(0, len(failures) - MOST_ROWS),
        "plan": study.plan_text,
    }


def _overview(study: Study, runs: pd.DataFrame, sources: Sequence[Origin]) -> Section:
    plan = study.plan
    failed = len(study.failed()) + len(study.damaged)
    phases = join_words([PHASES[phase].lower() for phase in plan["phases"]])
    of_component = [(one.component, one.provenance) for one in sources]
    finished = f"{len(study.cells())} of {study.cells_planned}"
    first = study.runs[0].study
    return {
        "title": study.label,
        "what": f"{count(len(plan['models']), 'model')}, {phases}, "
        f"{count(plan['repeats'], 'repeat')}"
        f"{'' if study.is_imported else ' in randomised blocks'}.",
        "data": sentence(_data_set(first.data if first else {})),
        "settings": sentence(", ".join(_factor_levels(runs))),
        "when": _when(study),
        "facts": [
            ("Finished runs", f"{finished}, {failed} failed" if failed else finished),
            ("Power readings", provenance_summary(of_component) or "none"),
        ],
    }


def _data_set(data: Mapping[str, Any]) -> str:
    """Describe the data set; empty if it is unknown."""
    if not data:
        return ""
    if "image_shape" not in data:
        return _token_set(data)
    shape = "×".join(str(size) for size in data["image_shape"])
    text = (
        f"{data['name']}: {data['train_count']:,} training and {data['test_count']:,} test images "
        f"of {shape}"
    )
    return text if data["real"] else f"{text}, synthetic"


def _token_set(data: Mapping[str, Any]) -> str:
    """Describe the sequences of language models, and their weights."""
    texts = [
        f"{data['name']}: {data['train_count']:,} training sequences and "
        f"{data['test_count']:,} prompts of random token ids"
    ]
    if data["random_weights"]:
        texts.append(
            f"the weights of {join_words(data['random_weights'])} are random, which at fixed "
            "lengths cost the same joules as trained ones"
        )
    if data["mixtures"]:
        texts.append(
            f"in {join_words(data['mixtures'])}, other weights would route tokens to other experts"
        )
    return "; ".join(texts)


def _factor_levels(runs: pd.DataFrame) -> list[str]:
    """Describe the levels of each factor, those that vary first."""
    texts = []
    for name in sorted(FACTORS, key=lambda name: name not in varying(runs)):
        levels = [_level_name(name, level) for level in sorted(runs[name].dropna().unique())]
        if levels:
            texts.append(_FACTORS[name].format(join_words(levels)))
    return texts


def _level_name(factor: str, level: Any) -> str:
    if factor == "compile":
        return "compiled" if level else "not compiled"
    return f"{level:g}" if factor in LIMIT_UNITS else str(level)


def _when(study: Study) -> str:
    """Return the time from the first run's start to the last one's stop, if it was recorded."""
    times = [time for run in study.runs for time in (run.started_unix_s, run.ended_unix_s)]
    known = [time for time in times if not math.isnan(time)]
    return f"{timestamp(min(known))} to {timestamp(max(known))}" if known else "Time not recorded"


def _baseline(idle: pd.DataFrame) -> Section:
    """Return idle power before and after each block, and its drift."""
    components = sorted(idle["component"].unique())
    rows = []
    totals_w: dict[int, list[float]] = {}
    for run_id, part in idle.groupby("run_id", sort=False):
        by_component = part.set_index("component")["power_w"]
        total_w = by_component.sum()
        block = int(part["block"].iloc[0])
        totals_w.setdefault(block, []).append(total_w)
        time_s = part["time_s"].iloc[0]
        rows.append(
            {
                "name": str(run_id),
                "block": block,
                "when": "unknown" if pd.isna(time_s) else timestamp(float(time_s)),
                "duration": duration(float(part["duration_s"].iloc[0])),
                "powers": [number(by_component.get(name)) for name in components],
                "total": number(total_w),
            }
        )
    drifts = []
    for block, (first_w, *others_w) in totals_w.items():
        if others_w:
            drift_w = others_w[-1] - first_w
            share = f" ({percent(drift_w / first_w, 2, signed=True)})" if first_w else ""
            drifts.append(f"Block {block}: {drift_w:+.2f} W{share}")
    return {
        "components": [component_name(name) for name in components],
        "rows": rows,
        "drifts": drifts,
    }


def text_table(texts: pd.DataFrame) -> Section:
    """Return a table of texts, without the columns that are empty."""
    texts = texts[[name for name in texts if texts[name].fillna("").ne("").any()]]
    rows = [["" if pd.isna(cell) else str(cell) for cell in row] for row in texts.to_numpy()]
    return {"columns": [str(name) for name in texts.columns], "rows": rows}
