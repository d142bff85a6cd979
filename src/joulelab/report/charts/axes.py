"""Axes of charts: the part of each that is shown, its ticks, and intervals that reach further."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from joulelab.arrays import Floats
from joulelab.format import join_words
from joulelab.report.charts.chart import Remark
from joulelab.report.charts.style import NUMBER

FARTHEST = 2.0
"""Axes contain intervals up to this multiple of the greatest estimate, and logarithmic ones down to
this fraction of the least. An interval that reaches further leaves the plot, with an arrow."""

_MARGIN = 0.04  # Of the length of an axis, on either side of what it shows.
_WIDE = 10.0
_TICKS = 10
_STEPS = ((10.0, 50**0.5), (5.0, 10**0.5), (2.0, 2**0.5), (1.0, 0.0))
"""Steps of ticks, and the least multiple of a power of ten that has each (d3-array)."""

_CHANNELS = {"x": alt.X, "y": alt.Y}
_ARROWS = {"x": ("triangle-left", "triangle-right"), "y": ("triangle-down", "triangle-up")}


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis, over the views of a chart, which have one scale but each their own range."""

    along: str  # ``"x"`` or ``"y"``.
    value: str  # Column of the estimates.
    title: str  # With the unit.
    low: str = ""  # Column of the lower ends of intervals; empty for none.
    high: str = ""  # Column of the upper ends.
    zero: bool = False  # Whether a linear axis contains 0.
    most: float = math.inf  # The greatest value that there can be.
    also: str = ""  # Column of further values that are always within the range.
    is_logarithmic: bool | None = None  # ``None`` for what suits the values.

    def framed(self, table: pd.DataFrame, by: Sequence[str]) -> tuple[pd.DataFrame, Framed]:
        """Add the range that is shown with each row, and the ends of intervals within it.

        Args:
            table: Rows, of which those without a value do not count.
            by: Columns that select what is shown at one time.

        Returns:
            The table with the columns of :attr:`Framed.ends` and :attr:`Framed.drawn`.
        """
        views = [part for _, part in table.groupby(list(by), dropna=False, sort=False)]
        is_log = self.is_logarithmic
        if is_log is None:
            values = [part[self.value].dropna() for part in views]
            is_log = any(map(logarithmic, values)) and all((one > 0).all() for one in values)
        found = Framed(self, is_log)
        return pd.concat([found.with_ends(part) for part in views]).loc[table.index], found


