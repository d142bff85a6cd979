"""A thinned recording gives the same energies as the whole one."""

from dataclasses import replace

import numpy as np
import pytest
from energy_parts import make_channel

from joulelab.energy.estimator import EnergyEstimator
from joulelab.energy.signal import thinning
from joulelab.recording.trace import Readings, Trace
from joulelab.recording.trace_spans import TraceSpan, Window
from joulelab.sensors.sensor import Quantity

S = 10**9
SAMPLES = make_channel(source="samples", update_period_s=0.02, window_s=0.02)
POLLED = replace(SAMPLES, source="polled", update_period_s=0.1, window_s=0.025, polled=True)
AVERAGE = replace(SAMPLES, source="average", update_period_s=0.1, window_s=1.0, polled=True)
COUNTER = replace(
    SAMPLES,
    source="counter",
    quantity=Quantity.ENERGY,
    update_period_s=0.1,
    window_s=0.0,
    polled=True,
)
RAPL = replace(COUNTER, source="rapl", component="cpu:0", update_period_s=0.001, wrap=262144.0)
LENGTH_S = 800.0


def energy_j(t_s):
    """Energy of 100 W and bursts of 500 W more, 60 ms long, three a second, on a slow wave."""
    burst_s = np.floor(t_s * 3) * 0.06 + np.minimum((t_s * 3 % 1) / 3, 0.06)
    return 100 * t_s + 500 * burst_s + 30 * 10 * (1 - np.cos(t_s / 10))


def recorded(channel, interval_s, seed=1):
    rng = np.random.default_rng(seed)
    t_s = 5 + np.arange(0, LENGTH_S, interval_s)
    t_s += rng.uniform(0, 0.1 * interval_s, t_s.size)
    if channel.quantity is Quantity.ENERGY:
        value = energy_j(t_s) % (channel.wrap or np.inf)
    else:
        middle_s = t_s - channel.window_s
        value = (energy_j(t_s) - energy_j(middle_s)) / channel.window_s
    value += rng.normal(0, 1.0, t_s.size) * (channel.quantity is Quantity.POWER)
    return Readings(np.rint(t_s * S).astype(np.int64), value)


def windows(count=60, seed=2):
    rng = np.random.default_rng(seed)
    lengths_s = np.exp(rng.uniform(np.log(0.05), np.log(300.0), count))
    starts_s = rng.uniform(8.0, LENGTH_S - 2 - lengths_s)
    return [
        Window(round(a * S), round((a + b) * S)) for a, b in zip(starts_s, lengths_s, strict=True)
    ]


def both(monkeypatch, channels, readings, intervals_s, windows, spans=()):
    """Return the energies of windows from the whole recording, and from the thinned one."""
    trace = Trace(
        tuple(channels), tuple(readings), header={"intervals_s": intervals_s}, spans=spans
    )
    whole = EnergyEstimator(trace).energies(windows)
    monkeypatch.setattr(thinning, "MIN_READINGS", 1000)
    monkeypatch.setattr(thinning, "MAX_KEPT", 0.9)
    monkeypatch.setattr(thinning, "BLOCK", 7777)
    omitted = []
    thin = thinning.thin

    def watched(*args):
        found = thin(*args)
        omitted.append(found.after.size)
        return found

    monkeypatch.setattr("joulelab.energy.signal.thin", watched)
    thinned = EnergyEstimator(trace).energies(windows)
    assert max(omitted) > 10, "nothing was thinned, so that nothing is tested"
    return whole, thinned


@pytest.mark.parametrize(
    ("channel", "interval_s"),
    [(SAMPLES, 0.02), (POLLED, 0.1), (AVERAGE, 0.1), (COUNTER, 0.1), (RAPL, 0.05)],
    ids=lambda one: getattr(one, "source", ""),
)
def test_energies_and_intervals_are_the_same(monkeypatch, channel, interval_s):
    readings = recorded(channel, interval_s)
    spans = windows(20)
    named = [TraceSpan("a", one.start_ns, one.stop_ns, key=(1, i)) for i, one in enumerate(spans)]
    whole, thin = both(monkeypatch, [channel], [readings], [interval_s], spans, named)
    for one, other in zip(whole, thin, strict=True):
        a, b = (energy.components[channel.component] for energy in (one, other))
        assert b.gross_j == pytest.approx(a.gross_j, abs=0.3 * a.uncertainty_j + 1e-6)
        assert b.gross_j == pytest.approx(a.gross_j, rel=0.01 if a.duration_s > 1 else 0.05)
        # The powers of states are estimated from the readings that are kept.
        if channel is not AVERAGE:
            assert a.uncertainty_j / 2 - 0.01 < b.uncertainty_j < 2 * a.uncertainty_j + 0.01
        assert b.gap_s == pytest.approx(a.gap_s, abs=1e-6)


