"""Errors of windows of known energy, on the simulated ring of an H100.

``python -m benchmarks.window_errors`` prints, for each waveform and length, the median and the 90th
percentile of the error's size and the mean signed error, in percent of the truth, over thousands of
windows at random phase. Boards are drawn at random, without gain error: the remaining error is the
estimator's. *ideal*: timestamps at the end of each reading's window. *rough*: timestamps 0 to 5 ms
late, constant on a board; 5 ms of jitter about a regular grid; 3 W of noise.
"""

from __future__ import annotations

import argparse

import numpy as np

from benchmarks.boards import (
    Kind,
    Power,
    Source,
    ramps,
    square,
    steady,
    telegraph,
    with_spans,
)
from joulelab.arrays import Floats
from joulelab.energy.estimator import EnergyEstimator
from joulelab.recording.trace_spans import Window
from joulelab.sensors.nvml_accuracy import LATEST_S, RING_PERIOD_S
from joulelab.sensors.nvml_channels import ring_channel

COMPONENT = "gpu:0"
RING = 120
JITTER_S = 0.005
NOISE_W = 3.0
READ_INTERVAL_S = 0.5
LENGTHS_S = (0.05, 0.1, 0.3, 1.0, 10.0, 60.0)
SPREAD = 0.1
"""Lengths of windows vary by this share."""
PAUSE_S = 0.3
"""Mean time between two windows."""
LIMITS_PCT = {0.05: 4.0, 0.1: 2.0, 0.3: 1.0, 1.0: 1.0}
"""Limits of the median error by window length; three times that for the 90th percentile."""
BURST_S, BURST_PERIOD_S = 0.06, 0.2003
WAVES = ("steady", "square", "ramps", "telegraph", "bursts")


def kind(name: str, rng: np.random.Generator) -> Kind:
    """Describe the ring from 120 timestamps that are ``"ideal"`` or ``"rough"``."""
    jitter_s = JITTER_S if name == "rough" else 0.0
    stamps_us = 1e6 * (np.arange(RING) * RING_PERIOD_S + jitter_s * rng.standard_normal(RING))
    channel = ring_channel(COMPONENT, np.sort(np.rint(stamps_us)).astype(int).tolist(), 0.0)
    source = Source(channel=channel, interval_s=READ_INTERVAL_S, late_s=(0.0, 0.0))
    if name == "rough":
        source = Source(
            channel=channel,
            interval_s=READ_INTERVAL_S,
            noise_w=NOISE_W,
            jitter_s=JITTER_S,
            late_s=(0.0, LATEST_S),
        )
    return Kind(name, (source,), exact=True)


def power_of(wave: str, length_s: float, rng: np.random.Generator) -> Power:
    """Return a waveform of 100 to 600 W at random phase."""
    if wave == "steady":
        return steady(length_s, 350.0)
    if wave == "ramps":
        return ramps(length_s, 100.0, 600.0, 2.0, rng.uniform(0, 2.0))
    if wave == "telegraph":
        return telegraph(length_s, (100.0, 250.0, 600.0), 0.4, rng)
    duty = BURST_S / BURST_PERIOD_S if wave == "bursts" else 0.5
    return square(length_s, 100.0, 600.0, BURST_PERIOD_S, duty, 0.0)


def windows_of(wave: str, window_s: float, count: int, rng: np.random.Generator) -> Floats:
    """Return consecutive windows at random distances; each burst is a window. Shape: (count, 2)."""
    if wave == "bursts":
        starts_s = BURST_PERIOD_S * np.arange(10, 10 + count)
        return np.stack((starts_s, starts_s + BURST_S), axis=1)
    lengths_s = window_s * rng.uniform(1 - SPREAD, 1 + SPREAD, count)
    pauses_s = rng.exponential(PAUSE_S, count)
    starts_s = 2.0 + np.cumsum(pauses_s) + np.append(0.0, np.cumsum(lengths_s)[:-1])
    return np.stack((starts_s, starts_s + lengths_s), axis=1)


def errors_pct(
    name: str, wave: str, window_s: float, count: int, rng: np.random.Generator
) -> Floats:
    """Return the errors of windows on one board. Shape: (count,)."""
    spans_s = windows_of(wave, window_s, count, rng)
    length_s = float(spans_s[-1, 1]) + 2.0
    power = power_of(wave, length_s, rng)
    trace = kind(name, rng).record(power, 0.0, length_s, rng)
    trace = with_spans(trace, ["window"] * count, spans_s[:, 0], spans_s[:, 1])
    windows = [Window(round(a * 1e9), round(b * 1e9)) for a, b in spans_s.tolist()]
    found = EnergyEstimator(trace).energies(windows)
    gross_j = np.array([energy.gross_j for energy in found])
    truth_j = power.energy_j(spans_s[:, 1]) - power.energy_j(spans_s[:, 0])
    return np.asarray(100 * (gross_j / truth_j - 1))


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.window_errors", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--boards", type=int, default=100, help="boards for each case; default 100")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    for name in ("ideal", "rough"):
        for wave in WAVES:
            for window_s in (BURST_S,) if wave == "bursts" else LENGTHS_S:
                # Board, wave and windows are the same whichever other cases are run.
                rng = np.random.default_rng((options.seed, WAVES.index(wave), int(1e3 * window_s)))
                count = max(4, round(40 * min(1.0, 1 / window_s)))
                error_pct = np.concatenate(
                    [errors_pct(name, wave, window_s, count, rng) for _ in range(options.boards)]
                )
                median_pct, p90_pct = np.percentile(np.abs(error_pct), (50, 90))
                limit_pct = LIMITS_PCT.get(window_s, 4.0 if wave == "bursts" else 1.0)
                within = median_pct <= limit_pct and p90_pct <= 3 * limit_pct
                verdict = "" if within else "  exceeds its limit"
                print(
                    f"{name} {wave:10} {window_s:6.3g} s {error_pct.size:6} windows: "
                    f"{median_pct:5.2f} / {p90_pct:5.2f} / {error_pct.mean():+5.2f} %{verdict}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
