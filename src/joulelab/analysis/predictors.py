"""Which characteristic of a model ranks its energy best: rank correlations over models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from joulelab.analysis.data import Group
from joulelab.analysis.findings import Finding
from joulelab.analysis.frames import INT, INTERVAL, PLACE, REAL, TEXT, frame

PREDICTORS = ("macs_per_parameter", "macs", "parameters", "size_bytes", "operators", "time")
"""What a model's energy is ranked by. ``time`` is the duration of a sample."""

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
``method`` is ``spearman`` or ``kendall``; ``n`` counts models; ``p`` is of no correlation."""

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
    """Spearman and Kendall of energy per sample with each predictor, one point a model."""
    del groups
    return frame([], CORRELATIONS)


def differences(groups: Sequence[Group]) -> pd.DataFrame:
    """How much better MACs per parameter ranks energy than each other predictor."""
    del groups
    return frame([], DIFFERENCES)


def predictor_findings(found: pd.DataFrame, compared: pd.DataFrame) -> list[Finding]:
    """Rank correlations of energy per sample with characteristics, and their differences.

    Ids: ``spearman.<phase>.<net|gross>.<predictor>``, ``kendall.<phase>.<net|gross>.<predictor>``
    and ``difference.<phase>.<net|gross>.macs_per_parameter-<predictor>``.
    """
    del found, compared
    return []
