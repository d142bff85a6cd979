"""``joulelab hardware``: fit or measure hardware profiles."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.progress import Progress

from joulelab.cli.options import INPUT
from joulelab.cli.output import progress
from joulelab.format import count, percent
from joulelab.models.registry import PAPER_INPUT, require_torch

if TYPE_CHECKING:
    from joulelab.predict import HardwareProfile

OUT = click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    metavar="PROFILE",
    help="Write the profile to this JSON file.",
)
NAME = click.option("--name", metavar="NAME", help="Name of the profile. Default: the file's name.")


@click.group("hardware")
def command() -> None:
    """Create a hardware profile: the time and energy that operators take on a device.

    \b
    Example:
      joulelab hardware calibrate --out here.json
      joulelab hardware fit studies/paper --out mine.json
    """


@command.command("fit")
@click.argument("table", type=click.Path(exists=True, path_type=Path))
@OUT
@click.option("--device", metavar="NAME",
    help="Device as its driver names it, or cpu. Default: the study's device.")  # fmt: skip
@click.option("--idle-power", "idle_power_w", type=click.FloatRange(min=0), metavar="WATTS",
    help="Idle power of the device, if the table does not state it.")  # fmt: skip
@INPUT
@click.option("--no-matrix-units", is_flag=True,
    help="State that the table's convolutions ran without TF32; a study records it.")  # fmt: skip
@click.option("--threads", type=click.IntRange(min=1), metavar="COUNT",
    help="Threads of the CPU that ran the steps. Default: several.")  # fmt: skip
@NAME
@click.option("--numerics", metavar="TEXT", help="Record these number formats in the profile.")
def fit(
    table: Path,
    out: Path,
    device: str | None,
    idle_power_w: float | None,
    input_shape: tuple[int, ...] | None,
    no_matrix_units: bool,
    threads: int | None,
    name: str | None,
    numerics: str | None,
) -> None:
    """Fit a profile to measured steps.

    TABLE is a study's directory, or a CSV or Parquet file with the columns model, phase,
    batch_size, input (for example 3x32x32), seconds_per_step, energy_per_step_j (gross), and
    optionally idle_power_w. What the table leaves open comes from the device's data sheet. --input
    is for a study that does not record the shape of its samples.

    \b
    Example:
      joulelab hardware fit steps.csv --device "NVIDIA H100 80GB HBM3" --out h100.json
      joulelab hardware fit studies/paper --out mine.json
    """
    require_torch()
    from joulelab.predict.profile_fitting import fit_profile  # noqa: PLC0415 - imports torch

    with progress("Tracing models and fitting"):
        profile = fit_profile(
            table,
            name=name or out.stem,
            device=device,
            idle_power_w=idle_power_w,
            input_shape=input_shape or PAPER_INPUT,
            matrix_units=not no_matrix_units,
            numerics=numerics,
            threads=threads,
        )
    if profile.datasheet.generic:
        click.echo(
            f"joulelab: no data sheet for {profile.datasheet.device!r}: predictions beyond the "
            "table have wide intervals",
            err=True,
        )
    _save(profile, out)


@command.command("calibrate")
@OUT
@click.option("--device", default="auto", show_default=True,
    help="Device to measure: auto, cpu, cuda or cuda:INDEX.")  # fmt: skip
@click.option("--seconds", "budget_s", type=click.FloatRange(min=10, max=3600), default=120.0,
    show_default=True, help="Approximate duration of the measurement.")  # fmt: skip
@NAME
@click.option("--steps", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
    help="Also write the measured steps to this CSV file, which hardware fit reads.")  # fmt: skip
def calibrate(
    out: Path, device: str, budget_s: float, name: str | None, steps: Path | None
) -> None:
    """Measure a profile of this machine with small workloads.

    It needs no data set. Do not use the machine for anything else during the measurement.

    \b
    Example:
      joulelab hardware calibrate --out here.json
      joulelab hardware calibrate --out here.json --steps steps.csv
      joulelab predict ResNet18 --profile here.json
    """
    require_torch()
    from joulelab.predict.measure_profile import measure_profile  # noqa: PLC0415 - imports torch
    from joulelab.predict.measurements import Measurement, write_measurements  # noqa: PLC0415

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("Measuring", total=1.0)

        def show(done: float, what: str) -> None:
            bar.update(task, completed=done, description=what)

        def save_steps(measured: Sequence[Measurement]) -> None:
            if steps is not None:
                write_measurements(steps, measured)

        profile = measure_profile(name or out.stem, device, budget_s, show, save_steps)
    _save(profile, out)


def _save(profile: HardwareProfile, out: Path) -> None:
    profile.save(out)
    seen = profile.seen
    click.echo(
        f"{profile.datasheet.device}: {count(seen.cases, 'step')} of "
        f"{count(seen.architectures, 'model')} ({profile.source})"
    )
    error = (
        f"energy {percent(profile.energy_discrepancy)}, "
        f"time {percent(profile.duration_discrepancy)}"
    )
    if seen.architectures < 3:
        error = f"assumed to be {error}, since so few models cannot show it"
    click.echo(f"error for models left out of the fit, beyond that of the coefficients: {error}")
    click.echo(f"profile written to {out}")
