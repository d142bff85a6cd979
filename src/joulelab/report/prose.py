"""Findings, each beside the figure that shows it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from joulelab.findings.findings import Finding
from joulelab.findings.words import ABSENT, interval, number
from joulelab.report.figure import Figure
from joulelab.report.scopes import Material, without_batch_size
from joulelab.report.theme import PHASES, QUANTITIES

ONE = "1"


@dataclass(frozen=True, slots=True)
class Paragraph:
    """A finding as the page shows it.

    Attributes:
        scopes: Keys of the scopes it is about, with blanks between; empty for all.
        setting: Study and setting, for a page without a script; may be empty.
        question: As a reader asks it.
        statement: The answer.
        estimate: The figure, with its unit.
        interval: Its 95 % interval; may be empty.
        n: How many points it rests on.
        phase: The phase that it is about; empty for both.
        quantity: The energy that it is about, net or gross; empty for neither or both.
    """

    scopes: str
    setting: str
    question: str
    statement: str
    estimate: str
    interval: str
    n: int
    phase: str
    quantity: str


def paragraphs(
    material: Material, figures: Sequence[Figure], *, detail: bool
) -> Mapping[str, list[Paragraph]]:
    """Findings by the figure that shows them; those of no figure under the empty name.

    Args:
        material: Whose answers hold the findings.
        figures: Those on the page.
        detail: Those that belong in a table, or the others.
    """
    found: dict[str, list[Paragraph]] = {name: [] for name in ("", *(one.name for one in figures))}
    places = {name: figure.name for figure in figures for name in (figure.name, *figure.also)}
    scopes = _by_setting(material)
    several = len(material.scopes) > 1
    for finding in material.answers.findings:
        if finding.detail is detail:
            found[places.get(finding.figure, "")].append(_paragraph(finding, scopes, several))
    return found


def _by_setting(material: Material) -> dict[tuple[str, str], list[str]]:
    keys: dict[tuple[str, str], list[str]] = {}
    for scope in material.scopes:
        settings = dict.fromkeys([scope.setting, without_batch_size(scope.setting)])
        for setting in settings:
            keys.setdefault((scope.group.study, setting), []).append(scope.key)
    return keys


def _paragraph(
    finding: Finding, scopes: Mapping[tuple[str, str], Sequence[str]], several: bool
) -> Paragraph:
    keys = scopes.get((finding.study, finding.setting), [])
    unit = "" if finding.unit == ONE else f" {finding.unit}"
    value = number(finding.estimate)
    return Paragraph(
        scopes=" ".join(keys),
        setting=" · ".join(filter(None, [finding.study, finding.setting])) if several else "",
        question=finding.question,
        statement=finding.statement,
        estimate=value if value == ABSENT else f"{value}{unit}",
        interval=interval(finding.low, finding.high, finding.estimate),
        n=finding.n,
        phase=_named(finding.id, PHASES),
        quantity=_named(finding.id, QUANTITIES),
    )


def _named(finding_id: str, levels: Iterable[str]) -> str:
    """Which of these a finding's id names; empty for none.

    Example:
        >>> _named("predictors.train.net", ["train", "infer"]), _named("ratio.time", ["net"])
        ('train', '')
    """
    return next((level for level in levels if level in finding_id.split(".")), "")
