"""The power of the last minutes in steps of one length, each worked out by the accounting."""

from __future__ import annotations

import math
from collections.abc import Sequence

from joulelab.energy.energy import Energy
from joulelab.recording.trace_spans import Window
from joulelab.watch.model import BIN_S

MOST = 300
"""Steps that are kept: ten minutes, more than the widest terminal shows."""
LATE = 5
"""So many of the last steps are worked out anew: a sensor may hand over its readings late."""
_BIN_NS = round(BIN_S * 1e9)


class History:
    """Mean power by step and component.

    Args:
        start_ns: No step begins before, CLOCK_MONOTONIC.
    """

    def __init__(self, start_ns: int) -> None:
        self._first = -(-start_ns // _BIN_NS)
        self._power_w: dict[int, dict[str, float]] = {}

    def since_ns(self, until_ns: int) -> int:
        """From when readings are needed for the steps that are due by then."""
        latest = max(self._power_w, default=self._first)
        return max(latest - LATE, self._first, until_ns // _BIN_NS - MOST) * _BIN_NS

    def due(self, until_ns: int) -> list[int]:
        """The steps to work out, now that readings reach until then."""
        return list(range(self.since_ns(until_ns) // _BIN_NS, until_ns // _BIN_NS))

    def window(self, step: int) -> Window:
        """When a step is."""
        return Window(step * _BIN_NS, (step + 1) * _BIN_NS)

    def fill(self, steps: Sequence[int], energies: Sequence[Energy]) -> None:
        """Keeps what the accounting gives for these steps."""
        for step, energy in zip(steps, energies, strict=True):
            parts = energy.components.items()
            self._power_w[step] = {name: part.mean_power_w for name, part in parts}
        last = max(self._power_w, default=0)
        for step in [step for step in self._power_w if step <= last - MOST]:
            del self._power_w[step]

    def of(self, component: str) -> tuple[float, ...]:
        """Its power from the first step that is kept to the last; NaN is a gap."""
        if not self._power_w:
            return ()
        steps = range(min(self._power_w), max(self._power_w) + 1)
        return tuple(self._power_w.get(step, {}).get(component, math.nan) for step in steps)
