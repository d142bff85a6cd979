r"""Forecast the sum of a long series of equal pieces of work from the first few pieces.

The first pieces of a run differ from the rest: caches fill, cuDNN searches for its algorithms. They
are counted once. With :math:`x_i` the energy or duration of one of the other pieces,

.. math:: \ln x_i = \mu + s_i + w_i, \qquad
    \operatorname{Cov}(s_i, s_j) = \rho \sigma^2 e^{-|i - j| / L}, \qquad
    \operatorname{Var}(w_i) = (1 - \rho) \sigma^2

Pieces differ by factors (a machine twice as busy takes twice as long), so they are modelled on
logarithms: the interval of what is left is symmetric there and never reaches below 0. Part of the
scatter, :math:`\rho`, is slow: other programs come and go, a machine warms up. It does not average
out, and few pieces cannot show how large it is. It is larger where other programs are known to use
the machine.

The mean of the pieces to come is the best linear unbiased prediction from the measured ones
(Rasmussen and Williams, *Gaussian Processes for Machine Learning*, 2006, section 2.7 and eq. 2.42).
With a flat prior of :math:`\mu` and a scaled inverse chi-squared prior of :math:`\sigma^2` its
distribution is Student's t (Gelman et al., *Bayesian Data Analysis*, 3rd ed., section 14.2). Some
machines are ten times as steady as others, so there are several such priors, weighted by their
likelihood. The constants below were chosen on simulated series, trainings on two processors and
spans of an H100. ``python -m benchmarks.forecast`` compares forecasts with the truth on others.

Drifts that begin later have no trace in the measured pieces. The variance
:math:`\delta^2 \ln(N / n)` is added for them, where *n* of *N* pieces were measured: a process with
a 1/f spectrum changes by the same variance in each factor of time (Keshner, "1/f noise", Proc. IEEE
70, 1982). The mean of the pieces is their arithmetic mean, to which the model's change of
logarithms is applied (Duan, "Smearing estimate", J. Am. Stat. Assoc. 78, 1983).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from joulelab.arrays import Floats
from joulelab.errors import UserError


class Prior(NamedTuple):
    """What is assumed of a series before any of it is measured."""

    slow_fraction: float  # of the variance
    length: float  # Number of pieces over which the slow part loses its correlation.
    scatters: tuple[float, ...]  # Possible standard deviations of pieces, all equally likely.


ALONE = Prior(0.5, 5.0, (0.002, 0.006, 0.02, 0.06))
"""Epochs scatter by 0.3 % on an H100, and by a few percent on a processor."""

SHARED = Prior(0.9, 10.0, (0.05, 0.15))
"""Other programs slow pieces by 10 % and more, for many pieces at a time, so little of the scatter
averages out. A single piece, which shows no scatter, is treated alike."""

PRIOR_FREEDOM = 2.0
"""How many pieces' worth of evidence a prior scatter is."""

MOST_PIECES = 40
"""Longer series are merged to this many pieces, so that slow changes correlate over several."""

DRIFT = 0.006
"""Drift for each e-fold of a run's length."""

FIRST_OVER_LATER = 4.0
"""How far a single piece may be start-up: on a CPU, a first step took up to 3.1 times longer."""

MAD_TO_DEVIATION = 1.4826
"""Ratio of standard deviation to median absolute deviation of a normal distribution."""

_TAIL = 0.025
_MOST_EXPONENT = 50.0


def load_scipy() -> tuple[Any, Any]:
    """Import and return ``scipy.optimize`` and ``scipy.special``."""
    try:
        from scipy import optimize, special  # noqa: PLC0415
    except ImportError as error:
        hint = "run pip install 'joulelab[study]'"
        raise UserError("a forecast needs SciPy", why=str(error), hint=hint) from error
    return optimize, special


@dataclass(frozen=True, slots=True)
class Total:
    """Sum of a series with its 95 % prediction interval, in the unit of the series.

    ``seen`` is the part that was measured, which no end of the interval is below, and ``startup``
    the number of first pieces that differ from the rest and are counted once.
    """

    value: float
    low: float
    high: float
    seen: float
    startup: int


