"""The power beyond which watts buy no utilisation."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from joulelab.analysis.data import Data
from joulelab.analysis.findings import Finding
from joulelab.analysis.frames import FLAG, INT, PLACE, REAL, TEXT, frame

UTILIZATION: Mapping[str, str] = {
    **PLACE,
    "model": TEXT,
    "phase": TEXT,
    "power_w": REAL,
    "utilization_pct": REAL,
    "vram_peak_bytes": INT,
    "fitted_pct": REAL,
    "above_knee": FLAG,
}
"""Columns of :func:`utilization`: a GPU's power and utilisation, one point a model and phase.
``fitted_pct`` and ``above_knee`` are empty where no knee is shown."""

KNEES: Mapping[str, str] = {
    **PLACE,
    "phase": TEXT,
    "shown": FLAG,
    "knee_w": REAL,
    "low_w": REAL,
    "high_w": REAL,
    "slope_below_pct_per_w": REAL,
    "slope_above_pct_per_w": REAL,
    "intercept_pct": REAL,
    "p": REAL,
    "saving_w": REAL,
    "saving_pct": REAL,
    "models_above": INT,
    "n": INT,
}
"""Columns of :func:`knees`: a row a group and phase with enough points. ``shown`` says that two
segments fit better than one line (``p``), the upper one flatter. ``saving_w`` is what the models
above the knee draw beyond it, on average, and ``saving_pct`` that over what they draw."""


def utilization(data: Data) -> pd.DataFrame:
    """Mean power and utilisation of the GPU, with the peak of its memory."""
    del data
    return frame([], UTILIZATION)


def knees(points: pd.DataFrame) -> pd.DataFrame:
    """Two segments of utilisation over power, fitted to the points of each group and phase."""
    del points
    return frame([], KNEES)


def knee_findings(found: pd.DataFrame) -> list[Finding]:
    """Where the knee is and what it would save. Ids: ``knee.<phase>``."""
    del found
    return []
