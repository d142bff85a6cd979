import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulelab.llm.sweep import BLOCKS, cost_of_blocks, find_knee
from joulelab.uncertain import UncertainValue

CONCURRENCIES = (1, 2, 4, 8, 16, 32, 64)


def costs(values, scatter=0.01, gain=0.05):
    return {n: UncertainValue(j, {"gain": gain * j}, scatter * j) for n, j in values.items()}


def shape(n, knee):
    """A token's share of a step whose length does not depend on the batch, up to a limit."""
    return 0.05 + 2.0 / min(n, knee)


@pytest.mark.parametrize("knee", [2, 8, 32])
def test_knee_is_where_the_batch_no_longer_grows(knee):
    found = find_knee(costs({n: shape(n, knee) for n in CONCURRENCIES}))
    assert found.concurrency == knee
    assert not found.is_flat
    assert found.text.startswith(f"A token is cheapest at concurrency {knee}: ")
    assert found.text.endswith("beyond it no significant gain.")


def test_knee_at_the_highest_concurrency_says_that_more_may_be_cheaper():
    found = find_knee(costs({n: 1.0 / n for n in CONCURRENCIES}))
    assert found.concurrency == 64
    assert found.to_json()["is_highest"] is True
    assert "more may be cheaper" in found.text


def test_costs_that_rise_again_are_stated():
    found = find_knee(costs({1: 4.0, 8: 1.0, 16: 1.0, 32: 2.0}))
    assert (found.concurrency, found.costlier) == (8, (32,))
    assert "from concurrency 32 on it costs more" in found.text


def test_lower_estimate_beyond_the_knee_is_stated():
    found = find_knee(costs({1: 4.0, 8: 1.0, 16: 0.99, 32: 1.5}))
    assert (found.concurrency, found.lowest) == (8, 16)
    assert found.text.startswith("A token gets no significantly cheaper beyond concurrency 8: ")
    assert found.text.endswith("; the lowest estimate is 0.990 J at 16.")


def test_costs_that_do_not_differ_are_flat():
    found = find_knee(costs({1: 1.0, 2: 0.98, 4: 1.01}, scatter=0.05))
    assert (found.concurrency, found.is_flat) == (1, True)
    assert found.text.startswith("Concurrency makes no significant difference (95 %)")
    assert found.text.endswith("the lowest estimate is 0.980 J at 2.")


def test_shared_errors_do_not_hide_a_difference():
    assert find_knee(costs({1: 1.1, 2: 1.0}, scatter=0.001, gain=0.3)).concurrency == 2
    own = {n: UncertainValue(j, {}, 0.3 * j) for n, j in {1: 1.1, 2: 1.0}.items()}
    assert find_knee(own).is_flat


def test_no_knee_without_two_costs():
    assert find_knee({}) is None
    assert find_knee(costs({4: 1.0})) is None
    assert find_knee({1: UncertainValue(math.nan), 2: UncertainValue(1.0)}) is None


@given(st.lists(st.floats(0.01, 100.0), min_size=2, max_size=7), st.floats(0.0, 0.2))
def test_scatter_lowers_the_knee_and_a_scale_changes_nothing(values, scatter):
    measured = dict(zip(CONCURRENCIES, values, strict=False))
    found = find_knee(costs(measured, scatter)).concurrency
    assert find_knee(costs(measured, 2 * scatter + 0.01)).concurrency <= found
    scaled = {n: 7.0 * j for n, j in measured.items()}
    assert find_knee(costs(scaled, scatter)).concurrency == found


def test_levels_without_a_difference_are_found_to_differ_in_at_most_one_of_twenty():
    rng = np.random.default_rng(0)
    seeds, wrong = 400, 0
    for _ in range(seeds):
        found = {}
        for n in (1, 2, 4):
            tokens = rng.poisson(100, BLOCKS).astype(float)
            energies = [UncertainValue(j) for j in 3.0 * tokens + rng.normal(0, 10.0, BLOCKS)]
            found[n] = cost_of_blocks(energies, tokens)
        wrong += not find_knee(found).is_flat
    assert wrong / seeds < 0.08  # 5 %, and three standard deviations of 400 draws.


def test_interval_of_blocks_covers_the_truth_in_95_of_100():
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(1000):
        tokens = rng.poisson(50, BLOCKS).astype(float)
        energies = [UncertainValue(j) for j in 2.0 * tokens + rng.normal(0, 8.0, BLOCKS)]
        low, high = cost_of_blocks(energies, tokens).interval
        covered += low <= 2.0 <= high
    assert 930 <= covered <= 970


def test_blocks_without_tokens_have_no_cost():
    assert math.isnan(cost_of_blocks([UncertainValue(1.0)] * 3, np.zeros(3)).value)
