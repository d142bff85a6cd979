"""Labels of points: a place for each name that has room."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from joulelab.report.charts.style import logarithmic

SIDES = ("E", "W", "N", "S", "NE", "NW", "SE", "SW")
"""Sides of a point; its name is written on the first one that is free."""

FRAMES_PX = {"side": (350.0, 300.0), "side_narrow": (235.0, 300.0)}
"""Size of the plot in a file and on a wide page, and on a phone."""

_LETTER_PX, _LINE_PX, _GAP_PX, _POINT_PX = 5.9, 13.0, 6.0, 4.5
MOST = 60
"""With more points than this, none is named."""

_STEPS = ((10.0, 50**0.5), (5.0, 10**0.5), (2.0, 2**0.5), (1.0, 0.0))
"""Steps of ticks, and the least multiple of a power of ten that has each (d3-array)."""

Boxes = NDArray[np.float64]


def with_sides(
    table: pd.DataFrame,
    x: str,
    y: str,
    by: Sequence[str],
    *,
    linear: bool = False,
    allowed: Sequence[str] = SIDES,
    frames: Mapping[str, tuple[float, float]] = FRAMES_PX,
) -> pd.DataFrame:
    """Add the side of each row's name; empty where it would cover something.

    The axes are those of :func:`joulelab.report.charts.style.axis`.

    Args:
        table: Rows with the column ``model`` and the columns ``x`` and ``y`` of the axes.
        x: Column of the horizontal axis.
        y: Column of the vertical axis.
        by: Columns that select what is shown at one time.
        linear: Whether both axes are linear and begin at zero, whatever the range of values.
        allowed: Those of :data:`SIDES` that are free of other marks.
        frames: Size of the plot in pixels, by the column of the sides for it.
    """
    found = {name: pd.Series(None, index=table.index, dtype=object) for name in frames}
    for _, part in table.groupby(list(by), dropna=False):
        if len(part) > MOST:
            continue
        at = np.column_stack([_fraction(part[x], linear), 1 - _fraction(part[y], linear)])
        for name, frame in frames.items():
            found[name].loc[part.index] = sides(at * frame, part["model"].tolist(), frame, allowed)
    return table.assign(**found)


def sides(
    at: Boxes,
    names: Sequence[str],
    frame: tuple[float, float],
    allowed: Sequence[str] = SIDES,
) -> list[str | None]:
    """Choose a side for each name, so that no name covers a point or another name.

    Args:
        at: Points from the top left in pixels. Shape: (points, 2).
        names: Their names.
        frame: Width and height of the plot in pixels.
        allowed: Sides to choose from, the best first.

    Example:
        >>> sides(np.array([[50.0, 50.0], [50.0, 50.0]]), ["a", "b"], (200.0, 100.0))
        ['E', 'W']
    """
    taken: list[Boxes] = [np.concatenate([point - _POINT_PX, point + _POINT_PX]) for point in at]
    chosen: list[str | None] = []
    for own, (point, name) in enumerate(zip(at, names, strict=True)):
        others = np.array([box for i, box in enumerate(taken) if i != own]).reshape(-1, 4)
        for side in allowed:
            box = _box(point, side, _LETTER_PX * len(name))
            if _inside(box, frame) and not _meets(box, others):
                chosen.append(side)
                taken.append(box)
                break
        else:
            chosen.append(None)
    return chosen


def _fraction(values: pd.Series[float], linear: bool) -> Boxes:
    """Return positions on the axis, from 0 to 1, with the margins that the axis has."""
    known = np.asarray(values, dtype=np.float64)
    if logarithmic(values) and not linear:
        known = np.asarray(np.log(known), dtype=np.float64)
    low, high = float(np.nanmin(known)), float(np.nanmax(known))
    if linear:
        low, high = min(low, 0.0), max(high, 0.0)
        if high > low:
            low, high = _nice(low, high)
            return np.asarray((known - low) / (high - low), dtype=np.float64)
    return 0.04 + 0.92 * (known - low) / (high - low) if high > low else np.full(len(known), 0.5)


def _nice(low: float, high: float) -> tuple[float, float]:
    """Extend the ends of an axis to multiples of its step, as d3's ``nice`` does for ten ticks."""
    for _ in range(2):
        raw = (high - low) / 10
        power = 10.0 ** math.floor(math.log10(raw))
        step = power * next(size for size, least in _STEPS if raw / power >= least)
        low, high = math.floor(low / step) * step, math.ceil(high / step) * step
    return low, high


def _box(point: Boxes, side: str, width: float) -> Boxes:
    x, y = point
    diagonal = len(side) > 1
    gap = _GAP_PX * (0.6 if diagonal else 1)
    left = x + gap if "E" in side else x - gap - width if "W" in side else x - width / 2
    top = y + gap if "S" in side else y - gap - _LINE_PX if "N" in side else y - _LINE_PX / 2
    return np.array([left, top, left + width, top + _LINE_PX])


def _inside(box: Boxes, frame: tuple[float, float]) -> bool:
    return bool(box[0] >= 0 and box[1] >= -8 and box[2] <= frame[0] + 8 and box[3] <= frame[1])


def _meets(box: Boxes, others: Boxes) -> bool:
    apart = (others[:, :2] >= box[2:]) | (others[:, 2:] <= box[:2])
    return bool((~apart.any(axis=1)).any())
