"""The variogram of energy within intervals, and the errors that follow from it."""

import numpy as np
import pytest
from energy_parts import make_channel
from hypothesis import given
from hypothesis import strategies as st

from joulelab.energy import signal
from joulelab.energy.estimator import EnergyEstimator
from joulelab.energy.signal.change_points import ChangePoints
from joulelab.energy.signal.timestamp_alignment import Intervals, power_intervals
from joulelab.energy.signal.variability import (
    Variogram,
    interval_variogram,
    unknown_variogram,
    window_spread,
    window_variogram,
)
from joulelab.recording.trace import Readings, Trace
from joulelab.recording.trace_spans import Window
from joulelab.sensors.sensor import Quantity
from joulelab.sensors.simulated import Waveform

S = 10**9
FINE_S = 0.01


def walk(count, rng):
    """Return the energy of power that is independent each 10 ms: 100 W, standard deviation 50 W."""
    return np.append(0.0, np.cumsum(FINE_S * rng.normal(100.0, 50.0, count)))


def intervals(energy_j, every):
    edges_s = FINE_S * np.arange(energy_j.size)[::every]
    return edges_s, np.diff(energy_j[::every]) / np.diff(edges_s)


def law_of(energy_j, every):
    edges_s, power_w = intervals(energy_j, every)
    return interval_variogram(edges_s, power_w, np.ones(power_w.size, dtype=bool))


def test_independent_power_is_a_random_walk_of_energy():
    law = law_of(walk(400_000, np.random.default_rng(1)), 100)
    # Half way through L of a Brownian bridge: D L / 4.
    true_j2 = 50.0**2 * FINE_S * 1.0 / 4
    assert np.median(law.middle_j2) == pytest.approx(true_j2, rel=0.15)
    assert np.median(law.exponent) == pytest.approx(1.0, abs=0.15)


def test_the_variance_of_a_fast_periodic_load_does_not_depend_on_the_interval():
    # Each reading comes at another moment of the load's period: energy is ahead or behind by 5 J.
    energy_j = FINE_S * 300 * np.arange(200_001) + np.random.default_rng(5).normal(0, 5, 200_001)
    for every in (10, 100):
        law = law_of(energy_j, every)
        assert np.median(law.exponent) < 0.2
        # From 32 readings a is known to 0.3 or so, and never below 0: the variance is a bit low.
        assert np.median(law.middle_j2) == pytest.approx(1.5 * 5**2, rel=0.25)


def test_steady_power_with_rare_steps_hardly_varies():
    edges_s = np.arange(201.0)
    power_w = np.where(np.arange(200) % 50 < 25, 100.0, 400.0)
    law = interval_variogram(edges_s, power_w, np.ones(200, dtype=bool))
    # Single steps of 300 W within one of 32 readings: 75 J² each way at most.
    assert law.middle_j2.max() < 0.001 * 300.0**2


def test_windows_give_the_same_variogram_as_intervals():
    energy_j = walk(400_000, np.random.default_rng(2))
    ends = np.arange(100, 400_000, 10)
    power_w = (energy_j[ends] - energy_j[ends - 100]) / 1.0
    law = window_variogram(FINE_S * (ends - 50), power_w, np.ones(ends.size, dtype=bool), 1.0, 0.1)
    assert np.median(law.middle_j2) == pytest.approx(50.0**2 * FINE_S / 4, rel=0.15)
    assert np.median(law.exponent) == pytest.approx(1.0, abs=0.2)


@pytest.mark.parametrize("usable", [np.zeros(100, dtype=bool), np.arange(100) % 2 == 0])
def test_without_usable_neighbours_the_variogram_is_unknown(usable):
    rng = np.random.default_rng(3)
    law = interval_variogram(np.arange(101.0), rng.normal(100, 30, 100), usable)
    assert not law.middle_j2.any()


@pytest.mark.parametrize("apart_s", [0.5, 2.0, 3.0, 3.9, 4.1, 6.0, 12.0, 500.0])
def test_intervals_with_a_change_point_do_not_count(apart_s):
    rng = np.random.default_rng(4)
    edges_s = np.cumsum(rng.uniform(0.98, 1.02, 401))
    power_w, middle_s = rng.normal(100, 30, 400), (edges_s[1:] + edges_s[:-1]) / 2
    no = np.zeros(400, dtype=bool)
    found = Intervals(edges_s, power_w, no, np.full(400, -1), middle_s, no)
    points = ChangePoints.at(np.cumsum(rng.uniform(0.9, 1.0, 900) * apart_s))
    law = signal._variogram(make_channel(quantity=Quantity.ENERGY), found, points, 0.0, 1.0)
    usable = np.diff(np.searchsorted(points.time_s, edges_s)) == 0
    assert law.middle_j2.tolist() == interval_variogram(edges_s, power_w, usable).middle_j2.tolist()
    assert law.middle_j2.any() == (apart_s > 5.0)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_with_a_few_readings_the_variogram_is_unknown(count):
    intervals = interval_variogram(
        np.arange(count + 1.0), np.ones(count), np.ones(count, dtype=bool)
    )
    windows = window_variogram(
        np.arange(float(count)), np.ones(count), np.ones(count) > 0, 10.0, 1.0
    )
    assert not intervals.middle_j2.any()
    assert not windows.middle_j2.any()


