"""Run one cell after another in the worker, each with a meter of its own."""

from __future__ import annotations

import copy
import gc
import itertools
import operator
import os
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import reduce
from pathlib import Path
from typing import Any

import torch

from joulelab import machine
from joulelab.energy.baseline import Baseline
from joulelab.energy.idle import IdleMeasurement
from joulelab.errors import JoulelabError, RecorderError, WorkloadError
from joulelab.forecast.loop import EpochLoop, EpochOptions
from joulelab.forecast.steady import SteadyWindow
from joulelab.meter import Meter
from joulelab.models.registry import check_factory
from joulelab.sensors.discovery import ENVIRONMENT as SENSORS_ENVIRONMENT
from joulelab.sensors.discovery import discover
from joulelab.sensors.sensor import Quantity
from joulelab.sensors.visible_devices import environment_selection
from joulelab.study.cell_work import CellWork, Phase, work_of
from joulelab.study.cells import EMPTY_BODY, IDLE_WAIT_S
from joulelab.study.device_limits import DeviceLimits
from joulelab.study.plan import Plan, TrainPlan
from joulelab.workloads.phases import PhaseResult
from joulelab.workloads.torch_runtime import first_line, idle, resolve_device

Json = dict[str, Any]

LEAST_EPOCHS = 3
"""Fewer epochs say little about how epochs differ."""

LONGEST_S = 3600.0
"""Longest time of steps in a probe, whose window ends it earlier."""


class Executor:
    """The data set and devices of a plan, ready for its cells.

    Raises:
        DatasetError: The data set is missing.
        UserError: A device, a sensor or a model's function of the plan is missing.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        for name in plan.models:
            check_factory(name)
        self._devices = {name: _resolve(name) for name in plan.factors.device}
        self._machine = machine.describe(*environment_selection())
        self._sensors = list(plan.sensors) or None
        for sensor in discover(self._sensors).sensors:
            sensor.close()
        components = {
            device: self._gpu_component(device) or "cpu" if device != "cpu" else "cpu"
            for device in self._devices.values()
        }
        self._limits = DeviceLimits(plan.factors, components)
        self._work = work_of(plan)

    def describe(self) -> Json:
        """Return the machine, the data set, and what each device of the plan resolved to."""
        machine, data = self._machine.to_json(), self._work.describe()
        return {"machine": machine, "data": data, "devices": self._devices}

    def idle(self, directory: Path, on_event: Callable[[Json], None]) -> Json:
        """Measure T_m of idle in the state in which cells run: with a CUDA context if any has."""
        device = next((name for name in self._devices.values() if name != "cpu"), "cpu")
        run = _Run(directory, self._sensors_of(*self._devices.values()), None)
        return run.record(lambda: run.idle(self._plan.idle_s, device, on_event))

    def cell(
        self,
        directory: Path,
        factors: Mapping[str, Any],
        seed: int,
        on_event: Callable[[Json], None],
    ) -> Json:
        """Run the phases of the plan, and leave the process as it was."""
        return self._run(
            directory,
            factors,
            lambda run, found: run.cell(
                self._work.of_cell(found, seed), self._plan.train, on_event
            ),
        )

    def probe(
        self,
        directory: Path,
        factors: Mapping[str, Any],
        seed: int,
        window: SteadyWindow,
        on_event: Callable[[Json], None],
    ) -> Json:
        """Run steps of the plan's first phase until enough of them are steady."""
        return self._run(
            directory,
            factors,
            lambda run, found: run.probe(self._work.of_cell(found, seed), window, on_event),
        )

    def _run(
        self,
        directory: Path,
        factors: Mapping[str, Any],
        work: Callable[[_Run, Mapping[str, Any]], None],
    ) -> Json:
        device = self._devices[factors["device"]]
        run = _Run(directory, self._sensors_of(device), self._gpu_component(device))

        def limited_work() -> None:
            with self._limits.set(device, factors):
                work(run, {**factors, "device": device})

        try:
            return run.record(limited_work)
        finally:
            _clear(device, compiled=factors["compile"])

    def _sensors_of(self, *devices: str) -> list[str] | None:
        """Return the sensors of the plan, or else those of the host and of these devices alone."""
        if self._sensors or os.environ.get(SENSORS_ENVIRONMENT):
            return self._sensors
        gpus = [self._gpu_component(device) for device in devices if device != "cpu"]
        return [*dict.fromkeys(gpu for gpu in gpus if gpu), "cpu", "dram", "host"]

    def _gpu_component(self, device: str) -> str | None:
        """Name the component of the GPU that a cell runs on; the first one for a CPU cell."""
        kind, _, index = device.partition(":")
        position = int(index) if kind == "cuda" else 0
        gpus = self._machine.gpus
        return f"gpu:{gpus[position].index}" if position < len(gpus) else None


