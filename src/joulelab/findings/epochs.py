"""Loss, accuracy and energy by epoch, and what the last epochs buy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from statsmodels.stats.weightstats import DescrStatsW  # type: ignore[import-untyped]

from joulelab.findings.data import ALIKE, Data, Group
from joulelab.findings.findings import Finding
from joulelab.findings.frames import INT, PLACE, REAL, TEXT, frame, records
from joulelab.findings.words import counted, number, scaled, sentence, with_interval

LAST = 0.25
"""The share of the epochs that are looked at as the last ones."""

LEAST_EPOCHS = 4
"""With fewer epochs there are no last ones to speak of."""

EPOCH_RANGES: Mapping[str, str] = {
    **PLACE,
    "phase": TEXT,
    "epoch": INT,
    "quantity": TEXT,
    "mean": REAL,
    "least": REAL,
    "most": REAL,
    "n": INT,
}
"""Columns of :func:`epoch_ranges`. ``quantity`` is ``loss``, ``accuracy_pct``, ``gross_j`` or
``net_j`` (energies added up from the first epoch on); mean and range are over ``n`` models."""

EXCHANGE: Mapping[str, str] = {
    **PLACE,
    "model": TEXT,
    "epochs": INT,
    "last_epochs": INT,
    "gain_pct": REAL,
    "energy_j": REAL,
    "energy_share_pct": REAL,
    "j_per_point": REAL,
    "repeats": INT,
}
"""Columns of :func:`exchange`, of training: the accuracy gained in the last epochs, in points,
and the gross energy that they took; ``j_per_point`` is empty where nothing was gained."""

_QUANTITIES = ("loss", "accuracy_pct", "gross_j", "net_j")


def epochs_by_model(data: Data, groups: Sequence[Group]) -> pd.DataFrame:
    """Means over repeats of each complete epoch, energies added up from the first epoch on.

    Returns:
        Columns of a place, ``model``, ``phase``, ``epoch``, ``loss``, ``accuracy_pct``,
        ``gross_j``, ``net_j`` and ``repeats``. Past an epoch without energy there is none.
    """
    keys = [*PLACE, "model", "phase", "epoch"]
    places = pd.DataFrame(
        [
            group.table.iloc[0][list(ALIKE)].to_dict()
            | {"label": group.machine, "setting": group.setting}
            for group in groups
        ],
        columns=[*ALIKE, "label", "setting"],
    ).astype(data.runs[list(ALIKE)].dtypes.to_dict())
    runs = data.runs[["run_id", "phase", *ALIKE]].merge(places, on=list(ALIKE))
    runs = runs[["run_id", "study", "phase", "label", "setting"]]
    known = data.epochs[data.epochs["complete"].fillna(value=False)]
    found = known.merge(
        runs.rename(columns={"label": "machine"}), on=["run_id", "study", "phase"]
    ).sort_values("epoch", kind="stable")
    each = found.groupby(["study", "run_id", "phase"], sort=False)
    energies = ["gross_j", "net_j"]
    found[energies] = each[energies].cumsum(skipna=False)
    means = found.groupby(keys, sort=False)[list(_QUANTITIES)].mean()
    return means.assign(repeats=found.groupby(keys, sort=False).size()).reset_index()


def epoch_ranges(by_model: pd.DataFrame) -> pd.DataFrame:
    """Mean and range over models, epoch by epoch (Fig. 5 of the paper).

    Args:
        by_model: See :func:`epochs_by_model`.
    """
    rows: list[dict[str, Any]] = []
    grouped = by_model.groupby([*PLACE, "phase", "epoch"], sort=False)
    for quantity in _QUANTITIES:
        found = grouped[quantity].agg(["mean", "min", "max", "count"]).reset_index()
        found = found[found["count"] > 0].rename(
            columns={"min": "least", "max": "most", "count": "n"}
        )
        rows += records(found.assign(quantity=quantity))
    return frame(rows, EPOCH_RANGES)


def exchange(by_model: pd.DataFrame) -> pd.DataFrame:
    """What the last quarter of the epochs of training gained, and what it cost.

    Args:
        by_model: See :func:`epochs_by_model`.

    Returns:
        Columns as :data:`EXCHANGE`; a row a model with at least :data:`LEAST_EPOCHS` epochs of
        known accuracy.
    """
    rows: list[dict[str, Any]] = []
    train = by_model[(by_model["phase"] == "train") & by_model["accuracy_pct"].notna()]
    for _, part in train.groupby([*PLACE, "model"], sort=False):
        count = len(part)
        if count < LEAST_EPOCHS:
            continue
        last = max(1, round(LAST * count))
        before, end = part.iloc[-1 - last], part.iloc[-1]
        gain = float(end["accuracy_pct"] - before["accuracy_pct"])
        energy_j = float(end["gross_j"] - before["gross_j"])
        rows.append(
            {name: end[name] for name in (*PLACE, "model", "repeats")}
            | {
                "epochs": count,
                "last_epochs": last,
                "gain_pct": gain,
                "energy_j": energy_j,
                "energy_share_pct": 100 * energy_j / float(end["gross_j"])
                if end["gross_j"] > 0
                else math.nan,
                "j_per_point": energy_j / gain if gain > 0 else math.nan,
            }
        )
    return frame(rows, EXCHANGE)


def epoch_findings(exchanged: pd.DataFrame) -> list[Finding]:
    """What the last epochs bought. Ids: ``exchange.train``.

    Args:
        exchanged: See :func:`exchange`.
    """
    return [_finding(part) for _, part in exchanged.groupby(list(PLACE), sort=False)]


def _finding(part: pd.DataFrame) -> Finding:
    rows = records(part.sort_values("gain_pct", kind="stable"))
    first, last, n = rows[0], rows[-1], len(rows)
    gains = part["gain_pct"].to_numpy(dtype=float)
    mean, low, high = float(gains.mean()), math.nan, math.nan
    if n > 1:
        low, high = (float(end) for end in DescrStatsW(gains).tconfint_mean())
    texts = [f"the last quarter of the epochs gained {with_interval(mean, low, high)} points"]
    if n > 1:
        texts[0] += (
            f" of accuracy on average over {n} models, from {number(first['gain_pct'])} "
            f"({first['model']}) to {number(last['gain_pct'])} ({last['model']})"
        )
    share = float(part["energy_share_pct"].mean())
    if not math.isnan(share):
        texts.append(f"they took {number(share)} % of the gross energy of training")
    prices = part["j_per_point"].dropna()
    if len(prices):
        median = scaled(float(prices.median()))
        texts.append(f"where there was a gain, a point cost {median}J (median)")
    idle = n - int((part["gain_pct"] > 0).sum())
    if idle:
        texts.append(f"{counted(idle, 'model')} gained nothing")
    if int(part["repeats"].min()) < 2:
        texts.append("repeats with other seeds would tell gain from chance")
    return Finding(
        id="exchange.train",
        question="What do the last epochs of training gain for their energy?",
        statement=" ".join(sentence(text) for text in texts),
        estimate=mean,
        low=low,
        high=high,
        n=n,
        unit="%",
        study=first["study"],
        setting=first["setting"],
        figure="epochs",
    )
