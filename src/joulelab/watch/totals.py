"""The energies of ended spans, each worked out once and added up by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from joulelab.accounting.energy import Energy
from joulelab.accounting.marked import Marked
from joulelab.watch.model import Ended

MOST_WAITING = 500
"""A name of which more spans wait at a time has too many for their energies to be added up."""


class Totals:
    """Ended spans by name."""

    def __init__(self) -> None:
        self._waiting: list[Marked] = []
        self._too_many: set[str] = set()
        self._rows: dict[str, Ended] = {}

    def add(self, spans: Iterable[Marked]) -> None:
        """Takes spans that ended, whose energies are to be worked out."""
        self._waiting += spans
        counts = Counter(span.name for span in self._waiting)
        self._too_many |= {name for name, count in counts.items() if count > MOST_WAITING}
        for span in self._waiting:
            if span.name in self._too_many:
                self._count(span, None)
        self._waiting = [span for span in self._waiting if span.name not in self._too_many]

    def waiting(self, since_ns: int, until_ns: int) -> list[Marked]:
        """Those that lie within these times and whose energies are not known yet."""
        return [
            span
            for span in self._waiting
            if since_ns <= span.start_ns and _stop_ns(span) <= until_ns
        ]

    def fill(self, spans: Sequence[Marked], energies: Sequence[Energy]) -> None:
        """Takes the energies of spans that waited."""
        done = {span.key for span in spans}
        self._waiting = [span for span in self._waiting if span.key not in done]
        for span, energy in zip(spans, energies, strict=True):
            self._count(span, energy)

    def rows(self) -> tuple[Ended, ...]:
        """One a name, the one that ended last first."""
        return tuple(reversed(self._rows.values()))

    def _count(self, span: Marked, energy: Energy | None) -> None:
        duration_s = (span.window.stop_ns - span.start_ns) * 1e-9
        before = self._rows.pop(span.name, None)
        if before is None:
            before = Ended(name=span.name, count=0, duration_s=0.0)
        so_far = energy if not before.count else before.energy
        if before.count and isinstance(so_far, Energy) and energy is not None:
            so_far = so_far + energy
        self._rows[span.name] = replace(
            before,
            count=before.count + 1,
            duration_s=before.duration_s + duration_s,
            energy=None if energy is None else so_far,
            last_duration_s=duration_s,
            last=energy,
        )


def _stop_ns(span: Marked) -> int:
    return max(span.window.stop_ns, span.device_stop_ns or 0)
