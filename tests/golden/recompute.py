"""Recompute the golden energies.

This is the only module of the corpus that imports JouleLab. When modules, functions or fields of
JouleLab are renamed, adapt the imports and the attribute names here, and leave the names in the
returned dictionaries as they are: the expected values were written with them.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from joulelab.cli.app import main
from joulelab.energy.baseline import Baseline, IdlePoint
from joulelab.energy.energy import ComponentEnergy, Energy, total
from joulelab.energy.estimator import EnergyEstimator, energies_of, energy_of_spans
from joulelab.findings.tables import StudyTables
from joulelab.logs.calibrate import calibrate, check, read_marks, read_one
from joulelab.logs.columns import LogOptions
from joulelab.logs.power_log import (
    Log,
    as_log,
    assign_power_to_gpu,
    read_logs,
    with_telemetry,
)
from joulelab.logs.series import Series
from joulelab.logs.span_energies import idle_spans, read_spans
from joulelab.recording.trace import Readings, Trace, read_trace
from joulelab.recording.trace_spans import TraceSpan, Window
from joulelab.runs.record import read_run
from joulelab.sensors.calibration import Calibration
from joulelab.sensors.sensor import Channel, Provenance, Quantity

TESTS = Path(__file__).parents[1]
"""Paths in ``cases.json`` are relative to this directory."""

Case = Mapping[str, Any]


def recompute(case: Case) -> dict[str, Any]:
    """Recompute the values of one case of ``cases.json``.

    Args:
        case: The case: its ``kind`` selects the function below, the other entries are its input.

    Returns:
        Plain values. What is not known is ``None``.
    """
    kinds = {
        "trace": _trace,
        "thinned": _thinned,
        "logs": _logs,
        "calibration": _calibration,
        "job": _job,
        "study": _study,
        "command": _command,
    }
    with _clean_environment():
        return _plain(kinds[case["kind"]](case))


# Recordings.


def _trace(case: Case) -> dict[str, Any]:
    """Every finished span of a trace directory, sums by name, and the baseline."""
    directory = TESTS / case["directory"]
    trace = read_trace(directory)
    baseline = _baseline(trace, directory, case)
    found = trace.spans
    spans = [span for span in found if span.stop_ns is not None]
    accounts = EnergyEstimator(trace, baseline)
    energies = accounts.energies([span.window for span in spans])
    by_name: dict[str, list[int]] = {}
    for i, span in enumerate(spans):
        by_name.setdefault(span.name, []).append(i)
    chosen = range(0, len(spans), case.get("every", 1))
    return {
        "readings": [one.t_ns.size for one in trace.series],
        "open_spans": [span.name for span in found if span.stop_ns is None],
        "sources": {name: channel.source for name, channel in accounts.sources.items()},
        "baseline": _points(baseline),
        "spans": [{"name": spans[i].name} | _energy(energies[i]) for i in chosen],
        "sums": [
            {"name": name} | _energy(total([energies[i] for i in members]))
            for name, members in by_name.items()
        ],
        "column_sums": [
            {"name": name} | _energy(accounts.total([spans[i].window for i in members]))
            for name, members in by_name.items()
        ],
        "unions": [
            {"name": name} | _energy(energy_of_spans(accounts, _of_two_processes(spans, members)))
            for name, members in by_name.items()
        ],
    }


def _of_two_processes(spans: Sequence[TraceSpan], members: Sequence[int]) -> list[TraceSpan]:
    """The spans, and each again as a second process marked it 5 ms earlier."""
    own = [spans[i] for i in members]
    others = [
        one._replace(
            key=(one.key[0] + 1, one.key[1]),
            start_ns=one.start_ns - 5_000_000,
            stop_ns=(one.stop_ns or 0) - 5_000_000,
        )
        for one in own
    ]
    return own + others


def _baseline(trace: Trace, directory: Path, case: Case) -> Baseline | None:
    """The baseline that was saved, or the one measured in the spans named by ``idle``."""
    saved = directory / "baseline.json"
    if saved.exists():
        return Baseline.from_json(json.loads(saved.read_text()))
    if "idle" not in case:
        return None
    windows = [
        span.window
        for span in trace.spans
        if span.name == case["idle"] and span.stop_ns is not None
    ]
    return _measured_baseline(windows, EnergyEstimator(trace).energies(windows))


def _measured_baseline(windows: Sequence[Window], energies: Sequence[Energy]) -> Baseline:
    points = [
        IdlePoint.from_energy(energy, (one.start_ns + one.stop_ns) * 0.5e-9)
        for one, energy in zip(windows, energies, strict=True)
        if energy.components
    ]
    return Baseline(tuple(points))


def _thinned(case: Case) -> dict[str, Any]:
    """A recording that is long enough to be thinned: 140,000 readings, made here with integers."""
    k = np.arange(140_000, dtype=np.int64)
    t_ns = 10**9 + k * 20_000_000 + k * 7919 % 4_000_000
    busy = k // 350 % 3 + (k * 104_729 % 1000 < 40)
    power_w = (80_000 + 130_000 * busy + k * 15_485_863 % 9_001) / 1000
    power_w[70_000:70_400] = np.nan
    counter_w = np.where(np.isnan(power_w), 200.0, power_w)
    ring = Channel(
        component="gpu:0",
        quantity=Quantity.POWER,
        source="nvml.samples",
        provenance=Provenance.MEASURED,
        update_period_s=0.02,
        window_s=0.02,
        time_uncertainty_s=0.0015,
        gain_uncertainty=0.05,
    )
    counter = Channel(
        component="gpu:0",
        quantity=Quantity.ENERGY,
        source="nvml.energy_counter",
        provenance=Provenance.MEASURED,
        update_period_s=0.1,
        polled=True,
        resolution=0.001,
        gain_uncertainty=0.05,
        priority=1,
    )
    counted_j = np.round(np.cumsum(counter_w) * 0.02 * 1.004, 3)
    polls = slice(0, None, 50)
    series = (Readings(t_ns, power_w), Readings(t_ns[polls], counted_j[polls]))
    channels = (ring, counter) if case["counter"] else (ring,)
    header = {"intervals_s": [0.5, 1.0][: len(channels)]}
    trace = Trace(channels, series[: len(channels)], header=header)
    windows = [
        Window(10**9 * start, 10**9 * start + round(length_s * 1e9))
        for start, length_s in ((5, 0.3), (9, 20.7), (100, 1000.0), (1395, 15.0), (2, 2790.0))
    ]
    return {"spans": [_energy(energy) for energy in energies_of(trace, windows)]}


# Imported logs.


def _logs(case: Case) -> dict[str, Any]:
    """Every span of a table over logs that another program recorded."""
    options = _log_options(case)
    paths = [TESTS / path for path in case["power"]]
    log = read_logs(paths, options)
    if "telemetry" in case:
        further = [TESTS / path for path in case["telemetry"]]
        log = with_telemetry(assign_power_to_gpu(log), further, LogOptions(), required=True)
    spans = read_spans(TESTS / case["spans"], options.timezone)
    idle_at = idle_spans(case["idle"], spans) if "idle" in case else []
    windows = [_log_window(log, span.start_s, span.stop_s) for span in spans]
    idle_windows = [_log_window(log, span.start_s, span.stop_s) for span in idle_at]
    energies = energies_of(log.trace, [*windows, *idle_windows])
    baseline = _measured_baseline(idle_windows, energies[len(windows) :])
    chosen = range(0, len(spans), case.get("every", 1))
    return {
        "channels": [_channel(channel) for channel in log.trace.channels],
        "readings": [one.t_ns.size for one in log.trace.series],
        "baseline": _points(baseline),
        "spans": [
            {"name": spans[i].name}
            | _energy(
                baseline.subtract(
                    energies[i], windows[i].start_ns * 1e-9, windows[i].stop_ns * 1e-9
                )
            )
            for i in chosen
        ],
    }


def _log_options(case: Case) -> LogOptions:
    choice = dict(case.get("columns", {}))
    if "timezone" not in choice:
        choice["timezone"] = "UTC"
    return LogOptions(**choice, **case.get("options", {}))


def _log_window(log: Log, start_s: float, stop_s: float) -> Window:
    return Window(round((start_s - log.origin_s) * 1e9), round((stop_s - log.origin_s) * 1e9))


def _channel(channel: Channel) -> dict[str, Any]:
    return {
        "component": channel.component,
        "quantity": channel.quantity.value,
        "source": channel.source,
        "update_period_s": channel.update_period_s,
        "window_s": channel.window_s,
        "delay_s": channel.delay_s,
        "polled": channel.polled,
        "time_uncertainty_s": channel.time_uncertainty_s,
        "gain_uncertainty": channel.gain_uncertainty,
    }


# External meters.


def _calibration(case: Case) -> dict[str, Any]:
    """A sensor fitted to an external meter, and energies with that calibration."""
    sensor = _sensor(case["sensor"], case["column"])
    meter = read_one(TESTS / case["meter"], LogOptions(), [])
    files = [TESTS / case["sensor"], TESTS / case["meter"]]
    found = calibrate(
        sensor, meter, files, board_name="a board", board_uuid="GPU-a", driver="530.30"
    )
    other = _sensor(case["check"]["sensor"], case["column"])
    other_meter = read_one(TESTS / case["check"]["meter"], LogOptions(), [])
    marks_s = read_marks(TESTS / case["check"]["marks"])
    seen = check(other, other_meter, found, marks_s)
    middle_s = (seen.start_s + seen.stop_s) / 2
    bounds = [(seen.start_s, seen.stop_s), (seen.start_s, middle_s), (middle_s, middle_s + 0.37)]
    return {
        "calibration": {
            name: getattr(found, name)
            for name in (
                "gain", "offset_w", "delay_s", "window_s", "update_period_s", "gain_uncertainty",
                "offset_uncertainty_w", "delay_uncertainty_s", "covariance", "meter_uncertainty",
                "residual_w", "residual_pct", "low_w", "high_w",
            )
        },
        "check": {
            "meter_j": seen.meter_j,
            "before_j": seen.before_j,
            "after_j": seen.after_j,
            "before_pct": seen.before_pct,
            "after_pct": seen.after_pct,
        },
        "before": _calibrated_spans(other, None, bounds),
        "after": _calibrated_spans(other, found, bounds),
    }  # fmt: skip


def _sensor(path: str, column: str) -> Series:
    options = LogOptions(power_columns=[column])
    return read_one(TESTS / path, options, [])


def _calibrated_spans(
    sensor: Series, calibration: Calibration | None, bounds: Sequence[tuple[float, float]]
) -> list[dict[str, Any]]:
    if calibration is not None:
        # The name of a calibrated source holds today's date.
        dated = replace(calibration, date="2026-11-29")
        sensor = replace(sensor, channel=dated.apply(sensor.channel))
    log = as_log([sensor])
    windows = [_log_window(log, *one) for one in bounds]
    return [_energy(energy) for energy in energies_of(log.trace, windows)]


# Records.


def _job(case: Case) -> dict[str, Any]:
    """What the record of a wrapped command reads as."""
    job = read_run(TESTS / case["directory"])
    then = {"experiment": "experimentation", "train": "training", "infer": "inference"}
    return {
        "command": list(job.command),
        "name": job.name,
        "project": job.project,
        "phase": then.get(job.phase, job.phase),
        "tags": dict(job.tags),
        "started_unix_s": job.started_unix_s,
        "ended_unix_s": job.ended_unix_s,
        "duration_s": job.duration_s,
        "finished": job.finished,
        "exit_code": job.exit_code,
        "signal": job.signal,
        "energy": _energy(job.energy),
        "spans": [
            {
                "name": span.name,
                "count": span.count,
                "duration_s": span.duration_s,
                "gross_j": span.gross_j,
                "interval_j": [span.low_j, span.high_j],
                "net_j": span.net_j,
            }
            for span in job.spans
        ],
    }


def _study(case: Case) -> dict[str, Any]:
    """The tables of a study directory."""
    data = StudyTables.read([TESTS / case["directory"]])
    runs = (
        "run_id", "model", "phase", "batch_size", "repeat", "epochs", "samples", "steps",
        "duration_s", "gross_j", "idle_j", "net_j", "gross_low_j", "gross_high_j", "net_low_j",
        "net_high_j", "gpu_j", "cpu_j", "dram_j", "provenance", "mean_power_w", "idle_power_w",
        "gross_j_per_sample", "net_j_per_sample", "gross_correlated_uncertainty_j",
        "gross_independent_uncertainty_j", "net_correlated_uncertainty_j",
        "net_independent_uncertainty_j", "gap_s", "accuracy_pct", "parameters", "macs",
    )  # fmt: skip
    return {
        "runs": _rows(data.runs, runs),
        "epochs": _rows(
            data.epochs, ("run_id", "phase", "epoch", "duration_s", "gross_j", "net_j", "samples")
        ),
        "idle": _rows(data.idle, ("run_id", "component", "duration_s", "power_w", "uncertainty_w")),
    }


def _rows(table: Any, columns: Sequence[str]) -> list[dict[str, Any]]:
    text = table[list(columns)].to_json(orient="records", double_precision=15)
    exact = {name: table[name].tolist() for name in columns}
    rows: list[dict[str, Any]] = json.loads(text)
    for i, row in enumerate(rows):
        for name, value in row.items():
            if isinstance(value, float):
                row[name] = float(exact[name][i])
    return sorted(rows, key=lambda row: [str(row[name]) for name in columns[:3]])


# Commands.

_LEDGER = (
    "key", "records", "unfinished", "unmeasured", "duration_s", "gross_j", "gross_low_j",
    "gross_high_j", "carbon_g", "carbon_low_g", "carbon_high_g", "price_eur", "price_low_eur",
    "price_high_eur", "share", "share_low", "share_high",
)  # fmt: skip
_EFFECT = {
    "a": "baseline_mean", "b": "candidate_mean", "n_a": "n_baseline", "n_b": "n_candidate",
    "ratio": "ratio", "ratio_interval": "ratio_interval", "difference": "difference",
    "difference_interval": "difference_interval", "p": "p", "detectable_ratio": "detectable_ratio",
    "shown": "significant",
}  # fmt: skip
"""Names in the expected values, and today's."""
_PHASES = {"train": "training", "infer": "inference", "experiment": "experimentation"}
_FORECAST = (
    "epochs", "gross_j", "gross_low_j", "gross_high_j", "duration_s", "duration_low_s",
    "duration_high_s", "net_j", "net_low_j", "net_high_j", "spent_fraction", "uncertainty",
    "startup", "carbon_g", "carbon_low_g", "carbon_high_g",
)  # fmt: skip
_ACCOUNT = (
    "name", "duration_s", "gross_j", "low_j", "high_j", "idle_j", "net_j", "net_low_j",
    "net_high_j", "mean_power_w",
)  # fmt: skip


