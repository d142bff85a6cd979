"""Forecast the sum of a long series of equal pieces of work from the first few pieces.

The first pieces of a run differ from the rest: caches fill, cuDNN searches for its algorithms.
The later ones drift towards a plateau while the machine warms up and scatter around it with some
serial correlation. With x_i the energy or duration of piece i, relative to a typical piece,

    x_i = mu + a * g_tau(i) + e_i,        e_i = phi * e_(i-1) + N(0, sigma^2)

where g_tau(i) is the mean of exp(-t / tau) over the time of piece i. The plateau mu, the drift a,
its time constant tau, the correlation phi and the scatter sigma are all unknown. Given tau, phi and
sigma this is a normal linear regression with a closed-form posterior (Gelman et al., *Bayesian Data
Analysis*, 3rd ed., section 14.2, with serial correlation as in Box and Jenkins, *Time Series
Analysis*, chapter 3); the other three are summed over a grid. Whatever the first pieces cannot
show, for example a drift slower than they took, keeps its prior size and widens the interval.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from joulelab.errors import UserError

Floats = NDArray[np.float64]

DRIFTS = np.array([0.0, 0.02, 0.04, 0.08])
"""Prior standard deviations of the drift, relative to the plateau, all equally likely. They include
no drift; the idle power of an H100 rose by 7.6 % within minutes."""

TIME_CONSTANTS_S = np.geomspace(1.0, 1000.0, 10)
"""Prior time constants, all equally likely: a chip warms up in seconds, a heat sink in minutes."""

CORRELATIONS = np.array([0.0, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95])
"""Prior correlations from piece to piece, all equally likely."""

SCATTERS = np.geomspace(1e-4, 0.5, 48)
"""Prior scatter relative to the plateau, uniform in the logarithm (Jeffreys)."""

FIRST_OVER_LATER = 4.0
"""How far a single piece may be start-up: on a CPU, a first step took up to 3.1 times longer."""

MOST_PIECES = 500
"""Longer series are merged to this many pieces: more would cost time and add no information."""

MAD_TO_DEVIATION = 1.4826
"""Ratio of standard deviation to median absolute deviation of a normal distribution."""

_TAIL = 0.025


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

    ``seen`` is the part that was measured, and ``startup`` the number of first pieces that differ
    from the rest and are counted once.
    """

    value: float
    low: float
    high: float
    seen: float
    startup: int


def forecast_total(
    values: Floats, stop_s: Floats, duration_s: Floats, count: float, work: Floats | None = None
) -> Total:
    """Forecast the sum over ``count`` pieces of work from the first ones.

    Args:
        values: Positive energy or duration of each measured piece. Shape, as all: (pieces,).
        stop_s: End of each piece in seconds from the start of the run.
        duration_s: Duration of each piece in seconds.
        count: Number of pieces of work 1 in the whole run.
        work: Size of each piece relative to a typical one. Default: all 1.
    """
    work = np.ones_like(values) if work is None else work
    left = count - float(work.sum())
    if left <= 0:
        begun = np.cumsum(work) - work
        known = float(np.clip((count - begun) / work, 0, 1) @ values)
        return Total(known, known, known, known, 0)
    seen = float(values.sum())
    if values.size > MOST_PIECES:
        values, stop_s, duration_s, work, left = _merged(values, stop_s, duration_s, work, left)
    rate = values / work
    startup = startup_pieces(rate)
    unit = float(np.median(rate[startup:]))
    excess, spread = _future(
        rate[startup:] / unit - 1, stop_s[startup:], duration_s[startup:], left
    )
    plain = seen + unit * left
    value, low, high = (max(seen, plain + unit * more) for more in (excess, *spread))
    if values.size == 1:
        low = min(low, seen + left * unit / FIRST_OVER_LATER)
    return Total(value, low, high, seen, startup)


def _merged(
    values: Floats, stop_s: Floats, duration_s: Floats, work: Floats, left: float
) -> tuple[Floats, Floats, Floats, Floats, float]:
    """Merge neighbouring pieces; return work and the remaining count in the new unit."""
    first = np.linspace(0, values.size, MOST_PIECES, endpoint=False).astype(int)
    size = values.size / MOST_PIECES
    values, duration_s, work = (
        np.add.reduceat(column, first) for column in (values, duration_s, work)
    )
    last = np.append(first[1:], stop_s.size) - 1
    return values, stop_s[last], duration_s, work / size, left / size


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


