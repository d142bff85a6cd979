"""How many epochs until an accuracy is reached, from the first few."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from joulelab.errors import UserError

Floats = NDArray[np.float64]

LEAST_EPOCHS = 5
"""Two more than the curve has parameters."""

FARTHEST = 100.0
"""No curve is followed further than this many times the epochs that were seen."""

SLOPES = np.geomspace(0.1, 10.0, 201)
DRAWS = 4000


@dataclass(frozen=True, slots=True)
class EpochsTo:
    """When an accuracy will be reached.

    Attributes:
        epochs: How many epochs it takes; NaN when that cannot be said yet.
        low: Lower end of its 95 % interval.
        high: Upper end.
        reason: Why it cannot be said; empty when it can.
    """

    epochs: float
    low: float
    high: float
    reason: str = ""


def epochs_to(target_pct: float, accuracy_pct: Sequence[float]) -> EpochsTo:
    """When the accuracy of a learning curve comes to a target.

    The curve is a power law, accuracy = c - b * epoch^(-g) (Hestness et al., *Deep Learning
    Scaling is Predictable, Empirically*, 2017), with every parameter unknown: given g it is a
    linear regression, whose posterior under the usual flat prior (Gelman et al., *Bayesian Data
    Analysis*, 3rd ed., section 14.2) is drawn from; g is on a grid, equally likely in the
    logarithm. Draws that fall or pass 100 % are left out. The random numbers are the same each
    time.

    Args:
        target_pct: Accuracy to reach, in (0, 100].
        accuracy_pct: After each epoch, from the first on. Shape: (epochs,). NaN: not measured.

    Raises:
        UserError: The target is no percentage.

    Example:
        >>> curve = [90 - 40 / epoch for epoch in range(1, 9)]
        >>> found = epochs_to(88.0, curve)
        >>> round(found.epochs), epochs_to(80.0, curve).epochs
        (20, 4.0)
        >>> epochs_to(95.0, curve).reason
        'the learning curve levels off at 90.0 % (90.0 to 90.0), below the target'
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
        return _unknown(
            f"{known.sum()} epochs have an accuracy, and a curve needs at least {LEAST_EPOCHS}"
        )
    ceiling, scale, slope = _draws(epoch[known], accuracy[known])
    if not ceiling.size:
        return _unknown("the accuracy does not rise")
    with np.errstate(divide="ignore", over="ignore"):
        short = np.maximum(ceiling - target_pct, 0.0)
        needed = np.exp(np.log(scale / short) / slope)
    needed = np.maximum(np.ceil(needed), accuracy.size + 1)
    low, middle, high = np.quantile(needed, (0.025, 0.5, 0.975), method="inverted_cdf")
    if high <= FARTHEST * accuracy.size:
        return EpochsTo(float(middle), float(low), float(high))
    bottom, centre, top = np.quantile(ceiling, (0.025, 0.5, 0.975))
    where = f"levels off at {centre:.1f} % ({bottom:.1f} to {top:.1f})"
    if top < target_pct:
        return _unknown(f"the learning curve {where}, below the target")
    return _unknown(f"the learning curve {where}, and may never reach the target")


def _unknown(reason: str) -> EpochsTo:
    return EpochsTo(math.nan, math.nan, math.nan, reason)


def _draws(epoch: Floats, accuracy: Floats) -> tuple[Floats, Floats, Floats]:
    """Draws of c, b and g. Shape: (draws kept,), each."""
    design = np.stack([np.ones((SLOPES.size, epoch.size)), -(epoch ** -SLOPES[:, None])], axis=-1)
    gram = np.swapaxes(design, 1, 2) @ design
    inverse = np.linalg.inv(gram)
    best = (inverse @ (np.swapaxes(design, 1, 2) @ accuracy)[..., None])[..., 0]
    residual = accuracy - (design @ best[..., None])[..., 0]
    freedom = epoch.size - 2
    # A curve that is met exactly, as one rounded to whole percents may be, is not known exactly.
    squares = np.maximum((residual**2).sum(axis=-1), 1e-12 * (accuracy**2).sum())
    log_weight = -0.5 * np.linalg.slogdet(gram)[1] - 0.5 * freedom * np.log(squares)
    weight = np.exp(log_weight - log_weight.max())
    random = np.random.default_rng(0)
    at = random.choice(SLOPES.size, DRAWS, p=weight / weight.sum())
    deviation = np.sqrt(squares[at] / random.chisquare(freedom, DRAWS))
    root = np.linalg.cholesky(inverse)
    noise = (root[at] @ random.standard_normal((DRAWS, 2))[..., None])[..., 0]
    drawn = best[at] + deviation[:, None] * noise
    kept = (drawn[:, 1] > 0) & (drawn[:, 0] <= 100)
    return drawn[kept, 0], drawn[kept, 1], SLOPES[at][kept]
