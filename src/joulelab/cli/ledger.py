"""``joulelab ledger``: what a project took over its life."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from joulelab.cli.ledger_models import break_even, inference
from joulelab.cli.output import progress, warn_skipped, write_csv
from joulelab.cli.site_options import site_options
from joulelab.ledger.book import KEYS, UNTAGGED, day_of
from joulelab.ledger.ledger import read_ledger
from joulelab.run.options import PHASES

LEAST_COLUMNS = 80


class LedgerGroup(click.Group):
    """A group whose first subcommand, ``show``, need not be named."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Puts ``show`` before what names no subcommand."""
        if not args or args[0] not in (*self.commands, *ctx.help_option_names):
            args = ["show", *args]
        return super().parse_args(ctx, args)


@click.group("ledger", cls=LedgerGroup)
def command() -> None:
    """Energy, money and carbon of a project's life: jobs and studies of months and machines.

    `joulelab ledger [DIR ...]` adds them up; see `joulelab ledger show --help`.

    \b
    Example:
      joulelab ledger --by week
      joulelab ledger --project digits --since 2026-11-01
      joulelab ledger laptop-home/ cluster-home/ studies/ --by host
    """


@command.command("show")
@click.argument("directories", metavar="[DIR ...]", nargs=-1,
    type=click.Path(path_type=Path))  # fmt: skip
@click.option("--by", type=click.Choice(KEYS), default="phase", show_default=True,
    help="What the rows are told apart by.")  # fmt: skip
@click.option("--project", metavar="P", help="Of this project alone.")
@click.option("--phase", type=click.Choice([*PHASES, UNTAGGED]), help="Of this phase alone.")
@click.option("--since", metavar="DAY", help="First day (UTC), as 2026-11-01.")
@click.option("--until", metavar="DAY", help="Last day (UTC).")
@click.option("--own-share", is_flag=True,
    help="On machines that others used, too, count each job's own part, an estimate.")  # fmt: skip
@site_options
@click.option("--csv", "csv_path", type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE", help="Write the rows to a CSV file.")  # fmt: skip
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
    as_json: bool,
    **given: Any,
) -> None:
    """Add up jobs and studies: energy, money and carbon, with 95 % intervals.

    DIR are jobs, studies, or directories that hold some, also copied from other machines; without
    one, what `joulelab run` kept here. A record that is found twice counts once. By week or month
    each row stands against the one before.

    \b
    Example:
      joulelab ledger --by week --phase training
      joulelab ledger studies/ --project digits --by phase --json
    """
    with progress("reading the records"):
        ledger = read_ledger(
            directories,
            by=by,
            project=project,
            phase=phase,
            since=None if since is None else day_of(since),
            until=None if until is None else day_of(until),
            own_share=own_share,
            given=given,
            complain=warn_skipped,
        )
    if csv_path is not None:
        write_csv(csv_path, ledger.to_json()["rows"])
    if as_json:
        click.echo(json.dumps(ledger.to_json(), indent=1, allow_nan=False))
        return
    if not ledger.entries:
        wanted = "of that project, phase and time" if project or phase or since or until else "here"
        click.echo(f"no record {wanted}: `joulelab run -- COMMAND` makes one")
        for note in ledger.notes:
            click.echo(f"- {note}")
        return
    from rich.console import Console  # noqa: PLC0415

    from joulelab.ledger.terminal import show as print_ledger  # noqa: PLC0415

    console = Console()
    # A narrow terminal folds lines; a narrow table would leave figures out.
    console.width = max(console.width, LEAST_COLUMNS)
    print_ledger(ledger, console)


@command.command("tag")
@click.argument("records", metavar="RECORD ...", nargs=-1, required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path))  # fmt: skip
@click.option("--project", metavar="P", help="What it belongs to.")
@click.option("--phase", type=click.Choice(PHASES), help="Of the project's life.")
@click.option("--tag", "tags", metavar="K=V", multiple=True,
    help="Whatever else is to be known of a job.")  # fmt: skip
def tag(
    records: Sequence[Path], project: str | None, phase: str | None, tags: Sequence[str]
) -> None:
    """Say afterwards to which project and phase jobs and studies belong.

    What was measured stays as it is.

    \b
    Example:
      joulelab ledger tag studies/grid --project digits --phase experimentation
    """
    from joulelab.ledger.tags import tag as write  # noqa: PLC0415

    pairs = [one.partition("=")[::2] for one in tags]
    if project is None and phase is None and not tags:
        raise click.UsageError("give --project, --phase or --tag")
    if any(not key or not value for key, value in pairs):
        raise click.UsageError("write a tag as --tag key=value")
    for record in records:
        write(record, project=project, phase=phase, tags=dict(pairs))
        click.echo(f"tagged {record}")


command.add_command(inference)
command.add_command(break_even)
