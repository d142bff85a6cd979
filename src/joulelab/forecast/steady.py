"""Recognise when the steps of a run have become steady, and when enough of them were seen.

After a change of settings the first steps differ: programs are compiled, caches and memory pools
fill, clocks settle. How many do is found from their durations.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from joulelab.arrays import Floats
from joulelab.forecast.series import MOST_PIECES, startup_pieces
from joulelab.recording.trace_spans import Window

LEAST_STEPS = 8
"""With fewer steps the later half says little about how steps scatter."""

LONGEST_WINDOW = 12.0
"""A window whose steps do not become steady ends after this many times its least time."""


def sections(steps: int) -> list[int]:
    """Return where sections of steps begin: as many as steps, at most :data:`MOST_PIECES`.

    Example:
        >>> sections(3), len(sections(1000))
        ([0, 1, 2], 40)
    """
    count = min(steps, MOST_PIECES)
    return [int(first) for first in np.linspace(0, steps, count, endpoint=False)]


def startup_steps(
    durations_s: Sequence[float] | Floats, work: Sequence[float] | Floats | None = None
) -> int:
    """Count the first steps that differ from the later half, of at least :data:`LEAST_STEPS`.

    Compared is the time for a unit of work. Many steps are merged into sections, so that the
    scatter of single steps hides nothing.

    Example:
        >>> startup_steps([3.0, 1.5, 1.02, *[1.0, 1.01] * 10])
        2
    """
    durations = np.asarray(durations_s, dtype=float)
    if durations.size < LEAST_STEPS:
        return durations.size
    first = np.array(sections(durations.size))
    units = np.ones(durations.size) if work is None else np.asarray(work, dtype=float)
    rates = np.add.reduceat(durations, first) / np.add.reduceat(units, first)
    return int(first[startup_pieces(rates)])


class SteadyWindow:
    """Follows the steps at some settings until enough of them are steady.

    A wait before a step belongs to it, unless it is the first within its epoch: validation and
    checkpoints between epochs are left out.

    Args:
        window_s: Least time of steady steps.
        most_s: End after this time, with the later half if the steps have not become steady.

    Attributes:
        startup: Number of first steps that are left out; known when the window is complete.

    Example:
        >>> window, now_ns = SteadyWindow(window_s=4.0, most_s=60.0), 0
        >>> for duration_s in [5, 2, *[1] * 50]:
        ...     start_ns, now_ns = now_ns, now_ns + duration_s * 10**9
        ...     if window.add(start_ns, now_ns, work=32):
        ...         break
        >>> window.startup, window.durations_s, window.windows
        (2, [1.0, 1.0, 1.0, 1.0, 1.0, 1.0], [Window(start_ns=7000000000, stop_ns=13000000000, \
device_start_ns=None, device_stop_ns=None, device_uncertainty_ns=0)])
    """

    def __init__(self, window_s: float, most_s: float) -> None:
        self._window_s, self._most_s = window_s, most_s
        self._steps: list[_Step] = []
        self.startup = 0
        self._seen_s = self._next_s = 0.0

    def add(self, start_ns: int, stop_ns: int, *, within: object = None, work: float = 1.0) -> bool:
        """Take the next step, and return whether the window is complete.

        Args:
            start_ns: Start of the step, in nanoseconds of CLOCK_MONOTONIC.
            stop_ns: Its end.
            within: Identifies the epoch that it belongs to.
            work: Units of work in it, for example samples.
        """
        last = self._steps[-1] if self._steps else None
        if last is not None and last.within == within:
            start_ns = last.stop_ns
        self._steps.append(_Step(start_ns, stop_ns, within, work))
        self._seen_s += (stop_ns - start_ns) * 1e-9
        count, is_last = len(self._steps), self._seen_s >= self._most_s
        if not is_last and (self._seen_s < self._next_s or count < LEAST_STEPS):
            return False
        # Checking takes longer than a short step.
        self._next_s = self._seen_s + self._window_s / 20
        durations_s = [one.duration_s for one in self._steps]
        self.startup = startup_steps(durations_s, [one.work for one in self._steps])
        if is_last:
            self.startup = min(self.startup, count // 2)
            return True
        return 2 * self.startup <= count and sum(self.durations_s) >= self._window_s

    @property
    def durations_s(self) -> list[float]:
        """Duration of each steady step."""
        return [one.duration_s for one in self._steps[self.startup :]]

    @property
    def work(self) -> list[float]:
        """Units of work in each steady step."""
        return [one.work for one in self._steps[self.startup :]]

    @property
    def windows(self) -> list[Window]:
        """The steady steps as periods without a pause, whose energies add up to theirs."""
        merged: list[_Step] = []
        for one in self._steps[self.startup :]:
            if merged and merged[-1].stop_ns == one.start_ns:
                merged[-1] = merged[-1]._replace(stop_ns=one.stop_ns)
            else:
                merged.append(one)
        return [Window(one.start_ns, one.stop_ns) for one in merged]


class _Step(NamedTuple):
    start_ns: int
    stop_ns: int
    within: object
    work: float

    @property
    def duration_s(self) -> float:
        return (self.stop_ns - self.start_ns) * 1e-9
