"""``joulelab account``: energy per span from logs that others recorded."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from joulelab.cli.import_study import StudyWish, make_study, study_options
from joulelab.cli.output import progress, write_csv
from joulelab.errors import UserError

if TYPE_CHECKING:
    from joulelab.energy.energy import Energy
    from joulelab.logs.power_log import Log, LogOptions
    from joulelab.logs.span_table import ForeignSpan

Command = TypeVar("Command", bound=Callable[..., Any])

EXISTING = click.Path(exists=True, dir_okay=False, path_type=Path)
CSV_COLUMNS = (
    "name", "start_s", "stop_s", "duration_s", "gross_j", "low_j", "high_j", "idle_j", "net_j",
    "net_low_j", "net_high_j", "mean_power_w", "reason",
)  # fmt: skip
WHOLE_LOG = "whole log"
TOLD_GAP = 0.05
"""Gaps are told where they are a larger share of a span."""


def column_options(command: Command) -> Command:
    """Options that say what a log's columns are; they become one argument ``options``."""
    for option in (
        click.option("--gpu", metavar="GPU", help="Only this GPU, by the log's index or UUID."),
        click.option("--component", metavar="NAME",
            help="What the power is of where the log does not tell: gpu:0, cpu:0 or dram:0."),
        click.option(
            "--timezone", metavar="ZONE", help="Of dates without one (UTC); default: here."
        ),
        click.option("--window", "window_s", type=click.FloatRange(min=0), metavar="SECONDS",
            help="What time before its stamp a power value is the mean of."),
        click.option("--energy-unit", metavar="UNIT", help="J, mJ, uJ, kJ, Wh or kWh."),
        click.option("--energy-column", "energy_columns", multiple=True, metavar="NAME",
            help="A counter of energy; name or number. May be repeated."),
        click.option("--power-unit", metavar="UNIT", help="W, mW, uW or kW."),
        click.option("--power-column", "power_columns", multiple=True, metavar="NAME",
            help="A column of power; name or number. Several are added up."),
        click.option("--time-unit", metavar="UNIT", help="s, ms, us or ns."),
        click.option("--time-column", metavar="NAME", help="Name, or number from 1."),
    ):  # fmt: skip
        command = option(command)
    return command


@click.command("account")
@click.option("--power", "logs", type=EXISTING, multiple=True, required=True,
    help="A log of power or energy, CSV, plain or gzip. May be repeated.")  # fmt: skip
@click.option("--spans", "spans_file", type=EXISTING,
    help="CSV with name,start_s,stop_s on the log's clock. Default: the whole log.")  # fmt: skip
@click.option("--idle", metavar="NAME|START:STOP",
    help="Where the machine was idle: spans of that name, or a time.")  # fmt: skip
@click.option("--calibration", "calibration_file", type=EXISTING,
    help="What `joulelab calibrate` found of this board.")  # fmt: skip
@click.option("--gain-uncertainty", "gain_uncertainty_pct", type=click.FloatRange(0, 100),
    metavar="PERCENT", help="Standard uncertainty of the scale. Default: a GPU's.")  # fmt: skip
