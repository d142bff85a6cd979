"""What is exported: this machine and the runs on it, measured at most once a second."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import psutil

from joulelab.carbon.costs import Costs
from joulelab.carbon.site import local_costs
from joulelab.errors import TraceError
from joulelab.export.counters import EnergyCounters, Key, Part
from joulelab.export.live_recordings import LiveRecording, LiveRecordings
from joulelab.export.machine_recording import MachineRecording, report
from joulelab.export.span_counters import SpanPart
from joulelab.forecast.loop import Pace
from joulelab.sensors.sensor import Absence
from joulelab.watch.follower import TraceFollower

LARGEST_SHARE, LEAST_S = 0.004, 0.9
"""Largest share of one core for computing the energies of the machine, and again of all runs; and
the minimum time between two updates."""
FIRST_S = 1.0
"""How long to wait for the first readings."""
UPDATE_S = 30.0
"""Without scrapes, energies are updated this often, so that little is read at a time."""
TICK_S = 5.0
"""Time between two searches for runs."""
MOST_RUNS = 32
"""Number of runs that are followed; further ones are only counted."""
MOST_SPAN_NAMES = 20
"""Number of names of spans of each run; further ones are counted as one."""
NEW_S = 60.0
"""The counters of a run that is younger begin at 0."""
ENDED_S = 60.0
"""How long the last values of a run that ended are shown: a few scrapes."""


@dataclass(frozen=True, slots=True)
class Exported:
    """Exported values of the machine or of a run; unknown ones are NaN or missing."""

    parts: Sequence[Part]  # Energy and power by component.
    spans: Sequence[SpanPart] = ()  # Energy and time by name of spans.
    emissions_g: float = math.nan
    cost: float = math.nan  # In the currency of the site.
    is_measured: Mapping[str, bool] = field(default_factory=dict)  # By component, now.
    # Number of failed readings by component and source.
    errors: Mapping[tuple[str, str], int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that is exported at one time."""

    machine: Exported
    runs: Mapping[str, Exported]
    running: int  # Number of runs, also those that are not followed.
    costs: Costs  # Of no energy: the intensity and price of now.
    absent: Sequence[Absence]
    duration_s: float  # How long it took to measure the machine.


class Exporter:
    """Measures when it is asked, and every few seconds what no scrape has asked for."""

    def __init__(self, machine: MachineRecording) -> None:
        self._machine, self._recordings = machine, LiveRecordings()
        self._spent = _Spent()
        self._runs: dict[LiveRecording, _Run] = {}
        self._running = 0
        self._lock = threading.Lock()
        self._machine_pace, self._run_pace = (
            Pace(LARGEST_SHARE, least_s=LEAST_S, clock=time.thread_time) for _ in range(2)
        )
        started_s = time.monotonic()
        self._started_ns = round(started_s * 1e9)
        # The first energies take longest and say nothing about the cost of the others.
        self._measure()
        while not self._machine.counters.parts and self._updated_s < started_s + FIRST_S:
            time.sleep(0.05)
            self._measure()
        self._follow(self._recordings.scan())

    def snapshot(self) -> Snapshot:
        """Return the values of now, or the latest ones if these are very recent."""
        with self._lock:
            self._update()
            counters = self._machine.counters
            return Snapshot(
                machine=Exported(
                    counters.parts, (), self._spent.emissions_g, self._spent.cost,
                    counters.is_measured, dict(counters.errors),
                ),
                runs={run.name: run.exported() for run in self._runs.values() if run.is_shown},
                running=self._running,
                costs=_costs_of_now(),
                absent=self._machine.absent,
                duration_s=self._duration_s,
            )  # fmt: skip

    def measure(self) -> None:
        """Measure the machine now, however recently that was done."""
        with self._lock:
            self._measure()

    def run(self, stop: threading.Event) -> None:
        """Search for runs and measure what no scrape has asked for, until the event is set."""
        while not stop.wait(TICK_S):
            try:
                self._machine.maintain()
                found = self._recordings.scan()
                with self._lock:
                    self._follow(found)
                    if time.monotonic() - self._updated_s > UPDATE_S:
                        self._update()
            except Exception as error:  # noqa: BLE001 - a service goes on, and says why it may not
                report(f"{type(error).__name__}: {error}")

    def close(self) -> None:
        """End the recorder."""
        with self._lock:
            self._machine.close()

    def _follow(self, found: Sequence[LiveRecording]) -> None:
        """Follow the runs that began last; read on in those that are behind or have ended."""
        live = [one for one in found if one.directory not in self._machine.directories]
        self._running = len(live)
        now_ns = time.monotonic_ns()
        self._runs = {one: run for one, run in self._runs.items() if not run.is_over(now_ns)}
        for one in sorted(live, key=lambda one: one.start_ns, reverse=True)[:MOST_RUNS]:
            if one not in self._runs and len(self._runs) < MOST_RUNS:
                names = {run.name for run in self._runs.values()}
                name = f"{one.name}-{one.recorder_pid}" if one.name in names else one.name
                is_new = one.start_ns > max(self._started_ns, now_ns - NEW_S * 1e9)
                with contextlib.suppress(OSError, TraceError):
                    self._runs[one] = _Run(one, name, is_new=is_new)
        for run in self._runs.values():
            if run.counters.is_behind or not run.has_recorder:
                run.update(_costs_of_now())

    def _update(self) -> None:
        if self._machine_pace.due:
            with self._machine_pace:
                self._measure()
        if self._run_pace.due:
            with self._run_pace:
                for run in self._runs.values():
                    run.update(_costs_of_now())

    def _measure(self) -> None:
        """Measure the machine."""
        begin_s = time.monotonic()
        self._machine.update()
        self._spent.add(self._machine.counters.total_j, _costs_of_now())
        self._updated_s = time.monotonic()
        self._duration_s = self._updated_s - begin_s


