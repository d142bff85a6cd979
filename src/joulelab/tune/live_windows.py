"""Read the latest steps or epochs of a running loop from its recording, with their energy."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from joulelab.energy.energy import Energy
from joulelab.energy.estimator import EnergyEstimator
from joulelab.forecast.loop import Recording
from joulelab.forecast.sources import EPOCH, STEP
from joulelab.forecast.steady import LONGEST_WINDOW, SteadyWindow
from joulelab.recording.span_blocks import NONE
from joulelab.recording.span_columns import SpanColumns, SpanTable
from joulelab.recording.trace import Trace, TraceReader
from joulelab.recording.trace_spans import Window
from joulelab.tune.probes import Settings
from joulelab.tune.tuning import Measured
from joulelab.tune.windows import probe_of

MARGIN_NS = 5 * 10**9
"""Readings from this long before and after a window are read with it."""
MOST_WINDOWS = 3
"""A busy machine may keep the recorder from reading for most of a window: at most this many are
measured for one probe."""


class Unit(NamedTuple):
    """A step or an epoch, in CLOCK_MONOTONIC nanoseconds, of the GPU if it had work there.

    It lasts until the next one begins, so that waiting for data counts, or until it ends if
    something else follows, for example a validation. Units of one ``chain`` follow each other.
    """

    start_ns: int
    stop_ns: int
    chain: int


class LiveWindows:
    """Reads what has happened since :meth:`begin`, from the end of the files of a recording.

    It takes as long after a day as after a minute, and shares nothing with the meter's own reading,
    so it can be used on another thread.

    Args:
        meter: The meter of the loop.
        epochs_only: Whether epochs are the units of work even if there are steps.
        pid: Process of the loop. ``None`` for the first one that reports work.

    Attributes:
        unit: The units of work since the beginning: ``"step"`` or ``"epoch"``.
    """

    def __init__(
        self, meter: Recording, *, epochs_only: bool = False, pid: int | None = None
    ) -> None:
        self._meter, self._names = meter, (EPOCH,) if epochs_only else (STEP, EPOCH)
        self._pid = pid
        self.unit = EPOCH
        self._reader = TraceReader(meter.directory)
        self._events: list[Mapping[str, Any]] = []
        self._since_ns = self._read_ns = 0

    def begin(self, since_ns: int) -> None:
        """Count units of work that begin after this time (CLOCK_MONOTONIC)."""
        if since_ns > self._read_ns:
            self._read()
            self._reader.spans = SpanTable()
        self._since_ns = since_ns

    def units(self) -> list[Unit]:
        """Return the finished units of work since the beginning: steps, or epochs without steps."""
        spans = self._read()
        spans = spans.where(spans.spans["start_ns"] >= self._since_ns)
        if self._pid is None:
            found = (spans.named(name).spans["pid"] for name in self._names)
            self._pid = next((int(pids[0]) for pids in found if len(pids)), None)
        if self._pid is None:
            return []
        spans = spans.where(spans.spans["pid"] == self._pid)
        self.unit = next((name for name in self._names if len(spans.named(name))), EPOCH)
        return _units(spans, self.unit)

    def measure(
        self, settings: Settings, since_ns: int, window_s: float, wait: Callable[[], None]
    ) -> tuple[Measured, int]:
        """Measure units of work that begin after a time, until enough of them are steady.

        Args:
            settings: What they run at.
            since_ns: Leave out what began before this time, CLOCK_MONOTONIC.
            window_s: Least time of steady work.
            wait: Waits for more work, or raises.

        Returns:
            The probe, and when its last unit ended.
        """
        self.begin(since_ns)
        window, added, left = SteadyWindow(window_s, LONGEST_WINDOW * window_s), 0, MOST_WINDOWS
        while True:
            for unit in self.units()[added:]:
                added += 1
                if window.add(unit.start_ns, unit.stop_ns, within=unit.chain):
                    energy, left = self.energy(window.windows), left - 1
                    if energy.gross_j > 0 or not left:
                        probe = probe_of(settings, energy, window.durations_s, window.work)
                        return Measured(probe, energy), unit.stop_ns
                    window = SteadyWindow(window_s, LONGEST_WINDOW * window_s)
            wait()

    def energy(self, windows: Sequence[Window]) -> Energy:
        """Return the energy of windows, once the sensors have covered them."""
        start_ns, stop_ns = windows[0].start_ns, windows[-1].stop_ns
        self._meter.cover(stop_ns)
        trace = self.trace(start_ns - MARGIN_NS, stop_ns + MARGIN_NS)
        return EnergyEstimator(trace).total(windows)

    def trace(self, start_ns: int = 0, stop_ns: int = 0) -> Trace:
        """Return what was recorded, with the readings between two times."""
        spans = self._read()
        return self._reader.read_between(start_ns, stop_ns, self._events, spans)

    def _read(self) -> SpanColumns:
        """Read what is new, and return the spans since the beginning."""
        self._read_ns = time.monotonic_ns()
        self._events += self._reader.new_events()
        return SpanColumns.of(self._reader.spans.spans())


def _units(spans: SpanColumns, name: str) -> list[Unit]:
    """Return the units that spans of a name begin, except the last, whose end is not known yet."""
    named, rows = spans.named(name), spans.spans
    own, times_ns = named.spans, named.windows.on_device_ns()
    if named.device is not None:
        # Times on the GPU arrive after the spans.
        known = np.flatnonzero(named.device[:, 0] != NONE)
        n = int(known[-1]) + 1 if known.size else 0
        own, times_ns = own[:n], times_ns[:n]
    is_sibling = np.isin(rows["parent"], own["parent"]) & (rows["name"] != own["name"][:1])
    siblings_ns = rows["start_ns"][is_sibling]
    between = np.diff(np.searchsorted(siblings_ns, own["start_ns"]))
    follows = (np.diff(own["parent"]) == 0) & (between == 0)
    stops_ns = np.where(follows, times_ns[1:, 0], times_ns[:-1, 1])
    chains = np.cumsum(~follows) - ~follows
    # A span may still be open when later ones have ended.
    return [
        Unit(*values)
        for values in zip(
            times_ns[:-1, 0].tolist(), stops_ns.tolist(), chains.tolist(), strict=True
        )
        if values[1] != NONE
    ]
