"""Do training and inference, and do machines, rank models alike?"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from joulelab.analysis.data import Data
from joulelab.analysis.findings import Finding
from joulelab.analysis.frames import INT, INTERVAL, PLACE, REAL, TEXT, frame

AGREEMENT: Mapping[str, str] = {
    **PLACE,
    "between": TEXT,
    "first": TEXT,
    "second": TEXT,
    "phase": TEXT,
    "quantity": TEXT,
    "method": TEXT,
    **INTERVAL,
    "p": REAL,
    "n": INT,
}
"""Columns of :func:`agreement`. ``between`` is ``phases`` or ``machines``; ``first`` and
``second`` name the two (``second`` is empty for Kendall's W, which is of all machines);
``quantity`` is ``net``, ``gross`` or ``time``; ``method`` is ``spearman``, ``kendall`` or
``kendall_w``; ``n`` counts models."""


def agreement(data: Data) -> pd.DataFrame:
    """Rank correlations between phases within a group, and between machines."""
    del data
    return frame([], AGREEMENT)


def agreement_findings(found: pd.DataFrame) -> list[Finding]:
    """Rank agreement in words.

    Ids: ``phases.<spearman|kendall>.<net|gross|time>`` and
    ``machines.<spearman|kendall|kendall_w>.<phase>.<net|gross|time>``.
    """
    del found
    return []
