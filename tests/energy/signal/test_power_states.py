"""Spans that follow each other faster than a sensor's readings."""

from dataclasses import replace

import numpy as np
import pytest
from energy_parts import record_simulated
from hypothesis import given
from hypothesis import strategies as st

from joulelab.energy.estimator import EnergyEstimator
from joulelab.energy.signal import power_states
from joulelab.energy.signal.power_states import posterior_covariance, state_powers
from joulelab.recording.trace_spans import TraceSpan, Window
from joulelab.sensors.simulated import SimulatedSource, Waveform

START_S, LENGTH_S = 5000.0, 30.0
RAPL = {"kind": "counter", "update_period_s": 0.001, "interval_s": 0.1}
RING = {"kind": "samples", "update_period_s": 0.02, "window_s": 0.02, "interval_s": 0.25}
COUNTER = {"kind": "counter", "update_period_s": 0.1, "interval_s": 0.1}
AVERAGE = {"kind": "power", "update_period_s": 0.1, "window_s": 1.0, "interval_s": 0.1}


def record(wave, sensor):
    source = SimulatedSource(component="gpu:0", waveform=wave, gain_uncertainty=0.0, **sensor)
    return record_simulated(source, START_S, LENGTH_S, seed=1)


def windows(starts_s, length_s):
    return [Window(round(t_s * 1e9), round((t_s + length_s) * 1e9)) for t_s in starts_s]


def bursts(period_s, burst_s):
    """A span for each burst, and the windows of bursts and pauses."""
    first = int((START_S - 1) / period_s)
    on_s = [(first + i) * period_s for i in range(int((LENGTH_S + 2) / period_s))]
    spans = [
        TraceSpan("burst", one.start_ns, one.stop_ns, key=(1, i))
        for i, one in enumerate(windows(on_s, burst_s))
    ]
    inside = [t_s for t_s in on_s if START_S + 2 < t_s < START_S + LENGTH_S - 2]
    off_s = [t_s + burst_s for t_s in inside]
    return spans, windows(inside, burst_s), windows(off_s, period_s - burst_s)


def square(period_s, burst_s):
    """Bursts of 600 W over 100 W."""
    return Waveform.square(low_w=100, high_w=600, period_s=period_s, duty=burst_s / period_s)


def errors(estimator, spans, power_w):
    """Return the relative errors, and the share of spans whose interval covers the truth."""
    truth_j = np.array([power_w * (one.stop_ns - one.start_ns) * 1e-9 for one in spans])
    energies = estimator.energies(spans)
    off = np.array([energy.gross_j for energy in energies]) / truth_j - 1
    low_j, high_j = np.array([energy.interval_j for energy in energies]).T
    return np.abs(off), np.mean((low_j <= truth_j) & (truth_j <= high_j))


@pytest.mark.parametrize("sensor", [RAPL, RING], ids=["rapl", "ring"])
@pytest.mark.parametrize(("period_s", "burst_s"), [(0.2, 0.06), (0.23, 0.1), (0.053, 0.02)])
def test_bursts_shorter_than_an_interval_get_their_joules(sensor, period_s, burst_s):
    spans, on, off = bursts(period_s, burst_s)
    estimator = EnergyEstimator(replace(record(square(period_s, burst_s), sensor), spans=spans))
    for chosen, power_w in ((on, 600), (off, 100)):
        error, _ = errors(estimator, chosen, power_w)
        assert np.median(error) < 0.02
        assert np.percentile(error, 90) < 0.06


@pytest.mark.parametrize("sensor", [RAPL, COUNTER, AVERAGE], ids=["rapl", "counter", "average"])
@pytest.mark.parametrize(("period_s", "burst_s"), [(0.2, 0.1), (0.5, 0.25), (0.1, 0.05)])
def test_states_that_cannot_be_separated_have_a_wide_interval(sensor, period_s, burst_s):
    spans, on, off = bursts(period_s, burst_s)
    estimator = EnergyEstimator(replace(record(square(period_s, burst_s), sensor), spans=spans))
    for chosen, power_w in ((on, 600), (off, 100)):
        _, covered = errors(estimator, chosen, power_w)
        assert covered >= 0.93


def test_spans_that_change_nothing_keep_the_same_power():
    spans, on, off = bursts(0.05, 0.02)
    estimator = EnergyEstimator(replace(record(Waveform.constant(300), RAPL), spans=spans))
    error, _ = errors(estimator, on + off, 300)
    assert error.max() < 0.02


@pytest.mark.parametrize("sensor", [RING, AVERAGE], ids=["ring", "average"])
def test_powers_are_the_same_from_some_readings_at_a_time(sensor, monkeypatch):
    spans, on, off = bursts(0.053, 0.02)
    trace = replace(record(square(0.053, 0.02), sensor), spans=spans)
    monkeypatch.setattr(power_states, "READINGS_PER_FIT", 32)
    whole = EnergyEstimator(trace).energies(on + off)
    monkeypatch.setattr(power_states, "READINGS_AT_A_TIME", 64)
    parts = EnergyEstimator(trace).energies(on + off)
    for one, other in zip(whole, parts, strict=True):
        assert other.gross_j == pytest.approx(one.gross_j, rel=1e-9)
        assert other.interval_j == pytest.approx(one.interval_j, rel=1e-6)


def powers(share, power):
    """The powers of two states, of which the first has this share of each reading."""
    shares = np.stack((share, 1 - share), axis=1)
    return state_powers(shares, power, np.ones(share.size, dtype=bool), np.zeros(shares.shape))


def test_states_are_separated_by_readings_with_different_shares():
    share = np.linspace(0, 1, 50)
    assert powers(share, 100 + 400 * share).power_w[0] == pytest.approx([500, 100], abs=1e-3)


def test_a_state_without_readings_stays_unknown():
    found = powers(np.ones(40), np.full(40, 200.0))
    assert found.power_w[0, 0] == pytest.approx(200.0)
    assert found.uncertainty_w[0, 0] < 1.0
    assert found.uncertainty_w[0, 1] == pytest.approx(200.0)


def test_powers_change_as_training_goes_on():
    share = np.random.default_rng(1).uniform(0, 1, 2000)
    level = np.where(np.arange(2000) < 1024, 100.0, 400.0)
    found = powers(share, share * level + (1 - share) * 50)
    assert found.power_w[0] == pytest.approx([100, 50], abs=0.5)
    assert found.power_w[-1] == pytest.approx([400, 50], abs=0.5)


@pytest.mark.parametrize("power_w", [0.0, 1e-9, 50.0, 1e6])
def test_equal_readings_are_solved(power_w):
    found = state_powers(
        np.full((100, 3), 1 / 3), np.full(100, power_w), np.ones(100) > 0, np.zeros((100, 3))
    )
    assert found.power_w[0] == pytest.approx([power_w] * 3, abs=1e-3)
    assert np.isfinite(found.uncertainty_w).all()
    assert np.isfinite(found.scatter_w).all()


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 1e-9, 1.0, 1e6]), st.integers(1, 5))
def test_powers_that_nothing_separates_keep_their_prior_variance(seed, reading_w2, same):
    share = np.random.default_rng(seed).random(20)
    shares = np.repeat(share[:, None], same, axis=1)
    covariance = posterior_covariance(shares.T @ shares, reading_w2, 100.0)
    assert np.isfinite(covariance).all()
    if same > 1:
        assert covariance[0, 0] - covariance[0, 1] == pytest.approx(100.0, rel=1e-6)
