"""The same models on unlike machines, side by side; never averaged."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from joulelab.analysis.data import Data
from joulelab.analysis.findings import Finding
from joulelab.analysis.frames import REAL, TEXT, frame

SIDE_BY_SIDE: Mapping[str, str] = {
    "model": TEXT,
    "phase": TEXT,
    "quantity": TEXT,
    "machine": TEXT,
    "reference": TEXT,
    "setting": TEXT,
    "ratio": REAL,
    "low": REAL,
    "high": REAL,
}
"""Columns of :func:`side_by_side`. ``quantity``, a sample each: ``net``, ``gross`` or ``time``."""


def side_by_side(data: Data) -> pd.DataFrame:
    """Each model's energy and time a sample on each machine over those on the reference."""
    del data
    return frame([], SIDE_BY_SIDE)


def machine_findings(compared: pd.DataFrame) -> list[Finding]:
    """Machines' ratios in words. Ids: ``machines.ratio.<phase>.<net|gross|time>``."""
    del compared
    return []
