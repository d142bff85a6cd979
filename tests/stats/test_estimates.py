"""Estimates over repeats, and their ratios."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from joulelab.stats.estimates import (
    UNKNOWN,
    estimate,
    estimate_ratio,
    mean_with_errors,
)

NORMAL = stats.norm.ppf(0.975)
values = st.lists(st.floats(0.1, 1e4), min_size=2, max_size=8)
uncertainty = st.floats(0.01, 100.0)


def half(found):
    return (found.high - found.low) / 2


def test_scatter_alone_is_the_students_t_interval():
    repeats = [10.0, 12.0, 11.0, 14.0]
    low, high = stats.t.interval(0.95, 3, loc=11.75, scale=stats.sem(repeats))
    found = estimate(repeats)
    assert (found.value, found.n) == (11.75, 4)
    assert (found.low, found.high) == pytest.approx((low, high))


def test_one_repeat_has_the_interval_of_the_measurement_alone():
    found = estimate([100.0], correlated=[3.0], independent=[4.0])
    assert (found.low, found.high) == pytest.approx((100 - NORMAL * 5, 100 + NORMAL * 5))


def test_one_repeat_without_a_stated_uncertainty_has_no_interval():
    found = estimate([100.0])
    assert found.value == 100.0
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_unmeasured_repeats_are_left_out():
    assert estimate([1.0, math.nan, 3.0]).n == 2
    assert estimate([math.nan]) == UNKNOWN
    assert estimate([]) == UNKNOWN


def test_ratio_is_of_sums():
    found = estimate([10.0, 90.0], per=[1.0, 3.0])
    assert found.value == 25.0
    # residuals 10 - 25 and 90 - 75: ±15; s = sqrt(2/1) * sqrt(450) / 4
    assert half(found) == pytest.approx(stats.t.ppf(0.975, 1) * math.sqrt(2 * 450) / 4)


def test_shared_and_scattered_parts_add_in_quadrature():
    repeats = [10.0, 12.0, 11.0]
    alone = half(estimate(repeats))
    assert half(estimate(repeats, correlated=[2.0] * 3)) == pytest.approx(
        math.hypot(alone, NORMAL * 2)
    )


@given(values, uncertainty, st.floats(0.01, 100.0))
def test_properties_of_the_interval(repeats, shared, factor):
    n = len(repeats)
    found = estimate(repeats, correlated=[shared] * n)
    # Repeating does not average out the shared part, and more uncertainty never narrows.
    assert half(found) >= NORMAL * shared * (1 - 1e-9)
    more = estimate(repeats, correlated=[2 * shared] * n)
    assert half(more) >= half(found) * (1 - 1e-9)
    # It scales with the unit, and does not depend on the order.
    scaled = estimate([factor * x for x in repeats[::-1]], correlated=[factor * shared] * n)
    assert scaled.value == pytest.approx(factor * found.value)
    assert (scaled.low, scaled.high) == pytest.approx((factor * found.low, factor * found.high))


@given(st.floats(1.0, 100.0), st.integers(2, 9), uncertainty)
def test_equal_repeats_average_only_the_independent_part(value, n, edge):
    found = estimate([value] * n, independent=[edge] * n)
    assert half(found) == pytest.approx(NORMAL * edge / math.sqrt(n))


positive = st.floats(1e-300, 1e300)


def row(value, random):
    return {"x": value, "x_low": value - random, "x_high": value + random, "x_random": random,
            "x_n": 2}  # fmt: skip


@given(positive, positive, st.floats(0, 1e300), st.booleans())
def test_ratio_of_any_positive_values(above, below, random, shared):
    one, other = row(above, random), row(below, 0.0)
    if not 0 < above / below < math.inf:
        return
    found = estimate_ratio(one, other, "x", shared=shared)
    assert found.value == above / below
    assert math.isnan(found.low) or found.low <= found.value <= found.high


def test_a_ratio_beyond_a_factor_of_10_cannot_be_determined():
    found = estimate_ratio(row(1e-6, 1.0), row(1.0, 0.1), "x", shared=False)
    assert found.value == pytest.approx(1e-6)
    assert (found.low, found.high) == (0.0, math.inf)


def test_errors_that_all_values_share_do_not_average_out():
    values = np.array([2.0, 3.0, 4.0])
    mean, half = mean_with_errors(values, np.full(3, 5.0))
    alone = stats.t.ppf(0.975, 2) / math.sqrt(3)
    assert (mean, half) == (3.0, pytest.approx(math.hypot(alone, 5.0)))
    assert mean_with_errors(values, np.full(3, math.nan))[1] == pytest.approx(alone)
