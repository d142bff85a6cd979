"""Fit of a power sensor to an external meter: gain, offset, delay and window.

A new reading at time u is modelled as::

    reading(u) = gain * mean of true power over [u - delay - window, u - delay] + offset

For every window and delay on a grid, which is refined around the best of them, gain and offset are
fitted by least squares with Huber's weights; see ``docs/how-to/calibrate.md``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from joulelab.arrays import Bools, Floats, Indices
from joulelab.energy.signal import Pace, pace_of, updates
from joulelab.errors import UserError

HUBER = 1.345
"""Residuals beyond this many standard deviations count by their size instead of their square; 95 %
efficient for normal errors (Huber, Robust Statistics, 1981)."""
MAD_TO_SIGMA = 1.4826  # Standard deviation over the median absolute deviation, normal distribution.
REWEIGHTINGS = 8

LEAST_UPDATES = 30
LEAST_CONTRAST = 0.1  # Power must vary by this share of its maximum to separate gain from offset.
LONGEST_WINDOW_S = 1.5  # Somewhat longer than the longest known window of NVIDIA's boards, 1 s.
WINDOW_SHARE = 0.1  # The longest window to try is this share of the time that both logs cover.
MOST_SEARCHED = 4000  # Updates used to search the grid; the result uses all of them.
LEAST_WINDOW = 2.5  # A meter resolves a window if it has more than this many readings within it.
STEADY_SHARE = 0.03  # Power that changes by less than this share of its range is steady.
REFINEMENTS = 5
PLAUSIBLE_GAIN = (0.7, 1.4)
"""A window and a delay that need another gain are wrong. Boards are known to be off by up to 13 %;
a load that repeats in step with the sensor fits many wrong pairs."""
LEAST_RESOLVED = 8.0  # Effective number of readings within changes of power that resolve a window.

Pair = tuple[float, float]
"""A window and a delay, in seconds."""


@dataclass(frozen=True, slots=True)
class Fit:
    """What :class:`joulelab.sensors.calibration.Calibration` describes, before it is saved."""

    gain: float
    offset_w: float
    delay_s: float
    window_s: float
    window_resolved: bool  # Whether enough readings are within changes of power.
    update_period_s: float
    covariance: Floats  # Of gain, offset and delay. Shape: (3, 3).
    residual_w: float
    mean_power_w: float  # True mean power at the readings.
    low_w: float
    high_w: float


@dataclass(frozen=True, slots=True)
class MeterLog:
    """An external meter's readings: times in order, and the energy since the first of them."""

    time_s: Floats
    energy_j: Floats

    @classmethod
    def of_power(cls, t_s: Floats, power_w: Floats) -> MeterLog:
        """Integrate power readings by the trapezoidal rule."""
        seen = np.isfinite(power_w)
        t_s, power_w = t_s[seen], power_w[seen]
        pieces = np.diff(t_s) * (power_w[1:] + power_w[:-1]) / 2
        return cls(t_s, np.concatenate(([0.0], np.cumsum(pieces))))

    @property
    def extent(self) -> str:
        """The time that the meter covers, for a message."""
        return f"from {self.time_s[0]:.9g} to {self.time_s[-1]:.9g} s"

    @property
    def resolution_s(self) -> float:
        """Median time between two readings."""
        return float(np.median(np.diff(self.time_s)))

    def energy(self, start_s: float, stop_s: float) -> float:
        """Return the energy from start to stop; NaN if the meter did not cover them."""
        if start_s < self.time_s[0] or stop_s > self.time_s[-1]:
            return math.nan
        at = np.interp([start_s, stop_s], self.time_s, self.energy_j)
        return float(at[1] - at[0])

    def mean_power(self, stop_s: Floats, window_s: float) -> Floats:
        """Return the mean power over the window before each time."""
        stop_j = np.interp(stop_s, self.time_s, self.energy_j)
        return np.asarray(
            (stop_j - np.interp(stop_s - window_s, self.time_s, self.energy_j)) / window_s
        )

    def power_range(self, stop_s: Floats, window_s: float) -> Floats:
        """Return the range of power from two readings before each window to two after it."""
        reach_s = 2 * self.resolution_s
        ends_s = np.arange(-window_s - reach_s, reach_s, self.resolution_s) + self.resolution_s
        powers = [self.mean_power(stop_s + end_s, self.resolution_s) for end_s in ends_s]
        return np.asarray(np.ptp(powers, axis=0))


