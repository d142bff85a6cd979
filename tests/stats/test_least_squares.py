"""Least squares with intervals for few points that scatter unequally."""

import numpy as np
import pytest
import statsmodels.api as sm

from joulelab.stats.least_squares import fit_least_squares


def line(x):
    return np.stack([np.ones_like(x), x], axis=1)


def test_variances_are_those_of_statsmodels():
    rng = np.random.default_rng(0)
    x = rng.uniform(1, 10, 12)
    y = 3 + 2 * x + x * rng.normal(size=12)
    fit, other = fit_least_squares(line(x), y), sm.OLS(y, line(x)).fit(cov_type="HC3")
    assert fit.values == pytest.approx(other.params)
    assert fit.residuals == pytest.approx(other.resid)
    # With many degrees of freedom t is normal, and half-widths are 1.96 standard errors.
    assert (fit.half_widths > 1.96 * other.bse).all()


def test_the_slope_is_covered_where_scatter_grows_with_size():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(1000):
        x = np.exp(rng.uniform(0, np.log(10), 12))
        y = 300 * x * (1 + 0.1 * rng.normal(size=12))
        fit = fit_least_squares(line(x), y)
        covered += abs(fit.values[1] - 300) <= fit.half_widths[1]
    assert covered >= 940


def test_points_on_a_line_have_no_interval():
    x = np.arange(5.0)
    fit = fit_least_squares(line(x), 2 * x + 1)
    assert fit.values == pytest.approx([1, 2])
    assert fit.half_widths == pytest.approx([0, 0], abs=1e-9)
