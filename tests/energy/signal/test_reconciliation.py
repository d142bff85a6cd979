"""Several sources of one component: scaled to a counter, and gaps filled."""

from dataclasses import replace

import numpy as np
import pytest
from energy_parts import idle_point, make_channel

from joulelab.energy.baseline import Baseline
from joulelab.energy.energy import sensor_of
from joulelab.energy.estimator import EnergyEstimator
from joulelab.recording.trace import Readings, Trace
from joulelab.recording.trace_spans import Window
from joulelab.sensors.sensor import Quantity, Reading

S = 10**9
SAMPLES = make_channel(source="samples", update_period_s=0.02, window_s=0.02, gain_uncertainty=0.05)
COUNTER = replace(
    SAMPLES,
    source="counter",
    quantity=Quantity.ENERGY,
    update_period_s=0.1,
    window_s=0.0,
    polled=True,
    priority=1,
)


def energy_j(t_s):
    """Energy of 300 W, and of 300 W more for 1 s of every 3.1 s."""
    bursts = np.floor(t_s / 3.1)
    return 300 * t_s + 300 * (bursts + np.clip(t_s - 3.1 * bursts, 0.0, 1.0))


def trace(scale=1.0, samples=SAMPLES, stop_s=200.0):
    """Samples of ``scale`` times the energy of a counter that is read each second."""
    rng = np.random.default_rng(1)
    ends_s = np.arange(0.02, stop_s, 0.02)
    power_w = scale * (energy_j(ends_s) - energy_j(ends_s - 0.02)) / 0.02
    polls_s = np.cumsum(rng.uniform(1.0, 1.02, int(stop_s / 1.02)))
    counted_j = energy_j(np.floor((polls_s - 0.037) / 0.1) * 0.1 + 0.037)
    series = tuple(
        Readings(np.rint(t_s * 1e9).astype(np.int64), value)
        for t_s, value in ((ends_s, power_w), (polls_s, counted_j))
    )
    return Trace((samples, COUNTER), series, header={"intervals_s": [0.5, 1.0]})


def part_of(recorded, start_s, stop_s, baseline=None):
    window = Window(round(start_s * 1e9), round(stop_s * 1e9))
    return EnergyEstimator(recorded, baseline).energies([window])[0].components["gpu:0"]


@pytest.mark.parametrize("scale", [0.95, 1.0, 1.03])
def test_spans_have_the_scale_of_the_counter_and_the_shape_of_the_samples(scale):
    recorded = trace(scale)
    for start_s, stop_s in ((20.0, 180.0), (61.2, 64.3), (93.05, 93.4)):
        part = part_of(recorded, start_s, stop_s)
        assert part.gross_j == pytest.approx(energy_j(stop_s) - energy_j(start_s), rel=0.004)
        assert part.source == "samples+counter"


def test_the_samples_of_a_short_recording_keep_their_scale():
    part = part_of(trace(0.97, stop_s=5.0), 1.0, 2.0)
    assert part.gross_j == pytest.approx(0.97 * (energy_j(2.0) - energy_j(1.0)), rel=0.015)


def test_sources_that_contradict_each_other_widen_the_interval():
    part = part_of(trace(0.7), 20.0, 180.0)
    truth_j = energy_j(180.0) - energy_j(20.0)
    assert part.source == "samples"
    assert part.gross_j == pytest.approx(0.7 * truth_j, rel=0.001)
    low_j, high_j = part.interval_j
    assert low_j < truth_j < high_j


def test_a_calibrated_scale_is_kept():
    calibrated = replace(SAMPLES, gain_uncertainty=0.01)
    part = part_of(trace(0.97, calibrated), 20.0, 180.0)
    assert part.source == "samples"
    assert part.gain_uncertainty == 0.01


def test_a_counter_that_was_reset_still_gives_the_scale():
    recorded = trace(0.97)
    t_ns, counted_j = recorded.series[1]
    late = t_ns > 100 * S
    reset = Readings(t_ns, counted_j - late * counted_j[late][0])
    part = part_of(replace(recorded, series=(recorded.series[0], reset)), 20.0, 180.0)
    assert part.gross_j == pytest.approx(energy_j(180.0) - energy_j(20.0), rel=0.006)


def test_idle_power_of_the_samples_applies_to_scaled_samples():
    point = idle_point(
        {"gpu:0": 90.0}, uncertainty_w=0.1, source="samples", time_s=1.0, duration_s=1.0
    )
    part = part_of(trace(), 20.0, 30.0, Baseline((point,)))
    assert part.idle_j == pytest.approx(900.0)


def test_a_scaled_span_adds_up_with_one_that_is_not():
    both = part_of(trace(), 20.0, 30.0) + part_of(trace(0.7), 20.0, 30.0)
    assert sensor_of(both.source) == "samples"
    assert both.duration_s == pytest.approx(20.0)


# Filling gaps.


def filled(counted_s):
    """100 W for 20 s; samples are lost from 5 to 15 s, the counter is read at these seconds."""
    samples = replace(SAMPLES, update_period_s=0.1, window_s=0.1, gain_uncertainty=0.0)
    # Its scale is known less well, so that it only fills gaps.
    counter = replace(COUNTER, gain_uncertainty=0.1, polled=False)
    readings = [Reading(i * S // 10, 0, 100.0) for i in range(201) if not 50 < i <= 150]
    readings += [Reading(t_s * S, 1, 100.0 * t_s) for t_s in counted_s]
    estimator = EnergyEstimator(Trace.of([samples, counter], readings))
    [energy] = estimator.energies([Window(2 * S, 18 * S)])
    return energy


@pytest.mark.parametrize(
    ("counted_s", "gap_s"),
    [(range(21), 0.0), (range(8, 21), 3.0), (range(13), 3.0), (range(8, 13), 6.0)],
    ids=["all", "its end", "its begin", "its middle"],
)
def test_a_gap_is_filled_as_far_as_the_other_source_covers_it(counted_s, gap_s):
    part = filled(counted_s).components["gpu:0"]
    assert part.gap_s == pytest.approx(gap_s, abs=0.2)
    assert part.gross_j == pytest.approx(1600.0, rel=1e-6)


def test_a_gap_that_the_other_source_does_not_cover_remains():
    assert filled(range(5)).absent["gpu:0"].startswith("samples covers only 3")


def test_the_uncertainty_falls_as_more_of_a_gap_is_filled():
    uncertainty_j = [
        filled(counted_s).components["gpu:0"].edge_uncertainty_j
        for counted_s in (range(21), range(6, 21), range(8, 21), range(8, 13))
    ]
    assert uncertainty_j == sorted(uncertainty_j)
    assert uncertainty_j[0] < uncertainty_j[-1] / 3
