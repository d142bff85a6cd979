"""``joulelab gather``: the total energy of a job of many processes, over its hosts."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

import click

from joulelab.cli.output import echo, print_json, progress
from joulelab.format import count, duration, quantity, with_interval
from joulelab.parallel import usable_cpus

if TYPE_CHECKING:
    from collections.abc import Iterator

    from joulelab.energy.energy import ComponentEnergy, Energy
    from joulelab.runs.hosts import JobEnergies

MOST_HOSTS = 32
"""For more hosts, their equal components are added up."""
MOST_NOTES = 20


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
    from joulelab.runs.hosts import add_up  # noqa: PLC0415  (--help does not wait for NumPy)

    with progress("adding up"):
        job = add_up(directory, batch_job, processes=usable_cpus())
    if as_json:
        data = {
            "ranks": list(job.ranks),
            "hosts": {host: list(map(str, paths)) for host, paths in job.hosts.items()},
            "jobs": job.batch_jobs,
            "missing": list(job.missing),
            "doubled": list(job.doubled),
            "total": job.total.to_json(),
            "spans": {name: energy.to_json() for name, energy in job.spans.items()},
        }
        print_json(data)
    else:
        _print(job)


def _print(job: JobEnergies) -> None:
    ranks = f", {count(len(job.ranks), 'rank')}" if job.ranks else ""
    hosts = [*job.hosts][:MOST_HOSTS]
    more = f" and {len(job.hosts) - len(hosts):,} more" if len(job.hosts) > len(hosts) else ""
    echo(f"{count(len(job.hosts), 'host')}{ranks}: {', '.join(hosts)}{more}")
    if len(job.batch_jobs) > 1:
        echo(f"the sum of Slurm's jobs {', '.join(job.batch_jobs)}: choose one with --job")
    lines = [("whole job", _text(job.total)), *(_of_hosts if more else _of_components)(job.total)]
    lines += [(name, _text(energy)) for name, energy in job.spans.items()]
    width = max(len(label) for label, _ in lines)
    for label, text in lines:
        echo(f"{label:{width}}  {text}")
    energies = (job.total, *job.spans.values())
    notes = list(dict.fromkeys(note for one in energies for note in one.caveats))
    for note in notes[:MOST_NOTES]:
        echo(f"note: {note}")
    if len(notes) > MOST_NOTES:
        echo(f"note: {len(notes) - MOST_NOTES:,} more; --json lists all")


def _of_components(total: Energy) -> Iterator[tuple[str, str]]:
    for component, part in total.components.items():
        yield component, f"{quantity(part.gross_j, 'J')}  {part.provenance}"
    for one in total.enclosures:
        yield one.name, f"{quantity(one.gross_j, 'J')}  around its parts, not added"
    for component, why in total.absent.items():
        yield component, f"not measured: {why}"


def _of_hosts(total: Energy) -> Iterator[tuple[str, str]]:
    """Add up equal components of many hosts."""
    parts: dict[str, list[ComponentEnergy]] = {}
    for component, part in total.components.items():
        parts.setdefault(component.partition("@")[0], []).append(part)
    for component, some in parts.items():
        provenances = ", ".join(sorted({str(part.provenance) for part in some}))
        gross_j = math.fsum(part.gross_j for part in some)
        yield component, f"{quantity(gross_j, 'J')}  {provenances}, {count(len(some), 'host')}"
    absent = Counter(component.partition("@")[0] for component in total.absent)
    for component, number in absent.items():
        yield component, f"not measured on {count(number, 'host')}; --json says why"


def _text(energy: Energy) -> str:
    if not energy.components:
        return "not measured"
    gross = with_interval(energy.gross_j, *energy.interval_j, "J")
    return f"{gross}, {duration(energy.duration_s)}, {quantity(energy.mean_power_w, 'W')}"
