"""Which characteristic of a model ranks its energy best: rank correlations over models."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from joulelab.findings.data import Group
from joulelab.findings.frames import INT, INTERVAL, PLACE, REAL, TEXT, frame
from joulelab.findings.terms import ENERGIES, PHASES
from joulelab.stats.difference import holm
from joulelab.stats.ranks import LEAST, Rank, bootstrap, rank_correlations, spearman

PREDICTORS = ("macs_per_parameter", "macs", "parameters", "size_bytes", "operators", "time")
"""What a model's energy is ranked by. ``time``, that of a sample, must be measured first."""

FAVOURITE = "macs_per_parameter"
"""The paper's predictor, which the others are compared with."""

CORRELATIONS: Mapping[str, str] = {
    **PLACE,
    "phase": TEXT,
    "quantity": TEXT,
    "predictor": TEXT,
    "method": TEXT,
    **INTERVAL,
    "p": REAL,
    "p_holm": REAL,
    "n": INT,
}
"""Columns of :func:`correlations`. ``quantity`` is the energy of a sample, ``net`` or ``gross``;
``method`` is ``spearman`` or ``kendall``; ``n`` counts models; ``p`` is of no correlation, and
``p_holm`` is corrected for all correlations of its method within the group."""

DIFFERENCES: Mapping[str, str] = {
    **PLACE,
    "phase": TEXT,
    "quantity": TEXT,
    "predictor": TEXT,
    "other": TEXT,
    **INTERVAL,
    "p": REAL,
    "p_holm": REAL,
    "n": INT,
}
"""Columns of :func:`differences`: Spearman's of ``predictor`` less that of ``other``."""


def correlations(groups: Sequence[Group]) -> pd.DataFrame:
    """Spearman and Kendall of energy per sample with each predictor, one point a model.

    A model's energy is its mean over repeats. A predictor that no model has is left out; one that
    some lack is correlated over the models that have it.

    Args:
        groups: Models measured alike.

    Returns:
        Columns as :data:`CORRELATIONS`. Intervals are those of
        :func:`joulelab.stats.ranks.rank_correlations`.
    """
    rows: list[dict[str, Any]] = []
    for group in groups:
        found = []
        for phase, quantity, models in _families(group):
            for names, part in _complete(models):
                ranks = rank_correlations(part["energy"], {name: part[name] for name in names})
                found += [
                    {"phase": phase, "quantity": quantity, "method": method, "predictor": name}
                    | _figures(rank)
                    for method, ranked in ranks.items()
                    for name, rank in zip(names, ranked, strict=True)
                ]
        for method in ("spearman", "kendall"):
            rows += _corrected(group, [row for row in found if row["method"] == method])
    return frame(rows, CORRELATIONS)


def differences(groups: Sequence[Group]) -> pd.DataFrame:
    """How much better MACs per parameter ranks energy than each other predictor.

    Both correlations are taken over the same resamples of the models that have both predictors.
    ``p`` is twice the share of resamples on the far side of no difference.

    Args:
        groups: Models measured alike.

    Returns:
        Columns as :data:`DIFFERENCES`; no interval and no p with fewer than
        :data:`joulelab.stats.ranks.LEAST` models.
    """
    rows: list[dict[str, Any]] = []
    for group in groups:
        found = []
        for phase, quantity, models in _families(group):
            favourite = models[models[FAVOURITE].notna()]
            for names, part in _complete(favourite):
                others = [name for name in names if name != FAVOURITE]
                if not others or not _vary(part, ["energy", FAVOURITE, *others]):
                    continue
                found += [
                    {"phase": phase, "quantity": quantity, "predictor": FAVOURITE} | row
                    for row in _compared(part, others)
                ]
        rows += _corrected(group, found)
    return frame(rows, DIFFERENCES)


def _families(group: Group) -> list[tuple[str, str, pd.DataFrame]]:
    """The models with a known energy: phase, quantity, and columns ``energy`` and predictors."""
    found = []
    for phase in PHASES:
        models = group.phase(phase)
        known = pd.DataFrame(
            {name: models[name].astype("float64") for name in PREDICTORS if name != "time"}
        )
        known["time"] = models["duration_s_per_sample"]
        for quantity, column in ENERGIES.items():
            table = known.assign(energy=models[column])
            found.append((phase, quantity, table[np.isfinite(table["energy"])]))
    return found


def _complete(models: pd.DataFrame) -> list[tuple[list[str], pd.DataFrame]]:
    """Predictors that the same models have, with those models."""
    by_models: dict[tuple[bool, ...], list[str]] = {}
    for name in PREDICTORS:
        known = np.isfinite(models[name])
        if known.sum() > 1:
            by_models.setdefault(tuple(known), []).append(name)
    return [(names, models[list(known)]) for known, names in by_models.items()]


def _vary(models: pd.DataFrame, columns: Sequence[str]) -> bool:
    return bool((models[list(columns)].nunique() > 1).all())


def _figures(rank: Rank) -> dict[str, Any]:
    return {
        "estimate": rank.value,
        "low": rank.low,
        "high": rank.high,
        "p": rank.p,
        "n": rank.n,
    }


def _compared(part: pd.DataFrame, others: Sequence[str]) -> list[dict[str, Any]]:
    n = len(part)
    energy = part["energy"].to_numpy(dtype=float)
    both = [part[name].to_numpy(dtype=float) for name in (FAVOURITE, *others)]
    of = spearman(energy, both)

    def better(index: Any) -> Any:
        values = of(index)
        return values[0] - values[1:]

    rows: list[dict[str, Any]] = [
        {"other": name, "estimate": float(value), "n": n}
        for name, value in zip(others, better(np.arange(n)), strict=True)
    ]
    if n >= LEAST:
        found = bootstrap(n, better)
        beyond = np.minimum((found.values <= 0).mean(-1), (found.values >= 0).mean(-1))
        smallest = 1 / found.values.shape[-1]
        for row, low, high, share in zip(rows, found.low, found.high, beyond, strict=True):
            row |= {"low": float(low), "high": float(high)}
            row["p"] = min(1.0, 2 * max(float(share), smallest))
    return rows


def _corrected(group: Group, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of one family with Holm's p, and where they belong."""
    known = [row for row in rows if math.isfinite(row.get("p", math.nan))]
    if known:
        corrected = holm([row["p"] for row in known])
        for row, p in zip(known, corrected, strict=True):
            row["p_holm"] = float(p)
    place = {"study": group.study, "machine": group.machine, "setting": group.setting}
    return [place | row for row in rows]
