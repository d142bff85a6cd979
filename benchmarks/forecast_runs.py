"""Forecast real trainings on this machine, each in a separate process, from their beginnings."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.forecast_case import Case
from joulelab import Meter
from joulelab.energy.estimator import EnergyEstimator
from joulelab.forecast.profile import MAIN, Profile, Row
from joulelab.forecast.sources import EPOCH, SECTIONS, STEP, profile_of
from joulelab.models.registry import build_model
from joulelab.recording.spans import Span
from joulelab.recording.trace import Trace, read_trace
from joulelab.recording.trace_spans import TraceSpan, Window
from joulelab.workloads.classification import train
from joulelab.workloads.datasets import SyntheticOptions, load_dataset
from joulelab.workloads.phases import TrainSettings
from joulelab.workloads.torch_runtime import build_seeded

CUTS = (0.01, 0.02, 0.03)
"""Shares of a run's time that forecasts use; at least one step."""


MEASURED, CPU_TIME = "as measured", "by CPU time"
POWER_W, RISE_W, RISE_TIME_S = 300.0, 9.0, 60.0
"""The simulated power: a load on idle power that rises by 9 W within minutes, like an H100's."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Run:
    """A training.

    Attributes:
        model: Name in the registry.
        data: ``"digits"``, or ``"synthetic"`` with a number of ``images``.
        batch_size: Images per step.
        epochs: Passes over the training set.
        images: Number of generated training images.
        validate: Whether to validate after each epoch.
        optimizer: See :class:`~joulelab.workloads.phases.TrainSettings`.
    """

    model: str
    data: str
    batch_size: int
    epochs: int
    images: int = 0
    validate: bool = False
    optimizer: str = "sgd"

    @property
    def name(self) -> str:
        """Name in the tables."""
        model = self.model.rpartition(":")[2]
        tested = ", validated" if self.validate else ""
        return f"{model}, {self.data}, batch {self.batch_size}, {self.epochs} epochs{tested}"


_OWN = "benchmarks.forecast_models:"
RUNS = (
    Run(model="LeNet", data="digits", batch_size=8, epochs=50),
    Run(model="LeNet", data="digits", batch_size=64, epochs=80, validate=True),
    Run(model="MobileNet", data="synthetic", batch_size=2, epochs=50, images=16),
    Run(model="ShuffleNetV2", data="synthetic", batch_size=2, epochs=10, images=100),
    Run(model="EfficientNetB0", data="synthetic", batch_size=2, epochs=4, images=200),
    Run(model="MobileNetV2", data="digits", batch_size=4, epochs=1),
    Run(model=_OWN + "perceptron", data="digits", batch_size=32, epochs=100, validate=True),
    Run(model=_OWN + "perceptron", data="synthetic", batch_size=16, epochs=30, images=3000,
        optimizer="adam"),
    Run(model=_OWN + "convolutions", data="digits", batch_size=16, epochs=80),
    Run(model=_OWN + "convolutions", data="synthetic", batch_size=64, epochs=60, images=1500,
        validate=True, optimizer="adamw"),
    Run(model=_OWN + "attention", data="digits", batch_size=16, epochs=25),
    Run(model=_OWN + "attention", data="digits", batch_size=64, epochs=50, optimizer="adam",
        validate=True),
)  # fmt: skip


def cases(run: Run) -> Iterator[Case]:
    """Return the forecasts at each cut: as measured, and by the CPU time of the steps."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "benchmarks.forecast_runs",
            folder,
            json.dumps(asdict(run)),
        ]
        subprocess.run(command, check=True)
        trace = read_trace(Path(folder))
    yield from _measured(run, trace)
    yield from _by_cpu_time(run, _step_times(trace))


def _measured(run: Run, trace: Trace) -> Iterator[Case]:
    spans = trace.spans
    accounts = EnergyEstimator(trace)
    whole = profile_of(spans, accounts.energies)
    truth_j, truth_s = whole.spent_j, sum(row.duration_s for row in whole.rows)
    begin_ns, end_ns = spans[0].start_ns, max(span.stop_ns or 0 for span in spans)
    ends_ns = sorted(span.stop_ns for span in spans if span.name == STEP and span.stop_ns)
    first_j = _first_epoch_j(spans, accounts) * run.epochs
    steps_per_epoch = sum(span.name == STEP for span in spans) // run.epochs
    for cut in CUTS:
        seen = _until(spans, max(begin_ns + round(cut * (end_ns - begin_ns)), ends_ns[0]))
        profile = profile_of(seen, accounts.energies, steps_per_epoch=steps_per_epoch)
        yield Case(
            name=run.name,
            kind=MEASURED,
            cut=cut,
            truth_j=truth_j,
            truth_s=truth_s,
            forecast=profile.forecast(run.epochs),
            first_j=first_j,
            mean_j=_mean_j(profile, run.epochs),
        )


