"""Charts of a point and an interval for each model, one below the other."""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas as pd

from joulelab.report.charts.axes import Framed
from joulelab.report.charts.style import chart, crosses

ROW_PX = 21


def dots(
    table: pd.DataFrame,
    axis: Framed,
    colour: str | alt.Color,
    tooltip: list[alt.Tooltip],
    *,
    row_px: int = ROW_PX,
    **more: Any,
) -> alt.LayerChart:
    """Draw a point and an interval for each row; disturbed ones are crossed out."""
    base = chart(height=alt.Step(row_px)).encode(
        y=alt.Y("model:N", sort=None, title=None),
        color=alt.value(colour) if isinstance(colour, str) else colour,
        tooltip=tooltip,
        **more,
    )
    x = axis.encoded(table)
    points = base.mark_point(filled=True, opacity=1, size=60).encode(x=x)
    return alt.LayerChart(
        layer=[*axis.interval_lines(base, table, 1.6), points, *crosses(base.encode(x=x), table)]
    )


def dashed_line(column: str) -> alt.Chart:
    """Draw a vertical line across :func:`dots` at the value of a constant column."""
    line: alt.Chart = chart(height=alt.Step(ROW_PX)).mark_rule(strokeDash=[5, 3])
    return line.encode(x=f"min({column}):Q")
