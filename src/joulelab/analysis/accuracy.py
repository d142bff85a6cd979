"""What accuracy costs: joules per point, the Pareto front, the frugal choice at equal accuracy."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from joulelab.analysis.data import Data
from joulelab.analysis.findings import Finding
from joulelab.analysis.frames import FLAG, PLACE, REAL, TEXT, frame

ACCURACY: Mapping[str, str] = {
    **PLACE,
    "model": TEXT,
    "phase": TEXT,
    "quantity": TEXT,
    "accuracy_pct": REAL,
    "accuracy_low_pct": REAL,
    "accuracy_high_pct": REAL,
    "energy_j": REAL,
    "energy_low_j": REAL,
    "energy_high_j": REAL,
    "j_per_point": REAL,
    "on_front": FLAG,
    "equal_to_best": FLAG,
}
"""Columns of :func:`accuracy`. ``quantity`` is ``net`` or ``gross``. ``energy_j`` is that of the
whole training for ``train``, of one sample for ``infer``; ``on_front``: no model is both more
accurate and cheaper; ``equal_to_best``: not shown to be less accurate than the best."""


def accuracy(data: Data) -> pd.DataFrame:
    """Accuracy and energy, one row a model, phase and quantity whose accuracy is known."""
    del data
    return frame([], ACCURACY)


def accuracy_findings(points: pd.DataFrame) -> list[Finding]:
    """What accuracy costs, in words.

    Ids: ``front.<phase>.<net|gross>`` and ``frugal.<phase>.<net|gross>``.
    """
    del points
    return []