def test_a_counter_may_wrap_many_times_between_two_edges(monkeypatch):
    channel = replace(RAPL, wrap=500.0)
    spans = [Window(20 * S, 700 * S), Window(100 * S, 650 * S)]
    _, thin = both(monkeypatch, [channel], [recorded(channel, 0.05)], [0.05], [*spans, *windows(9)])
    for span, energy in zip(spans, thin, strict=False):
        truth_j = energy_j(span.stop_ns / S) - energy_j(span.start_ns / S)
        assert energy.gross_j == pytest.approx(truth_j, rel=1e-3)


def test_holes_lost_readings_and_resets_are_kept(monkeypatch):
    t_ns, value = recorded(COUNTER, 0.1)
    value = value - (t_ns > 300 * S) * value[t_ns > 300 * S][0]
    value[(t_ns > 500 * S) & (t_ns < 504 * S)] = np.nan
    keep = (t_ns < 600 * S) | (t_ns > 605 * S)
    samples = recorded(SAMPLES, 0.02)
    kept = (samples.t_ns < 400 * S) | (samples.t_ns > 403 * S)
    spans = [Window(50 * S, 750 * S), Window(200 * S, 420 * S), *windows(9)]
    for channel, readings, interval_s in (
        (COUNTER, Readings(t_ns[keep], value[keep]), 0.1),
        (SAMPLES, Readings(samples.t_ns[kept], samples.value[kept]), 0.02),
    ):
        with monkeypatch.context() as patch:
            whole, thin = both(patch, [channel], [readings], [interval_s], spans)
        for one, other in zip(whole, thin, strict=True):
            a, b = one.components["gpu:0"], other.components["gpu:0"]
            assert b.gap_s == pytest.approx(a.gap_s, abs=1e-4)
            assert b.gross_j == pytest.approx(a.gross_j, rel=0.003, abs=0.3)
            assert b.uncertainty_j == pytest.approx(a.uncertainty_j, rel=0.35, abs=0.3)


def test_a_long_failure_stays_a_gap(monkeypatch):
    t_ns, value = recorded(SAMPLES, 0.02)
    value[(t_ns > 300 * S) & (t_ns < 420 * S)] = np.nan
    spans = [Window(50 * S, 750 * S), Window(310 * S, 400 * S), *windows(9)]
    whole, thin = both(monkeypatch, [SAMPLES], [Readings(t_ns, value)], [0.02], spans)
    for one, other in zip(whole, thin, strict=True):
        assert other.absent.keys() == one.absent.keys()
        for a, b in zip(one.components.values(), other.components.values(), strict=True):
            assert b.gap_s == pytest.approx(a.gap_s, abs=1e-3)
            assert b.gross_j == pytest.approx(a.gross_j, rel=0.003, abs=0.3)
            assert b.uncertainty_j == pytest.approx(a.uncertainty_j, rel=0.35, abs=0.3)


def test_a_hole_is_filled_from_another_source(monkeypatch):
    samples, counter = recorded(SAMPLES, 0.02), recorded(COUNTER, 0.1)
    kept = (samples.t_ns < 400 * S) | (samples.t_ns > 403 * S)
    channels = [SAMPLES, replace(COUNTER, priority=1)]
    readings = [Readings(samples.t_ns[kept], samples.value[kept]), counter]
    spans = [Window(100 * S, 700 * S), Window(399 * S, 404 * S), *windows(9)]
    _, thin = both(monkeypatch, channels, readings, [0.02, 0.1], spans)
    for span, energy in zip(spans[:2], thin, strict=False):
        truth_j = energy_j(span.stop_ns / S) - energy_j(span.start_ns / S)
        assert energy.gap_s == pytest.approx(0.0, abs=1e-6)
        assert energy.gross_j == pytest.approx(truth_j, rel=0.01)


def test_nothing_is_omitted_where_edges_are_everywhere(monkeypatch):
    monkeypatch.setattr(thinning, "MIN_READINGS", 1000)
    readings = recorded(SAMPLES, 0.02)
    found = thinning.thin(SAMPLES, readings, 0.02, readings.t_ns[::20] / S)
    assert found.t_ns.size == readings.t_ns.size
    assert found.after.size == 0
