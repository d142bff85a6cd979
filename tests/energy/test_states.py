"""Spans that follow each other faster than a sensor's readings."""

import random
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from joulelab.energy.estimator import EnergyEstimator
from joulelab.energy.signal.change_points import ChangePoints
from joulelab.energy.signal.power_states import state_powers
from joulelab.recording.trace import Trace
from joulelab.recording.trace_spans import TraceSpan, Window
from joulelab.sensors.simulated import SimulatedSource, Waveform

START_S, LENGTH_S = 5000.0, 30.0
RAPL = {"kind": "counter", "update_period_s": 0.001, "interval_s": 0.1}
RING = {"kind": "samples", "update_period_s": 0.02, "window_s": 0.02, "interval_s": 0.25}
COUNTER = {"kind": "counter", "update_period_s": 0.1, "interval_s": 0.1}
AVERAGE = {"kind": "power", "update_period_s": 0.1, "window_s": 1.0, "interval_s": 0.1}


def bursts(sensor, period_s, burst_s, seed=1):
    """A trace of bursts of 600 W over 100 W, each a span, and the windows of bursts and pauses."""
    rng = random.Random(seed)
    wave = Waveform.square(low_w=100, high_w=600, period_s=period_s, duty=burst_s / period_s)
    source = SimulatedSource(component="gpu:0", waveform=wave, gain_uncertainty=0.0, **sensor)
    readings, last_s = [], START_S
    while last_s < START_S + LENGTH_S:
        now_s = last_s + source.interval_s * rng.uniform(1.0, 1.02)
        readings += source.readings(round(last_s * 1e9), round(now_s * 1e9))
        last_s = now_s
    first = int((START_S - 1) / period_s)
    on_s = [(first + i) * period_s for i in range(int((LENGTH_S + 2) / period_s))]
    spans = [
        TraceSpan("burst", round(t_s * 1e9), round((t_s + burst_s) * 1e9), key=(1, i))
        for i, t_s in enumerate(on_s)
    ]
    trace = Trace.of([source.channel()], readings)
    trace = replace(trace, header={"intervals_s": [source.interval_s]}, spans=spans)
    inside = [t_s for t_s in on_s if START_S + 2 < t_s < START_S + LENGTH_S - 2]
    return (
        trace,
        [Window(round(t_s * 1e9), round((t_s + burst_s) * 1e9)) for t_s in inside],
        [Window(round((t_s + burst_s) * 1e9), round((t_s + period_s) * 1e9)) for t_s in inside],
    )


def errors(accounts, windows, power_w):
    truth_j = np.array([power_w * (one.stop_ns - one.start_ns) * 1e-9 for one in windows])
    energies = accounts.energies(windows)
    off = np.array([energy.gross_j for energy in energies]) / truth_j - 1
    held = [
        low <= t <= high
        for (low, high), t in zip((e.interval_j for e in energies), truth_j, strict=True)
    ]
    return np.abs(off), np.mean(held)


@pytest.mark.parametrize("sensor", [RAPL, RING], ids=["rapl", "ring"])
@pytest.mark.parametrize(("period_s", "burst_s"), [(0.2, 0.06), (0.23, 0.1), (0.053, 0.02)])
def test_bursts_shorter_than_an_interval_get_their_joules(sensor, period_s, burst_s):
    trace, on, off = bursts(sensor, period_s, burst_s)
    accounts = EnergyEstimator(trace)
    for windows, power_w in ((on, 600), (off, 100)):
        error, _ = errors(accounts, windows, power_w)
        assert np.median(error) < 0.02
        assert np.percentile(error, 90) < 0.06


