"""``joulelab import``: energy per span from logs of other tools."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click

from joulelab.cli.import_hosts import import_hosts, per_sample_text
from joulelab.cli.options import Command, with_options
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
from joulelab.logs.run_window import read_run_windows
from joulelab.logs.span_energies import (
    ImportedSpan,
    energy_rows,
    idle_spans,
    read_spans,
    with_calibration,
)
from joulelab.sensors.calibration import read_calibration

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


_column_option = partial(click.option, cls=SectionOption, section="Columns of the log")
input_option = partial(click.option, cls=SectionOption, section="Input")
fleet_option = partial(click.option, cls=SectionOption, section="Many hosts")

column_options = with_options(
    _column_option("--time-column", metavar="NAME",
        help="Column of times, by name or number from 1."),
    _column_option("--interval", "interval_s", type=click.FloatRange(min=0, min_open=True),
        metavar="SECONDS", help="Time between two readings of a log without times."),
    _column_option("--time-unit", metavar="UNIT", help="Unit of times: s, ms, us, ns, min or h."),
    _column_option("--timezone", metavar="ZONE",
        help="Time zone of dates without one, for example UTC. Default: this machine's."),
    _column_option("--power-column", "power_columns", multiple=True, metavar="NAME",
        help="Column of power, by name or number; repeat the option to add up several."),
    _column_option("--power-unit", metavar="UNIT", help="Unit of power: W, mW, uW or kW."),
    _column_option("--energy-column", "energy_columns", multiple=True, metavar="NAME",
        help="Energy counter, by name or number; repeat the option to add up several."),
    _column_option("--energy-unit", metavar="UNIT",
        help="Unit of energy: J, mJ, uJ, kJ, mWh, Wh or kWh."),
    _column_option("--energy-kind", type=click.Choice(["counter", "interval"]),
        help="Whether energy counts from a fixed start, or since the previous row."),
    _column_option("--hold", is_flag=True,
        help="Each power applies until the next row, as in a log of changes."),
    _column_option("--averaging-window", "window_s", type=click.FloatRange(min=0),
        metavar="SECONDS", help="Averaging window of each power value, ending at its timestamp."),
    _column_option("--component", metavar="NAME",
        help="Component to assign if the log does not name one: gpu:0, cpu:0 or dram:0."),
    _column_option("--gpu", metavar="GPU",
        help="Read only this GPU, by its index or UUID in the log."),
    _column_option("--device-column", metavar="NAME",
        help="Column that distinguishes devices, by name or number."),
    _column_option("--devices", type=click.IntRange(min=1), metavar="N",
        help="Number of devices whose rows take turns, if no column names them; 1 for one."),
)  # fmt: skip
"""What describes the columns of a log: fields of `LogOptions`."""


class RunLog(click.Path):
    """The log of a run that states when it was."""

    def __init__(self) -> None:
        super().__init__(exists=True, dir_okay=False, path_type=Path)

    def convert(self, value: Any, parameter: Any, context: Any) -> Any:
        """Check that it is a file."""
        if str(value).replace(".", "", 1).isdigit() and not Path(value).exists():
            raise UserError(
                f"--window {value}: there is no such file",
                hint="the averaging window of a sensor is --averaging-window SECONDS",
            )
        return super().convert(value, parameter, context)


power_options = with_options(
    input_option("--calibration", "calibration_file", type=FILE,
        help="Calibration of the sensor, from `joulelab calibrate --out`."),
    input_option("--gain-uncertainty", "gain_uncertainty_pct", type=click.FloatRange(0, 100),
        metavar="PERCENT", help="Standard uncertainty of the sensor's scale. Default: 6.5, that of "
        "GPUs."),
    column_options,
)  # fmt: skip
"""What :func:`read_power` needs, except for the log itself."""


def log_options(gain_uncertainty_pct: float | None, columns: Mapping[str, Any]) -> LogOptions:
    """Collect what the user states about logs."""
    gain_uncertainty = None if gain_uncertainty_pct is None else gain_uncertainty_pct / 100
    return LogOptions(**columns, gain_uncertainty=gain_uncertainty)


def read_power(
    logs: Sequence[Path],
    calibration_file: Path | None,
    gain_uncertainty_pct: float | None,
    **columns: Any,
) -> tuple[Log, LogOptions]:
    """Read the logs of power, and return what the user stated about them, too."""
    options = log_options(gain_uncertainty_pct, columns)
    with progress("reading the log"):
        log = read_logs(logs, options)
    if calibration_file is not None:
        log = with_calibration(log, read_calibration(calibration_file))
    return log, options


def input_options(
    spans_help: str, *, spans_required: bool, power_required: bool
) -> Callable[[Command], Command]:
    """Create a decorator that adds the options of :func:`read_input`."""
    return with_options(
        input_option("--power", "logs", type=FILE, multiple=True, required=power_required,
            help="Log of power or energy: CSV, plain or gzip; may be repeated."),
        input_option("--spans", "spans_file", type=FILE, required=spans_required, help=spans_help),
        input_option("--rename", "renamed", metavar="OLD=NEW", multiple=True, callback=parse_pairs,
            help="Read column OLD of the spans as NEW; may be repeated."),
        input_option("--idle", metavar="NAME|START:STOP",
            help="Subtract the idle power in the spans of this name, or between two times."),
        power_options,
    )  # fmt: skip


def read_windows(
    spans_file: Path | None,
    renamed: Mapping[str, str],
    window_file: Path | None,
    timezone: str | None,
) -> list[ImportedSpan]:
    """Read the spans, or the windows of the runs; none if neither is given."""
    if spans_file and window_file:
        raise UserError("--spans and --window cannot be combined", hint="give one of them")
    if window_file:
        return read_run_windows(window_file, timezone)
    return read_spans(spans_file, timezone, renamed) if spans_file else []


def read_input(
    spans_file: Path | None,
    renamed: Mapping[str, str],
    idle: str | None,
    window_file: Path | None = None,
    **power: Any,
) -> tuple[Log, list[ImportedSpan], list[ImportedSpan], LogOptions]:
    """Read the logs, the spans, the idle spans and the options of the columns."""
    spans = read_windows(spans_file, renamed, window_file, power["timezone"])
    log, options = read_power(**power)
    if not spans:
        runs = log.runs or (("whole log", log.start_s, log.stop_s),)
        spans = [ImportedSpan(*run) for run in runs]
    return log, spans, [] if idle is None else idle_spans(idle, spans), options


@click.command("import", cls=SectionedCommand)
@input_options(
    "CSV with name,start_s,stop_s on the log's clock. Default: the whole log.",
    spans_required=False,
    power_required=False,
)
@input_option("--window", "window_file", type=RunLog(),
    help="MLPerf log that states when the run was: a result file, or "
    "mlperf_log_detail.txt.")  # fmt: skip
@fleet_option("--dc", "dc_patterns", metavar="PATTERN", multiple=True,
    help="Logs behind the power supplies of these hosts: never added, but compared.")  # fmt: skip
@fleet_option("--hosts", "host_patterns", metavar="PATTERN", multiple=True,
    help="Logs of hosts, for example 'node_*.txt' (quoted): one file or directory for "
    "each.")  # fmt: skip
@click.option("--csv", "csv_file", type=click.Path(dir_okay=False, path_type=Path),
    help="Also write the energies to this CSV file.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    csv_file: Path | None,
    as_json: bool,
    host_patterns: tuple[str, ...],
    dc_patterns: tuple[str, ...],
    **inputs: Any,
) -> None:
    """Compute energy per span, with 95 % intervals, from logs of other tools.

    Reads what `nvidia-smi --query-gpu=timestamp,index,power.draw --format=csv -lms 50` writes, and
    any CSV with a time column and a column of power or of an energy counter.

    \b
    Example:
      joulelab import --power smi.csv
      joulelab import --power smi.csv --spans spans.csv --idle idle --json
      joulelab import --hosts 'logs/node_*.txt' --window result.txt
    """
    if host_patterns:
        refused = {"--power": "logs", "--idle": "idle", "--calibration": "calibration_file"}
        for option in (option for option, name in refused.items() if inputs.pop(name)):
            raise UserError(f"{option} and --hosts cannot be combined")
        spans_file, renamed, window_file = (
            inputs.pop(name) for name in ("spans_file", "renamed", "window_file")
        )
        spans = read_windows(spans_file, renamed, window_file, inputs["timezone"])
        options = log_options(inputs.pop("gain_uncertainty_pct"), inputs)
        import_hosts(host_patterns, dc_patterns, spans, options, csv_file, as_json)
        return
    if dc_patterns or not inputs["logs"]:
        missing = "'--hosts'" if dc_patterns else "'--power', or '--hosts' for many hosts"
        raise UserError(f"Missing option {missing}", hint="see `joulelab import --help`")
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
    reasons += [
        f"{_name(row)}: {per_sample_text(row)}" for row in rows if "gross_j_per_sample" in row
    ]
    for line in dict.fromkeys([*reasons, *sources, *log.notes]):
        console.print(f"  {line}")


def _name(row: Mapping[str, Any]) -> str:
    """Return the name of a row's span on one line."""
    return str(row["name"]).replace("\n", r"\n") or "(no name)"
