"""Readings that are averages over many update periods, and the marks at which power changed.

Such a reading (the 1 s average of nvidia-smi, renewed each 0.1 s) shows a step of power as a ramp
as long as its window W. In the middle of the ramp, energy that belongs after a mark seems to lie
before it, and the other way round: for a step from a to b at the mark, (b - a) W / 8. Where a whole
window lies undisturbed on either side, a and b are known readings, and the step is put back.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from joulelab.accounting.account import Accounts, Window
from joulelab.accounting.csv_table import Floats
from joulelab.accounting.energy import Energy
from joulelab.accounting.updates import Pace, updates
from joulelab.recording.trace import RECORD, Trace
from joulelab.sensors.sensor import Channel, Quantity

LEAST_PERIODS = 1.5
"""A window of fewer update periods smears nothing over its neighbours."""
NEAR_PERIODS = 2.0
"""A reading further than this from a mark's window says nothing of it."""


def energies_of(trace: Trace, windows: Sequence[Window]) -> list[Energy]:
    """The energy of each span of a trace whose spans' edges are the only known change points.

    A span between two marks at which the steps of every averaging channel can be put back gets
    its energy from them; any other as :class:`~joulelab.accounting.account.Accounts` works it out.

    Args:
        trace: The readings.
        windows: The spans, on the trace's clock.
    """
    marks_ns = np.unique([edge for one in windows for edge in (one.start_ns, one.stop_ns)])
    sharp, done = _sharp_trace(trace, marks_ns * 1e-9)
    known = set(marks_ns[done].tolist())
    of_sharp = [one.start_ns in known and one.stop_ns in known for one in windows]
    energies: list[Energy | None] = [None] * len(windows)
    for chosen, readings in ((True, sharp), (False, trace)):
        positions = [i for i, is_sharp in enumerate(of_sharp) if is_sharp is chosen]
        if positions:
            accounts = Accounts(readings, marks_ns=marks_ns)
            found = accounts.energies([windows[i] for i in positions])
            for i, energy in zip(positions, found, strict=True):
                energies[i] = energy
    return [energy for energy in energies if energy is not None]


def _sharp_trace(trace: Trace, marks_s: Floats) -> tuple[Trace, NDArray[np.bool_]]:
    """The trace with sharpened channels, and at which marks all of them could be."""
    done = np.ones(marks_s.size, dtype=bool)
    averaged = [i for i, channel in enumerate(trace.channels) if is_averaged(channel)]
    if not averaged:
        return trace, np.zeros(marks_s.size, dtype=bool)
    channels = list(trace.channels)
    intervals_s = list(trace.header["intervals_s"])
    kept = trace.records[~np.isin(trace.records["channel"], averaged)]
    parts = [kept]
    for i in averaged:
        t_ns, value = trace.series(i)
        channels[i], t_s, sharp_w, could = sharpened(
            channels[i], t_ns * 1e-9, value, intervals_s[i], marks_s
        )
        done &= could
        intervals_s[i] = channels[i].update_period_s
        part = np.zeros(t_s.size, dtype=RECORD)
        part["t_ns"], part["value"], part["channel"] = np.rint(t_s * 1e9), sharp_w, i
        parts.append(part)
    header = {**trace.header, "intervals_s": intervals_s}
    sharp = replace(trace, channels=tuple(channels), records=np.concatenate(parts), header=header)
    return sharp, done


def is_averaged(channel: Channel) -> bool:
    """Whether a channel's readings overlap each other."""
    return (
        channel.quantity is Quantity.POWER
        and channel.window_s > LEAST_PERIODS * channel.update_period_s
    )


def clusters(marks_s: Floats, period_s: float) -> tuple[Floats, Floats]:
    """Marks less than a period apart taken together: where each cluster begins and ends.

    Args:
        marks_s: In order. Shape: (marks,).
        period_s: Of the sensor.

    Example:
        >>> clusters(np.array([1.0, 1.01, 5.0]), 0.1)
        (array([1., 5.]), array([1.01, 5.  ]))
    """
    apart = np.flatnonzero(np.diff(marks_s) >= period_s)
    starts = marks_s[np.concatenate(([0], apart + 1))] if marks_s.size else marks_s
    stops = marks_s[np.concatenate((apart, [-1]))] if marks_s.size else marks_s
    return starts, stops


