import math

from hypothesis import given
from hypothesis import strategies as st

from joulelab.findings.words import ABSENT, interval, number


@given(st.floats(1e-6, 1e9))
def test_three_digits_lie_within_half_a_percent(value):
    shown = float(number(value).replace(",", ""))
    assert abs(shown - value) <= 0.0051 * value


@given(st.floats(1e-6, 1e6), st.floats(0, 0.5))
def test_interval_shows_both_ends(value, share):
    low, high = interval(value * (1 - share), value * (1 + share), value).split(" to ")
    assert float(low.replace(",", "").replace("−", "-")) <= float(high.replace(",", ""))


def test_absent_is_not_zero():
    assert number(None) == number(math.nan) == number(math.inf) == ABSENT
    assert number(0.0) == "0.00"
    assert interval(math.nan, math.nan, 1.0) == ""
