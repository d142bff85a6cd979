"""Averaging window of power readings before their timestamps, and means of rates over it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from joulelab.arrays import Floats, Indices
from joulelab.energy.baseline import Baseline
from joulelab.energy.energy import sensor_of
from joulelab.energy.signal import Pace, updates, without_glitches
from joulelab.energy.signal.counters import counter_intervals
from joulelab.errors import UserError
from joulelab.recording.trace import Trace
from joulelab.sensors.sensor import Channel, Quantity

INSTANT_S = 1e-3
"""A window shorter than this is as good as none."""
WINDOWS_S = (INSTANT_S, 0.25, 1.0)
LAGS_S = (0.05, 0.2, 0.6)
DELAYS_S = (0.05, 0.1, 0.2, 0.4, 0.7, 1.0)
"""Windows, time constants and delays to try for a sensor that may not do what it states."""
LAG_WINDOWS = np.array([0.338, 0.682, 0.961, 1.236, 1.525, 1.846, 2.223, 2.701, 3.395, 5.094])
"""A sensor with a first-order lag is the mean of many averages of different length: exp(-s) is a
mixture of windows whose lengths have the density w exp(-w). These are the means of its tenths, in
time constants."""


@dataclass(frozen=True, slots=True, eq=False)
class PowerReadings:
    """Mean powers net of idle, over the times that the channel states. Shapes: (readings,)."""

    from_s: Floats  # Start of the time that each is the mean of.
    until_s: Floats  # Its end.
    net_w: Floats  # Power above idle.
    is_counter: bool  # Whether they are differences of an energy counter.
    period_s: float  # Time between two of them.

    def between(self, start_s: float, stop_s: float) -> PowerReadings:
        """Return the readings of a time."""
        return self.at(np.flatnonzero((self.until_s >= start_s) & (self.from_s <= stop_s)))

    def at(self, index: Indices) -> PowerReadings:
        """Return some of the readings."""
        return replace(
            self, from_s=self.from_s[index], until_s=self.until_s[index], net_w=self.net_w[index]
        )


@dataclass(frozen=True, slots=True, order=True)
class Response:
    """How a sensor responds."""

    window_s: float  # Averaging window; 0 for that between two readings of a counter.
    delay_s: float = 0.0  # How long before the timestamp it ends.
    lag_s: float = 0.0  # Time constant of a first-order lag instead of a window; 0 for none.

    @property
    def mean_age_s(self) -> float:
        """How old the power is that a reading shows, on average."""
        return self.delay_s + self.window_s / 2 + self.lag_s

    def mean(self, readings: PowerReadings, edges_s: Floats, integral: Floats) -> Floats:
        """Return the mean of a rate in each reading, from its integral. Shape: (readings,)."""
        until_s = readings.until_s - self.delay_s
        end = np.interp(until_s, edges_s, integral)
        if self.lag_s:
            windows_s = LAG_WINDOWS * self.lag_s
            parts = [(end - np.interp(until_s - w, edges_s, integral)) / w for w in windows_s]
            return np.asarray(np.mean(parts, axis=0))
        window_s = self.window_s or readings.until_s - readings.from_s
        return np.asarray((end - np.interp(until_s - window_s, edges_s, integral)) / window_s)


def responses(readings: PowerReadings, stated: Response) -> list[Response]:
    """List the responses to try first: the stated one, and those of sensors of other kinds."""
    period_s = readings.period_s
    if readings.is_counter:
        return [stated, *(Response(0.0, delay) for delay in (-period_s, *DELAYS_S, period_s))]
    found = [stated]
    for window_s in sorted({*WINDOWS_S, period_s}):
        # Stamped at the end of the window, in its middle, at its start, or later.
        ends_s = (0.0, -window_s / 2, -window_s, *DELAYS_S)
        found += [Response(window_s, delay_s) for delay_s in ends_s]
    found += [Response(0.0, delay_s, lag_s) for lag_s in LAGS_S for delay_s in (0.0, *DELAYS_S)]
    return list(dict.fromkeys(found))


def refined(
    start: Response, readings: PowerReadings, loss: Callable[[Response], float]
) -> tuple[float, Response]:
    """Return the response of least loss near one, and its loss."""
    best = (loss(start), start)
    for size in (1.6, 1.25, 1.1, 1.05):
        one = best[1]
        step_s = max(one.window_s, one.lag_s, readings.period_s / 2) * (size - 1) / 2
        for _ in range(2):
            for near in _neighbours(best[1], size, step_s):
                best = min(best, (loss(near), near), key=lambda pair: pair[0])
    return best


def _neighbours(one: Response, size: float, step_s: float) -> list[Response]:
    found = [replace(one, delay_s=one.delay_s + sign * step_s) for sign in (-1, 1)]
    if not one.window_s and not one.lag_s:
        return found
    for factor in (size, 1 / size):
        window_s, lag_s = one.window_s * factor, one.lag_s * factor
        wider = replace(one, window_s=window_s, lag_s=lag_s)
        # Once with the same end, once with the same middle.
        found += [wider, replace(wider, delay_s=one.delay_s + (one.window_s - window_s) / 2)]
    return found


def power_readings(
    trace: Trace, component: str, source: str, baseline: Baseline
) -> tuple[PowerReadings, Response] | None:
    """Return what a component's preferred sensor read, and the response that it states.

    ``None`` if it gave nothing.
    """
    chosen = find_channel(trace, component, source)
    if chosen is None:
        return None
    channel, i = chosen
    intervals_s = trace.header.get("intervals_s")
    interval_s = intervals_s[i] if intervals_s else channel.update_period_s
    readings = without_glitches(channel, trace.series[i])
    seen = np.isfinite(readings.value)
    t_s = np.asarray(readings.t_ns[seen] * 1e-9, dtype=np.float64)
    value = readings.value[seen]
    is_counter = channel.quantity is Quantity.ENERGY
    if is_counter:
        counted = counter_intervals(channel, t_s, value, interval_s)
        if counted is None:
            return None
        plain = counted.plain
        from_s, until_s = counted.edges[:-1][plain], counted.edges[1:][plain]
        power_w, window_s = counted.power[plain], 0.0
    else:
        is_repeated = channel.polled and interval_s < channel.update_period_s
        until_s, power_w = updates(
            t_s, value, Pace(interval_s, channel.update_period_s, is_repeated)
        )
        until_s = until_s - channel.delay_s
        if channel.polled and not is_repeated:
            until_s = until_s - channel.update_period_s / 2
        window_s = max(channel.window_s, INSTANT_S)
        from_s = until_s - window_s
    if until_s.size < 2:
        return None
    power_w = (power_w - channel.offset_w) / channel.gain
    idle_w, _ = baseline.powers(component, source, (from_s + until_s) / 2)
    period_s = float(np.median(np.diff(until_s)))
    found = PowerReadings(from_s, until_s, power_w - idle_w, is_counter, period_s)
    return found, Response(window_s)


def reading_times(trace: Trace) -> tuple[Floats, Floats]:
    """Return the first and the last reading of each channel that gives energy, s.

    Raises:
        UserError: There is none.
    """
    times = [
        one.t_ns[[0, -1]] * 1e-9
        for channel, one in zip(trace.channels, trace.series, strict=True)
        if channel.gives_energy and one.t_ns.size
    ]
    if not times:
        raise UserError("there are no readings of power", hint="record power while it serves")
    first_s, last_s = np.array(times).T
    return first_s, last_s


def find_channel(trace: Trace, component: str, source: str) -> tuple[Channel, int] | None:
    """Return the channel that gives a component's power its shape, and its position."""
    for i, channel in enumerate(trace.channels):
        if (
            channel.component == component
            and channel.gives_energy
            and channel.source == sensor_of(source)
        ):
            return channel, i
    return None
