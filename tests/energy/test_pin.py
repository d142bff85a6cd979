"""Samples of power and a counter of the same board, in one account."""

from dataclasses import replace

import numpy as np
import pytest

from joulelab.energy.baseline import Baseline, IdlePoint
from joulelab.energy.energy import sensor_of
from joulelab.energy.estimator import EnergyEstimator
from joulelab.recording.trace import Readings, Trace
from joulelab.recording.trace_spans import Window
from joulelab.sensors.sensor import Channel, Provenance, Quantity

LENGTH_S = 200.0
SAMPLES = Channel(
    component="gpu:0",
    quantity=Quantity.POWER,
    source="samples",
    provenance=Provenance.SIMULATED,
    update_period_s=0.02,
    window_s=0.02,
    gain_uncertainty=0.05,
)
COUNTER = replace(
    SAMPLES,
    source="counter",
    quantity=Quantity.ENERGY,
    update_period_s=0.1,
    window_s=0.0,
    polled=True,
    priority=1,
)
BOTH = "samples+counter"


def energy_j(t_s):
    """Of 300 W, and 300 W more for 1 s of every 3.1 s."""
    bursts = np.floor(t_s / 3.1)
    return 300 * t_s + 300 * (bursts + np.clip(t_s - 3.1 * bursts, 0.0, 1.0))


def trace(scale=1.0, samples=SAMPLES, counter=COUNTER, stop_s=LENGTH_S):
    """Samples that are worth ``scale`` of what the counter counts; it is read each second."""
    rng = np.random.default_rng(1)
    ends_s = np.arange(0.02, stop_s, 0.02)
    power_w = scale * (energy_j(ends_s) - energy_j(ends_s - 0.02)) / 0.02
    polls_s = np.cumsum(rng.uniform(1.0, 1.02, int(stop_s / 1.02)))
    counted_j = energy_j(np.floor((polls_s - 0.037) / 0.1) * 0.1 + 0.037)
    series = tuple(
        Readings(np.rint(t_s * 1e9).astype(np.int64), value)
        for t_s, value in ((ends_s, power_w), (polls_s, counted_j))
    )
    return Trace((samples, counter), series, header={"intervals_s": [0.5, 1.0]})


def part_of(recorded, start_s, stop_s, baseline=None):
    window = Window(round(start_s * 1e9), round(stop_s * 1e9))
    return EnergyEstimator(recorded, baseline).energies([window])[0].components["gpu:0"]


@pytest.mark.parametrize("scale", [0.95, 1.0, 1.03])
@pytest.mark.parametrize("span_s", [(20.0, 180.0), (61.2, 64.3), (93.05, 93.4)])
def test_spans_have_the_counters_scale_and_the_samples_shape(scale, span_s):
    part = part_of(trace(scale), *span_s)
    truth_j = energy_j(span_s[1]) - energy_j(span_s[0])
    assert part.gross_j == pytest.approx(truth_j, rel=0.004)
    assert part.source == BOTH


def test_a_short_recordings_samples_keep_their_scale():
    part = part_of(trace(0.97, stop_s=5.0), 1.0, 2.0)
    assert part.gross_j == pytest.approx(0.97 * (energy_j(2.0) - energy_j(1.0)), rel=0.015)


def test_sources_that_contradict_each_other_are_not_pinned_and_the_interval_says_so():
    part = part_of(trace(0.7), 20.0, 180.0)
    truth_j = energy_j(180.0) - energy_j(20.0)
    assert part.source == "samples"
    assert part.gross_j == pytest.approx(0.7 * truth_j, rel=0.001)
    low_j, high_j = part.interval_j
    assert low_j < truth_j < high_j


def test_a_scale_that_is_known_better_is_kept():
    calibrated = replace(SAMPLES, gain_uncertainty=0.01)
    part = part_of(trace(0.97, calibrated), 20.0, 180.0)
    assert part.source == "samples"
    assert part.gain_uncertainty == 0.01


def test_a_counter_that_was_reset_still_says_what_the_rest_was_worth():
    recorded = trace(0.97)
    t_ns, counted_j = recorded.series[1]
    reset = Readings(t_ns, counted_j - (t_ns > 100 * 10**9) * counted_j[t_ns > 100 * 10**9][0])
    part = part_of(replace(recorded, series=(recorded.series[0], reset)), 20.0, 180.0)
    assert part.gross_j == pytest.approx(energy_j(180.0) - energy_j(20.0), rel=0.006)


def test_idle_power_of_the_same_sensor_counts_pinned_or_not():
    point = IdlePoint(
        time_s=1.0,
        duration_s=1.0,
        power_w={"gpu:0": 90.0},
        uncertainty_w={"gpu:0": 0.1},
        source={"gpu:0": "samples"},
    )
    part = part_of(trace(), 20.0, 30.0, Baseline((point,)))
    assert part.idle_j == pytest.approx(900.0)


def test_a_pinned_span_adds_up_with_one_that_is_not():
    pinned, plain = part_of(trace(), 20.0, 30.0), part_of(trace(0.7), 20.0, 30.0)
    assert sensor_of((pinned + plain).source) == "samples"
    assert (pinned + plain).duration_s == pytest.approx(20.0)
