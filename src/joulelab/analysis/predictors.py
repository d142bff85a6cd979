"""Which characteristic of a model ranks its energy best."""

from __future__ import annotations

from joulelab.analysis.data import Data
from joulelab.analysis.findings import Finding


def predictor_findings(data: Data) -> list[Finding]:
    """Rank correlations of energy per sample with characteristics, and their differences.

    Ids: ``spearman.<phase>.<net|gross>.<predictor>``, ``kendall.<phase>.<net|gross>.<predictor>``
    and ``difference.<phase>.<net|gross>.macs_per_parameter-<predictor>``.
    """
    del data
    return []
