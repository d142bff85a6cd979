"""The energy since the beginning, kept up to date by adding up stretches."""

from __future__ import annotations

from collections.abc import Callable

from joulelab.energy.baseline import Baseline
from joulelab.energy.energy import Energy
from joulelab.energy.estimator import EnergyEstimator
from joulelab.recording.trace import Trace
from joulelab.recording.trace_spans import Window
from joulelab.watch.totals import Totals

LONGEST_NS = 4 * 3600 * 10**9
"""So much of a recording is read at a time."""
SETTLED_NS = 300 * 10**9
"""A stretch as long as that is not read again: an error at its edges is small in it."""

Read = Callable[[int, int], Trace]


class RunningEnergy:
    """The energy from a beginning to a time that moves on.

    A stretch is added to those before where the same components were seen in both. Otherwise
    everything is worked out from the beginning, as it would be at the end.

    Args:
        read: Gives the readings and events between two times, with some before and after.
        start_ns: The beginning, CLOCK_MONOTONIC.
        totals: Gets the energies of spans that wait.

    Attributes:
        energy: Up to ``until_ns``; ``None`` before there is any.
        until_ns: That time.
    """

    def __init__(self, read: Read, start_ns: int, totals: Totals) -> None:
        self._read, self._totals = read, totals
        self._start_ns = self._settled_ns = self.until_ns = start_ns
        self._settled: Energy | None = None
        self.energy: Energy | None = None

    def advance(self, until_ns: int, baseline: Baseline | None) -> None:
        """Moves on to a time, or towards it where that is far.

        Args:
            until_ns: What the sensors have covered.
            baseline: Idle power.
        """
        # A sensor that comes back may be behind for a moment.
        until_ns = max(min(until_ns, self._settled_ns + LONGEST_NS), self.until_ns)
        stretch = self._account(self._settled_ns, until_ns, baseline)
        self.until_ns = until_ns
        if self._settled is None:
            self.energy = stretch
        elif _same_components(self._settled, stretch):
            self.energy = self._settled + stretch
        else:
            self.energy = self._account(self._start_ns, until_ns, baseline)
        if until_ns - self._settled_ns >= SETTLED_NS and _same_components(self.energy, stretch):
            self._settled, self._settled_ns = self.energy, until_ns

    def _account(self, start_ns: int, until_ns: int, baseline: Baseline | None) -> Energy:
        spans = self._totals.waiting(self._start_ns, until_ns)
        first_ns = min([start_ns, *(span.start_ns for span in spans)])
        accounts = EnergyEstimator(self._read(first_ns, until_ns), baseline)
        energy, *of_spans = accounts.energies(
            [Window(start_ns, until_ns), *(span.window for span in spans)]
        )
        self._totals.fill(spans, of_spans)
        return energy


def _same_components(one: Energy, other: Energy) -> bool:
    return set(one.components) == set(other.components)
