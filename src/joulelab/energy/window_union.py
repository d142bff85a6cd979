"""Times that lie in at least one of several spans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from joulelab.recording.span_columns import Windows
from joulelab.recording.trace_spans import Window

TimeRanges = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class WindowUnion:
    """Times that lie in at least one of several windows, in disjoint ranges. Shapes: (ranges, 2).

    Ranks of a job are in the same epoch at the same time, and sensors read the whole host: adding
    up the energies of their spans would count it once for each rank.
    """

    host: TimeRanges  # Starts and stops on the host, CLOCK_MONOTONIC nanoseconds.
    device: TimeRanges  # The same on the GPUs.
    device_uncertainty_ns: int = 0  # Standard uncertainty of the latter.

    @classmethod
    def of(cls, windows: Sequence[Window]) -> Self:
        """Unite windows, at least one."""
        columns = Windows.of(windows)
        uncertainty_s = columns.device_uncertainty_s
        return cls(
            merge_ranges(np.column_stack((columns.start_ns, columns.stop_ns))),
            merge_ranges(columns.on_device_ns()),
            0 if uncertainty_s is None else round(float(uncertainty_s.max()) * 1e9),
        )

    def within(self, start_ns: int, stop_ns: int) -> Self | None:
        """Return the part between two times on the host; ``None`` if there is none."""
        host, device = (_clip(one, start_ns, stop_ns) for one in (self.host, self.device))
        if not len(host):
            return None
        if not len(device):
            # The GPUs did this work before or after.
            device = np.full((1, 2), host[0, 0])
        return replace(self, host=host, device=device)

    def outside(self, parts: Sequence[WindowUnion]) -> Self:
        """Return the part that is in none of some others; without any, the first moment."""
        host = _outside(self.host, [one.host for one in parts])
        device = _outside(self.device, [one.device for one in parts])
        if not len(host):
            host = self.host[:1, :1].repeat(2, axis=1)
        if not len(device):
            device = host[:1, :1].repeat(2, axis=1)
        others_ns = [one.device_uncertainty_ns for one in parts]
        uncertainty_ns = max([self.device_uncertainty_ns, *others_ns])
        return replace(self, host=host, device=device, device_uncertainty_ns=uncertainty_ns)


def merge_ranges(ranges: TimeRanges | Sequence[tuple[int, int]]) -> TimeRanges:
    """Merge overlapping ranges into disjoint ones, in order. Shape: (ranges, 2)."""
    times = np.asarray(ranges, dtype=np.int64).reshape(-1, 2)
    if not len(times):
        return times
    times = times[np.argsort(times[:, 0], kind="stable")]
    latest = np.maximum.accumulate(times[:, 1])
    begins = np.flatnonzero(np.concatenate(([True], times[1:, 0] > latest[:-1])))
    return np.column_stack((times[begins, 0], np.maximum.reduceat(times[:, 1], begins)))


def _clip(ranges: TimeRanges, start_ns: int, stop_ns: int) -> TimeRanges:
    """Return the ranges between two times. An empty range counts where it begins."""
    starts, stops = ranges[:, 0], ranges[:, 1]
    inside = (starts < stop_ns) & ((stops > start_ns) | (starts >= start_ns))
    return ranges[inside].clip(start_ns, stop_ns)


def _outside(ranges: TimeRanges, parts: Sequence[TimeRanges]) -> TimeRanges:
    """Return the times in disjoint ranges that are in none of the parts. Shape: (ranges, 2).

    Example:
        >>> _outside(np.array([(0, 10), (20, 30)]), [np.array([(2, 4)]), np.array([(8, 22)])])
        array([[ 0,  2],
               [ 4,  8],
               [22, 30]])
    """
    edges = np.concatenate([ranges.ravel(), *(one.ravel() for one in parts)])
    # +1 where a range begins, -1 where it ends; a part weighs more than all else.
    weights = [np.tile((1, -1), len(ranges))]
    weights += [np.tile((-2, 2), len(one)) for one in parts]
    order = np.argsort(edges, kind="stable")
    edges = edges[order]
    level = np.cumsum(np.concatenate(weights)[order])
    is_free = (level[:-1] == 1) & (edges[1:] > edges[:-1])
    return np.column_stack((edges[:-1][is_free], edges[1:][is_free]))
