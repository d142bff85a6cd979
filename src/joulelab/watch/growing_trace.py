"""Follow a trace while it grows.

Power and other current values are computed from the latest readings only. The energy since the
beginning is updated less often, and what was read since is added to it. Both are limited to a fixed
share of one core.
"""

from __future__ import annotations

import contextlib
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from joulelab.energy.attribution import foreign_gpus
from joulelab.energy.baseline import Baseline
from joulelab.energy.energy import Energy
from joulelab.energy.estimator import EnergyEstimator
from joulelab.energy.nesting import Nesting
from joulelab.errors import UserError
from joulelab.forecast.loop import TOTAL, Pace
from joulelab.forecast.profile import Forecast
from joulelab.forecast.series import load_scipy
from joulelab.forecast.sources import EPOCH, profile_of
from joulelab.format import count
from joulelab.recording.trace import Readings, Trace
from joulelab.recording.trace_spans import SpanFold, TraceSpan, Window
from joulelab.sensors.sensor import Quantity
from joulelab.watch.follower import ALWAYS_NS, MARGIN_NS, NOW_S, TraceFollower
from joulelab.watch.running_energy import (
    FinishedSpans,
    PowerHistory,
    RunningEnergy,
    have_same_components,
)
from joulelab.watch.view import Component, Gauge, OpenSpan, Stack, View

RECENT_SHARE, LEAST_RECENT_S = 0.006, 0.9
"""Largest share of one core for current values, and minimum time between two updates."""
RUNNING_SHARE, LEAST_RUNNING_S = 0.003, 2.0
"""The same for the energy since the beginning."""
MOST_SPANS = 2000
"""Number of finished spans of each name that are saved."""
_BLOCK = 4096
_KINDS = ("gpu", "cpu", "dram")
_GAUGES = (
    Quantity.UTILIZATION,
    Quantity.MEMORY_UTILIZATION,
    Quantity.MEMORY_USED,
    Quantity.TEMPERATURE,
    Quantity.SM_CLOCK,
    Quantity.MEMORY_CLOCK,
)


class Snapshot(NamedTuple):
    """Values up to ``until_ns`` (0 before any) with the energy when last computed as a whole."""

    view: View
    until_ns: int
    newest_ns: int
    read_share: float = 1.0
    settled: Energy | None = None


