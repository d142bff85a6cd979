"""Fewer readings and spans that draw the same picture."""

from __future__ import annotations

import numpy as np

from joulelab.arrays import Floats, Indices, Integers

Positions = Indices


def reduced_positions(t_s: Floats, values: Floats, buckets: int) -> Positions:
    """Return the positions of the readings that draw the same line, in order.

    Of each of a number of equal parts of the time, these are the first, last, least and greatest
    reading: the line is the same on a screen with a pixel for each part (M4; Jugel et al., *M4: A
    Visualization-Oriented Time Series Data Aggregation*, PVLDB 7 (2014)).

    Args:
        t_s: Times in ascending order.
        values: Without NaN. Shape: as times.
        buckets: Number of parts.

    Example:
        >>> reduced_positions(np.arange(8.0), np.array([1.0, 2, 9, 0, 3, 4, 5, 6]), 1).tolist()
        [0, 2, 3, 7]
    """
    if values.size <= 4 * buckets:
        return np.arange(values.size)
    length_s = t_s[-1] - t_s[0]
    scale = buckets / length_s if length_s > 0 else 0.0
    bucket = np.minimum((t_s - t_s[0]) * scale, buckets - 1).astype(np.int64)
    firsts = np.flatnonzero(np.diff(bucket, prepend=-1))
    lasts = np.append(firsts[1:], values.size) - 1
    by_value = np.lexsort((values, bucket))
    return np.unique(np.concatenate((firsts, lasts, by_value[firsts], by_value[lasts])))


def merged_bars(start_s: Floats, stop_s: Floats, pixel_s: float) -> tuple[Floats, Floats, Integers]:
    """Merge bars that are too narrow to be drawn alone.

    Narrower ones than a pixel become one bar with those that follow within a pixel. Wider ones stay
    as they are, except that those with equal ends, to the pixel, become one.

    Args:
        start_s: Starts of bars, in any order.
        stop_s: Their ends.
        pixel_s: Time that a pixel shows.

    Returns:
        Starts, ends, and the number of bars in each, in order of their starts.

    Example:
        >>> start_s = np.array([0.0, 0.1, 5.0, 9.0])
        >>> [one.tolist() for one in merged_bars(start_s, start_s + [0.1, 0.1, 3, 0.1], 1.0)]
        [[0.0, 5.0, 9.0], [0.2, 8.0, 9.1], [2, 1, 1]]
    """
    order = np.argsort(start_s, kind="stable")
    start_s, stop_s = start_s[order], stop_s[order]
    is_narrow = stop_s - start_s < pixel_s
    narrow = _groups(start_s[is_narrow], stop_s[is_narrow], pixel_s)
    wide_start, wide_stop = start_s[~is_narrow], stop_s[~is_narrow]
    ends = np.round(np.column_stack((wide_start, wide_stop)) / pixel_s)
    _, first, number = np.unique(ends, axis=0, return_index=True, return_counts=True)
    parts = zip(narrow, (wide_start[first], wide_stop[first], number), strict=True)
    starts, stops, numbers = (np.concatenate(pair) for pair in parts)
    order = np.argsort(starts, kind="stable")
    return starts[order], stops[order], numbers[order]


def _groups(start_s: Floats, stop_s: Floats, gap_s: float) -> tuple[Floats, Floats, Integers]:
    """Unite what begins less than a gap after everything before it has ended."""
    if not start_s.size:
        return start_s, stop_s, np.zeros(0, np.int64)
    until_s = np.maximum.accumulate(stop_s)
    is_first = np.append(True, start_s[1:] - until_s[:-1] >= gap_s)
    firsts = np.flatnonzero(is_first)
    lasts = np.append(firsts[1:], start_s.size) - 1
    return start_s[firsts], until_s[lasts], lasts - firsts + 1
