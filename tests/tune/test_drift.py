"""Noticing that the time or power of steps has changed, and only then."""

import math

import numpy as np
import pytest

from joulelab.tune.drift import GROUP, DriftTest
from joulelab.tune.probes import Probe
from joulelab.tune.result import Estimate, Result

SCATTER = 0.01


def windows(rng, n, duration_s=1.0, power_w=200.0):
    for _ in range(n):
        time = duration_s * math.exp(rng.normal(0.0, SCATTER))
        power = power_w * math.exp(rng.normal(0.0, SCATTER))
        yield Probe({}, time, time * power)


def looks_until_change(test, probes):
    """Return the change and the number of windows until it was found, or ``None`` and all."""
    for n, probe in enumerate(probes, 1):
        change = test.add(probe)
        if change is not None:
            return change, n
    return None, n


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"duration_s": 1.06}, "the time of a step has changed by +6"),
        ({"power_w": 180.0}, "the power has changed by -1"),
    ],
)
def test_a_change_beyond_the_scatter_is_found_within_three_groups(changed, text):
    rng = np.random.default_rng(1)
    test = DriftTest((0.0, 0.0))
    assert looks_until_change(test, windows(rng, 5 * GROUP)) == (None, 5 * GROUP)
    change, n = looks_until_change(test, windows(rng, 20 * GROUP, **changed))
    assert n <= 3 * GROUP
    assert str(change).startswith(text)


def test_steady_steps_are_searched_again_in_at_most_one_training_of_twenty():
    rng = np.random.default_rng(2)
    trainings = 100
    found = [
        looks_until_change(DriftTest((0.0, 0.0)), windows(rng, 20 * GROUP))[0]
        for _ in range(trainings)
    ]
    # Binomial with p = 0.05: more than 10 of 100 in 1 % of cases.
    assert sum(one is not None for one in found) <= 10


def test_a_change_within_what_the_search_left_open_does_not_count():
    rng = np.random.default_rng(3)
    result = Result(
        {"power_limit": 200.0}, {"power_limit": 300.0}, Estimate(0.1, 0.05, 0.15),
        Estimate(0.02, -0.03, 0.07), 9, (), "",
    )  # fmt: skip
    test = DriftTest.of(result)
    assert test.tolerances[0] == pytest.approx(math.log(1.07 / 0.97) / 2)
    looks_until_change(test, windows(rng, 2 * GROUP))
    assert looks_until_change(test, windows(rng, 20 * GROUP, duration_s=1.03))[0] is None
    assert looks_until_change(test, windows(rng, 20 * GROUP, duration_s=1.09))[0] is not None