def sharpened(
    channel: Channel, t_s: Floats, value: Floats, interval_s: float, marks_s: Floats
) -> tuple[Channel, Floats, Floats, NDArray[np.bool_]]:
    """An averaging channel with the steps at its marks put back.

    Args:
        channel: For which :func:`is_averaged` is true.
        t_s: Times of the readings, in order. Shape: (readings,).
        value: Readings; NaN where there is none. Shape: (readings,).
        interval_s: How often they were taken.
        marks_s: Times at which power may have changed, in order. Shape: (marks,).

    Returns:
        The channel, times and values of the readings as means over one update period each; and for
        each mark whether its step could be put back: a whole window without another mark and with
        readings on either side. Shapes: (updates,) twice, (marks,).
    """
    seen = np.isfinite(value)
    period_s, window_s = channel.update_period_s, channel.window_s
    # A log slower than the sensor has no more than its own readings.
    pace = Pace(interval_s, period_s, channel.polled and interval_s < period_s)
    u_s, mean_w = updates(t_s[seen], value[seen], pace)
    cell_s = max(period_s, interval_s)
    end_s = u_s - channel.delay_s
    if channel.polled and not pace.polled:
        end_s = end_s - period_s / 2
    middle_s = end_s - window_s / 2
    sharp_w = mean_w.copy()
    starts, stops = clusters(marks_s, cell_s)
    done = np.zeros(starts.size, dtype=bool)
    before_s = np.concatenate(([-math.inf], stops[:-1]))
    after_s = np.concatenate((starts[1:], [math.inf]))
    alone = (starts - before_s >= window_s) & (after_s - stops >= window_s)
    for i in np.flatnonzero(alone):
        done[i] = _put_back(
            end_s, middle_s, mean_w, sharp_w, (starts[i], stops[i]), window_s, cell_s
        )
    which = np.searchsorted(starts, marks_s, side="right") - 1
    sharp = replace(
        channel,
        update_period_s=cell_s,
        window_s=cell_s,
        delay_s=0.0,
        polled=False,
        time_uncertainty_s=math.hypot(channel.time_uncertainty_s, _stamp_s(pace, channel)),
    )
    return sharp, middle_s + cell_s / 2, sharp_w, done[which] if marks_s.size else done


def _stamp_s(pace: Pace, channel: Channel) -> float:
    """How far off the time of an update may be: between two polls, or any time of a period."""
    if pace.polled:
        return pace.interval_s / math.sqrt(12)
    return channel.update_period_s / math.sqrt(12) if channel.polled else 0.0


def _put_back(
    end_s: Floats,
    middle_s: Floats,
    mean_w: Floats,
    sharp_w: Floats,
    mark_s: tuple[float, float],
    window_s: float,
    cell_s: float,
) -> bool:
    """Turns the ramp around a mark into a step of the same energy; false when it is not known."""
    first_s, last_s = mark_s
    near_s = NEAR_PERIODS * cell_s
    if not (_covered(end_s, first_s, near_s) and _covered(end_s, last_s + window_s, near_s)):
        return False
    step_w = np.interp(last_s + window_s, end_s, mean_w) - np.interp(first_s, end_s, mean_w)
    at_s = (first_s + last_s) / 2
    lo, hi = np.searchsorted(middle_s, (at_s - window_s / 2, at_s + window_s / 2))
    if (hi - lo) * cell_s < window_s / 2:
        return False
    share_after = np.clip((middle_s[lo:hi] + cell_s / 2 - at_s) / cell_s, 0.0, 1.0)
    sharp_w[lo:hi] = mean_w[lo:hi].mean() + step_w * (share_after - share_after.mean())
    return True


def _covered(end_s: Floats, at_s: float, near_s: float) -> bool:
    """Whether there are readings close to a time on both sides."""
    i = int(np.searchsorted(end_s, at_s))
    if i in (0, end_s.size):
        return False
    return bool(at_s - end_s[i - 1] <= near_s and end_s[i] - at_s <= near_s)
