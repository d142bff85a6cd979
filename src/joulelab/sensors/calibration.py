"""Calibrations of a board's sensor against an external meter: saved, and applied to channels.

A reading is ``gain * true + offset_w``. This module is small, since the recorder imports it; logs
are fitted elsewhere.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from joulelab.errors import UserError
from joulelab.sensors.sensor import Absence, Channel, Quantity
from joulelab.storage import home, make_private_directories, read_whole, write_whole
from joulelab.validation import (
    Delay,
    Finite,
    Gain,
    InvalidData,
    NotNegative,
    Period,
    Seconds,
    decode,
)

SCHEMA = "joulelab-calibration-1"
TRANSFER_UNCERTAINTY = 0.01
"""Relative standard uncertainty added if one source's calibration is used for another source of the
same board: on an H100, samples, fields and counter agree within 1 to 3 % on spans of 2 s,
rectangular with a half-width of 2 %."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """One source of one board, compared with a meter."""

    board_name: str  # The model, for example ``"NVIDIA H100 80GB HBM3"``; may be empty.
    board_uuid: str  # ``"GPU-..."``; if empty, the calibration is never applied automatically.
    source: str  # The channel's source that was calibrated, for example ``"nvml.power_instant"``.
    driver: str  # The driver's version; may be empty.
    date: str  # Date of the fit, ``YYYY-MM-DD``.
    meter: str  # The meter, as text.
    gain: Gain  # Reading over true power.
    offset_w: Finite  # Reading at zero power.
    # From the end of a value's window until it was readable, plus any offset between the clocks of
    # the two logs.
    delay_s: Delay
    window_s: Seconds | None  # Averaging window of a value; ``None`` if the data did not show it.
    update_period_s: Period  # Time between two new values.
    # Standard uncertainty of ``gain`` (k = 1, relative), the meter's included.
    gain_uncertainty: NotNegative
    offset_uncertainty_w: NotNegative  # Standard uncertainty of ``offset_w``.
    delay_uncertainty_s: Seconds  # Standard uncertainty of ``delay_s``.
    # Of gain, offset (W) and delay (s), from the fit only. Shape: (3, 3).
    covariance: Sequence[Sequence[Finite]]
    meter_uncertainty: NotNegative  # Relative standard uncertainty of the meter.
    residual_w: NotNegative  # Root mean square of the residuals.
    residual_pct: NotNegative  # The same, in percent of mean power.
    low_w: Finite  # Lowest true power that was fitted (5th percentile).
    high_w: Finite  # Highest (95th percentile).
    files: Sequence[dict[str, str]]  # Name and SHA-256 of each input file.

    @property
    def label(self) -> str:
        """Suffix of a calibrated source's name, since its scale differs from the original's."""
        return f"calibrated-{self.date}"

    @property
    def clocks_agreed(self) -> bool:
        """Whether the delay is short enough to be the sensor's own.

        A delay longer than the window and two updates is an offset between the clocks of the two
        logs, which does not apply to other recordings.
        """
        return abs(self.delay_s) <= (self.window_s or 0.0) + 2 * self.update_period_s

    def apply(self, channel: Channel) -> Channel:
        """Return the calibrated channel.

        Gain and offset apply to every source of the same family (``nvml``), since they read one
        sensor of the board; other sources get a larger uncertainty. Window, delay and update period
        apply only to the calibrated source.

        Raises:
            ValueError: The channel is not of the same family, or not of energy or power.
        """
        if not self.fits(channel):
            raise ValueError(f"a calibration of {self.source} does not apply to {channel.source}")
        own = channel.source == self.source
        transfer = 0.0 if own else TRANSFER_UNCERTAINTY
        against = f" against {self.meter}" if self.meter else ""
        text = f"calibrated on {self.date}{against}" + ("" if own else f" (by {self.source})")
        channel = replace(
            channel,
            source=f"{channel.source}.{self.label}",
            gain=self.gain,
            offset_w=self.offset_w,
            gain_uncertainty=math.hypot(self.gain_uncertainty, transfer),
            offset_uncertainty_w=self.offset_uncertainty_w,
            note="; ".join(filter(None, (channel.note, text))),
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
        """Return whether the calibration applies to this channel, and not to what encloses it."""
        family = channel.source.partition(".")[0]
        is_own = family == self.source.partition(".")[0] and not channel.contains
        return channel.gives_energy and (is_own or channel.source == self.source)

    def to_json(self) -> dict[str, Any]:
        """Convert to a plain dictionary; :func:`read_calibration` reads it."""
        return {"schema": SCHEMA, **asdict(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Saved(Calibration):
    schema: Literal["joulelab-calibration-1"]


def calibrations_directory() -> Path:
    """Return where :func:`save_calibration` writes. It may not exist yet."""
    return home() / "calibrations"


def save_calibration(calibration: Calibration) -> Path:
    """Save a calibration, so that it is used for its board from now on; it replaces an older one.

    Raises:
        OSError: The file cannot be written.
    """
    name = re.sub(r"[^\w.-]", "_", f"{calibration.board_uuid}.{calibration.source}.json")
    path = calibrations_directory() / name
    make_private_directories(path.parent)
    write_calibration(path, calibration)
    return path


def write_calibration(path: Path, calibration: Calibration) -> None:
    """Write a calibration to any file."""
    write_whole(path, json.dumps(calibration.to_json(), indent=1).encode() + b"\n", private=True)


def read_calibration(path: Path) -> Calibration:
    """Read the calibration in a file.

    Raises:
        UserError: The file cannot be read, or is not a calibration.
    """
    try:
        saved = decode(read_whole(path), _Saved)
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise UserError(f"cannot read the calibration {path}", why=why) from error
    except InvalidData as error:
        raise UserError(f"{path} is not a calibration", why=str(error)) from error
    return Calibration(**{one.name: getattr(saved, one.name) for one in fields(Calibration)})


def calibrated(
    channels: Sequence[Channel], board_uuid: str
) -> tuple[tuple[Channel, ...], list[Absence]]:
    """Apply the saved calibrations of a board to its channels.

    A source's own calibration takes precedence; otherwise that of another source of the board with
    the smallest uncertainty is used.

    Returns:
        The channels, and the calibrations that could not be read, as absences.
    """
    saved: list[Calibration] = []
    absent: list[Absence] = []
    for path in sorted(calibrations_directory().glob("*.json")):
        try:
            calibration = read_calibration(path)
        except UserError as error:
            absent.append(Absence("calibration", path.name, str(error), f"fix or remove {path}"))
            continue
        if calibration.board_uuid == board_uuid:
            saved.append(calibration)
    return tuple(_with_best(channel, saved) for channel in channels), absent


def _with_best(channel: Channel, saved: Sequence[Calibration]) -> Channel:
    fitting = [one for one in saved if one.fits(channel)]
    if not fitting:
        return channel
    best = min(fitting, key=lambda one: (one.source != channel.source, one.gain_uncertainty))
    return best.apply(channel)
