"""The sensor protocol: what a sensor is and what it gives."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, NamedTuple, Protocol, runtime_checkable

from joulelab.validation import Delay, Finite, Gain, NotNegative, Period, Positive, Seconds


class Provenance(StrEnum):
    """Where a value comes from."""

    MEASURED = "measured"
    """Read from a sensor of the hardware."""
    ESTIMATED = "estimated"
    """Calculated by a model with a stated error."""
    SIMULATED = "simulated"
    """Read from the simulated machine that ships with JouleLab."""


class Quantity(StrEnum):
    """What a channel measures. The value ends in the unit."""

    POWER = "power_w"
    ENERGY = "energy_j"
    UTILIZATION = "utilization_pct"
    MEMORY_UTILIZATION = "memory_utilization_pct"
    MEMORY_USED = "memory_used_bytes"
    TEMPERATURE = "temperature_c"
    SM_CLOCK = "sm_clock_hz"
    MEMORY_CLOCK = "memory_clock_hz"
    CLOCK_OFFSET = "clock_offset_s"
    """Another clock minus CLOCK_MONOTONIC; the channel's source names that clock."""
    USE = "use_s"
    """Time of full use of the component since the recording began, by all processes. For processors
    it counts hardware threads: two that work for a second are 2 s."""
    JOB_USE = "job_use_s"
    """The job's part of ``use_s``."""
    RECEIVED = "received_bytes"
    """Like the following three, a counter, which starts anywhere."""
    SENT = "sent_bytes"
    READ = "read_bytes"
    WRITTEN = "written_bytes"


