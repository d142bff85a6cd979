"""Do machines, and do training and inference, rank models alike?"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from joulelab.analysis.data import Data
from joulelab.analysis.findings import Finding

SIDE_BY_SIDE: Mapping[str, str] = {
    "model": "string",
    "phase": "string",
    "quantity": "string",
    "machine": "string",
    "reference": "string",
    "setting": "string",
    "ratio": "float64",
    "low": "float64",
    "high": "float64",
}
"""Columns of :func:`side_by_side`. ``quantity``, a sample each: ``net``, ``gross`` or ``time``."""


def side_by_side(data: Data) -> pd.DataFrame:
    """Each model's energy and time a sample on each machine over those on the reference."""
    del data
    return pd.DataFrame({name: pd.Series([], dtype=kind) for name, kind in SIDE_BY_SIDE.items()})


def machine_findings(data: Data) -> list[Finding]:
    """Rank agreement between machines and between phases, and machines' ratios.

    Ids: ``machines.<spearman|kendall|kendall_w|ratio>.<phase>.<net|gross|time>`` and
    ``phases.<spearman|kendall>.<net|gross|time>``.
    """
    del data
    return []
