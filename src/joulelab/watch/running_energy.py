"""Energy since the beginning of a recording, of its finished spans, and its power over time.

Each is extended as the recording grows, and no stretch of readings is read more than a few times.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np

from joulelab.energy.baseline import Baseline
from joulelab.energy.energy import Energy, total
from joulelab.energy.estimator import EnergyEstimator, energy_of_union
from joulelab.energy.window_union import WindowUnion, merge_ranges
from joulelab.recording.span_columns import Windows
from joulelab.recording.trace import Trace
from joulelab.recording.trace_spans import TraceSpan, Window
from joulelab.watch.view import BIN_S, Ended

MOST_KNOWN = 10_000
"""Number of single spans whose energies are saved, for forecasts."""
MOST_WAITING = 2000
"""Spans of a name are only counted, not measured, once more than this many wait at a time."""

MOST_RANGES = 1000
"""Latest disjoint times of a name that are saved, for spans that overlap them."""

LONGEST_NS = 4 * 3600 * 10**9
"""Longest stretch of a recording that is read at a time."""
SETTLED_NS = 300 * 10**9
"""A stretch of this length is not read again: errors at its edges are small in comparison."""

MOST_BINS = 300
"""Steps of the power history that are saved: ten minutes, more than the widest terminal shows."""
LATE_BINS = 5
"""Number of latest steps that are recomputed, because sensors may deliver readings late."""
_BIN_NS = round(BIN_S * 1e9)

ReadTrace = Callable[[int, int], Trace]
"""Returns the readings and events between two times, with a margin."""


class FinishedSpans:
    """Finished spans by name; each is measured once. ``known`` has the latest single energies.

    Time in which several threads or processes are in spans of a name counts once, as in the record.
    """

    def __init__(self) -> None:
        self.known: OrderedDict[Window, Energy] = OrderedDict()
        self._waiting: list[TraceSpan] = []
        self._unmeasured_names: set[str] = set()
        self._totals: dict[str, Ended] = {}
        self._counted: dict[str, WindowUnion] = {}

    def add(self, spans: Iterable[TraceSpan]) -> None:
        """Add spans that are to be measured."""
        by_name: dict[str, list[TraceSpan]] = {}
        for span in (*self._waiting, *spans):
            by_name.setdefault(span.name, []).append(span)
        self._waiting = []
        for name, found in by_name.items():
            if name in self._unmeasured_names or len(found) > MOST_WAITING:
                self._unmeasured_names.add(name)
                self._count(found, None, None)
            else:
                self._waiting += found

    def waiting(self, since_ns: int, until_ns: int) -> list[TraceSpan]:
        """Return the spans between two times that are not measured yet."""
        return [
            span
            for span in self._waiting
            if since_ns <= span.start_ns
            and max(span.stop_ns or 0, span.device_stop_ns or 0) <= until_ns
        ]

    def measure(
        self, spans: Sequence[TraceSpan], energies: Sequence[Energy], estimator: EnergyEstimator
    ) -> None:
        """Count spans that were waiting, given the energy of each; the estimator adds them up."""
        done = {span.key for span in spans}
        self._waiting = [span for span in self._waiting if span.key not in done]
        by_name: dict[str, list[tuple[TraceSpan, Energy]]] = {}
        for span, energy in zip(spans, energies, strict=True):
            by_name.setdefault(span.name, []).append((span, energy))
            self.known[span.window] = energy
        for name, found in by_name.items():
            own, of_each = zip(*found, strict=True)
            windows, counted = Windows.of([span.window for span in own]), self._counted.get(name)
            if windows.are_apart and (counted is None or is_after(windows, counted)):
                of_all = total(of_each)
            else:
                of_all = energy_of_union(estimator, self._uncounted(name, windows))
            self._count(own, of_all, of_each[-1])
        while len(self.known) > MOST_KNOWN:
            self.known.popitem(last=False)

    def totals(self) -> tuple[Ended, ...]:
        """Return one total per name, the latest first."""
        return tuple(reversed(self._totals.values()))

    def _uncounted(self, name: str, windows: Windows) -> WindowUnion:
        """Return the times in windows that no span of the name was in that was counted before."""
        union, counted = WindowUnion.of(windows), self._counted.get(name)
        return union if counted is None else union.outside([counted])

    def _count(
        self, spans: Sequence[TraceSpan], energy: Energy | None, last: Energy | None
    ) -> None:
        """Add spans of one name to its total, which becomes the latest one."""
        name, windows = spans[0].name, Windows.of([span.window for span in spans])
        before = self._totals.pop(name, None) or Ended(name=name, count=0, duration_s=0.0)
        host = self._uncounted(name, windows).host
        if before.count and energy is not None:
            energy = before.energy + energy if isinstance(before.energy, Energy) else None
        self._totals[name] = replace(
            before,
            count=before.count + len(spans),
            duration_s=before.duration_s + int(np.sum(host[:, 1] - host[:, 0])) * 1e-9,
            energy=energy,
            last_duration_s=float(windows.duration_s[-1]),
            last=last,
        )
        counted = [self._counted[name]] if name in self._counted else []
        self._counted[name] = latest_union([*counted, WindowUnion.of(windows)])


class RunningEnergy:
    """Energy from the beginning to a time ``until_ns`` that advances.

    Stretches are added up while they have the same components. When a component appears or
    disappears, everything is computed again from the beginning, as it would be at the end.
    """

    def __init__(self, read: ReadTrace, start_ns: int, spans: FinishedSpans) -> None:
        self._read, self._spans = read, spans
        self._start_ns = self._settled_ns = self.until_ns = start_ns
        self._longest_ns = LONGEST_NS
        self._settled: Energy | None = None
        self.energy: Energy | None = None

    def advance(self, until_ns: int, baseline: Baseline | None) -> None:
        """Advance to a time that all sensors have reached, or towards it if it is far away."""
        # A sensor that returns may be behind for a moment.
        until_ns = max(min(until_ns, self.until_ns + self._longest_ns), self.until_ns)
        stretch, has_readings = self._measure(self._settled_ns, until_ns, baseline)
        self.until_ns = until_ns
        if self._settled is None:
            self.energy = stretch
        elif have_same_components(self._settled, stretch):
            self.energy = self._settled + stretch
        else:
            self.energy, _ = self._measure(self._start_ns, until_ns, baseline)
        is_long = until_ns - self._settled_ns >= SETTLED_NS
        is_settled = is_long and have_same_components(self.energy, stretch)
        if is_settled:
            self._settled, self._settled_ns = self.energy, until_ns
        # What does not settle is read again from the beginning, and without readings costs nothing.
        is_usual = is_settled and stretch.components and has_readings
        self._longest_ns = LONGEST_NS if is_usual else 2 * self._longest_ns

    def _measure(
        self, start_ns: int, until_ns: int, baseline: Baseline | None
    ) -> tuple[Energy, bool]:
        """Return the energy of a stretch, and whether anything was read in it."""
        spans = self._spans.waiting(self._start_ns, until_ns)
        first_ns = min([start_ns, *(span.start_ns for span in spans)])
        trace = self._read(first_ns, until_ns)
        estimator = EnergyEstimator(trace, baseline)
        energy, *of_spans = estimator.energies(
            [Window(start_ns, until_ns), *(span.window for span in spans)]
        )
        self._spans.measure(spans, of_spans, estimator)
        ends_ns = start_ns, until_ns
        counts = (np.searchsorted(one.t_ns, ends_ns, side="right") for one in trace.series)
        return energy, any(after > first for first, after in counts)


class PowerHistory:
    """Mean power of each component in steps of :data:`~joulelab.watch.view.BIN_S`."""

    def __init__(self, start_ns: int) -> None:
        self._first = -(-start_ns // _BIN_NS)
        self._power_w: dict[int, dict[str, float]] = {}

    def since_ns(self, until_ns: int) -> int:
        """Return the time from which readings are needed to extend the history."""
        latest = max(self._power_w, default=self._first)
        return max(latest - LATE_BINS, self._first, until_ns // _BIN_NS - MOST_BINS) * _BIN_NS

    def windows(self, until_ns: int) -> list[Window]:
        """Return the steps to compute, given readings up to a time."""
        steps = range(self.since_ns(until_ns), until_ns // _BIN_NS * _BIN_NS, _BIN_NS)
        return [Window(start_ns, start_ns + _BIN_NS) for start_ns in steps]

    def set_energies(self, windows: Sequence[Window], energies: Sequence[Energy]) -> None:
        """Set the energies of steps, and drop the oldest steps."""
        for window, energy in zip(windows, energies, strict=True):
            self._power_w[window.start_ns // _BIN_NS] = {
                name: part.mean_power_w for name, part in energy.all_parts.items()
            }
        last = max(self._power_w, default=0)
        self._power_w = {step: w for step, w in self._power_w.items() if step > last - MOST_BINS}

    def of(self, component: str) -> tuple[float, ...]:
        """Return the power of a component from the first saved step to the last; NaN is a gap."""
        if not self._power_w:
            return ()
        steps = range(min(self._power_w), max(self._power_w) + 1)
        return tuple(self._power_w.get(step, {}).get(component, math.nan) for step in steps)


def is_after(windows: Windows, counted: WindowUnion) -> bool:
    """Report whether all windows begin after a union has ended."""
    return bool(windows.start_ns.min() >= counted.host[-1, 1])


def latest_union(parts: Sequence[WindowUnion]) -> WindowUnion:
    """Unite the latest times of several unions, which later spans may overlap."""
    host, device = (
        merge_ranges(np.concatenate([getattr(one, side) for one in parts]))[-MOST_RANGES:]
        for side in ("host", "device")
    )
    return WindowUnion(host, device, max(one.device_uncertainty_ns for one in parts))


def have_same_components(first: Energy, second: Energy) -> bool:
    """Report whether the totals of both energies have the same components."""
    return set(first.components) == set(second.components)
