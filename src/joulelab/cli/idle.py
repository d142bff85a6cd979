"""``joulelab idle``."""

from __future__ import annotations

import json
import time

import click


@click.command("idle")
@click.option(
    "--seconds",
    "duration_s",
    type=click.FloatRange(min=0.5, max=3600),
    default=10.0,
    show_default=True,
    help="How long to stand still (the paper's T_m).",
)
@click.option("--dry-run", is_flag=True, help="Measure and print, but keep nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(duration_s: float, dry_run: bool, as_json: bool) -> None:
    """Measure this machine's idle power and keep it.

    Leave the machine alone meanwhile. Net energies are gross energies less this power times
    their duration, wherever no idle power is measured beside the run itself.

    \b
    Example:
      joulelab idle --seconds 30
    """
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import track  # noqa: PLC0415

    from joulelab.energy.saved_baseline import keep  # noqa: PLC0415
    from joulelab.meter import Meter  # noqa: PLC0415

    terminal = Console(stderr=True)
    with Meter() as meter:
        with meter.span("idle") as span:
            for _ in track(range(100), "idle", console=terminal, disable=not terminal.is_terminal):
                time.sleep(duration_s / 100)
        baseline = meter.idle_from(span)
        energy = span.energy
    path = None if dry_run else keep(baseline.points[-1])
    if as_json:
        kept_in = None if path is None else str(path)
        click.echo(json.dumps({"idle": energy.to_json(), "kept_in": kept_in}))
        return
    for name, part in energy.components.items():
        half_w = (part.interval_j[1] - part.gross_j) / part.duration_s
        click.echo(f"{name:8} {part.mean_power_w:8.2f} W ± {half_w:.2g} W  {part.provenance}")
    for name, reason in energy.absent.items():
        click.echo(f"{name:8}   absent  {reason}")
    if path is not None:
        click.echo(f"kept in {path}")
