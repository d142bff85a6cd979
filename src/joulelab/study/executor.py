"""Runs one cell after another in the worker, each under a meter of its own."""

from __future__ import annotations

import gc
import itertools
import os
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from joulelab import machine
from joulelab.energy.baseline import Baseline
from joulelab.energy.energy import Energy
from joulelab.errors import JoulelabError, RecorderError, WorkloadError
from joulelab.forecast.loop import EpochLoop, EpochOptions
from joulelab.meter import Meter
from joulelab.models.characteristics import characterize
from joulelab.models.registry import build_model
from joulelab.sensors.discovery import ENVIRONMENT as SENSORS_ENVIRONMENT
from joulelab.sensors.discovery import discover
from joulelab.sensors.sensor import Quantity
from joulelab.sensors.visible_devices import environment_selection
from joulelab.study.plan import Plan, TrainPlan
from joulelab.study.worker_process import Event
from joulelab.workloads.classification import infer, train
from joulelab.workloads.datasets import SyntheticOptions, load_dataset
from joulelab.workloads.images import ImageData
from joulelab.workloads.phases import EpochResult, InferSettings, PhaseResult, TrainSettings
from joulelab.workloads.torch_runtime import build_seeded, first_line, idle, resolve_device

Tell = Callable[[Event], None]

LEAST_EPOCHS = 3
"""Fewer would say little of how epochs differ."""


class Bench:
    """A plan's data set and devices, ready for its cells.

    Raises:
        DatasetError: The data set is not there.
        UserError: A device or a sensor of the plan is not there.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._devices = {wish: _resolved(wish) for wish in plan.factors.device}
        self._machine = machine.describe(*environment_selection())
        self._sensors = list(plan.sensors) or None
        for sensor in discover(self._sensors).sensors:
            sensor.close()
        options = plan.data
        self._data = load_dataset(
            options.name,
            root=options.root or None,
            download=options.download,
            image_size=options.image_size,
            synthetic=SyntheticOptions(
                train_count=options.train_count,
                test_count=options.test_count,
                num_classes=options.num_classes,
                structure=options.structure,
                seed=plan.seed,
            ),
        )

    def describe(self) -> Event:
        """The machine, the data set, and what each device of the plan came to be."""
        return {
            "machine": self._machine.to_json(),
            "data": _data_json(self._data),
            "devices": self._devices,
        }

    def idle(self, directory: Path) -> Event:
        """Measures T_m of idle in the state in which cells run: with a CUDA context if any does."""
        device = next((name for name in self._devices.values() if name != "cpu"), "cpu")
        run = _Run(directory, self._sensors_of(*self._devices.values()), None)
        return run.record(lambda: run.idle(self._plan.idle_s, device))

    def cell(self, directory: Path, factors: Mapping[str, Any], seed: int, tell: Tell) -> Event:
        """Trains and infers as the plan says, and leaves the process as it was."""
        device = self._devices[factors["device"]]
        run = _Run(directory, self._sensors_of(device), self._gpu_component(device))
        try:
            return run.record(
                lambda: run.cell(self._plan, self._data, {**factors, "device": device}, seed, tell)
            )
        finally:
            _clear(device, compiled=factors["compile"])

    def _sensors_of(self, *devices: str) -> list[str] | None:
        """What the plan asks for, or else the host and those GPUs alone that the devices are."""
        if self._sensors or os.environ.get(SENSORS_ENVIRONMENT):
            return self._sensors
        gpus = [self._gpu_component(device) for device in devices if device != "cpu"]
        return [*dict.fromkeys(gpu for gpu in gpus if gpu), "cpu", "dram", "host"]

    def _gpu_component(self, device: str) -> str | None:
        """The sensors' name of the GPU that a cell runs on; of the first where it runs on none."""
        kind, _, index = device.partition(":")
        place = int(index) if kind == "cuda" else 0
        gpus = self._machine.gpus
        return f"gpu:{gpus[place].index}" if place < len(gpus) else None


