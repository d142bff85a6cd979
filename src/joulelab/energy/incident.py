"""An incident: something that happened between two times and affects energies, as text."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Incident:
    """Something that happened between two times on CLOCK_MONOTONIC."""

    start_s: float
    stop_s: float
    text: str


def notes_within(incidents: Iterable[Incident], start_s: float, stop_s: float) -> tuple[str, ...]:
    """Return the texts of the incidents within a span, each once."""
    texts = (one.text for one in incidents if one.start_s < stop_s and one.stop_s > start_s)
    return tuple(dict.fromkeys(texts))
