"""``joulelab runs``: list, label and delete runs."""

from __future__ import annotations

import math
import re
import shlex
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.text import Text

from joulelab.cli.options import DefaultGroup, complete_run
from joulelab.cli.output import (
    csv_text,
    echo,
    output_console,
    print_json,
    progress,
    value_table,
    warn_skipped,
)
from joulelab.errors import UserError
from joulelab.format import count, duration, printable, quantity, shorten, timestamp, watt_hours
from joulelab.ledger.entries import label_run
from joulelab.ledger.group import parse_day
from joulelab.runs import PHASES
from joulelab.runs.listing import RunFilter, newest_first, run_caveats, run_row
from joulelab.runs.pruning import Pruning, delete_run, find_prunable, why_kept
from joulelab.runs.record import Run, is_run, saved_run_directories
from joulelab.runs.selection import open_run, open_runs
from joulelab.runs.study_runs import is_study

UNITS_S = {"h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}
LEAST_TEXT = 10
"""Columns that a text of a row has at least."""
OPTIONAL = ("id", "host", "tags", "command", "Wh", "caveats")
"""Columns that are left out of a narrow terminal, the first one first."""
TEXTS = ("name", "command", "host", "tags", "caveats")
SEPARATOR = 3
"""Columns between two columns of a table."""


def parse_age(text: str) -> float:
    """Parse an age in seconds, for example ``90d``.

    Example:
        >>> parse_age("90d"), parse_age("2w")
        (7776000.0, 1209600.0)
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([hdw])", text.strip())
    if found is None:
        raise UserError(f"{text!r} is not an age", hint="write it like 12h, 90d or 4w")
    return float(found[1]) * UNITS_S[found[2]]


def parse_since(text: str) -> float:
    """Parse a day (UTC) or an age; return the unix time."""
    if re.fullmatch(r"[\d.]+[hdw]", text.strip()):
        return time.time() - parse_age(text)
    day = parse_day(text)
    return datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()


@click.group("runs", cls=DefaultGroup, default="list")
def command() -> None:
    """List runs, the newest first; label and delete saved ones.

    `joulelab runs [DIR ...]` is short for `joulelab runs list [DIR ...]`.

    \b
    Example:
      joulelab runs --since 7d --name 'train*'
      joulelab runs tag latest --tag seed=1
      joulelab runs prune --older-than 90d
    """


@command.command("list")
@click.argument("directories", metavar="[DIR ...]", nargs=-1, type=click.Path(path_type=Path))
@click.option("--since", metavar="DAY", help="Started on this day (UTC) or later, for example "
    "2026-11-01, or at most this long ago, for example 7d.")  # fmt: skip
@click.option("--name", metavar="PATTERN", help="Only runs of this name, for example 'train*'.")
@click.option("--tag", "tags", metavar="KEY[=VALUE]", multiple=True,
    help="Only runs with this tag; may be given several times.")  # fmt: skip
@click.option("--host", metavar="PATTERN", help="Only runs on this host.")
@click.option("--failed", is_flag=True, help="Only runs that failed or did not finish.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_runs(
    directories: Sequence[Path],
    since: str | None,
    name: str | None,
    tags: tuple[str, ...],
    host: str | None,
    failed: bool,
    as_csv: bool,
    as_json: bool,
) -> None:
    """List runs, the newest first.

    DIR is a run, a study or a directory that contains some; without one, the runs that joulelab run
    saved here. Caveats are: how it failed; shared (other processes used the machine); busy idle
    (net energy is uncertain); gaps (readings are missing). `joulelab show NAME` explains them.

    \b
    Example:
      joulelab runs --failed
      joulelab runs studies/ --host 'node*' --csv
    """
    chosen = RunFilter(
        name=name,
        host=host,
        tags=tags,
        since_unix_s=None if since is None else parse_since(since),
        is_failed=failed,
    )
    with progress("reading the records"):
        found = newest_first(open_runs(*directories, on_error=warn_skipped))
    runs = [run for run in found if chosen.matches(run)]
    if as_json:
        print_json([run_row(run) for run in runs])
    elif as_csv:
        rows = [run_row(run) for run in runs]
        for row in rows:
            row |= {"tags": _tags(row["tags"]), "caveats": ", ".join(row["caveats"])}
        click.echo(csv_text(rows), nl=False)
    elif runs:
        print_runs(runs)
    else:
        text = "no runs match" if found else "no runs here"
        echo(f"{text}: record one with `joulelab run -- COMMAND`")


def print_runs(runs: Sequence[Run]) -> None:
    """Print a row for each run: values are never cut, texts are shortened to fit the terminal."""
    console = output_console()
    rows = [_cells(run) for run in runs]
    names = [name for name in rows[0] if any(row[name] for row in rows)]
    widths = {name: max(len(name), *(len(row[name]) for row in rows)) for name in names}

    least = {
        name: min(widths[name], LEAST_TEXT) if name in TEXTS else widths[name] for name in names
    }

    def least_width() -> int:
        return sum(least[name] for name in names) + SEPARATOR * len(names)

    for name in OPTIONAL:
        if name in names and least_width() > console.width:
            names.remove(name)
    if least_width() > console.width:
        for row in rows:
            values = "  ".join(row[name] for name in names if name not in TEXTS)
            caveats = f" ({row['caveats']})" if row["caveats"] else ""
            echo(shorten(f"{row['name']}{caveats}", console.width))
            echo(f"  {values}")
        return
    table = value_table(names[0], [])
    for name in names[1:]:
        is_text = name in TEXTS
        table.add_column(name, justify="left" if is_text else "right", no_wrap=not is_text)
    for name, column in zip(names, table.columns, strict=True):
        column.min_width = least[name]
    for row in rows:
        # Only columns of text are made narrower.
        table.add_row(
            *(Text(printable(row[name]), no_wrap=True, overflow="ellipsis") for name in names)
        )
    console.print(table)


def _cells(run: Run) -> dict[str, str]:
    started = "" if math.isnan(run.started_unix_s) else timestamp(run.started_unix_s)[:16]
    return {
        "name": run.name,
        "started (UTC)": started,
        "time": duration(run.duration_s),
        "energy": quantity(run.energy.gross_j, "J"),
        "Wh": watt_hours(run.energy.gross_j),
        "caveats": ", ".join(run_caveats(run)),
        "tags": _tags(run.tags),
        "host": run.host,
        "command": shlex.join((Path(run.command[0]).name, *run.command[1:])) if run.command else "",
        "id": "" if run.study else run.id,  # The name of a study run ends in its id.
    }


def _tags(tags: Any) -> str:
    return " ".join(f"{key}={value}" for key, value in tags.items())


@command.command("tag")
@click.argument("records", metavar="RUN ...", nargs=-1, required=True, shell_complete=complete_run)
@click.option("--project", metavar="NAME", help="Project that it belongs to.")
@click.option("--phase", type=click.Choice(PHASES), help="Phase of the project.")
@click.option("--tag", "tags", metavar="KEY=VALUE", multiple=True, help="Set a tag of a run.")
@click.option("--remove", metavar="KEY", multiple=True, help="Remove a tag of a run.")
def tag(
    records: Sequence[str],
    project: str | None,
    phase: str | None,
    tags: Sequence[str],
    remove: Sequence[str],
) -> None:
    """Set the project, phase and tags of runs and studies.

    RUN is the directory of a run or a study, latest, previous, or the name or id of a saved run.
    Measurements do not change.

    \b
    Example:
      joulelab runs tag latest --tag seed=1 --remove draft
      joulelab runs tag studies/mine --project digits --phase experiment
    """
    pairs = [one.partition("=")[::2] for one in tags]
    if project is None and phase is None and not tags and not remove:
        raise click.UsageError("give --project, --phase, --tag or --remove")
    if any(not key or not value for key, value in pairs):
        raise click.UsageError("write a tag like --tag key=value")
    for record in records:
        path = Path(record)
        directory = path if is_study(path) or is_run(path) else open_run(record).directory
        label_run(directory, project=project, phase=phase, tags=dict(pairs), remove=remove)
        echo(f"tagged {directory}")


@command.command("prune")
@click.option("--older-than", metavar="AGE",
    help="Only runs that started longer ago than this, for example 90d, 4w or 12h.")  # fmt: skip
@click.option("--keep", type=click.IntRange(min=0), default=0, metavar="N",
    help="Keep the newest N runs.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Only show what would be deleted.")
@click.option("--yes", is_flag=True, help="Delete without asking.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON; needs --yes or --dry-run.")
def prune(older_than: str | None, keep: int, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Delete old runs from the directory of saved runs, and say what it freed.

    Studies, runs that are in use, and directories with files that JouleLab did not write stay.

    \b
    Example:
      joulelab runs prune --older-than 90d --keep 20 --dry-run
    """
    if older_than is None and not keep:
        raise click.UsageError("give --older-than or --keep")
    if as_json and not (yes or dry_run):
        raise click.UsageError("--json does not ask: add --yes or --dry-run")
    age_s = None if older_than is None else parse_age(older_than)
    with progress("reading the records"):
        runs = open_runs(on_error=warn_skipped) if saved_run_directories() else []
        found = find_prunable(runs, older_than_s=age_s, keep=keep)
        size_bytes = found.size_bytes
    if not as_json:
        _print_pruning(found)
    what = f"{count(len(found.runs), 'run')}, {quantity(size_bytes, 'B')}"
    is_done = bool(found.runs) and not dry_run
    if is_done and not yes:
        click.confirm(f"Delete {what}?", abort=True)
    freed_bytes = 0
    deleted = []
    for run in found.runs if is_done else ():
        if not why_kept(run):  # Something may have changed while the user was asked.
            freed_bytes += delete_run(run)
            deleted.append(run)
    if as_json:
        kept = [{"id": run.id, "reason": reason} for run, reason in found.kept]
        ids = [run.id for run in (found.runs if dry_run else deleted)]
        freed = size_bytes if dry_run else freed_bytes
        print_json({"dry_run": dry_run, "deleted": ids, "freed_bytes": freed, "kept": kept})
    elif not found.runs:
        echo("nothing to delete")
    elif dry_run:
        echo(f"would delete {what}")
    else:
        echo(f"deleted {count(len(deleted), 'run')}, {quantity(freed_bytes, 'B')} freed")


def _print_pruning(found: Pruning) -> None:
    if found.runs:
        print_runs(found.runs)
    for run, reason in found.kept:
        echo(f"kept {run.id}: {reason}")
