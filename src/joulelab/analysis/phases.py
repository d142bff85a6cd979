"""Does training take three times inference? Ratios of the phases, model by model."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from joulelab.analysis.data import Data
from joulelab.analysis.findings import Finding
from joulelab.analysis.frames import FLAG, INT, INTERVAL, PLACE, TEXT, frame

RULE = 3.0
"""Training over inference in time, by the paper's rule of thumb (section V-A)."""

PHASE_RATIOS: Mapping[str, str] = {
    **PLACE,
    "model": TEXT,
    "quantity": TEXT,
    **INTERVAL,
    "n": INT,
    "off_rule": FLAG,
}
"""Columns of :func:`phase_ratios`. ``quantity``, a sample each: ``time``, ``gross`` or ``net``;
``n`` counts repeats; ``off_rule`` says that the interval excludes :data:`RULE`."""


def phase_ratios(data: Data) -> pd.DataFrame:
    """Training over inference, a sample each: one row a model and quantity."""
    del data
    return frame([], PHASE_RATIOS)


def phase_findings(ratios: pd.DataFrame) -> list[Finding]:
    """The rule of three, tested over models. Ids: ``ratio.<time|gross|net>``."""
    del ratios
    return []
