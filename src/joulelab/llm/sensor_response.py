"""What time before its timestamp a power reading stands for, and the mean of a rate over it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from joulelab.energy.baseline import Baseline
from joulelab.energy.energy import sensor_of
from joulelab.energy.signal import Pace, updates, without_glitches
from joulelab.energy.signal.counters import counter_intervals
from joulelab.recording.trace import Trace
from joulelab.sensors.sensor import Channel, Quantity

Floats = NDArray[np.float64]

INSTANT_S = 1e-3
"""A window shorter than this is as good as none."""
WINDOWS_S = (INSTANT_S, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0)
LAGS_S = (0.03, 0.1, 0.2, 0.4, 0.8)
DELAYS_S = (-0.1, -0.05, 0.0, 0.05, 0.1, 0.2, 0.5)
"""Windows, time constants and delays to try for a sensor that may not do what it states."""
LAG_WINDOWS = np.array([0.338, 0.682, 0.961, 1.236, 1.525, 1.846, 2.223, 2.701, 3.395, 5.094])
"""A sensor with a first-order lag is the mean of many averages of different length: exp(-s) is a
mixture of windows whose lengths have the density w exp(-w). These are the means of its tenths, in
time constants."""


@dataclass(frozen=True, slots=True, eq=False)
class PowerReadings:
    """Mean powers net of idle, by what the channel states. Shapes: (readings,)."""

    from_s: Floats
    until_s: Floats
    net_w: Floats
    is_counter: bool
    period_s: float

    def between(self, start_s: float, stop_s: float) -> PowerReadings:
        """Return the readings of a time."""
        inside = (self.until_s >= start_s) & (self.from_s <= stop_s)
        return replace(
            self,
            from_s=self.from_s[inside],
            until_s=self.until_s[inside],
            net_w=self.net_w[inside],
        )


@dataclass(frozen=True, slots=True)
class Response:
    """How a sensor responds.

    Attributes:
        window_s: Averaging window; 0 for that between two readings of a counter.
        delay_s: How long before the timestamp it ends.
        lag_s: Time constant of a first-order lag instead of a window; 0 for none.
    """

    window_s: float
    delay_s: float = 0.0
    lag_s: float = 0.0

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


def find_response(
    readings: PowerReadings, stated: Response, loss: Callable[[Response], float], least_gain: float
) -> Response:
    """Find the response with the least loss, but keep the stated one unless that gains enough."""
    best, best_loss = stated, loss(stated)
    least = best_loss - least_gain
    tried = {stated: best_loss}

    def consider(candidates: Iterator[Response]) -> None:
        nonlocal best, best_loss
        for one in candidates:
            if one not in tried:
                tried[one] = loss(one)
                if tried[one] < best_loss:
                    best, best_loss = one, tried[one]

    period_s = readings.period_s
    if readings.is_counter:
        consider(replace(stated, delay_s=delay) for delay in (*DELAYS_S, -period_s, period_s))
    else:
        windows_s = sorted({*WINDOWS_S, period_s, stated.window_s})
        delays_s = sorted({*DELAYS_S, -period_s, -period_s / 2, period_s / 2, period_s})
        # A delayed middle of the window is as good as another window: the middle is kept.
        consider(Response(w, d - w / 2 + period_s / 2) for w in windows_s for d in delays_s)
        consider(Response(w, d) for w in windows_s for d in delays_s)
        consider(Response(0.0, d, lag) for lag in LAGS_S for d in delays_s if d >= 0)
    for size in (2.0, 1.5, 1.25, 1.1):
        step_s = max(best.window_s, best.lag_s, period_s) * (size - 1) / 2
        for _ in range(2):
            consider(iter(_neighbours(best, size, step_s)))
    return best if best_loss < least else stated


def _neighbours(one: Response, size: float, step_s: float) -> list[Response]:
    found = [replace(one, delay_s=one.delay_s + sign * step_s) for sign in (-1, 1)]
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
    chosen = _channel(trace, component, source)
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


def _channel(trace: Trace, component: str, source: str) -> tuple[Channel, int] | None:
    """Return the channel that gives a component's power its shape, and its position."""
    for i, channel in enumerate(trace.channels):
        if (
            channel.component == component
            and channel.gives_energy
            and channel.source == sensor_of(source)
        ):
            return channel, i
    return None
