"""What is known of a board's sensor from an external meter: kept on disk, applied to channels.

A reading stands for ``gain * true + offset_w``. The fit is in
:mod:`joulelab.logs.calibration_fit`; this module is small since the recorder imports it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from joulelab.errors import UserError
from joulelab.sensors.sensor import Absence, Channel, Quantity
from joulelab.storage import home, write_whole

SCHEMA = "joulelab-calibration-1"
TRANSFER_UNCERTAINTY = 0.01
"""Relative standard uncertainty added where one source's calibration is used for another source
of the same board: on an H100, samples, fields and counter agree within 1 to 3 % on spans of 2 s,
rectangular with a half-width of 2 %."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """One source of one board against a meter.

    Attributes:
        board_name: The model, as ``"NVIDIA H100 80GB HBM3"``; may be empty.
        board_uuid: ``"GPU-..."``; empty when it is not known, and then it is never applied by
            itself.
        source: The channel's source that was calibrated, as ``"nvml.power_instant"``.
        driver: Its version; empty when it is not known.
        date: Of the fit, ``YYYY-MM-DD``.
        meter: What it was held against, in words.
        gain: Reading over true power.
        offset_w: Reading where true power is zero.
        delay_s: From the end of a value's window until it was readable, and whatever the two logs'
            clocks were apart.
        window_s: Of the average that a value stands for; ``None`` where the data did not show it.
        update_period_s: Time between two new values.
        gain_uncertainty: Standard uncertainty of ``gain`` (k = 1, relative), the meter's included.
        offset_uncertainty_w: Standard uncertainty of ``offset_w``.
        delay_uncertainty_s: Standard uncertainty of ``delay_s``.
        covariance: Of gain, offset (W) and delay (s) from the fit alone. Shape: (3, 3).
        meter_uncertainty: Relative standard uncertainty of the meter.
        residual_w: Root mean square of what the fit leaves.
        residual_pct: The same, in percent of mean power.
        low_w: Lowest true power that was fitted (5th percentile).
        high_w: Highest (95th percentile).
        files: Name and SHA-256 of each file that it is from.
    """

    board_name: str
    board_uuid: str
    source: str
    driver: str
    date: str
    meter: str
    gain: float
    offset_w: float
    delay_s: float
    window_s: float | None
    update_period_s: float
    gain_uncertainty: float
    offset_uncertainty_w: float
    delay_uncertainty_s: float
    covariance: Sequence[Sequence[float]]
    meter_uncertainty: float
    residual_w: float
    residual_pct: float
    low_w: float
    high_w: float
    files: Sequence[dict[str, str]]

    @property
    def label(self) -> str:
        """What is added to the name of a calibrated source: energies of unlike scales differ."""
        return f"calibrated-{self.date}"

    @property
    def clocks_agreed(self) -> bool:
        """Whether the delay is short enough to be the sensor's own.

        A longer one than the window and two updates is an offset between the clocks of the two
        logs, which says nothing of other recordings.
        """
        return abs(self.delay_s) <= (self.window_s or 0.0) + 2 * self.update_period_s

    def apply(self, channel: Channel) -> Channel:
        """The channel as this calibration knows it.

        Gain and offset apply to every source of the same family (``nvml``) since they read one
        sensor of the board, less surely where it is another source. Window, delay and update
        period apply to the source itself.

        Raises:
            ValueError: The channel is not of the same family, or not of energy or power.
        """
        if not self.fits(channel):
            raise ValueError(f"a calibration of {self.source} says nothing of {channel.source}")
        own = channel.source == self.source
        transfer = 0.0 if own else TRANSFER_UNCERTAINTY
        against = f" against {self.meter}" if self.meter else ""
        said = f"calibrated on {self.date}{against}" + ("" if own else f" (by {self.source})")
        channel = replace(
            channel,
            source=f"{channel.source}.{self.label}",
            gain=self.gain,
            offset_w=self.offset_w,
            gain_uncertainty=math.hypot(self.gain_uncertainty, transfer),
            offset_uncertainty_w=self.offset_uncertainty_w,
            note="; ".join(filter(None, (channel.note, said))),
        )
        if not own or channel.quantity is not Quantity.POWER:
            return channel
        return replace(
            channel,
            update_period_s=self.update_period_s if channel.polled else channel.update_period_s,
            window_s=channel.window_s if self.window_s is None else self.window_s,
            delay_s=self.delay_s if self.clocks_agreed else channel.delay_s,
            time_uncertainty_s=max(channel.time_uncertainty_s, self.delay_uncertainty_s),
        )

    def fits(self, channel: Channel) -> bool:
        """Whether it says something of this channel."""
        family = channel.source.partition(".")[0]
        return channel.gives_energy and family == self.source.partition(".")[0]

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary; :meth:`from_json` is its inverse."""
        return {"schema": SCHEMA, **asdict(self)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Calibration:
        """What :meth:`to_json` wrote.

        Raises:
            ValueError: It is not that.
        """
        if not isinstance(data, dict) or data.get("schema") != SCHEMA:
            raise ValueError(f"it does not name the schema {SCHEMA}")
        known = {key: value for key, value in data.items() if key != "schema"}
        try:
            calibration = cls(**known)
            numbers = (
                calibration.gain,
                calibration.offset_w,
                calibration.delay_s,
                calibration.update_period_s,
                calibration.gain_uncertainty,
                calibration.offset_uncertainty_w,
                calibration.delay_uncertainty_s,
            )
            if not all(math.isfinite(value) for value in numbers) or calibration.gain <= 0:
                raise ValueError("its gain, offset, delay or period is not a number that can be")
        except TypeError as error:
            raise ValueError(str(error)) from error
        return calibration


def calibrations_directory() -> Path:
    """Where :func:`keep` writes. It may not exist yet."""
    return home() / "calibrations"


def keep(calibration: Calibration) -> Path:
    """Keeps a calibration, so that it is used from now on for its board; an older one is replaced.

    Raises:
        OSError: The file cannot be written.
    """
    name = re.sub(r"[^\w.-]", "_", f"{calibration.board_uuid}.{calibration.source}.json")
    path = calibrations_directory() / name
    path.parent.mkdir(parents=True, exist_ok=True)
    write_calibration(path, calibration)
    return path


def write_calibration(path: Path, calibration: Calibration) -> None:
    """Writes a calibration to a file of one's choice."""
    write_whole(path, json.dumps(calibration.to_json(), indent=1).encode() + b"\n")


def read_calibration(path: Path) -> Calibration:
    """The calibration in a file.

    Raises:
        UserError: It cannot be read, or is not one.
    """
    try:
        return Calibration.from_json(json.loads(path.read_bytes()))
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise UserError(f"cannot read the calibration {path}", why=why) from error
    except ValueError as error:
        raise UserError(f"{path} is not a calibration", why=str(error)) from error


def calibrated(
    channels: Sequence[Channel], board_uuid: str
) -> tuple[tuple[Channel, ...], list[Absence]]:
    """A board's channels with what is kept of it.

    A source's own calibration goes first; otherwise that of another source of the board with the
    smallest uncertainty is used.

    Returns:
        The channels, and the calibrations that could not be read, as absences.
    """
    kept: list[Calibration] = []
    absent: list[Absence] = []
    for path in sorted(calibrations_directory().glob("*.json")):
        try:
            calibration = read_calibration(path)
        except UserError as error:
            absent.append(Absence("calibration", path.name, str(error), f"hint or remove {path}"))
            continue
        if calibration.board_uuid == board_uuid:
            kept.append(calibration)
    return tuple(_with_best(channel, kept) for channel in channels), absent


def _with_best(channel: Channel, kept: Sequence[Calibration]) -> Channel:
    fitting = [one for one in kept if one.fits(channel)]
    if not fitting:
        return channel
    best = min(fitting, key=lambda one: (one.source != channel.source, one.gain_uncertainty))
    return best.apply(channel)
