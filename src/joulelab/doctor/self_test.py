"""Record a pause and a load on this machine, and conclude what can be trusted."""

from __future__ import annotations

import importlib.util
import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import psutil

from joulelab.doctor.load_pattern import Kind, Load, LoadPattern, usable_threads
from joulelab.doctor.verdicts import Examination, examine
from joulelab.energy.baseline import IdlePoint, describe_load
from joulelab.energy.idle import IdleMeasurement
from joulelab.format import count, duration
from joulelab.meter import IDLE_SPAN, Meter
from joulelab.recording.trace import Trace
from joulelab.recording.trace_spans import Window
from joulelab.sensors.sensor import Provenance

DURATION_S = 50.0
PAUSE_SHARE = 0.4
"""The rest is divided between the loads."""
LEAD_S = 0.5
"""Time for a load's processes to receive its pattern, and to fork for each hardware thread."""
SPANS, BATCHES = 1000, 5


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What measuring costs on this machine. NaN where it is unknown."""

    span_s: float  # Opening and closing a span.
    cpu_share: float = math.nan  # The recorder's CPU time over wall time.
    memory_bytes: float = math.nan  # The recorder's resident memory.
    trace_bytes_per_h: float = math.nan  # Growth of the trace.


@dataclass(frozen=True, kw_only=True)
class SelfTest:
    """The result of a self-test."""

    found: Examination  # What the recording shows.
    idle: IdlePoint  # Idle power, with what other processes leave unknown.
    unknown: tuple[str, ...]  # Components of which it is unknown whether other processes used them.
    costs: Costs  # What measuring costs.
    loads: dict[str, str]  # What load there was, or why there was none, by the kind of component.

    @property
    def load_text(self) -> str:
        """Who else used the machine; empty if no other process did."""
        return describe_load({name: one for name, one in self.idle.load.items() if one.fraction})

    def to_json(self) -> dict[str, Any]:
        """Return a plain dictionary; what is unknown is NaN."""
        return {
            "contradiction": self.found.contradicts,
            **asdict(self.found),
            "idle": self.idle.to_json(),
            "use_unknown": self.unknown,
            "costs": asdict(self.costs),
            "loads": self.loads,
        }


def run_self_test(duration_s: float, on_phase: Callable[[str], None]) -> SelfTest:
    """Test the sensors of this machine with a pause and a load.

    Args:
        duration_s: Duration of the pause and the loads together.
        on_phase: Called with what is being done.

    Raises:
        RecorderError: The recorder did not start.
    """
    on_phase("timing spans")
    span_s = _span_cost_s()
    with ExitStack() as stack:
        on_phase("opening the sensors")
        meter = stack.enter_context(Meter(own_recorder=True))
        pause_s = PAUSE_SHARE * duration_s
        on_phase(f"pausing for {duration(pause_s)}: please do not use the machine")
        pause, costs = _pause(meter, pause_s, span_s)
        patterns: dict[str, LoadPattern] = {}
        loads: dict[str, str] = {}
        kinds = _loadable(meter.trace)
        for kind in kinds:
            load = Load(kind)
            stack.callback(load.end)
            loads[kind] = load.reason or _describe(kind)
            if load.reason:
                continue
            load_s = (duration_s - pause_s) / len(kinds)
            on_phase(f"{loads[kind]}, on and off for {duration(load_s)}")
            patterns[kind] = LoadPattern.starting(time.monotonic() + LEAD_S, load_s)
            load.follow(patterns[kind])
            time.sleep(max(0.0, patterns[kind].edges_s[-1] - time.monotonic()))
        on_phase("comparing the sensors")
        trace = meter.trace
        measured = IdleMeasurement(trace, pause.start_ns, pause.stop_ns, pause_s)
        return SelfTest(
            found=examine(trace, pause, patterns, measured.load),
            idle=measured.point(),
            unknown=tuple(measured.unknown),
            costs=costs,
            loads=loads,
        )


def _span_cost_s() -> float:
    """Return the median time of opening and closing a span."""
    with Meter(["host"], own_recorder=True, baseline=None) as meter:
        taken_s = []
        for _ in range(BATCHES):
            start_s = time.perf_counter()
            for _ in range(SPANS):
                with meter.span("cost"):
                    pass
            taken_s.append((time.perf_counter() - start_s) / SPANS)
    return median(taken_s)


def _pause(meter: Meter, duration_s: float, span_s: float) -> tuple[Window, Costs]:
    recorder = psutil.Process(meter.recorder_pid)
    trace_bytes, used_s, start_s = _written(meter), _cpu_s(recorder), time.monotonic()
    with meter.span(IDLE_SPAN) as span:
        time.sleep(duration_s)
    took_s = time.monotonic() - start_s
    costs = Costs(
        span_s=span_s,
        cpu_share=(_cpu_s(recorder) - used_s) / took_s,
        memory_bytes=recorder.memory_info().rss,
        trace_bytes_per_h=(_written(meter) - trace_bytes) / took_s * 3600,
    )
    assert span.stop_ns is not None
    return Window(span.start_ns, span.stop_ns), costs


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _written(meter: Meter) -> int:
    return sum(path.stat().st_size for path in meter.directory.iterdir() if path.is_file())


def _loadable(trace: Trace) -> list[Kind]:
    """Return the kinds of components whose power a load can change, if it is not simulated."""
    present = {
        channel.component.partition(":")[0]
        for channel in trace.channels
        if channel.gives_energy and channel.provenance is not Provenance.SIMULATED
    }
    kinds: list[Kind] = ["cpu"] if present - {"gpu", "card"} else []
    if "gpu" in present and importlib.util.find_spec("torch"):
        kinds.append("gpu")
    return kinds


def _describe(kind: Kind) -> str:
    if kind == "gpu":
        return "matrix products on all GPUs"
    return f"a load on {count(usable_threads(), 'hardware thread')}"