def _command(case: Case) -> dict[str, Any]:
    """The figures in the JSON that a command prints."""
    arguments = [str(TESTS / one[1:]) if one[:1] == "@" else one for one in case["arguments"]]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(io.StringIO()):
        try:
            main(arguments)
        except SystemExit as stop:
            if stop.code:
                raise ValueError(f"{' '.join(arguments)} exited with {stop.code}") from stop
    found = json.loads(printed.getvalue())
    match arguments[0]:
        case "ledger":
            return {
                "total": _chosen(found["total"], _LEDGER),
                "rows": [
                    _chosen(row | {"key": _PHASES.get(row["key"], row["key"])}, _LEDGER)
                    for row in found["rows"]
                ],
            }
        case "compare":
            return {
                "effect": _effect(found["effect"]),
                "cells": [_effect(cell) for cell in found["cells"]],
            }
        case "forecast":
            return _chosen(found, _FORECAST)
        case _:
            return {"rows": [_chosen(row, _ACCOUNT) for row in found]}


def _effect(row: Mapping[str, Any]) -> dict[str, Any]:
    return {old: row[new] for old, new in _EFFECT.items()}


def _chosen(row: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: row[name] for name in names if name in row}


# Energies as plain values.


def _energy(energy: Energy) -> dict[str, Any]:
    return {
        "duration_s": energy.duration_s,
        "gross_j": energy.gross_j,
        "idle_j": energy.idle_j,
        "net_j": energy.net_j,
        "mean_power_w": energy.mean_power_w,
        "interval_j": energy.interval_j if energy.components else None,
        "net_interval_j": energy.net_interval_j if energy.components else None,
        "job_j": energy.job_j,
        "job_interval_j": energy.job_interval_j if energy.components else None,
        "gap_s": energy.gap_s,
        "provenance": energy.provenance.value,
        "notes": len(energy.notes),
        "absent": sorted(energy.absent),
        "components": {name: _component(part) for name, part in energy.components.items()},
    }


