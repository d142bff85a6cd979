"""Energies of any number of spans, read off a component's curve.

Where a million spans need all detail of a day, its curve takes a gigabyte. Spans are then read in
parts: consecutive ones off the curve of the readings around them, several parts at a time, and
those that are longer than a part off the thinned curve of the whole recording.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from joulelab.arrays import Bools, Floats, Indices
from joulelab.energy.signal import ComponentCurve, Source, energy_curve, is_long
from joulelab.energy.signal.thinning import HOLE_GRID_REACH, window_readings
from joulelab.parallel import each
from joulelab.recording.trace import Readings

SPANS_AT_A_TIME = 1 << 14  # They, and the readings around them, fit a processor's cache.
MANY_SPANS = 4 * SPANS_AT_A_TIME  # Fewer spans are read off one curve.


class SpanEnergies(NamedTuple):
    """Energies of spans. Shapes: (spans,)."""

    gross_j: Floats
    uncertainty_j: Floats  # Standard uncertainty of the edges.
    gap_s: Floats
    unread_s: Floats  # Further time without readings, whose energy is known.

    @classmethod
    def empty(cls, n: int) -> SpanEnergies:
        """Make room for n spans."""
        return cls(*np.empty((4, n)))

    def put(self, at: Indices | slice, found: SpanEnergies) -> None:
        """Set the energies of some spans."""
        for column, values in zip(self, found, strict=True):
            column[at] = values


class SpanTimes:
    """Starts and stops of spans.

    Args:
        times_s: Shape: (spans, 2).
        off_s: Standard uncertainty of the clock of these times. Shape: (spans,).
    """

    def __init__(self, times_s: Floats, off_s: Floats | None = None) -> None:
        self.times_s, self.off_s = times_s, off_s

    def __len__(self) -> int:
        return len(self.times_s)

    @cached_property
    def order(self) -> Indices:
        """The order in which the spans begin."""
        return np.argsort(self.times_s[:, 0], kind="stable")

    def at(self, some: Indices) -> SpanTimes:
        """Select spans."""
        return SpanTimes(self.times_s[some], None if self.off_s is None else self.off_s[some])


def span_energies(
    sources: Sequence[Source],
    curve_of: Callable[[Floats], ComponentCurve | None],
    spans: SpanTimes,
) -> tuple[ComponentCurve, SpanEnergies] | None:
    """Return the energies of spans and the curve of the recording; ``None`` without a curve.

    Args:
        sources: Of the component.
        curve_of: Returns the recording's curve, which is exact near these times.
        spans: On the clock that the component works by.
    """
    found = SpanEnergies.empty(len(spans))
    left = np.arange(len(spans))
    if len(left) > MANY_SPANS and any(is_long(one.readings) for one in sources):
        left = _read_in_parts(sources, spans, found)
    curve = curve_of(spans.times_s[left].reshape(-1))
    if curve is None:
        return None
    for first in range(0, left.size, SPANS_AT_A_TIME):
        some = left[first : first + SPANS_AT_A_TIME]
        found.put(some, _read(curve, spans.at(some)))
    return curve, found


def _read(curve: ComponentCurve, spans: SpanTimes) -> SpanEnergies:
    start_s, stop_s = np.ascontiguousarray(spans.times_s.T)
    energy_j, uncertainty_j, gap_s = curve.energy(start_s, stop_s)
    if spans.off_s is not None and spans.off_s.any():
        # Of the edges moved to either side, the one that changes more (GUM 5.1.3, note 2).
        early, here, late = (
            curve.curve.energy_between(start_s + off_s, stop_s + off_s)
            for off_s in (-spans.off_s, 0.0, spans.off_s)
        )
        clock_j = np.maximum(np.abs(early - here), np.abs(late - here))
        uncertainty_j = np.hypot(uncertainty_j, clock_j)
    return SpanEnergies(energy_j, uncertainty_j, gap_s, curve.unread_s(start_s, stop_s))


def _read_in_parts(sources: Sequence[Source], spans: SpanTimes, found: SpanEnergies) -> Indices:
    """Read consecutive spans off the readings around them; return which spans are left."""
    order = spans.order
    parts = [
        order[first : first + SPANS_AT_A_TIME] for first in range(0, order.size, SPANS_AT_A_TIME)
    ]

    def read(part: Indices) -> Indices:
        times_s = spans.times_s[part]
        first_s, last_s = times_s[[0, -1], 0].tolist()
        is_short: Bools = times_s[:, 1] - times_s[:, 0] <= last_s - first_s
        own, left = part[is_short], part[~is_short]
        short = spans.at(own)
        stop_s = float(short.times_s[:, 1].max(initial=last_s))
        near = [_between(one, first_s, stop_s) for one in sources]
        try:
            curve = energy_curve(near, short.times_s.reshape(-1))
        except (ArithmeticError, ValueError):
            return part
        if curve is None or not curve.curve.time_s[0] <= first_s < stop_s <= curve.curve.time_s[-1]:
            return part
        found.put(own, _read(curve, short))
        return left

    return np.asarray(np.concatenate(each(read, parts)))


def _between(source: Source, start_s: float, stop_s: float) -> Source:
    """Select the readings of a source between two times, and as many around them as matter."""
    t_ns, value = source.readings
    reach = HOLE_GRID_REACH + window_readings(source.channel, source.interval_s)
    ends_ns = np.rint(np.array((start_s, stop_s)) * 1e9).astype(np.int64)
    first, after = np.searchsorted(t_ns, ends_ns).tolist()
    some = slice(max(first - reach, 0), after + reach)
    near = Readings(t_ns[some], value[some])
    points = source.points
    if near.t_ns.size:
        points = points.between(*(near.t_ns[[0, -1]] * 1e-9).tolist())
    return replace(source, readings=near, points=points)
