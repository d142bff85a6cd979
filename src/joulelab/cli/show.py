"""``joulelab show``: the summary of a finished or running run in the terminal."""

from __future__ import annotations

import sys

import click

from joulelab.cli.options import complete_run
from joulelab.cli.output import print_json, progress
from joulelab.layout import write_lines


@click.command("show")
@click.argument("run", metavar="RUN", default="latest", shell_complete=complete_run)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(run: str, as_json: bool) -> None:
    """Show a run again: its energy, spans, epochs, costs and caveats.

    RUN is latest (the default), previous, the name or id of a saved run, or the directory of any
    run: of joulelab run, of a Meter, or of a study. It may still be running.

    \b
    Example:
      joulelab show
      joulelab show train
      joulelab show studies/mine/runs/r0-LeNet --json
    """
    from joulelab.run.saved_summary import read_summary  # noqa: PLC0415  (--help does not wait for NumPy)

    with progress("reading the run"):
        summary = read_summary(run)
    if as_json:
        print_json(summary.to_json())
    else:
        write_lines(summary.lines(most_spans=None), sys.stdout)
