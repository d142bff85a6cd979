"""Two straight segments that meet, by least squares, against one straight line."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

LEAST = 8
"""With fewer points two segments leave too little to tell them from a line."""

SIDE = 3
"""Points on each side of the bend, at least."""

_BENDS = 101
_SAMPLES = 1999


@dataclass(frozen=True, slots=True)
class Segments:
    """Two segments: y = intercept + below·min(x, bend) + above·max(x - bend, 0).

    Attributes:
        bend: Where they meet.
        low: Lower end of the bend's 95 % interval.
        high: Upper end.
        intercept: Of the lower segment.
        below: Its slope.
        above: The upper segment's slope.
        p: Of one line.
    """

    bend: float
    low: float
    high: float
    intercept: float
    below: float
    above: float
    p: float

    def at(self, x: Array) -> Array:
        """What the segments say."""
        fitted: Array = (
            self.intercept
            + self.below * np.minimum(x, self.bend)
            + self.above * np.maximum(x - self.bend, 0.0)
        )
        return fitted


def two_segments(x: Array, y: Array, seed: int = 0) -> Segments | None:
    """The best bend, its interval, and whether one line does as well.

    A bend is fitted to the points, so that the usual F test of the two slopes would find one too
    often (Davies 1987). ``p`` is therefore by the bootstrap: how often points that do scatter
    about one line, as these do, gain as much from a bend. The interval is that of the bends of
    points that scatter about the two segments.

    Args:
        x: Shape: (points,).
        y: Shape: (points,).
        seed: The same seed, the same answer.

    Returns:
        ``None`` with fewer than :data:`LEAST` points, or where too few of them differ.

    Example:
        >>> x = np.arange(12.0)
        >>> found = two_segments(x, np.minimum(x, 6.0) + 0.1 * np.cos(9 * x))
        >>> 5 < found.bend < 7, found.p < 0.01
        (True, True)
    """
    distinct = np.unique(x)
    if len(x) < LEAST or len(distinct) < LEAST or np.ptp(y) == 0:
        return None
    bends = np.linspace(distinct[SIDE - 1], distinct[-SIDE], _BENDS)
    line = _basis(np.stack([np.ones_like(x), x], axis=1))
    bent = np.stack([_basis(_design(x, bend)) for bend in bends])
    rng = np.random.default_rng(seed)

    gain, best = _gain(y[None], line, bent)
    straight = y @ line @ line.T
    drawn = _drawn(rng, straight, y - straight, 2)
    p = (1 + int((_gain(drawn, line, bent)[0] >= gain[0]).sum())) / (1 + _SAMPLES)

    bend = float(bends[best[0]])
    coefficients, *_ = np.linalg.lstsq(_design(x, bend), y, rcond=None)
    fitted = _design(x, bend) @ coefficients
    _, again = _gain(_drawn(rng, fitted, y - fitted, 4), line, bent)
    low, high = np.quantile(bends[again], (0.025, 0.975))
    intercept, below, above = (float(value) for value in coefficients)
    return Segments(bend, float(low), float(high), intercept, below, above, p)


def _design(x: Array, bend: float) -> Array:
    return np.stack([np.ones_like(x), np.minimum(x, bend), np.maximum(x - bend, 0.0)], axis=1)


def _basis(design: Array) -> Array:
    """Orthonormal columns that span those of the design."""
    scaled = design / np.linalg.norm(design, axis=0)
    return np.asarray(np.linalg.qr(scaled)[0], dtype=float)


def _gain(y: Array, line: Array, bent: Array) -> tuple[Array, NDArray[np.intp]]:
    """How much smaller the best bend's residuals are than the line's, and which bend that is.

    Args:
        y: Shape: (samples, points).
        line: Shape: (points, 2).
        bent: Shape: (bends, points, 3).
    """
    square = (y**2).sum(axis=1)
    straight = np.maximum(square - ((y @ line) ** 2).sum(axis=1), 0.0)
    explained = np.stack([((y @ basis) ** 2).sum(axis=1) for basis in bent])
    best = explained.argmax(axis=0)
    left = np.maximum(square - explained.max(axis=0), 0.0)
    floor = math.ulp(1.0) * square
    return straight / np.maximum(left, floor), best


def _drawn(rng: np.random.Generator, fitted: Array, residuals: Array, parameters: int) -> Array:
    """Points that scatter about the fitted ones as the residuals do. Shape: (samples, points)."""
    n = len(fitted)
    spread = (residuals - residuals.mean()) * math.sqrt(n / (n - parameters))
    return fitted + rng.choice(spread, size=(_SAMPLES, n))
