"""Accuracy against energy: the Pareto front, equal accuracies, and the last epochs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from joulelab.findings.cell_means import ACCURACY as ACCURACY_PCT
from joulelab.findings.cell_means import Cell, CellMeans
from joulelab.findings.schema import KEY, PHASES, Finding, frame, records
from joulelab.findings.summary import group_numbers
from joulelab.format import count, number, percent, quantity, with_interval
from joulelab.runs.study_runs import Study
from joulelab.stats.blocked_means import CellMean, mean_difference
from joulelab.stats.estimates import mean_with_errors, widening
from joulelab.uncertain import CONFIDENCE

ENERGY_COLUMNS: Mapping[tuple[str, str], str] = {
    ("train", "net"): "net_j",
    ("train", "gross"): "gross_j",
    ("infer", "net"): "net_j_per_sample",
    ("infer", "gross"): "gross_j_per_sample",
}
"""Energies that accuracy is compared with, by phase and quantity."""

LAST = 0.25
"""The share of the epochs that count as the last ones."""

LEAST_EPOCHS = 4
"""With fewer epochs there is no last quarter."""

ACCURACY = (
    *KEY, "model", "phase", "quantity", "accuracy_pct", "accuracy_low_pct", "accuracy_high_pct",
    "energy_j", "energy_low_j", "energy_high_j", "j_per_point", "on_front", "best",
    "equal_to_best", "less_pct", "less_low_pct", "less_high_pct",
)  # fmt: skip
"""Columns of :func:`accuracy`. ``quantity`` is ``net`` or ``gross``. ``energy_j`` is that of the
whole training for ``train``, of one sample for ``infer``; ``on_front``: no model is both at least
as accurate and at most as expensive, and better in one; ``best``: the most accurate model;
``equal_to_best``: not significantly less accurate than it; ``less_pct``: how many points less."""

EPOCH_RANGES = (*KEY, "phase", "epoch", "quantity", "mean", "least", "most", "n")
"""Columns of :func:`epoch_ranges`. ``quantity`` is ``loss``, ``accuracy_pct``, ``gross_j`` or
``net_j`` (energies added up from the first epoch on); mean and range are over ``n`` models."""

EXCHANGE = (
    *KEY, "model", "epochs", "last_epochs", "gain_pct", "energy_j", "energy_share_pct",
    "j_per_point", "repeats",
)  # fmt: skip
"""Columns of :func:`exchange`, about training: the accuracy gained in the last epochs, in
percentage points, and their gross energy; ``j_per_point`` is empty where nothing was gained."""

_EPOCH_QUANTITIES = ("loss", "accuracy_pct", "gross_j", "net_j")


def accuracy(studies: Sequence[Study], measured: pd.DataFrame, means: CellMeans) -> pd.DataFrame:
    """Make one row per model, phase and quantity whose accuracy and energy are known.

    A phase without an accuracy of its own takes that of the other. Intervals are over repeats;
    with one repeat, Wilson's for the number of test images, where it is known. Two accuracies are
    equal where the interval of their difference, the half-widths added in quadrature (Newcombe
    1998), contains 0. Each model is compared with the best one, which may be any: intervals of
    differences hold for all pairs of models together.
    """
    tested = {study.label: _test_count(study) for study in studies}
    rows: list[dict[str, Any]] = []
    for _, group in measured.groupby("group", sort=False):
        table = _with_accuracy(group, tested.get(group["study"].iloc[0]))
        for (phase, energy), column in ENERGY_COLUMNS.items():
            part = table[(table["phase"] == phase) & table[column].notna()]
            named = {"phase": phase, "quantity": energy}
            found = _compared(records(part), column, means[ACCURACY_PCT])
            rows += [row | named for row in found]
    return frame(rows, ACCURACY)


def _test_count(study: Study) -> int | None:
    """Return the number of test images, which imported logs do not know."""
    counts = {run.study.data.get("test_count") for run in study.cells() if run.study}
    return counts.pop() if len(counts) == 1 else None


def _with_accuracy(table: pd.DataFrame, tested: int | None) -> pd.DataFrame:
    """Return the rows with a known accuracy, if need be the other phase's, and its interval."""
    columns = ["accuracy_pct", "accuracy_pct_low", "accuracy_pct_high"]
    filled = table.copy()
    for _, part in table.groupby("model", sort=False):
        known = part[part["accuracy_pct"].notna()]
        missing = part.index.difference(known.index)
        if len(known) and len(missing):
            filled.loc[missing, columns] = known[columns].iloc[0].to_numpy()
    filled = filled[filled["accuracy_pct"].notna()].copy()
    alone = filled["accuracy_pct_low"].isna()
    if tested and alone.any():
        right = (filled.loc[alone, "accuracy_pct"] / 100 * tested).clip(0, tested)
        ends = [
            stats.binomtest(round(count), tested).proportion_ci(method="wilson") for count in right
        ]
        filled.loc[alone, "accuracy_pct_low"] = [100 * one.low for one in ends]
        filled.loc[alone, "accuracy_pct_high"] = [100 * one.high for one in ends]
    return filled