@dataclass(frozen=True, slots=True)
class Framed:
    """An axis whose scale is known."""

    axis: Axis
    is_logarithmic: bool

    @property
    def ends(self) -> tuple[str, str]:
        """Columns of the range of values that is shown."""
        return f"{self.axis.along}_from", f"{self.axis.along}_to"

    @property
    def drawn(self) -> tuple[str, str]:
        """Columns of the ends of intervals within that range."""
        return f"{self.axis.along}_low", f"{self.axis.along}_high"

    @property
    def cut(self) -> tuple[str, str]:
        """Columns that state whether an interval reaches further."""
        return f"{self.axis.along}_cut_low", f"{self.axis.along}_cut_high"

    def with_ends(self, part: pd.DataFrame) -> pd.DataFrame:
        """Add these columns to the rows of one view."""
        low, high = self._range(part)
        columns: dict[str, Any] = dict(zip(self.ends, (low, high), strict=True))
        if self.axis.low:
            ends = part[self.axis.low], part[self.axis.high]
            drawn = [end.clip(lower=low, upper=high) for end in ends]
            columns |= dict(zip(self.drawn, drawn, strict=True))
            columns |= dict(zip(self.cut, (ends[0] < low, ends[1] > high), strict=True))
        return part.assign(**columns)

    def _range(self, part: pd.DataFrame) -> tuple[float, float]:
        values = part[self.axis.value].to_numpy(dtype=float)
        values = values[np.isfinite(values)]
        if not values.size:
            return (1.0, 10.0) if self.is_logarithmic else (0.0, 1.0)
        low, high = float(values.min()), float(values.max())
        if self.axis.also:
            others = part[self.axis.also].to_numpy(dtype=float)
            low, high = min(low, float(others.min())), max(high, float(others.max()))
        if self.axis.low:
            lows, highs = (
                part[name].to_numpy(dtype=float) for name in (self.axis.low, self.axis.high)
            )
            least, most = self._farthest(low, high)
            low = min(low, max(float(np.nanmin(lows, initial=low)), least))
            high = max(high, min(float(np.nanmax(highs, initial=high)), most))
        if self.is_logarithmic:
            margin = max(math.log(high / low) * _MARGIN, 0.05)
            return low / math.exp(margin), high * math.exp(margin)
        if self.axis.zero:
            low, high = min(low, 0.0), max(high, 0.0)
        if math.isclose(low, high, rel_tol=1e-6):
            low, high = low - (abs(low) / 10 or 1.0), high + (abs(high) / 10 or 1.0)
        ends = nice(low, high)
        return ends[0], max(min(ends[1], self.axis.most), high)

    def _farthest(self, low: float, high: float) -> tuple[float, float]:
        """Return how far intervals can extend a range of estimates."""
        most = min(FARTHEST * high if high > 0 else 0.0, self.axis.most)
        if self.is_logarithmic:
            return low / FARTHEST, most
        return min(0.0, low - (high - low) / 2), max(most, high)

    def fractions(self, part: pd.DataFrame, column: str = "") -> Floats:
        """Return where values of one view lie on the axis, from 0 to 1 within its range."""
        low, high = (float(part[name].iloc[0]) for name in self.ends)
        values = part[column or self.axis.value].to_numpy(dtype=float)
        if self.is_logarithmic:
            with np.errstate(divide="ignore", invalid="ignore"):
                values = np.log(values)
            low, high = math.log(low), math.log(high)
        return np.asarray((values - low) / (high - low), dtype=np.float64)

    def encoded(self, table: pd.DataFrame, field: str = "", **axis: Any) -> Any:
        """Return altair's X or Y of a field (default: the estimates), of the range of each view.

        Its scale has places for the range, which :func:`joulelab.report.charts.chart.filled` fills.
        """
        domain: Any = [f"{{{name}}}" for name in self.ends]
        kind: dict[str, Any] = {"type": "linear", "zero": False}
        if self.is_logarithmic:
            kind = {"type": "log"}
        scale = alt.Scale(domain=domain, nice=False, **kind)
        values: Any = alt.Undefined
        if self.is_logarithmic:
            low, high = self.ends
            values = log_ticks(float(table[low].min()), float(table[high].max()))
        drawn: dict[str, Any] = {"format": NUMBER, "values": values, **axis}
        return _CHANNELS[self.axis.along](
            f"{field or self.axis.value}:Q",
            title=self.axis.title,
            scale=scale,
            axis=alt.Axis(**drawn),
        )

    def interval_lines(self, base: alt.Chart, table: pd.DataFrame, width: float) -> list[alt.Chart]:
        """Draw intervals, with arrows where they leave the plot."""
        along, (low, high) = self.axis.along, self.drawn
        line = base.mark_rule(strokeWidth=width).encode(
            **{along: self.encoded(table, low), f"{along}2": high}
        )
        arrows = [
            base.transform_filter(f"datum.{cut}")
            .mark_point(shape=shape, filled=True, size=45, opacity=1)
            .encode(**{along: self.encoded(table, end)})
            for cut, end, shape in zip(self.cut, self.drawn, _ARROWS[along], strict=True)
            if table[cut].eq(other=True).any()
        ]
        return [line, *arrows]


def axes_remarks(*axes: Framed) -> tuple[Remark, ...]:
    """Say for a caption which axes are logarithmic, and what arrows mean.

    Example:
        >>> axes_remarks(Framed(Axis("x", "value", ""), is_logarithmic=True))[0].text
        'The horizontal axis is logarithmic.'
    """
    names = {"x": "horizontal", "y": "vertical"}
    found = [names[one.axis.along] for one in axes if one.is_logarithmic]
    noun = "axes are" if len(found) > 1 else "axis is"
    logarithmic = [Remark(f"The {join_words(found)} {noun} logarithmic.")] if found else []
    arrow = "An interval that ends in an arrow reaches further, beyond the plot."
    cuts = dict.fromkeys((column for one in axes for column in one.cut), True)
    return *logarithmic, Remark(arrow, cuts)


def logarithmic(values: pd.Series[float]) -> bool:
    """Return whether the values are positive and span more than a factor of 10."""
    known = values.dropna()
    return len(known) > 0 and known.min() > 0 and known.max() / known.min() > _WIDE


def log_ticks(low: float, high: float) -> list[float]:
    """Return the ticks of a logarithmic axis: 1, 2, 5, 10 ..., or 1, 3, 10 ... for a wider range.

    Example:
        >>> log_ticks(2.0, 40.0)
        [1.0, 2.0, 5.0, 10.0, 20.0, 50.0]
    """
    decades = math.log10(high / low)
    steps = (1, 2, 5) if decades < 1.5 else (1, 3)
    places = [
        step * 10.0**decade
        for decade in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for step in steps
    ]
    return [place for place in places if low / 5 <= place <= high * 2]


def nice(low: float, high: float) -> tuple[float, float]:
    """Extend the ends of an axis to multiples of its step, as d3's ``nice`` does for ten ticks.

    Example:
        >>> nice(0.0, 99.0), nice(-1.8, 31.0)
        ((0.0, 100.0), (-5.0, 35.0))
    """
    for _ in range(2):
        raw = (high - low) / _TICKS
        power = 10.0 ** math.floor(math.log10(raw))
        step = power * next(size for size, least in _STEPS if raw / power >= least)
        low, high = math.floor(low / step) * step, math.ceil(high / step) * step
    return low, high
