"""Figures of a run: power over time with the spans below it, energy by span, and epochs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
from markupsafe import Markup

from joulelab.arrays import Floats, Integers
from joulelab.format import count, duration, percent, quantity, scale, time_scale, with_interval
from joulelab.recording.trace import Trace
from joulelab.report.charts.power import power_of
from joulelab.report.charts.reduction import merged_bars, reduced_positions
from joulelab.report.charts.style import (
    COMPONENT_COLOURS,
    NUMBER,
    QUIET,
    SERIES_COLOURS,
    chart,
    specification,
)
from joulelab.report.provenance import component_name
from joulelab.report.recorded_run import RecordedRun
from joulelab.report.svg_figure import draw_svg
from joulelab.run.summary import Epoch, Summary
from joulelab.runs.record import SpanTotal
from joulelab.runs.span_tree import SpanNode
from joulelab.sensors.sensor import Channel

WIDTH_PX = 1000
"""Width of a figure without JavaScript; with it, figures have the width of the page."""

BUCKETS = 4000
"""Parts of the time of which readings are on the page: more than pixels, for zooming."""

DRAWN_BUCKETS = 500
"""The same for a figure without JavaScript, which cannot be zoomed."""

MOST_BARS = 6000
"""Bars of spans that are drawn."""

WHOLE = "Whole run"
MOST_LANES = 12
MOST_DEPTHS = 8
LEAST_SHARE = 0.002
"""Spans with a smaller share of the energy are too narrow to be drawn."""

GAP_PERIODS = 10
"""The line of a component ends where its readings are this many typical periods apart."""

RANGE = ["{range}"]
"""Stands in a specification for the times that are shown."""

_MOST_TICKS = 12  # Of an axis of whole numbers.
_LEFT_PX, _LANE_PX, _BAR_PX, _ROW_PX = 44, 34, 12, 30
_OTHER_COLOUR = SERIES_COLOURS[3]


@dataclass(frozen=True, slots=True, eq=False)
class RunFigure:
    """A figure of the page."""

    name: str  # Of its element.
    title: str  # Heading.
    alt: str  # Description for readers who cannot see it.
    caption: str  # How to read it.
    specification: Mapping[str, Any]  # Vega-Lite specification of the rows.
    rows: pd.DataFrame  # Everything that can be shown; the page selects by time and ``quantity``.
    drawn: pd.DataFrame  # Rows of the figure without JavaScript.
    # The times that are shown first; ``None`` without zoom.
    range_s: tuple[float, float] | None = None

    def image(self) -> Markup:
        """Render it as SVG."""
        return draw_svg(with_range(self.specification, self.range_s), self.drawn, width=WIDTH_PX)


def with_range(view: Any, range_s: tuple[float, float] | None) -> Any:
    """Put the times that are shown in the place of :data:`RANGE`."""
    if isinstance(view, dict):
        return {name: with_range(one, range_s) for name, one in view.items()}
    if isinstance(view, list):
        return list(range_s or ()) if view == RANGE else [with_range(one, range_s) for one in view]
    return view


def power_figure(recorded: RecordedRun) -> RunFigure | None:
    """Draw power over time by component; ``None`` without readings."""
    lines = list(_lines(recorded))
    if not lines:
        return None
    end_s = recorded.duration_s
    buckets = max(BUCKETS // max(1, len(lines) // 4), DRAWN_BUCKETS)
    rows, drawn = (
        pd.concat([one.reduced(n) for one in lines], ignore_index=True)
        for n in (buckets, DRAWN_BUCKETS)
    )
    readings = sum(one.t_s.size for one in lines)
    names = list(dict.fromkeys(one.label for one in lines))
    view = chart(height=230).mark_line(strokeWidth=1.2, clip=True).encode(
        x=_time_axis("Time since the start (s)"),
        y=alt.Y("power_w:Q", title="Power (W)", axis=alt.Axis(format=NUMBER, minExtent=_LEFT_PX)),
        color=alt.Color(
            "component:N",
            scale=alt.Scale(domain=names, range=_component_colours(names)),
        ),
        detail=["part:N", "stretch:N"],
        order="t_s:Q",
    )  # fmt: skip
    reduced = (
        f" Of {readings:,} readings, the first, last, least and greatest of each of {buckets:,} "
        "parts of the time are drawn."
        if readings > len(rows)
        else ""
    )
    whole = f"{duration(end_s)}, {quantity(recorded.run.energy.mean_power_w, 'W')} on average"
    return RunFigure(
        name="power",
        title="Power over time",
        alt=f"Power over time by component: {', '.join(names)}; {whole}",
        caption=f"A line ends where there are no readings.{reduced}",
        specification=specification(view),
        rows=rows,
        drawn=drawn,
        range_s=(0.0, end_s),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Line:
    """The readings of a component."""

    label: str
    part: str
    t_s: Floats
    power_w: Floats
    stretch: Integers

    def reduced(self, buckets: int) -> pd.DataFrame:
        drawn = reduced_positions(self.t_s, self.power_w, buckets)
        return pd.DataFrame(
            {
                "component": self.label,
                "part": self.part,
                "stretch": self.stretch[drawn],
                "t_s": self.t_s[drawn],
                "power_w": self.power_w[drawn],
            }
        )


def _lines(recorded: RecordedRun) -> Iterable[_Line]:
    """Yield the readings that the run's energies come from, by recording and component."""
    for number, recording in enumerate(recorded.recordings):
        (start_s, stop_s), (start_ns, _) = recorded.time_s(recording), recorded.window_ns(recording)
        for channel, i in _channels(recording.trace, recorded.sources(recording)):
            t_s, power_w = power_of(channel.quantity, *recording.trace.series[i])
            t_s = t_s - start_ns * 1e-9 + start_s
            first, last = np.searchsorted(t_s, (start_s, stop_s))
            # One reading to either side, so that the line fills the time.
            chosen = slice(max(first - 1, 0), last + 1)
            t_s, power_w = t_s[chosen], power_w[chosen]
            if t_s.size:
                steps_s = np.diff(t_s, prepend=t_s[0])
                longest_s = GAP_PERIODS * float(np.median(steps_s[1:])) if t_s.size > 1 else 0.0
                yield _Line(
                    component_name(channel.component),
                    f"{channel.component}, {number}",
                    t_s,
                    power_w,
                    np.cumsum(steps_s > longest_s),
                )


