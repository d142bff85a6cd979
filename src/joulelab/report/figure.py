"""A figure: one Vega-Lite specification and one table, for the page and for files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

TABLE = "table"
"""The name by which a specification refers to its rows."""

INNER = ("family", "side", "side_narrow", "drawn_low", "drawn_low_j", "rank", "rule", "one", "last")
"""Columns that serve the drawing alone: no table that a reader sees has them."""

BESIDE = ("note", "limit", "knee", "span")
"""Levels of the column ``mark`` that say nothing without other marks."""


class NothingToDraw(Exception):
    """A figure's data are missing; the message says which."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What a reader chooses among: the levels of a column, one of which is shown at a time.

    Attributes:
        column: Of the figure's table.
        title: What is chosen.
        levels: Value in the column to what it is called. The first is shown at first.
    """

    column: str
    title: str
    levels: Mapping[str, str]


@dataclass(frozen=True, slots=True, eq=False)
class Figure:
    """A figure that is drawn from the same specification in a browser and into files.

    Rows are chosen by their columns. Some columns mean the same in every figure: ``scope`` (see
    :class:`~joulelab.report.scopes.Scope`), ``family`` (likewise), ``quantity`` (net or gross),
    ``phase`` and ``model``.

    Attributes:
        name: Of its files, and by which findings refer to it.
        title: Its heading.
        caption: How to read it.
        alt: What it shows, for those who cannot see it.
        chart: A Vega-Lite specification of one view whose data are named :data:`TABLE`. A column
            in braces, as ``{quantity}``, stands for what the shown level is called.
        table: Every row that can be shown.
        panels: Shown side by side: one a level of this choice.
        choices: The figure's own.
        also: Further names by which findings refer to it.
    """

    name: str
    title: str
    caption: str
    alt: str
    chart: Mapping[str, Any]
    table: pd.DataFrame
    panels: Choice | None = None
    choices: tuple[Choice, ...] = field(default=())
    also: tuple[str, ...] = field(default=())

    def shown(self, chosen: Mapping[str, str]) -> pd.DataFrame:
        """The rows that agree with what is chosen; columns that the table lacks choose nothing.

        Where all that is left are marks of :data:`BESIDE`, nothing is.

        Example:
            >>> table = pd.DataFrame({"quantity": ["gross", "net"], "value": [3.0, 2.0]})
            >>> Figure("f", "", "", "", {}, table).shown({"quantity": "net", "phase": "train"})
              quantity  value
            1      net    2.0
        """
        rows = self.table
        for column, level in chosen.items():
            if column in rows:
                rows = rows[rows[column] == level]
        if "mark" in rows and rows["mark"].isin(BESIDE).all():
            return rows.iloc[:0]
        return rows

    def specification(self, chosen: Mapping[str, str], called: Mapping[str, str]) -> dict[str, Any]:
        """The Vega-Lite specification with its rows.

        Args:
            chosen: Column to level.
            called: Column to what the level is called; a name may hold a column that comes later.
        """
        text = json.dumps(self.chart)
        for column, name in called.items():
            text = text.replace(f"{{{column}}}", json.dumps(name)[1:-1])
        chart: dict[str, Any] = json.loads(text)
        shown = self.shown(chosen)
        columns, rows = plain(shown)
        if isinstance(chart["height"], dict):
            # Vega-Lite fits a width only beside a height in pixels.
            chart["height"] = chart["height"]["step"] * shown["model"].nunique()
        chart["datasets"] = {TABLE: [dict(zip(columns, row, strict=True)) for row in rows]}
        return chart


def plain(table: pd.DataFrame) -> tuple[list[str], list[list[Any]]]:
    """Columns, and rows of plain values: six significant digits, ``None`` where nothing is known.

    Example:
        >>> plain(pd.DataFrame({"model": ["LeNet", None], "power_w": [1 / 3, float("nan")]}))
        (['model', 'power_w'], [['LeNet', 0.333333], [None, None]])
    """
    columns = [_column(table[name]) for name in table.columns]
    return list(table.columns), [list(row) for row in zip(*columns, strict=True)]


def _column(values: pd.Series[Any]) -> list[Any]:
    absent = values.isna().to_numpy()
    if pd.api.types.is_float_dtype(values.dtype):
        texts = (float(f"{value:.6g}") for value in values)
        return [None if gone else value for value, gone in zip(texts, absent, strict=True)]
    return [None if gone else value for value, gone in zip(values.tolist(), absent, strict=True)]
