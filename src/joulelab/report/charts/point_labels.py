"""Labels of points: a position for each name, next to its point or at the end of a line to it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from joulelab.arrays import Bools, Floats
from joulelab.report.charts.axes import Framed
from joulelab.report.charts.chart import LABEL, LABEL_WIDTHS_PX
from joulelab.report.charts.style import HEIGHT_PX, INK, QUIET

MOST = 60
"""With more points than this, none is named."""

FONT_PX, LINE_PX = 10.5, 13.0
NAME_PX = 150.0
"""Longer names are cut."""

_GAP_PX = 6.0  # Between a name and the centre of its point, besides the point's radius.
_APART_PX = 4.5  # Between a name and the edge of another point.
_LINE_STEPS = 80  # Boxes along a line across the plot.
_CENTRED_PX = 3.0  # Names are centred on a smaller offset, and else begin or end there.
_LEADS_PX = (18.0, 26.0, 36.0, 50.0, 70.0, 95.0)
_LEAD_STEPS = np.linspace(0.1, 1.0, 12)[:, None]  # Boxes along a line to a point.
_DIRECTIONS = 24
_FIRST = 16  # Positions that are tried before the others.
_TRIES = 1  # Orders in which names are placed, until all have room.
_NARROW, _WIDE = frozenset("iljtfrI.,:;'|-/ ()[]"), frozenset("mwMW@%")

Boxes = Floats
"""Boxes in plots of any width, as rows: where its left and its right end are anchored, as fractions
of the width; the ends, in pixels from there; top and bottom, in pixels from the top."""


def text_px(name: str) -> float:
    """Return the width of a name at :data:`FONT_PX` in a wide font, so that any font fits.

    Example:
        >>> round(text_px("VGG16"), 1)
        38.9
    """
    widths = (
        0.42 if one in _NARROW else 1.0 if one in _WIDE else 0.8 if one.isupper() else 0.65
        for one in name
    )
    return min(FONT_PX * math.fsum(widths), NAME_PX)


def with_labels(
    table: pd.DataFrame,
    axes: tuple[Framed, Framed],
    by: Sequence[str],
    *,
    area: str | float = 55.0,
    lines: pd.DataFrame | None = None,
    height_px: float = HEIGHT_PX,
    is_right: bool = False,
) -> pd.DataFrame:
    """Add the column :data:`LABEL`: where to write the name of each row, by width of the plot.

    A position is left, right, above or below its point, or further away with a line to the point.
    Names cover no point, no other name and nothing outside the plot, and are nearest to their own
    point. They cover lines and intervals only where there is no other position.

    Args:
        table: Rows with the column ``model`` and those of both axes, framed by ``by``.
        axes: The horizontal and the vertical axis.
        by: Columns that select what is shown at one time.
        area: Area of a point in square pixels, or the column of it.
        lines: Lines that are drawn in the plots: columns ``by`` and the values of both axes.
        height_px: Height of the plot.
        is_right: Whether all names are right of their points, which end lines.
    """
    found = pd.Series(None, index=table.index, dtype=object)
    of_view = {} if lines is None else dict(iter(lines.groupby(list(by), dropna=False)))
    for key, part in table.groupby(list(by), dropna=False, sort=False):
        if len(part) > MOST:
            continue
        at = _points(part, axes)
        areas = np.full(len(part), area) if isinstance(area, float) else part[area].to_numpy(float)
        drawn = _marks(part, axes, of_view.get(key), height_px)
        radii = np.sqrt(areas / math.pi)
        names = part["model"].tolist()
        positions = [
            Plot(at, names, radii, drawn, widths, height_px, is_right).positions()
            for widths in pairwise(LABEL_WIDTHS_PX)
        ]
        for row, of_row in zip(part.index, zip(*positions, strict=True), strict=True):
            found.loc[row] = list(of_row)
    return table.assign(**{LABEL: found})


def _points(part: pd.DataFrame, axes: tuple[Framed, Framed]) -> Floats:
    """Return points as fractions of the plot from its top left. Shape: (points, 2)."""
    across, upright = axes
    return np.column_stack([across.fractions(part), 1 - upright.fractions(part)])


def _marks(
    part: pd.DataFrame, axes: tuple[Framed, Framed], line: pd.DataFrame | None, height_px: float
) -> Boxes:
    across, upright = axes
    x, y = _points(part, axes).T
    found = []
    if across.axis.low:
        low, high = (across.fractions(part, name) for name in across.drawn)
        found.append(boxes_around(low, y * height_px, 1.0, until=high))
    if upright.axis.low:
        low, high = ((1 - upright.fractions(part, name)) * height_px for name in upright.drawn)
        tall = boxes_around(x, high, 1.0)
        tall[:, 5] = low
        found.append(tall)
    if line is not None:
        framed = line.assign(**{name: part[name].iloc[0] for one in axes for name in one.ends})
        at, heights = _points(framed, axes).T
        steps = np.linspace(at[0], at[-1], _LINE_STEPS)
        found.append(boxes_around(steps, np.interp(steps, at, heights) * height_px, 2.0))
    every = np.concatenate(found) if found else np.zeros((0, 6))
    return every[np.isfinite(every).all(axis=1)]


def boxes_around(x: Floats, y_px: Floats, half_px: Any, until: Floats | None = None) -> Boxes:
    """Return boxes around points, or around lines across that end at ``until``."""
    ends = np.broadcast_arrays(x, x if until is None else until, -half_px, half_px)
    return np.column_stack([*ends, y_px - half_px, y_px + half_px])


Position = tuple[float, float, int]
"""Offset of a name's end (its centre if the first number is small) and middle from its point in
pixels, and whether a line leads to it."""


@dataclass(frozen=True, slots=True)
class Plot:
    """Points of a plot whose width lies within a range."""

    at: Floats  # Points as fractions of the plot from its top left. Shape: (points, 2).
    names: Sequence[str]  # Their names.
    radii: Floats  # Radii of points in pixels.
    marks: Boxes  # What names should not cover.
    widths: tuple[float, float]  # Least and greatest width of the plot in pixels.
    height_px: float  # Height of the plot.
    is_right: bool = False  # Whether all names are right of their points.

    def positions(self) -> list[Position | None]:
        """Choose a position for each name that is free at every width."""
        points = range(len(self.names))
        alone = _Placement(self)
        room = [alone.free(own, self.near(own), strict=True).sum() for own in points]
        order = sorted(points, key=lambda own: room[own])
        best = self._place(order)
        for _ in range(_TRIES):
            missing = [own for own in order if best[own] is None]
            if not missing:
                break
            # Those without room come first in the next attempt.
            order = missing + [own for own in order if own not in missing]
            best = min(best, self._place(order), key=lambda one: one.count(None))
        return best

    def _place(self, order: Sequence[int]) -> list[Position | None]:
        chosen: list[Position | None] = [None] * len(self.names)
        placement = _Placement(self)
        for own in order:
            chosen[own] = placement.place(own)
        return chosen

    def near(self, own: int) -> Floats:
        """Return the positions next to a point, the best first."""
        positions = _near(self.radii[own])
        return positions[:1] if self.is_right else positions

    @property
    def far(self) -> Floats:
        """Return the positions at the end of a line, the nearest first."""
        return _far_right() if self.is_right else _far()

    def around_points(self, margin_px: float) -> Boxes:
        """Return boxes around all points."""
        return boxes_around(self.at[:, 0], self.at[:, 1] * self.height_px, self.radii + margin_px)

    def names_at(self, own: int, positions: Floats) -> Boxes:
        """Return the box of a name at each position."""
        boxes = _boxes(positions, text_px(self.names[own]))
        boxes[:, :2] = self.at[own, 0]
        boxes[:, 4:] += self.at[own, 1] * self.height_px
        return boxes

    def leads(self, own: int, positions: Floats) -> Boxes:
        """Return boxes along the line from a point to each position."""
        steps = (_LEAD_STEPS * positions[:, None]).reshape(-1, 2)
        x, y = self.at[own]
        boxes = boxes_around(np.full(len(steps), x), y * self.height_px + steps[:, 1], 1.0)
        boxes[:, 2:4] += steps[:, :1]
        return boxes


class _Placement:
    """Names that have a position in a plot, and where others have room."""

    def __init__(self, plot: Plot) -> None:
        self._plot = plot
        self._apart = plot.around_points(_APART_PX)
        self._points = plot.around_points(0.0)
        self._names: list[Boxes] = []
        self._leads: list[Boxes] = []

    def place(self, own: int) -> Position | None:
        """Place a name at the best free position; ``None`` if there is none."""
        near, far = self._plot.near(own), self._plot.far
        for strict in (True, False):
            found = near[self.free(own, near, strict=strict)]
            is_far = not len(found)
            if is_far:
                found = self._reachable(own, far[self.free(own, far, strict=strict)], strict)
            if len(found):
                self._names.append(self._plot.names_at(own, found[:1]))
                if is_far:
                    self._leads.append(self._plot.leads(own, found[:1]))
                return float(found[0, 0]), float(found[0, 1]), int(is_far)
        return None

    def free(self, own: int, positions: Floats, *, strict: bool) -> Bools:
        """Report which positions of a name cover nothing; if strict, no mark either."""
        plot = self._plot
        boxes = plot.names_at(own, positions)
        inside = (boxes[:, 4] >= 0) & (boxes[:, 5] <= plot.height_px)
        for width in plot.widths:
            left, right = (boxes[:, end] * width + boxes[:, 2 + end] for end in (0, 1))
            inside &= (left >= 0) & (right <= width)
        others = [np.delete(self._apart, own, axis=0), *self._names, *self._leads]
        others += [plot.marks] if strict else []
        return inside & ~meet(boxes, np.concatenate(others), plot.widths)

    def _reachable(self, own: int, positions: Floats, strict: bool) -> Floats:
        """Return positions to which a line crosses no point, name or, if strict, line."""
        plot, points = self._plot, self._points
        # A line begins within the points that touch its own.
        touching = meet(points, points[own : own + 1], plot.widths)
        crossed = [points[~touching], *self._names, *(self._leads if strict else [])]
        for some in (positions[:_FIRST], positions[_FIRST:]):
            met = meet(plot.leads(own, some), np.concatenate(crossed), plot.widths)
            free = ~met.reshape(len(some), len(_LEAD_STEPS)).any(axis=1)
            if free.any():
                return some[free]
        return positions[:0]


def _near(radius: float) -> Floats:
    """Return the positions next to a point, the best first."""
    side, above = radius + _GAP_PX - 2, radius + _GAP_PX / 2 + LINE_PX / 2 - 2
    slant = 0.7 * side + 1
    return np.array(
        [
            [side, 0], [-side, 0], [0, -above], [0, above],
            [slant, 2 - above], [slant, above - 2], [-slant, 2 - above], [-slant, above - 2],
        ]
    ).round(1)  # fmt: skip


def _far() -> Floats:
    """Return the positions at the end of a line, the nearest first."""
    angles = np.arange(_DIRECTIONS) * 2 * math.pi / _DIRECTIONS
    directions = np.column_stack([np.cos(angles), -np.sin(angles)])
    return np.concatenate([radius * directions for radius in _LEADS_PX]).round(1)


def _far_right() -> Floats:
    """Return the positions to the right, at the end of a line, the nearest first."""
    steps = np.arange(1, 30)[:, None] * np.array([-LINE_PX, LINE_PX]) / 2
    return np.column_stack([np.full(steps.size, _LEADS_PX[0]), steps.ravel()])


def _boxes(positions: Floats, width: float) -> Boxes:
    """Return the box of a name at each position, around a point at the top left."""
    dx, dy = positions.T
    left = np.where(dx > _CENTRED_PX, dx, np.where(dx < -_CENTRED_PX, dx - width, dx - width / 2))
    zero = np.zeros_like(dx)
    return np.column_stack([zero, zero, left, left + width, dy - LINE_PX / 2, dy + LINE_PX / 2])


def meet(boxes: Boxes, others: Boxes, widths: tuple[float, float]) -> Bools:
    """Report which boxes meet any other at some width of the plot within a range.

    Distances across are linear in the width, so that those at its ends bound all.

    Example:
        >>> one, other = [0.5, 0.5, 4, 50, 90, 103], [0.6, 0.6, -4, 4, 98, 106]
        >>> ranges = ((200, 300), (600, 700))
        >>> [meet(np.array([one]), np.array([other]), widths).tolist() for widths in ranges]
        [[True], [False]]
    """
    above = (boxes[:, None, 4] < others[:, 5]) & (others[:, 4] < boxes[:, None, 5])
    starts, stops = (
        np.stack([(others[:, end] - boxes[:, None, 1 - end]) * width for width in widths])
        for end in (0, 1)
    )
    before = starts.min(0) + others[:, 2] < boxes[:, None, 3]
    behind = stops.max(0) + others[:, 3] > boxes[:, None, 2]
    return np.asarray((above & before & behind).any(axis=1))


def name_layers(base: alt.Chart) -> tuple[alt.Chart, alt.Chart]:
    """Return lines to points, to be drawn below them, and the names from :func:`with_labels`."""
    number = " + ".join(f"(width >= {width})" for width in LABEL_WIDTHS_PX[1:-1])
    at = f"(datum.{LABEL} || [])[{number}]"
    dx, dy = f"{at}[0]", f"{at}[1]"
    named = base.transform_filter(f"isValid({at})")
    encoding = base.to_dict(validate=False)["encoding"]
    leads: alt.Chart = named.transform_filter(f"{at}[2]").mark_rule(
        strokeWidth=0.8, x2Offset=alt.ExprRef(dx), y2Offset=alt.ExprRef(dy), aria=False
    )
    leads = leads.encode(
        x2=encoding["x"]["field"], y2=encoding["y"]["field"], color=alt.value(QUIET)
    )
    sides = f"{dx} > {_CENTRED_PX} ? 'left' : {dx} < -{_CENTRED_PX} ? 'right' : 'center'"
    names: alt.Chart = named.mark_text(
        baseline="middle",
        align=alt.ExprRef(sides),
        dx=alt.ExprRef(dx),
        dy=alt.ExprRef(dy),
        limit=NAME_PX,
        fontSize=FONT_PX,
    )
    return leads, names.encode(text="model:N", color=alt.value(INK))


def unnamed_text(table: pd.DataFrame) -> str:
    """Say for a caption how to find names, if some points have none at all."""
    if table[LABEL].notna().all():
        return ""
    return f"More than {MOST} points have no names: point at one, or see the data below."
