"""``joulelab report``: a page of a run; results, figures, findings and a page of studies."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from joulelab.cli.options import complete_run
from joulelab.cli.output import (
    UNLIMITED_WIDTH,
    echo,
    output_console,
    print_json,
    progress,
    value_table,
)
from joulelab.errors import UserError, optional_packages
from joulelab.layout import write_lines
from joulelab.runs.study_runs import is_study

if TYPE_CHECKING:
    from joulelab.report.first_screen import FirstScreen


@click.command("report")
@click.argument("names", metavar="RUN|STUDY ...", nargs=-1, shell_complete=complete_run)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Write the page to NAME.html or into this directory. "
    "Default: the directory of the run or study; joulelab-report for several studies.",
)
@click.option(
    "--trace",
    metavar="RUN",
    multiple=True,
    help="Show the power of a study's run with this id. Can be repeated. Default: the first 64 "
    "runs.",
)
@click.option(
    "--paper",
    is_flag=True,
    help="Compare the claims of the paper with these studies; without any, with the recording of "
    "an NVIDIA H100.",
)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print the written paths as JSON; with --paper, the claims.",
)
def command(
    names: tuple[str, ...], out: Path | None, trace: tuple[str, ...], paper: bool, as_json: bool
) -> None:
    """Report a run, or one or more studies.

    RUN is a directory of `joulelab run` or Meter(directory=...), also of a job of many processes, a
    name or id of a saved run, latest or previous. Writes a self-contained HTML page: what the run
    cost, power over time, energy by span, epochs, machine and caveats.

    STUDY is the directory of a study; several may be from several machines. Writes a page, its
    figures as SVG, PNG, PDF and CSV, tables as CSV, Parquet and LaTeX, and findings.json.

    \b
    Example:
      joulelab report latest
      joulelab report studies/quick
      joulelab report studies/desktop studies/server --out both
      joulelab report studies/paper --trace r0-vgg16-b128-6ca89a
      joulelab report studies/paper --paper
    """
    figures: tuple[Path, ...] = ()
    tables: tuple[Path, ...] = ()
    screen: FirstScreen | None = None
    if not names and not paper:
        raise click.MissingParameter(param_hint="'RUN|STUDY ...'", param_type="argument")
    if paper and trace:
        raise UserError("--trace has no effect with --paper", hint="leave out one of them")
    with optional_packages("cannot make a report", "study"):
        if paper:
            _report_paper(names, out, as_json=as_json)
            return
        if len(names) == 1 and not trace and not is_study(Path(names[0])):
            from joulelab.report.run_page import write_run_page  # noqa: PLC0415

            with progress("making the page"):
                page = write_run_page(names[0], out)
        else:
            from joulelab.report.page import write_report  # noqa: PLC0415

            with progress("making the report"):
                report = write_report(names, out, traces=trace)
            page, figures, screen = report.page, report.figures, report.screen
            tables = (*report.results, *report.tables)
    if as_json:
        lists = {"figures": list(map(str, figures)), "tables": list(map(str, tables))}
        found = {"key_findings": screen.to_json()} if screen else {}
        print_json({"page": str(page)} | lists | found)
        return
    if screen:
        write_lines(screen.lines(), sys.stdout)
    if tables:
        stems = dict.fromkeys(path.stem for path in tables)
        echo(f"Tables:  {', '.join(stems)} in {page.parent}")
    if figures:
        drawn = sum(path.suffix == ".svg" for path in figures)
        echo(f"Figures: {drawn} as SVG, PNG and PDF in {figures[0].parent}")
    echo(f"Report:  {page}")


def _report_paper(directories: Sequence[str], out: Path | None, *, as_json: bool) -> None:
    """Write the page, and print every claim as a table or as JSON."""
    from joulelab.report.paper_page import headline, write_paper_page  # noqa: PLC0415

    with progress("comparing with the paper"):
        page, rows = write_paper_page(directories, out)
    if as_json:
        numbers = Counter(str(row.agreement) for row in rows)
        claims = [row.to_json() for row in rows]
        print_json({"page": str(page), "agreement": numbers, "claims": claims})
        return
    machines = {row.machine for row in rows if row.machine}
    table = value_table("Claim", [])
    console = output_console()
    table.add_column("Paper", max_width=12 if console.width < UNLIMITED_WIDTH else None)
    table.add_column("Ours", no_wrap=True)
    table.add_column("Agreement", no_wrap=True)
    for row in rows:
        machine = f", {row.machine}" if len(machines) > 1 and row.machine else ""
        text = f"{row.claim.text} ({row.claim.source}{machine})"
        table.add_row(text, row.claim.paper, row.ours or "–", str(row.agreement))
    console.print(table)
    echo(headline(rows))
    echo(f"Report:  {page}")
