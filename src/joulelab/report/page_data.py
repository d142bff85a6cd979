"""Data of a page: charts as JSON, in text that cannot end its element."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd
from markupsafe import Markup

from joulelab.report.charts.chart import (
    ANNOTATIONS,
    ENDS,
    HIDDEN,
    LABEL_WIDTHS_PX,
    Chart,
    Selector,
    plain_values,
)
from joulelab.report.charts.style import CONFIG, QUANTITIES


def page_data(groups: pd.DataFrame, charts: Sequence[Chart], quantity: str) -> Markup:
    """Return the JSON that ``report.js`` reads, with the quantity that is shown at first."""
    content = {
        "groups": groups[["group", "family", "unit"]].to_dict("records"),
        "quantity": quantity,
        "quantities": QUANTITIES,
        "config": CONFIG,
        "hidden": ["group", *HIDDEN],
        "ends": ENDS,
        "label_widths": LABEL_WIDTHS_PX[1:-1],
        "annotations": ANNOTATIONS,
        "charts": {
            chart.name: {
                "specification": chart.specification,
                "columns": pack(chart.table),
                "panels": _selector(chart.panels) if chart.panels else None,
                "selectors": [_selector(selector) for selector in chart.selectors],
                "remarks": [dict(one.where) for one in chart.caption],
                "single": asdict(chart.single) if chart.single else None,
            }
            for chart in charts
        },
    }
    return Markup(script_json(content))  # noqa: S704


def _selector(selector: Selector) -> dict[str, Any]:
    return {"column": selector.column, "levels": dict(selector.levels)}


def pack(table: pd.DataFrame) -> dict[str, Any]:
    """Return columns of plain values; texts as levels and codes where that is shorter.

    Example:
        >>> pack(pd.DataFrame({"model": ["LeNet", "LeNet", "VGG16"], "power_w": [1.0, 2.0, 3.0]}))
        {'model': {'levels': ['LeNet', 'VGG16'], 'codes': [0, 0, 1]}, 'power_w': [1.0, 2.0, 3.0]}
    """
    names, rows = plain_values(table)
    columns = zip(*rows, strict=True) if rows else ([] for _ in names)
    return {name: _pack(list(values)) for name, values in zip(names, columns, strict=True)}


def _pack(values: list[Any]) -> Any:
    texts = {value for value in values if isinstance(value, str)}
    if not texts or len(texts) == len(values):
        return values
    levels = list(dict.fromkeys(value for value in values if value is not None))
    codes = {level: code for code, level in enumerate(levels)}
    return {
        "levels": levels,
        "codes": [None if value is None else codes[value] for value in values],
    }


def script_json(content: Any) -> str:
    r"""Return JSON that stays within its ``<script>``, whatever names it contains.

    Example:
        >>> script_json({"model": "</script><!-- \u2028"})
        '{"model":"\\u003c/script\\u003e\\u003c!-- \\u2028"}'
    """
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    return text.replace("<", r"\u003c").replace(">", r"\u003e").replace("&", r"\u0026")
