"""Sums, differences and ratios of values that share errors."""

import math
import random
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from joulelab.uncertain import (
    COVERAGE_FACTOR,
    UncertainValue,
    fieller_intervals,
    fieller_ratio,
    ratio,
    share,
)

CAUSES = ("gain a", "gain b")

values = st.floats(1.0, 1e6)
parts = st.floats(0.0, 0.2)


@st.composite
def uncertain(draw):
    value = draw(values)
    shared = {cause: value * draw(parts) for cause in CAUSES if draw(st.booleans())}
    return UncertainValue(value, shared, value * draw(parts))


@given(st.lists(uncertain(), max_size=6), st.lists(uncertain(), max_size=6))
def test_sums_do_not_depend_on_how_they_are_grouped(some, others):
    whole = UncertainValue.total([*some, *others])
    grouped = UncertainValue.total(some) + UncertainValue.total(others)
    assert grouped.value == pytest.approx(whole.value)
    assert grouped.uncertainty == pytest.approx(whole.uncertainty)


@given(uncertain(), uncertain())
def test_a_difference_reverses_a_sum(one, other):
    assert ((one + other) - other).value == pytest.approx(one.value)
    variance = one.uncertainty**2 + other.uncertainty**2
    covariance = one.covariance(other)
    assert (one + other).uncertainty ** 2 == pytest.approx(variance + 2 * covariance)
    assert (one - other).uncertainty ** 2 == pytest.approx(
        variance - 2 * covariance, abs=1e-9 * variance
    )


def test_a_simulated_part_makes_a_sum_simulated():
    simulated = UncertainValue(1.0, simulated=True)
    assert (UncertainValue(1.0) - simulated).scaled(2.0).per(3.0).simulated
    assert not (UncertainValue(1.0) + UncertainValue(2.0)).simulated


@given(uncertain(), uncertain())
def test_fieller_interval_ends_where_the_difference_becomes_significant(numerator, denominator):
    found = fieller_ratio(numerator, denominator)
    assume(math.isfinite(found.low))
    assert found.low <= found.value <= found.high
    for end in (found.low, found.high):
        rest = numerator - denominator.scaled(end)
        limit = COVERAGE_FACTOR * rest.uncertainty
        assert abs(rest.value) == pytest.approx(limit, rel=1e-3, abs=1e-6 * numerator.value)


@given(uncertain(), st.floats(0.1, 10.0))
def test_a_shared_error_cancels_in_a_ratio(one, factor):
    gains = UncertainValue(one.value, {"gain": 0.1 * one.value})
    for found in (fieller_ratio(gains.scaled(factor), gains), ratio(gains.scaled(factor), gains)):
        assert (found.low, found.high) == pytest.approx((factor, factor), rel=1e-5)


@given(values, values, st.floats(0.0, 0.02), st.floats(0.0, 0.02))
def test_both_intervals_of_a_ratio_agree_for_small_uncertainties(one, other, u_one, u_other):
    pair = UncertainValue(one, {}, u_one * one), UncertainValue(other, {}, u_other * other)
    fieller, first_order = fieller_ratio(*pair), ratio(*pair)
    assert fieller.low == pytest.approx(first_order.low, rel=5e-3)
    assert fieller.high == pytest.approx(first_order.high, rel=5e-3)


@given(uncertain(), uncertain())
def test_shares_add_up_and_lie_between_zero_and_one(one, other):
    mine, theirs = share(one, other), share(other, one)
    assert mine.value + theirs.value == pytest.approx(1.0)
    assert 0.0 <= mine.low <= mine.value <= mine.high <= 1.0


@given(values, values)
def test_a_share_of_exact_values_is_exact(one, other):
    found = share(UncertainValue(one), UncertainValue(other))
    assert found.low <= found.value <= found.high
    assert found.high - found.low <= 1e-7


def test_coverage_of_fieller_interval():
    generator = random.Random(1)
    upper_true, lower_true, sd_upper, sd_lower, shared = 300.0, 100.0, 20.0, 8.0, 0.1
    hits, tries = 0, 4000
    for _ in range(tries):
        gain = generator.gauss(0.0, shared)
        upper = generator.gauss(upper_true * (1 + gain), sd_upper)
        lower = generator.gauss(lower_true * (1 + gain), sd_lower)
        found = fieller_ratio(
            UncertainValue(upper, {"gain": shared * upper_true}, sd_upper),
            UncertainValue(lower, {"gain": shared * lower_true}, sd_lower),
        )
        hits += found.low <= upper_true / lower_true <= found.high
    # Binomial standard error 0.0034.
    assert hits / tries == pytest.approx(0.95, abs=0.014)


def test_a_denominator_of_zero():
    assert fieller_intervals(UncertainValue(0.0), UncertainValue(0.0)) == [(-math.inf, math.inf)]
    assert fieller_intervals(UncertainValue(1.0), UncertainValue(0.0)) == []


@pytest.mark.parametrize("unknown", [math.nan, 0.0, -1.0])
def test_no_first_order_ratio_unless_both_are_positive(unknown):
    assert ratio(UncertainValue(unknown), UncertainValue(1.0)) is None
    assert ratio(UncertainValue(1.0), UncertainValue(unknown)) is None


@given(st.lists(uncertain(), min_size=1, max_size=6), st.floats(0.01, 100.0))
def test_energies_and_their_sums_and_parts_never_reach_below_zero(some, more):
    """However uncertain the values are; a difference may be negative."""
    energies = [replace(one, own=more * one.value, least=0.0) for one in some]
    whole = UncertainValue.total(energies)
    for one in (*energies, whole, whole.per(3.0), whole.scaled(0.5)):
        low, high = one.interval
        assert 0.0 <= low <= one.value <= high
    difference = whole - whole.scaled(2.0)
    assert difference.interval[0] < difference.value < 0.0


def test_parts_of_a_known_total_stay_within_it():
    part = UncertainValue(30.0, own=100.0, least=0.0, most=40.0)
    assert part.interval == (0.0, 40.0)
    assert (part + part).interval == (0.0, 80.0)
    assert UncertainValue(45.0, own=1.0, most=40.0).interval[1] == 45.0
    assert UncertainValue(1.0).scaled(0.0).interval == (0.0, 0.0)
