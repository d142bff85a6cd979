"""How late stamps are: told by marks at which power stepped, and by no others."""

import numpy as np
import pytest

from joulelab.energy.signal.timestamp_alignment import timestamp_latency

PRIOR_S = 0.0015


@pytest.mark.parametrize("late_s", [-0.002, 0.0, 0.0024])
def test_marks_at_steps_tell_how_late_stamps_are(late_s):
    marks_s = np.cumsum(np.random.default_rng(1).uniform(0.2, 0.5, 40))
    found_s, left_s = timestamp_latency(marks_s + late_s, marks_s, PRIOR_S, 0.0002)
    assert found_s == pytest.approx(late_s, abs=0.0003)
    assert left_s < PRIOR_S / 5


def test_marks_that_are_no_steps_leave_what_was_known():
    rng = np.random.default_rng(2)
    found = [
        timestamp_latency(
            np.arange(0.0, 20.0, 0.1), np.sort(rng.uniform(0, 20, 40)), PRIOR_S, 0.0002
        )
        for _ in range(50)
    ]
    late_s, left_s = np.array(found).T
    assert np.sqrt(np.mean(late_s**2)) < PRIOR_S / 2
    # What is claimed to be left is what is: the true lateness is 0.
    assert np.mean(np.abs(late_s) < 1.96 * left_s) >= 0.9


def test_some_marks_that_are_no_steps_do_no_harm():
    rng = np.random.default_rng(3)
    steps_s = np.cumsum(rng.uniform(0.2, 0.5, 40))
    marks_s = np.sort(np.concatenate((steps_s - 0.002, rng.uniform(0, steps_s[-1], 20))))
    found_s, left_s = timestamp_latency(steps_s, marks_s, PRIOR_S, 0.0002)
    assert found_s == pytest.approx(0.002, abs=0.0004)
    assert left_s < PRIOR_S


def test_without_steps_or_marks_nothing_is_told():
    none, some = np.zeros(0), np.array([1.0])
    assert timestamp_latency(none, some, PRIOR_S, 0.0) == (0.0, PRIOR_S)
    assert timestamp_latency(some, none, PRIOR_S, 0.0) == (0.0, PRIOR_S)
    assert timestamp_latency(some, some, 0.0, 0.0) == (0.0, 0.0)
