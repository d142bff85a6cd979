"""The data that a run sends and receives, reads and writes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self, TypedDict, cast

import numpy as np

from joulelab.arrays import Floats, Indices, Integers
from joulelab.energy.window_union import merge_ranges
from joulelab.format import join_words, quantity
from joulelab.recording.span_columns import Windows
from joulelab.recording.trace import Trace
from joulelab.recording.trace_spans import Window
from joulelab.sensors.sensor import DataPlace, Quantity
from joulelab.validation import NotNegative

DIRECTIONS = (Quantity.SENT, Quantity.RECEIVED, Quantity.READ, Quantity.WRITTEN)
_PLACES = frozenset(DataPlace)
NOTABLE_BYTES = 1e7
"""Every program reads and writes a few megabytes: less is not shown to people."""
_TEXTS = {
    DataPlace.NETWORK: "over the network (whole machine)",
    DataPlace.RDMA: "by RDMA (whole machine)",
    DataPlace.LOOPBACK: "within the machine (whole machine)",
    DataPlace.FILES: "in files",
    DataPlace.DISKS: "on disks",
}
_VERBS = {
    Quantity.SENT: "sent",
    Quantity.RECEIVED: "received",
    Quantity.READ: "read",
    Quantity.WRITTEN: "wrote",
}

StoredVolume = tuple[NotNegative, NotNegative, NotNegative]


class StoredVolumes(TypedDict, total=False):
    """Bytes by direction in a record, each with its limits."""

    sent_bytes: StoredVolume
    received_bytes: StoredVolume
    read_bytes: StoredVolume
    written_bytes: StoredVolume


StoredExchange = dict[DataPlace, StoredVolumes]


class DataVolume(NamedTuple):
    """A number of bytes, within limits.

    Counters are read about once a second. Between two readings the rate is taken as constant; the
    limits are what was counted if all bytes in between were outside, or inside.
    """

    value: float
    low: float
    high: float

    def plus(self, other: DataVolume) -> DataVolume:
        """Return the sum."""
        return DataVolume(self.value + other.value, self.low + other.low, self.high + other.high)


@dataclass(frozen=True, slots=True)
class DataExchange:
    """What was exchanged in some time, in bytes; what was not counted is missing.

    Example:
        >>> volume = DataVolume(12.3e9, 12.2e9, 12.4e9)
        >>> exchanged = DataExchange({(DataPlace.NETWORK, Quantity.RECEIVED): volume})
        >>> exchanged.over_network.value, list(exchanged.lines())
        (12300000000.0, ['received 12.3 GB over the network (whole machine)'])
    """

    # By place and direction. Places are ``"network"`` and ``"rdma"`` (what leaves the machine),
    # ``"loopback"`` (what does not), all of the whole machine, and of the job's processes
    # ``"files"`` (through system calls) and ``"disks"`` (what of it came from or went to disks).
    volumes: Mapping[tuple[DataPlace, Quantity], DataVolume]

    @property
    def over_network(self) -> DataVolume:
        """What left or reached the machine, sent and received."""
        total = DataVolume(0.0, 0.0, 0.0)
        for (place, _), volume in self.volumes.items():
            if place in (DataPlace.NETWORK, DataPlace.RDMA):
                total = total.plus(volume)
        return total

    def lines(self) -> Iterator[str]:
        """Describe each place with a notable number of bytes in a line."""
        for place in DataPlace:
            parts = [
                f"{_VERBS[way]} {quantity(self.volumes[place, way].value, 'B')}"
                for way in DIRECTIONS
                if (place, way) in self.volumes and self.volumes[place, way].value >= NOTABLE_BYTES
            ]
            if parts:
                yield f"{join_words(parts)} {_TEXTS[place]}"

    def to_json(self) -> StoredExchange:
        """Return plain values, by place and direction."""
        data: StoredExchange = {}
        for (place, way), volume in self.volumes.items():
            by_direction: Any = data.setdefault(place, {})
            by_direction[way.value] = tuple(volume)
        return data

    @classmethod
    def of_stored(cls, data: StoredExchange) -> Self:
        """Read what :meth:`to_json` returned."""
        volumes = {}
        for place, by_direction in data.items():
            for way, volume in by_direction.items():
                limits = cast("StoredVolume", volume)
                volumes[DataPlace(place), Quantity(way)] = DataVolume(*limits)
        return cls(volumes)


def data_exchanged(
    trace: Trace, windows: Sequence[Window], *, is_whole: bool = False
) -> DataExchange:
    """Return the data that was exchanged within windows of time. Time in several counts once.

    Args:
        trace: The recording.
        windows: On CLOCK_MONOTONIC.
        is_whole: Whether the job begins and ends with the windows, so that what was exchanged
            around them is its own.
    """
    columns = Windows.of(windows)
    if not columns.are_apart:
        columns = Windows(*merge_ranges(np.column_stack((columns.start_ns, columns.stop_ns))).T)
    moments: dict[bytes, _Moments] = {}
    found = {}
    for i, channel in enumerate(trace.channels):
        if channel.quantity not in DIRECTIONS or channel.component not in _PLACES:
            continue
        readings = trace.series[i]
        seen = np.isfinite(readings.value)
        if np.count_nonzero(seen) < 2:
            continue
        t_ns = readings.t_ns[seen]
        # The counters of a sensor are read at the same moments.
        key = t_ns.tobytes()
        if key not in moments:
            moments[key] = _Moments.of(columns, t_ns)
        # An interface that is removed takes its bytes with it.
        growth = np.maximum(np.diff(readings.value[seen]), 0.0)
        counter = np.concatenate(([0.0], np.cumsum(growth)))
        found[DataPlace(channel.component), channel.quantity] = moments[key].grown(
            counter, is_whole=is_whole
        )
    return DataExchange(found)


@dataclass(frozen=True, slots=True)
class _Moments:
    """Where windows start and stop between readings; beyond the ends, at the first and the last.

    Each is the reading before, the one after, and the part of the time between them that has
    passed. Shapes: (windows,).
    """

    start: tuple[Indices, Indices, Floats]
    stop: tuple[Indices, Indices, Floats]

    @classmethod
    def of(cls, windows: Windows, t_ns: Integers) -> Self:
        """Find the windows among the times of readings."""
        return cls(_between(windows.start_ns, t_ns), _between(windows.stop_ns, t_ns))

    def grown(self, counter: Floats, *, is_whole: bool) -> DataVolume:
        """Return how much a counter grew within the windows, or from and to the readings around."""
        starts, stops = (
            counter[before] + part * (counter[after] - counter[before])
            for before, after, part in (self.start, self.stop)
        )
        least = np.maximum(counter[self.stop[0]] - counter[self.start[1]], 0.0)
        most = counter[self.stop[1]] - counter[self.start[0]]
        value = most if is_whole else stops - starts
        return DataVolume(float(value.sum()), float(least.sum()), float(most.sum()))


def _between(at_ns: Integers, t_ns: Integers) -> tuple[Indices, Indices, Floats]:
    last = t_ns.size - 1
    after = np.searchsorted(t_ns, at_ns, side="left").clip(0, last)
    before = np.where(t_ns[after] > at_ns, after - 1, after).clip(0, last)
    length_ns = np.maximum(t_ns[after] - t_ns[before], 1)
    part = np.clip((at_ns - t_ns[before]) / length_ns, 0.0, 1.0)
    return before, after, part
