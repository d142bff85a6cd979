"""A simulated machine with a known waveform. It stands in for sensors, never for measurements.

Its power is a function of CLOCK_MONOTONIC alone, so that any process can work out the true energy
of any span and compare it with what was recorded. Everything it gives says that it is simulated.
"""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from joulelab.errors import UserError
from joulelab.sensors.sensor import Channel, Gap, Provenance, Quantity, Reading
from joulelab.sensors.waveform import Waveform

Kind = Literal["samples", "power", "counter"]


@dataclass(frozen=True, kw_only=True)
class SimulatedSource:
    """One component's power, and the sensor that looks at it.

    Attributes:
        component: As ``"gpu:0"``.
        waveform: Its true power; time 0 is that of CLOCK_MONOTONIC.
        kind: ``"samples"``: every value that the sensor ever had, each with its own stamp, as
            NVML's buffer gives them. ``"power"``: the latest value, stamped when it was polled.
            ``"counter"``: energy since time 0, renewed each ``update_period_s``.
        update_period_s: Time between two new values.
        window_s: Each power value is the mean of this time before its update; 0: instantaneous.
        delay_s: The stamp of a sample lies this long after the end of its window.
        interval_s: How often the recorder reads it.
        gain: What the sensor gives over what is true.
        gain_uncertainty: What the sensor's maker says of its gain (k = 1, relative): truth is
            what is read times 1 ± this. :meth:`drawn` gives a board for which that is so.
        offset_w: What the sensor gives where there is no power; a counter gains so much a second.
        offset_uncertainty_w: What its maker says of that (k = 1).
        noise_w: Standard deviation of independent noise on each value of power.
        resolution: Values are rounded to this step, in W or J; 0 for none.
        wrap_j: A counter returns to 0 after this value.
        lost_s: Periods ``(start, stop)`` on CLOCK_MONOTONIC in which it does not answer.
    """

    component: str
    waveform: Waveform
    kind: Kind = "samples"
    update_period_s: float = 0.02
    window_s: float = 0.02
    delay_s: float = 0.0
    interval_s: float = 0.25
    gain: float = 1.0
    gain_uncertainty: float = 0.0
    offset_w: float = 0.0
    offset_uncertainty_w: float = 0.0
    noise_w: float = 0.0
    resolution: float = 0.0
    wrap_j: float | None = None
    lost_s: tuple[tuple[float, float], ...] = ()

    def drawn(self, seed: int) -> SimulatedSource:
        """This source on one board of many, with errors as large as its maker says they may be.

        Gain and offset are normally distributed, as stated; the same for the same seed.

        Args:
            seed: Which board.

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
        """What this source says of itself."""
        counter = self.kind == "counter"
        return Channel(
            component=self.component,
            quantity=Quantity.ENERGY if counter else Quantity.POWER,
            source=f"simulated.{self.kind}",
            provenance=Provenance.SIMULATED,
            update_period_s=self.update_period_s,
            window_s=0.0 if counter else self.window_s,
            delay_s=self.delay_s,
            polled=self.kind != "samples",
            resolution=self.resolution,
            gain_uncertainty=self.gain_uncertainty,
            offset_uncertainty_w=self.offset_uncertainty_w,
            wrap=self.wrap_j,
            note="simulated: a known waveform, not a measurement",
        )

    def value(self, update: int) -> float:
        """The value that the sensor has from its update of that number to the next."""
        t_s = update * self.update_period_s
        if self.kind == "counter":
            value = self.gain * self.waveform.energy_j(0.0, t_s) + self.offset_w * t_s
            value = value % self.wrap_j if self.wrap_j else value
        elif self.window_s > 0:
            mean_w = self.waveform.energy_j(t_s - self.window_s, t_s) / self.window_s
            value = self.gain * mean_w + self.offset_w
        else:
            value = self.gain * self.waveform.power_w(t_s) + self.offset_w
        if self.noise_w and self.kind != "counter":
            value += random.Random(f"{self.component}/{update}").gauss(0.0, self.noise_w)
        if self.resolution:
            value = math.floor(value / self.resolution) * self.resolution
        return value

    def readings(self, after_ns: int, until_ns: int, channel: int = 0) -> list[Reading | Gap]:
        """What one call at ``until_ns`` gives that the one at ``after_ns`` did not."""
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
        """A plain dictionary; :meth:`from_json` is its inverse."""
        return {**vars(self), "waveform": self.waveform.to_json()}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> SimulatedSource:
        """What :meth:`to_json` wrote."""
        lost_s = tuple((start, stop) for start, stop in data.get("lost_s", ()))
        return cls(**{**data, "waveform": Waveform.from_json(data["waveform"]), "lost_s": lost_s})


@dataclass(frozen=True)
class SimulatedMachine:
    """Several simulated sources. Give it to ``Meter(sensors=...)``.

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
        """A GPU that works and rests, a CPU with RAPL and DRAM, with typical sensors.

        Args:
            seed: Which machine of that kind: each has errors of its own, as its channels state.
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
        """The true energy of a span on CLOCK_MONOTONIC, of one component or of all."""
        return math.fsum(
            source.waveform.energy_j(start_s, stop_s)
            for source in self.sources
            if component in (None, source.component)
        )

    def spec(self) -> str:
        """Text that :func:`from_spec` and ``JOULELAB_SENSORS`` take."""
        return "simulated:" + json.dumps([source.to_json() for source in self.sources])

    @classmethod
    def from_spec(cls, text: str) -> SimulatedMachine:
        """What :meth:`spec` wrote; ``"simulated"`` or an empty text is the default machine.

        ``"simulated:7"`` is the default machine of that seed.

        Raises:
            UserError: The text is not of that form.
        """
        text = text.removeprefix("simulated").removeprefix(":")
        if not text:
            return cls.default()
        if text.isdecimal():
            return cls.default(int(text))
        try:
            return cls(tuple(SimulatedSource.from_json(source) for source in json.loads(text)))
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise UserError(
                "cannot read the simulated machine",
                why=str(error),
                hint="give what SimulatedMachine.spec() writes, a seed, or 'simulated' alone",
            ) from error


class SimulatedSensor:
    """Plays one simulated source against the clock. See :class:`joulelab.sensors.Sensor`."""

    def __init__(self, source: SimulatedSource) -> None:
        self._source = source
        self._last_ns = time.monotonic_ns()
        self.channels: Sequence[Channel] = (source.channel(),)
        self.interval_s = source.interval_s

    def read(self) -> list[Reading | Gap]:
        """Everything new since the last call."""
        now_ns = time.monotonic_ns()
        found = self._source.readings(self._last_ns, now_ns)
        if not any(isinstance(one, Gap) for one in found):
            self._last_ns = now_ns
        return found

    def close(self) -> None:
        """Nothing to give back."""


def from_spec(text: str) -> list[SimulatedSensor]:
    """The sensors of a simulated machine, from the text after ``"simulated:"``."""
    return sensors_of(SimulatedMachine.from_spec(text).sources)


def sensors_of(sources: Iterable[SimulatedSource]) -> list[SimulatedSensor]:
    """A sensor for each source."""
    return [SimulatedSensor(source) for source in sources]