def _compared(
    models: list[dict[str, Any]], column: str, accuracies: Mapping[Cell, CellMean]
) -> Iterator[dict[str, Any]]:
    best = max(models, key=lambda row: (row["accuracy_pct"], -row[column]), default={})
    pairs = max(1, math.comb(len(models), 2))
    for row in models:
        energy_j, points = row[column], row["accuracy_pct"]
        less, half = (0.0, 0.0) if row is best else _less(row, best, pairs, accuracies)
        yield {name: row[name] for name in (*KEY, "model")} | {
            "accuracy_pct": points,
            "accuracy_low_pct": row["accuracy_pct_low"],
            "accuracy_high_pct": row["accuracy_pct_high"],
            "energy_j": energy_j,
            "energy_low_j": row[f"{column}_low"],
            "energy_high_j": row[f"{column}_high"],
            "j_per_point": energy_j / points if points > 0 else math.nan,
            "on_front": not any(_beats(other, row, column) for other in models),
            "best": row is best,
            "equal_to_best": less == 0 or less <= half,
            "less_pct": less,
            "less_low_pct": max(less - half, -100.0),
            "less_high_pct": min(less + half, 100.0),
        }


def _beats(other: dict[str, Any], row: dict[str, Any], column: str) -> bool:
    as_good = other["accuracy_pct"] >= row["accuracy_pct"] and other[column] <= row[column]
    better = other["accuracy_pct"] > row["accuracy_pct"] or other[column] < row[column]
    return bool(as_good and better)


def _cell(row: Mapping[str, Any], means: Mapping[Cell, CellMean]) -> CellMean | None:
    """Return the mean of a row's cell, if need be of its other phase."""
    cells = ((row["group"], row["model"], phase) for phase in (row["phase"], *PHASES))
    return next((means[cell] for cell in cells if cell in means), None)


def _less(
    row: dict[str, Any], best: dict[str, Any], pairs: int, means: Mapping[Cell, CellMean]
) -> tuple[float, float]:
    """Return how many points less accurate a row is than the best, and half of the interval."""
    first, second = _cell(best, means), _cell(row, means)
    if first and second:
        found = mean_difference([(first, second)])
        if found.is_tested:
            return found.value, found.half_width(1 - (1 - CONFIDENCE) / pairs)
    above = row["accuracy_pct_high"] - row["accuracy_pct"]
    below = best["accuracy_pct"] - best["accuracy_pct_low"]
    return best["accuracy_pct"] - row["accuracy_pct"], widening(pairs) * math.hypot(above, below)


def epochs_by_model(
    runs: pd.DataFrame, epochs: pd.DataFrame, measured: pd.DataFrame
) -> pd.DataFrame:
    """Average the epochs that all repeats completed, energies added up from the first epoch on.

    Returns:
        Columns of :data:`~joulelab.findings.schema.KEY`, ``model``, ``phase``, ``epoch``,
        ``loss``, ``accuracy_pct``, ``gross_j``, ``net_j`` and ``repeats``. The sum ends at an
        epoch without energy. A value is missing where some repeat lacks it that has earlier ones:
        the mean of those that are left would jump.
    """
    groups = measured.drop_duplicates("group")[list(KEY)]
    of_runs = runs[["run_id", "study", "phase"]].assign(group=group_numbers(runs))
    complete = epochs[epochs["complete"].fillna(value=False)]
    found = complete.merge(of_runs, on=["run_id", "study", "phase"]).merge(
        groups, on=["group", "study"]
    )
    found = found.sort_values("epoch", kind="stable")
    each = found.groupby(["study", "run_id", "phase"], sort=False)
    energies = ["gross_j", "net_j"]
    found[energies] = each[energies].cumsum(skipna=False)
    of_model = [*KEY, "model", "phase"]
    means = found.groupby([*of_model, "epoch"], sort=False)
    averaged, counts = (means[list(_EPOCH_QUANTITIES)].agg(how) for how in ("mean", "count"))
    most = counts.groupby(level=of_model, sort=False).transform("max")
    return averaged.where(counts == most).assign(repeats=means.size()).reset_index()


