"""Recognise when the steps of a run have become steady, and when enough of them were seen.

After a change of settings the first steps differ: programs are compiled, caches and memory pools
fill, clocks settle. How many do is found from their durations.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from joulelab.forecast.series import MOST_PIECES, Floats, startup_pieces

LEAST_STEPS = 8
"""With fewer steps the later half says little about how steps scatter."""


def sections(steps: int) -> list[int]:
    """Return where sections of steps begin: as many as steps, at most :data:`MOST_PIECES`.

    Example:
        >>> sections(3), len(sections(1000))
        ([0, 1, 2], 40)
    """
    count = min(steps, MOST_PIECES)
    return [int(first) for first in np.linspace(0, steps, count, endpoint=False)]


def startup_steps(durations_s: Sequence[float] | Floats) -> int:
    """Count the first steps that differ from the later half, of at least :data:`LEAST_STEPS`.

    Many steps are merged into sections, so that the scatter of single steps hides nothing.

    Example:
        >>> startup_steps([3.0, 1.5, 1.02, *[1.0, 1.01] * 10])
        2
    """
    durations = np.asarray(durations_s, dtype=float)
    if durations.size < LEAST_STEPS:
        return durations.size
    first = np.array(sections(durations.size))
    means = np.add.reduceat(durations, first) / np.diff([*first, durations.size])
    return int(first[startup_pieces(means)])


class SteadyWindow:
    """Follows the steps at some settings until enough of them are steady.

    Args:
        window_s: Least time of steady steps.
        most_s: Stop after this time even if the steps never became steady.

    Attributes:
        durations_s: Of every step so far; waiting before a step counts as part of it.
        startup: Number of first steps that are left out; known when the window is complete.

    Example:
        >>> window = SteadyWindow(window_s=4.0, most_s=60.0)
        >>> steps = iter([5.0, 2.0, *[1.0] * 50])
        >>> while not window.add(next(steps)):
        ...     pass
        >>> window.startup, len(window.durations_s)
        (2, 8)
    """

    def __init__(self, window_s: float, most_s: float) -> None:
        self._window_s, self._most_s = window_s, most_s
        self.durations_s: list[float] = []
        self.startup = 0
        self._seen_s = self._next_s = 0.0

    def add(self, duration_s: float) -> bool:
        """Take a step; return whether the window is complete."""
        self.durations_s.append(duration_s)
        self._seen_s += duration_s
        count, is_last = len(self.durations_s), self._seen_s >= self._most_s
        if not is_last and (self._seen_s < self._next_s or count < LEAST_STEPS):
            return False
        # Checking takes longer than a short step.
        self._next_s = self._seen_s + self._window_s / 20
        self.startup = startup_steps(self.durations_s)
        if is_last:
            self.startup = min(self.startup, count // 2)
            return True
        if 2 * self.startup > count:
            return False
        return sum(self.durations_s[self.startup :]) >= self._window_s
