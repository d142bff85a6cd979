"""``joulelab idle``: measure idle power and save it."""

from __future__ import annotations

import json
import time

import click
from rich.console import Console
from rich.progress import track

from joulelab.format import quantity
from joulelab.machine import machine_identity
from joulelab.meter import Meter
from joulelab.runs.saved_baseline import save_baseline


@click.command("idle")
@click.option(
    "--seconds",
    "duration_s",
    type=click.FloatRange(min=0.5, max=3600),
    default=10.0,
    show_default=True,
    help="Duration of the measurement (the paper's T_m).",
)
@click.option("--dry-run", is_flag=True, help="Measure and print, but save nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(duration_s: float, dry_run: bool, as_json: bool) -> None:
    """Measure this machine's idle power and save it.

    Do not use the machine during the measurement. Net energy is gross energy minus this power times
    the duration, unless a run measures its own idle power.

    \b
    Example:
      joulelab idle --seconds 30
    """
    terminal = Console(stderr=True)
    with Meter() as meter:
        with meter.span("idle") as span:
            for _ in track(range(100), "idle", console=terminal, disable=not terminal.is_terminal):
                time.sleep(duration_s / 100)
        baseline = meter.idle_from(span)
        energy = span.energy
    path = None if dry_run else save_baseline(baseline.points[-1], machine_identity())
    if as_json:
        saved_in = None if path is None else str(path)
        click.echo(json.dumps({"idle": energy.to_json(), "kept_in": saved_in}))
        return
    for name, part in energy.components.items():
        half_w = (part.interval_j[1] - part.gross_j) / part.duration_s
        power = f"{quantity(part.mean_power_w, 'W')} ± {quantity(half_w, 'W')}"
        click.echo(f"{name:8} {power:20} {part.provenance}")
    for name, reason in energy.absent.items():
        click.echo(f"{name:8} absent: {reason}")
    if path is not None:
        click.echo(f"saved in {path}")
