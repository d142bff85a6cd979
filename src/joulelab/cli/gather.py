"""``joulelab gather``: the total energy of a job of many processes, over its hosts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from joulelab.cli.output import echo, print_json, progress
from joulelab.format import count, duration, quantity, with_interval

if TYPE_CHECKING:
    from joulelab.energy.energy import Energy
    from joulelab.runs.hosts import DistributedJob


@click.command("gather")
@click.argument("directory", type=click.Path(file_okay=False))
@click.option("--job", "batch_job", metavar="ID", help="Only recordings of this job of Slurm.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(directory: str, batch_job: str | None, as_json: bool) -> None:
    """Add up the energy of a multi-process job over its hosts.

    DIRECTORY contains what the hosts wrote with Meter(directory=...) or `joulelab run --out` on
    every rank. When several ranks are in the same span, their time and energy count once. Ranks and
    hosts that left no recording are listed.

    \b
    Example:
      joulelab gather job/
    """
    from joulelab.runs.hosts import gather  # noqa: PLC0415  (--help does not wait for NumPy)

    with progress("adding up"):
        job = gather(directory, batch_job=batch_job)
        energies = {name: job.energy(name) for name in job.names}
        total = job.total
    if as_json:
        data = {
            "ranks": list(job.ranks),
            "hosts": {
                host: [str(one.directory) for one in recordings]
                for host, recordings in job.hosts.items()
            },
            "jobs": {
                name: list(dict.fromkeys(one.batch_job.step for one in recordings if one.batch_job))
                for name, recordings in job.batch_jobs.items()
            },
            "missing": list(job.missing),
            "doubled": list(job.doubled),
            "total": total.to_json(),
            "spans": {name: energy.to_json() for name, energy in energies.items()},
        }
        print_json(data)
    else:
        _print(job, total, energies)


def _print(job: DistributedJob, total: Energy, energies: dict[str, Energy]) -> None:
    ranks = f", {count(len(job.ranks), 'rank')}" if job.ranks else ""
    echo(f"{count(len(job.hosts), 'host')}{ranks}: {', '.join(job.hosts)}")
    if len(job.batch_jobs) > 1:
        echo(f"the sum of Slurm's jobs {', '.join(job.batch_jobs)}: choose one with --job")
    lines = [("whole job", _text(total))]
    for component, part in total.components.items():
        lines.append((component, f"{quantity(part.gross_j, 'J')}  {part.provenance}"))
    lines += [(component, f"not measured: {why}") for component, why in total.absent.items()]
    lines += [(name, _text(energy)) for name, energy in energies.items()]
    width = max(len(label) for label, _ in lines)
    for label, text in lines:
        echo(f"{label:{width}}  {text}")
    for note in dict.fromkeys(note for one in (total, *energies.values()) for note in one.caveats):
        echo(f"note: {note}")


def _text(energy: Energy) -> str:
    if not energy.components:
        return "not measured"
    gross = with_interval(energy.gross_j, *energy.interval_j, "J")
    return f"{gross}, {duration(energy.duration_s)}, {quantity(energy.mean_power_w, 'W')}"
