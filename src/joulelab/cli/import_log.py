"""``joulelab import``: energy per span from logs of other tools."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click

from joulelab.cli.output import (
    SectionedCommand,
    SectionOption,
    output_console,
    print_json,
    progress,
    value_table,
    write_csv,
)
from joulelab.errors import UserError
from joulelab.format import duration, quantity, with_interval
from joulelab.logs.columns import LogOptions
from joulelab.logs.power_log import Log, read_logs
from joulelab.logs.span_energies import (
    ImportedSpan,
    energy_rows,
    idle_spans,
    read_spans,
    with_calibration,
)
from joulelab.sensors.calibration import read_calibration

Command = TypeVar("Command", bound=Callable[..., Any])

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
CSV_COLUMNS = (
    "name", "start_s", "stop_s", "duration_s", "gross_j", "low_j", "high_j", "idle_j", "net_j",
    "net_low_j", "net_high_j", "mean_power_w", "reason",
)  # fmt: skip


def parse_pairs(_: object, parameter: click.Parameter, texts: Sequence[str]) -> dict[str, str]:
    """Parse the values of an option that is given as ``OLD=NEW``, possibly several times."""
    pairs: dict[str, str] = {}
    for text in texts:
        old, equals, new = (part.strip() for part in text.partition("="))
        if not (equals and new) or pairs.get(old, new) != new:
            option = parameter.opts[0]
            raise UserError(f"{option} {text}: expected NAME=NAME, with each name only once")
        pairs[old] = new
    return pairs


def column_options(command: Command) -> Command:
    """Add the options that describe the columns of a log; they are fields of `LogOptions`."""
    option = partial(click.option, cls=SectionOption, section="Columns of the log")
    for add in (
        option("--devices", type=click.IntRange(min=1), metavar="N",
            help="Number of devices whose rows take turns, if no column names them; 1 for one."),
        option("--device-column", metavar="NAME",
            help="Column that distinguishes devices, by name or number."),
        option("--gpu", metavar="GPU", help="Read only this GPU, by its index or UUID in the log."),
        option("--component", metavar="NAME",
            help="Component to assign if the log does not name one: gpu:0, cpu:0 or dram:0."),
        option("--window", "window_s", type=click.FloatRange(min=0), metavar="SECONDS",
            help="Averaging window of each power value, ending at its timestamp."),
        option("--hold", is_flag=True,
            help="Each power applies until the next row, as in a log of changes."),
        option("--energy-kind", type=click.Choice(["counter", "interval"]),
            help="Whether energy counts from a fixed start, or since the previous row."),
        option("--energy-unit", metavar="UNIT",
            help="Unit of energy: J, mJ, uJ, kJ, mWh, Wh or kWh."),
        option("--energy-column", "energy_columns", multiple=True, metavar="NAME",
            help="Energy counter, by name or number; repeat the option to add up several."),
        option("--power-unit", metavar="UNIT", help="Unit of power: W, mW, uW or kW."),
        option("--power-column", "power_columns", multiple=True, metavar="NAME",
            help="Column of power, by name or number; repeat the option to add up several."),
        option("--timezone", metavar="ZONE",
            help="Time zone of dates without one, for example UTC. Default: this machine's."),
        option("--time-unit", metavar="UNIT", help="Unit of times: s, ms, us or ns."),
        option("--interval", "interval_s", type=click.FloatRange(min=0, min_open=True),
            metavar="SECONDS", help="Time between two readings of a log without times."),
        option("--time-column", metavar="NAME", help="Column of times, by name or number from 1."),
    ):  # fmt: skip
        command = add(command)
    return command


input_option = partial(click.option, cls=SectionOption, section="Input")


def power_options(command: Command) -> Command:
    """Add the options of :func:`read_power`, except for the log itself."""
    for add in (
        column_options,
        input_option("--gain-uncertainty", "gain_uncertainty_pct", type=click.FloatRange(0, 100),
            metavar="PERCENT", help="Standard uncertainty of the sensor's scale. Default: 6.5, "
            "that of GPUs."),
        input_option("--calibration", "calibration_file", type=FILE,
            help="Calibration of the sensor, from `joulelab calibrate --out`."),
    ):  # fmt: skip
        command = add(command)
    return command


def read_power(
    logs: Sequence[Path],
    calibration_file: Path | None,
    gain_uncertainty_pct: float | None,
    **columns: Any,
) -> tuple[Log, LogOptions]:
    """Read the logs of power, and return what the user stated about them, too."""
    gain_uncertainty = None if gain_uncertainty_pct is None else gain_uncertainty_pct / 100
    options = LogOptions(**columns, gain_uncertainty=gain_uncertainty)
    with progress("reading the log"):
        log = read_logs(logs, options)
    if calibration_file is not None:
        log = with_calibration(log, read_calibration(calibration_file))
    return log, options


def input_options(spans_help: str, *, spans_required: bool) -> Callable[[Command], Command]:
    """Create a decorator that adds the options of :func:`read_input`."""

    def decorate(command: Command) -> Command:
        for add in (
            power_options,
            input_option("--idle", metavar="NAME|START:STOP",
                help="Subtract the idle power in the spans of this name, or between two times."),
            input_option("--rename", "renamed", metavar="OLD=NEW", multiple=True,
                callback=parse_pairs,
                help="Read column OLD of the spans as NEW; may be repeated."),
            input_option("--spans", "spans_file", type=FILE, required=spans_required,
                help=spans_help),
            input_option("--power", "logs", type=FILE, multiple=True, required=True,
                help="Log of power or energy: CSV, plain or gzip; may be repeated."),
        ):  # fmt: skip
            command = add(command)
        return command

    return decorate


def read_input(
    spans_file: Path | None, renamed: Mapping[str, str], idle: str | None, **power: Any
) -> tuple[Log, list[ImportedSpan], list[ImportedSpan], LogOptions]:
    """Read the logs, the spans, the idle spans and the options of the columns."""
    spans = read_spans(spans_file, power["timezone"], renamed) if spans_file else None
    log, options = read_power(**power)
    if spans is None:
        runs = log.runs or (("whole log", log.start_s, log.stop_s),)
        spans = [ImportedSpan(*run) for run in runs]
    return log, spans, [] if idle is None else idle_spans(idle, spans), options


@click.command("import", cls=SectionedCommand)
@input_options(
    "CSV with name,start_s,stop_s on the log's clock. Default: the whole log.",
    spans_required=False,
)
@click.option("--csv", "csv_file", type=click.Path(dir_okay=False, path_type=Path),
    help="Also write the energies to this CSV file.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(csv_file: Path | None, as_json: bool, **inputs: Any) -> None:
    """Compute energy per span, with 95 % intervals, from logs of other tools.

    Reads what `nvidia-smi --query-gpu=timestamp,index,power.draw --format=csv -lms 50` writes, and
    any CSV with a time column and a column of power or of an energy counter.

    \b
    Example:
      joulelab import --power smi.csv
      joulelab import --power smi.csv --spans spans.csv --idle idle --json
    """
    log, spans, idle, _ = read_input(**inputs)
    with progress("computing energies"):
        rows = energy_rows(log, spans, idle)
    if csv_file is not None:
        others = [name for name in rows[0]["attributes"] if name not in CSV_COLUMNS]
        cells = [row | {name: row["attributes"][name] for name in others} for row in rows]
        write_csv(
            csv_file, [{name: row[name] for name in (*CSV_COLUMNS, *others)} for row in cells]
        )
    if as_json:
        for note in log.notes:
            click.echo(note, err=True)
        print_json(rows)
    else:
        _print(log, rows)


def _print(log: Log, rows: Sequence[Mapping[str, Any]]) -> None:
    has_net = any(row["net_j"] is not None for row in rows)
    headings = ["duration", "energy (95 % CI)", "mean power", *(["net energy"] if has_net else [])]
    table = value_table("span", headings)
    for row in rows:
        cells = [
            duration(row["duration_s"]),
            with_interval(row["gross_j"], row["low_j"], row["high_j"], "J", level=""),
            quantity(row["mean_power_w"], "W"),
        ]
        net = [quantity(row["net_j"], "J")] if has_net else []
        table.add_row(_name(row), *cells, *net)
    console = output_console()
    console.print(table)
    reasons = [f"{_name(row)}: {row['reason']}" for row in rows if row["reason"]]
    sources = [f"{one.component} from {one.source}: {one.note}" for one in log.trace.channels]
    for line in dict.fromkeys([*reasons, *sources, *log.notes]):
        console.print(f"  {line}")


def _name(row: Mapping[str, Any]) -> str:
    """Return the name of a row's span on one line."""
    return str(row["name"]).replace("\n", r"\n") or "(no name)"
