import numpy as np
import pytest

from joulelab.stats.segments import LEAST, two_segments


def points(rng, n=16, bend=300.0, above=0.0, noise=2.0):
    x = np.sort(rng.uniform(100, 500, size=n))
    y = 20 + 0.3 * np.minimum(x, bend) + above * np.maximum(x - bend, 0)
    return x, y + noise * rng.normal(size=n)


def test_finds_the_bend_and_covers_it():
    rng = np.random.default_rng(0)
    found = [two_segments(*points(rng), seed=seed) for seed in range(40)]
    assert np.mean([fit.p < 0.05 for fit in found]) > 0.95
    assert np.mean([fit.low <= 300 <= fit.high for fit in found]) > 0.85
    assert np.median([fit.below for fit in found]) == pytest.approx(0.3, rel=0.1)


def test_a_line_rarely_has_a_significant_bend():
    rng = np.random.default_rng(1)
    found = [two_segments(*points(rng, above=0.3), seed=seed) for seed in range(100)]
    assert sum(fit.p < 0.05 for fit in found) <= 12


def test_too_few_different_points_have_no_bend():
    x = np.arange(20.0)
    assert two_segments(x[: LEAST - 1], x[: LEAST - 1]) is None
    assert two_segments(np.ones(20), x) is None
    assert two_segments(x, np.ones(20)) is None


def test_points_without_noise():
    x = np.arange(20.0)
    assert two_segments(x, 2 * x + 1).p > 0.05
    found = two_segments(x, np.minimum(x, 9.5))
    assert found.p < 0.01
    assert found.bend == pytest.approx(9.5, abs=0.1)
    last = found.intercept + found.below * found.bend + found.above * (19.0 - found.bend)
    assert (found.intercept, last) == pytest.approx((0.0, 9.5), abs=0.1)
