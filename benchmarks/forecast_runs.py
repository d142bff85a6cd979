"""Forecast recorded trainings from their first epochs; record others with the command line.

``python -m benchmarks.forecast_runs FILE`` trains every model of :data:`RUNS` once, a process each,
and writes a table for ``python -m benchmarks.forecast --trainings FILE``.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.forecast_case import Case
from joulelab import Meter
from joulelab.energy.estimator import EnergyEstimator
from joulelab.forecast.profile import MAIN, Row
from joulelab.forecast.sources import EPOCH, STEP, profile_of
from joulelab.models.registry import build_model
from joulelab.recording.spans import Span
from joulelab.recording.trace import read_trace
from joulelab.workloads.classification import train
from joulelab.workloads.datasets import SyntheticOptions, load_dataset
from joulelab.workloads.phases import TrainSettings
from joulelab.workloads.torch_runtime import build_seeded

DATA = Path(__file__).parents[1] / "tests" / "data" / "forecast" / "trainings.csv.gz"
SEEN = (3, 5, 10)
"""Numbers of epochs that forecasts use, at most half of a run."""
MEASURED, CPU_TIME = "as measured", "by CPU time"
HELD_BACK = "trainings not used to choose the method"
USES = {"chosen": "trainings used to choose the method", "test": HELD_BACK}
COLUMNS = ("machine", "run", "use", "epoch", "phase", "duration_s", "gross_j", "cpu_s", "shared")


@dataclass(frozen=True)
class Run:
    """A training."""

    model: str  # Name in the registry.
    data: str  # ``"digits"``, or ``"synthetic"`` with a number of ``images``.
    batch_size: int  # Images per step.
    epochs: int  # Passes over the training set.
    images: int = 0  # Number of generated training images.
    validate: bool = False  # Whether to validate after each epoch.
    optimizer: str = "sgd"  # See :class:`~joulelab.workloads.phases.TrainSettings`.

    @property
    def name(self) -> str:
        """Name in the tables."""
        model = self.model.rpartition(":")[2]
        tested = ", validated" if self.validate else ""
        return f"{model}, {self.data}, batch {self.batch_size}, {self.epochs} epochs{tested}"


_OWN = "benchmarks.forecast_models:"
RUNS = (
    Run("LeNet", "digits", 8, 40),
    Run(_OWN + "convolutions", "synthetic", 64, 40, images=1500, validate=True, optimizer="adamw"),
    Run(_OWN + "perceptron", "digits", 32, 50, validate=True),
    Run(_OWN + "attention", "digits", 64, 30, optimizer="adam"),
    Run("MobileNet", "synthetic", 2, 40, images=16),
    Run("ShuffleNetV2", "synthetic", 2, 20, images=40),
    Run("LeNet", "digits", 32, 60, validate=True),
    Run(_OWN + "convolutions", "digits", 16, 50),
    Run(_OWN + "perceptron", "synthetic", 16, 25, images=2000, optimizer="adam"),
    Run(_OWN + "attention", "digits", 32, 30, validate=True),
    Run("MobileNetV2", "synthetic", 4, 40, images=32),
    Run("EfficientNetB0", "synthetic", 2, 16, images=20),
    Run(_OWN + "perceptron", "digits", 64, 80),
    Run("LeNet", "synthetic", 128, 50, images=2560, optimizer="adam"),
    Run("LeNet", "synthetic", 16, 50, images=600),
    Run(_OWN + "convolutions", "synthetic", 32, 40, images=1000, optimizer="adam"),
    Run(_OWN + "attention", "digits", 16, 14),
    Run(_OWN + "perceptron", "digits", 16, 30, validate=True, optimizer="adamw"),
    Run("ResNet18", "synthetic", 2, 24, images=4),
    Run("SENet18", "synthetic", 1, 40, images=3),
)


def cases(path: Path = DATA) -> Iterator[Case]:
    """Return the forecasts of every recorded training, by time and by CPU time.

    CPU time stands in for a machine without other programs, which affect it less.
    """
    runs: dict[tuple[str, str, str], list[dict[str, str]]] = {}
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
        for row in csv.DictReader(file):
            runs.setdefault((row["machine"], row["use"], row["run"]), []).append(row)
    for (machine, use, _), table in runs.items():
        measured = [
            Row(
                row["phase"],
                float(row["duration_s"]),
                float(row["gross_j"]),
                is_shared=row["shared"] == "1",
            )
            for row in table
        ]
        by_cpu_time = [
            Row(MAIN, float(row["cpu_s"]), float(row["cpu_s"]))
            for row in table
            if row["phase"] == MAIN
        ]
        for kind, rows in ((MEASURED, measured), (CPU_TIME, by_cpu_time)):
            for seen in SEEN:
                if 2 * seen <= sum(row.phase == MAIN for row in rows):
                    group = f"{USES[use]}, {machine} machine, {kind}"
                    yield Case.of(f"{group}, from {seen} epochs", rows, seen)


def record(run: Run) -> list[dict[str, object]]:
    """Train in a process of its own, and return a row for each epoch and validation."""
    with tempfile.TemporaryDirectory() as folder:
        options = [folder, "--train", json.dumps(asdict(run))]
        command = [sys.executable, "-m", "benchmarks.forecast_runs", *options]
        subprocess.run(command, check=True)
        trace = read_trace(Path(folder))
    profile = profile_of(trace.spans, EnergyEstimator(trace).energies)
    epochs = [span.key for span in trace.finished_spans if span.name == EPOCH]
    cpu_s = dict.fromkeys(epochs, 0.0)
    for span in trace.finished_spans:
        if span.name == STEP and span.parent in cpu_s:
            cpu_s[span.parent] += span.attributes["cpu_stop_s"] - span.attributes["cpu_start_s"]
    rows: list[dict[str, object]] = []
    index = -1
    for row in profile.rows:
        index += row.phase == MAIN
        of_steps = f"{cpu_s[epochs[index]]:.4f}" if row.phase == MAIN else ""
        values = ("own", run.name, "test", max(index, 0), row.phase, f"{row.duration_s:.4f}")
        last = (f"{row.gross_j:.4g}", of_steps, int(row.is_shared))
        rows.append(dict(zip(COLUMNS, (*values, *last), strict=True)))
    return rows


class _CpuTimes:
    """Records the CPU time of the process at the ends of each span."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    def begin(self, name: str, /, **attributes: Any) -> Span:
        return self._meter.begin(name, cpu_start_s=time.process_time(), **attributes)

    def end(self, span: Span) -> None:
        span.attributes["cpu_stop_s"] = time.process_time()
        self._meter.end(span)


def main() -> None:
    """Record every training in a table, or train once in the child process."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.forecast_runs")
    parser.add_argument("path", type=Path, help="the table to write")
    parser.add_argument("--train", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.train is not None:
        _train(Run(**json.loads(options.train)), options.path)
        return
    with options.path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for run in RUNS:
            writer.writerows(record(run))


def _train(run: Run, directory: Path) -> None:
    """Train, and save spans and readings in a directory."""
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
    with Meter(directory=directory) as meter:
        train(model, data, settings, _CpuTimes(meter), announce_steps=True)


if __name__ == "__main__":
    main()
