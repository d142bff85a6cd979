"""``joulelab hardware``: profiles of devices, fitted or measured."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from joulelab.cli.output import progress
from joulelab.errors import UserError
from joulelab.models.registry import require_torch

if TYPE_CHECKING:
    from joulelab.predict.cases import Measurement
    from joulelab.predict.devices import Datasheet
    from joulelab.predict.hardware import HardwareProfile

OUT = click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    metavar="PROFILE",
    help="The profile, JSON.",
)


@click.group("hardware")
def command() -> None:
    """Make a hardware profile: what time and energy a device takes for operators of each kind.

    \b
    Example:
      joulelab hardware calibrate --out here.json
      joulelab hardware fit studies/paper --out mine.json
    """


@command.command("fit")
@click.argument("table", type=click.Path(exists=True, path_type=Path))
@OUT
@click.option("--device", metavar="NAME", help="As its driver names it; default: the study's GPU.")
@click.option("--idle-power", "idle_power_w", type=click.FloatRange(min=0), metavar="WATTS",
    help="Where the table does not tell it.")  # fmt: skip
@click.option("--input", "input_text", default="3x32x32", show_default=True, metavar="SHAPE",
    help="One sample, where a study of recorded logs does not tell it.")  # fmt: skip
@click.option("--no-matrix-units", is_flag=True,
    help="The table's convolutions ran without TF32. A study tells it itself.")  # fmt: skip
@click.option("--name", metavar="NAME", help="The profile's. Default: the file's.")
@click.option("--numerics", metavar="TEXT", help="Number formats, for the record.")
def fit(
    table: Path,
    out: Path,
    device: str | None,
    idle_power_w: float | None,
    input_text: str,
    no_matrix_units: bool,
    name: str | None,
    numerics: str | None,
) -> None:
    """Fit a profile to measured steps.

    TABLE is a study's directory, or a CSV or Parquet file with the columns model, phase,
    batch_size, input (like 3x32x32), seconds_per_step, energy_per_step_j (gross), and
    idle_power_w if it is known. What the table cannot tell is taken from the device's data sheet.

    \b
    Example:
      joulelab hardware fit steps.csv --device "NVIDIA H100 80GB HBM3" --out h100.json
      joulelab hardware fit studies/paper --out mine.json
    """
    require_torch()
    from joulelab.predict.devices import without_matrix_units  # noqa: PLC0415
    from joulelab.predict.hardware import save_profile  # noqa: PLC0415
    from joulelab.predict.profiling import make_profile  # noqa: PLC0415
    from joulelab.predict.steps import steps_of  # noqa: PLC0415

    measurements, found_device, found_numerics = _measured(table, idle_power_w, input_text)
    sheet = _datasheet(device or found_device)
    if no_matrix_units or found_numerics.startswith("fp32"):
        sheet = without_matrix_units(sheet)
    with progress("Tracing models"):
        steps = steps_of([one.case for one in measurements])
    with progress("Fitting, and leaving each architecture out in turn"):
        profile = make_profile(
            name or out.stem,
            measurements,
            steps,
            sheet,
            numerics=numerics or found_numerics,
            source=f"{table.name}: {sum(one.repeats for one in measurements)} rows",
        )
    save_profile(profile, out)
    _show(profile, out)


@command.command("calibrate")
@OUT
@click.option("--device", default="auto", show_default=True,
    help="auto, cpu, cuda or cuda:INDEX.")  # fmt: skip
@click.option("--seconds", "budget_s", type=click.FloatRange(min=10, max=3600), default=120.0,
    show_default=True, help="About how long to measure.")  # fmt: skip
@click.option("--name", metavar="NAME", help="The profile's. Default: the file's.")
def calibrate(out: Path, device: str, budget_s: float, name: str | None) -> None:
    """Measure this machine's profile with small workloads. No data set is needed.

    Leave the machine alone meanwhile.

    \b
    Example:
      joulelab hardware calibrate --out here.json
      joulelab predict ResNet18 --profile here.json
    """
    require_torch()
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import Progress  # noqa: PLC0415

    from joulelab.predict.calibration import calibrated_profile  # noqa: PLC0415
    from joulelab.predict.hardware import save_profile  # noqa: PLC0415

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("Measuring", total=1.0)

        def told(done: float, what: str) -> None:
            progress.update(task, completed=done, description=what)

        profile = calibrated_profile(name or out.stem, device, budget_s, told)
    save_profile(profile, out)
    _show(profile, out)


def _measured(
    table: Path, idle_power_w: float | None, input_text: str
) -> tuple[list[Measurement], str | None, str]:
    """Measurements, the device if it is known, and how they computed."""
    if table.is_dir():
        from joulelab.predict.cases import parse_input  # noqa: PLC0415
        from joulelab.predict.studies import (  # noqa: PLC0415
            device_of,
            measurements_of,
            numerics_of,
            study_frame,
        )

        frame = study_frame([table], parse_input(input_text))
        measurements = measurements_of(frame)
        device, numerics = device_of(frame), numerics_of(frame)
    else:
        from joulelab.predict.measurements import read_measurements  # noqa: PLC0415

        measurements, device, numerics = read_measurements(table), None, "not stated"
    if idle_power_w is not None:
        measurements = [one._replace(idle_power_w=idle_power_w) for one in measurements]
    return measurements, device, numerics


def _datasheet(device: str | None) -> Datasheet:
    from joulelab.predict.devices import (  # noqa: PLC0415
        datasheet_of,
        generic_datasheet,
        known_devices,
    )

    if device is None:
        known = ", ".join(one.device for one in known_devices())
        raise UserError(
            "the table does not say what device it is of",
            hint=f"give it with --device; data sheets are kept of {known}",
        )
    found = datasheet_of(device)
    if found is None:
        click.echo(
            f"joulelab: no data sheet of {device!r} is kept: what the table leaves open is wide",
            err=True,
        )
    return found or generic_datasheet(device)


def _show(profile: HardwareProfile, out: Path) -> None:
    seen = profile.seen
    click.echo(
        f"{profile.datasheet.device}: {seen.cases} steps of {seen.architectures} models. Left out "
        f"in turn, models are off by {profile.energy_discrepancy:.1%} (energy) and "
        f"{profile.duration_discrepancy:.1%} (time) beyond what their coefficients leave open."
    )
    click.echo(f"from {profile.source}; written to {out}")
