"""Chart: one Vega-Lite specification and one table, for the page and for files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

TABLE = "table"
"""Name of the rows in a specification."""

_AXIS_ENDS = ("from", "to", "low", "high", "cut_low", "cut_high")

LABEL = "label"
"""Column of the positions of a point's name, see :mod:`.point_labels`: one for each range of
widths; ``None`` for a point without a name."""

LABEL_WIDTHS_PX = (180, 215, 255, 310, 375, 440, 520, 620, 760, 1050)
"""Between two of these widths of a plot, names have one position. Wider plots use the last one."""

WIDTH_PX = 460
"""Width of a panel in files: at 96 px per inch slightly more than a column of a paper."""

_AXIS_PX = 60  # About the width of a vertical axis with its title.

HIDDEN = (
    "family", "rank", "rule", "one", "last", "label", "area",
    *(f"x_{end}" for end in _AXIS_ENDS), *(f"y_{end}" for end in _AXIS_ENDS),
)  # fmt: skip
"""Columns that only position marks: no table that a reader sees has them."""

TIMES = ("t_s", "stop_s")
"""Columns of times since the start of a recording."""

ENDS = ("x_from", "x_to", "y_from", "y_to")
"""Columns of the ends of axes, constant in each view."""

ANNOTATIONS = ("note", "limit", "knee", "span")
"""Levels of the column ``mark`` that mean nothing without other marks."""


class NothingToDraw(Exception):
    """The data of a chart are missing; the message says which."""


@dataclass(frozen=True, slots=True)
class Selector:
    """The levels of a column; a reader sees one at a time."""

    column: str  # Column of the chart's table.
    title: str  # What is selected.
    levels: Mapping[str, str]  # Value in the column to its name. The first is shown at first.


@dataclass(frozen=True, slots=True)
class Remark:
    """A sentence of a caption."""

    text: str  # The sentence.
    # Column to value: the sentence is about views with a row that has one of these values. ``True``
    # stands for any but false, 0 and missing. Empty: it is about every view.
    where: Mapping[str, Any] = field(default_factory=dict)

    def is_about(self, rows: pd.DataFrame) -> bool:
        """Report whether a view of these rows needs the sentence.

        Example:
            >>> Remark("A ring marks the best.", {"best": True}).is_about(
            ...     pd.DataFrame({"best": [False, None, True]})
            ... )
            True
        """
        if not self.where:
            return True
        known = (
            rows[name].eq(value) | (rows[name].notna() & rows[name].ne(0) & (value is True))
            for name, value in self.where.items()
            if name in rows
        )
        return any(bool(one.any()) for one in known)


@dataclass(frozen=True, slots=True)
class Single:
    """How a view of a single mark is stated in a sentence, which replaces the drawing."""

    name: str = "model"  # Column of what a mark is about.
    text: str = "text"  # Column of its value.
    part: str = ""  # Column of the parts of a mark; empty for none.
    parts: Mapping[str, str] = field(default_factory=dict)  # Value in this column to its name.

    def sentence(self, rows: pd.DataFrame) -> str:
        """Return the sentence; empty unless all rows are about one mark.

        Example:
            >>> rows = pd.DataFrame({"model": ["LeNet"], "text": ["3.00 J"]})
            >>> Single().sentence(rows), Single().sentence(rows.assign(text=None))
            ('LeNet: 3.00 J.', '')
        """
        known = rows[rows[self.text].notna()]
        if known[self.name].nunique() != 1:
            return ""
        parts = (
            known[self.part].map(dict(self.parts)).fillna("") if self.part else [""] * len(known)
        )
        values = [
            f"{part} {text}".strip() for part, text in zip(parts, known[self.text], strict=True)
        ]
        return f"{known[self.name].iloc[0]}: {', '.join(values)}."


@dataclass(frozen=True, slots=True, eq=False)
class Chart:
    """A chart that a browser and the renderer of files draw from the same specification.

    Columns select rows. Some mean the same in every chart: ``group`` and ``family`` (see
    :func:`joulelab.findings.summary.measurements`), ``quantity`` (net or gross), ``phase`` and
    ``model``.
    """

    name: str  # Name of its files; findings refer to it.
    caption: tuple[Remark, ...]  # How to read it.
    alt: str  # Description for readers who cannot see it.
    # Vega-Lite specification of one view of the data :data:`TABLE`. A column in braces, for example
    # ``{quantity}``, stands for the name of the selected level.
    specification: Mapping[str, Any]
    table: pd.DataFrame  # Every row that can be shown.
    panels: Selector | None = None  # Levels that are shown side by side.
    selectors: tuple[Selector, ...] = ()  # The chart's own selectors.
    # How a view of a single mark is stated; ``None`` where that is drawn, too.
    single: Single | None = None
    title: str = ""  # Heading, which :func:`joulelab.report.charts.all_charts` sets.

    def shown(self, selected: Mapping[str, Any]) -> pd.DataFrame:
        """Return the rows that match a selection; columns that the table lacks select nothing.

        Nothing is shown if all that remains are marks of :data:`ANNOTATIONS`.

        Example:
            >>> table = pd.DataFrame({"quantity": ["gross", "net"], "value": [3.0, 2.0]})
            >>> Chart("c", "", "", {}, table).shown({"quantity": "net", "phase": "train"})
              quantity  value
            1      net    2.0
        """
        rows = self.table
        for column, level in selected.items():
            if column in rows:
                rows = rows[rows[column] == level]
        if "mark" in rows and rows["mark"].isin(ANNOTATIONS).all():
            return rows.iloc[:0]
        return rows

    def view(self, selected: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
        """Return the specification with the selected rows.

        ``names`` of levels, by column, may contain a later column in braces.
        """
        shown = self.shown(selected)
        view = filled(self.specification, names, shown)
        view |= _unnamed_title(shown)
        columns, rows = plain_values(shown)
        if isinstance(view["height"], dict):
            # Vega-Lite fits the width only for a height in pixels.
            view["height"] = view["height"]["step"] * int(shown["model"].nunique())
        view["datasets"] = {TABLE: [dict(zip(columns, row, strict=True)) for row in rows]}
        return view


def filled(
    specification: Mapping[str, Any], names: Mapping[str, str], rows: pd.DataFrame
) -> dict[str, Any]:
    """Fill the names in braces of a specification.

    A text that is a name in braces alone and is a column of numbers becomes the first number of
    this column: such columns are constant in a view.

    Example:
        >>> rows = pd.DataFrame({"x_from": [0.5, 0.5]})
        >>> filled({"title": "{of} (J)", "domain": ["{x_from}"]}, {"of": "Energy"}, rows)
        {'title': 'Energy (J)', 'domain': [0.5]}
    """
    text = json.dumps(specification)
    for column, name in names.items():
        text = text.replace(f"{{{column}}}", json.dumps(name)[1:-1])
    for column in rows.columns.intersection(list(ENDS)):
        text = text.replace(f'"{{{column}}}"', json.dumps(float(rows[column].dropna().iloc[0])))
    made: dict[str, Any] = json.loads(text)
    return made


def _unnamed_title(rows: pd.DataFrame) -> dict[str, Any]:
    """Return a title that lists the points without room for a name; empty if there are none."""
    if LABEL not in rows:
        return {}
    at = sum(least <= WIDTH_PX - _AXIS_PX for least in LABEL_WIDTHS_PX[1:-1])
    places = zip(rows["model"], rows[LABEL], strict=True)
    names = [name for name, of_row in places if isinstance(of_row, list) and of_row[at] is None]
    if not names:
        return {}
    lines = [", ".join(names[first : first + 3]) for first in range(0, len(names), 3)]
    return {"title": {"text": [f"Not named in the plot: {lines[0]}", *lines[1:]]}}


def plain_values(table: pd.DataFrame) -> tuple[list[str], list[list[Any]]]:
    """Return columns and rows of plain values; missing ones and infinities are ``None``.

    Numbers have six significant digits, and times (:data:`TIMES`) nine: one of a long recording
    must still be exact to the millisecond.

    Example:
        >>> plain_values(pd.DataFrame({"model": ["LeNet", None], "power_w": [1 / 3, float("nan")]}))
        (['model', 'power_w'], [['LeNet', 0.333333], [None, None]])
    """
    columns = [_plain_column(table[name]) for name in table.columns]
    return list(table.columns), [list(row) for row in zip(*columns, strict=True)]


def _plain_column(values: pd.Series[Any]) -> list[Any]:
    absent = values.isna().to_numpy()
    plain = values.tolist()
    if pd.api.types.is_float_dtype(values.dtype):
        absent = ~np.isfinite(values.to_numpy(dtype=float, na_value=np.nan))
        digits = 9 if values.name in TIMES else 6
        plain = [float(f"{value:.{digits}g}") for value in values]
    return [None if gone else value for value, gone in zip(plain, absent, strict=True)]