def forecast_total(
    values: Floats, count: float, work: Floats | None = None, prior: Prior = ALONE
) -> Total:
    """Forecast the sum over ``count`` pieces of work from the first ones.

    Args:
        values: Positive energy or duration of each measured piece. Shape, as all: (pieces,).
        count: Number of pieces of work 1 in the whole run.
        work: Size of each piece relative to a typical one. Default: all 1.
        prior: :data:`SHARED` if other programs use the machine.

    Example:
        >>> total = forecast_total(np.array([250.0, 240.0, 260.0, 245.0, 255.0]), 50)
        >>> round(total.value, -2), total.seen
        (12500.0, 1250.0)
        >>> 11_000 < total.low < 12_000 < 13_000 < total.high < 14_000
        True
    """
    work = np.ones_like(values) if work is None else work
    done = float(work.sum())
    left = count - done
    if left <= 0:
        begun = np.cumsum(work) - work
        known = float(np.clip((count - begun) / work, 0, 1) @ values)
        return Total(known, known, known, known, 0)
    seen = float(values.sum())
    if values.size == 1:
        prior = SHARED
    startup = startup_pieces(values / work)
    values, work = values[startup:], work[startup:]
    rest = left * float(values.sum() / work.sum())
    size = max(1.0, values.size / MOST_PIECES)
    first = np.linspace(0, values.size, round(values.size / size), endpoint=False).astype(int)
    rate = np.add.reduceat(values, first) / np.add.reduceat(work, first)
    drift = DRIFT * math.sqrt(math.log(count / done))
    change = _future_change(np.log(rate), max(1.0, left / size), drift, prior)
    value, low, high = (
        seen + rest * math.exp(min(max(one, -_MOST_EXPONENT), _MOST_EXPONENT)) for one in change
    )
    if values.size == 1:
        low = min(low, seen + rest / FIRST_OVER_LATER)
    return Total(value, low, high, seen, startup)


def startup_pieces(values: Floats) -> int:
    """Count the first pieces that differ from the later half.

    These are the leading pieces outside the 95 % prediction interval of the later half. Its centre
    and scale are the median and median absolute deviation, so single outliers do not move them.
    """
    _, special = load_scipy()
    later = values[values.size // 2 :]
    if later.size < 2:
        return 0
    centre = float(np.median(later))
    scale = MAD_TO_DEVIATION * float(np.median(np.abs(later - centre)))
    factor = float(special.stdtrit(later.size - 1, 1 - _TAIL)) * math.sqrt(1 + 1 / later.size)
    differs = np.abs(values[: values.size // 2] - centre) > factor * scale
    return int(np.argmin(np.append(differs, False)))


def _future_change(
    y: Floats, count: float, drift: float, prior: Prior
) -> tuple[float, float, float]:
    """Forecast the mean of the next ``count`` values, minus the mean of ``y``: 95 % interval.

    ``y`` are logarithms, shape (pieces,), and ``drift`` a standard deviation to add.

    Returns:
        The expected value and the 2.5 and 97.5 % quantiles.
    """
    n, decay = y.size, math.exp(-1 / prior.length)
    one, at = np.ones(n), np.arange(n)
    freedom = n - 1 + PRIOR_FREEDOM
    gone = 1 - decay**count
    # Correlations of the slow part: within the pieces, of the future mean with them and itself.
    slow = decay ** np.abs(np.subtract.outer(at, at))
    ahead = decay ** (n - at) * gone / (count * (1 - decay))
    itself = (count * (1 - decay**2) - 2 * decay * gone) / (count * (1 - decay)) ** 2
    fraction = prior.slow_fraction
    covariance = fraction * slow + (1 - fraction) * np.eye(n)
    with_future = fraction * ahead
    solved = np.linalg.solve(covariance, np.column_stack((one, y, with_future)))
    of_one, of_y, of_future = solved.T
    precision = float(of_one.sum())
    plateau = float(of_y.sum()) / precision
    residual = of_y - plateau * of_one
    variance = fraction * itself + (1 - fraction) / count - float((with_future * of_future).sum())
    variance += (1 - float(of_future.sum())) ** 2 / precision
    mean = plateau + float((with_future * residual).sum()) - float(y.mean())
    assumed = PRIOR_FREEDOM * np.array(prior.scatters) ** 2
    squares = assumed + float(((y - plateau) * residual).sum())
    log_weight = 0.5 * (PRIOR_FREEDOM * np.log(assumed) - freedom * np.log(squares))
    weight = np.exp(log_weight - log_weight.max())
    weight /= weight.sum()
    deviation = np.sqrt(max(variance, 0.0) * squares / freedom + drift**2)
    reach = _reach(weight, deviation, freedom)
    return mean, mean - reach, mean + reach


def _reach(weight: Floats, deviation: Floats, freedom: float) -> float:
    """Compute the 97.5 % quantile of a mixture of centred Student's t distributions."""
    optimize, special = load_scipy()
    ends = deviation * special.stdtrit(freedom, 1 - _TAIL)

    def excess(x: float) -> float:
        return float((weight * special.stdtr(freedom, x / deviation)).sum()) - (1 - _TAIL)

    return float(optimize.brentq(excess, ends.min() - 1e-9, ends.max() + 1e-9, xtol=1e-9))
