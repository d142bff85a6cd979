"""``joulelab tune --recurring``: the next run of a training that recurs."""

from __future__ import annotations

import math
import sys
from dataclasses import asdict
from typing import NoReturn

import click

from joulelab.cli.output import echo, print_json
from joulelab.errors import UserError
from joulelab.format import count, finite_or_none, quantity
from joulelab.tune.recurring import Job, Recurrence, parse_target, run_recurrence
from joulelab.tune.thompson import mean_energies_j


def run_job(
    name: str,
    batch_sizes: str | None,
    target: str | None,
    program: tuple[str, ...],
    seed: int | None,
    *,
    as_json: bool,
) -> NoReturn:
    """Run a recurring job once, print what was learned, and exit as its last run did."""
    if not program:
        raise click.UsageError("give the command of the recurring job after `--`")
    job = Job(name, _sizes(batch_sizes), None if target is None else parse_target(target), program)
    recurrence: Recurrence | None = None
    for recurrence in run_recurrence(job, seed):
        last = recurrence.attempts[-1]
        text = f"batch size {last.batch_size} {last.outcome} the target"
        if last.outcome in {"stopped", "failed"}:
            text = f"batch size {last.batch_size} {last.outcome}"
        energy = quantity(last.energy_j, "J") if math.isfinite(last.energy_j) else "unknown energy"
        echo(f"{text} after {energy}", err=True)
    assert recurrence is not None
    last, means_j = recurrence.attempts[-1], mean_energies_j(job.history())
    if as_json:
        print_json(
            finite_or_none(
                {
                    "batch_size": last.batch_size,
                    "outcome": last.outcome,
                    "energy_to_target_j": last.energy_j,
                    "attempts": [asdict(one) for one in recurrence.attempts],
                    "mean_energies_j": means_j,
                    "run": str(recurrence.directory),
                }
            )
        )
    elif means_j:
        best = min(means_j, key=lambda size: means_j[size])
        total = count(len(job.history()), "run")
        echo(
            f"best so far: batch size {best}, {quantity(means_j[best], 'J')} to the target "
            f"on average ({total})",
            err=True,
        )
    sys.exit(recurrence.exit_code or (0 if last.outcome == "reached" else 1))


def _sizes(text: str | None) -> tuple[int, ...]:
    if text is None:
        raise click.UsageError("--recurring needs --batch-sizes, for example 32,64,128")
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise UserError(
            f"--batch-sizes {text!r} is no list of numbers", hint="write it as 32,64,128"
        ) from error
