"""``joulelab calibrate``: a power sensor against an external meter."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from joulelab.cli.import_log import FILE, column_options
from joulelab.cli.output import SectionedCommand, echo, print_json, progress
from joulelab.errors import UserError
from joulelab.format import duration, join_words, number, percent, quantity
from joulelab.logs.calibrate import (
    Check,
    calibrate,
    check,
    read_marks,
    read_one,
    read_recording,
)
from joulelab.logs.columns import LogOptions
from joulelab.meter import Meter
from joulelab.sensors.calibration import Calibration, save_calibration, write_calibration
from joulelab.sensors.sensor import Quantity
from joulelab.storage import file_errors

WHOLE_MACHINE = (
    "{} measures more than the board: the result is right if nothing else changed its power, and "
    "contains the loss of the power supply"
)


@click.command("calibrate", cls=SectionedCommand)
@click.option("--log", "log_file", type=click.Path(exists=True, path_type=Path),
    help="Log of the sensor: CSV, for example from nvidia-smi, or a recording.")  # fmt: skip
@click.option("--meter", "meter_name", metavar="FILE|COMPONENT", required=True,
    help="Log of the meter over the same time (CSV, plain or gzip), or a meter that "
    "`joulelab doctor` lists, for example plug:desk.")  # fmt: skip
@click.option("--duration", "duration_s", type=click.FloatRange(5, 86400), default=180,
    show_default=True, metavar="SECONDS",
    help="Without --log, record the sensor and the meter for this long.")  # fmt: skip
@click.option("--marks", "marks_file", type=FILE,
    help="CSV of times; compare the energy between the first and the last one.")  # fmt: skip
@click.option("--column", metavar="NAME",
    help="Power column of the sensor's log, or source of a recording.")  # fmt: skip
@click.option("--meter-column", metavar="NAME", help="Power column of the meter's log.")
@click.option("--meter-unit", metavar="UNIT", help="Unit of the meter's power column.")
@click.option("--meter-uncertainty", "meter_uncertainty_pct", type=click.FloatRange(0, 100),
    default=1.0, show_default=True, metavar="PERCENT",
    help="Standard uncertainty of the meter (k = 1).")  # fmt: skip
@click.option("--clock-offset", "clock_offset_s", type=click.FloatRange(0.01, 60), default=0.5,
    show_default=True, metavar="SECONDS",
    help="Largest difference between the clocks of the two logs.")  # fmt: skip
@click.option("--board", "uuid", default="", metavar="UUID",
    help="UUID of the board, from `nvidia-smi -L`, to apply the calibration to.")  # fmt: skip
@click.option("--name", default="", help="Model of the board, for the record.")
@click.option("--driver", default="", help="Version of the driver, for the record.")
@column_options
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path),
    help="Write the calibration to this file instead of saving it for the board.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    log_file: Path | None,
    meter_name: str,
    duration_s: float,
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
    """Calibrate a GPU's power sensor (gain, offset, delay) against an external meter.

    Record both logs at the same time and on one clock, while the board alternates between idle and
    busy every few seconds. Without --log both are recorded now. The calibration is saved and
    applied to all later recordings of the board.

    \b
    Example:
      joulelab calibrate --log smi.csv --meter meter.csv.gz --marks marks.csv --board GPU-1a2b3c4d
      joulelab calibrate --log smi.csv --meter meter.csv --column power.draw --out board.json
      joulelab calibrate --meter plug:desk --duration 300
    """
    options = LogOptions(**columns)
    meter_columns = (meter_column,) if meter_column else ()
    meter_options = LogOptions(
        power_columns=meter_columns, power_unit=meter_unit, timezone=options.timezone
    )
    notes: list[str] = []
    with ExitStack() as stack:
        if log_file is None:
            log_file = stack.enter_context(_recorded(meter_name, duration_s))
        with progress("reading the logs"):
            if log_file.is_dir():
                sensor = read_recording(log_file, column)
            else:
                if column is not None:
                    options = replace(options, power_columns=(column,))
                sensor = read_one(log_file, options, notes)
            if log_file.is_dir() and not Path(meter_name).exists():
                meter = read_recording(log_file, None, meter_name)
                notes.append(WHOLE_MACHINE.format(meter_name))
            else:
                FILE.convert(meter_name, None, None)
                meter = read_one(Path(meter_name), meter_options, notes)
            marks_s = read_marks(marks_file, options.timezone) if marks_file else []
    if out is None and not (uuid or sensor.uuid):
        raise UserError(
            "the board is unknown",
            why="the log has no uuid column",
            hint="name it with --board UUID, or give --out FILE",
        )
    with progress("fitting"):
        found = calibrate(
            sensor,
            meter,
            [log_file, Path(meter_name)],
            board_name=name,
            board_uuid=uuid,
            driver=driver,
            meter_uncertainty=meter_uncertainty_pct / 100,
            clock_offset_s=clock_offset_s,
        )
        compared = check(sensor, meter, found, marks_s)
    if out is None and not found.source.startswith("nvml."):
        notes.append(
            f"recordings of a board use NVML's sources, not {found.source}: if the column is one, "
            "name it as nvidia-smi does, for example power.draw.instant, and calibrate again"
        )
    with file_errors("cannot write the calibration"):
        if out is None:
            path = save_calibration(found)
        else:
            path = out
            write_calibration(path, found)
    if as_json:
        errors = {"before_pct": compared.before_pct, "after_pct": compared.after_pct}
        content = {"check": asdict(compared) | errors, "kept_in": str(path), "notes": notes}
        print_json(found.to_json() | content)
    else:
        _print(found, compared, notes, path)


@contextmanager
def _recorded(component: str, duration_s: float) -> Iterator[Path]:
    """Record all sensors for a while, and return the directory, which is deleted afterwards."""
    if Path(component).exists():
        raise UserError("no log of the sensor", hint="name it with --log")
    with TemporaryDirectory(prefix="joulelab-calibrate-") as directory:
        path = Path(directory) / "recording"
        with Meter(directory=path, record=False) as meter:
            powers = [one for one in meter.trace.channels if one.quantity is Quantity.POWER]
            known = sorted({one.component for one in powers})
            if component not in known:
                raise UserError(
                    f"there is no meter {component!r}",
                    why=f"power is read of {join_words(known) or 'nothing'}",
                    hint="add it with `joulelab doctor --add`, or name a log of it",
                )
            with progress(f"recording for {duration(duration_s)}"):
                time.sleep(duration_s)
        yield path


def _print(found: Calibration, compared: Check, notes: list[str], path: Path) -> None:
    gain_u, offset_u = found.gain * found.gain_uncertainty, found.offset_uncertainty_w
    lines = {
        "source": " ".join(filter(None, (found.source, found.board_name, found.board_uuid))),
        "gain": f"{number(found.gain, 4)} ± {number(gain_u, 2)}",
        "offset": f"{quantity(found.offset_w, 'W')} ± {quantity(offset_u, 'W', 2)}",
        "delay": f"{duration(found.delay_s)} ± {duration(found.delay_uncertainty_s)}",
        "window": "not resolved" if found.window_s is None else duration(found.window_s),
        "update period": duration(found.update_period_s),
        "residuals": f"{quantity(found.residual_w, 'W')} "
        f"({percent(found.residual_pct / 100)} of mean power)",
        "fitted range": f"{quantity(found.low_w, 'W')} to {quantity(found.high_w, 'W')}",
        "meter": f"{quantity(compared.meter_j, 'J')} in "
        f"{duration(compared.stop_s - compared.start_s)}",
        "before": f"{quantity(compared.before_j, 'J')} "
        f"({percent(compared.before_pct / 100, signed=True)})",
        "after": f"{quantity(compared.after_j, 'J')} "
        f"({percent(compared.after_pct / 100, signed=True)})",
    }
    for label, text in lines.items():
        echo(f"{label:15} {text}")
    for note in notes:
        echo(f"  {note}")
    echo(f"Values after ± are standard uncertainties (k = 1). Saved in {path}")
