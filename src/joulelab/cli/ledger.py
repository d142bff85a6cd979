"""``joulelab ledger``: add up energy, carbon and cost over all runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from joulelab.cli.ledger_scenarios import break_even, inference
from joulelab.cli.options import site_options
from joulelab.cli.output import output_console, print_json, progress, warn_skipped, write_csv
from joulelab.ledger.entries import label_run
from joulelab.ledger.group import KEYS, UNTAGGED, parse_day
from joulelab.ledger.ledger import read_ledger
from joulelab.ledger.terminal import print_ledger
from joulelab.runs import PHASES


class LedgerGroup(click.Group):
    """A group whose default subcommand is ``show``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Insert ``show`` if no subcommand is named."""
        if not args or args[0] not in (*self.commands, *ctx.help_option_names):
            args = ["show", *args]
        return super().parse_args(ctx, args)


@click.group("ledger", cls=LedgerGroup)
def command() -> None:
    """Add up energy, carbon and cost over all runs of a project, for months and many machines.

    `joulelab ledger [DIR ...]` is short for `joulelab ledger show [DIR ...]`.

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
    """Add up runs and studies: energy, carbon and cost, with 95 % intervals.

    DIR is a run, a study or a directory that contains some, also copied from another machine;
    without one, the runs that joulelab run saved here. Copies of a record count once. By week or
    month, each row is compared with the one before.

    \b
    Example:
      joulelab ledger --by week --phase train
      joulelab ledger studies/ --project digits --by phase --json
    """
    with progress("reading the records"):
        ledger = read_ledger(
            directories,
            by=by,
            project=project,
            phase=phase,
            since=None if since is None else parse_day(since),
            until=None if until is None else parse_day(until),
            own_share=own_share,
            given=given,
            on_error=warn_skipped,
        )
    if csv_path is not None:
        write_csv(csv_path, ledger.to_json()["rows"])
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


@command.command("tag")
@click.argument("records", metavar="RECORD ...", nargs=-1, required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path))  # fmt: skip
@click.option("--project", metavar="NAME", help="Project that it belongs to.")
@click.option("--phase", type=click.Choice(PHASES), help="Phase of the project.")
@click.option("--tag", "tags", metavar="KEY=VALUE", multiple=True, help="A label of a run.")
def tag(
    records: Sequence[Path], project: str | None, phase: str | None, tags: Sequence[str]
) -> None:
    """Set the project, phase and tags of recorded runs and studies.

    Measurements do not change.

    \b
    Example:
      joulelab ledger tag studies/grid --project digits --phase experiment
    """
    pairs = [one.partition("=")[::2] for one in tags]
    if project is None and phase is None and not tags:
        raise click.UsageError("give --project, --phase or --tag")
    if any(not key or not value for key, value in pairs):
        raise click.UsageError("write a tag like --tag key=value")
    for record in records:
        label_run(record, project=project, phase=phase, tags=dict(pairs))
        click.echo(f"tagged {record}")


command.add_command(inference)
command.add_command(break_even)
