"""Which intensity the energy of a trace met: each joule at the intensity of its own time."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

from joulelab.carbon.series import IntensitySeries
from joulelab.energy.estimator import Floats, energies_of
from joulelab.recording.trace import Readings, Trace
from joulelab.recording.trace_spans import Window
from joulelab.sensors.sensor import Quantity


def intensity_met(
    trace: Trace, series: IntensitySeries, start_unix_s: float, stop_unix_s: float
) -> float:
    """The mean intensity over the energy of a span, in g/kWh.

    The sum over the steps of the series of energy in the step times its intensity, over the
    energy of all steps. Energy that a component's sensor did not see in a step is taken to have
    met what the rest met.

    Args:
        trace: The readings, with those of the wall clock.
        series: Covers the span.
        start_unix_s: When the span began.
        stop_unix_s: When it ended.

    Returns:
        NaN when the trace has no wall clock or no energy within the span.
    """
    clock = _wall_clock(trace)
    steps = [step for step in series.steps(start_unix_s, stop_unix_s) if step[1] > step[0]]
    if clock is None or not steps:
        return math.nan
    edges_s = np.array([steps[0][0], *(stop_s for _, stop_s, _ in steps)])
    edges_ns = [int(t) for t in _monotonic_ns(clock, edges_s)]
    windows = [Window(*pair) for pair in pairwise(edges_ns)]
    energies = energies_of(trace, windows)
    parts = [
        (part.gross_j, step[2])
        for energy, step in zip(energies, steps, strict=True)
        for part in energy.components.values()
    ]
    total_j = math.fsum(gross_j for gross_j, _ in parts)
    if not total_j > 0:
        return math.nan
    return math.fsum(gross_j * intensity for gross_j, intensity in parts) / total_j


def _wall_clock(trace: Trace) -> Readings | None:
    """What the wall clock was ahead of CLOCK_MONOTONIC by, over time."""
    for channel, readings in zip(trace.channels, trace.series, strict=True):
        if channel.quantity is Quantity.CLOCK_OFFSET and channel.source == "clock.realtime":
            seen = np.isfinite(readings.value)
            if seen.any():
                return Readings(readings.t_ns[seen], readings.value[seen])
    return None


def _monotonic_ns(clock: Readings, unix_s: Floats) -> Floats:
    """Times of the wall clock on CLOCK_MONOTONIC.

    A time that the wall clock skipped when it was set is that of the reading after; of two times
    that it showed twice, the later is meant.
    """
    wall_s = np.maximum.accumulate(clock.t_ns * 1e-9 + clock.value)
    at = np.clip(np.searchsorted(wall_s, unix_s, side="right") - 1, 0, wall_s.size - 1)
    next_ns = np.append(clock.t_ns[1:], np.inf)
    return np.asarray(np.minimum(np.round((unix_s - clock.value[at]) * 1e9), next_ns[at]))