class DataPlace(StrEnum):
    """Where data is sent and received, or read and written: the components of such counters."""

    NETWORK = "network"
    """Network interfaces, of the whole machine."""
    RDMA = "rdma"
    """InfiniBand and RoCE adapters, of the whole machine."""
    LOOPBACK = "loopback"
    """What stays on the machine, of the whole machine."""
    FILES = "files"
    """System calls of the job's processes on files and pipes, cached or not."""
    DISKS = "disks"
    """What of it came from and went to disks; mapped files too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """One quantity of one component from one source.

    Attributes:
        component: ``"gpu:0"``, ``"cpu:0"``, ``"dram:0"``, ``"host"``, ``"clock"``.
        quantity: What is measured, and its unit.
        source: The sensor, for example ``"nvml.samples"`` or ``"rapl.package-0"``.
        provenance: Measured, estimated or simulated.
        update_period_s: Time between two new values; > 0.
        window_s: Averaging window of each power value, ending at its timestamp; 0 for an
            instantaneous value and for an energy counter.
        unverified_window: Whether ``window_s`` is what the meter states, or assumed: its readings
            show whether it averages over that.
        delay_s: How long after the end of the window the timestamp is; 0 if unknown.
        polled: The timestamp is that of the poll, and the value up to one update period older;
            otherwise each value has a timestamp of its own.
        time_uncertainty_s: Standard uncertainty of the timestamp against CLOCK_MONOTONIC (k = 1).
        resolution: Smallest step of the value, in its unit; 0 if unknown.
        gain_uncertainty: Standard uncertainty of the scale (k = 1, relative), fully correlated
            between all readings of this channel.
        offset_uncertainty_w: Standard uncertainty of the zero (k = 1, watts), fully correlated
            between all readings of this channel.
        gain: A reading is ``gain * true + offset_w``; 1 unless this board was calibrated. Readings
            are recorded as they are; the energy estimate corrects them.
        offset_w: The reading at zero power; 0 unless this board was calibrated. A counter gains
            this much each second.
        wrap: A counter returns to 0 after this value; ``None`` if it never does.
        priority: Of the channels that can give a component's energy, the one with the lowest
            number is used; see :mod:`joulelab.energy.signal`.
        idle_w: Power of the idle component, for a source that calculates it from a model; ``None``
            if it has to be measured.
        max_power_w: Largest mean power over seconds that the component can draw, margin included;
            ``None`` for that of its kind (:mod:`joulelab.sensors.plausibility`).
        least_use_w: Least mean power over seconds that the component draws for each unit of its use
            (:attr:`Quantity.USE`), margin included; 0 if unknown.
        contains: Components, and kinds of components (``"cpu"`` for every ``"cpu:N"``), whose
            power this component's power includes: ``("cpu", "gpu", "dram")`` for a ``node``.
        note: What was assumed, as text for people.
    """

    component: str
    quantity: Quantity
    source: str
    provenance: Provenance
    update_period_s: Period
    window_s: Seconds = 0.0
    unverified_window: bool = False
    delay_s: Delay = 0.0
    polled: bool = False
    time_uncertainty_s: Seconds = 0.0
    resolution: NotNegative = 0.0
    gain_uncertainty: NotNegative = 0.0
    offset_uncertainty_w: NotNegative = 0.0
    gain: Gain = 1.0
    offset_w: Finite = 0.0
    wrap: Positive | None = None
    priority: int = 0
    idle_w: NotNegative | None = None
    max_power_w: Positive | None = None
    least_use_w: NotNegative = 0.0
    contains: tuple[str, ...] = ()
    note: str = ""

    def __post_init__(self) -> None:
        if not (self.update_period_s > 0 and math.isfinite(self.update_period_s)):
            raise ValueError(f"{self.source}: update_period_s must be positive")
        if not (self.gain > 0 and math.isfinite(self.gain) and math.isfinite(self.offset_w)):
            raise ValueError(f"{self.source}: gain must be positive, gain and offset_w finite")

    @property
    def gives_energy(self) -> bool:
        """Whether energy can be calculated from this channel."""
        return self.quantity in (Quantity.POWER, Quantity.ENERGY)

    def to_json(self) -> dict[str, Any]:
        """Convert to a plain dictionary, as it is in the header of a trace."""
        return asdict(self)


def unknown_window_delay(update_period_s: float) -> tuple[float, float]:
    """Return how long before its end the middle of a window of unknown length is, and how surely.

    A meter that updates each T averages over a time of 0 to T: the middle of that is 0 to T/2
    before its end, rectangular (GUM 4.3.7).
    """
    return update_period_s / 4, update_period_s / math.sqrt(48)


class Reading(NamedTuple):
    """One value of one channel."""

    t_ns: int  # CLOCK_MONOTONIC nanoseconds. For a mean over a window, the end of the window.
    channel: int  # Position in the sensor's :attr:`Sensor.channels`.
    value: float  # In the unit of the channel's quantity.


class Gap(NamedTuple):
    """A channel was read at ``t_ns`` and gave nothing. Absent is not zero."""

    t_ns: int
    channel: int
    reason: str


class SensorEvent(NamedTuple):
    """Something that is not a number, for ``events.jsonl``."""

    t_ns: int  # CLOCK_MONOTONIC nanoseconds.
    fields: Mapping[str, Any]  # ``event`` names its kind; the others depend on that.


@dataclass(frozen=True, slots=True)
class Absence:
    """A source that is missing, why, and how to fix it."""

    component: str
    source: str
    reason: str
    hint: str = ""

    def to_json(self) -> dict[str, str]:
        """Convert to a plain dictionary, as it is in the header of a trace."""
        return asdict(self)

    @property
    def brief(self) -> str:
        """The reason, and where the hint is if there is one."""
        return f"{self.reason}; see `joulelab doctor`" if self.hint else self.reason

    def __str__(self) -> str:
        return f"{self.reason}; {self.hint}" if self.hint else self.reason


@runtime_checkable
class Sensor(Protocol):
    """A source of readings. It is opened, read and closed in the recorder's process.

    Attributes:
        channels: What the sensor gives; fixed for its lifetime.
        interval_s: How often :meth:`read` should be called.
    """

    channels: Sequence[Channel]
    interval_s: float

    def read(self) -> Sequence[Reading | Gap | SensorEvent]:
        """Return everything new since the last call. A failed reading is a gap and never raises."""
        ...

    def close(self) -> None:
        """Close what the sensor has open."""
        ...


class NothingOpen:
    """A sensor that has nothing open between its readings."""

    def close(self) -> None:
        """Do nothing: nothing is open."""


@dataclass(frozen=True, slots=True)
class Discovery:
    """What :func:`joulelab.sensors.discovery.discover` found."""

    sensors: tuple[Sensor, ...]
    absent: tuple[Absence, ...]
