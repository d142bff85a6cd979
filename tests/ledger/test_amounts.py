"""Sums, differences and ratios of figures that share errors."""

import math
import random

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from joulelab.energy.energy import COVERAGE_FACTOR, total
from joulelab.ledger.amounts import Amount, ratio, share, undecided
from joulelab.ledger.break_even import ModelCost, break_even

CAUSES = ("gain a", "gain b")

values = st.floats(1.0, 1e6)
parts = st.floats(0.0, 0.2)


@st.composite
def amounts(draw):
    value = draw(values)
    shared = {cause: value * draw(parts) for cause in CAUSES if draw(st.booleans())}
    return Amount(value, shared, value * draw(parts))


@given(st.lists(amounts(), max_size=6), st.lists(amounts(), max_size=6))
def test_sums_do_not_depend_on_how_they_are_grouped(some, others):
    whole = Amount.total([*some, *others])
    grouped = Amount.total(some) + Amount.total(others)
    assert grouped.value == pytest.approx(whole.value)
    assert grouped.uncertainty == pytest.approx(whole.uncertainty)


@given(amounts(), amounts())
def test_a_difference_takes_back_what_a_sum_gave(one, other):
    assert ((one + other) - other).value == pytest.approx(one.value)
    variance = one.uncertainty**2 + other.uncertainty**2
    covariance = one.covariance(other)
    assert (one + other).uncertainty ** 2 == pytest.approx(variance + 2 * covariance)
    assert (one - other).uncertainty ** 2 == pytest.approx(
        variance - 2 * covariance, abs=1e-9 * variance
    )


def test_one_machine_is_off_the_same_way_and_two_are_not(make_energy):
    one = make_energy(1000.0, gain=0.1)
    here = [Amount.of(one, {}, "here") for _ in range(4)]
    assert Amount.total(here).uncertainty == pytest.approx(400.0)
    assert total([one] * 4).interval_j == pytest.approx(Amount.total(here).interval)
    elsewhere = [Amount.of(one, {}, host) for host in "abcd"]
    assert Amount.total(elsewhere).uncertainty == pytest.approx(200.0)
    one_board = [Amount.of(one, {"gpu:0": "GPU-1"}, host) for host in "abcd"]
    assert Amount.total(one_board).uncertainty == pytest.approx(400.0)


@given(amounts(), amounts())
def test_a_ratio_holds_exactly_what_is_not_shown_to_differ(upper, lower):
    found = ratio(upper, lower)
    assume(math.isfinite(found.low))
    assert found.low <= found.value <= found.high
    for end in (found.low, found.high):
        rest = upper - lower.scaled(end)
        limit = COVERAGE_FACTOR * rest.uncertainty
        assert abs(rest.value) == pytest.approx(limit, rel=1e-3, abs=1e-6 * upper.value)


@given(amounts(), st.floats(0.1, 10.0))
def test_an_error_that_both_have_cancels(one, factor):
    gains = Amount(one.value, {"gain": 0.1 * one.value})
    found = ratio(gains.scaled(factor), gains)
    assert (found.low, found.high) == pytest.approx((factor, factor), rel=1e-5)


@given(amounts(), amounts())
def test_shares_add_up_and_lie_between_nothing_and_all(one, other):
    mine, theirs = share(one, other), share(other, one)
    assert mine.value + theirs.value == pytest.approx(1.0)
    assert 0.0 <= mine.low <= mine.value <= mine.high <= 1.0


@given(values, values)
def test_a_share_of_exact_figures_is_exact(one, other):
    found = share(Amount(one), Amount(other))
    assert found.low <= found.value <= found.high
    assert found.high - found.low <= 1e-7


def test_the_interval_of_a_ratio_covers_as_often_as_it_says():
    generator = random.Random(1)
    upper_true, lower_true, sd_upper, sd_lower, shared = 300.0, 100.0, 20.0, 8.0, 0.1
    hits, tries = 0, 4000
    for _ in range(tries):
        gain = generator.gauss(0.0, shared)
        upper = generator.gauss(upper_true * (1 + gain), sd_upper)
        lower = generator.gauss(lower_true * (1 + gain), sd_lower)
        found = ratio(
            Amount(upper, {"gain": shared * upper_true}, sd_upper),
            Amount(lower, {"gain": shared * lower_true}, sd_lower),
        )
        hits += found.low <= upper_true / lower_true <= found.high
    # Binomial standard error 0.0034.
    assert hits / tries == pytest.approx(0.95, abs=0.014)


model = st.builds(ModelCost, st.just("m"), amounts(), amounts())


@given(model, model, st.floats(0.0, 1e7))
def test_break_even_agrees_with_the_sums_at_any_number_of_requests(a, b, requests):
    found = break_even(a, b)
    inside = any(low <= requests <= high for low, high in found.undecided)
    edge = any(
        abs(requests - end) <= 1e-6 * (1 + requests)
        for stretch in found.undecided for end in stretch
    )  # fmt: skip
    assume(not edge)
    excess = found.a.after(requests) - found.b.after(requests)
    near = abs(abs(excess.value) - COVERAGE_FACTOR * excess.uncertainty) < 1e-9 * a.training.value
    assume(not near)
    assert (found.frugal(requests) is None) == inside


@given(model, model)
def test_break_even_is_the_same_from_either_side(a, b):
    one, other = break_even(a, b), break_even(b, a)
    assert one.requests == pytest.approx(other.requests, nan_ok=True)
    assert one.interval == pytest.approx(other.interval, nan_ok=True, rel=1e-6)


def test_where_the_energies_are_equal():
    small = ModelCost("small", Amount(1e6), Amount(2.0))
    large = ModelCost("large", Amount(3e6), Amount(1.0))
    found = break_even(small, large)
    assert found.requests == pytest.approx(2e6)
    assert found.interval == pytest.approx((2e6, 2e6), rel=1e-6)
    assert [one and one.name for *_, one in found.stretches()] == ["small", "large"]


def test_a_model_that_is_frugal_at_both_never_loses():
    good = ModelCost("good", Amount(1e6, {}, 1e4), Amount(1.0, {}, 0.01))
    bad = ModelCost("bad", Amount(3e6, {}, 1e4), Amount(2.0, {}, 0.01))
    found = break_even(good, bad)
    assert math.isnan(found.requests)
    assert found.stretches() == [(0.0, math.inf, good)]


def test_energies_a_request_that_are_not_shown_to_differ_give_no_upper_bound():
    a = ModelCost("a", Amount(1e6, {}, 1e4), Amount(1.05, {}, 0.1))
    b = ModelCost("b", Amount(3e6, {}, 1e4), Amount(1.0, {}, 0.1))
    found = break_even(a, b)
    begin, end, frugal = found.stretches()[-1]
    assert frugal is None
    assert math.isinf(end)
    assert begin > 0
    assert found.to_json()["requests_high"] is None


def test_models_that_are_the_same_are_never_told_apart():
    same = ModelCost("same", Amount(1e6, {}, 1e4), Amount(1.0, {}, 0.1))
    assert break_even(same, same).stretches() == [(0.0, math.inf, None)]
    exact = ModelCost("exact", Amount(1.0), Amount(1.0))
    assert break_even(exact, exact).stretches() == [(0.0, math.inf, None)]


def test_nothing_is_decided_by_a_denominator_of_nothing():
    assert undecided(Amount(0.0), Amount(0.0)) == [(-math.inf, math.inf)]
    assert undecided(Amount(1.0), Amount(0.0)) == []
