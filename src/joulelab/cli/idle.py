"""``joulelab idle``: measure idle power and save it."""

from __future__ import annotations

import math

import click

from joulelab.cli.output import print_json, progress
from joulelab.energy.baseline import IdlePoint, describe_load
from joulelab.energy.energy import Energy
from joulelab.energy.idle import IdleMeasurement
from joulelab.errors import StoreError, UserError
from joulelab.format import duration, quantity
from joulelab.machine import describe
from joulelab.meter import Meter
from joulelab.runs.saved_baseline import save_baseline
from joulelab.uncertain import COVERAGE_FACTOR

WAIT_S = 30.0


@click.command("idle")
@click.option(
    "--seconds",
    "duration_s",
    type=click.FloatRange(min=0.5, max=3600),
    default=10.0,
    show_default=True,
    help="Duration of the measurement (the paper's T_m).",
)
@click.option(
    "--wait",
    "wait_s",
    type=click.FloatRange(min=0, max=86400),
    metavar="SECONDS",
    help=f"Longest time to wait for a busy machine to become quiet.  [default: {WAIT_S:g}; "
    "0 with --force]",
)
@click.option(
    "--force",
    is_flag=True,
    help="Measure a busy machine, too, and save who used it; the uncertainty covers the effect.",
)
@click.option("--dry-run", is_flag=True, help="Measure and print, but save nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    duration_s: float, wait_s: float | None, force: bool, dry_run: bool, as_json: bool
) -> None:
    """Measure this machine's idle power and save it.

    Do not use the machine during the measurement. If other processes do, JouleLab waits for them to
    finish and then refuses. Net energy is gross energy minus this power times the duration, unless
    a run measures its own idle power.

    \b
    Example:
      joulelab idle --seconds 30
      joulelab idle --wait 600
    """
    if wait_s is None:
        wait_s = 0.0 if force else WAIT_S
    with Meter() as meter, progress(f"measuring idle power for {duration(duration_s)}") as on_phase:
        unknown: list[str] = []

        def show(measured: IdleMeasurement) -> None:
            unknown[:] = measured.unknown
            if not measured.is_quiet:
                on_phase(f"waiting for a quiet machine: {measured.load_text}")

        point = meter.measure_idle(duration_s, wait_s, show).points[-1]
        energy = meter.energy("idle")
    if point.busy_w and not force:
        raise UserError(
            "the machine is busy",
            why=point.load_text,
            hint="stop what is running, wait longer with --wait SECONDS, or measure anyway with "
            "--force",
        )
    path, problem = None, None
    if not dry_run:
        try:
            path = save_baseline(point, describe())
        except StoreError as error:
            problem = error
    if as_json:
        saved_in = None if path is None else str(path)
        print_json({"idle": energy.to_json(), "point": point.to_json(), "kept_in": saved_in})
    else:
        _print(point, energy)
        for name in unknown:
            label = "the CPU" if name == "cpu" else name
            click.echo(f"whether other processes used {label} is unknown")
        if path is not None:
            click.echo(f"saved in {path}")
    if problem is not None:
        raise problem


def _print(point: IdlePoint, energy: Energy) -> None:
    for name, part in energy.all_parts.items():
        power_w = point.power_w.get(name, math.nan)
        off_w = point.uncertainty_w.get(name, math.nan)
        half_w = COVERAGE_FACTOR * math.hypot(
            part.gain_uncertainty * power_w, part.offset_uncertainty_w, off_w
        )
        power = f"{quantity(power_w, 'W')} ± {quantity(half_w, 'W')}"
        click.echo(f"{name:8} {power:20} {part.provenance}")
    for name, reason in energy.absent.items():
        click.echo(f"{name:8} absent: {reason}")
    if point.duration_s < 0.99 * energy.duration_s:
        part_s, whole_s = duration(point.duration_s), duration(energy.duration_s)
        click.echo(f"by the quietest {part_s} of {whole_s}")
    held = {name: load for name, load in point.load.items() if not load.fraction}
    if held:
        click.echo(f"{describe_load(held)}, which may raise idle power")
    if point.busy_w:
        click.echo(f"measured on a busy machine: {point.load_text}; ± covers what it may have used")
    elif len(point.load) > len(held):
        click.echo(
            f"the machine was busy ({point.load_text}), which does not affect estimates: their "
            "idle power is that of a model"
        )
