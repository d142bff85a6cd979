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
the machine, and otherwise at most 2 %, or 5 % for pieces shorter than 0.1 s.

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

    scatters: tuple[float, ...]  # Possible values of sigma, all equally likely.
    slow: float  # Largest standard deviation of the slow part.


ALONE = Prior((0.003, 0.01, 0.03, 0.1), slow=0.02)
"""Epochs scatter by 0.3 % on an H100, and by a few percent on a processor. What changes them
slowly, for example clocks and temperatures, changes them little."""

BRIEF = ALONE._replace(slow=0.05)
"""Pieces shorter than :data:`BRIEF_S`: on an H100, power fell by up to half for 0.1 to 0.3 s again
and again, because the host was late. A few such pieces may lie between two falls or within one."""

BRIEF_S = 0.1
"""Median duration of pieces below which they do not average such falls out."""

SHARED = Prior((0.2,), slow=1.0)
"""Other programs slow pieces by 20 % and more, for many pieces at a time."""

FEW = Prior((0.05, 0.15), slow=1.0)
"""One or two pieces hardly show scatter."""

SLOW_FRACTION = 0.9
"""Largest part of the variance that is slow."""

CORRELATION_LENGTH = 10.0
"""Number of pieces over which the slow part loses its correlation: a quarter of the most pieces,
the slowest change that a profile can show."""

PRIOR_FREEDOM = 2.0
"""How many pieces' worth of evidence a prior scatter is."""

MOST_PIECES = 40
"""Longer series are merged to this many pieces, so that slow changes correlate over several."""

DRIFT = 0.005
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
        prior: :data:`SHARED` if other programs use the machine, :data:`BRIEF` if the pieces are
            brief.

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
    if values.size <= 2 and prior is not SHARED:
        prior = FEW
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
    n, decay = y.size, math.exp(-1 / CORRELATION_LENGTH)
    at = np.arange(n)
    freedom = n - 1 + PRIOR_FREEDOM
    gone = 1 - decay**count
    # Correlations of the slow part: within the pieces, of the future mean with them and itself.
    slow = decay ** np.abs(np.subtract.outer(at, at))
    ahead = decay ** (n - at) * gone / (count * (1 - decay))
    itself = (count * (1 - decay**2) - 2 * decay * gone) / (count * (1 - decay)) ** 2
    # One row per prior scatter.
    scatter = np.array(prior.scatters)
    fraction = np.minimum(SLOW_FRACTION, (prior.slow / scatter) ** 2)[:, None]
    covariance = fraction[..., None] * slow + (1 - fraction[..., None]) * np.eye(n)
    with_future = fraction * ahead
    columns = np.broadcast_arrays(np.ones(n), y, with_future)
    solved = np.linalg.solve(covariance, np.stack(columns, axis=-1))
    of_one, of_y, of_future = np.moveaxis(solved, -1, 0)
    precision = of_one.sum(axis=1)
    plateau = of_y.sum(axis=1) / precision
    residual = of_y - plateau[:, None] * of_one
    assumed = PRIOR_FREEDOM * scatter**2
    squares = assumed + ((y - plateau[:, None]) * residual).sum(axis=1)
    variance = fraction[:, 0] * itself + (1 - fraction[:, 0]) / count
    variance += (1 - of_future.sum(axis=1)) ** 2 / precision - (with_future * of_future).sum(axis=1)
    evidence = PRIOR_FREEDOM * np.log(assumed) - freedom * np.log(squares)
    log_weight = 0.5 * (evidence - np.linalg.slogdet(covariance)[1] - np.log(precision))
    weight = np.exp(log_weight - log_weight.max())
    weight /= weight.sum()
    mean = plateau + (with_future * residual).sum(axis=1) - float(y.mean())
    deviation = np.sqrt(np.maximum(variance, 0.0) * squares / freedom + drift**2)
    low, high = (_quantile(p, weight, mean, deviation, freedom) for p in (_TAIL, 1 - _TAIL))
    return float((weight * mean).sum()), low, high


def _quantile(p: float, weight: Floats, mean: Floats, deviation: Floats, freedom: float) -> float:
    """Compute a quantile of a mixture of Student's t distributions, which lies between theirs."""
    optimize, special = load_scipy()
    ends = mean + deviation * special.stdtrit(freedom, p)
    low, high = float(ends.min()), float(ends.max())
    if high - low <= 1e-12 * max(1.0, abs(low)):
        return low

    def excess(x: float) -> float:
        return float((weight * special.stdtr(freedom, (x - mean) / deviation)).sum()) - p

    return float(optimize.brentq(excess, low - 1e-9, high + 1e-9, xtol=1e-9))
