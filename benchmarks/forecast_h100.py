"""Forecast training spans recorded on an H100, replayed from the readings of its sensor."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.forecast_case import Case
from joulelab.forecast.profile import MAIN, Profile, Row

DATA = Path(__file__).parents[1] / "tests" / "data" / "h100"
SECTIONS = 100
CUTS = (0.03, 0.1, 0.3)


def cases() -> list[Case]:
    """Return the forecasts of every training span at every cut."""
    with gzip.open(DATA / "zoo_power_samples.csv.gz", "rt") as file:
        t_s, power_mw = np.loadtxt(file, delimiter=",", skiprows=1, unpack=True)
    # Each reading is the mean over the time before its timestamp.
    energy_j = np.concatenate(([0.0], np.cumsum(np.diff(t_s) * power_mw[1:] * 1e-3)))
    with (DATA / "zoo_spans.csv").open() as file:
        spans = [span for span in csv.DictReader(file) if span["phase"] == "train"]
    return [
        case
        for span in spans
        for case in _replayed(
            f"{span['model']} {span['block']}",
            np.diff(
                np.interp(
                    np.linspace(float(span["start_s"]), float(span["stop_s"]), SECTIONS + 1),
                    t_s,
                    energy_j,
                )
            ),
            float(span["stop_s"]) - float(span["start_s"]),
        )
    ]


def _replayed(name: str, energy_j: np.ndarray, duration_s: float) -> Iterator[Case]:
    for cut in CUTS:
        seen = energy_j[: round(cut * SECTIONS)]
        rows = [Row(phase=MAIN, duration_s=duration_s / SECTIONS, gross_j=float(j)) for j in seen]
        yield Case(
            name=name,
            cut=cut,
            truth_j=float(energy_j.sum()),
            truth_s=duration_s,
            forecast=Profile(rows).forecast(SECTIONS),
            first_j=float(energy_j[0]) * SECTIONS,
            mean_j=float(seen.mean()) * SECTIONS,
        )
