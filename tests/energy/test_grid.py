"""A sensor's regular grid, from stamps that jitter about it."""

import numpy as np
import pytest

from joulelab.energy.signal.timestamp_alignment import regular_times

PERIOD_S = 0.02


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


def test_late_stamps_pull_the_grid_by_little():
    rng = np.random.default_rng(2)
    grid_s = PERIOD_S * np.arange(2000)
    late_s = np.where(rng.uniform(size=2000) < 0.3, rng.uniform(0.002, 0.013, 2000), 0.0)
    times, _ = regular_times(grid_s + late_s, PERIOD_S)
    assert np.abs(times - grid_s).max() < 0.5e-3


def test_a_reading_left_out_is_told_from_one_that_is_late():
    rng = np.random.default_rng(3)
    taken = np.delete(np.arange(2000), [400, 425, 1200])
    stamps_s = PERIOD_S * taken + 0.003 * rng.standard_normal(taken.size)
    stamps_s[700] += 0.015
    times, _ = regular_times(np.sort(stamps_s), PERIOD_S)
    assert np.abs(times - PERIOD_S * taken)[30:-30].max() < 0.002


def test_clocks_that_drift_apart_are_followed():
    rng = np.random.default_rng(4)
    grid_s = PERIOD_S * (1 + 50e-6) * np.arange(20_000)
    times, _ = regular_times(grid_s + 0.003 * rng.standard_normal(grid_s.size), PERIOD_S)
    assert np.abs(times - grid_s)[300:-300].max() < 1e-3


def test_a_sensor_that_wanders_keeps_its_stamps():
    rng = np.random.default_rng(5)
    stamps_s = np.cumsum(PERIOD_S + 0.002 * rng.standard_normal(3000))
    times, left_s = regular_times(stamps_s, PERIOD_S)
    assert np.abs(times - stamps_s).max() < 0.002
    assert left_s < 0.001


def test_gaps_begin_the_grid_anew():
    rng = np.random.default_rng(6)
    grid_s = PERIOD_S * np.arange(1000)
    grid_s[500:] += 3.0071
    times, _ = regular_times(grid_s + 0.003 * rng.standard_normal(1000), PERIOD_S)
    assert np.abs(times - grid_s).max() < 0.003


def test_too_few_stamps_are_left_as_they_are():
    stamps_s = np.array([0.0, 0.021, 0.039])
    times, left_s = regular_times(stamps_s, PERIOD_S)
    assert times is stamps_s
    assert left_s == 0.0
