"""Calibration of a power sensor from its log and the log of an external meter."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from joulelab.energy.estimator import energies_of
from joulelab.errors import UserError
from joulelab.logs.calibration_fit import MeterLog, fit
from joulelab.logs.columns import LogOptions
from joulelab.logs.csv_table import open_table
from joulelab.logs.power_log import as_log, read_series
from joulelab.logs.series import Series
from joulelab.logs.time_column import choose_time
from joulelab.recording.trace import read_trace
from joulelab.sensors.calibration import Calibration
from joulelab.sensors.sensor import Quantity

METER_UNCERTAINTY = 0.01
"""Relative standard uncertainty of an unspecified meter: shunt and Hall meters for graphics cards
are sold with limits of 1 to 2 % of reading (rectangular), and their zero and their taps on the
rails add about as much."""


@dataclass(frozen=True, slots=True)
class Check:
    """Energy by the meter, and by the sensor before and after calibration, from start to stop."""

    start_s: float
    stop_s: float
    meter_j: float
    before_j: float
    after_j: float

    @property
    def before_pct(self) -> float:
        """Error of the uncalibrated sensor, in percent of the meter."""
        return 100 * (self.before_j / self.meter_j - 1)

    @property
    def after_pct(self) -> float:
        """Error of the calibrated sensor, in percent of the meter."""
        return 100 * (self.after_j / self.meter_j - 1)


def calibrate(
    sensor: Series,
    meter: Series,
    files: Sequence[Path],
    *,
    board_name: str = "",
    board_uuid: str = "",
    driver: str = "",
    meter_uncertainty: float = METER_UNCERTAINTY,
    clock_offset_s: float = 0.5,
) -> Calibration:
    """Fit a sensor to a meter; ``files`` are their logs, the meter's last."""
    found = fit(sensor.t_s, sensor.value, _meter_log(meter), clock_offset_s)
    gain_u, offset_u, delay_u = np.sqrt(np.diag(found.covariance)).tolist()
    return Calibration(
        board_name=board_name,
        board_uuid=board_uuid or sensor.uuid,
        source=_plain_source(sensor.channel.source),
        driver=driver,
        date=datetime.now(UTC).date().isoformat(),
        meter=files[-1].name,
        gain=found.gain,
        offset_w=found.offset_w,
        delay_s=found.delay_s,
        window_s=found.window_s if found.window_resolved else None,
        update_period_s=found.update_period_s,
        gain_uncertainty=math.hypot(gain_u / found.gain, meter_uncertainty),
        offset_uncertainty_w=offset_u,
        delay_uncertainty_s=delay_u,
        covariance=found.covariance.tolist(),
        meter_uncertainty=meter_uncertainty,
        residual_w=found.residual_w,
        residual_pct=100 * found.residual_w / found.mean_power_w,
        low_w=found.low_w,
        high_w=found.high_w,
        files=[
            {"name": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
            for path in files
            if path.is_file()
        ],
    )


def check(
    sensor: Series, meter: Series, calibration: Calibration, marks_s: Sequence[float] = ()
) -> Check:
    """Compare energy by sensor and meter from the first to the last mark, or where logs overlap."""
    meter_log = _meter_log(meter)
    if len(marks_s) > 1:
        start_s, stop_s = min(marks_s), max(marks_s)
    else:
        start_s = max(float(meter_log.time_s[0]), float(sensor.t_s[0]))
        stop_s = min(float(meter_log.time_s[-1]), float(sensor.t_s[-1]))
    meter_j = meter_log.energy(start_s, stop_s)
    if math.isnan(meter_j):
        raise UserError(
            "the meter's log does not cover the marks",
            why=f"it goes {meter_log.extent}, the marks from {start_s:.9g} to {stop_s:.9g} s",
        )
    raw = replace(sensor.channel, gain=1.0, offset_w=0.0)
    applied = calibration.apply(replace(raw, source=calibration.source))
    logs = (as_log([replace(sensor, channel=channel)]) for channel in (raw, applied))
    before_j, after_j = (
        energies_of(log.trace, [log.window(start_s, stop_s)])[0].gross_j for log in logs
    )
    return Check(start_s, stop_s, meter_j, before_j, after_j)


def read_one(path: Path, options: LogOptions, notes: list[str]) -> Series:
    """Read the only power series of a log; raise an error if there are several or none."""
    found = read_series(path, options, notes)
    if len(found) > 1:
        devices = ", ".join(one.channel.component for one in found)
        raise UserError(f"{path} has several: {devices}", hint="choose one with --gpu")
    if found[0].channel.quantity is not Quantity.POWER:
        raise UserError(f"{path}: {found[0].column!r} is not power", hint="name a power column")
    return found[0]


def read_recording(directory: Path, source: str | None, component: str | None = None) -> Series:
    """Read a power channel, in seconds since 1970.

    Args:
        directory: The recording.
        source: Its source; by default the preferred one of its component.
        component: Its component; by default the only GPU.
    """
    trace = read_trace(directory)
    powers = {i: one for i, one in enumerate(trace.channels) if one.quantity is Quantity.POWER}
    if source is not None:
        names = {i: (one.source, _plain_source(one.source)) for i, one in powers.items()}
        found = [i for i, known in names.items() if source in known]
    elif component is not None:
        found = [i for i, one in powers.items() if one.component == component]
    else:
        found = [i for i, one in powers.items() if one.component.startswith("gpu")]
    if len({powers[i].component for i in found}) != 1:
        known = ", ".join(f"{one.component} {one.source}" for one in powers.values()) or "none"
        hint = "record one GPU alone, or name its source with --column"
        raise UserError(
            f"{directory} does not have exactly one such power channel",
            why=f"its power channels are {known}",
            hint=hint if component is None else "name one of these components with --meter",
        )
    i = min(found, key=lambda position: powers[position].priority)
    t_ns, value = trace.series[i]
    header = trace.header
    t_s = (t_ns - header["start_ns"]) * 1e-9 + header["start_unix_s"]
    uuids = header.get("gpus", {}).get(powers[i].component, ())
    uuid = str(uuids[0]) if len(uuids) == 1 else ""
    return Series(powers[i], t_s, value, header["intervals_s"][i], powers[i].source, uuid)


def read_marks(path: Path, timezone: str | None = None) -> list[float]:
    """Read the times in a CSV file with a time column; at least two."""
    table = open_table(path)
    position, to_seconds, _ = choose_time(table, LogOptions(timezone=timezone))
    (t_s,), _ = table.read([(position, to_seconds)])
    times = t_s[np.isfinite(t_s)].tolist()
    if len(times) < 2:
        raise UserError(f"{path} has fewer than two marks")
    return [float(t) for t in times]


def _meter_log(meter: Series) -> MeterLog:
    return MeterLog.of_power(meter.t_s, meter.value)


def _plain_source(source: str) -> str:
    """Return the source of a channel without the label of an earlier calibration."""
    return source.partition(".calibrated-")[0]
