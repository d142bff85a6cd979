import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from joulelab.findings.predictors import models_needed
from joulelab.stats.difference import holm
from joulelab.stats.ranks import LEAST, bootstrap, kendall, rank_correlations, spearman

points = st.lists(
    st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=3, max_size=12
).filter(lambda pairs: all(len(set(values)) > 1 for values in zip(*pairs, strict=True)))


def columns(pairs):
    return (np.array(values, dtype=float) for values in zip(*pairs, strict=True))


@given(points)
def test_correlations_are_those_of_scipy_with_ties(pairs):
    x, y = columns(pairs)
    index = np.arange(len(x))
    assert spearman(y, [x])(index)[0] == pytest.approx(stats.spearmanr(x, y).statistic)
    assert kendall(y, [x])(index)[0] == pytest.approx(stats.kendalltau(x, y).statistic)


@given(points, st.integers(0, 2**32 - 1))
def test_resamples_are_correlated_like_data(pairs, seed):
    x, y = columns(pairs)
    index = np.random.default_rng(seed).integers(len(x), size=(7, len(x)))
    for of, scipys in ((spearman, stats.spearmanr), (kendall, stats.kendalltau)):
        for value, drawn in zip(of(y, [x])(index)[0], index, strict=True):
            ordered = len(set(x[drawn])) > 1 and len(set(y[drawn])) > 1
            expected = scipys(x[drawn], y[drawn]).statistic if ordered else 0.0
            assert value == pytest.approx(expected, abs=1e-12)


def test_interval_is_the_wider_of_scipys_two():
    rng = np.random.default_rng(3)
    x = rng.normal(size=16)
    y = x + rng.normal(size=16)

    def rho(x, y, axis):
        # Rounded, so that resamples that are as good as the data count as such.
        ranks = (stats.rankdata(values, axis=axis) for values in (x, y))
        return np.round(stats.pearsonr(*ranks, axis=axis).statistic, 9)

    corrected, percentile = (
        stats.bootstrap((x, y), rho, paired=True, vectorized=True, method=method, rng=0)
        for method in ("BCa", "percentile")
    )
    ends = [scipys.confidence_interval for scipys in (corrected, percentile)]
    found = bootstrap(16, spearman(y, [x]), seed=0)
    assert found.low[0] == pytest.approx(min(end.low for end in ends), abs=1e-6)
    assert found.high[0] == pytest.approx(max(end.high for end in ends), abs=1e-6)


def test_too_few_points_have_no_interval():
    few = list(range(LEAST - 1))
    [rank] = rank_correlations(few, {"x": few})["spearman"]
    assert (rank.value, math.isnan(rank.low)) == (1.0, True)
    assert rank.p > 0.05


def test_full_agreement_has_no_interval():
    values = list(range(16))
    for ranks in rank_correlations(values, {"x": values}).values():
        assert ranks[0].value == pytest.approx(1.0)
        assert math.isnan(ranks[0].low)


def test_constant_values_have_no_correlation():
    varied = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    for ranks in rank_correlations(varied, {"x": [1.0] * 6, "y": varied}).values():
        assert math.isnan(ranks[0].value)
        assert ranks[1].value == pytest.approx(1.0)


def test_exact_p_of_few_models():
    # All 5 models in order: 2 of the 120 orders are so extreme.
    [rank] = rank_correlations(range(5), {"x": range(5)})["spearman"]
    assert rank.p == pytest.approx(2 / 120)


@settings(max_examples=15, deadline=None)  # statsmodels' own collects garbage at each call
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_is_that_of_statsmodels(p):
    assert holm(p) == pytest.approx(list(multipletests(p, method="holm")[1]))


def test_models_needed_narrows_the_interval_to_zero():
    n = models_needed(16, 0.1, -0.2, 0.4)
    assert 0.1 - 0.3 * math.sqrt(16 / n) > 0
    assert 0.1 - 0.3 * math.sqrt(16 / (n - 1)) < 1e-9
    assert models_needed(16, 0.0, -0.1, 0.1) == 0
