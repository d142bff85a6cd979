import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulelab.energy.signal.power_states import _solve, posterior_covariance


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 1e-9, 1.0, 1e6]), st.integers(1, 5))
def test_powers_that_nothing_tells_apart_keep_what_was_known_beforehand(seed, reading_w2, same):
    share = np.random.default_rng(seed).random(20)
    shares = np.repeat(share[:, None], same, axis=1)
    covariance = posterior_covariance(shares.T @ shares, reading_w2, 100.0)
    assert np.isfinite(covariance).all()
    if same > 1:
        assert covariance[0, 0] - covariance[0, 1] == pytest.approx(100.0, rel=1e-6)


@pytest.mark.parametrize("power_w", [0.0, 1e-9, 50.0, 1e6])
def test_readings_that_are_all_alike_are_solve(power_w):
    shares = np.full((100, 3), 1 / 3)
    found, uncertainty_w, scatter_w = _solve(shares, np.full(100, power_w), np.zeros((100, 3)))
    assert found == pytest.approx([power_w] * 3, abs=1e-3)
    assert np.isfinite(uncertainty_w).all()
    assert np.isfinite(scatter_w)