class _Run:
    """A run that is followed, until shortly after its end."""

    def __init__(self, recording: LiveRecording, name: str, *, is_new: bool) -> None:
        self.name = name
        self.counters = EnergyCounters(
            TraceFollower(recording.directory),
            recording.start_ns,
            most_span_names=MOST_SPAN_NAMES,
        )
        self._recorder_pid, self._is_new = recording.recorder_pid, is_new
        self._shown: set[Key | str | None] = set()
        self._ended_ns = 0
        self._is_lost = False
        self._spent = _Spent()

    @property
    def is_shown(self) -> bool:
        """Whether everything was read, and the recorder was not killed."""
        return not (self.counters.is_behind or self._is_lost)

    @property
    def has_recorder(self) -> bool:
        """Whether it is still being recorded."""
        return psutil.pid_exists(self._recorder_pid)

    def is_over(self, now_ns: int) -> bool:
        """Report whether there is nothing more to show."""
        return self._is_lost or 0 < self._ended_ns < now_ns - ENDED_S * 1e9

    def update(self, costs: Costs) -> None:
        """Count up to the latest readings."""
        if self._ended_ns:
            return
        now_ns, has_recorder = time.monotonic_ns(), self.has_recorder
        try:
            self.counters.update(now_ns)
        except (OSError, TraceError):
            # A temporary recording is deleted when it ends, that of a study's cell is moved.
            self._ended_ns = now_ns
        except (ArithmeticError, ValueError) as error:
            report(f"{self.name} is not followed any more: {error}")
            self._is_lost = True
        self._spent.add(self.counters.total_j, costs)
        if self.counters.is_complete:
            self._ended_ns = now_ns
        elif not has_recorder and not self._ended_ns:
            self._is_lost = True

    def exported(self) -> Exported:
        """Return the values so far.

        Each series of a new run begins at 0, as the counters of a process do: otherwise,
        Prometheus would not count what it used before it was found.
        """
        parts, spans = self.counters.parts, self.counters.spans
        emissions_g, cost = self._spent.emissions_g, self._spent.cost
        if self._ended_ns:
            parts = [replace(part, power_w=math.nan) for part in parts]
        if self._is_new:
            parts = [
                part
                if self._was_shown(part.key)
                else replace(part, energy_j=0.0, uncertainty=math.nan)
                for part in parts
            ]
            spans = [
                span if self._was_shown(span.name) else SpanPart(span.name, 0.0, 0.0, 0)
                for span in spans
            ]
            if not self._was_shown(None):
                emissions_g, cost = 0.0 * emissions_g, 0.0 * cost
        return Exported(parts, spans, emissions_g, cost)

    def _was_shown(self, series: Key | str | None) -> bool:
        was_shown = series in self._shown
        self._shown.add(series)
        return was_shown


class _Spent:
    """Carbon and cost of an energy that grows, at the intensity and price of each moment."""

    def __init__(self) -> None:
        self.emissions_g = self.cost = math.nan
        self._total_j = 0.0

    def add(self, total_j: float, costs: Costs) -> None:
        """Add what was used since the last call; nothing is added while a value is unknown."""
        used_j, self._total_j = total_j - self._total_j, total_j
        self.emissions_g = _grown(self.emissions_g, used_j * costs.carbon_g_per_j)
        self.cost = _grown(self.cost, used_j * costs.price_per_j)


def _grown(before: float, more: float) -> float:
    known = [one for one in (before, more) if not math.isnan(one)]
    return sum(known) if known else math.nan


def _costs_of_now() -> Costs:
    """Return the carbon intensity and price of now; they may change while this runs."""
    now_s = time.time()
    return local_costs(math.nan, started_unix_s=now_s - 1, stopped_unix_s=now_s)
