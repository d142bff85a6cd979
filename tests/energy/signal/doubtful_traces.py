"""Traces of sources whose readings cannot be, or contradict each other."""

from dataclasses import replace

import numpy as np

from joulelab.energy.estimator import EnergyEstimator
from joulelab.recording.trace import Readings, Trace
from joulelab.recording.trace_spans import Window
from joulelab.sensors.sensor import Channel, Provenance, Quantity

RAPL = Channel(
    component="cpu:0",
    quantity=Quantity.ENERGY,
    source="rapl.package-0",
    provenance=Provenance.MEASURED,
    update_period_s=1e-3,
    polled=True,
    gain_uncertainty=0.05,
    wrap=262_143.0,
)
COUNTER = replace(
    RAPL, component="gpu:0", source="nvml.energy_counter", update_period_s=0.1, wrap=None,
    max_power_w=1050.0, priority=1,
)  # fmt: skip
POWER = replace(
    COUNTER, quantity=Quantity.POWER, source="nvml.power_usage", window_s=0.1, priority=3
)
RING = replace(
    POWER, source="nvml.samples", update_period_s=0.02, window_s=0.02, polled=False, priority=0
)


def times(duration_s=30.0, interval_s=0.1):
    return 10.0 + np.arange(0.0, duration_s, interval_s)


def trace_of(*sources):
    """A trace of (channel, times in s, values)."""
    channels, t_s, values = zip(*sources, strict=True)
    series = [
        Readings(np.rint(t * 1e9).astype(np.int64), v) for t, v in zip(t_s, values, strict=True)
    ]
    header = {"intervals_s": [float(np.median(np.diff(t))) for t in t_s]}
    return Trace(channels, tuple(series), header=header)


def energy(trace, start_s=12.0, stop_s=38.0):
    window = Window(round(start_s * 1e9), round(stop_s * 1e9))
    estimator = EnergyEstimator(trace)
    [one] = estimator.energies([window])
    assert estimator.total([window]).to_json() == one.to_json()
    return one
