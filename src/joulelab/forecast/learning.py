"""Forecast the number of epochs that reach an accuracy, from the first few epochs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from joulelab.arrays import Floats
from joulelab.errors import UserError
from joulelab.format import count, with_interval

LEAST_EPOCHS = 5
"""Fewest epochs with an accuracy: two more than the curve has parameters."""

FARTHEST = 100.0
"""A curve is extrapolated to at most this many times the measured epochs."""

SLOPES = np.geomspace(0.1, 10.0, 201)
DRAWS = 4000


@dataclass(frozen=True, slots=True)
class EpochsTo:
    """Number of epochs that reach an accuracy, with its 95 % interval; NaN with a reason."""

    epochs: float = math.nan
    low: float = math.nan
    high: float = math.nan
    reason: str = ""


def epochs_to(target_pct: float, accuracy_pct: Sequence[float]) -> EpochsTo:
    """Forecast when the accuracy of a learning curve reaches a target.

    The curve is a power law, accuracy = c - b * epoch^(-g) (Hestness et al., *Deep Learning
    Scaling is Predictable, Empirically*, 2017), with all parameters unknown. Given g it is a linear
    regression, and parameters are drawn from its posterior under the usual flat prior (Gelman et
    al., *Bayesian Data Analysis*, 3rd ed., section 14.2); g is on a grid, uniform in the logarithm.
    Draws of a falling curve or of one that exceeds 100 % are discarded. The random numbers are the
    same every time.

    Args:
        target_pct: Accuracy to reach, in (0, 100].
        accuracy_pct: Accuracy after each epoch; NaN if not measured. Shape: (epochs,).

    Example:
        >>> curve = [90 - 40 / epoch for epoch in range(1, 9)]
        >>> found = epochs_to(88.0, curve)
        >>> round(found.epochs), epochs_to(80.0, curve).epochs
        (20, 4.0)
        >>> epochs_to(95.0, curve).reason
        'the learning curve levels off at 90.0 % (95 % CI 90.0–90.0 %), below the target'
    """
    if not 0 < target_pct <= 100:
        raise UserError(f"target accuracy {target_pct}", why="it must be a percentage up to 100")
    accuracy = np.asarray(accuracy_pct, dtype=np.float64)
    epoch = np.arange(1.0, accuracy.size + 1)
    reached = np.flatnonzero(accuracy >= target_pct)
    if reached.size:
        first = float(epoch[reached[0]])
        return EpochsTo(first, first, first)
    known = np.isfinite(accuracy)
    if known.sum() < LEAST_EPOCHS:
        found = count(int(known.sum()), "epoch has", "epochs have")
        return EpochsTo(reason=f"{found} an accuracy, but a curve needs at least {LEAST_EPOCHS}")
    ceiling, scale, slope = _draws(epoch[known], accuracy[known])
    if not ceiling.size:
        return EpochsTo(reason="the accuracy does not increase")
    with np.errstate(divide="ignore", over="ignore"):
        short = np.maximum(ceiling - target_pct, 0.0)
        needed = np.exp(np.log(scale / short) / slope)
    needed = np.maximum(np.ceil(needed), accuracy.size + 1)
    low, middle, high = np.quantile(needed, (0.025, 0.5, 0.975), method="inverted_cdf")
    if high <= FARTHEST * accuracy.size:
        return EpochsTo(float(middle), float(low), float(high))
    bottom, centre, top = np.quantile(ceiling, (0.025, 0.5, 0.975))
    ceiling_text = f"levels off at {with_interval(centre, bottom, top, '%')}"
    if top < target_pct:
        return EpochsTo(reason=f"the learning curve {ceiling_text}, below the target")
    return EpochsTo(reason=f"the learning curve {ceiling_text} and may never reach the target")


def _draws(epoch: Floats, accuracy: Floats) -> tuple[Floats, Floats, Floats]:
    """Draw c, b and g. Shape of each: (valid draws,)."""
    design = np.stack([np.ones((SLOPES.size, epoch.size)), -(epoch ** -SLOPES[:, None])], axis=-1)
    gram = np.swapaxes(design, 1, 2) @ design
    inverse = np.linalg.inv(gram)
    best = (inverse @ (np.swapaxes(design, 1, 2) @ accuracy)[..., None])[..., 0]
    residual = accuracy - (design @ best[..., None])[..., 0]
    freedom = epoch.size - 2
    # A curve without residuals, for example of rounded percentages, is still not known exactly.
    squares = np.maximum((residual**2).sum(axis=-1), 1e-12 * (accuracy**2).sum())
    log_weight = -0.5 * np.linalg.slogdet(gram)[1] - 0.5 * freedom * np.log(squares)
    weight = np.exp(log_weight - log_weight.max())
    random = np.random.default_rng(0)
    at = random.choice(SLOPES.size, DRAWS, p=weight / weight.sum())
    deviation = np.sqrt(squares[at] / random.chisquare(freedom, DRAWS))
    root = np.linalg.cholesky(inverse)
    noise = (root[at] @ random.standard_normal((DRAWS, 2))[..., None])[..., 0]
    drawn = best[at] + deviation[:, None] * noise
    valid = (drawn[:, 1] > 0) & (drawn[:, 0] <= 100)
    return drawn[valid, 0], drawn[valid, 1], SLOPES[at][valid]