def fit(t_s: Floats, reading_w: Floats, meter: MeterLog, clock_offset_s: float = 0.5) -> Fit:
    """Fit a sensor's readings, NaN where there is none, to a meter on the same clock or nearly.

    Delays up to ``clock_offset_s`` are tried, in both directions.

    Example:
        >>> t_s = np.arange(0, 40, 0.001)
        >>> true_w = np.where(np.floor(t_s / 3.3) % 2 > 0, 300.0, 100.0)
        >>> polls_s = np.arange(1.0, 40, 0.1)
        >>> reading_w = 0.95 * np.interp(polls_s - 0.03, t_s, true_w) + 4
        >>> found = fit(polls_s, reading_w, MeterLog.of_power(t_s, true_w))
        >>> round(found.gain, 3), round(found.offset_w, 1), abs(found.delay_s - 0.03) < 0.05
        (0.95, 4.0, True)
    """
    seen = np.isfinite(reading_w)
    t_s, reading_w = t_s[seen], reading_w[seen]
    pace = pace_of(t_s, reading_w)
    u_s, value_w = updates(t_s, reading_w, pace)
    model = _Model(u_s, value_w, meter, pace)
    # The readings of a slow meter may be late by the time between them.
    clock_offset_s = max(clock_offset_s, 2 * meter.resolution_s)
    covered_s = min(u_s[-1], meter.time_s[-1]) - max(u_s[0], meter.time_s[0])
    longest_s = min(LONGEST_WINDOW_S, WINDOW_SHARE * covered_s)
    if model.covered(longest_s, -clock_offset_s, clock_offset_s).sum() < LEAST_UPDATES:
        raise UserError(
            "the sensor's log and the meter's overlap too little",
            why=f"the sensor's goes from {u_s[0]:.9g} to {u_s[-1]:.9g} s, the meter's "
            f"{meter.extent}",
            hint="record ten seconds or more on one clock",
        )
    model.check_contrast()
    window_s, delay_s = model.search(longest_s, clock_offset_s)
    if abs(delay_s) > 0.98 * clock_offset_s:
        raise UserError(
            f"no delay within {clock_offset_s:g} s fits the two logs",
            why="their clocks are further apart",
            hint="increase --clock-offset, or put both on one clock",
        )
    return model.result(window_s, delay_s)


