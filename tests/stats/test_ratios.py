import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulelab.stats.estimates import estimate_ratio, geometric_mean_interval

positive = st.floats(1e-300, 1e300)


def row(value, random):
    return {"x": value, "x_low": value - random, "x_high": value + random, "x_random": random,
            "x_n": 2}  # fmt: skip


@given(positive, positive, st.floats(0, 1e300), st.booleans())
def test_any_figures_have_a_ratio_and_an_interval_or_none(above, below, random, shared):
    one, other = row(above, random), row(below, 0.0)
    if not 0 < above / below < math.inf:
        return
    found = estimate_ratio(one, other, "x", shared=shared)
    assert found.value == above / below
    assert math.isnan(found.low) or found.low <= found.value <= found.high


def test_a_figure_that_is_nothing_but_scatter_has_no_interval():
    found = estimate_ratio(row(1e-6, 1.0), row(1.0, 0.1), "x", shared=False)
    assert found.value == pytest.approx(1e-6)
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert all(map(math.isnan, geometric_mean_interval(np.log([1e-200, 1e200]))))
