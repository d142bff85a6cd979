"""Carbon and money of a million tokens."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulelab.carbon.costs import J_PER_KWH
from joulelab.carbon.site import Site
from joulelab.carbon.token_costs import token_costs
from joulelab.uncertain import UNKNOWN_RATIO, Ratio

SITE = Site(intensity_g_per_kwh=400.0, price_per_kwh=0.25, currency="EUR", pue=1.2)


def test_a_million_tokens_cost_a_million_times_a_token():
    found = token_costs(Ratio(0.165, 0.15, 0.18), SITE)
    kwh = 165_000 / J_PER_KWH
    assert found.costs.energy_j == pytest.approx(165_000)
    assert found.costs.carbon_g == pytest.approx(kwh * 400 * 1.2)
    assert found.costs.price == pytest.approx(kwh * 0.25 * 1.2)
    assert found.costs.price_interval == pytest.approx(
        (150_000 / J_PER_KWH * 0.3, 180_000 / J_PER_KWH * 0.3)
    )
    assert found.to_json()["tokens_per_kwh"] == pytest.approx(1 / 0.165 * J_PER_KWH)


@given(st.floats(1e-6, 1e3), st.floats(0.0, 1.0), st.floats(1.0, 10.0))
def test_tokens_per_kwh_are_the_inverse_with_its_ends_swapped(value, lower, upper):
    one = Ratio(value, value * lower, value * upper)
    per_kwh = token_costs(one, SITE).tokens_per_kwh
    assert per_kwh.value * one.value == pytest.approx(J_PER_KWH)
    assert per_kwh.low <= per_kwh.value <= per_kwh.high
    assert per_kwh.low * one.high == pytest.approx(J_PER_KWH)
    assert math.isinf(per_kwh.high) == (one.low == 0)


def test_an_unknown_energy_has_no_costs():
    found = token_costs(UNKNOWN_RATIO, SITE)
    data = found.to_json()
    assert data["j_per_token"] is data["tokens_per_kwh"] is None
    assert data["costs_of_million_tokens"]["carbon_g"] is None
    assert found.lines() == ["– per token", "– tokens per kWh"]
