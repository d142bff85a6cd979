"""Every finding, in the order of the paper's questions."""

from __future__ import annotations

from joulelab.analysis.data import Data
from joulelab.analysis.findings import Finding
from joulelab.analysis.machines import machine_findings
from joulelab.analysis.predictors import predictor_findings


def all_findings(data: Data) -> list[Finding]:
    """The findings of relations, predictors and machines."""
    return [*predictor_findings(data), *machine_findings(data)]
