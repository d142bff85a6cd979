"""The machine's own recording for an exporter that runs for months: short traces that overlap."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from joulelab.errors import JoulelabError, TraceError
from joulelab.export.counters import EnergyCounters
from joulelab.recording.client import RecorderOptions
from joulelab.recording.recorder_choice import open_recorder
from joulelab.sensors.sensor import Absence
from joulelab.watch.follower import TraceFollower

ROLL_NS = 3600 * 10**9
"""Each recorder is replaced after this time, and its trace deleted."""
RESTART_NS = 60 * 10**9
"""A recorder that ended early is replaced after this time."""


class MachineRecording:
    """Counts the energy of this machine with a recorder of its own.

    Before a recorder ends, the next one has begun. The counters change from one trace to the next
    at a time that both cover, so that nothing is lost or counted twice.

    Raises:
        UserError: A requested sensor does not exist.
        RecorderError: The recorder did not start.
    """

    def __init__(self, sensors: Sequence[str] | None = None) -> None:
        self._options = RecorderOptions(sensors, None)
        self._lost_ns = 0
        self._current = _Recorder(self._options)
        self._next: _Recorder | None = None
        self._retired: list[_Recorder] = []
        self.counters = EnergyCounters(self._current.trace, self._current.start_ns)

    @property
    def absent(self) -> tuple[Absence, ...]:
        """The sources that were missing when the recorder started, and why."""
        return self._current.trace.absent

    @property
    def directories(self) -> set[Path]:
        """The directories that its recorders write to."""
        return {one.client.directory for one in self._recorders()}

    def update(self) -> None:
        """Count up to now. A recorder that does not answer does not raise."""
        now_ns = time.monotonic_ns()
        if self._lost_ns:
            return
        try:
            self._sync(now_ns)
            overlap_ns = self.counters.margin_ns
            if self._next is not None and now_ns > self._next.start_ns + 3 * overlap_ns:
                edge_ns = self._next.start_ns + overlap_ns
                self.counters.update(now_ns, settle_ns=edge_ns)
                self._change_to(self._next, edge_ns)
                self._sync(now_ns)
            self.counters.update(now_ns)
        except (OSError, TraceError, ArithmeticError, ValueError) as error:
            self._lose(f"its trace cannot be read: {error}")
        if not self._current.client.alive:
            self._lose(self._current.client.failure)

    def maintain(self) -> None:
        """Start and end recorders when it is time, which may take seconds."""
        while self._retired:
            self._retired.pop().close()
        now_ns = time.monotonic_ns()
        if self._lost_ns:
            is_due = now_ns - self._lost_ns > RESTART_NS
        else:
            is_due = now_ns - self._current.start_ns > ROLL_NS and self._next is None
        if not is_due:
            return
        try:
            started = _Recorder(self._options)
        except JoulelabError as error:
            report(f"cannot start another recorder: {error}")
            return
        if self._lost_ns:
            self._change_to(started, started.start_ns)
            self._lost_ns = 0
        else:
            self._next = started

    def close(self) -> None:
        """End the recorders."""
        for one in self._recorders():
            one.close()

    def _recorders(self) -> list[_Recorder]:
        return [*self._retired, *filter(None, (self._current, self._next))]

    def _sync(self, now_ns: int) -> None:
        """Have each sensor read once. None is waited for: a scrape should not take seconds."""
        self._current.client.sync(now_ns - self.counters.slowest_ns)

    def _change_to(self, following: _Recorder, edge_ns: int) -> None:
        self.counters = EnergyCounters(following.trace, edge_ns, after=self.counters)
        self._retired += [one for one in self._recorders() if one is not following]
        self._current, self._next = following, None

    def _lose(self, reason: str) -> None:
        if not self._lost_ns:
            report(f"the recorder ended: {reason}; the next one starts in a minute")
            self._lost_ns = time.monotonic_ns()
            self.counters.lose()


class _Recorder:
    """A recorder and its trace, in a temporary directory."""

    def __init__(self, options: RecorderOptions) -> None:
        self.client = open_recorder(None, options, own=True)
        self.trace = TraceFollower(self.client.directory)
        self.start_ns = int(self.trace.header["start_ns"])

    def close(self) -> None:
        """End the recorder and delete its trace, also if it was killed."""
        self.client.stop(time.monotonic_ns())
        shutil.rmtree(self.client.directory, ignore_errors=True)


def report(message: str) -> None:
    """Print what an operator should know on standard error."""
    print(f"joulelab: {message}", file=sys.stderr, flush=True)  # noqa: T201
