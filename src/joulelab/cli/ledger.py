"""``joulelab ledger``: add up energy, carbon and cost over all runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from joulelab.cli.ledger_scenarios import break_even, inference
from joulelab.cli.options import DefaultGroup, complete_run, site_options
from joulelab.cli.output import (
    output_console,
    print_json,
    progress,
    warn_skipped,
    write_csv,
    write_text,
)
from joulelab.cli.runs import tag
from joulelab.errors import UserError, optional_packages
from joulelab.ledger.emissions import emissions_csv
from joulelab.ledger.group import KEYS, UNTAGGED, parse_day
from joulelab.ledger.ledger import Ledger, read_ledger
from joulelab.ledger.model_card import model_card as card_of
from joulelab.ledger.terminal import print_ledger
from joulelab.runs import PHASES
from joulelab.storage import write_whole, writing


@click.group("ledger", cls=DefaultGroup, default="show")
def command() -> None:
    """Add up energy, carbon and cost over all runs of a project, for months and many machines.

    `joulelab ledger [RUN ...]` is short for `joulelab ledger show [RUN ...]`.

    \b
    Example:
      joulelab ledger --by week
      joulelab ledger --project digits --since 2026-11-01
      joulelab ledger laptop-home/ cluster-home/ studies/ --by host
    """


@command.command("show")
@click.argument("directories", metavar="[RUN ...]", nargs=-1,
    type=click.Path(path_type=Path), shell_complete=complete_run)  # fmt: skip
@click.option("--by", type=click.Choice(KEYS), default="phase", show_default=True,
    help="Group rows by this key.")  # fmt: skip
@click.option("--project", metavar="NAME", help="Only this project.")
@click.option("--phase", type=click.Choice([*PHASES, UNTAGGED]), help="Only this phase.")
@click.option("--since", metavar="DAY", help="First day (UTC), for example 2026-11-01.")
@click.option("--until", metavar="DAY", help="Last day (UTC).")
@click.option("--own-share", is_flag=True, help="On shared machines, count each run's own share "
    "(estimated).")  # fmt: skip
@site_options
@click.option("--csv", "csv_path", type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE", help="Write the rows to a CSV file.")  # fmt: skip
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
    help="Write a page with the sums and a figure of energy over time.")  # fmt: skip
@click.option("--emissions", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
    help="Add a row for each run to a CSV file in the format of CodeCarbon.")  # fmt: skip
@click.option("--model-card", type=click.Path(dir_okay=False, path_type=Path, allow_dash=True),
    metavar="FILE", help="Write co2_eq_emissions and a paragraph for a model card; - prints "
    "them.")  # fmt: skip
@click.option("--table", "table_file", type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE", help="Write all records to a table (Parquet), which the ledger reads in "
    "seconds.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(
    directories: Sequence[Path],
    by: str,
    project: str | None,
    phase: str | None,
    since: str | None,
    until: str | None,
    own_share: bool,
    csv_path: Path | None,
    html: Path | None,
    emissions: Path | None,
    model_card: Path | None,
    table_file: Path | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Add up runs and studies: energy, carbon and cost, with 95 % intervals.

    RUN is a run, a study or a directory that contains some, also copied from another machine, or
    the name of saved runs, for example latest; without one, all runs that joulelab run saved here.
    Copies of a record count once. By week or month, each row is compared with the one before.

    \b
    Example:
      joulelab ledger --by week --phase train
      joulelab ledger studies/ --project digits --by phase --json
      joulelab ledger --by host --html ledger.html
      joulelab ledger --emissions emissions.csv
      joulelab ledger latest --model-card - --country DE
    """
    with progress("reading the records") as on_read:
        ledger = read_ledger(
            directories,
            by=by,
            project=project,
            phase=phase,
            since=None if since is None else parse_day(since),
            until=None if until is None else parse_day(until),
            own_share=own_share,
            given=given,
            table_file=table_file,
            over_time=html is not None,
            every_record=emissions is not None,
            on_error=warn_skipped,
            on_read=on_read,
        )
    if csv_path is not None:
        write_csv(csv_path, ledger.to_json()["rows"])
    if html is not None:
        _write_page(html, ledger)
    if emissions is not None:
        with writing(emissions):
            # Rows of others stay as they are, in whatever encoding.
            existing = emissions.read_bytes() if emissions.is_file() else b""
            text = emissions_csv(
                ledger.entries, existing.decode(errors="surrogateescape"), own_share=own_share
            )
            write_whole(emissions, text.encode(errors="surrogateescape"))
    if model_card is not None and write_text(model_card, card_of(ledger)):
        return
    if as_json:
        print_json(ledger.to_json())
    elif ledger.entries:
        print_ledger(ledger, output_console())
    else:
        filtered = project or phase or since or until
        click.echo(
            f"no runs{' match' if filtered else ' here'}: record one with `joulelab run -- COMMAND`"
        )
        click.echo("".join(f"- {warning}\n" for warning in ledger.warnings), nl=False)


def _write_page(path: Path, ledger: Ledger) -> None:
    if not ledger.entries:
        raise UserError("there is no run for a page")
    with optional_packages("cannot make a page", "study"):
        from joulelab.report.ledger_page import write_ledger_page  # noqa: PLC0415
    with progress("making the page"):
        write_ledger_page(path, ledger)


command.add_command(tag)
command.add_command(inference)
command.add_command(break_even)
