"""``joulelab llm``: energy per token of language models in service."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from joulelab.carbon.site import Site
from joulelab.carbon.token_costs import TokenCosts
from joulelab.cli.import_log import FILE, input_option, parse_pairs, power_options, read_power
from joulelab.cli.llm_bench import bench
from joulelab.cli.options import complete_run
from joulelab.cli.output import (
    SectionedCommand,
    echo,
    output_console,
    print_json,
    progress,
    value_table,
)
from joulelab.errors import UserError
from joulelab.format import sentence
from joulelab.llm.power_source import PowerSource
from joulelab.llm.request_files import read_requests
from joulelab.llm.result import LlmResult
from joulelab.llm.text import (
    all_notes,
    component_rows,
    cost_notes,
    cost_table,
    costs_of,
    energy_text,
    headline,
    load_text,
    per_token_cell,
    per_token_rows,
    request_text,
    steady_text,
    to_json,
)
from joulelab.llm.token_attribution import attribute
from joulelab.logs.span_energies import ImportedSpan, idle_spans


@click.group("llm")
def command() -> None:
    """Measure joules per token of language models in service.

    \b
    Example:
      joulelab llm bench http://127.0.0.1:8000 --out results
      joulelab llm report --requests requests.csv --power power.csv
    """


command.add_command(bench)


@command.command("report", cls=SectionedCommand)
@input_option("--requests", "requests_file", type=FILE, required=True,
    help="Log of requests: CSV or JSONL with start_s, first_token_s, stop_s, input_tokens and "
    "output_tokens, or what vLLM's benchmark, guidellm or aiperf wrote.")  # fmt: skip
@input_option("--power", "logs", type=FILE, multiple=True,
    help="Log of power or energy: CSV, plain or gzip; may be repeated.")  # fmt: skip
@input_option("--recording", metavar="RUN", shell_complete=complete_run,
    help="Recording of a run: a directory, its name, or latest.")  # fmt: skip
@input_option("--rename", "renamed", metavar="OLD=NEW", multiple=True, callback=parse_pairs,
    help="Read column OLD of the requests as NEW; may be repeated.")  # fmt: skip
@input_option("--time-offset", "offset_s", type=float, default=0.0, metavar="SECONDS",
    help="Add this to the times of the requests.")  # fmt: skip
@input_option("--idle", metavar="START:STOP", help="Subtract the idle power between two times of "
    "the log. Default: that before, after and between requests.")  # fmt: skip
@power_options
@click.option("--html", "page", type=click.Path(dir_okay=False, path_type=Path), metavar="PAGE",
    help="Write a page with figures.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def report(
    requests_file: Path,
    logs: tuple[Path, ...],
    recording: str | None,
    renamed: dict[str, str],
    offset_s: float,
    idle: str | None,
    page: Path | None,
    as_json: bool,
    **power: Any,
) -> None:
    """Compute joules per token from logs of requests and power.

    Power over time is explained by what the server did in each moment: input tokens being
    processed, output tokens being generated, idle.

    \b
    Example:
      joulelab llm report --requests requests.csv --power power.csv
      joulelab llm report --requests profile_export.jsonl --power smi.csv --timezone UTC
      joulelab llm report --requests benchmarks.json --recording run/ --html tokens.html
    """
    if bool(logs) == (recording is not None):
        raise UserError(
            "power has to come from one source", hint="give either --power LOG or --recording RUN"
        )
    given = [value for name, value in power.items() if name != "timezone" and value]
    if recording is not None and (idle or given):
        raise UserError(
            "--idle, --calibration and the options of columns are for --power",
            why="a recording has its own idle power and columns",
        )
    requests = read_requests(requests_file, timezone=power["timezone"], renamed=renamed)
    if recording is not None:
        source = PowerSource.of_recording(recording)
    else:
        log, _ = read_power(logs, **power)
        runs = [ImportedSpan(*run) for run in log.runs]
        source = PowerSource.of_log(log, [] if idle is None else idle_spans(idle, runs))
    shift_s = source.shift_s(requests, offset_s)
    with progress("attributing energy to tokens"):
        result = attribute(source.place(requests, shift_s), source.trace, source.baseline)
    costs = costs_of(result, Site.configured(), source.unix_zero_s)
    result = replace(result, notes=(*result.notes, *source.notes))
    if page is not None:
        from joulelab.report.llm_page import write_llm_page  # noqa: PLC0415 - imports pandas

        title = requests_file.name
        write_llm_page(page, result, title=title, trace=source.trace, costs=costs)
    result = result.shifted(-shift_s)
    if as_json:
        print_json(to_json(result, costs))
        return
    echo(headline(result))
    _print_result(result, costs)
    if page is not None:
        echo(f"Page: {page}")


def _print_result(result: LlmResult, costs: Mapping[str, TokenCosts]) -> None:
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
