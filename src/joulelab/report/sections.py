"""What the page's sections say, in words and formatted figures; the template only places them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from joulelab.analysis.studies import Study
from joulelab.analysis.summary import FACTORS, varying
from joulelab.analysis.words import counted, interval, listed, moment, number, prefix, span_of_time
from joulelab.machine import Machine
from joulelab.report.figures import names
from joulelab.report.origin import component_name, provenance_in_short
from joulelab.report.style import PHASE_NAMES
from joulelab.study.plan import Plan

Section = Mapping[str, Any]

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
    phases = " and ".join(PHASE_NAMES[phase].lower() for phase in study.plan.phases)
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


def results(table: pd.DataFrame) -> Section:
    """The main table, a group of rows a phase, the most frugal model first."""
    unit, factor = prefix(table["gross_j_per_sample"])
    named = table.assign(name=names(table))
    groups = []
    for phase, title in PHASE_NAMES.items():
        part = named[named["phase"] == phase]
        if not part.empty:
            ordered = part.sort_values("gross_j_per_sample", kind="stable")
            rows = [_result(row, factor) for _, row in ordered.iterrows()]
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
    return {"columns": columns, "groups": groups}


def machines(study: Study) -> list[Section]:
    """The paper's Table I for each machine that the study ran on."""
    found: dict[tuple[str, str], Machine] = {}
    for run in study.readable():
        machine = Machine.from_json(dict(run.data["machine"]))
        found.setdefault((machine.host, machine.identity), machine)
    return [
        {
            "host": machine.host,
            "identity": machine.identity,
            "rows": list(machine.hardware_configuration().items()),
        }
        for machine in found.values()
    ]


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


def _result(row: pd.Series[Any], per_sample: float) -> Section:
    def cell(column: str, factor: float = 1.0) -> tuple[str, str]:
        value, low, high = (row[column + end] / factor for end in ("", "_low", "_high"))
        return number(value), interval(low, high, value)

    return {
        "name": row["name"],
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
    return f"{moment(min(known))} to {moment(max(known))}" if known else "at a time not recorded"


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
