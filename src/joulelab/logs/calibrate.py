"""From the logs of a sensor and of a meter to a calibration that can be kept."""

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
from joulelab.logs.columns import ColumnChoice
from joulelab.logs.csv_table import open_table
from joulelab.logs.power_log import LogOptions, Series, as_log, read_series
from joulelab.logs.time_column import choose_time
from joulelab.recording.trace import read_trace
from joulelab.recording.trace_spans import Window
from joulelab.sensors.calibration import Calibration
from joulelab.sensors.sensor import Quantity

METER_UNCERTAINTY = 0.01
"""Relative standard uncertainty of a meter of which nothing is said: shunt and Hall meters for
graphics cards are sold with 1 to 2 % of reading as their limits, rectangular, and their zero and
their taps on the rails add about as much."""


@dataclass(frozen=True, slots=True)
class Board:
    """Which board was calibrated.

    Attributes:
        name: Its model; may be empty.
        uuid: ``"GPU-..."``; may be empty.
        driver: Version of the driver; may be empty.
    """

    name: str = ""
    uuid: str = ""
    driver: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """Energy by the sensor and by the meter over one time.

    Attributes:
        start_s: On the logs' clock.
        stop_s: On the logs' clock.
        meter_j: By the meter.
        before_j: By the sensor as it reads.
        after_j: By the sensor as it is calibrated.
    """

    start_s: float
    stop_s: float
    meter_j: float
    before_j: float
    after_j: float

    @property
    def before_pct(self) -> float:
        """Error of the sensor as it reads, in percent of the meter."""
        return 100 * (self.before_j / self.meter_j - 1)

    @property
    def after_pct(self) -> float:
        """Error of the sensor as it is calibrated."""
        return 100 * (self.after_j / self.meter_j - 1)


def calibrate(
    sensor: Series,
    meter: Series,
    files: Sequence[Path],
    board: Board,
    meter_uncertainty: float = METER_UNCERTAINTY,
    clock_offset_s: float = 0.5,
) -> Calibration:
    """Fits a sensor to a meter.

    Args:
        sensor: Power by the sensor.
        meter: Power by the meter, on the same clock or nearly.
        files: Where both are from, the meter's last.
        board: Which board it is.
        meter_uncertainty: Relative standard uncertainty of the meter (k = 1).
        clock_offset_s: How far apart the two clocks may be.

    Raises:
        UserError: The logs do not fit each other; the message says why.
    """
    found = fit(sensor.t_s, sensor.value, _meter_log(meter), clock_offset_s)
    source = sensor.channel.source.partition(".calibrated-")[0]
    return Calibration(
        board_name=board.name,
        board_uuid=board.uuid or sensor.uuid,
        source=source,
        driver=board.driver,
        date=datetime.now(UTC).date().isoformat(),
        meter=files[-1].name,
        gain=found.gain,
        offset_w=found.offset_w,
        delay_s=found.delay_s,
        window_s=found.window_s if found.window_shown else None,
        update_period_s=found.update_period_s,
        gain_uncertainty=math.hypot(
            math.sqrt(found.covariance[0, 0]) / found.gain, meter_uncertainty
        ),
        offset_uncertainty_w=math.sqrt(found.covariance[1, 1]),
        delay_uncertainty_s=math.sqrt(found.covariance[2, 2]),
        covariance=found.covariance.tolist(),
        meter_uncertainty=meter_uncertainty,
        residual_w=found.residual_w,
        residual_pct=100 * found.residual_w / found.mean_power_w,
        low_w=found.low_w,
        high_w=found.high_w,
        files=[{"name": path.name, "sha256": _sha256(path)} for path in files if path.is_file()],
    )


