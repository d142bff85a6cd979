"""Fit two straight segments that meet, and test them against one straight line."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from joulelab.arrays import Floats, Indices

LEAST = 8
"""With fewer points two segments cannot be distinguished from a line."""

SIDE = 3
"""Least number of points on each side of the bend."""

_BENDS = 101
_SAMPLES = 1999


@dataclass(frozen=True, slots=True)
class Segments:
    """Two segments: y = intercept + below·min(x, bend) + above·max(x - bend, 0).

    ``low`` and ``high`` are the 95 % interval of the bend, ``p`` is the p-value of one line.
    """

    bend: float
    low: float
    high: float
    intercept: float
    below: float
    above: float
    p: float


def two_segments(x: Floats, y: Floats, seed: int = 0) -> Segments | None:
    """Find the best bend, its interval, and whether one line fits as well.

    A bend is fitted to the points, so that the usual F test of the two slopes would find one too
    often (Davies 1987). ``p`` is therefore from the bootstrap: how often points that scatter about
    one line, as much as these do, gain as much from a bend. The interval contains that of the bends
    of points that scatter about the two segments, and every bend that fits about as well as the
    best one. Both x and y have the shape (points,). The result is
    ``None`` with fewer than :data:`LEAST` points, or if too few of them differ.

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
    ends = _profile(x, y, bends, bent)
    low, high = np.quantile(bends[again], (0.025, 0.975))
    intercept, below, above = (float(value) for value in coefficients)
    ends = min(ends[0], float(low)), max(ends[1], float(high))
    return Segments(bend, *ends, intercept, below, above, p)


def _profile(x: Floats, y: Floats, bends: Floats, bent: Floats) -> tuple[float, float]:
    """Return the ends of the bends that fit about as well as the best one (F test, 95 %).

    If the first or the last bend that was tried is one of them, nothing excludes those beyond.
    """
    square = float((y**2).sum())
    left = np.maximum(square - ((y @ bent) ** 2).sum(axis=1), math.ulp(1.0) * square)
    df = len(x) - 4
    fits = bends[left <= left.min() * (1 + float(stats.f.ppf(0.95, 1, df)) / df)]
    low = x.min() if fits[0] == bends[0] else fits[0]
    high = x.max() if fits[-1] == bends[-1] else fits[-1]
    return float(low), float(high)


def _design(x: Floats, bend: float) -> Floats:
    return np.stack([np.ones_like(x), np.minimum(x, bend), np.maximum(x - bend, 0.0)], axis=1)


def _basis(design: Floats) -> Floats:
    """Return orthonormal columns that span those of the design."""
    scaled = design / np.linalg.norm(design, axis=0)
    return np.asarray(np.linalg.qr(scaled)[0], dtype=float)


def _gain(y: Floats, line: Floats, bent: Floats) -> tuple[Floats, Indices]:
    """Return how much smaller the best bend's residuals are than the line's, and which it is.

    Shapes: (samples, points), (points, 2), (bends, points, 3).
    """
    square = (y**2).sum(axis=1)
    straight = np.maximum(square - ((y @ line) ** 2).sum(axis=1), 0.0)
    parts = y @ bent
    explained = np.einsum("bsk,bsk->bs", parts, parts)
    best = explained.argmax(axis=0)
    left = np.maximum(square - explained.max(axis=0), 0.0)
    floor = math.ulp(1.0) * square
    return straight / np.maximum(left, floor), best


def _drawn(rng: np.random.Generator, fitted: Floats, residuals: Floats, parameters: int) -> Floats:
    """Draw points that scatter about the fitted ones like the residuals: (samples, points)."""
    n = len(fitted)
    spread = (residuals - residuals.mean()) * math.sqrt(n / (n - parameters))
    return fitted + rng.choice(spread, size=(_SAMPLES, n))
