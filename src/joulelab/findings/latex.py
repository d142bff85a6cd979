"""Tables of a paper, as text and as LaTeX: hardware, models, and results with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from joulelab.findings.schema import PHASES, records
from joulelab.findings.summary import machine_labels, varying
from joulelab.findings.tables import StudyTables, csv, parquet, write_file
from joulelab.format import ABSENT, number, with_interval
from joulelab.runs.study_runs import Study

LONG = 40
"""Tables with more rows are set over several pages, by the longtable package."""

_MODEL_COLUMNS: Mapping[str, tuple[str, float]] = {
    "parameters": ("Parameters (M)", 1e6),
    "trainable_parameters": ("Trainable (M)", 1e6),
    "size_bytes": ("Size (MB)", 1e6),
    "macs": ("MACs (M)", 1e6),
    "macs_per_parameter": ("MACs per parameter", 1.0),
    "operators": ("Operators", 1.0),
}
"""Headings of columns, and the unit of each."""

_RESULT_COLUMNS: Mapping[str, tuple[str, float]] = {
    "gross_j_per_sample": ("Gross energy per sample (mJ)", 1e-3),
    "net_j_per_sample": ("Net energy per sample (mJ)", 1e-3),
    "gross_j_per_token": ("Gross energy per token (mJ)", 1e-3),
    "net_j_per_token": ("Net energy per token (mJ)", 1e-3),
    "gross_j": ("Gross energy (kJ)", 1e3),
    "net_j": ("Net energy (kJ)", 1e3),
    "duration_s": ("Time (s)", 1.0),
    "duration_s_per_sample": ("Time per sample (ms)", 1e-3),
    "duration_s_per_token": ("Time per token (ms)", 1e-3),
    "mean_power_w": ("Mean power (W)", 1.0),
    "accuracy_pct": ("Accuracy (%)", 1.0),
}

_ESCAPED = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "&": r"\&",
        "%": r"\%",
        "$": r"\$",
        "#": r"\#",
        "_": r"\_",
        "{": r"\{",
        "}": r"\}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "\n": " ",
        "−": "$-$",
        "–": "--",
        "×": r"$\times$",
        "±": r"$\pm$",
        "µ": r"\textmu{}",
        "²": "$^2$",
        "ρ": r"$\rho$",
        "τ": r"$\tau$",
        "·": r"$\cdot$",
    }
)


def hardware_table(studies: Sequence[Study]) -> pd.DataFrame:
    """Describe the machines (the paper's Table I): a row per component, a column per machine.

    Returns:
        Columns ``Component`` and one per machine, see
        :func:`joulelab.findings.summary.machine_labels`. Unknown values are empty.
    """
    machines = {
        (machine.host, machine.identity): machine
        for study in studies
        for machine in study.machines()
    }
    gpus = [
        ", ".join(dict.fromkeys(gpu.name for gpu in machine.gpus)) or None
        for machine in machines.values()
    ]
    hosts, identities = zip(*machines, strict=True) if machines else ((), ())
    places = pd.DataFrame({"host": hosts, "machine": identities, "gpu_name": gpus})
    labels = machine_labels(places)
    described = {labels[key]: one.hardware_configuration() for key, one in machines.items()}
    components = list(dict.fromkeys(name for rows in described.values() for name in rows))
    columns = {
        name: [rows.get(component, "") for component in components]
        for name, rows in described.items()
    }
    return pd.DataFrame({"Component": components} | columns, dtype="string")


def model_table(means: pd.DataFrame) -> pd.DataFrame:
    """List the models with their characteristics, a row per model and input."""
    known = means.drop_duplicates(["model", *_MODEL_COLUMNS]).sort_values("model", kind="stable")
    rows = [
        {"Model": row["model"]}
        | {heading: _text(row, name, unit) for name, (heading, unit) in _MODEL_COLUMNS.items()}
        for row in records(known)
    ]
    headings = [heading for heading, _ in _MODEL_COLUMNS.values()]
    return pd.DataFrame(rows, columns=["Model", *headings], dtype="string")


def result_table(means: pd.DataFrame) -> pd.DataFrame:
    """List energy, time, power and accuracy with 95 % intervals, per model, phase and setting.

    Columns of what was never measured are left out.
    """
    several = [name for name in ("study", "host") if means[name].nunique() > 1]
    levels = {name: name.replace("_", " ").capitalize() for name in (*several, *varying(means))}
    rows = [
        {heading: "" if pd.isna(row[name]) else str(row[name]) for name, heading in levels.items()}
        | {"Model": row["model"], "Phase": PHASES[row["phase"]], "Repeats": str(row["n"])}
        | {heading: _text(row, name, unit) for name, (heading, unit) in _RESULT_COLUMNS.items()}
        for row in records(means)
    ]
    headings = [heading for heading, _ in _RESULT_COLUMNS.values()]
    columns = ["Model", "Phase", *levels.values(), "Repeats", *headings]
    table = pd.DataFrame(rows, columns=columns, dtype="string")
    return table.drop(columns=[name for name in headings if (table[name] == "").all()])


def write_paper_tables(tables: StudyTables, directory: Path) -> list[Path]:
    """Write ``hardware``, ``models`` and ``summary`` as CSV, Parquet and LaTeX.

    ``summary.csv`` and ``summary.parquet`` have numbers in SI units, see
    :func:`joulelab.findings.summary.summary`; ``summary.tex`` has :func:`result_table`. The same
    runs give the same bytes.

    Raises:
        StoreError: A file cannot be written.
    """
    hardware, models = hardware_table(tables.studies), model_table(tables.summary)
    paper = {
        "hardware": (hardware, hardware, "Hardware configurations"),
        "models": (models, models, "Models and their characteristics"),
        "summary": (tables.summary, result_table(tables.summary), "Results with 95 % intervals"),
    }
    return [
        write_file(directory / f"{name}.{ending}", content)
        for name, (values, texts, caption) in paper.items()
        for ending, content in (
            ("csv", csv(values)),
            ("parquet", parquet(values)),
            ("tex", latex(texts, caption, f"tab:{name}").encode()),
        )
    ]


def _text(row: Mapping[str, Any], name: str, unit: float) -> str:
    """Format a value with its interval, if it has one; empty if it is unknown."""
    value = row[name]
    if pd.isna(value):
        return ""
    if name == "operators":
        return f"{int(value):,}"
    low, high = (row.get(name + end) for end in ("_low", "_high"))
    if low is None or high is None:
        return number(value / unit)
    return with_interval(value / unit, low / unit, high / unit, level="").replace(ABSENT, "")


def escaped(text: str) -> str:
    r"""Escape a text for LaTeX.

    Example:
        >>> print(escaped("50 % of my_model"))
        50 \% of my\_model
    """
    return text.translate(_ESCAPED)


def latex(table: pd.DataFrame, caption: str, label: str) -> str:
    r"""Format a table as a ``table`` environment, or a ``longtable`` of many rows.

    Example:
        >>> print(latex(pd.DataFrame({"model": ["my_net"]}), "Models", "tab:models"))
        \begin{table}
        \caption{Models}
        \label{tab:models}
        \begin{tabular}{l}
        \toprule
        model \\
        \midrule
        my\_net \\
        \bottomrule
        \end{tabular}
        \end{table}
        <BLANKLINE>
    """
    texts = table.astype("string").fillna("").map(escaped)
    texts.columns = [escaped(str(name)) for name in table.columns]
    return texts.to_latex(
        index=False,
        escape=False,
        caption=escaped(caption),
        label=label,
        column_format="l" * len(table.columns),
        longtable=len(table) > LONG,
    )
