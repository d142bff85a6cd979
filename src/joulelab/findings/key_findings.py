"""The findings that a reader needs first: the best answer to each of a few questions.

The rule: each of :data:`TOPICS` has candidates, chosen by their ids. Only findings about the energy
that the page shows first (net if it is known) or about neither net nor gross count. Of the
candidates, the best is

1. one that is significant, before another with an interval, before one without;
2. one whose id is named first;
3. of factors, the one with the largest effect;
4. one about training, before inference and other phases;
5. one about the setting with the most models.

The best of each topic are given in the order of the topics, but what is significant comes first, at
most :data:`MOST` in all. What cannot be determined is not listed, but asked in one sentence; if
nothing else is known, the first of these answers is given after all, since it states the reason.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

from joulelab.findings.schema import PHASES, Finding
from joulelab.uncertain import is_determined

MOST = 5
"""Key findings of a page."""


@dataclass(frozen=True, slots=True)
class Topic:
    """A question of the first screen, and ids of its candidates, or their beginnings with a dot."""

    title: str
    ids: tuple[str, ...]


FACTORS = "factor."

TOPICS = (
    Topic("Model", ("models.",)),
    Topic("Settings", ("best_setting.",)),
    Topic("Effect of a setting", (FACTORS, "interaction.", "batch.")),
    Topic("Machines", ("machines.ratio.", "machines")),
    Topic("Phases", ("ratio.",)),
    Topic("Prediction", ("predictors.",)),
    Topic("Limits", ("limit.", "knee.", "power.train.gpu", "power.infer.gpu")),
    Topic("Last epochs", ("exchange.",)),
)


class Certainty(IntEnum):
    """How sure an answer is."""

    SIGNIFICANT = 0
    ESTIMATED = 1  # With an interval, but not significant or not tested.
    UNDETERMINED = 2


@dataclass(frozen=True, slots=True)
class KeyFinding:
    """A finding of the first screen, and the title of its topic."""

    topic: str
    finding: Finding

    @property
    def text(self) -> str:
        """The answer with its setting and its significance, if it was tested."""
        answer, significant = self.finding.answer, self.finding.significant
        label = "" if significant is None else f"{'' if significant else 'not '}significant"
        if "significant" in answer or "distinguish" in answer:
            label = ""
        more = [self.finding.setting, label]
        added = "; ".join(filter(None, more))
        return f"{answer.removesuffix('.')} ({added})." if added else answer


@dataclass(frozen=True, slots=True)
class KeyFindings:
    """Answers, and the questions that these studies cannot answer."""

    answers: tuple[KeyFinding, ...]
    open_questions: tuple[Finding, ...]

    @property
    def open_text(self) -> str:
        """The questions that cannot be answered, in one line; empty without any."""
        asked = " ".join(dict.fromkeys(one.question for one in self.open_questions))
        return f"Cannot be determined from these runs: {asked}" if asked else ""


def key_findings(findings: Iterable[Finding], quantity: str, most: int = MOST) -> KeyFindings:
    """Choose the findings that a reader needs first; see this module for the rule.

    Args:
        findings: Those of one study and machine, or of several machines compared.
        quantity: The energy that counts, ``"net"`` or ``"gross"``.
        most: Number of answers.
    """
    known = [one for one in findings if one.quantity in ("", quantity) and not one.detail]
    best = [
        (certainty(found), KeyFinding(topic.title, found))
        for topic in TOPICS
        for found in _best(topic, known)
    ]
    sure = [one for certain, one in best if certain is Certainty.SIGNIFICANT]
    unsure = [one for certain, one in best if certain is Certainty.ESTIMATED]
    unknown = [one for certain, one in best if certain is Certainty.UNDETERMINED]
    answers = [*sure, *unsure] or unknown[:1]
    asked = [one.finding for one in unknown if one not in answers]
    return KeyFindings(tuple(answers[:most]), tuple(asked))


def certainty(finding: Finding) -> Certainty:
    """Return how sure the answer of a finding is."""
    if finding.significant:
        return Certainty.SIGNIFICANT
    ends = finding.estimate, finding.low, finding.high
    if not all(map(math.isfinite, ends)):
        return Certainty.UNDETERMINED
    is_ratio = finding.id.startswith((FACTORS, "ratio.", "models.", "machines."))
    unknown = is_ratio and not is_determined(*ends)
    return Certainty.UNDETERMINED if unknown else Certainty.ESTIMATED


def _best(topic: Topic, findings: Sequence[Finding]) -> Iterator[Finding]:
    candidates = [one for one in findings if _position(topic, one) is not None]
    if candidates:
        yield min(candidates, key=lambda one: _rank(topic, one))


def _position(topic: Topic, finding: Finding) -> int | None:
    """Return the number of the id, or beginning of ids, that a topic has of a finding."""
    for i, name in enumerate(topic.ids):
        if finding.id == name or (name.endswith(".") and finding.id.startswith(name)):
            return i
    return None


def _rank(topic: Topic, finding: Finding) -> tuple[float, ...]:
    effect = 0.0
    if finding.id.startswith(FACTORS) and finding.estimate > 0:
        effect = -abs(math.log(finding.estimate))
    phases = list(PHASES)
    phase = phases.index(finding.phase) if finding.phase in phases else 0
    group = min(finding.groups, default=0)
    return certainty(finding), _position(topic, finding) or 0, effect, phase, group
