import numpy as np
import pytest
from scipy import stats

from joulelab.stats.estimates import Pools, estimates
from joulelab.stats.variance import LEAST_CELLS, prior, scatter


def repeated(rng, cells, repeats, spread=0.0, block=0.0):
    """Relative errors: cells with scatters that differ by ``spread``, blocks that shift all."""
    sigma = np.exp(spread * rng.normal(size=(cells, 1)))
    return sigma * rng.normal(size=(cells, repeats)) + block * rng.normal(size=repeats)


def found(values, pooled=True):
    cells, repeats = values.shape
    codes, blocks = np.repeat(np.arange(cells), repeats), np.tile(np.arange(repeats), cells)
    pools = Pools(np.zeros(cells, dtype=int), blocks) if pooled else None
    return estimates(codes, cells, values.ravel(), scale=np.ones(cells), pools=pools)


@pytest.mark.parametrize(
    ("cells", "repeats", "spread", "block"),
    [(16, 2, 0.0, 0.0), (16, 3, 0.5, 0.0), (64, 2, 1.0, 0.0), (16, 3, 0.0, 1.0), (5, 2, 0.0, 0.0)],
)
def test_coverage_of_pooled_intervals(cells, repeats, spread, block):
    rng = np.random.default_rng(11)
    covered = []
    for _ in range(60):
        table = found(repeated(rng, cells, repeats, spread, block))
        covered.append(((table["low"] <= 0) & (table["high"] >= 0)).mean())
    # 95 %, less three standard errors of the mean of 60 draws (blocks shift all cells together).
    assert np.mean(covered) > 0.95 - 3 * max(np.std(covered), 0.05) / np.sqrt(60)


def test_cells_with_equal_scatter_narrow_each_other():
    values = repeated(np.random.default_rng(1), 64, 2)
    pooled, alone = found(values), found(values, pooled=False)
    width = [(table["high"] - table["low"]).median() for table in (pooled, alone)]
    assert width[0] < width[1] / 3
    assert (pooled["df"] > alone["df"]).all()


def test_a_cell_with_a_larger_scatter_keeps_it():
    rng = np.random.default_rng(1)
    values = repeated(rng, 40, 3, spread=1.0)
    values[0] = (-30.0, 0.0, 30.0)
    table = found(values)
    assert table["high"][0] - table["low"][0] > 30


def test_no_pooling_with_few_cells_or_without_repeats():
    rng = np.random.default_rng(2)
    for values in (repeated(rng, LEAST_CELLS - 1, 3), repeated(rng, 20, 1)):
        alone, pooled = found(values, pooled=False), found(values)
        assert pooled["df"].equals(alone["df"])
    assert prior(np.zeros(20), np.ones(20), 20.0) is None


def test_one_repeat_gets_the_scatter_of_repeated_cells():
    rng = np.random.default_rng(3)
    codes = np.array([*np.repeat(np.arange(20), 2), 20])
    pools = Pools(np.zeros(21, dtype=int), np.array([*[0, 1] * 20, 0]))
    table = estimates(codes, 21, 10 + rng.normal(size=41), pools=pools)
    assert table["n"][20] == 1
    assert table["low"][20] < table["value"][20] < table["high"][20]


def test_analysis_of_variance_is_statsmodels():
    import pandas as pd
    import statsmodels.formula.api as smf
    from statsmodels.stats.anova import anova_lm

    rng = np.random.default_rng(4)
    values = repeated(rng, 6, 4, block=1.0)
    frame = pd.DataFrame(
        {"y": values.ravel(), "cell": np.repeat(range(6), 4), "block": np.tile(range(4), 6)}
    ).drop(index=[3, 10])
    ours = scatter(*(frame[name].to_numpy() for name in ("y", "cell", "block")))
    table = anova_lm(smf.ols("y ~ C(cell) + C(block)", frame).fit(), typ=2)
    assert ours.block_p == pytest.approx(table.loc["C(block)", "PR(>F)"])
    total = table.loc["C(block)", "sum_sq"] + table.loc["Residual", "sum_sq"]
    assert ours.variance == pytest.approx(total / (22 - 6))


def test_blocks_that_matter_reduce_the_degrees_of_freedom():
    values = repeated(np.random.default_rng(5), 50, 3, block=20.0)
    arguments = (values.ravel(), np.repeat(np.arange(50), 3), np.tile(np.arange(3), 50))
    matter = scatter(*arguments)
    assert matter.df == pytest.approx(2, abs=0.5)
    assert matter.block_p < 1e-6
    shuffled = scatter(np.random.default_rng(6).normal(size=150), *arguments[1:])
    assert shuffled.df > 70
    assert shuffled.block_variance < 0.1


def test_pooling_many_equal_cells_approaches_the_normal_quantile():
    values = repeated(np.random.default_rng(7), 400, 2)
    table = found(values)
    half = (table["high"] - table["low"]).median() / 2
    assert half == pytest.approx(stats.norm.ppf(0.975) / np.sqrt(2), rel=0.1)
