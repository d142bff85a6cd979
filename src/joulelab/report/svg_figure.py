"""Figures of the pages that are drawn once, without the page's script."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from markupsafe import Markup

from joulelab.report.charts.chart import TABLE, plain_values
from joulelab.report.charts.style import CONFIG
from joulelab.report.renderer import render


def draw_svg(view: Mapping[str, Any], table: pd.DataFrame, **changes: Any) -> Markup:
    """Return a figure as SVG, without a background.

    Args:
        view: A Vega-Lite specification of rows named :data:`TABLE`.
        table: The rows.
        **changes: Of the specification, for example its ``width``.
    """
    columns, values = plain_values(table)
    rows = [dict(zip(columns, row, strict=True)) for row in values]
    config = CONFIG | {"background": None}
    drawn = {**view, "datasets": {TABLE: rows}, "config": config, **changes}
    # Vega escapes the texts of the figure.
    return Markup(render(drawn, ("svg",))["svg"].decode())  # noqa: S704
