"""Page of joules per token: power over time and what explains it, requests, levels of load."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import altair as alt
import numpy as np
import pandas as pd
from markupsafe import Markup

from joulelab.arrays import Floats
from joulelab.carbon.costs import J_PER_KWH
from joulelab.carbon.token_costs import TokenCosts
from joulelab.energy.estimator import EnergyEstimator
from joulelab.findings.tables import write_file
from joulelab.format import count, number, quantity, scale, sentence, with_interval
from joulelab.llm.requests import RequestLog
from joulelab.llm.result import LlmResult
from joulelab.llm.server_activity import Phase, activities
from joulelab.llm.text import (
    all_notes,
    component_rows,
    cost_notes,
    cost_table,
    energy_text,
    headline,
    load_text,
    per_token_cell,
    per_token_rows,
    request_text,
    steady_text,
)
from joulelab.recording.trace import Trace
from joulelab.recording.trace_spans import Window
from joulelab.report.charts.style import INK, NUMBER, SERIES_COLOURS, chart, specification
from joulelab.report.page_template import fill_template
from joulelab.report.svg_figure import draw_svg
from joulelab.uncertain import Ratio

PARTS = {"idle": "Idle", "decode": "Decode", "prefill": "Prefill"}
_COLOURS = ("#b8bec6", SERIES_COLOURS[5], SERIES_COLOURS[4])
_FEW_TO_MANY = (SERIES_COLOURS[5], SERIES_COLOURS[1])
_WIDTH_PX = 640
_LEFT_PX = 44
"""Space for the labels of power and requests, so that their times are in line."""
BINS = 300
"""Parts of the time in which power is drawn."""
SHOWN_IDLE_S = 5.0
"""Time before the first request and after the last in which power is drawn."""
MOST_POINTS = 600
"""Requests that are drawn."""


class LoadPoint(NamedTuple):
    """One level of a sweep: its name, J per output token while it was full, and throughput."""

    label: str
    cost: Ratio
    output_tokens_per_s: float


class Figure(NamedTuple):
    """A figure of the page."""

    name: str
    title: str
    image: Markup
    alt: str
    caption: str


def write_llm_page(
    path: Path,
    result: LlmResult,
    *,
    title: str,
    trace: Trace | None = None,
    costs: Mapping[str, TokenCosts] | None = None,
    sweep: Sequence[LoadPoint] = (),
    best: LoadPoint | None = None,
    summary: str = "",
) -> Path:
    """Write a page without scripts that needs no network, and return it.

    Args:
        path: The HTML file.
        result: What was measured, on the clock of the trace.
        title: What was measured, for example the model or the log.
        trace: Readings of power, to draw it over time.
        costs: Of a million tokens, from :func:`joulelab.llm.text.costs_of`.
        sweep: The levels of load.
        best: That of the main values, if there were several.
        summary: The result in a sentence. Default: joules per token.

    Raises:
        StoreError: It cannot be written.
    """
    tokens = [
        (row.title, per_token_cell(row.whole), per_token_cell(row.steady))
        for row in per_token_rows(result)
    ]
    has_steady = result.steady_state is not None
    figures = [
        *([_sweep_figure(sweep)] if len(sweep) > 1 else []),
        *(_power_figures(result, trace) if trace is not None else []),
        *([_request_figure(result)] if result.per_request is not None else []),
        *([_steady_figure(result)] if has_steady and tokens else []),
    ]
    page = fill_template(
        "llm.html.j2",
        title=title,
        headline=summary or sentence(headline(result)),
        facts=_facts(result, costs or {}, best if len(sweep) > 1 else None),
        texts=[sentence(text) for text in (load_text(result), energy_text(result),
            steady_text(result), request_text(result)) if text],
        figures=figures,
        has_steady=has_steady,
        tokens=tokens,
        components=component_rows(result, intervals=True),
        costs=cost_table(costs or {}),
        levels=[(one.label, per_token_cell(one.cost), number(one.output_tokens_per_s))
            for one in sweep],
        simulated=str(result.energy.provenance) == "simulated",
        notes=[sentence(one) for one in (*cost_notes(costs or {}), *all_notes(result))],
    )  # fmt: skip
    return write_file(path, page.encode())


def _facts(
    result: LlmResult, costs: Mapping[str, TokenCosts], best: LoadPoint | None
) -> list[tuple[str, str]]:
    """Return the main values: of the best level of load, or of all requests."""
    if best is not None and math.isfinite(best.cost.value):
        return [
            ("Load", best.label),
            ("J per output token, all energy", quantity(best.cost.value, "J")),
            ("Output tokens per kWh", quantity(J_PER_KWH / best.cost.value / 1e6, "million")),
            ("Output tokens per second", number(best.output_tokens_per_s)),
        ]
    facts = [
        (f"J per {row.title}", quantity(row.whole.value, "J")) for row in per_token_rows(result)
    ]
    gross = costs.get("output_gross")
    if gross is not None:
        million = quantity(gross.tokens_per_kwh.value / 1e6, "million")
        facts.append(("Output tokens per kWh", million))
    outputs = float(result.requests.output_tokens.sum())
    facts.append(("Output tokens per second", number(outputs / result.energy.duration_s)))
    return [*facts, ("Requests", f"{len(result.requests):,}")]


def _figure(
    name: str, title: str, view: Any, rows: pd.DataFrame, alternative: str, caption: str
) -> Figure:
    return Figure(name, title, draw_svg(specification(view), rows), alternative, caption)


def _power_figures(result: LlmResult, trace: Trace) -> list[Figure]:
    """Draw power over time with what explains it, and the requests in flight."""
    start_s, stop_s = result.requests.window_s
    edges_s = np.linspace(start_s - SHOWN_IDLE_S, stop_s + SHOWN_IDLE_S, BINS + 1)
    middle_s = (edges_s[:-1] + edges_s[1:]) / 2 - start_s
    measured = pd.DataFrame({"t_s": middle_s, "power_w": _measured_w(trace, edges_s)})
    explained = explained_power(result, edges_s)
    tables = [measured.assign(mark="measured"), explained.assign(mark="explained")]
    x = alt.X("t_s:Q", title="Time since the first request (s)", axis=alt.Axis(format=NUMBER),
        scale=alt.Scale(nice=False))  # fmt: skip
    left = alt.Axis(format=NUMBER, minExtent=_LEFT_PX)
    base = chart(height=260).properties(width=_WIDTH_PX)
    areas = base.transform_filter("datum.mark == 'explained'").mark_area().encode(
        x=x,
        y=alt.Y("power_w:Q", stack="zero", title="Power (W)", axis=left),
        order="order:Q",
        color=alt.Color("part:N", scale=alt.Scale(domain=list(PARTS.values()), range=_COLOURS)),
    )  # fmt: skip
    line = base.transform_filter("datum.mark == 'measured'").mark_line(
        color=INK, strokeWidth=1.3
    ).encode(x=x, y="power_w:Q").properties(name="ink_measured")  # fmt: skip
    power = _figure(
        "power",
        "Power over time",
        alt.layer(areas, line),
        pd.concat(tables, ignore_index=True),
        f"Measured power over time, with idle power and what decode and prefill explain; "
        f"{energy_text(result)}",
        "The line is the measured power of all components. Areas are idle power and the energy "
        "that each request's output and input tokens are attributed, over the time in which they "
        "were processed.",
    )
    flight = _in_flight(result.requests, edges_s)
    table = pd.DataFrame({"t_s": middle_s, "in_flight": flight})
    y = alt.Y("in_flight:Q", title="Requests", axis=left)
    area: dict[str, Any] = {"color": SERIES_COLOURS[0], "opacity": 0.75, "interpolate": "step"}
    view = chart(height=110).properties(width=_WIDTH_PX).mark_area(**area).encode(x=x, y=y)
    most = number(float(flight.max()))
    return [
        power,
        _figure("in-flight", "Requests in flight", view, table,
            f"Requests in flight over time, at most {most}", "Means over the same parts of time."),
    ]  # fmt: skip


def _measured_w(trace: Trace, edges_s: Floats) -> Floats:
    """Return the mean power of all components between edges; NaN where none was measured."""
    edges_ns = np.rint(edges_s * 1e9).astype(np.int64).tolist()
    windows = [Window(*pair) for pair in pairwise(edges_ns)]
    energies = EnergyEstimator(trace, change_points_ns=edges_ns).energies(windows)
    first_s, last_s = edges_s[0], edges_s[-1]
    times = [one.t_ns for one in trace.series if one.t_ns.size]
    if times:
        first_s = min(float(one[0]) for one in times) * 1e-9
        last_s = max(float(one[-1]) for one in times) * 1e-9
    power_w = np.array([one.gross_j / one.duration_s for one in energies])
    power_w[(edges_s[1:] < first_s) | (edges_s[:-1] > last_s)] = math.nan
    return power_w


def explained_power(result: LlmResult, edges_s: Floats) -> pd.DataFrame:
    """Return idle power, and what tokens explain, between edges; no rows without idle power.

    Each request's energies are spread over the time of its phases.
    """
    if not math.isfinite(result.energy.idle_j) or result.per_request is None:
        return pd.DataFrame()
    middle_s = (edges_s[:-1] + edges_s[1:]) / 2 - result.requests.window_s[0]
    activity, each = next(activities(result.requests)), result.per_request
    powers = {
        "idle": np.full(middle_s.size, result.energy.idle_j / result.energy.duration_s),
        "decode": activity.decode.spread(each.decode_j, edges_s) / np.diff(edges_s),
        "prefill": activity.prefill.spread(each.prefill_j, edges_s) / np.diff(edges_s),
    }
    return pd.concat(
        pd.DataFrame({"t_s": middle_s, "power_w": power_w, "part": PARTS[name], "order": i})
        for i, (name, power_w) in enumerate(powers.items())
    )


def _in_flight(requests: RequestLog, edges_s: Floats) -> Floats:
    """Return the mean number of requests in flight between edges."""
    in_flight = Phase.of(requests.start_s, requests.stop_s, requests.output_tokens)
    return in_flight.spread(in_flight.length_s, edges_s) / np.diff(edges_s)


def _request_figure(result: LlmResult) -> Figure:
    """Draw the energy of requests against their output tokens."""
    requests = result.requests
    assert result.per_request is not None
    energy_j = result.per_request.energy_j
    joule, unit = scale(float(np.median(energy_j)), "J")
    step = math.ceil(len(requests) / MOST_POINTS)
    table = pd.DataFrame(
        {
            "output_tokens": requests.output_tokens,
            "input_tokens": requests.input_tokens,
            "energy": energy_j / joule,
        }
    ).iloc[::step]
    view = chart(height=300).properties(width=_WIDTH_PX).mark_point(
        filled=True, size=28, opacity=0.7
    ).encode(
        x=alt.X("output_tokens:Q", title="Output tokens", axis=alt.Axis(format=NUMBER)),
        y=alt.Y("energy:Q", title=f"Net energy ({unit})", axis=alt.Axis(format=NUMBER)),
        color=alt.Color("input_tokens:Q", scale=alt.Scale(range=_FEW_TO_MANY),
            legend=alt.Legend(title="Input tokens", gradientLength=200)),
    )  # fmt: skip
    shown = f" One in {step} requests is shown." if step > 1 else ""
    return _figure(
        "requests",
        "Energy of each request",
        view,
        table,
        f"Net energy of {count(len(requests), 'request')} against their output tokens; "
        f"{request_text(result)}",
        "Net energy is a request's tokens and its part of what requests share; all requests add "
        f"up to the whole.{shown}",
    )


def _steady_figure(result: LlmResult) -> Figure:
    """Compare joules per token of the whole with those of the steady state."""
    rows: list[dict[str, Any]] = [
        {"cost": row.title, "of": name, "value": one.value, "low": one.low, "high": one.high}
        for row in per_token_rows(result)
        for name, one in (("All requests", row.whole), ("Steady state", row.steady))
        if one is not None and math.isfinite(one.value)
    ]
    base = chart(height=130).properties(width=_WIDTH_PX)
    names = ["All requests", "Steady state"]
    y = alt.Y("cost:N", title=None, sort=None, axis=alt.Axis(minExtent=165))
    offset = alt.YOffset("of:N", sort=names)
    colour = alt.Color("of:N", scale=alt.Scale(domain=names, range=SERIES_COLOURS[:2]))
    is_positive = all(row["low"] > 0 for row in rows)
    x_scale = alt.Scale(type="log", nice=False, padding=12) if is_positive else alt.Scale(zero=True)
    x = alt.X("value:Q", title="Energy per token (J)", axis=alt.Axis(format="~r"), scale=x_scale)
    lines = base.mark_rule(strokeWidth=1.5).encode(
        x=alt.X("low:Q", scale=x_scale), x2="high:Q", y=y, yOffset=offset, color=colour
    )
    points = base.mark_point(filled=True, size=60, opacity=1).encode(
        x=x, y=y, yOffset=offset, color=colour
    )
    return _figure(
        "steady",
        "All requests against the steady state",
        alt.layer(lines, points),
        pd.DataFrame(rows),
        f"Joules per token of all requests and of the steady state; {steady_text(result)}",
        "Lines are 95 % intervals. In the steady state the server is full; the whole contains its "
        "ramp up and down, too.",
    )


def _sweep_figure(sweep: Sequence[LoadPoint]) -> Figure:
    """Draw joules per output token over the levels of load, and throughput below."""
    known = [one for one in sweep if math.isfinite(one.cost.value)]
    table = pd.DataFrame(
        {
            "level": [one.label for one in sweep],
            "cost": [one.cost.value for one in sweep],
            "low": [one.cost.low for one in sweep],
            "high": [one.cost.high for one in sweep],
            "tokens_per_s": [one.output_tokens_per_s for one in sweep],
        }
    )
    base = chart(height=280).properties(width=_WIDTH_PX)
    x = alt.X("level:N", sort=None, title="Load", axis=alt.Axis(labelAngle=0))
    y = alt.Y("cost:Q", title="J per output token, all energy", scale=alt.Scale(zero=True),
        axis=alt.Axis(format=NUMBER))  # fmt: skip
    energy, rate = SERIES_COLOURS[0], SERIES_COLOURS[1]
    left = alt.layer(
        base.mark_line(color=energy, strokeWidth=1, opacity=0.5).encode(x=x, y=y),
        base.mark_rule(color=energy).encode(x=x, y="low:Q", y2="high:Q"),
        base.mark_point(color=energy, filled=True, size=70, opacity=1).encode(x=x, y=y),
    )
    right = base.mark_point(color=rate, size=70, shape="diamond", opacity=1, strokeWidth=2).encode(
        x=x,
        y=alt.Y("tokens_per_s:Q", title="Output tokens per second", scale=alt.Scale(zero=True),
            axis=alt.Axis(format=NUMBER, grid=False)),
    )  # fmt: skip
    costs = ", ".join(
        f"{one.label}: {with_interval(one.cost.value, one.cost.low, one.cost.high, 'J')}"
        for one in known
    )
    return _figure(
        "sweep",
        "Energy per token over the load",
        alt.layer(left, right).resolve_scale(y="independent"),
        table,
        f"Joules per output token and throughput at {count(len(sweep), 'level')} of load; {costs}",
        "Filled points are joules per output token with 95 % intervals, idle included, while the "
        "server was full (left axis); diamonds are output tokens per second (right axis).",
    )
