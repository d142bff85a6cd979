"""A span's energy where the GPU's own times are known, and not exactly."""

import math

import pytest

from joulelab.energy.estimator import EnergyEstimator
from joulelab.recording.trace import Trace
from joulelab.recording.trace_spans import Window
from joulelab.sensors.sensor import Channel, Provenance, Quantity, Reading

PERIOD_NS = 10**7
BURST = Window(9 * 10**8, 11 * 10**8, 10**9, 12 * 10**8)
"""The host began and ended 0.1 s before the GPU did."""


def burst(component):
    """100 W, and 600 W from 1.0 to 1.2 s."""
    channel = Channel(
        component=component,
        quantity=Quantity.POWER,
        source="test",
        provenance=Provenance.SIMULATED,
        update_period_s=PERIOD_NS * 1e-9,
        window_s=PERIOD_NS * 1e-9,
    )
    readings = [
        Reading(i * PERIOD_NS, 0, 600.0 if 100 < i <= 120 else 100.0) for i in range(1, 300)
    ]
    return EnergyEstimator(Trace.of([channel], readings))


def edges_j(accounts, component, uncertainty_ns):
    window = Window(
        BURST.start_ns, BURST.stop_ns, BURST.device_start_ns, BURST.device_stop_ns, uncertainty_ns
    )
    return accounts.energies([window])[0].components[component]


def test_a_gpu_is_accounted_over_its_own_times():
    assert edges_j(burst("gpu:0"), "gpu:0", 0).gross_j == pytest.approx(120.0, rel=1e-6)
    assert edges_j(burst("cpu:0"), "cpu:0", 0).gross_j == pytest.approx(70.0, rel=1e-6)


def test_times_that_are_wrong_together_widen_the_interval_by_the_step_that_they_miss():
    accounts = burst("gpu:0")
    exact, unsure = (edges_j(accounts, "gpu:0", ns) for ns in (0, 1_000_000))
    added_j = math.sqrt(unsure.edge_uncertainty_j**2 - exact.edge_uncertainty_j**2)
    assert added_j == pytest.approx(0.001 * 500.0, rel=1e-6)
    assert unsure.gross_j == exact.gross_j


def test_the_gpus_clock_is_nothing_to_the_processor():
    accounts = burst("cpu:0")
    exact, unsure = (edges_j(accounts, "cpu:0", ns) for ns in (0, 1_000_000))
    assert unsure.edge_uncertainty_j == exact.edge_uncertainty_j
