"""The energy counter of a real H100 against the driver's power samples of the same seconds.

``tests/data/h100`` has both over 350 s of training and inference; the counter was polled
each 50 ms.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from doubtful_traces import RING, trace_of

from joulelab.energy.estimator import EnergyEstimator
from joulelab.recording.trace_spans import Window
from joulelab.sensors.nvml_channels import counter

H100 = Path(__file__).parents[2] / "data" / "h100"
BEGIN_S = 100.0
COUNTER = replace(counter("gpu:0").channel, gain_uncertainty=0.0)
SAMPLES = replace(RING, gain_uncertainty=0.0)


@pytest.fixture(scope="module")
def recorded():
    counted = pd.read_csv(H100 / "zoo_telemetry.csv.gz")
    samples = pd.read_csv(H100 / "zoo_power_samples.csv.gz")
    return (
        (counted["t_s"].to_numpy() + BEGIN_S, counted["energy_mj"].to_numpy() / 1e3),
        (samples["t_s"].to_numpy() + BEGIN_S, samples["power_mw"].to_numpy() / 1e3),
    )


@pytest.mark.parametrize("interval_s", [0.1, 0.2, 0.5, 1.0, 2.0])
def test_intervals_of_a_polled_counter_hold_the_energy_of_the_samples(recorded, interval_s):
    (counted_s, counted_j), samples = recorded
    random = np.random.default_rng(1)
    by_samples = EnergyEstimator(trace_of((SAMPLES, *samples)))
    held = []
    for first_s in random.uniform(0, interval_s, 8):
        wanted_s = np.arange(counted_s[0] + first_s, counted_s[-1], interval_s)
        polls = np.unique(np.searchsorted(counted_s, wanted_s))
        trace = trace_of((COUNTER, counted_s[polls], counted_j[polls]))
        start_s = random.uniform(counted_s[0] + 5, counted_s[-1] - 10, 60)
        stop_s = start_s + random.choice([0.5, 1, 2, 4], start_s.size)
        spans = [Window(*at) for at in np.rint(np.stack((start_s, stop_s), 1) * 1e9).astype(int)]
        for one, other in zip(
            EnergyEstimator(trace).energies(spans), by_samples.energies(spans), strict=True
        ):
            counter_j, samples_j = one.components["gpu:0"], other.components["gpu:0"]
            half_width_j = np.hypot(
                np.diff(counter_j.interval_j)[0] / 2, np.diff(samples_j.interval_j)[0] / 2
            )
            held.append(abs(counter_j.gross_j - samples_j.gross_j) <= half_width_j)
    assert 0.93 <= np.mean(held) <= 0.985
