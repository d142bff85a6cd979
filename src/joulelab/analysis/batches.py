"""Energy against batch size: the best size, and the floor beyond which nothing is gained."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from joulelab.analysis.data import Data
from joulelab.analysis.findings import Finding
from joulelab.analysis.frames import FLAG, INT, INTERVAL, PLACE, REAL, TEXT, frame

TOLERANCE = 0.05
"""A batch size whose energy is at most so much above the least is at the floor."""

BATCH_CURVES: Mapping[str, str] = {
    **PLACE,
    "model": TEXT,
    "phase": TEXT,
    "quantity": TEXT,
    "batch_size": INT,
    **INTERVAL,
    "least": FLAG,
    "at_floor": FLAG,
    "n": INT,
}
"""Columns of :func:`batch_curves`. ``quantity`` is ``net`` or ``gross``, J per sample; ``setting``
leaves the batch size out; ``least`` marks the batch size of least energy, ``at_floor`` those from
the floor on that are not shown to be more than :data:`TOLERANCE` above it."""

BATCH_FLOORS: Mapping[str, str] = {
    **PLACE,
    "model": TEXT,
    "phase": TEXT,
    "quantity": TEXT,
    "best_batch_size": INT,
    "floor_batch_size": INT,
    "least_j_per_sample": REAL,
    "saving_pct": REAL,
    "saving_low_pct": REAL,
    "saving_high_pct": REAL,
    "batch_sizes": INT,
}
"""Columns of :func:`batch_floors`: ``saving_pct`` is what the best batch size saves over the
smallest one that was run; ``batch_sizes`` counts the sizes."""


def batch_curves(data: Data) -> pd.DataFrame:
    """Energy per sample at each batch size, of models that ran at two or more."""
    del data
    return frame([], BATCH_CURVES)


def batch_floors(curves: pd.DataFrame) -> pd.DataFrame:
    """The best batch size and the floor of each model, phase and quantity."""
    del curves
    return frame([], BATCH_FLOORS)


def batch_findings(floors: pd.DataFrame) -> list[Finding]:
    """Where the floor is. Ids: ``batch.<phase>.<net|gross>``."""
    del floors
    return []
