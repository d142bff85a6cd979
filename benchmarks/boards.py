"""Simulate in memory what boards read of an exactly known power.

Each board is drawn at random from the uncertainties that its channels state. No time passes and no
process is started, so thousands of boards take minutes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from joulelab.arrays import Floats
from joulelab.recording.trace import Readings, Trace
from joulelab.recording.trace_spans import TraceSpan
from joulelab.sensors.sensor import Channel, Quantity

POLL_LATE = 0.02
"""Intervals between polls exceed the nominal one by up to this share."""
LONGEST_JITTER = 1.8
"""Timestamps deviate from their grid by at most this many standard deviations."""


@dataclass(frozen=True)
class Power:
    """Piecewise linear power over time."""

    time_s: Floats  # Ends of the pieces; two equal times are a step. Shape: (points,).
    power_w: Floats  # Power at those times. Shape: (points,).

    def energy_j(self, t_s: Floats) -> Floats:
        """Return the exact energy from the first point to each time. Shape: that of ``t_s``.

        Example:
            >>> ramp = Power(np.array([0.0, 2.0]), np.array([0.0, 100.0]))
            >>> ramp.energy_j(np.array([1.0, 2.0])).tolist()
            [25.0, 100.0]
        """
        time_s, power_w = self.time_s, self.power_w
        length_s = np.diff(time_s)
        until_j = np.append(0.0, np.cumsum(length_s * (power_w[1:] + power_w[:-1]) / 2))
        i = np.clip(np.searchsorted(time_s, t_s, side="right") - 1, 0, length_s.size - 1)
        slope = np.divide(
            np.diff(power_w), length_s, out=np.zeros_like(length_s), where=length_s > 0
        )
        into_s = t_s - time_s[i]
        return np.asarray(until_j[i] + into_s * (power_w[i] + slope[i] * into_s / 2))

    def at(self, t_s: Floats) -> Floats:
        """Return the power at each time. Shape: that of ``t_s``."""
        return np.asarray(np.interp(t_s, self.time_s, self.power_w))

    def mean_w(self, start_s: Floats, stop_s: Floats) -> Floats:
        """Return the mean power between pairs of times. Shape: (spans,)."""
        return np.asarray((self.energy_j(stop_s) - self.energy_j(start_s)) / (stop_s - start_s))


@dataclass(frozen=True, kw_only=True)
class Source:
    """A channel, and properties of its sensor that the channel does not state.

    Attributes:
        channel: The channel; errors are drawn from its uncertainties.
        interval_s: Interval between polls.
        noise_w: Standard deviation of independent noise on each power value.
        jitter_s: Standard deviation of its own timestamps about a regular grid.
        resolution: Values are rounded to this step.
        late_s: Bounds of the delay of its own timestamps, uniformly distributed; ``None``: those of
            the channel.
    """

    channel: Channel
    interval_s: float
    noise_w: float = 0.0
    jitter_s: float = 0.0
    late_s: tuple[float, float] | None = None


@dataclass(frozen=True)
class Kind:
    """A kind of board: the sources of one component."""

    name: str  # Name in the tables.
    sources: tuple[Source, ...]  # Sources that read the same sensor, so they share gain and offset.
    exact: bool = False  # Whether gain and offset have no error.

    def record(
        self,
        power: Power,
        start_s: float,
        stop_s: float,
        rng: np.random.Generator,
        deviates: tuple[float, float] | None = None,
    ) -> Trace:
        """Draw a board of this kind at random and return what it reads of a power.

        Args:
            power: The true power.
            start_s: Start of the recording.
            stop_s: Its end.
            rng: Source of all random numbers.
            deviates: Standard normal deviates of gain and offset; ``None`` to draw them.
        """
        scale_deviate, zero_deviate = deviates or rng.standard_normal(2)
        if self.exact:
            scale_deviate = zero_deviate = 0.0
        series = []
        for source in self.sources:
            channel = source.channel
            # The stated uncertainty is of the truth, given a reading: truth = reading (1 + u z).
            gain = channel.gain / (1 + channel.gain_uncertainty * scale_deviate)
            offset_w = channel.offset_w + channel.offset_uncertainty_w * zero_deviate
            read = _Sensor(source, power, gain, offset_w, rng)
            series.append(read.readings(start_s, stop_s))
        header = {"intervals_s": [source.interval_s for source in self.sources]}
        channels = tuple(source.channel for source in self.sources)
        return Trace(channels, tuple(series), header=header)


class _Sensor:
    """One source of one board."""

    def __init__(
        self, source: Source, power: Power, gain: float, offset_w: float, rng: np.random.Generator
    ) -> None:
        self.source, self.power = source, power
        self.gain, self.offset_w = gain, offset_w
        self.rng = rng
        channel = source.channel
        self.phase_s = rng.uniform(0, channel.update_period_s)
        self.delay_s = channel.delay_s + channel.time_uncertainty_s * rng.standard_normal()
        if source.late_s is not None:
            self.delay_s = rng.uniform(*source.late_s)

    def readings(self, start_s: float, stop_s: float) -> Readings:
        """The whole recording."""
        channel, period_s = self.source.channel, self.source.channel.update_period_s
        if channel.polled:
            t_s = self._polls(start_s, stop_s)
            update = np.floor((t_s - self.delay_s - self.phase_s) / period_s)
        elif channel.quantity is Quantity.ENERGY:
            t_s = self._polls(start_s, stop_s)
            return self._as_readings(t_s, self._counted_j(t_s))
        else:
            update = np.arange(np.ceil(start_s / period_s), np.floor(stop_s / period_s))
            t_s = self.phase_s + update * period_s + self.delay_s + self._jitter_s(update.size)
        first = int(update[0])
        known = self._values(np.arange(first, int(update[-1]) + 1))
        return self._as_readings(t_s, known[update.astype(int) - first])

    def _polls(self, start_s: float, stop_s: float) -> Floats:
        count = int((stop_s - start_s) / self.source.interval_s)
        apart_s = self.source.interval_s * self.rng.uniform(1, 1 + POLL_LATE, count)
        t_s = start_s + np.append(0.0, np.cumsum(apart_s))
        return np.asarray(t_s[t_s < stop_s])

    def _values(self, update: NDArray[np.int64]) -> Floats:
        channel = self.source.channel
        end_s = self.phase_s + update * channel.update_period_s
        if channel.quantity is Quantity.ENERGY:
            return self._counted_j(end_s)
        mean_w = (
            self.power.mean_w(end_s - channel.window_s, end_s)
            if channel.window_s > 0
            else self.power.at(end_s)
        )
        noise_w = self.source.noise_w * self.rng.standard_normal(update.size)
        return np.asarray(self.gain * mean_w + self.offset_w + noise_w)

    def _counted_j(self, t_s: Floats) -> Floats:
        return self.gain * self.power.energy_j(t_s) + self.offset_w * t_s

    def _jitter_s(self, count: int) -> Floats:
        deviate = np.clip(self.rng.standard_normal(count), -LONGEST_JITTER, LONGEST_JITTER)
        return np.asarray(self.source.jitter_s * deviate)

    def _as_readings(self, t_s: Floats, value: Floats) -> Readings:
        channel = self.source.channel
        if channel.wrap is not None:
            value = value % channel.wrap
        if channel.resolution:
            value = np.floor(value / channel.resolution) * channel.resolution
        t_ns = np.rint(t_s * 1e9).astype(np.int64)
        order = np.argsort(t_ns, kind="stable")
        return Readings(t_ns[order], value[order])


def with_spans(trace: Trace, names: Sequence[str], start_s: Floats, stop_s: Floats) -> Trace:
    """Return the trace that a meter with these spans would have left."""
    spans = tuple(
        TraceSpan(name, round(start * 1e9), round(stop * 1e9), key=(1, index))
        for index, (name, start, stop) in enumerate(
            zip(names, start_s.tolist(), stop_s.tolist(), strict=True)
        )
    )
    # A span of the same key replaces the earlier one, as in a recording.
    by_key = {span.key: span for span in (*trace.spans, *spans)}
    return replace(trace, spans=tuple(by_key.values()))


# Powers.


def steps(times_s: Floats, powers_w: Floats) -> Power:
    """Return the power that is ``powers_w[i]`` from ``times_s[i]`` to ``times_s[i + 1]``.

    Example:
        >>> steps(np.array([0.0, 1.0, 2.0]), np.array([5.0, 7.0])).energy_j(np.array([1.5])).item()
        8.5
    """
    return Power(np.repeat(times_s, 2)[1:-1], np.repeat(powers_w, 2))


def steady(length_s: float, power_w: float) -> Power:
    """One power."""
    return steps(np.array([0.0, length_s]), np.array([power_w]))


def square(
    length_s: float, low_w: float, high_w: float, period_s: float, duty: float, phase_s: float
) -> Power:
    """Return a power that is high for a share ``duty`` of each period, then low."""
    starts_s = np.arange(phase_s - period_s, length_s + period_s, period_s)
    times_s = np.stack((starts_s, starts_s + duty * period_s), axis=1).reshape(-1)
    powers_w = np.tile([high_w, low_w], starts_s.size)[:-1]
    return steps(times_s, powers_w)


def ramps(length_s: float, low_w: float, high_w: float, period_s: float, phase_s: float) -> Power:
    """Return a power that rises for half of each period and then falls."""
    times_s = np.arange(phase_s - period_s, length_s + period_s, period_s / 2)
    return Power(times_s, np.where(np.arange(times_s.size) % 2, high_w, low_w).astype(float))


def telegraph(
    length_s: float, levels_w: Sequence[float], mean_s: float, rng: np.random.Generator
) -> Power:
    """Return random levels, each for an exponentially distributed time."""
    stays_s = rng.exponential(mean_s, int(2 * length_s / mean_s) + 20)
    times_s = np.append(0.0, np.cumsum(stays_s))
    return steps(times_s, rng.choice(levels_w, stays_s.size))


def walk(
    length_s: float, low_w: float, high_w: float, step_s: float, rng: np.random.Generator
) -> Power:
    """Return a random walk between two powers, reflected at both, in steps of a tenth."""
    range_w = high_w - low_w
    times_s = np.arange(0.0, length_s + 2 * step_s, step_s)
    along_w = np.cumsum(0.1 * range_w * rng.standard_normal(times_s.size - 1))
    return steps(times_s, high_w - np.abs(along_w % (2 * range_w) - range_w))


def after_idle(power: Power, idle_w: float, idle_s: float, length_s: float) -> Power:
    """Return idle power for ``idle_s``, followed by ``power`` from its time 0 on."""
    later = power.time_s > 0
    time_s = np.concatenate(([0.0, idle_s, idle_s], power.time_s[later] + idle_s, [length_s]))
    begin_w = power.at(np.array([1e-9]))
    power_w = np.concatenate(([idle_w, idle_w], begin_w, power.power_w[later], power.power_w[-1:]))
    keep = time_s <= length_s
    return Power(time_s[keep], power_w[keep])
