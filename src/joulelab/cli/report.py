"""``joulelab report``: results, figures, findings and a page of one or more studies."""

from __future__ import annotations

from pathlib import Path

import click

from joulelab.cli.output import echo, print_json, progress
from joulelab.errors import UserError


@click.command("report")
@click.argument("directories", metavar="DIR ...", nargs=-1, required=True)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Write the page to NAME.html or into this directory. "
    "Default: the study's directory; joulelab-report for several studies.",
)
@click.option(
    "--trace",
    metavar="RUN",
    multiple=True,
    help="Show the power of the run with this id. Can be repeated. Default: the first 64 runs.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the written paths as JSON.")
def command(directories: tuple[str, ...], out: Path, trace: tuple[str, ...], as_json: bool) -> None:
    """Report one or more studies, from one or more machines.

    DIR is the directory of a study. Writes a self-contained HTML page, its figures as SVG, PNG,
    PDF and CSV, tables as CSV, Parquet and LaTeX, and findings.json.

    \b
    Example:
      joulelab report studies/quick
      joulelab report studies/desktop studies/server --out both
      joulelab report studies/paper --trace r0-vgg16-b128-6ca89a
    """
    try:
        from joulelab.report.page import write_report  # noqa: PLC0415
    except ModuleNotFoundError as error:
        why, hint = f"{error.name} is not installed", "run pip install 'joulelab[study]'"
        raise UserError("a report needs more packages", why=why, hint=hint) from error
    with progress("making the report"):
        report = write_report(directories, out, traces=trace)
    page, figures, tables = report.page, report.figures, (*report.results, *report.tables)
    if as_json:
        lists = {"figures": list(map(str, figures)), "tables": list(map(str, tables))}
        print_json({"page": str(page)} | lists)
        return
    names = dict.fromkeys(path.stem for path in tables)
    echo(f"Tables:  {', '.join(names)} in {page.parent}")
    if figures:
        drawn = sum(path.suffix == ".svg" for path in figures)
        echo(f"Figures: {drawn} as SVG, PNG and PDF in {figures[0].parent}")
    echo(f"Report:  {page}")
