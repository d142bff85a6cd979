"""Forecast training spans recorded on an H100, replayed from the readings of its sensor."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.forecast_case import Case
from joulelab.forecast.profile import MAIN, Row

DATA = Path(__file__).parents[1] / "tests" / "data" / "h100"
SECTIONS = 100
SEEN = (3, 10, 30)
USES = ("used to choose BRIEF", "not used to choose BRIEF")
"""Of every second model, in alphabetical order; see :data:`joulelab.forecast.series.BRIEF`."""


def cases() -> Iterator[Case]:
    """Return the forecasts of every training span, from its first 3, 10 and 30 %."""
    with gzip.open(DATA / "zoo_power_samples.csv.gz", "rt") as file:
        t_s, power_mw = np.loadtxt(file, delimiter=",", skiprows=1, unpack=True)
    # Each reading is the mean over the time before its timestamp.
    energy_j = np.concatenate(([0.0], np.cumsum(np.diff(t_s) * power_mw[1:] * 1e-3)))
    with (DATA / "zoo_spans.csv").open() as file:
        spans = [span for span in csv.DictReader(file) if span["phase"] == "train"]
    models = sorted({span["model"] for span in spans})
    for span in spans:
        use = USES[models.index(span["model"]) % 2]
        start_s, stop_s = float(span["start_s"]), float(span["stop_s"])
        edges_s = np.linspace(start_s, stop_s, SECTIONS + 1)
        sections_j = np.diff(np.interp(edges_s, t_s, energy_j))
        rows = [
            Row(phase=MAIN, duration_s=(stop_s - start_s) / SECTIONS, gross_j=float(j))
            for j in sections_j
        ]
        for seen in SEEN:
            yield Case.of(f"spans on an H100 {use}, from the first {seen} %", rows, seen)
