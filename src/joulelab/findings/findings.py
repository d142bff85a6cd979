"""What the data show and do not show, in words: one finding a question, made from the numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """An answer to a question, with its interval. What is not known is NaN.

    Attributes:
        id: Stable over studies, as ``"spearman.train.net.macs_per_parameter"``.
        question: As a reader asks it.
        statement: One to three sentences made from the numbers: the answer, how sure it is, and
            what would be needed to be surer. Never says more than the interval bears out.
        estimate: The figure that answers the question.
        low: Lower end of its 95 % interval.
        high: Upper end.
        n: How many independent points (models, pairs, repeats: as the statement says) it rests on.
        unit: Of the estimate; ``"1"`` for a plain number.
        study: Label of the study it is about; empty for a finding over several.
        setting: See :class:`joulelab.findings.data.Group`.
        figure: Name of the figure that shows it; empty where there is none.
        detail: Whether it is one of many alike (as one correlation of a family) that a page
            shows in a table; the others answer a question of their own.
    """

    id: str
    question: str
    statement: str
    estimate: float = math.nan
    low: float = math.nan
    high: float = math.nan
    n: int = 0
    unit: str = "1"
    study: str = ""
    setting: str = ""
    figure: str = ""
    detail: bool = False

    def to_json(self) -> dict[str, Any]:
        """Every field; NaN becomes ``None``."""
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in asdict(self).items()
        }


def findings_json(findings: Sequence[Finding]) -> bytes:
    """The content of ``findings.json``: a list with an object a finding.

    Example:
        >>> findings_json([])
        b'[]\\n'
    """
    text = json.dumps([finding.to_json() for finding in findings], indent=1, ensure_ascii=False)
    return f"{text}\n".encode()