class GrowingTrace:
    """A trace that grows, from ``start_ns`` (default: its beginning) on the trace's clock."""

    def __init__(
        self,
        directory: Path,
        *,
        baseline: Baseline | None = None,
        start_ns: int | None = None,
        epochs: int | None = None,
    ) -> None:
        self._reader = TraceFollower(directory)
        self.header = self._reader.header
        self.start_ns = int(self.header.get("start_ns", 0) if start_ns is None else start_ns)
        self.baseline, self._epochs = baseline, epochs
        self._new_spans: list[TraceSpan] = []
        self._last_epoch: TraceSpan | None = None
        self._fold = self._reader.spans = SpanFold(
            since_ns=self.start_ns, most_per_name=MOST_SPANS, on_finish=self._new_spans.append
        )
        channels = self._reader.channels
        self._measures_energy = any(channel.gives_energy for channel in channels)
        # A slower meter around the total must not delay the view.
        self._added = Nesting.of(one for one in channels if one.gives_energy).added
        found = self._reader.energy_timings()
        timings = [timing for name, timing in found.items() if name in self._added]
        self._lost_ns = max((one.patience_ns for one in timings), default=MARGIN_NS)
        self._now_ns = max((one.current_ns for one in timings), default=0)
        self._history = PowerHistory(self.start_ns)
        self._finished = FinishedSpans()
        self._running = RunningEnergy(self._read, self.start_ns, self._finished)
        self._forecast: tuple[Forecast | None, str] = None, ""
        self._snapshot: Snapshot | None = None
        self._recent_pace = Pace(RECENT_SHARE, least_s=LEAST_RECENT_S, clock=time.thread_time)
        self._running_pace = Pace(RUNNING_SHARE, least_s=LEAST_RUNNING_S, clock=time.thread_time)

    def poll(self, *, final: bool = False) -> Snapshot:
        """Return the current values; a final poll computes everything once more.

        Of a long recording, each of the first polls reads a part.
        """
        self._read_events()
        if self._snapshot is None:
            # The first time takes longest and says nothing about the cost of the others.
            beginning = self._update_running(final=final)
            if beginning is not None:
                return beginning
            self._snapshot = self._update_recent()
        if final or self._running_pace.due:
            with self._running_pace:
                self._update_running(final=final)
        if final or self._recent_pace.due:
            with self._recent_pace:
                self._snapshot = self._update_recent()
        return self._snapshot._replace(newest_ns=self._reader.latest_ns())

    @property
    def stop(self) -> Mapping[str, Any] | None:
        """The event with which the recording ended; ``None`` before."""
        return self._reader.stop

    @property
    def start_unix_s(self) -> float:
        """Wall-clock time of the start."""
        after_ns = self.start_ns - int(self.header.get("start_ns", 0))
        return float(self.header.get("start_unix_s", math.nan)) + after_ns * 1e-9

    def stacks(self, now_ns: int, is_alive: Callable[[int], bool]) -> tuple[Stack, ...]:
        """Return the open spans of each thread whose process is alive."""
        by_thread: dict[tuple[int, int], list[TraceSpan]] = {}
        for span in sorted(self._fold.open.values(), key=lambda one: one.start_ns):
            by_thread.setdefault((span.key[0], span.thread), []).append(span)
        return tuple(
            Stack(pid=pid, spans=tuple(_open_span(span, now_ns) for span in spans))
            for (pid, _), spans in sorted(by_thread.items())
            if is_alive(pid)
        )

    def _read_events(self) -> None:
        self._reader.read_events()
        for span in self._new_spans:
            self._last_epoch = span if span.name == EPOCH else self._last_epoch
        finished = [self._fold.get(span) for span in self._new_spans]
        self._new_spans.clear()
        self._finished.add(sorted(finished, key=lambda span: span.start_ns))
        if self._epoch_spans():
            # Loading takes a second, which must not count as cost of an update.
            with contextlib.suppress(UserError):
                load_scipy()

    def _epoch_spans(self) -> list[TraceSpan]:
        """Return the open epochs and the last finished one."""
        epochs = [span for span in self._fold.open.values() if span.name == EPOCH]
        return epochs if self._last_epoch is None else [*epochs, self._last_epoch]

    def _read(self, start_ns: int, stop_ns: int) -> Trace:
        since_ns = start_ns - MARGIN_NS
        spans = [one for one in self._fold.spans() if (one.stop_ns or ALWAYS_NS) >= since_ns]
        return self._reader.stretch(start_ns, stop_ns, spans)

    def _update_running(self, *, final: bool) -> Snapshot | None:
        """Update the energy since the beginning; return the progress if it is not there yet."""
        newest_ns = self._reader.latest_ns()
        tail = self._read(newest_ns - 2 * self._lost_ns, ALWAYS_NS)
        until_ns = self._covered_ns(tail, was_measured=self._snapshot is not None)
        if not until_ns and self._snapshot is None and self._measures_energy:
            # All sensors of energy may be lost by now.
            until_ns = self._covered_ns(self._read(self.start_ns, ALWAYS_NS))
        seen_s = (until_ns - self.start_ns) * 1e-9
        view = View(
            title="", state="waiting", gauges=self._gauges(tail),
            absent={one.component: str(one) for one in self._reader.absent},
        )  # fmt: skip
        if seen_s <= 0 or (seen_s < NOW_S and not final):
            return Snapshot(view, 0, newest_ns)
        self._running.advance(until_ns, self.baseline)
        while final and self._running.until_ns < until_ns:
            self._running.advance(until_ns, self.baseline)
        if self._running.until_ns >= until_ns:
            self._forecast = self._make_forecast()
            return None
        read_s = (self._running.until_ns - self.start_ns) * 1e-9
        return Snapshot(view, 0, newest_ns, read_s / seen_s)

    def _update_recent(self) -> Snapshot:
        """Compute the current values and add the latest energy to that since the beginning."""
        settled, settled_ns = self._running.energy, self._running.until_ns
        assert settled is not None
        since_ns = min(self._history.since_ns(settled_ns), settled_ns)
        trace = self._read(since_ns, ALWAYS_NS)
        until_ns = max(self._covered_ns(trace, was_measured=True), settled_ns)
        now_ns = until_ns - self._now_ns
        steps = self._history.windows(until_ns)
        spans = self._finished.waiting(since_ns, until_ns)
        edges = Window(max(now_ns, self.start_ns), until_ns), Window(settled_ns, until_ns)
        estimator = EnergyEstimator(trace, self.baseline)
        now, since, *others = estimator.energies([*edges, *steps, *(span.window for span in spans)])
        self._history.set_energies(steps, others[: len(steps)])
        self._finished.measure(spans, others[len(steps) :], estimator)
        energy = settled
        if have_same_components(settled, since) and since.duration_s:
            energy = settled + since
        components = self._components(trace, now, energy)
        added_w = [one.power_w for one in components if one.is_added]
        view = View(
            title="",
            state="live",
            components=components,
            power_w=math.fsum(added_w) if added_w else math.nan,
            energy=energy,
            job_words=energy.job_text,
            gauges=self._gauges(trace),
            ended=self._finished.totals(),
            forecast=self._forecast[0],
            forecast_words=self._forecast[1],
            absent=energy.absent,
            notes=energy.notes,
        )
        return Snapshot(view, until_ns, self._reader.latest_ns(), settled=settled)

    def _covered_ns(self, trace: Trace, *, was_measured: bool = False) -> int:
        """Return the time up to which all energies that are still measured are known; 0 for never.

        If none is measured any more, the other sensors show how late their readings are.
        """
        energies: dict[str, int] = {}
        newest_ns = 0
        for channel, readings in zip(trace.channels, trace.series, strict=True):
            last_ns = _last(readings)[0]
            newest_ns = max(newest_ns, last_ns)
            if channel.gives_energy and channel.component in self._added:
                energies[channel.component] = max(energies.get(channel.component, 0), last_ns)
        if not was_measured and not any(energies.values()):
            return 0
        lost_ns = newest_ns - self._lost_ns
        return min((t_ns for t_ns in energies.values() if t_ns >= lost_ns), default=lost_ns)

    def _gauges(self, trace: Trace) -> tuple[Gauge, ...]:
        """Return the latest reading of each other quantity of each component."""
        latest_ns = max((int(one.t_ns[-1]) for one in trace.series if one.t_ns.size), default=0)
        found: dict[tuple[str, Quantity], float] = {}
        series = zip(trace.channels, trace.series, self._reader.timings, strict=True)
        for channel, readings, timing in series:
            key = channel.component, channel.quantity
            if channel.quantity in _GAUGES and not math.isfinite(found.get(key, math.nan)):
                t_ns, value = _last(readings)
                found[key] = value if latest_ns - t_ns <= timing.patience_ns else math.nan
        order = sorted(found, key=lambda key: (*by_kind(key[0]), _GAUGES.index(key[1])))
        return tuple(Gauge(component=key[0], quantity=key[1], value=found[key]) for key in order)

    def _components(self, trace: Trace, now: Energy, energy: Energy) -> tuple[Component, ...]:
        channels = [channel for channel in trace.channels if channel.gives_energy]
        rows = []
        names = {channel.component for channel in channels} - foreign_gpus(trace).keys()
        for name in sorted(names, key=by_kind):
            part, so_far = now.all_parts.get(name), energy.all_parts.get(name)
            own = [channel for channel in channels if channel.component == name]
            measured = part or so_far or min(own, key=lambda channel: channel.priority)
            rows.append(
                Component(
                    name=name,
                    power_w=part.mean_power_w if part else math.nan,
                    history_w=self._history.of(name),
                    gross_j=so_far.gross_j if so_far else math.nan,
                    source=measured.source,
                    provenance=measured.provenance,
                    is_added=name in energy.components
                    or (name not in energy.all_parts and name in self._added),
                )
            )
        return tuple(rows)

    def _make_forecast(self) -> tuple[Forecast | None, str]:
        """Forecast the run from its finished spans, if it has epochs."""
        epochs = self._epoch_spans()
        if not epochs:
            return None, ""
        totals = (_whole(span.attributes.get(TOTAL)) for span in epochs)
        total = self._epochs or next(filter(None, totals), None)
        if total is None:
            return None, "no forecast: the number of epochs is unknown; give --epochs N"
        counts = self._fold.finished
        spans = [span for span in self._fold.spans() if counts[span.name] <= MOST_SPANS]
        try:
            profile = profile_of(spans, self._energies)
            if 0 < total < profile.epochs_seen:
                done = f"{profile.epochs_seen:g} of {count(total, 'epoch')}"
                return None, f"no forecast: {done} have finished; give --epochs N"
            forecast = profile.forecast(total)
        except UserError as error:
            return None, f"no forecast: {error}"
        return forecast, str(forecast)

    def _energies(self, windows: Sequence[Window]) -> list[Energy]:
        """Return the energies of windows, most of which are already known."""
        found = {window: self._finished.known.get(window) for window in windows}
        missing = [window for window, energy in found.items() if energy is None]
        if missing:
            first_ns = min(window.start_ns for window in missing)
            last_ns = max(max(one.stop_ns, one.device_stop_ns or 0) for one in missing)
            estimator = EnergyEstimator(self._read(first_ns, last_ns))
            found |= zip(missing, estimator.energies(missing), strict=True)
        return [energy for window in windows if (energy := found[window]) is not None]


def by_kind(component: str) -> tuple[int, str, int]:
    """Return the sort key of a component: GPUs by number, then CPUs, DRAM and others."""
    kind, _, number = component.partition(":")
    position = _KINDS.index(kind) if kind in _KINDS else len(_KINDS)
    return position, component.rstrip("0123456789"), int(re.sub(r"\D", "", number) or 0)


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) else None


def _open_span(span: TraceSpan, now_ns: int) -> OpenSpan:
    return OpenSpan(
        name=span.name,
        index=_whole(span.attributes.get("index")),
        total=_whole(span.attributes.get(TOTAL)),
        elapsed_s=max(0.0, (now_ns - span.start_ns) * 1e-9),
    )


def _last(readings: Readings) -> tuple[int, float]:
    """Return the time and value of the latest reading; 0 and NaN without one."""
    t_ns, value = readings
    for stop in range(t_ns.size, 0, -_BLOCK):
        begin = max(stop - _BLOCK, 0)
        valid = np.flatnonzero(np.isfinite(value[begin:stop]))
        if valid.size:
            return int(t_ns[begin + valid[-1]]), float(value[begin + valid[-1]])
    return 0, math.nan
