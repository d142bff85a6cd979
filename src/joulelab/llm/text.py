"""A result as text for the terminal and the page: facts, tables and costs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from joulelab.carbon.site import Site
from joulelab.carbon.token_costs import TokenCosts, token_costs
from joulelab.format import (
    ABSENT,
    count,
    duration,
    interval,
    join_words,
    money,
    number,
    percent,
    quantity,
    scale,
    with_interval,
)
from joulelab.llm.result import LlmResult
from joulelab.uncertain import Ratio

J_PER_WH = 3600.0
COST_TITLES = {
    "input": "input, without idle",
    "output": "output, without idle",
    "output_gross": "output, all energy",
    "all_gross": "both, all energy",
}
"""Kinds of tokens of which the cost of a million is shown."""


class PerToken(NamedTuple):
    """A row of joules per token: of all requests, and while the server was full."""

    title: str
    whole: Ratio
    steady: Ratio | None


def headline(result: LlmResult) -> str:
    """State the joules per input and output token in one sentence."""
    cost, gross = result.cost, result.gross_j_per_output_token
    known = [
        f"{_per_token(one)} per {name} token"
        for name, one in (("output", cost.j_per_output_token), ("input", cost.j_per_input_token))
        if not math.isnan(one.value)
    ]
    if known:
        return f"{join_words(known)}, without idle"
    if math.isnan(gross.value):
        return "joules per token are unknown"
    return f"{_per_token(gross)} per output token, idle included"


def _per_token(one: Ratio) -> str:
    return with_interval(one.value, one.low, one.high, "J")


def load_text(result: LlmResult) -> str:
    """Describe the requests: numbers, duration, throughput."""
    requests = result.requests
    inputs, outputs = float(requests.input_tokens.sum()), float(requests.output_tokens.sum())
    length_s = result.energy.duration_s
    return (
        f"{count(len(requests), 'request')}, {inputs:,.0f} input and {outputs:,.0f} output tokens "
        f"in {duration(length_s)}: {number(outputs / length_s)} output tokens/s"
    )


def energy_text(result: LlmResult) -> str:
    """Describe gross, idle and net energy."""
    energy = result.energy
    parts = [f"{with_interval(energy.gross_j, *energy.interval_j, 'J')} in all"]
    if not math.isnan(energy.net_j):
        net = with_interval(energy.net_j, *energy.net_interval_j, "J")
        parts.append(f"{net} net of {quantity(energy.idle_j, 'J')} idle")
    return ", ".join(parts)


def per_token_rows(result: LlmResult) -> list[PerToken]:
    """Return joules per token of the whole, and of the steady state if there is one."""
    steady = result.steady_state
    rows = [
        PerToken("output token, without idle", result.cost.j_per_output_token,
            steady.cost.j_per_output_token if steady else None),
        PerToken("output token, all energy", result.gross_j_per_output_token,
            steady.gross_j_per_output_token if steady else None),
        PerToken("input token, without idle", result.cost.j_per_input_token,
            steady.cost.j_per_input_token if steady else None),
    ]  # fmt: skip
    return [row for row in rows if not math.isnan(row.whole.value)]


def per_token_cell(one: Ratio | None) -> str:
    """Format joules per token with their interval for a table."""
    return "" if one is None else with_interval(one.value, one.low, one.high, "J", level="")


def component_rows(result: LlmResult, *, intervals: bool) -> list[tuple[str, ...]]:
    """Return component, gross and net energy, and joules per output and per input token."""

    def cell(one: Ratio | None) -> str:
        """Format joules per token."""
        return per_token_cell(one) if one is None or intervals else quantity(one.value, "J")

    rows: list[tuple[str, ...]] = []
    for name, part in result.energy.components.items():
        cost = result.component_costs.get(name)
        rows.append(
            (
                f"{name} ({part.provenance})",
                quantity(part.gross_j, "J"),
                quantity(part.net_j, "J"),
                cell(cost.j_per_output_token if cost else None),
                cell(cost.j_per_input_token if cost else None),
            )
        )
    return rows


def request_text(result: LlmResult) -> str:
    """Describe the energies of requests; empty if they are unknown."""
    if result.per_request is None:
        return ""
    energy_j = result.per_request.energy_j
    low, median, high = np.percentile(energy_j, (5, 50, 95))
    text = f"{quantity(median, 'J')} per request"
    if energy_j.size == 1:
        return text
    size, unit = scale(median, "J")
    ends = interval(low / size, high / size, median / size)
    return f"{text} (median; 5 % to 95 %: {ends} {unit})"


def costs_of(
    result: LlmResult, site: Site, unix_zero_s: float = math.nan
) -> Mapping[str, TokenCosts]:
    """Return the costs of a million tokens, see :data:`COST_TITLES`.

    Raises:
        UserError: The file of intensities cannot be read.
    """
    outputs = float(result.requests.output_tokens.sum())
    tokens = outputs + float(result.requests.input_tokens.sum())
    gross = result.gross_j_per_output_token
    share = outputs / tokens if tokens else math.nan
    ratios = {
        "input": result.cost.j_per_input_token,
        "output": result.cost.j_per_output_token,
        "output_gross": gross,
        "all_gross": Ratio(gross.value * share, gross.low * share, gross.high * share),
    }
    start_s, stop_s = result.requests.window_s
    times = {"started_unix_s": unix_zero_s + start_s, "stopped_unix_s": unix_zero_s + stop_s}
    return {
        name: token_costs(one, site, **times)
        for name, one in ratios.items()
        if not math.isnan(one.value)
    }


def cost_table(costs: Mapping[str, TokenCosts]) -> tuple[list[str], list[list[str]]]:
    """Return headings and rows of a million tokens: their energy, and carbon and price if known."""
    headings = ["a million tokens", "energy (95 % CI)", "CO2e (95 % CI)", "price (95 % CI)"]
    rows: list[tuple[str, ...]] = []
    for name, one in costs.items():
        million = one.costs
        price_low, price_high = million.price_interval
        price = money(million.price, str(million.currency))
        ends = interval(price_low, price_high, million.price)
        low, high = (end_j / J_PER_WH for end_j in million.interval_j)
        rows.append(
            (
                COST_TITLES[name],
                with_interval(million.energy_j / J_PER_WH, low, high, "Wh", level=""),
                with_interval(million.carbon_g, *million.carbon_interval_g, "g", level=""),
                f"{price} ({ends})" if ends else price,
            )
        )
    known = [i for i in range(len(headings)) if any(row[i] != ABSENT for row in rows)]
    return [headings[i] for i in known], [[row[i] for i in known] for row in rows]


def cost_notes(costs: Mapping[str, TokenCosts]) -> list[str]:
    """State tokens per kilowatt-hour, and where the intensity and the price are from."""
    one = costs.get("output_gross")
    if one is None:
        return []
    notes = [f"{one.tokens_per_kwh_text} output tokens per kWh, idle included"]
    factor = one.costs.factor
    if factor is not None:
        notes.append(f"carbon at {factor}, PUE {one.costs.pue:g}")
    return notes


def steady_text(result: LlmResult) -> str:
    """Describe the steady state; empty if there is none."""
    steady = result.steady_state
    if steady is None:
        return ""
    length_s = steady.stop_s - steady.start_s
    return (
        f"steady state: {duration(length_s)} "
        f"({percent(length_s / result.energy.duration_s, 2)}) with "
        f"{count(steady.concurrency, 'request')} in flight, "
        f"{number(steady.output_tokens_per_s)} output tokens/s"
    )


def all_notes(result: LlmResult) -> Sequence[str]:
    """Return everything that limits the result, each once."""
    absent = [f"{name}: {why}" for name, why in result.energy.absent.items()]
    gap_s = result.energy.gap_s
    gaps = []
    if gap_s > 0.01 * result.energy.duration_s:
        gaps.append(f"no readings for {duration(gap_s)} (included in the interval)")
    return list(dict.fromkeys([*result.notes, *absent, *gaps, *result.energy.caveats]))


def to_json(result: LlmResult, costs: Mapping[str, TokenCosts]) -> dict[str, Any]:
    """Return what ``joulelab llm report --json`` prints: the result, and what it costs."""
    one = costs.get("output_gross")
    return {
        **result.to_json(),
        "output_tokens_per_kwh": None if one is None else one.tokens_per_kwh.value,
        "costs": {name: cost.to_json() for name, cost in costs.items()},
        "notes": all_notes(result),
    }
