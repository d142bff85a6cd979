"""Findings about other processes that used the machine during a study."""

from __future__ import annotations

from collections.abc import Iterable

from joulelab.findings.schema import Finding
from joulelab.format import sentence
from joulelab.runs.shared_machine import Sharing, describe_busy_idle
from joulelab.runs.study_runs import Study


def busy_findings(studies: Iterable[Study]) -> list[Finding]:
    """State for each study which part of its runs and idle measurements others disturbed.

    A study whose machine was quiet, or whose other users are unknown, has no such finding.
    """
    findings = []
    for study in studies:
        sharing = Sharing.of_runs(study.cells())
        if sharing is not None:
            findings.append(
                Finding(
                    id="busy.runs",
                    question="Did other processes use the machine during the runs?",
                    statement=sentence(sharing.caveat),
                    estimate=len(sharing.runs) / sharing.total,
                    n=sharing.total,
                    study=study.label,
                )
            )
        idle = describe_busy_idle(study)
        if idle:
            findings.append(
                Finding(
                    id="busy.idle",
                    question="Did other processes use the machine while idle power was measured?",
                    statement=sentence(idle),
                    n=len(study.idles()),
                    study=study.label,
                )
            )
    return findings
