"""Readings and spans that are drawn: fewer of them, and the same picture."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from joulelab.report.charts.reduction import merged_bars, reduced_positions

VALUES = arrays(float, st.integers(1, 400), elements=st.floats(0, 1e3))


@st.composite
def readings(draw):
    values = draw(VALUES)
    steps = arrays(float, values.size, elements=st.floats(0, 10))
    return np.cumsum(draw(steps)), values


@settings(deadline=None)
@given(readings(), st.integers(1, 20))
def test_the_first_last_least_and_greatest_of_each_part_are_kept(series, buckets):
    t_s, values = series
    positions = reduced_positions(t_s, values, buckets)
    assert (np.diff(positions) > 0).all()
    assert len(positions) <= 4 * buckets
    part_s = (t_s[-1] - t_s[0]) / buckets
    if values.size <= 4 * buckets or part_s == 0:
        return
    part = np.minimum((t_s - t_s[0]) * (buckets / (t_s[-1] - t_s[0])), buckets - 1).astype(int)
    for one in np.unique(part):
        own = np.flatnonzero(part == one)
        kept = np.intersect1d(own, positions)
        assert own[0] in kept
        assert own[-1] in kept
        assert values[kept].min() == values[own].min()
        assert values[kept].max() == values[own].max()


@settings(deadline=None)
@given(VALUES, st.data())
def test_merged_bars_cover_the_same_pixels(lengths, data):
    starts = data.draw(arrays(float, lengths.size, elements=st.floats(0, 1e4)))
    pixel_s = data.draw(st.floats(1, 100))
    start_s, stop_s, number = merged_bars(starts, starts + lengths, pixel_s)
    assert number.sum() == lengths.size
    assert (np.diff(start_s) >= 0).all()
    # Every bar lies in one that is drawn, to the pixel, and what is drawn begins and ends with one.
    for start, stop in zip(starts, starts + lengths, strict=True):
        assert ((start_s <= start + pixel_s) & (stop_s >= stop - pixel_s)).any()
    assert np.isin(start_s, starts).all()
    assert np.isin(stop_s, starts + lengths).all()


def test_a_hundred_thousand_steps_are_few_bars():
    starts = np.arange(100_000) * 0.01
    start_s, stop_s, number = merged_bars(starts, starts + 0.009, pixel_s=1.0)
    assert start_s.tolist() == [0]
    assert stop_s[0] == starts[-1] + 0.009
    assert number.tolist() == [100_000]
