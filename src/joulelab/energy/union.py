"""The energy of the time in which at least one of several processes was in a span.

Ranks of a job are in the same epoch at the same time, and sensors read the whole host: adding up
their spans' energies would count it once for each of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from joulelab.energy.energy import Energy
from joulelab.energy.estimator import EnergyEstimator
from joulelab.recording.trace_spans import TraceSpan, Window

Intervals = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Times:
    """Times that lie in at least one of several windows, each once.

    Attributes:
        host: Starts and stops on the host, CLOCK_MONOTONIC nanoseconds, apart and in order.
            Shape: (intervals, 2).
        device: The same on the GPUs. Shape: (intervals, 2).
        device_uncertainty_ns: Standard uncertainty of the latter.
    """

    host: Intervals
    device: Intervals
    device_uncertainty_ns: int = 0

    @classmethod
    def of(cls, windows: Sequence[Window]) -> Self:
        """The union of windows; at least one."""
        return cls(
            union_of([(window.start_ns, window.stop_ns) for window in windows]),
            union_of([_on_device(window) for window in windows]),
            max(window.device_uncertainty_ns for window in windows),
        )

    def within(self, start_ns: int, stop_ns: int) -> Self | None:
        """Those from one time to another, on the host; nothing where there are none."""
        host, device = (_within(one, start_ns, stop_ns) for one in (self.host, self.device))
        if not len(host):
            return None
        if not len(device):
            # The work of it was done on the GPUs before or after.
            device = np.full((1, 2), host[0, 0])
        return replace(self, host=host, device=device)


def energy_of_spans(accounts: EnergyEstimator, spans: Sequence[TraceSpan]) -> Energy:
    """The energy of all spans of one name: of one process their sum, of several their union.

    Args:
        accounts: Of the trace.
        spans: They ended; at least one.
    """
    windows = [span.window for span in spans]
    if len({span.key[0] for span in spans}) == 1:
        return accounts.total(windows)
    return energy_of_times(accounts, Times.of(windows))


def energy_of_times(accounts: EnergyEstimator, times: Times) -> Energy:
    """The energy of all these times: of GPUs by theirs, of everything else by the host's.

    The length is that on the host.
    """
    of_host = [Window(start, stop) for start, stop in times.host.tolist()]
    on_host = accounts.total(of_host)
    uncertainty_ns = times.device_uncertainty_ns
    if np.array_equal(times.host, times.device) and uncertainty_ns == 0:
        return on_host
    of_device = [
        Window(start, stop, start, stop, uncertainty_ns) for start, stop in times.device.tolist()
    ]
    on_device = accounts.total(of_device)
    parts = {
        name: part
        for energy, gpus in ((on_host, False), (on_device, True))
        for name, part in energy.components.items()
        if name.startswith("gpu") is gpus
    }
    absent = {**on_host.absent, **on_device.absent}
    return replace(
        on_host,
        components=dict(sorted(parts.items())),
        absent={name: why for name, why in absent.items() if name not in parts},
        notes=tuple(dict.fromkeys((*on_host.notes, *on_device.notes))),
    )


def union_of(intervals: Sequence[tuple[int, int]]) -> Intervals:
    """The times that lie in at least one interval, as intervals that are apart, in order.

    Args:
        intervals: Start and stop of each.

    Returns:
        Shape: (intervals, 2).

    Example:
        >>> union_of([(5, 7), (0, 2), (1, 3)]).tolist()
        [[0, 3], [5, 7]]
    """
    times = np.array(sorted(intervals), dtype=np.int64).reshape(-1, 2)
    if not len(times):
        return times
    latest = np.maximum.accumulate(times[:, 1])
    begins = np.flatnonzero(np.concatenate(([True], times[1:, 0] > latest[:-1])))
    return np.column_stack((times[begins, 0], np.maximum.reduceat(times[:, 1], begins)))


def _within(intervals: Intervals, start_ns: int, stop_ns: int) -> Intervals:
    """An empty interval counts to where it begins."""
    starts, stops = intervals[:, 0], intervals[:, 1]
    inside = (starts < stop_ns) & ((stops > start_ns) | (starts >= start_ns))
    return intervals[inside].clip(start_ns, stop_ns)


def _on_device(window: Window) -> tuple[int, int]:
    if window.device_start_ns is None or window.device_stop_ns is None:
        return window.start_ns, window.stop_ns
    return window.device_start_ns, window.device_stop_ns
