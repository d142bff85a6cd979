"""Means of the cells of a study, adjusted for blocks, whose differences compare them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from joulelab.arrays import Floats
from joulelab.findings.summary import POOLS, group_numbers, units_of
from joulelab.stats.blocked_means import CellMean, blocked_means

Cell = tuple[int, str, str]
"""Group, model and phase."""

CELL = ["group", "model", "phase"]

ACCURACY = "accuracy"

_COLUMNS: Mapping[str, tuple[str, str | None]] = {
    "time": ("duration_s", "units"),
    "gross": ("gross_j", "units"),
    "net": ("net_j", "units"),
    ACCURACY: ("accuracy_pct", None),
}
"""Each quantity's column, and what it is divided by."""


class CellMeans:
    """Means of each quantity in each cell, computed when they are first asked for.

    Quantities are ``time``, ``gross`` and ``net`` (per unit), which are averaged as logarithms,
    and ``accuracy`` in percent. A cell with a value whose logarithm does not exist has no mean: a
    ratio to it is unknown.
    """

    def __init__(self, runs: pd.DataFrame) -> None:
        self.runs = runs.assign(group=group_numbers(runs), units=units_of(runs))
        self._keyed = self.runs[CELL].assign(
            pool=runs.groupby(list(POOLS), dropna=False, sort=False).ngroup(),
            block=runs.groupby(["study", "block"], dropna=False, sort=False).ngroup(),
        )
        self._found: dict[str, dict[Cell, CellMean]] = {}

    def __getitem__(self, quantity: str) -> Mapping[Cell, CellMean]:
        if quantity not in self._found:
            self._found[quantity] = self._average(quantity)
        return self._found[quantity]

    def values(self, quantity: str) -> Floats:
        """Return what is averaged, for each run: NaN if it was not measured, or -inf."""
        column, per = _COLUMNS[quantity]
        with np.errstate(divide="ignore", invalid="ignore"):
            value = self._numbers(column) / (self._numbers(per) if per else 1.0)
            value[~np.isfinite(value)] = np.nan
            if quantity != ACCURACY:
                value = np.where(value <= 0, -np.inf, np.log(value))
        return value

    def _average(self, quantity: str) -> dict[Cell, CellMean]:
        values = self.values(quantity)
        own, shared = self._uncertainties(quantity)
        table = self._keyed.assign(value=values, own=own, shared=shared)
        table = table[~np.isnan(values)]
        positive = np.isfinite(table.groupby(CELL)["value"].transform("min"))
        found: dict[Cell, CellMean] = {}
        for _, part in table[positive].groupby("pool", sort=False):
            keys = part[CELL].drop_duplicates().itertuples(index=False, name=None)
            means = blocked_means(
                part["value"].to_numpy(dtype=float),
                part["own"].to_numpy(dtype=float),
                part["shared"].to_numpy(dtype=float),
                part.groupby(CELL, sort=False).ngroup().to_numpy(),
                part["block"].to_numpy(),
            )
            found |= dict(zip(keys, means, strict=True))
        return found

    def _uncertainties(self, quantity: str) -> tuple[Floats, Floats]:
        """Return relative uncertainties: own, and shared as far as they do not cancel in ratios.

        Gains cancel as far as both cells have the same. Idle power does not: its error is another
        part of each net energy.
        """
        if quantity not in ("gross", "net"):
            none = np.zeros(len(self.runs))
            return none, none
        value_j = self._numbers(f"{quantity}_j")
        own_j = self._numbers(f"{quantity}_independent_uncertainty_j")
        shared_j = self._numbers(f"{quantity}_correlated_uncertainty_j")
        with np.errstate(divide="ignore", invalid="ignore"):
            if quantity == "net":
                gain = self._numbers("gross_correlated_uncertainty_j") / self._numbers("gross_j")
                shared_j = np.sqrt(np.maximum(shared_j**2 - (gain * value_j) ** 2, 0.0))
            return np.nan_to_num(own_j / value_j), np.nan_to_num(shared_j / value_j)

    def _numbers(self, column: str) -> Floats:
        return self.runs[column].to_numpy(dtype=float, na_value=np.nan)