class _Model:
    """Readings, the meter, and how well a window and a delay fit them."""

    def __init__(self, u_s: Floats, value_w: Floats, meter: MeterLog, pace: Pace) -> None:
        self.u_s, self.value_w = u_s, value_w
        self.meter = meter
        self.period_s = pace.period_s
        self.poll_s = pace.interval_s / math.sqrt(12) if pace.polled else 0.0
        self.shortest_s = max(2 * meter.resolution_s, 1e-4)

    def covered(self, window_s: float, least_delay_s: float, most_delay_s: float) -> Bools:
        """Select the updates whose window is within the meter's log for all these delays."""
        first = self.u_s - most_delay_s - window_s >= self.meter.time_s[0]
        return np.asarray(first & (self.u_s - least_delay_s <= self.meter.time_s[-1]))

    def check_contrast(self) -> None:
        """Raise a :class:`UserError` if true power varies too little."""
        true_w = self.meter.mean_power(self.u_s[self.covered(self.period_s, 0, 0)], self.period_s)
        low_w, high_w = np.quantile(true_w, (0.05, 0.95))
        if high_w - low_w < LEAST_CONTRAST * high_w:
            raise UserError(
                "power varies too little to separate gain from offset",
                why=f"it is between {low_w:.4g} and {high_w:.4g} W",
                hint="record the board both idle and busy",
            )

    def search(self, longest_s: float, clock_offset_s: float) -> Pair:
        """Find the window and delay with the least residuals (L1), on ever finer grids."""
        # The window shows at any change of power, so a few lengths are enough to begin with.
        longest_s = max(longest_s, 2 * self.shortest_s)
        windows = np.geomspace(self.shortest_s, longest_s, 9)
        step_s = min(self.period_s / 4, 0.02)
        steps = min(int(clock_offset_s / step_s), 200)
        delays = np.linspace(-clock_offset_s, clock_offset_s, 2 * max(steps, 10) + 1)
        window_s, delay_s = self._best((w, d) for w in windows for d in delays)
        ratio = windows[1] / windows[0]
        width_s = delays[1] - delays[0]
        for _ in range(REFINEMENTS):
            windows = window_s * np.geomspace(1 / ratio, ratio, 7)
            windows = windows[(windows >= self.shortest_s) & (windows <= longest_s)]
            # The middle of the window and its length are nearly independent.
            middles = delay_s + window_s / 2 + width_s * np.linspace(-1, 1, 9)
            pairs = ((w, m - w / 2) for w in windows for m in middles)
            window_s, delay_s = self._best(p for p in pairs if abs(p[1]) <= clock_offset_s)
            ratio, width_s = ratio**0.4, width_s * 0.4
        return window_s, delay_s

    def _best(self, candidates: Iterable[Pair]) -> Pair:
        """Return the pair that leaves the least residuals."""
        pairs = list(candidates)
        delays = [delay_s for _, delay_s in pairs]
        longest_s = max(window_s for window_s, _ in pairs)
        chosen = np.flatnonzero(self.covered(longest_s, min(delays), max(delays)))
        chosen = chosen[:: 1 + chosen.size // MOST_SEARCHED]
        losses = [self._loss(w, d, chosen) for w, d in pairs]
        if not math.isfinite(min(losses)):
            raise UserError(
                "the sensor's readings do not follow the meter's",
                why="no window and delay give a gain between "
                f"{PLAUSIBLE_GAIN[0]:g} and {PLAUSIBLE_GAIN[1]:g}",
                hint="check that both are of one board, in watts, and on one clock",
            )
        window_s, delay_s = pairs[int(np.argmin(losses))]
        return float(window_s), float(delay_s)

    def _loss(self, window_s: float, delay_s: float, chosen: Indices) -> float:
        true_w = self.meter.mean_power(self.u_s[chosen] - delay_s, window_s)
        value_w = self.value_w[chosen]
        gain, offset_w, _ = robust_line(true_w, value_w)
        if not PLAUSIBLE_GAIN[0] < gain < PLAUSIBLE_GAIN[1]:
            return math.inf
        return float(np.mean(np.abs(value_w - gain * true_w - offset_w)))

    def result(self, window_s: float, delay_s: float) -> Fit:
        """Fit gain and offset at a window and a delay, with the uncertainties of all."""
        chosen = self.covered(window_s, delay_s, delay_s)
        u_s, value_w = self.u_s[chosen], self.value_w[chosen]
        true_w = self.meter.mean_power(u_s - delay_s, window_s)
        low_w, high_w = np.quantile(true_w, (0.05, 0.95))
        gain, offset_w, weight = robust_line(true_w, value_w)
        left_w = value_w - gain * true_w - offset_w
        slopes = self._slopes(u_s, window_s, delay_s, gain)
        design = np.column_stack((true_w, np.ones_like(true_w), slopes))
        covariance = robust_covariance(design, left_w, weight)
        steady = self._steady(u_s - delay_s, window_s, high_w - low_w)
        if steady is not None:
            # A slow meter smooths a change differently than the sensor does.
            true_w, value_w = true_w[steady], value_w[steady]
            gain, offset_w, weight = robust_line(true_w, value_w)
            left_w = value_w - gain * true_w - offset_w
            line = np.column_stack((true_w, np.ones_like(true_w)))
            covariance[:2] = covariance[:, :2] = 0.0
            covariance[:2, :2] = robust_covariance(line, left_w, weight)
        # Each change of power shows the delay once, by a reading whose own time is not exact.
        poll_s = self.poll_s / math.sqrt(max(effective_count(slopes[:, 0]), 1.0))
        # A meter's reading may be of any time between the readings before and after it.
        covariance[2, 2] += poll_s**2 + (self.meter.resolution_s / math.sqrt(3)) ** 2
        return Fit(
            gain=gain,
            offset_w=offset_w,
            delay_s=delay_s,
            window_s=window_s,
            window_resolved=effective_count(slopes[:, 1]) >= LEAST_RESOLVED
            and window_s > LEAST_WINDOW * self.meter.resolution_s,
            update_period_s=self.period_s,
            covariance=covariance[:3, :3],
            residual_w=float(np.sqrt(np.mean(left_w**2))),
            mean_power_w=float(true_w.mean()),
            low_w=float(low_w),
            high_w=float(high_w),
        )

    def _steady(self, stop_s: Floats, window_s: float, contrast_w: float) -> Bools | None:
        """Select the updates far from any change if the meter is as slow as the sensor.

        ``None`` if the meter is faster, or if they do not include both low and high power.
        """
        if self.meter.resolution_s < self.period_s / 2:
            return None
        steady = self.meter.power_range(stop_s, window_s) < STEADY_SHARE * contrast_w
        true_w = self.meter.mean_power(stop_s, window_s)[steady]
        if true_w.size < LEAST_UPDATES or np.ptp(true_w) < contrast_w / 2:
            return None
        return np.asarray(steady)

    def _slopes(self, u_s: Floats, window_s: float, delay_s: float, gain: float) -> Floats:
        """Differentiate the readings by delay and window, in W/s. Shape: (updates, 2)."""
        step_s = max(self.shortest_s, self.period_s / 10)
        mean = self.meter.mean_power
        by_delay = mean(u_s - delay_s - step_s, window_s) - mean(u_s - delay_s + step_s, window_s)
        shorter_s = max(window_s - step_s, self.shortest_s)
        by_window = mean(u_s - delay_s, window_s + step_s) - mean(u_s - delay_s, shorter_s)
        return gain * np.column_stack(
            (by_delay / (2 * step_s), by_window / (window_s + step_s - shorter_s))
        )


def effective_count(slope: Floats) -> float:
    """Count the readings that determine a parameter, by their slopes (Kish): ``(Σ s²)² / Σ s⁴``.

    Example:
        >>> effective_count(np.array([0.0, 1, 1, 0])), effective_count(np.zeros(3))
        (2.0, 0.0)
    """
    squares = slope**2
    return float(squares.sum() ** 2 / (squares**2).sum()) if squares.any() else 0.0


def robust_line(x: Floats, y: Floats) -> tuple[float, float, Floats]:
    """Fit slope and intercept by Huber's reweighted least squares; return them and the weights."""
    weight = np.ones_like(x)
    slope, intercept = 1.0, 0.0
    for _ in range(REWEIGHTINGS):
        total = weight.sum()
        x_mean, y_mean = (weight @ x) / total, (weight @ y) / total
        spread = weight @ (x - x_mean) ** 2
        slope = float((weight @ ((x - x_mean) * (y - y_mean))) / spread) if spread > 0 else 1.0
        intercept = float(y_mean - slope * x_mean)
        left = np.abs(y - slope * x - intercept)
        sigma = MAD_TO_SIGMA * float(np.median(left))
        if sigma == 0:
            break
        weight = np.minimum(1.0, HUBER * sigma / np.maximum(left, HUBER * sigma))
    return slope, intercept, weight


def robust_covariance(design: Floats, left: Floats, weight: Floats) -> Floats:
    """Compute the covariance of a weighted fit whose residuals are autocorrelated.

    White's sandwich with Bartlett's weights over lags (Newey and West, Econometrica 55, 1987), up
    to the lag at which the residuals are no longer correlated, at most a tenth of them. ``design``
    has the derivatives of the readings by the parameters, ``left`` the residuals.
    """
    bread = np.linalg.pinv((design * weight[:, None]).T @ design)
    score = design * (weight * left)[:, None]
    lags = _correlated_lags(weight * left)
    meat = score.T @ score
    for lag in range(1, lags + 1):
        both = score[lag:].T @ score[:-lag]
        meat += (1 - lag / (lags + 1)) * (both + both.T)
    return np.asarray(bread @ meat @ bread)


def _correlated_lags(left: Floats) -> int:
    most = left.size // 10
    centred = left - left.mean()
    power = float(centred @ centred)
    for lag in range(1, most + 1):
        if float(centred[lag:] @ centred[:-lag]) <= 0.05 * power:
            return lag
    return most
