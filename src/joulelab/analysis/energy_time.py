"""Is energy linear in time? A line through one point a model, and what it leaves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from joulelab.analysis.data import Group
from joulelab.analysis.findings import Finding
from joulelab.analysis.frames import INT, PLACE, REAL, TEXT, frame

TIME_POINTS: Mapping[str, str] = {
    **PLACE,
    "phase": TEXT,
    "quantity": TEXT,
    "model": TEXT,
    "duration_s_per_sample": REAL,
    "energy_j_per_sample": REAL,
    "fitted_j_per_sample": REAL,
    "residual_j_per_sample": REAL,
}
"""Columns of :func:`time_points`. ``quantity`` is ``net`` or ``gross``."""

TIME_FITS: Mapping[str, str] = {
    **PLACE,
    "phase": TEXT,
    "quantity": TEXT,
    "slope_w": REAL,
    "slope_low_w": REAL,
    "slope_high_w": REAL,
    "intercept_j": REAL,
    "intercept_low_j": REAL,
    "intercept_high_j": REAL,
    "r_squared": REAL,
    "curvature_p": REAL,
    "typical_error_pct": REAL,
    "n": INT,
}
"""Columns of :func:`time_fits`. ``typical_error_pct`` is the median of residuals over energies."""


def time_fits(groups: Sequence[Group]) -> pd.DataFrame:
    """Least squares of energy per sample on time per sample, one point a model."""
    del groups
    return frame([], TIME_FITS)


def time_points(groups: Sequence[Group], fits: pd.DataFrame) -> pd.DataFrame:
    """The points of these fits, with what the line says and leaves."""
    del groups, fits
    return frame([], TIME_POINTS)


def time_findings(fits: pd.DataFrame, points: pd.DataFrame) -> list[Finding]:
    """Linearity in words. Ids: ``linear.<phase>.<net|gross>``."""
    del fits, points
    return []
