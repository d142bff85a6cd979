"""``joulelab calibrate``: a power sensor against an external meter."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from joulelab.cli.import_log import EXISTING, column_options, log_options
from joulelab.cli.output import progress
from joulelab.errors import UserError

if TYPE_CHECKING:
    from joulelab.logs.calibrate import Check
    from joulelab.sensors.calibration import Calibration


@click.command("calibrate")
@click.option("--log", "log_file", type=click.Path(exists=True, path_type=Path), required=True,
    help="The sensor's log: nvidia-smi's, another CSV, or the directory of a trace.")  # fmt: skip
@click.option("--meter", "meter_file", type=EXISTING, required=True,
    help="The meter's log of the same time, CSV, plain or gzip.")  # fmt: skip
@click.option("--marks", "marks_file", type=EXISTING,
    help="CSV with times; the energy between the first and the last is compared.")  # fmt: skip
@click.option("--column", metavar="NAME", help="The sensor's power column, or a trace's source.")
@click.option("--meter-column", metavar="NAME", help="The meter's power column.")
@click.option("--meter-unit", metavar="UNIT", help="Of the meter's power column.")
@click.option("--meter-uncertainty", "meter_uncertainty_pct", type=click.FloatRange(0, 100),
    default=1.0, show_default=True, metavar="PERCENT",
    help="Standard uncertainty of the meter (k = 1).")  # fmt: skip
@click.option("--clock-offset", "clock_offset_s", type=click.FloatRange(0.01, 60), default=0.5,
    show_default=True, metavar="SECONDS", help="How far apart the clocks may be.")  # fmt: skip
@click.option("--board", "uuid", default="", metavar="UUID",
    help="The board, as `nvidia-smi -L` names it; it is then used for it by default.")  # fmt: skip
@click.option("--name", default="", help="The board's model, for the record.")
@click.option("--driver", default="", help="The driver's version, for the record.")
@column_options
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path),
    help="Write to this file and keep nothing.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    log_file: Path,
    meter_file: Path,
    marks_file: Path | None,
    column: str | None,
    meter_column: str | None,
    meter_unit: str | None,
    meter_uncertainty_pct: float,
    clock_offset_s: float,
    uuid: str,
    name: str,
    driver: str,
    out: Path | None,
    as_json: bool,
    **columns: Any,
) -> None:
    """Fits gain, offset and delay of a GPU's power sensor to an external meter.

    Record both at once, on one clock, with the board idle and at work in turns of some seconds.
    What is found is used from then on whenever that board is recorded.

    \b
    Example:
      joulelab calibrate --log smi.csv --meter meter.csv.gz --marks marks.csv --board GPU-1a2b3c4d
      joulelab calibrate --log smi.csv --meter meter.csv --column power.draw --out board.json
    """
    from joulelab.logs import calibrate  # noqa: PLC0415
    from joulelab.logs.columns import ColumnChoice  # noqa: PLC0415
    from joulelab.logs.power_log import LogOptions  # noqa: PLC0415

    options = log_options(columns)
    timezone = options.columns.timezone
    of_meter = ColumnChoice(
        power_columns=(meter_column,) if meter_column else (),
        power_unit=meter_unit,
        timezone=timezone,
    )
    notes: list[str] = []
    with progress("reading the logs"):
        if log_file.is_dir():
            sensor = calibrate.read_recording(log_file, column)
        else:
            if column is not None:
                chosen = replace(options.columns, power_columns=(column,))
                options = replace(options, columns=chosen)
            sensor = calibrate.read_one(log_file, options, notes)
        meter = calibrate.read_one(meter_file, LogOptions(columns=of_meter), notes)
        marks_s = calibrate.read_marks(marks_file, timezone) if marks_file else []
    if out is None and not (uuid or sensor.uuid):
        raise UserError(
            "it is not known which board this is",
            why="the log has no uuid column",
            hint="name it with --board UUID, or give --out FILE",
        )
    with progress("fitting"):
        found = calibrate.calibrate(
            sensor,
            meter,
            [log_file, meter_file],
            calibrate.Board(name, uuid, driver),
            meter_uncertainty_pct / 100,
            clock_offset_s,
        )
        checked = calibrate.check(sensor, meter, found, marks_s)
    if out is None and not found.source.startswith("nvml."):
        notes.append(
            f"recordings of a board are of NVML's sources, and none is {found.source}: where it is "
            "one, call the column as nvidia-smi does, as power.draw.instant, and calibrate again"
        )
    path = _write(found, out)
    if as_json:
        shown = asdict(checked) | {
            "before_pct": checked.before_pct,
            "after_pct": checked.after_pct,
        }
        content = found.to_json() | {"check": shown, "kept_in": str(path), "notes": notes}
        click.echo(json.dumps(content, indent=1))
    else:
        _print(found, checked, notes, path)


def _write(found: Calibration, out: Path | None) -> Path:
    from joulelab.sensors.calibration import keep, write_calibration  # noqa: PLC0415

    try:
        if out is None:
            return keep(found)
        write_calibration(out, found)
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise UserError("cannot write the calibration", why=why) from error
    return out


def _print(found: Calibration, checked: Check, notes: list[str], path: Path) -> None:
    window = "not shown by the data" if found.window_s is None else f"{found.window_s:.3g} s"
    lines = (
        ("source", f"{found.source} {found.board_name} {found.board_uuid}".rstrip()),
        ("gain", f"{found.gain:.4f} ± {found.gain * found.gain_uncertainty:.4f}"),
        ("offset", f"{found.offset_w:+.2f} W ± {found.offset_uncertainty_w:.2g} W"),
        ("delay", f"{found.delay_s * 1e3:+.0f} ms ± {found.delay_uncertainty_s * 1e3:.2g} ms"),
        ("window", window),
        ("new value each", f"{found.update_period_s:.3g} s"),
        ("left over", f"{found.residual_w:.2g} W, {found.residual_pct:.2g} % of mean power"),
        ("fitted from", f"{found.low_w:.0f} to {found.high_w:.0f} W"),
        ("energy", f"{checked.meter_j:.0f} J by the meter in "
            f"{checked.stop_s - checked.start_s:.1f} s"),
        ("  before", f"{checked.before_j:.0f} J, {checked.before_pct:+.2f} %"),
        ("  after", f"{checked.after_j:.0f} J, {checked.after_pct:+.2f} %"),
    )  # fmt: skip
    for what, text in lines:
        click.echo(f"{what:15} {text}")
    for note in notes:
        click.echo(f"  {note}")
    click.echo(f"± are standard uncertainties (k = 1); kept in {path}")
