"""Loss, accuracy and energy by epoch, and what the last epochs buy."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from joulelab.analysis.data import Data
from joulelab.analysis.findings import Finding
from joulelab.analysis.frames import INT, PLACE, REAL, TEXT, frame

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
and the gross energy that they took."""


def epoch_ranges(data: Data) -> pd.DataFrame:
    """Mean and range over models, epoch by epoch (Fig. 5 of the paper)."""
    del data
    return frame([], EPOCH_RANGES)


def exchange(data: Data) -> pd.DataFrame:
    """What the last quarter of the epochs gained, and what it cost."""
    del data
    return frame([], EXCHANGE)


def epoch_findings(exchanged: pd.DataFrame) -> list[Finding]:
    """What the last epochs bought. Ids: ``exchange.train``."""
    del exchanged
    return []
