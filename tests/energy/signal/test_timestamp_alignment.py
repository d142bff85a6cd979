"""The regular grid of a sensor's timestamps, and their latency."""

import numpy as np
import pytest

from joulelab.energy.signal import timestamp_alignment
from joulelab.energy.signal.timestamp_alignment import regular_times, timestamp_latency

PERIOD_S = 0.02
PRIOR_S = 0.0015


@pytest.mark.parametrize("count", [100, 3000])
def test_independent_jitter_is_smoothed_away(count):
    rng = np.random.default_rng(1)
    grid_s = PERIOD_S * np.arange(count)
    jitter_s = 0.005 * np.clip(rng.standard_normal(count), -1.8, 1.8)
    times, left_s = regular_times(grid_s + jitter_s, PERIOD_S)
    off_s = times - grid_s
    assert np.sqrt(np.mean(off_s**2)) < 3 * left_s
    assert left_s < 0.6e-3
    assert (np.diff(times) >= 0).all()


def test_late_timestamps_hardly_move_the_grid():
    rng = np.random.default_rng(2)
    grid_s = PERIOD_S * np.arange(2000)
    late_s = np.where(rng.uniform(size=2000) < 0.3, rng.uniform(0.002, 0.013, 2000), 0.0)
    times, _ = regular_times(grid_s + late_s, PERIOD_S)
    assert np.abs(times - grid_s).max() < 0.5e-3


def test_a_missing_reading_is_distinguished_from_a_late_one():
    rng = np.random.default_rng(3)
    taken = np.delete(np.arange(2000), [400, 425, 1200])
    stamps_s = PERIOD_S * taken + 0.003 * rng.standard_normal(taken.size)
    stamps_s[700] += 0.015
    times, _ = regular_times(np.sort(stamps_s), PERIOD_S)
    assert np.abs(times - PERIOD_S * taken)[30:-30].max() < 0.002


@pytest.mark.parametrize(("readings", "run"), [(30, 1 << 16), (377, 1 << 16), (1 << 12, 1000)])
def test_a_grid_is_the_same_from_some_readings_at_a_time(monkeypatch, readings, run):
    rng = np.random.default_rng(3)
    taken = np.delete(np.arange(2100), [400, 425, 1200])
    grid_s = PERIOD_S * taken + 3.0071 * (taken // 700)
    stamps_s = np.sort(grid_s + 0.003 * rng.standard_normal(taken.size))
    expected, _ = regular_times(stamps_s, PERIOD_S)
    monkeypatch.setattr(timestamp_alignment, "LEVELS_AT_A_TIME", readings)
    monkeypatch.setattr(timestamp_alignment, "MAX_RUN", run)
    found, _ = regular_times(stamps_s, PERIOD_S)
    assert found == pytest.approx(expected, abs=1e-9)
    assert np.abs(found - grid_s).max() < 0.01


def test_clocks_that_drift_apart_are_followed():
    rng = np.random.default_rng(4)
    grid_s = PERIOD_S * (1 + 50e-6) * np.arange(20_000)
    times, _ = regular_times(grid_s + 0.003 * rng.standard_normal(grid_s.size), PERIOD_S)
    assert np.abs(times - grid_s)[300:-300].max() < 1e-3


def test_a_sensor_without_a_grid_keeps_its_timestamps():
    rng = np.random.default_rng(5)
    stamps_s = np.cumsum(PERIOD_S + 0.002 * rng.standard_normal(3000))
    times, left_s = regular_times(stamps_s, PERIOD_S)
    assert np.abs(times - stamps_s).max() < 0.002
    assert left_s < 0.001


def test_a_new_grid_begins_after_a_gap():
    rng = np.random.default_rng(6)
    grid_s = PERIOD_S * np.arange(1000)
    grid_s[500:] += 3.0071
    times, _ = regular_times(grid_s + 0.003 * rng.standard_normal(1000), PERIOD_S)
    assert np.abs(times - grid_s).max() < 0.003


def test_a_few_timestamps_stay_as_they_are():
    stamps_s = np.array([0.0, 0.021, 0.039])
    times, left_s = regular_times(stamps_s, PERIOD_S)
    assert times is stamps_s
    assert left_s == 0.0


@pytest.mark.parametrize("latency_s", [-0.002, 0.0, 0.0024])
def test_steps_at_change_points_determine_the_latency(latency_s):
    points_s = np.cumsum(np.random.default_rng(1).uniform(0.2, 0.5, 40))
    found_s, left_s = timestamp_latency(points_s + latency_s, points_s, PRIOR_S, 0.0002)
    assert found_s == pytest.approx(latency_s, abs=0.0003)
    assert left_s < PRIOR_S / 5


def test_change_points_without_a_step_leave_the_prior():
    rng = np.random.default_rng(2)
    steps_s = np.arange(0.0, 20.0, 0.1)
    points_s = [np.sort(rng.uniform(0, 20, 40)) for _ in range(50)]
    found = [timestamp_latency(steps_s, one, PRIOR_S, 0.0002) for one in points_s]
    latency_s, left_s = np.array(found).T
    assert np.sqrt(np.mean(latency_s**2)) < PRIOR_S / 2
    # The stated uncertainty is the true one: the true latency is 0.
    assert np.mean(np.abs(latency_s) < 1.96 * left_s) >= 0.9


def test_some_change_points_without_a_step_do_no_harm():
    rng = np.random.default_rng(3)
    steps_s = np.cumsum(rng.uniform(0.2, 0.5, 40))
    points_s = np.sort(np.concatenate((steps_s - 0.002, rng.uniform(0, steps_s[-1], 20))))
    found_s, left_s = timestamp_latency(steps_s, points_s, PRIOR_S, 0.0002)
    assert found_s == pytest.approx(0.002, abs=0.0004)
    assert left_s < PRIOR_S


def test_without_steps_or_change_points_the_prior_remains():
    none, some = np.zeros(0), np.array([1.0])
    assert timestamp_latency(none, some, PRIOR_S, 0.0) == (0.0, PRIOR_S)
    assert timestamp_latency(some, none, PRIOR_S, 0.0) == (0.0, PRIOR_S)
    assert timestamp_latency(some, some, 0.0, 0.0) == (0.0, 0.0)