def _component(part: ComponentEnergy) -> dict[str, Any]:
    share = part.share
    return {
        "source": part.source,
        "provenance": part.provenance.value,
        "duration_s": part.duration_s,
        "gross_j": part.gross_j,
        "idle_j": part.idle_j,
        "net_j": part.net_j,
        "interval_j": part.interval_j,
        "net_interval_j": part.net_interval_j,
        "gain_uncertainty": part.gain_uncertainty,
        "offset_uncertainty_w": part.offset_uncertainty_w,
        "edge_uncertainty_j": part.edge_uncertainty_j,
        "idle_uncertainty_j": part.idle_uncertainty_j,
        "gap_s": part.gap_s,
        "share": None if share is None else [share.fraction, share.low, share.high],
        "job_j": part.job_j,
        "job_interval_j": part.job_interval_j,
    }


def _points(baseline: Baseline | None) -> list[dict[str, Any]] | None:
    if baseline is None:
        return None
    return [
        {
            "time_s": point.time_s,
            "duration_s": point.duration_s,
            "power_w": dict(point.power_w),
            "uncertainty_w": dict(point.uncertainty_w),
            "source": dict(point.source),
        }
        for point in baseline.points
    ]


def _plain(value: Any) -> Any:
    """Lists, dictionaries, text and numbers; NaN becomes ``None``."""
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and math.isnan(value) else value


@contextlib.contextmanager
def _clean_environment() -> Iterator[None]:
    """Run without the settings, baselines and calibrations of the user who runs the tests."""
    before = dict(os.environ)
    with tempfile.TemporaryDirectory() as home:
        for name in before:
            if name.startswith("JOULELAB_"):
                del os.environ[name]
        os.environ["JOULELAB_HOME"] = home
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)