@column_options
@click.option("--csv", "csv_file", type=click.Path(dir_okay=False, path_type=Path),
    help="Write the figures to this file too.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@study_options
def command(
    logs: tuple[Path, ...],
    spans_file: Path | None,
    idle: str | None,
    calibration_file: Path | None,
    gain_uncertainty_pct: float | None,
    csv_file: Path | None,
    as_json: bool,
    **further: Any,
) -> None:
    """Energy per span, with 95 % intervals, from logs that others recorded.

    Reads what `nvidia-smi --query-gpu=timestamp,index,power.draw --format=csv -lms 50` writes, and
    any CSV with a time column and a column of power or of an energy counter.

    \b
    Example:
      joulelab account --power smi.csv
      joulelab account --power smi.csv --spans spans.csv --idle idle --json
      joulelab account --power smi.csv --spans spans.csv --study recorded
    """
    from joulelab.logs.power_log import read_logs  # noqa: PLC0415
    from joulelab.logs.span_table import idle_spans, read_spans  # noqa: PLC0415

    wish = StudyWish.of(further)
    wish.check(spans_file, csv_file)
    options = log_options(further)
    if gain_uncertainty_pct is not None:
        options = replace(options, gain_uncertainty=gain_uncertainty_pct / 100)
    timezone = options.columns.timezone
    spans = read_spans(spans_file, timezone, wish.renames) if spans_file else []
    with progress("reading the log"):
        log = read_logs(logs, options)
    if calibration_file is not None:
        log = _calibrated(log, calibration_file)
    if not spans_file:
        spans = [_whole(log)]
    idle_at = idle_spans(idle, spans) if idle is not None else []
    if wish.directory is not None and spans_file is not None:
        make_study(wish, log, spans, idle_at, [spans_file, *logs], options.columns, as_json)
        return
    with progress("working out energies"):
        energies = account(log, spans, idle_at)
    rows = [_row(log, span, energy) for span, energy in zip(spans, energies, strict=True)]
    if csv_file is not None:
        _write_csv(csv_file, rows)
    if as_json:
        for note in log.notes:
            click.echo(note, err=True)
        click.echo(json.dumps(rows, indent=1))
    else:
        _print(log, rows)


def log_options(columns: dict[str, Any]) -> LogOptions:
    """What :func:`column_options` collected."""
    from joulelab.logs.columns import ColumnChoice  # noqa: PLC0415
    from joulelab.logs.power_log import LogOptions  # noqa: PLC0415

    further = {name: columns.pop(name) for name in ("window_s", "component")}
    return LogOptions(columns=ColumnChoice(**columns), **further)


def account(log: Log, spans: Sequence[ForeignSpan], idle_at: Sequence[ForeignSpan]) -> list[Energy]:
    """The energy of each span; net of idle where spans of idle are given.

    Raises:
        UserError: No span lies within the log.
    """
    from joulelab.energy.baseline import Baseline, IdlePoint  # noqa: PLC0415
    from joulelab.energy.estimator import energies_of  # noqa: PLC0415
    from joulelab.recording.trace_spans import Window  # noqa: PLC0415

    if all(_outside(log, span) for span in [*spans, *idle_at]):
        raise UserError(
            "no span lies within the log",
            why=f"the log goes from {log.start_s:.12g} to {log.stop_s:.12g} s, the spans from "
            f"{min(span.start_s for span in spans):.12g} to "
            f"{max(span.stop_s for span in spans):.12g} s",
            hint="put both on one clock",
        )

    def window(span: ForeignSpan) -> Window:
        return Window(
            round((span.start_s - log.origin_s) * 1e9), round((span.stop_s - log.origin_s) * 1e9)
        )

    windows = [window(span) for span in spans]
    idle_windows = [window(span) for span in idle_at]
    energies = energies_of(log.trace, [*windows, *idle_windows])
    points = [
        IdlePoint.from_energy(energy, (one.start_ns + one.stop_ns) * 0.5e-9)
        for one, energy in zip(idle_windows, energies[len(windows) :], strict=True)
        if energy.components
    ]
    if idle_at and not points:
        raise UserError("the log does not cover the time of idle")
    baseline = Baseline(tuple(points))
    return [
        baseline.subtract(energy, one.start_ns * 1e-9, one.stop_ns * 1e-9)
        for one, energy in zip(windows, energies, strict=False)
    ]


def _calibrated(log: Log, path: Path) -> Log:
    from joulelab.sensors.calibration import read_calibration  # noqa: PLC0415

    calibration = read_calibration(path)
    channels = log.trace.channels
    if not any(calibration.fits(channel) for channel in channels):
        sources = ", ".join(sorted({channel.source for channel in channels}))
        raise UserError(f"{path} calibrates {calibration.source}, the log has {sources}")
    applied = tuple(
        calibration.apply(channel) if calibration.fits(channel) else channel for channel in channels
    )
    return replace(log, trace=replace(log.trace, channels=applied))


def _whole(log: Log) -> ForeignSpan:
    from joulelab.logs.span_table import ForeignSpan  # noqa: PLC0415

    return ForeignSpan(WHOLE_LOG, log.start_s, log.stop_s)


def _outside(log: Log, span: ForeignSpan) -> bool:
    return span.stop_s < log.start_s or span.start_s > log.stop_s


def _row(log: Log, span: ForeignSpan, energy: Energy) -> dict[str, Any]:
    low_j, high_j = energy.interval_j if energy.components else (math.nan, math.nan)
    net_low_j, net_high_j = energy.net_interval_j if energy.components else (math.nan, math.nan)
    figures = {
        "gross_j": energy.gross_j,
        "low_j": low_j,
        "high_j": high_j,
        "idle_j": energy.idle_j,
        "net_j": energy.net_j,
        "net_low_j": net_low_j,
        "net_high_j": net_high_j,
        "mean_power_w": energy.mean_power_w if energy.duration_s > 0 else math.nan,
    }
    row: dict[str, Any] = {
        "name": span.name,
        "start_s": span.start_s,
        "stop_s": span.stop_s,
        "duration_s": span.stop_s - span.start_s,
    }
    row |= {key: None if math.isnan(value) else value for key, value in figures.items()}
    row["reason"] = _reason(log, span, energy)
    row["components"] = {name: part.to_json() for name, part in energy.components.items()}
    row["attributes"] = span.attributes
    return row


def _reason(log: Log, span: ForeignSpan, energy: Energy) -> str | None:
    """Why something is missing from a span's energy, or not known; ``None`` when nothing is."""
    if _outside(log, span):
        return f"outside the log, which goes from {log.start_s:.12g} to {log.stop_s:.12g} s"
    reasons = [f"{name}: {why}" for name, why in energy.absent.items()]
    reasons += [
        f"{name}: {part.gap_s:.3g} s of {part.duration_s:.3g} s without readings"
        for name, part in energy.components.items()
        if part.gap_s > TOLD_GAP * part.duration_s
    ]
    reasons += [
        note
        for note in energy.notes
        if any(note.startswith(f"{name}: ") for name in energy.components)
    ]
    return "; ".join(reasons) or None


def _write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    further = [key for key in rows[0]["attributes"] if key not in CSV_COLUMNS]
    named = [row | {key: row["attributes"][key] for key in further} for row in rows]
    write_csv(path, [{key: row[key] for key in (*CSV_COLUMNS, *further)} for row in named])


def _print(log: Log, rows: Sequence[dict[str, Any]]) -> None:
    from rich.console import Console  # noqa: PLC0415
    from rich.markup import escape  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    net = any(row["net_j"] is not None for row in rows)
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("span", overflow="fold")
    for heading in ("s", "J", "95 %", "W", *(["net J"] if net else [])):
        table.add_column(heading, justify="right")
    for row in rows:
        if row["gross_j"] is None:
            interval = ""
        else:
            interval = f"{_figure(row['low_j'])} to {_figure(row['high_j'])}"
        cells = [f"{row['duration_s']:.6g}", _figure(row["gross_j"]), interval]
        cells.append(_figure(row["mean_power_w"]))
        table.add_row(
            escape(_one_line(row["name"])), *cells, *([_figure(row["net_j"])] if net else [])
        )
    console = Console()
    console.print(table)
    reasons = [f"{_one_line(row['name'])}: {row['reason']}" for row in rows if row["reason"]]
    sources = [
        f"{channel.component} by {channel.source}: {channel.note}" for channel in log.trace.channels
    ]
    for line in dict.fromkeys([*reasons, *sources, *log.notes]):
        console.print(f"  {escape(line)}", highlight=False)


def _one_line(name: str) -> str:
    """A name as it is, with what cannot be seen of it spelt out."""
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in name) or "(no name)"


def _figure(value: float | None) -> str:
    """Four digits, never an exponent; ``-`` where there is none."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