def _future(
    y: Floats, stop_s: Floats, duration_s: Floats, count: float
) -> tuple[float, tuple[float, float]]:
    """Forecast the sum of the next ``count`` pieces: its mean and its 95 % interval.

    ``y`` are the measured pieces minus 1, in units of a typical piece. Shapes: (pieces,).
    """
    tau = TIME_CONSTANTS_S[:, None, None, None]
    phi = CORRELATIONS[:, None, None]
    alpha = DRIFTS[:, None]
    sigma = SCATTERS
    # Time from one piece to the next; other work may lie in between.
    pace_s = (stop_s[-1] - stop_s[0]) / (y.size - 1) if y.size > 1 else stop_s[-1]
    end_s = stop_s[-1]
    g = _mean_decay(stop_s - duration_s, stop_s, TIME_CONSTANTS_S[:, None])
    g_sum = count * _mean_decay(end_s, end_s + count * pace_s, tau)
    last = g[:, -1][:, None, None, None]

    # Sums of the regression and precision of plateau and drift. The drift is in units of alpha, so
    # that its prior is a standard normal. Shapes broadcast to (tau, phi, alpha, sigma).
    one_one, one_g, g_g, one_y, g_y, y_y = (
        sums[..., None, None] / sigma**2 for sums in _sums(g, y, CORRELATIONS)
    )
    p11, p12, p22 = one_one, alpha * one_g, alpha**2 * g_g + 1
    q1, q2 = one_y, alpha * g_y
    determinant = p11 * p22 - p12**2
    plateau = (p22 * q1 - p12 * q2) / determinant
    drift = (p11 * q2 - p12 * q1) / determinant
    log_weight = (
        0.5 * np.log1p(-(phi**2))
        - y.size * np.log(sigma)
        - 0.5 * np.log(determinant)
        - 0.5 * (y_y - plateau * q1 - drift * q2)
    )
    weight = np.exp(log_weight - log_weight.max())
    weight /= weight.sum()

    # In the pieces to come the deviation of the last piece decays; the rest is new noise.
    carried = phi * (1 - phi**count) / (1 - phi)
    c1, c2 = count - carried, alpha * (g_sum - carried * last)
    mean = c1 * plateau + c2 * drift + carried * y[-1]
    of_state = (c1**2 * p22 - 2 * c1 * c2 * p12 + c2**2 * p11) / determinant
    new = (count - 2 * carried + phi**2 * (1 - phi ** (2 * count)) / (1 - phi**2)) / (1 - phi) ** 2
    deviation = np.sqrt(of_state + sigma**2 * new)
    return float((weight * mean).sum()), _interval(weight, mean, deviation)


def _sums(g: Floats, y: Floats, phi: Floats) -> tuple[Floats, ...]:
    """Sum the products of 1, g and y over the pieces, with the serial correlation removed.

    The first piece is scaled by sqrt(1 - phi^2); each other piece is reduced by phi times the
    previous one. Shapes: g (tau, pieces), y (pieces,), phi (correlations,).

    Returns:
        1·1, 1·g, g·g, 1·y, g·y and y·y, each of shape (tau, correlations).
    """

    def whitened(x: Floats) -> Floats:
        x = x[..., None, :]
        first = np.sqrt(1 - phi**2)[:, None] * x[..., :1]
        return np.concatenate((first, x[..., 1:] - phi[:, None] * x[..., :-1]), axis=-1)

    shape = (len(g), len(phi))
    one, g, y = whitened(np.ones_like(y)), whitened(g), whitened(y)
    pairs = ((one, one), (one, g), (g, g), (one, y), (g, y), (y, y))
    return tuple(np.broadcast_to((a * b).sum(axis=-1), shape) for a, b in pairs)


def _mean_decay(start_s: Floats, stop_s: Floats, tau_s: Floats) -> Floats:
    """Average exp(-t / tau) from start to stop."""
    length = (stop_s - start_s) / tau_s
    mean: Floats = np.exp(-start_s / tau_s) * -np.expm1(-length) / length
    return mean


def _interval(weight: Floats, mean: Floats, deviation: Floats) -> tuple[float, float]:
    """Compute the 2.5 and 97.5 % quantiles of a mixture of normal distributions."""
    optimize, special = load_scipy()
    likely = weight > 1e-6 * weight.max()
    w, m, s = weight[likely] / weight[likely].sum(), mean[likely], deviation[likely]
    centre = float((w * m).sum())
    spread = math.sqrt(float((w * (s**2 + (m - centre) ** 2)).sum()))
    # At most a fraction p lies more than sqrt(1/p - 1) deviations to one side (Cantelli).
    reach = spread * math.sqrt(1 / _TAIL)

    def quantile(p: float) -> float:
        # No dot product: at this length it would wake up BLAS threads next to the training.
        return float(
            optimize.brentq(
                lambda x: float((w * special.ndtr((x - m) / s)).sum()) - p,
                centre - reach,
                centre + reach,
                xtol=1e-6 * spread,
            )
        )

    return quantile(_TAIL), quantile(1 - _TAIL)
