"""``joulelab gather``: one account of a job that ran as many processes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from joulelab.cli.output import progress

if TYPE_CHECKING:
    from joulelab.energy.energy import Energy
    from joulelab.runs import DistributedJob


@click.command("gather")
@click.argument("directory", type=click.Path(file_okay=False))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(directory: str, as_json: bool) -> None:
    """What a job of many processes took, on all its hosts together.

    DIRECTORY holds what the hosts wrote: that of Meter(directory=...) on every rank. Spans of ranks
    that were in them at one time count it once; what is missing is named.

    \b
    Example:
      joulelab gather job/
    """
    from joulelab.runs import gather  # noqa: PLC0415

    with progress("adding up"):
        job = gather(directory)
        energies = {name: job.energy(name) for name in job.names}
        total = job.total
    if as_json:
        click.echo(json.dumps(_figures(job, total, energies), indent=1, allow_nan=False))
    else:
        _print(job, total, energies)


def _figures(job: DistributedJob, total: Energy, energies: dict[str, Energy]) -> dict[str, object]:
    return {
        "ranks": list(job.ranks),
        "hosts": {
            host: [str(one.directory) for one in recordings]
            for host, recordings in job.hosts.items()
        },
        "missing": list(job.missing),
        "doubled": list(job.doubled),
        "total": total.to_json(),
        "spans": {name: energy.to_json() for name, energy in energies.items()},
    }


def _print(job: DistributedJob, total: Energy, energies: dict[str, Energy]) -> None:
    ranks = f", {len(job.ranks)} ranks" if job.ranks else ""
    hosts = f"{len(job.hosts)} host{'s' if len(job.hosts) > 1 else ''}"
    click.echo(f"{hosts}{ranks}: {', '.join(job.hosts)}")
    width = max(len(name) for name in ("whole job", *energies, *total.components, *total.absent))
    click.echo(f"{'whole job':{width}}  {_line(total)}")
    for component, part in total.components.items():
        click.echo(f"{component:{width}}  {_joules(part.gross_j)}  {part.provenance}")
    for component, reason in total.absent.items():
        click.echo(f"{component:{width}}  absent  {reason}")
    for name, energy in energies.items():
        click.echo(f"{name:{width}}  {_line(energy)}")
    for note in dict.fromkeys(note for one in (total, *energies.values()) for note in one.notes):
        click.echo(f"note  {note}")


def _line(energy: Energy) -> str:
    if not energy.components:
        return "nothing was measured"
    low, high = energy.interval_j
    return (
        f"{_joules(energy.gross_j)} ({_joules(low, '')} to {_joules(high, '')}), "
        f"{energy.duration_s:.4g} s, {energy.mean_power_w:.3g} W"
    )


def _joules(value: float, unit: str = " J") -> str:
    from joulelab.energy.words import joules  # noqa: PLC0415

    return joules(value, unit)