def epoch_ranges(by_model: pd.DataFrame) -> pd.DataFrame:
    """Compute mean and range over models of the epochs that all have (Fig. 5 of the paper)."""
    rows: list[dict[str, Any]] = []
    grouped = by_model.groupby([*KEY, "phase", "epoch"], sort=False)
    for name in _EPOCH_QUANTITIES:
        found = grouped[name].agg(["mean", "min", "max", "count"]).reset_index()
        most = found.groupby(["group", "phase"], sort=False)["count"].transform("max")
        found = found[(found["count"] > 0) & (found["count"] == most)].rename(
            columns={"min": "least", "max": "most", "count": "n"}
        )
        rows += records(found.assign(quantity=name))
    return frame(rows, EPOCH_RANGES)


def exchange(by_model: pd.DataFrame) -> pd.DataFrame:
    """Compute what the last quarter of the epochs of training gained and cost.

    Returns:
        Columns :data:`EXCHANGE`; a row per model with at least :data:`LEAST_EPOCHS` epochs of
        known accuracy.
    """
    rows: list[dict[str, Any]] = []
    train = by_model[(by_model["phase"] == "train") & by_model["accuracy_pct"].notna()]
    for _, part in train.groupby(["group", "model"], sort=False):
        if len(part) < LEAST_EPOCHS:
            continue
        last = max(1, round(LAST * len(part)))
        before, end = part.iloc[-1 - last], part.iloc[-1]
        gain = float(end["accuracy_pct"] - before["accuracy_pct"])
        energy_j, total_j = float(end["gross_j"] - before["gross_j"]), float(end["gross_j"])
        rows.append(
            {name: end[name] for name in (*KEY, "model", "repeats")}
            | {
                "epochs": len(part),
                "last_epochs": last,
                "gain_pct": gain,
                "energy_j": energy_j,
                "energy_share_pct": 100 * energy_j / total_j if total_j > 0 else math.nan,
                "j_per_point": energy_j / gain if gain > 0 else math.nan,
            }
        )
    return frame(rows, EXCHANGE)


def epoch_findings(exchanged: pd.DataFrame) -> list[Finding]:
    """State what the last epochs gained. Id: ``exchange.train``."""
    return [
        _exchange_finding(part.sort_values("gain_pct", kind="stable"))
        for _, part in exchanged.groupby("group", sort=False)
    ]


def _exchange_finding(part: pd.DataFrame) -> Finding:
    rows = records(part)
    first, last, n = rows[0], rows[-1], len(rows)
    gains = part["gain_pct"].to_numpy(dtype=float)
    mean, low, high = float(gains.mean()), math.nan, math.nan
    if n > 1:
        mean, half = mean_with_errors(gains, np.zeros(n))
        low, high = max(mean - half, -100.0), min(mean + half, 100.0)
    shown = None if math.isnan(low) else not low <= 0 <= high
    text = (
        f"the last quarter of the epochs gains {with_interval(mean, low, high)} percentage points "
        "of accuracy"
    )
    if n > 1:
        text += (
            f" on average over {n} models, from {number(first['gain_pct'])} ({first['model']}) to "
            f"{number(last['gain_pct'])} ({last['model']})"
        )
    texts = [text]
    if shown is False:
        texts.append("the gain is not significant (95 %)")
    share = float(part["energy_share_pct"].mean())
    if not math.isnan(share):
        texts.append(f"it uses {percent(share / 100)} of the gross energy of training")
    prices_j = part["j_per_point"].dropna()
    if len(prices_j) and low > 0:
        median = quantity(float(prices_j.median()), "J")
        texts.append(f"where accuracy rises, a point costs {median} (median)")
    without = n - int((part["gain_pct"] > 0).sum())
    if without:
        texts.append(f"{count(without, 'model gains', 'models gain')} nothing")
    if int(part["repeats"].min()) < 2:
        texts.append("repeats with other seeds are needed to separate gain from chance")
    return Finding.about(
        first,
        "exchange.train",
        "How much accuracy do the last epochs of training gain for their energy?",
        texts,
        estimate=mean,
        low=low,
        high=high,
        n=n,
        unit="%",
        figure="exchange",
        phase="train",
        significant=shown,
    )
