"""Repeats brought together: one row per model, phase and combination of levels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from joulelab.stats.estimates import Pools, estimates
from joulelab.stats.variance import Array, Codes

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

MEANS = (
    "samples",
    "gpu_power_w",
    "cpu_power_w",
    "dram_power_w",
    "idle_power_w",
    "gpu_utilization_pct",
    "vram_peak_bytes",
)
"""Columns that are averaged without an interval."""


POOLS = ("study", "machine", "host", "gpu_name", "sources", "phase")
"""Cells that agree in these may tell of each other's scatter."""


@dataclass(frozen=True, slots=True)
class _Quantity:
    """What is estimated: a column, over another one, with the columns of its uncertainty.

    ``scale`` names the quantity that scatter is in proportion to: itself by default; empty where
    it is in proportion to nothing. An interval is cut at the least and the most that the quantity
    can be, which costs it no coverage.
    """

    name: str
    column: str
    per: str | None = None
    uncertainty: str | None = None
    scale: str | None = None
    least: float = 0.0
    most: float = math.inf


QUANTITIES = (
    _Quantity("gross_j", "gross_j", None, "gross"),
    _Quantity("net_j", "net_j", None, "net", scale="gross_j", least=-math.inf),
    _Quantity("gross_j_per_sample", "gross_j", "samples", "gross"),
    _Quantity(
        "net_j_per_sample",
        "net_j",
        "samples",
        "net",
        scale="gross_j_per_sample",
        least=-math.inf,
    ),
    _Quantity("mean_power_w", "gross_j", "duration_s", "gross"),
    _Quantity("duration_s", "duration_s"),
    _Quantity("duration_s_per_sample", "duration_s", "samples"),
    _Quantity("accuracy_pct", "accuracy_pct", scale="", most=100.0),
    _Quantity("loss", "loss"),
)

_ENDS = ("", "_low", "_high", "_n", "_random", "_df")


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Means over repeats with 95 % intervals.

    Args:
        rows: As :func:`joulelab.findings.tables.run_rows` gives them.

    Returns:
        One row per combination of :data:`KEYS`, in the order of their first appearance, with the
        columns of :data:`KEYS`, ``n`` (repeats), :data:`CONSTANTS`, :data:`MEANS`, and for each of
        ``gross_j``, ``net_j``, ``gross_j_per_sample``, ``net_j_per_sample``, ``mean_power_w``,
        ``duration_s``, ``duration_s_per_sample``, ``accuracy_pct`` and ``loss`` the estimate, its
        interval (``gross_j_low``, ``gross_j_high``), the number of repeats that had it
        (``gross_j_n``), the half-width of the interval without what all repeats share
        (``gross_j_random``: what is left in a ratio of two runs of one sensor), and the degrees of
        freedom of the scatter (``gross_j_df``). Per sample and per second are ratios of sums. The
        formula is :func:`joulelab.stats.estimates.estimates`'; gain, offset and idle power
        count as shared by all repeats, the edges of spans as independent. Cells that agree in
        :data:`POOLS` are pooled. Intervals are cut where a quantity ends: gross energies at 0,
        accuracy at 100 %.
    """
    keyed = rows.groupby(list(KEYS), dropna=False, sort=False)
    cells = keyed.ngroup().to_numpy()
    first = rows.loc[~rows.duplicated(list(KEYS)).to_numpy()].reset_index(drop=True)
    table = first[[*KEYS, *CONSTANTS]].copy()
    table.insert(len(KEYS), "n", np.bincount(cells, minlength=len(first)))
    for name in MEANS:
        table[name] = estimates(cells, len(first), _values(rows, name))["value"]
    pools = Pools(
        pools=first.groupby(list(POOLS), dropna=False, sort=False).ngroup().to_numpy(),
        blocks=rows.groupby(["study", "block"], dropna=False, sort=False).ngroup().to_numpy(),
    )
    for quantity in QUANTITIES:
        found = _estimated(rows, cells, table, quantity, pools)
        found["low"] = found["low"].clip(lower=quantity.least)
        found["high"] = found["high"].clip(upper=quantity.most)
        for end in _ENDS:
            table[quantity.name + end] = found[end.removeprefix("_") or "value"]
    return table.copy()


def varying(frame: pd.DataFrame, columns: Sequence[str] = FACTORS) -> list[str]:
    """Those of the columns that have more than one value."""
    return [name for name in columns if frame[name].nunique(dropna=False) > 1]


def _estimated(
    rows: pd.DataFrame,
    cells: Codes,
    table: pd.DataFrame,
    quantity: _Quantity,
    pools: Pools,
) -> pd.DataFrame:
    scale = None
    if quantity.scale is not None:
        scale = _values(table, quantity.scale) if quantity.scale else np.ones(len(table))
    return estimates(
        cells,
        len(table),
        _values(rows, quantity.column),
        per=_values(rows, quantity.per) if quantity.per else None,
        correlated=_uncertainty(rows, quantity.uncertainty, "correlated"),
        independent=_uncertainty(rows, quantity.uncertainty, "independent"),
        scale=scale,
        pools=pools,
    )


def _values(frame: pd.DataFrame, column: str) -> Array:
    return np.asarray(frame[column].astype("float64"), dtype=float)


def _uncertainty(rows: pd.DataFrame, of: str | None, kind: str) -> Array | None:
    return None if of is None else _values(rows, f"{of}_{kind}_uncertainty_j")