def _channels(trace: Trace, sources: Mapping[str, str]) -> list[tuple[Channel, int]]:
    return [
        (channel, i)
        for i, channel in enumerate(trace.channels)
        if channel.gives_energy and sources.get(channel.component) == channel.source
    ]


def _component_colours(names: Sequence[str]) -> list[str]:
    kinds = {component_name(kind): colour for kind, colour in COMPONENT_COLOURS.items()}
    return [kinds.get(name.partition(" ")[0], _OTHER_COLOUR) for name in names]


def _time_axis(title: str | None) -> alt.X:
    return alt.X("t_s:Q", title=title, axis=alt.Axis(format=NUMBER),
        scale=alt.Scale(domain=RANGE, nice=False, zero=False))  # fmt: skip


def spans_figure(recorded: RecordedRun) -> RunFigure | None:
    """Draw the spans over the same time axis, one lane for each name; ``None`` without spans."""
    lanes = _lanes(recorded)
    if not lanes:
        return None
    end_s = recorded.duration_s
    shown = sorted(lanes, key=lambda name: -lanes[name].length_s)[:MOST_LANES]
    shown = [name for name in lanes if name in shown]
    pixels = min(MOST_BARS // len(shown), 2000)
    parts = []
    merged = False
    for at, name in enumerate(shown):
        lane = lanes[name]
        start_s, stop_s, number = merged_bars(lane.start_s, lane.stop_s, end_s / pixels)
        merged = merged or start_s.size < lane.start_s.size
        sizes = stop_s - start_s
        parts.append(
            pd.DataFrame(
                {
                    "lane": at,
                    "name": name,
                    "t_s": start_s,
                    "stop_s": stop_s,
                    "tip": [
                        f"{duration(size)}" if n == 1 else f"{n:,} spans within {duration(size)}"
                        for n, size in zip(number.tolist(), sizes.tolist(), strict=True)
                    ],
                }
            )
        )
    rows = pd.concat(parts, ignore_index=True)
    labels = pd.DataFrame({"lane": range(len(shown)), "name": shown, "mark": "name"})
    rows = pd.concat([rows.assign(mark="span"), labels], ignore_index=True)
    base = chart(height=_LANE_PX * len(shown) + 4)
    y_scale = alt.Scale(domain=[0, len(shown)], reverse=True, nice=False)
    axis = alt.Axis(labels=False, ticks=False, domain=False, grid=False, minExtent=_LEFT_PX)
    below = _LANE_PX - _BAR_PX
    bars = base.transform_filter("datum.mark == 'span'").mark_bar(
        height=_BAR_PX, yOffset=below, clip=True, minBandSize=1
    ).encode(
        x=_time_axis(None),
        x2="stop_s:Q",
        y=alt.Y("lane:Q", title="Spans", scale=y_scale, axis=axis),
        color=alt.Color(
            "name:N",
            scale=_span_colours(recorded.summary.tree, shown),
            legend=None,
        ),
        tooltip=[alt.Tooltip("name:N", title="Span"), alt.Tooltip("tip:N", title="Length")],
    )  # fmt: skip
    names = base.transform_filter("datum.mark == 'name'").mark_text(
        align="left", baseline="top", dy=3
    ).encode(x=alt.value(0), y=alt.Y("lane:Q", scale=y_scale), text="name:N")  # fmt: skip
    total = sum(lane.start_s.size for lane in lanes.values())
    more = len(lanes) - len(shown)
    texts = [
        "Spans share the time axis of the power above.",
        "Spans narrower than a pixel are drawn as one." if merged else "",
        f"{count(more, 'more name')} of shorter spans: in the table below." if more else "",
    ]
    return RunFigure(
        name="spans",
        title="Spans over time",
        alt=f"{count(total, 'span')} over time, by name: {', '.join(shown)}",
        caption=" ".join(filter(None, texts)),
        specification=specification(alt.layer(bars, names)),
        rows=rows,
        drawn=rows,
        range_s=(0.0, end_s),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Lane:
    """All spans of a name; times from the start of the run."""

    start_s: Floats
    stop_s: Floats

    @property
    def length_s(self) -> float:
        return float(np.sum(self.stop_s - self.start_s))


def _lanes(recorded: RecordedRun) -> dict[str, _Lane]:
    """Collect the spans of each name, in the order in which names appear."""
    found: dict[str, list[Floats]] = {}
    for recording, spans in zip(recorded.recordings, recorded.spans, strict=True):
        zero_s = recorded.window_ns(recording)[0] * 1e-9 - recorded.time_s(recording)[0]
        for name, own in spans.by_name().items():
            times_s = own.windows.seconds("host") - zero_s
            found.setdefault(name, []).append(times_s)
    lanes = {name: np.concatenate(parts) for name, parts in found.items()}
    return {name: _Lane(times_s[:, 0], times_s[:, 1]) for name, times_s in lanes.items()}


def icicle_figure(summary: Summary) -> RunFigure | None:
    """Draw the energy of nested spans, each below the one around it; ``None`` without spans."""
    tree, energy = summary.tree, summary.run.energy
    whole = SpanTotal.of(WHOLE, 1, energy)
    if not (whole.gross_j > 0 and any(one.total.gross_j > 0 for one in tree)):
        return None
    rows = list(_blocks(tree, whole, "gross"))
    if whole.net_j > 0:
        rows += _blocks(tree, whole, "net")
    table = pd.DataFrame(rows)
    size, unit = scale(whole.gross_j, "J")
    table[["low", "high"]] /= size
    depths = int(table["depth"].max()) + 1
    names = list(dict.fromkeys(table["name"]))
    base = chart(height=_ROW_PX * depths).transform_calculate(
        fits="datum.share * width > 7 * length(datum.name) + 10"
    )
    x = alt.X("low:Q", title=f"Energy ({unit})", axis=alt.Axis(format=NUMBER, grid=False),
        scale=alt.Scale(nice=False))  # fmt: skip
    y = alt.Y("depth:Q", scale=alt.Scale(domain=[0, depths], reverse=True, nice=False), axis=None)
    tips = {"name": "Span", "energy": "Energy", "own": "By itself", "spans": "Spans"}
    colour: Mapping[str, Any] = {"scale": _span_colours(tree, names), "legend": None}
    blocks = base.mark_rect(fillOpacity=0.3, strokeWidth=1).encode(
        x=x,
        x2="high:Q",
        y=y,
        y2="below:Q",
        fill=alt.Fill("name:N", **colour),
        stroke=alt.Stroke("name:N", **colour),
        tooltip=[alt.Tooltip(f"{name}:N", title=title) for name, title in tips.items()],
    )
    texts = base.transform_filter("datum.fits").mark_text(
        align="left", baseline="middle", dx=5, dy=_ROW_PX / 2
    ).encode(x=x, y=y, text="name:N")  # fmt: skip
    named = "; ".join(f"{one.name}: {quantity(one.total.gross_j, 'J')}" for one in tree[:5])
    is_narrowed = _overlaps(whole.gross_j, tree)
    caption = (
        "Width is energy. Each block lies below the span around it; where there is nothing below "
        "a block, its spans used the energy by themselves."
    )
    if is_narrowed:
        caption += (
            " Spans of several processes or threads overlap: their energies add up to more than "
            "the whole, and blocks are narrowed to fit."
        )
    return RunFigure(
        name="icicle",
        title="Energy by span",
        alt=f"Energy of nested spans within {quantity(whole.gross_j, 'J')}; {named}",
        caption=caption,
        specification=specification(alt.layer(blocks, texts)),
        rows=table,
        drawn=table[table["quantity"] == "gross"],
    )


def _span_colours(tree: Sequence[SpanNode], names: Sequence[str]) -> alt.Scale:
    """Return the colours of names of spans, the same in every figure; grey for the whole run."""
    known = dict.fromkeys(node.name for one in tree for _, node in one.walk())
    order = {name: i for i, name in enumerate(dict.fromkeys((*known, *names)))}
    count = len(SERIES_COLOURS)
    colours = [QUIET if name == WHOLE else SERIES_COLOURS[order[name] % count] for name in names]
    return alt.Scale(domain=list(names), range=colours)


def _overlaps(within_j: float, nodes: Sequence[SpanNode]) -> bool:
    """Report whether spans have more energy than what is around them, here or below."""
    return sum(one.total.gross_j for one in nodes) > within_j * (1 + 1e-6) or any(
        _overlaps(one.total.gross_j, one.children) for one in nodes
    )


def _blocks(tree: Sequence[SpanNode], whole: SpanTotal, kind: str) -> Iterator[dict[str, Any]]:
    """Lay out the blocks of gross or net energy: the whole run, and below it the spans."""
    total_j = _value(whole, kind)

    def block(
        total: SpanTotal, depth: int, low: float, high: float, **texts: str
    ) -> dict[str, Any]:
        value_j = _value(total, kind)
        of_run = f", {percent(value_j / total_j)} of the run" if depth else ""
        return {
            "quantity": kind,
            "name": total.name,
            "depth": depth,
            "below": depth + 1,
            "low": low,
            "high": high,
            "share": (high - low) / total_j,
            "energy": f"{_energy_text(total, kind)}{of_run}",
            **texts,
        }

    def below(
        nodes: Sequence[SpanNode], depth: int, low: float, high: float
    ) -> Iterator[dict[str, Any]]:
        values = [max(_value(one.total, kind), 0.0) for one in nodes]
        factor = min(1.0, (high - low) / sum(values)) if sum(values) else 0.0
        for node, value in zip(nodes, values, strict=True):
            end = low + value * factor
            if end - low < LEAST_SHARE * total_j or depth > MOST_DEPTHS:
                continue
            count, length = node.total.count, duration(node.total.duration_s)
            yield block(
                node.total,
                depth,
                low,
                end,
                own=quantity(node.self_j, "J") if kind == "gross" else "",
                spans=f"{count:,}, {length} in total" if count > 1 else length,
            )
            yield from below(node.children, depth + 1, low, end)
            low = end

    yield block(whole, 0, 0.0, total_j, own="", spans="")
    yield from below(tree, 1, 0.0, total_j)


def _value(total: SpanTotal, kind: str) -> float:
    value_j = total.gross_j if kind == "gross" else total.net_j
    return value_j if math.isfinite(value_j) else 0.0


def _energy_text(total: SpanTotal, kind: str) -> str:
    if kind == "net":
        return quantity(total.net_j, "J")
    return with_interval(total.gross_j, total.low_j, total.high_j, "J")


def epochs_figure(epochs: Sequence[Epoch]) -> RunFigure | None:
    """Draw the energy and time of each epoch; ``None`` for fewer than two."""
    numbers = [one.index for one in epochs]
    if len(set(numbers)) < len(numbers):
        numbers = list(range(len(epochs)))
    known = [
        (number, one.energy)
        for number, one in zip(numbers, epochs, strict=True)
        if math.isfinite(one.energy.gross_j)
    ]
    if len(known) < 2:
        return None
    size, unit = scale(max(one.gross_j for _, one in known), "J")
    second, time_unit = time_scale(max(one.duration_s for _, one in known))
    rows = pd.DataFrame(
        {
            "epoch": [number for number, _ in known],
            "gross": [one.gross_j / size for _, one in known],
            "duration": [one.duration_s / second for _, one in known],
            "energy": [with_interval(one.gross_j, *one.interval_j, "J") for _, one in known],
            "time": [duration(one.duration_s) for _, one in known],
        }
    )
    step = math.ceil(len(rows) / 1000)
    base = chart(height=190)
    first, last = int(rows["epoch"].min()), int(rows["epoch"].max())
    ticks = list(range(first, last + 1, math.ceil((last - first + 1) / _MOST_TICKS)))
    x = alt.X("epoch:Q", title="Epoch", axis=alt.Axis(format="d", values=ticks, grid=False),
        scale=alt.Scale(nice=False, zero=False, padding=12))  # fmt: skip
    tooltip = [
        alt.Tooltip(f"{one}:N", title=one.capitalize()) for one in ("epoch", "energy", "time")
    ]
    blue, red = SERIES_COLOURS[:2]
    left = base.mark_point(filled=True, size=45, opacity=1, color=blue).encode(
        x=x, y=alt.Y("gross:Q", title=f"Energy ({unit})", axis=alt.Axis(format=NUMBER,
            titleColor=blue, minExtent=_LEFT_PX), scale=alt.Scale(zero=True)), tooltip=tooltip,
    )  # fmt: skip
    right = base.mark_point(size=45, shape="diamond", opacity=1, strokeWidth=1.7, color=red).encode(
        x=x, y=alt.Y("duration:Q", title=f"Time ({time_unit})", axis=alt.Axis(format=NUMBER,
            titleColor=red, grid=False), scale=alt.Scale(zero=True)), tooltip=tooltip,
    )  # fmt: skip
    shown = f" Every {step}th epoch is drawn." if step > 1 else ""
    rows = rows.iloc[::step]
    return RunFigure(
        name="epochs",
        title="Epochs",
        alt=f"Gross energy and time of {count(len(known), 'epoch')}",
        caption=f"Dots are gross energy (left axis), diamonds are time (right axis).{shown}",
        specification=specification(alt.layer(left, right).resolve_scale(y="independent")),
        rows=rows,
        drawn=rows,
    )
