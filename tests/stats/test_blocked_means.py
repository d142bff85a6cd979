"""Means of cells within blocks, and simultaneous ratios of them."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from joulelab.stats.blocked_means import (
    block_variance,
    blocked_means,
    mean_difference,
    mean_over,
    simultaneous_ratio,
)
from joulelab.stats.difference import Difference


def means_of(values, blocks=None):
    """Means of a table of values. Shape: (cells, repeats); each column is a block."""
    count, repeats = np.shape(values)
    cells = np.repeat(np.arange(count), repeats)
    blocks = np.tile(np.arange(repeats), count) if blocks is None else blocks
    none = np.zeros(count * repeats)
    return blocked_means(np.ravel(values), none, none, cells, blocks)


def test_two_cells_are_a_paired_t_test():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=4), rng.normal(size=4) + 1
    found = mean_difference([tuple(means_of([second, first]))])
    assert found.value == pytest.approx(np.mean(second - first))
    assert found.df == pytest.approx(3)
    assert found.p == pytest.approx(stats.ttest_rel(second, first).pvalue)


@given(st.lists(st.floats(-100, 100), min_size=3, max_size=3))
def test_what_a_block_has_in_common_cancels(shifts):
    rng = np.random.default_rng(1)
    values = rng.normal(size=(6, 3))
    plain, shifted = means_of(values), means_of(values + np.array(shifts))
    for pair in ((0, 1), (2, 5)):
        before, after = (
            mean_difference([(one[pair[0]], one[pair[1]])]) for one in (plain, shifted)
        )
        assert after.value == pytest.approx(before.value, abs=1e-9)
        assert after.scatter == pytest.approx(before.scatter, rel=1e-6)


def test_without_a_second_repeat_nothing_is_tested():
    found = simultaneous_ratio(mean_difference([tuple(means_of([[1.0], [2.0]]))]))
    assert found.value == pytest.approx(math.exp(-1))
    assert math.isnan(found.low)


def test_a_missing_repeat_is_adjusted_for_its_block():
    # The second cell did not run in the third block, in which everything took 10 more.
    values = np.array([1.0, 1.0, 11.0, 2.0, 2.0])
    cells, blocks = np.array([0, 0, 0, 1, 1]), np.array([0, 1, 2, 0, 1])
    none = np.zeros(5)
    first, second = blocked_means(values, none, none, cells, blocks)
    assert second.value - first.value == pytest.approx(1.0)


def test_equal_cells_are_rarely_called_different():
    rng = np.random.default_rng(2)
    cells, pairs, wrong = 5, 10, 0
    for _ in range(200):
        found = sorted(means_of(rng.normal(size=(cells, 3)) * 0.02), key=lambda one: one.value)
        ratio = simultaneous_ratio(mean_difference([(found[-1], found[0])]), pairs)
        wrong += ratio.low > 1
    assert wrong <= 18


def test_a_mean_over_models_contains_what_their_blocks_share():
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(200):
        values = 0.02 * rng.normal(size=(8, 1)) + 0.05 * rng.normal(size=(1, 4))
        values = values + 0.01 * rng.normal(size=(8, 4))
        cells, blocks = np.repeat(np.arange(8), 4), np.tile(np.arange(4), 8)
        part = block_variance(values.ravel(), cells, blocks)
        found = mean_over(values.mean(axis=1), Difference(0.0, 0.0, 0.0), *part)
        low, high = found.interval(0.95)
        covered += low <= 0 <= high
    assert covered >= 182