class _Run:
    """What is known of a run so far; a failure leaves what was known by then."""

    def __init__(self, directory: Path, sensors: list[str] | None, gpu: str | None) -> None:
        self._directory, self._sensors, self._gpu = directory, sensors, gpu
        self._body: Event = {
            "status": "done",
            "failure": None,
            "settings": {},
            "characteristics": None,
            "spans": [],
            "results": {},
            "epochs": [],
        }

    def record(self, work: Callable[[], None]) -> Event:
        """Does the work and gives the answer for the parent."""
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
        self._body["stopped_unix_s"] = time.time()
        return {"body": self._body}

    def _fail(self, kind: str, reason: str) -> None:
        traceback.print_exc()
        self._body["status"] = "failed"
        self._body["failure"] = {"kind": kind, "reason": reason}

    def idle(self, seconds: float, device: str) -> None:
        with self._meter() as meter:
            idle(seconds, meter, device=device)
            self._account(meter)

    def cell(
        self, plan: Plan, data: ImageData, factors: Mapping[str, Any], seed: int, tell: Tell
    ) -> None:
        model = build_seeded(
            lambda: build_model(
                factors["model"], num_classes=data.num_classes, in_channels=data.image_shape[0]
            ),
            seed,
        )
        self._body["characteristics"] = asdict(characterize(model, data.image_shape))
        settings = _settings(plan, factors, seed)
        self._body["settings"] = {phase: asdict(chosen) for phase, chosen in settings.items()}
        with self._meter() as meter:
            narrator = _Narrator(meter, tell)
            is_enough = _profiling(meter, plan.train)
            phases: dict[str, PhaseResult] = {}
            try:
                for phase, chosen in settings.items():
                    phases[phase] = (
                        train(model, data, chosen, narrator, enough=is_enough)
                        if isinstance(chosen, TrainSettings)
                        else infer(model, data, chosen, narrator)
                    )
            finally:
                self._account(meter)
                for phase, result in phases.items():
                    self._body["results"][phase] = _phase_json(meter, result, self._gpu)
                    self._body["epochs"] += _epochs_json(meter, result)
                if plan.train.within is not None and "train" in phases:
                    assert plan.train.epochs is not None
                    forecast = meter.forecast(plan.train.epochs, within=plan.train.within)
                    self._body["results"]["train"]["forecast"] = forecast.to_json()

    def _meter(self) -> Meter:
        # Idle power is measured by runs of its own, some of them later; no other may slip in.
        return Meter(
            directory=self._directory,
            sensors=self._sensors,
            baseline=Baseline(()),
            own_recorder=True,
            record=False,
        )

    def _account(self, meter: Meter) -> None:
        spans = [span for span in meter.spans if span.stop_ns is not None]
        self._body["spans"] = [
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


class _Narrator:
    """Hands what a workload announces to the meter, and tells the parent of it."""

    def __init__(self, meter: Meter, tell: Tell) -> None:
        self._meter, self._tell = meter, tell

    def begin(self, name: str, /, **attributes: Any) -> Any:
        self._tell({"event": "phase", "name": name} | attributes)
        return self._meter.begin(name, **attributes)

    def end(self, span: Any) -> None:
        self._meter.end(span)


def _profiling(meter: Meter, plan: TrainPlan) -> Callable[[], bool]:
    """Return a function that tells after each epoch whether the plan's forecast is sure enough."""
    if plan.within is None:
        return lambda: False
    least = plan.least_epochs or LEAST_EPOCHS
    options = EpochOptions(total=plan.epochs, within=plan.within, least=least, quiet=True)
    loop, done = EpochLoop(meter, options), itertools.count(1)
    return lambda: loop.ends_after(next(done))


def _settings(
    plan: Plan, factors: Mapping[str, Any], seed: int
) -> dict[str, TrainSettings | InferSettings]:
    common = {
        name: factors[name]
        for name in (
            "batch_size",
            "precision",
            "memory_format",
            "compile",
            "input_path",
            "device",
        )
    } | {"loader_workers": plan.data.loader_workers}
    training = plan.train.model_dump(exclude={"within", "least_epochs", "most_epochs"})
    training |= {"optimizer": factors["optimizer"], "seed": seed}
    if plan.train.most_epochs is not None and plan.train.epochs is not None:
        training["epochs"] = min(plan.train.epochs, plan.train.most_epochs)
    makers: dict[str, Callable[[], TrainSettings | InferSettings]] = {
        "train": lambda: TrainSettings(**common, **training),
        "infer": lambda: InferSettings(**common, **plan.infer.model_dump()),
    }
    return {phase: makers[phase]() for phase in plan.phases}


def _phase_json(meter: Meter, result: PhaseResult, gpu: str | None) -> dict[str, Any]:
    last = result.epochs[-1]
    # A pass cut short saw a part of the test set: its accuracy is not the test set's.
    whole = next((epoch for epoch in reversed(result.epochs) if epoch.complete), None)
    scored = last if result.phase == "train" else whole
    spans = meter.spans_named("epoch", phase=result.phase)
    energy = meter.energy("epoch", phase=result.phase)
    gpu = gpu or _first_gpu(energy)

    def mean(component: str | None, quantity: Quantity) -> float | None:
        return None if component is None else meter.mean(component, quantity, spans)

    return {
        "energy": energy.to_json(),
        "samples": result.samples,
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


def _first_gpu(energy: Energy) -> str | None:
    return next((name for name in energy.components if name.startswith("gpu:")), None)


def _epochs_json(meter: Meter, result: PhaseResult) -> list[dict[str, Any]]:
    return [
        {
            "phase": result.phase,
            "index": epoch.index,
            "energy": meter.energy("epoch", phase=result.phase, index=epoch.index).to_json(),
            **_epoch_figures(epoch),
        }
        for epoch in result.epochs
    ]


def _epoch_figures(epoch: EpochResult) -> dict[str, Any]:
    return {
        "duration_s": epoch.duration_s,
        "samples": epoch.samples,
        "steps": epoch.steps,
        "loss": epoch.loss,
        "train_accuracy_pct": epoch.train_accuracy_pct,
        "accuracy_pct": epoch.accuracy_pct,
        "complete": epoch.complete,
    }


def _data_json(data: ImageData) -> dict[str, Any]:
    return {
        "name": data.name,
        "origin": data.origin,
        "real": data.real,
        "train_count": len(data.train_images),
        "test_count": len(data.test_images),
        "num_classes": data.num_classes,
        "image_shape": list(data.image_shape),
    }


def _resolved(wish: str) -> str:
    if wish == "auto":
        wish = "cuda" if torch.cuda.is_available() else "cpu"
    return str(resolve_device(wish))


def _clear(device: str, *, compiled: bool) -> None:
    """Gives back what the last cell held, so that the next one starts like the first."""
    if compiled:
        torch.compiler.reset()
    gc.collect()
    if device != "cpu":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