@pytest.mark.parametrize("sensor", [RAPL, COUNTER, AVERAGE], ids=["rapl", "counter", "average"])
@pytest.mark.parametrize(("period_s", "burst_s"), [(0.2, 0.1), (0.5, 0.25), (0.1, 0.05)])
def test_what_cannot_be_told_apart_has_a_wide_interval(sensor, period_s, burst_s):
    trace, on, off = bursts(sensor, period_s, burst_s)
    accounts = EnergyEstimator(trace)
    for windows, power_w in ((on, 600), (off, 100)):
        _, held = errors(accounts, windows, power_w)
        assert held >= 0.93


def test_spans_that_change_nothing_are_not_made_unlike():
    steady = Waveform.constant(300)
    trace, on, off = bursts(RAPL, 0.05, 0.02)
    source = SimulatedSource(component="gpu:0", waveform=steady, **RAPL)
    same = Trace.of([source.channel()], source.readings(0, 1))
    readings = [
        one
        for t in np.arange(START_S, START_S + LENGTH_S, 0.101)
        for one in source.readings(0, round(t * 1e9))
    ]
    same = replace(Trace.of([source.channel()], readings), header=trace.header, spans=trace.spans)
    error, _ = errors(EnergyEstimator(same), on + off, 300)
    assert error.max() < 0.02


def test_readings_without_a_state_leave_it_unknown():
    shares = np.stack((np.ones(40), np.zeros(40)), axis=1)
    found = state_powers(shares, np.full(40, 200.0), np.ones(40, dtype=bool), np.zeros((40, 2)))
    assert found.power_w[0, 0] == pytest.approx(200.0)
    assert found.uncertainty_w[0, 0] < 1.0
    assert found.uncertainty_w[0, 1] == pytest.approx(200.0)


def test_powers_change_as_training_goes_on():
    rng = np.random.default_rng(1)
    share = rng.uniform(0, 1, 2000)
    level = np.where(np.arange(2000) < 1024, 100.0, 400.0)
    power = share * level + (1 - share) * 50
    found = state_powers(
        np.stack((share, 1 - share), axis=1), power, np.ones(2000, dtype=bool), np.zeros((2000, 2))
    )
    assert found.power_w[0] == pytest.approx([100, 50], abs=0.5)
    assert found.power_w[-1] == pytest.approx([400, 50], abs=0.5)


ms = st.integers(1, 10_000).map(lambda t_ms: t_ms / 1000)
one_span = st.tuples(st.sampled_from("abc"), ms, ms)
one_window = st.tuples(st.floats(-1, 12), st.floats(0.01, 5))


@given(st.lists(one_span, min_size=1, max_size=20), st.lists(one_window, min_size=1, max_size=8))
@settings(max_examples=100, deadline=None)
def test_shares_are_those_of_the_spans_that_are_open(given_spans, windows):
    names = np.array([name for name, _, _ in given_spans])
    start_s = np.array([start for _, start, _ in given_spans])
    stop_s = start_s + np.array([length for _, _, length in given_spans])
    marks = ChangePoints.of_spans(names, np.stack((start_s, stop_s), axis=1), np.zeros(0))
    begin_s = np.array([begin for begin, _ in windows])
    end_s = begin_s + np.array([length for _, length in windows])
    shares = marks.state_shares(begin_s, end_s)
    assert shares.sum(axis=1) == pytest.approx(1.0)
    assert (shares > -1e-9).all()
    # Between two marks the set of open names is one.
    middles = (marks.time_s[1:] + marks.time_s[:-1]) / 2
    open_names = [
        frozenset(names[(start_s < middle_s) & (middle_s < stop_s)]) for middle_s in middles
    ]
    states = marks.state[1:-1].tolist()
    for (names_a, state_a), (names_b, state_b) in pairwise(zip(open_names, states, strict=True)):
        assert (names_a == names_b) == (state_a == state_b)


def test_too_many_kinds_of_spans_are_not_told_apart():
    names = np.array([f"kind {i}" for i in range(100)])
    starts = np.arange(100.0)
    assert (
        ChangePoints.of_spans(
            names, np.stack((starts, starts + 0.5), axis=1), np.zeros(0)
        ).state.max()
        == 0
    )
