"""``joulelab report``: tables, figures, findings and a page from one or several studies."""

from __future__ import annotations

import json
from pathlib import Path

import click

from joulelab.cli.output import progress


@click.command("report")
@click.argument("directories", metavar="DIR ...", nargs=-1, required=True)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="The page (NAME.html) or the directory for it. "
    "Default: the study's own; joulelab-report for several studies.",
)
@click.option(
    "--trace",
    "traces",
    metavar="RUN",
    multiple=True,
    help="Show the power of this run, by its id. May be repeated. Default: the first 64 runs.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the paths written as JSON.")
def command(
    directories: tuple[str, ...], out: Path | None, traces: tuple[str, ...], as_json: bool
) -> None:
    """Report one or several study directories, of one or several machines.

    Writes one self-contained HTML page, its figures as SVG, PNG, PDF and CSV, tables as CSV,
    Parquet and LaTeX, and findings.json.

    \b
    Example:
      joulelab report studies/quick
      joulelab report studies/desktop studies/server --out both
      joulelab report studies/paper --trace r0-vgg16-b128-6ca89a
    """
    try:
        from joulelab.report.page import write_all  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise click.UsageError(
            f"reports need {error.name}, which is not installed; run pip install 'joulelab[study]'"
        ) from error

    with progress("making the report"):
        written = write_all(directories, out, traces=traces)
    if as_json:
        paths = {
            "page": str(written.page),
            "figures": [str(path) for path in written.figures],
            "tables": [str(path) for path in written.tables],
        }
        click.echo(json.dumps(paths, indent=2))
        return
    drawn = sum(path.suffix == ".svg" for path in written.figures)
    tables = dict.fromkeys(path.stem for path in written.tables)
    click.echo(f"Tables:  {', '.join(tables)} in {written.page.parent}")
    if drawn:
        click.echo(f"Figures: {drawn} as SVG, PNG and PDF in {written.figures[0].parent}")
    click.echo(f"Report:  {written.page}")