def check(
    sensor: Series, meter: Series, calibration: Calibration, marks_s: Sequence[float] = ()
) -> Check:
    """Energy by the sensor and by the meter between the first and the last mark.

    Without marks: over all that both cover.

    Raises:
        UserError: The meter does not cover the marks.
    """
    log = _meter_log(meter)
    if len(marks_s) > 1:
        start_s, stop_s = min(marks_s), max(marks_s)
    else:
        start_s = max(float(log.time_s[0]), float(sensor.t_s[0]))
        stop_s = min(float(log.time_s[-1]), float(sensor.t_s[-1]))
    meter_j = log.energy(start_s, stop_s)
    if math.isnan(meter_j):
        raise UserError(
            "the meter's log does not cover the marks",
            why=f"it goes from {log.time_s[0]:.9g} to {log.time_s[-1]:.9g} s, the marks from "
            f"{start_s:.9g} to {stop_s:.9g} s",
        )
    raw = replace(sensor.channel, gain=1.0, offset_w=0.0)
    applied = calibration.apply(replace(raw, source=calibration.source))
    before_j, after_j = (
        _energy_j(replace(sensor, channel=channel), start_s, stop_s) for channel in (raw, applied)
    )
    return Check(start_s, stop_s, meter_j, before_j, after_j)


def read_one(path: Path, options: LogOptions, notes: list[str]) -> Series:
    """The one power series of a log.

    Raises:
        UserError: There are several, or it is no power.
    """
    found = read_series(path, options, notes)
    if len(found) > 1:
        devices = ", ".join(one.channel.component for one in found)
        raise UserError(f"{path} has several: {devices}", hint="choose one with --gpu")
    if found[0].channel.quantity is not Quantity.POWER:
        raise UserError(f"{path}: {found[0].column!r} is not power", hint="name a power column")
    return found[0]


def read_recording(directory: Path, source: str | None) -> Series:
    """A power channel of one of JouleLab's own traces, in seconds since 1970.

    Args:
        directory: Holds ``trace.bin``.
        source: As ``"nvml.samples"``; ``None``: the GPU's channel that is used first.

    Raises:
        UserError: It has no such channel, or several.
        TraceError: It is no trace.
    """
    trace = read_trace(directory)
    powers = {
        i: channel for i, channel in enumerate(trace.channels) if channel.quantity is Quantity.POWER
    }
    found = [
        i
        for i, channel in powers.items()
        if source in (None, channel.source, channel.source.partition(".calibrated-")[0])
        and (source is not None or channel.component.startswith("gpu"))
    ]
    if len({powers[i].component for i in found}) != 1:
        known = ", ".join(f"{one.component} {one.source}" for one in powers.values()) or "none"
        raise UserError(
            f"{directory} has not exactly one such power channel",
            why=f"its power channels are {known}",
            hint="record one GPU alone, or name its source with --column",
        )
    i = min(found, key=lambda position: powers[position].priority)
    t_ns, value = trace.series[i]
    header = trace.header
    t_s = (t_ns - header["start_ns"]) * 1e-9 + header["start_unix_s"]
    return Series(powers[i], t_s, value, header["intervals_s"][i], powers[i].source)


def read_marks(path: Path, timezone: str | None = None) -> list[float]:
    """The times in a CSV file with a time column.

    Raises:
        UserError: It cannot be read, or has no time column.
    """
    table = open_table(path)
    position, to_seconds, _ = choose_time(table, ColumnChoice(timezone=timezone))
    (t_s,), _ = table.read([(position, to_seconds)])
    times = t_s[np.isfinite(t_s)].tolist()
    if len(times) < 2:
        raise UserError(f"{path} has fewer than two marks")
    return [float(t) for t in times]


def _meter_log(meter: Series) -> MeterLog:
    return MeterLog.of_power(meter.t_s, meter.value)


def _energy_j(sensor: Series, start_s: float, stop_s: float) -> float:
    log = as_log([sensor])

    def nanoseconds(t_s: float) -> int:
        return round((t_s - log.origin_s) * 1e9)

    window = Window(nanoseconds(start_s), nanoseconds(stop_s))
    return energies_of(log.trace, [window])[0].gross_j


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
