"""The energies of ended spans, each worked out once and added up by name."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import replace

from joulelab.energy.energy import Energy
from joulelab.recording.trace_spans import TraceSpan, Window
from joulelab.watch.model import Ended

MOST_KNOWN = 10_000
"""So many energies of single spans are kept, for forecasts."""
MOST_WAITING = 2000
"""A name of which more spans wait at a time has too many for their energies to be added up."""


class Totals:
    """Ended spans by name.

    Attributes:
        known: The energies of the last single spans, by when they were.
    """

    def __init__(self) -> None:
        self.known: OrderedDict[Window, Energy] = OrderedDict()
        self._waiting: list[TraceSpan] = []
        self._too_many: set[str] = set()
        self._rows: dict[str, Ended] = {}

    def add(self, spans: Iterable[TraceSpan]) -> None:
        """Takes spans that ended, whose energies are to be worked out."""
        by_name: dict[str, list[TraceSpan]] = {}
        for span in (*self._waiting, *spans):
            by_name.setdefault(span.name, []).append(span)
        self._waiting = []
        for name, own in by_name.items():
            if name in self._too_many or len(own) > MOST_WAITING:
                self._too_many.add(name)
                self._count(name, len(own), math.fsum(map(_duration_s, own)), own[-1], None)
            else:
                self._waiting += own

    def waiting(self, since_ns: int, until_ns: int) -> list[TraceSpan]:
        """Those that lie within these times and whose energies are not known yet."""
        return [
            span
            for span in self._waiting
            if since_ns <= span.start_ns and _stop_ns(span) <= until_ns
        ]

    def fill(self, spans: Sequence[TraceSpan], energies: Sequence[Energy]) -> None:
        """Takes the energies of spans that waited."""
        done = {span.key for span in spans}
        self._waiting = [span for span in self._waiting if span.key not in done]
        for span, energy in zip(spans, energies, strict=True):
            self._count(span.name, 1, _duration_s(span), span, energy)
            self.known[span.window] = energy
        while len(self.known) > MOST_KNOWN:
            self.known.popitem(last=False)

    def rows(self) -> tuple[Ended, ...]:
        """One a name, the one that ended last first."""
        return tuple(reversed(self._rows.values()))

    def _count(
        self, name: str, count: int, duration_s: float, last: TraceSpan, energy: Energy | None
    ) -> None:
        """Adds spans to their row, which becomes the last one."""
        before = self._rows.pop(name, None) or Ended(name=name, count=0, duration_s=0.0)
        so_far = energy
        if before.count and energy is not None:
            so_far = before.energy + energy if isinstance(before.energy, Energy) else None
        self._rows[name] = replace(
            before,
            count=before.count + count,
            duration_s=before.duration_s + duration_s,
            energy=so_far,
            last_duration_s=_duration_s(last),
            last=energy,
        )


def _duration_s(span: TraceSpan) -> float:
    return (span.window.stop_ns - span.start_ns) * 1e-9


def _stop_ns(span: TraceSpan) -> int:
    return max(span.window.stop_ns, span.device_stop_ns or 0)
