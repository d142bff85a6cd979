"""A simulated machine whose power is known exactly. It replaces sensors, never measurements.

Its power is a function of CLOCK_MONOTONIC alone, so any process can calculate the true energy of
any span and compare it with what was recorded. Everything it gives is labelled as simulated.
"""

from __future__ import annotations

import json
import math
import random
import time
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Literal

from joulelab.errors import UserError
from joulelab.sensors.sensor import Channel, Gap, NothingOpen, Provenance, Quantity, Reading
from joulelab.validation import parse_json

Kind = Literal["samples", "power", "counter", "use", "job_use"]

_QUANTITIES = {"counter": Quantity.ENERGY, "use": Quantity.USE, "job_use": Quantity.JOB_USE}
"""What the kinds count; the other kinds are power."""


@dataclass(frozen=True)
class Waveform:
    """Power as straight lines between points, repeated forever.

    Example:
        >>> wave = Waveform.square(low_w=100, high_w=600, period_s=0.2)
        >>> wave.power_w(0.05), wave.power_w(0.15), wave.energy_j(0.0, 1.0)
        (600.0, 100.0, 350.0)
    """

    # ``(t_s, power_w)`` in order of time, the first at 0, the last at the period. Two points at one
    # time are a jump.
    points: tuple[tuple[float, float], ...]
    _times: tuple[float, ...] = field(init=False, repr=False, compare=False)
    _energies: tuple[float, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        points = tuple((float(t), float(p)) for t, p in self.points)
        times = tuple(t for t, _ in points)
        if len(points) < 2 or times[0] != 0 or times[-1] <= 0 or list(times) != sorted(times):
            raise ValueError("a waveform needs points in order of time, the first at 0")
        energies = [0.0]
        for (t0, p0), (t1, p1) in pairwise(points):
            energies.append(energies[-1] + (t1 - t0) * (p0 + p1) / 2)
        object.__setattr__(self, "points", points)
        object.__setattr__(self, "_times", times)
        object.__setattr__(self, "_energies", tuple(energies))

    @property
    def period_s(self) -> float:
        """The time after which the waveform repeats, s."""
        return self._times[-1]

    def power_w(self, t_s: float) -> float:
        """Return the power at a time; at a jump, the value after it."""
        return self._piece(t_s % self.period_s)[0]

    def energy_j(self, start_s: float, stop_s: float) -> float:
        """Return the exact integral of power from start to stop."""

        def since_zero_j(t_s: float) -> float:
            periods, rest_s = divmod(t_s, self.period_s)
            return periods * self._energies[-1] + self._piece(rest_s)[1]

        return since_zero_j(stop_s) - since_zero_j(start_s)

    def _piece(self, t_s: float) -> tuple[float, float]:
        """Power at a time within the period, and the energy since its beginning."""
        i = min(bisect_right(self._times, t_s), len(self._times) - 1) - 1
        (t0, p0), (t1, p1) = self.points[i], self.points[i + 1]
        power_w = p0 + (p1 - p0) * (t_s - t0) / (t1 - t0) if t1 > t0 else p1
        return power_w, self._energies[i] + (t_s - t0) * (p0 + power_w) / 2

    @classmethod
    def constant(cls, power_w: float) -> Waveform:
        """Make a waveform of one power."""
        return cls(((0.0, power_w), (1.0, power_w)))

    @classmethod
    def square(cls, *, low_w: float, high_w: float, period_s: float, duty: float = 0.5) -> Waveform:
        """Make a waveform that is high for a share ``duty`` of each period, then low."""
        edge_s = duty * period_s
        return cls(((0.0, high_w), (edge_s, high_w), (edge_s, low_w), (period_s, low_w)))

    @classmethod
    def ramp(cls, *, low_w: float, high_w: float, period_s: float) -> Waveform:
        """Make a waveform that rises in the first half of the period and falls in the second."""
        return cls(((0.0, low_w), (period_s / 2, high_w), (period_s, low_w)))

    @classmethod
    def steps(cls, powers_w: Sequence[float], *, step_s: float) -> Waveform:
        """Make a waveform that stays at each power in turn for ``step_s``."""
        points: list[tuple[float, float]] = []
        for i, power_w in enumerate(powers_w):
            points += [(i * step_s, power_w), ((i + 1) * step_s, power_w)]
        return cls(tuple(points))

    def to_json(self) -> list[list[float]]:
        """Convert to a plain list of points; :meth:`from_json` is the inverse."""
        return [list(point) for point in self.points]

    @classmethod
    def from_json(cls, points: Any) -> Waveform:
        """Read what :meth:`to_json` wrote."""
        return cls(tuple((t, p) for t, p in points))


@dataclass(frozen=True, kw_only=True)
class SimulatedSource:
    """One component's power, and the sensor that measures it."""

    component: str  # For example ``"gpu:0"``.
    waveform: Waveform  # Its true power; time 0 is that of CLOCK_MONOTONIC.
    # ``"samples"``: every value that the sensor ever had, each with its own timestamp, like NVML's
    # buffer. ``"power"``: the latest value, with the timestamp of the poll. ``"counter"``: energy
    # since time 0, updated every ``update_period_s``. ``"use"`` and ``"job_use"``: likewise use by
    # all processes and by the job, whose waveform is in hardware threads or parts of a GPU.
    kind: Kind = "samples"
    update_period_s: float = 0.02  # Time between two new values.
    # Each power value is the mean of this time before its update; 0: instantaneous.
    window_s: float = 0.02
    delay_s: float = 0.0  # The timestamp of a sample is this long after the end of its window.
    interval_s: float = 0.25  # How often the recorder reads it.
    gain: float = 1.0  # Reading over true value.
    # Stated uncertainty of the gain (k = 1, relative): truth is the reading times 1 ± this.
    # :meth:`drawn` gives a board for which that holds.
    gain_uncertainty: float = 0.0
    offset_w: float = 0.0  # Reading at zero power; a counter gains this much each second.
    offset_uncertainty_w: float = 0.0  # Stated uncertainty of the offset (k = 1).
    noise_w: float = 0.0  # Standard deviation of independent noise on each value of power.
    resolution: float = 0.0  # Values are rounded to this step, in W or J; 0 for none.
    wrap_j: float | None = None  # A counter returns to 0 after this value.
    # Periods ``(start, stop)`` on CLOCK_MONOTONIC without answers.
    lost_s: tuple[tuple[float, float], ...] = ()
    contains: tuple[str, ...] = ()  # See :class:`~joulelab.sensors.sensor.Channel`.

    def drawn(self, seed: int) -> SimulatedSource:
        """Draw one board of many, with errors as large as their stated uncertainties.

        Gain and offset are normally distributed; the same seed gives the same board.

        Example:
            >>> source = SimulatedSource(
            ...     component="gpu:0", waveform=Waveform.constant(100), gain_uncertainty=0.05)
            >>> source.drawn(1).gain == source.drawn(1).gain != source.drawn(2).gain
            True
        """
        deviate = random.Random(f"{self.component}/{self.kind}/{seed}").gauss
        return replace(
            self,
            gain=1 / (1 + self.gain_uncertainty * deviate(0.0, 1.0)),
            offset_w=self.offset_uncertainty_w * deviate(0.0, 1.0),
        )

    def channel(self) -> Channel:
        """Describe this source as a channel."""
        return Channel(
            component=self.component,
            quantity=_QUANTITIES.get(self.kind, Quantity.POWER),
            source=f"simulated.{self.kind}",
            provenance=Provenance.SIMULATED,
            update_period_s=self.update_period_s,
            window_s=0.0 if self.kind in _QUANTITIES else self.window_s,
            delay_s=self.delay_s,
            polled=self.kind != "samples",
            resolution=self.resolution,
            gain_uncertainty=self.gain_uncertainty,
            offset_uncertainty_w=self.offset_uncertainty_w,
            wrap=self.wrap_j,
            contains=self.contains,
            note="simulated: a known waveform, not a measurement",
        )

    def value(self, update: int) -> float:
        """Return the value that the sensor has from one update to the next."""
        t_s = update * self.update_period_s
        if self.kind in _QUANTITIES:
            value = self.gain * self.waveform.energy_j(0.0, t_s) + self.offset_w * t_s
            value = value % self.wrap_j if self.wrap_j else value
        elif self.window_s > 0:
            mean_w = self.waveform.energy_j(t_s - self.window_s, t_s) / self.window_s
            value = self.gain * mean_w + self.offset_w
        else:
            value = self.gain * self.waveform.power_w(t_s) + self.offset_w
        if self.noise_w and self.kind not in _QUANTITIES:
            value += random.Random(f"{self.component}/{update}").gauss(0.0, self.noise_w)
        if self.resolution:
            value = math.floor(value / self.resolution) * self.resolution
        return value

    def readings(self, after_ns: int, until_ns: int, channel: int = 0) -> list[Reading | Gap]:
        """Return what a call at ``until_ns`` gives that one at ``after_ns`` did not."""
        now_s = until_ns * 1e-9
        if any(start <= now_s < stop for start, stop in self.lost_s):
            return [Gap(until_ns, channel, "simulated loss of the sensor")]
        latest = math.floor((now_s - self.delay_s) / self.update_period_s)
        if self.kind != "samples":
            return [Reading(until_ns, channel, self.value(latest))]
        first = math.floor((after_ns * 1e-9 - self.delay_s) / self.update_period_s) + 1
        return [
            Reading(round((i * self.update_period_s + self.delay_s) * 1e9), channel, self.value(i))
            for i in range(first, latest + 1)
        ]

    def to_json(self) -> dict[str, Any]:
        """Convert to a plain dictionary; :meth:`from_json` is the inverse."""
        return {**vars(self), "waveform": self.waveform.to_json()}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> SimulatedSource:
        """Read what :meth:`to_json` wrote."""
        lost_s = tuple((start, stop) for start, stop in data.get("lost_s", ()))
        contains = tuple(data.get("contains", ()))
        known = {"waveform": Waveform.from_json(data["waveform"]), "lost_s": lost_s}
        return cls(**{**data, **known, "contains": contains})


@dataclass(frozen=True)
class SimulatedMachine:
    """Several simulated sources, for ``Meter(sensors=...)``.

    Example:
        >>> machine = SimulatedMachine.default()
        >>> [source.component for source in machine.sources]
        ['gpu:0', 'cpu:0', 'dram:0']
        >>> machine.energy_j(0.0, 10.0, "dram:0")
        60.0
    """

    sources: tuple[SimulatedSource, ...]

    @classmethod
    def default(cls, seed: int = 0) -> SimulatedMachine:
        """Make a GPU that works and rests, a CPU and DRAM with RAPL, all with typical sensors.

        Args:
            seed: Chooses the sensors' errors, which are as large as their channels state.
        """
        gpu = SimulatedSource(
            component="gpu:0",
            waveform=Waveform.square(low_w=120, high_w=420, period_s=0.7, duty=0.6),
            resolution=0.001,
            gain_uncertainty=0.05,
        )
        cpu = SimulatedSource(
            component="cpu:0",
            waveform=Waveform.ramp(low_w=40, high_w=90, period_s=3.0),
            kind="counter",
            update_period_s=0.001,
            interval_s=0.1,
            resolution=6.1e-5,
            wrap_j=262143.328850,
            gain_uncertainty=0.025,
        )
        dram = replace(
            cpu, component="dram:0", waveform=Waveform.constant(6.0), wrap_j=65712.999613
        )
        return cls(tuple(source.drawn(seed) for source in (gpu, cpu, dram)))

    def energy_j(self, start_s: float, stop_s: float, component: str | None = None) -> float:
        """Return the true energy of a span on CLOCK_MONOTONIC, of one component or of all."""
        return math.fsum(
            source.waveform.energy_j(start_s, stop_s)
            for source in self.sources
            if source.channel().gives_energy and component in (None, source.component)
        )

    def spec(self) -> str:
        """Describe the machine as text for :meth:`from_spec` and ``JOULELAB_SENSORS``."""
        return "simulated:" + json.dumps([source.to_json() for source in self.sources])

    @classmethod
    def from_spec(cls, text: str) -> SimulatedMachine:
        """Read what :meth:`spec` wrote.

        ``"simulated"`` is the default machine, ``"simulated:7"`` the one with that seed.

        Raises:
            UserError: The text does not describe a simulated machine.
        """
        text = text.removeprefix("simulated").removeprefix(":")
        if not text:
            return cls.default()
        if text.isdecimal():
            return cls.default(int(text))
        try:
            return cls(tuple(SimulatedSource.from_json(source) for source in parse_json(text)))
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise UserError(
                "cannot read the simulated machine",
                why=str(error),
                hint="use the text of SimulatedMachine.spec(), a seed, or 'simulated' alone",
            ) from error


class SimulatedSensor(NothingOpen):
    """Reads one simulated source by the clock."""

    def __init__(self, source: SimulatedSource) -> None:
        self._source = source
        self._last_ns = time.monotonic_ns()
        self.channels: Sequence[Channel] = (source.channel(),)
        self.interval_s = source.interval_s

    def read(self) -> list[Reading | Gap]:
        """Return everything new since the last call."""
        now_ns = time.monotonic_ns()
        found = self._source.readings(self._last_ns, now_ns)
        if not any(isinstance(one, Gap) for one in found):
            self._last_ns = now_ns
        return found


def simulated_sensors(text: str) -> list[SimulatedSensor]:
    """Make the sensors of the simulated machine that a text describes."""
    return [SimulatedSensor(source) for source in SimulatedMachine.from_spec(text).sources]
