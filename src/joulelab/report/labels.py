"""Names beside points, placed so that they do not lie on each other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

from joulelab.report.style import QUIET

_SIDES = (
    (1, 0),
    (-1, 0),
    (0, 1),
    (0, -1),
    (1, 1),
    (1, -1),
    (-1, 1),
    (-1, -1),
)
"""Where a name may go, as right and up of its point, the best first."""

_DISTANCES_PT = (4.0, 10.0, 18.0)
_POINT_SIZE_PX = 8.0
_OUTSIDE_COST = 3.0
"""A name that leaves the axes is worse than one that covers another."""


def label_points(
    axes: Axes, x: NDArray[np.float64], y: NDArray[np.float64], names: Sequence[str]
) -> None:
    """Writes a name beside each point, where it covers least of other names and points.

    Each takes, in order, the first place without an overlap, or the one with the least.

    Args:
        axes: Laid out, with its scales and limits set.
        x: In data units. Shape: (points,).
        y: Likewise.
        names: One a point.
    """
    points = axes.transData.transform(np.column_stack([x, y]))
    half = _POINT_SIZE_PX / 2
    taken = [Bbox.from_extents(px - half, py - half, px + half, py + half) for px, py in points]
    frame = axes.get_window_extent()
    to_data = axes.transData.inverted()
    pixels_per_point = axes.get_figure(root=True).dpi / 72  # type: ignore[union-attr]
    for point, name in zip(points, names, strict=True):
        text = axes.text(0, 0, name, fontsize=6.5, color=QUIET, ha="center", va="center", zorder=5)
        size = text.get_window_extent()
        boxes = [
            _beside(point, size.width, size.height, side, distance * pixels_per_point)
            for distance in _DISTANCES_PT
            for side in _SIDES
        ]
        costs = [
            sum(_shared(box, other) for other in taken)
            + _OUTSIDE_COST * (box.width * box.height - _shared(box, frame))
            for box in boxes
        ]
        best = boxes[int(np.argmin(costs))]
        taken.append(best)
        at_x, at_y = to_data.transform(((best.x0 + best.x1) / 2, (best.y0 + best.y1) / 2))
        text.set_position((float(at_x), float(at_y)))


def _beside(
    point: NDArray[np.float64], width: float, height: float, side: tuple[int, int], distance: float
) -> Bbox:
    """The box of a name at that side of a point, in pixels."""
    centre_x = point[0] + side[0] * (width / 2 + distance)
    centre_y = point[1] + side[1] * (height / 2 + distance)
    return Bbox.from_bounds(centre_x - width / 2, centre_y - height / 2, width, height)


def _shared(one: Bbox, other: Bbox) -> float:
    both = Bbox.intersection(one, other)
    return 0.0 if both is None else both.width * both.height
