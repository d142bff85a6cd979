"""Repeats brought together: one row per model, phase and combination of levels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from joulelab.analysis.statistics import estimate

FACTORS = (
    "batch_size",
    "precision",
    "memory_format",
    "compile",
    "optimizer",
    "input_path",
    "device",
    "dataset",
)
"""The columns of a study's factors, the model aside."""

KEYS = ("study", "machine", "host", "gpu_name", "sources", "model", "phase", *FACTORS)
"""Rows that differ in one of these are never averaged: unlike machines (``machine`` is their
identity), and energies that different sensors gave, among them."""

CONSTANTS = (
    "parameters",
    "trainable_parameters",
    "size_bytes",
    "macs",
    "macs_per_parameter",
    "operators",
    "provenance",
)
"""Columns that are the same in all repeats."""

MEANS = ("samples", "gpu_power_w", "cpu_power_w", "dram_power_w", "idle_power_w")
"""Columns that are averaged without an interval."""


@dataclass(frozen=True, slots=True)
class _Quantity:
    """What is estimated: a column, over another one, with the columns of its uncertainty.

    An interval is cut at the least and the most that the quantity can be, which costs it no
    coverage.
    """

    name: str
    column: str
    per: str | None = None
    uncertainty: str | None = None
    least: float = 0.0
    most: float = math.inf


QUANTITIES = (
    _Quantity("gross_j", "gross_j", None, "gross"),
    _Quantity("net_j", "net_j", None, "net", least=-math.inf),
    _Quantity("gross_j_per_sample", "gross_j", "samples", "gross"),
    _Quantity("net_j_per_sample", "net_j", "samples", "net", least=-math.inf),
    _Quantity("mean_power_w", "gross_j", "duration_s", "gross"),
    _Quantity("duration_s", "duration_s"),
    _Quantity("duration_s_per_sample", "duration_s", "samples"),
    _Quantity("accuracy_pct", "accuracy_pct", most=100.0),
    _Quantity("loss", "loss"),
)


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Means over repeats with 95 % intervals.

    Args:
        rows: As :func:`joulelab.analysis.tables.run_rows` gives them.

    Returns:
        One row per combination of :data:`KEYS`, in the order of their first appearance, with the
        columns of :data:`KEYS`, ``n`` (repeats), :data:`CONSTANTS`, :data:`MEANS`, and for each of
        ``gross_j``, ``net_j``, ``gross_j_per_sample``, ``net_j_per_sample``, ``mean_power_w``,
        ``duration_s``, ``duration_s_per_sample``, ``accuracy_pct`` and ``loss`` the estimate, its
        interval (``gross_j_low``, ``gross_j_high``) and the number of repeats that had it
        (``gross_j_n``). Per sample and per second are ratios of sums. The formula is
        :func:`joulelab.analysis.statistics.estimate`'s; gain, offset and idle power count as
        shared by all repeats, the edges of spans as independent. Intervals are cut where a
        quantity ends: gross energies at 0, accuracy at 100 %.
    """
    groups = rows.groupby(list(KEYS), dropna=False, sort=False)
    return pd.DataFrame(
        [_summarised(group) for _, group in groups],
        columns=[*KEYS, "n", *CONSTANTS, *MEANS, *_estimate_columns()],
    )


def varying(frame: pd.DataFrame, columns: Sequence[str] = FACTORS) -> list[str]:
    """Those of the columns that have more than one value."""
    return [name for name in columns if frame[name].nunique(dropna=False) > 1]


def _estimate_columns() -> list[str]:
    return [quantity.name + end for quantity in QUANTITIES for end in ("", "_low", "_high", "_n")]


def _summarised(group: pd.DataFrame) -> dict[str, object]:
    row: dict[str, object] = {name: _plain(group[name].iloc[0]) for name in (*KEYS, *CONSTANTS)}
    row["n"] = len(group)
    for name in MEANS:
        row[name] = group[name].astype("float64").mean()
    for quantity in QUANTITIES:
        found = estimate(
            _values(group, quantity.column),
            per=_values(group, quantity.per) if quantity.per else None,
            correlated=_uncertainty(group, quantity.uncertainty, "correlated"),
            independent=_uncertainty(group, quantity.uncertainty, "independent"),
        )
        row[quantity.name] = found.value
        # NaN comes first: min and max keep their first argument where nothing compares.
        row[f"{quantity.name}_low"] = max(found.low, quantity.least)
        row[f"{quantity.name}_high"] = min(found.high, quantity.most)
        row[f"{quantity.name}_n"] = found.n
    return row


def _values(group: pd.DataFrame, column: str) -> list[float]:
    return [float(value) for value in group[column].astype("float64")]


def _uncertainty(group: pd.DataFrame, of: str | None, kind: str) -> list[float] | None:
    return None if of is None else _values(group, f"{of}_{kind}_uncertainty_j")


def _plain(value: Any) -> object:
    """Python's own type; ``None`` for what is not known."""
    if pd.isna(value):
        return None
    return value.item() if isinstance(value, np.generic) else value