class _Run:
    """What is known of a run so far; a failure leaves what was known by then."""

    def __init__(self, directory: Path, sensors: list[str] | None, gpu: str | None) -> None:
        self._directory, self._sensors, self._gpu = directory, sensors, gpu
        self._body: Json = copy.deepcopy(EMPTY_BODY) | {"status": "done", "failure": None}

    def record(self, work: Callable[[], None]) -> Json:
        """Do the work and return the answer for the runner."""
        self._body["started_unix_s"] = time.time()
        try:
            work()
        except RecorderError as error:
            return {"unrecorded": str(error)}
        except WorkloadError as error:
            self._fail(error.kind, str(error))
        except JoulelabError as error:
            self._fail("unsupported", str(error))
        except MemoryError as error:
            self._fail("out_of_memory", first_line(error))
        except Exception as error:  # noqa: BLE001  (recorded as the cell's failure)
            self._fail("error", first_line(error))
        self._body["ended_unix_s"] = time.time()
        return {"body": self._body}

    def _fail(self, kind: str, reason: str) -> None:
        traceback.print_exc()
        self._body |= {"status": "failed", "failure": {"kind": kind, "reason": reason}}

    def idle(self, seconds: float, device: str, on_event: Callable[[Json], None]) -> None:
        def report(measured: IdleMeasurement) -> None:
            if not measured.is_quiet:
                on_event({"event": "phase", "name": f"waiting, {measured.load_text}"})

        with self._meter() as meter:
            idle(
                seconds,
                meter,
                device=device,
                sleep=lambda duration_s: meter.pause(duration_s, IDLE_WAIT_S, report),
            )
        self._add_spans(meter)
        (span,) = meter.spans_named("idle")
        self._body["baseline"] = meter.idle_from(span, seconds).to_json()

    def cell(self, work: CellWork, plan: TrainPlan, on_event: Callable[[Json], None]) -> None:
        self._body["characteristics"] = work.characteristics
        self._body["settings"] = {
            name: asdict(phase.settings) for name, phase in work.phases.items()
        }
        meter = self._meter()
        observer = _Observer(meter, on_event)
        is_enough = _stop_condition(meter, plan)
        results: dict[str, PhaseResult] = {}
        try:
            with meter:
                for name, phase in work.phases.items():
                    options = {"enough": is_enough} if name == "train" else {}
                    results[name] = phase.run(phase.settings, observer, **options)
        finally:
            # Of the finished trace: readings that follow a span may change its energy.
            self._add_spans(meter)
            for name, result in results.items():
                self._body["results"][name] = _phase_json(
                    meter, result, work.phases[name], self._gpu
                )
                self._body["epochs"] += _epochs_json(meter, result)
            if plan.within is not None and "train" in results:
                assert plan.epochs is not None
                forecast = meter.forecast(plan.epochs, within=plan.within)
                self._body["results"]["train"]["forecast"] = forecast.to_json()

    def probe(self, work: CellWork, window: SteadyWindow, on_event: Callable[[Json], None]) -> None:
        name, phase = next(iter(work.phases.items()))
        meter = self._meter()
        steps = _StepObserver(window, on_event)
        options: Json = {"announce_steps": True, "is_over": lambda: steps.are_enough}
        with meter:
            phase.run(phase.settings.endless(LONGEST_S), steps, **options)
        parts = meter.energies(window.windows)
        if not meter.alive:
            raise RecorderError("the recorder died", why=meter.failure)
        self._body["results"][name] = {
            "energy": reduce(operator.add, parts).to_json(),
            "durations_s": window.durations_s,
            "work": window.work,
        }

    def _meter(self) -> Meter:
        # Idle power is measured by runs of its own, some of them later; no other may be used.
        return Meter(
            directory=self._directory,
            sensors=self._sensors,
            baseline=Baseline(()),
            own_recorder=True,
            record=False,
        )

    def _add_spans(self, meter: Meter) -> None:
        spans = [span for span in meter.spans if span.stop_ns is not None]
        self._body["measured"] = [
            {
                "name": span.name,
                "attributes": dict(span.attributes),
                "start_ns": span.start_ns,
                "stop_ns": span.stop_ns,
                "energy": energy.to_json(),
            }
            for span, energy in zip(spans, meter.energies(spans), strict=True)
        ]
        if not meter.alive:
            raise RecorderError("the recorder died", why=meter.failure)


