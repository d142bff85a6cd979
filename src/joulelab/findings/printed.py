"""The tables of a paper: hardware, models, results with intervals. Cells are texts.

What is not known is an empty cell.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from joulelab.findings.data import Data, machine_labels
from joulelab.findings.files import parquet, write_bytes
from joulelab.findings.frames import records
from joulelab.findings.latex import latex
from joulelab.findings.summary import varying
from joulelab.findings.terms import PHASES
from joulelab.findings.words import ABSENT, interval, number

_MODEL_COLUMNS: Mapping[str, tuple[str, float]] = {
    "parameters": ("Parameters (M)", 1e6),
    "trainable_parameters": ("Trainable (M)", 1e6),
    "size_bytes": ("Size (MB)", 1e6),
    "macs": ("MACs (M)", 1e6),
    "macs_per_parameter": ("MACs per parameter", 1.0),
    "operators": ("Operators", 1.0),
}
"""Headings, and what a figure is divided by."""

_RESULT_COLUMNS: Mapping[str, tuple[str, float]] = {
    "gross_j_per_sample": ("Gross energy per sample (mJ)", 1e-3),
    "net_j_per_sample": ("Net energy per sample (mJ)", 1e-3),
    "gross_j": ("Gross energy (kJ)", 1e3),
    "net_j": ("Net energy (kJ)", 1e3),
    "duration_s": ("Time (s)", 1.0),
    "duration_s_per_sample": ("Time per sample (ms)", 1e-3),
    "mean_power_w": ("Mean power (W)", 1.0),
    "accuracy_pct": ("Accuracy (%)", 1.0),
}


def hardware_table(data: Data) -> pd.DataFrame:
    """The paper's Table I: a row a component, a column a machine.

    Returns:
        Columns ``Component`` and one for each machine, named as
        :func:`joulelab.findings.data.machine_labels` does.
    """
    machines = {
        (machine.host, machine.identity): machine
        for study in data.studies
        for machine in study.machines()
    }
    places = pd.DataFrame(
        [
            {
                "host": machine.host,
                "machine": machine.identity,
                "gpu_name": ", ".join(dict.fromkeys(gpu.name for gpu in machine.gpus)) or None,
            }
            for machine in machines.values()
        ],
        columns=["host", "machine", "gpu_name"],
    )
    labels = machine_labels(places)
    told = {labels[place]: machine.hardware_configuration() for place, machine in machines.items()}
    components = list(dict.fromkeys(name for rows in told.values() for name in rows))
    columns = {name: [rows.get(part, "") for part in components] for name, rows in told.items()}
    return pd.DataFrame({"Component": components} | columns, dtype="string")


def model_table(data: Data) -> pd.DataFrame:
    """The models with their characteristics, a row a model and input."""
    known = data.summary.drop_duplicates(["model", *_MODEL_COLUMNS])
    known = known.sort_values("model", kind="stable")
    rows = [
        {"Model": row["model"]}
        | {
            heading: _text(row[name], per, whole=name == "operators")
            for name, (heading, per) in _MODEL_COLUMNS.items()
        }
        for row in records(known)
    ]
    return _table(rows, ["Model", *(heading for heading, _ in _MODEL_COLUMNS.values())])


def result_table(data: Data) -> pd.DataFrame:
    """Energy, time, power and accuracy with 95 % intervals, a row a model, phase and setting.

    Columns of what was never measured are left out.
    """
    several = [name for name in ("study", "host") if data.summary[name].nunique() > 1]
    told = [*several, *varying(data.summary)]
    rows = [
        {_heading(name): "" if pd.isna(row[name]) else str(row[name]) for name in told}
        | {"Model": row["model"], "Phase": PHASES[row["phase"]], "Repeats": str(row["n"])}
        | {heading: _with_ends(row, name, per) for name, (heading, per) in _RESULT_COLUMNS.items()}
        for row in records(data.summary)
    ]
    headings = [heading for heading, _ in _RESULT_COLUMNS.values()]
    named = ["Model", "Phase", *(_heading(name) for name in told), "Repeats"]
    table = _table(rows, [*named, *headings])
    return table.drop(columns=[name for name in headings if (table[name] == "").all()])


def write_printed(data: Data, directory: Path) -> list[Path]:
    """Writes ``hardware``, ``models`` and ``summary`` as CSV, Parquet and LaTeX.

    ``summary.csv`` and ``summary.parquet`` hold figures in SI units, see
    :func:`joulelab.findings.summary.summary`; ``summary.tex`` holds :func:`result_table`. The
    same runs give the same bytes.

    Args:
        data: What they are made from.
        directory: Where they go.

    Returns:
        The nine paths.

    Raises:
        StoreError: They cannot be written.
    """
    hardware, models = hardware_table(data), model_table(data)
    tables = {
        "hardware": (hardware, hardware, "Hardware configurations"),
        "models": (models, models, "Models and their characteristics"),
        "summary": (data.summary, result_table(data), "Results with 95 % intervals"),
    }
    paths = []
    for name, (figures, texts, caption) in tables.items():
        contents = {
            "csv": figures.to_csv(index=False, lineterminator="\n").encode(),
            "parquet": parquet(figures),
            "tex": latex(texts, caption, f"tab:{name}").encode(),
        }
        paths += [
            write_bytes(directory / f"{name}.{ending}", content)
            for ending, content in contents.items()
        ]
    return paths


def _heading(name: str) -> str:
    return name.replace("_", " ").capitalize()


def _text(value: Any, per: float, *, whole: bool = False) -> str:
    if pd.isna(value):
        return ""
    return f"{int(value):,}" if whole else number(float(value) / per)


def _with_ends(row: Mapping[str, Any], name: str, per: float) -> str:
    value, low, high = (row[name + end] / per for end in ("", "_low", "_high"))
    text = number(value)
    if text == ABSENT:
        return ""
    ends = "" if math.isnan(low) else interval(low, high, value)
    return f"{text} ({ends})" if ends else text


def _table(rows: Sequence[Mapping[str, str]], columns: Sequence[str]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(columns), dtype="string")
