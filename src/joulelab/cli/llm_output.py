"""Output of ``joulelab llm``: a result as lines and tables."""

from __future__ import annotations

from collections.abc import Mapping

from joulelab.carbon.token_costs import TokenCosts
from joulelab.cli.output import echo, output_console, value_table
from joulelab.format import sentence
from joulelab.llm.result import LlmResult
from joulelab.llm.text import (
    all_notes,
    component_rows,
    cost_notes,
    cost_table,
    energy_text,
    load_text,
    per_token_cell,
    per_token_rows,
    request_text,
    steady_text,
)


def print_result(result: LlmResult, costs: Mapping[str, TokenCosts]) -> None:
    """Print energies, joules per token and per request, and what a million tokens cost."""
    console = output_console()
    steady = steady_text(result)
    for text in filter(None, (load_text(result), energy_text(result), steady)):
        echo(text)
    headings = ["J per token (95 % CI)", *(["in the steady state"] if steady else [])]
    table = value_table("", headings)
    for row in per_token_rows(result):
        cells = [per_token_cell(row.whole), *([per_token_cell(row.steady)] if steady else [])]
        table.add_row(row.title, *cells)
    if table.rows:
        console.print(table)
    rows = component_rows(result, intervals=False)
    if len(rows) > 1:
        headings = ["energy", "net", "J per output token", "J per input token"]
        table = value_table("component", headings)
        for cells_of_row in rows:
            table.add_row(*cells_of_row)
        console.print(table)
    if text := request_text(result):
        echo(text)
    (title, _, *of_costs), million = cost_table(costs) if costs else (["", ""], [])
    if of_costs:
        table = value_table(title, of_costs)
        for name, _, *cells in million:
            table.add_row(name, *cells)
        console.print(table)
    for note in (*cost_notes(costs), *all_notes(result)):
        echo(f"  {sentence(note)}")