class _Observer:
    """Marks the spans of a workload, and reports them to the runner."""

    def __init__(self, meter: Meter, on_event: Callable[[Json], None]) -> None:
        self._meter, self._on_event = meter, on_event

    def begin(self, name: str, /, **attributes: Any) -> Any:
        self._on_event({"event": "phase", "name": name} | attributes)
        return self._meter.begin(name, **attributes)

    def end(self, span: Any) -> None:
        self._meter.end(span)


class _StepObserver:
    """Times steps; reports only what is around them, which takes no time from them."""

    def __init__(self, window: SteadyWindow, on_event: Callable[[Json], None]) -> None:
        self._window, self._on_event = window, on_event
        self._epoch = 0
        self.are_enough = False

    def begin(self, name: str, /, **attributes: Any) -> tuple[int | None, int]:
        if name == "step":
            return attributes["samples"], time.monotonic_ns()
        self._epoch = attributes.get("index", 0)
        self._on_event({"event": "phase", "name": name} | attributes)
        return None, 0

    def end(self, span: tuple[int | None, int]) -> None:
        samples, start_ns = span
        if samples is not None:
            stop_ns = time.monotonic_ns()
            self.are_enough = self._window.add(start_ns, stop_ns, within=self._epoch, work=samples)


def _stop_condition(meter: Meter, plan: TrainPlan) -> Callable[[], bool]:
    """Return a function that reports after each epoch whether the forecast is certain enough."""
    if plan.within is None:
        return lambda: False
    least = plan.least_epochs or LEAST_EPOCHS
    options = EpochOptions(total=plan.epochs, within=plan.within, least=least, quiet=True)
    loop, done = EpochLoop(meter, options), itertools.count(1)
    return lambda: loop.ends_after(next(done))


def _phase_json(meter: Meter, result: PhaseResult, phase: Phase, gpu: str | None) -> Json:
    last = result.epochs[-1]
    # A pass that was cut short covered a part of the test set: its accuracy is not the set's.
    whole = next((epoch for epoch in reversed(result.epochs) if epoch.complete), None)
    scored = last if result.phase == "train" else whole
    spans = meter.spans_named("epoch", phase=result.phase)
    energy = meter.energy("epoch", phase=result.phase)
    gpu = gpu or next((name for name in energy.components if name.startswith("gpu:")), None)

    def mean(component: str | None, quantity: Quantity) -> float | None:
        return None if component is None else meter.mean(component, quantity, spans)

    return {
        "energy": energy.to_json(),
        "complete": not phase.settings.is_cut_short(result),
        "samples": result.samples,
        "tokens": result.tokens,
        "macs_per_token": phase.macs_per_token,
        "steps": result.steps,
        "epochs": len(result.epochs),
        "loss": scored.loss if scored else None,
        "accuracy_pct": scored.accuracy_pct if scored else None,
        "train_accuracy_pct": last.train_accuracy_pct,
        "data_wait_s": result.data_wait_s,
        "vram_peak_bytes": result.vram_peak_bytes,
        "gpu_utilization_pct": mean(gpu, Quantity.UTILIZATION),
        "memory_utilization_pct": mean(gpu, Quantity.MEMORY_UTILIZATION),
        "cpu_utilization_pct": mean("host", Quantity.UTILIZATION),
        "cudnn_benchmark": result.cudnn_benchmark,
    }


def _epochs_json(meter: Meter, result: PhaseResult) -> list[Json]:
    recorded = ("duration_s", "samples", "steps", "loss", "train_accuracy_pct", "accuracy_pct")
    return [
        {
            "phase": result.phase,
            "index": epoch.index,
            "energy": meter.energy("epoch", phase=result.phase, index=epoch.index).to_json(),
            "complete": epoch.complete,
            **{name: getattr(epoch, name) for name in recorded},
        }
        for epoch in result.epochs
    ]


def _resolve(device: str) -> str:
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return str(resolve_device(device))


def _clear(device: str, *, compiled: bool) -> None:
    """Free what the last cell used, so that the next one starts like the first."""
    if compiled:
        torch.compiler.reset()
    gc.collect()
    if device != "cpu":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
