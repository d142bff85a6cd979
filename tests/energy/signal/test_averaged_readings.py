"""Readings that average over many update periods.

Restored steps of real and simulated logs are in ``tests/logs``.
"""

import numpy as np

from joulelab.energy.signal.averaged_readings import Pace, groups, is_moving_average


def test_a_moving_average_is_recognised_by_its_ramps():
    t_s = np.arange(0, 20, 0.1)
    power_w = np.where((t_s > 5) & (t_s < 15), 300.0, 100.0)
    smooth_w = np.convolve(power_w, np.ones(10) / 10)[: power_w.size]
    pace = Pace(0.1, 0.1, polled=False)
    assert is_moving_average(t_s, power_w, pace) is False
    assert is_moving_average(t_s[10:], smooth_w[10:], pace) is True
    assert is_moving_average(t_s, np.full(t_s.size, 100.0), pace) is None


def test_change_points_with_less_than_a_window_between_them_are_one_group():
    found = groups(np.array([1.0, 1.5, 5.0]), 1.0)
    assert [group.tolist() for group in found] == [[1.0, 1.5], [5.0]]
