"""``joulelab llm``: energy per token of language models in service."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from joulelab.carbon.site import Site
from joulelab.cli.import_log import FILE, input_option, parse_pairs, power_options, read_power
from joulelab.cli.llm_bench import bench
from joulelab.cli.llm_output import print_result
from joulelab.cli.options import complete_run
from joulelab.cli.output import SectionedCommand, echo, print_json, progress
from joulelab.errors import UserError
from joulelab.llm.power_source import PowerSource
from joulelab.llm.request_files import read_requests
from joulelab.llm.text import costs_of, headline, to_json
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
    print_result(result, costs)
    if page is not None:
        echo(f"Page: {page}")