def _by_cpu_time(run: Run, step_s: Floats) -> Iterator[Case]:
    """Return consecutive steps at a simulated power, each as long as its CPU time.

    This excludes the work of other processes.
    """
    stop_s = np.cumsum(step_s)
    step_j = step_s * (POWER_W - RISE_W * np.exp(-stop_s / RISE_TIME_S))
    steps_per_epoch = step_s.size / run.epochs
    for cut in CUTS:
        seen = max(1, int(np.searchsorted(stop_s, cut * stop_s[-1], side="right")))
        sections = np.array_split(np.arange(seen), min(seen, SECTIONS))
        size = seen / len(sections)
        rows = [
            Row(
                phase=MAIN,
                duration_s=float(step_s[own].sum()),
                gross_j=float(step_j[own].sum()),
                work=own.size / size,
            )
            for own in sections
        ]
        yield Case(
            name=run.name,
            kind=CPU_TIME,
            cut=cut,
            truth_j=float(step_j.sum()),
            truth_s=float(step_s.sum()),
            forecast=Profile(rows, steps_per_epoch / size).forecast(run.epochs),
            first_j=float(step_j[: round(steps_per_epoch)].sum()) * run.epochs,
            mean_j=float(step_j[:seen].mean()) * step_s.size,
        )


def _step_times(trace: Trace) -> Floats:
    """Return the CPU time of each step, in s."""
    steps = [span.attributes for span in trace.finished_spans if span.name == STEP]
    return np.array([step["cpu_stop_s"] - step["cpu_start_s"] for step in steps])


class _CpuTimes:
    """Records the CPU time of the process at the ends of each span."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    def begin(self, name: str, **attributes: Any) -> Span:
        return self._meter.begin(name, cpu_start_s=time.process_time(), **attributes)

    def end(self, span: Span) -> None:
        span.attributes["cpu_stop_s"] = time.process_time()
        self._meter.end(span)


def _until(spans: Sequence[TraceSpan], t_ns: int) -> list[TraceSpan]:
    """Return the spans as they were known at that time."""
    return [
        span if span.stop_ns is not None and span.stop_ns <= t_ns else span._replace(stop_ns=None)
        for span in spans
        if span.start_ns < t_ns
    ]


def _first_epoch_j(spans: Sequence[TraceSpan], accounts: EnergyEstimator) -> float:
    """Return the time from the first epoch's start to the second's, with its validation."""
    epochs = [span for span in spans if span.name == EPOCH]
    stop_ns = epochs[1].start_ns if len(epochs) > 1 else spans[-1].stop_ns
    assert stop_ns is not None
    return accounts.energies([Window(epochs[0].start_ns, stop_ns)])[0].gross_j


def _mean_j(profile: Profile, epochs: int) -> float:
    work = sum(row.work for row in profile.rows if row.phase == MAIN)
    return profile.spent_j / work * profile.pieces * epochs


def main() -> None:
    """Train once in the child process, and save spans and readings in a directory."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.forecast_runs")
    parser.add_argument("directory", type=Path)
    parser.add_argument("run")
    options = parser.parse_args()
    run = Run(**json.loads(options.run))
    torch.set_num_threads(1)
    synthetic = SyntheticOptions(train_count=max(run.images, 1), test_count=256)
    data = load_dataset(run.data, image_size=32, synthetic=synthetic)
    model = build_seeded(
        lambda: build_model(
            run.model, num_classes=data.num_classes, in_channels=data.image_shape[0]
        ),
        0,
    )
    settings = TrainSettings(
        batch_size=run.batch_size,
        epochs=run.epochs,
        warmup_steps=0,
        optimizer=run.optimizer,
        validate=run.validate,
    )
    with Meter(directory=options.directory) as meter:
        train(model, data, settings, _CpuTimes(meter), announce_steps=True)


if __name__ == "__main__":
    main()