@given(
    st.floats(0.0, 1.9),
    st.floats(0.01, 0.99),
    st.floats(0.01, 100.0),
)
def test_the_variance_of_an_interpolation_follows_from_the_variogram(exponent, share, length_s):
    law = Variogram(np.ones(1), np.array([exponent]), np.array([length_s]))
    at_s = length_s * np.array([[0.0], [1.0], [share]])
    found = law.variance_j2(at_s, np.array([[1 - share], [share], [-1.0]]))
    bridge = (1 - share) * share**exponent + share * (1 - share) ** exponent - share * (1 - share)
    assert found[0] == pytest.approx(bridge / (2.0**-exponent - 0.25), rel=1e-6)


def test_an_unknown_variogram_adds_no_variance():
    at_s, weight = np.array([[0.0], [1.0], [0.5]]), np.array([[0.5], [0.5], [-1.0]])
    assert unknown_variogram(1).variance_j2(at_s, weight).tolist() == [0.0]


@pytest.mark.parametrize("window_s", [None, 1.0])
def test_coverage_for_a_load_faster_than_the_readings(window_s):
    """95 % of 400 short spans, whose power no reading shows by itself."""
    rng = np.random.default_rng(4)
    energy_j = walk(60_000, rng)
    t_s = FINE_S * np.arange(energy_j.size)
    if window_s is None:
        read = np.arange(0, energy_j.size, 80)
        value, quantity = energy_j[read], Quantity.ENERGY
    else:
        read = np.arange(100, energy_j.size, 10)
        value, quantity = energy_j[read] - energy_j[read - 100], Quantity.POWER
    channel = make_channel(
        "cpu:0", quantity, update_period_s=float(np.diff(t_s[read])[0]), window_s=window_s or 0.0
    )
    readings = Readings(np.rint(t_s[read] * S).astype(np.int64), value)
    trace = Trace((channel,), (readings,), header={"intervals_s": [channel.update_period_s]})
    start = rng.integers(500, 59_000, 400)
    stop = start + rng.integers(5, 100, 400)
    spans = [Window(round(a * S), round(b * S)) for a, b in zip(t_s[start], t_s[stop], strict=True)]
    parts = [energy.components["cpu:0"] for energy in EnergyEstimator(trace).energies(spans)]
    true_j = energy_j[stop] - energy_j[start]
    low_j, high_j = np.array([part.interval_j for part in parts]).T
    assert 0.9 < np.mean((low_j <= true_j) & (true_j <= high_j)) < 0.995


def averages(load, noise_w=0.0, count=300):
    """Return a channel of 1 s averages each 0.1 s, the times of its readings, and these."""
    t_s = 0.1 * np.arange(10, count)
    energy_j = np.array([load.energy_j(0.0, t) for t in 0.1 * np.arange(count)])
    noise = noise_w * np.random.default_rng(3).standard_normal(count - 10)
    return make_channel(window_s=1.0), t_s, energy_j[10:] - energy_j[:-10] + noise


@pytest.mark.parametrize("period_s", [1.15, 1.2, 1.25])
def test_averages_show_a_load_of_about_a_period_a_window_by_how_they_change(period_s):
    load = Waveform.square(low_w=100, high_w=600, period_s=period_s)
    channel, t_s, power_w = averages(load)
    found = power_intervals(channel, t_s, power_w, 0.1, np.zeros(0))
    # The averages themselves differ by less than 30 % of the load's two powers.
    assert np.ptp(power_w) < 150
    assert 300 < np.median(window_spread(channel, found, 0.1)) <= 500

    trace = Trace(
        (channel,),
        (Readings(np.rint(t_s * S).astype(np.int64), power_w),),
        header={"intervals_s": [0.1]},
    )
    spans_s = [(start_s, start_s + 0.15) for start_s in np.arange(5.0, 25.0, 0.11)]
    windows = [Window(round(a * S), round(b * S)) for a, b in spans_s]
    energies = EnergyEstimator(trace).energies(windows)
    covered = [
        one.interval_j[0] <= load.energy_j(*span) <= one.interval_j[1]
        for one, span in zip(energies, spans_s, strict=True)
    ]
    assert np.mean(covered) >= 0.93


def test_noise_of_averages_does_not_look_like_a_load():
    channel, t_s, power_w = averages(
        Waveform.square(low_w=300, high_w=300, period_s=1.0), noise_w=3.0
    )
    found = power_intervals(channel, t_s, power_w, 0.1, np.zeros(0))
    # Without what noise explains, the largest of 20 differences around is 40 W.
    assert np.median(window_spread(channel, found, 0.1)) == 0.0
