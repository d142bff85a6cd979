"""Splitting a sensor's intervals at change points, and the program's states between them."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from joulelab.energy.signal.change_points import (
    ChangePoints,
    count_within,
    cut,
    joined,
    split_at_change_points,
)


def split(powers, times, usable=None):
    edges = np.arange(len(powers) + 1, dtype=float)
    power = np.array(powers, dtype=float)
    usable = np.ones(len(powers), dtype=bool) if usable is None else np.array(usable)
    return split_at_change_points(edges, power, usable, np.array(times, dtype=float))


@given(
    st.lists(st.floats(0, 1000), min_size=1, max_size=12),
    st.lists(st.floats(0.0, 12.0), max_size=20, unique=True),
)
def test_every_interval_keeps_its_energy_and_no_power_is_negative(powers, times):
    parts = split(powers, sorted(times))
    energy = np.bincount(parts.interval, np.diff(parts.edges) * parts.power, len(powers))
    assert energy == pytest.approx(np.array(powers), abs=1e-6)
    assert (parts.power >= 0).all()
    assert (np.diff(parts.edges) > 0).all()


quarters = st.integers(0, 48).map(lambda quarter: quarter / 4)


@given(
    st.lists(quarters, min_size=2, max_size=20), st.lists(quarters), st.lists(quarters), st.data()
)
def test_usable_intervals_are_cut_at_the_change_points_within_them(edges, times, further, data):
    edges = np.array(sorted(edges))
    times = joined(np.unique(times), np.array(further))
    usable = np.array(data.draw(st.lists(st.booleans(), min_size=edges.size - 1,
                                         max_size=edges.size - 1)))  # fmt: skip
    new_edges, interval = cut(edges, *count_within(edges, usable, times), times)
    within = [
        time_s
        for one, (start_s, stop_s) in zip(usable, pairwise(edges), strict=True)
        for time_s in times
        if one and start_s < time_s < stop_s
    ]
    assert new_edges.tolist() == sorted([*edges, *within])
    middle_s = (new_edges[1:] + new_edges[:-1]) / 2
    assert ((edges[interval] <= middle_s) & (middle_s <= edges[interval + 1])).all()


@pytest.mark.parametrize(
    ("powers", "times", "expected"),
    [
        ([100, 100, 250, 500, 500], [2.625], [100, 500]),
        ([100, 100, 400, 100, 100], [2.2, 2.8], [100, 600, 100]),
        ([300, 300, 300, 300], [2.3], [300, 300]),
        ([420, 420, 420, 120, 120], [2.3], [420, 420]),
        ([420, 420, 420, 120, 120], [2.3, 2.6], [420, 420, 420]),
        ([100, 100, 250, 500, 500], [2.05], [250, 250]),
    ],
    ids=["a step", "a burst within one interval", "nothing changed", "a step at the edge",
         "a step at the edge, two change points", "a change point that does not explain the mean"],
)  # fmt: skip
def test_the_parts_of_an_interval(powers, times, expected):
    parts = split(powers, times)
    assert parts.power[parts.interval == 2] == pytest.approx(expected, rel=0.02)


def test_gaps_are_not_split_and_constrain_nothing():
    parts = split([100, 100, 250, 500, 500], [2.625], usable=[True, True, False, True, True])
    assert parts.power.tolist() == [100, 100, 250, 500, 500]


def test_change_points_in_every_interval_share_by_time():
    parts = split([300, 420, 310], np.linspace(0.05, 2.95, 59))
    for interval, power in enumerate([300, 420, 310]):
        assert parts.power[parts.interval == interval] == pytest.approx(power)


ms = st.integers(1, 10_000).map(lambda t_ms: t_ms / 1000)
one_span = st.tuples(st.sampled_from("abc"), ms, ms)
one_window = st.tuples(st.floats(-1, 12), st.just(0.0) | st.floats(0.01, 5))


@given(st.lists(one_span, min_size=1, max_size=20), st.lists(one_window, min_size=1, max_size=8))
@settings(max_examples=100, deadline=None)
def test_states_are_the_sets_of_open_spans(given_spans, windows):
    names = np.array([name for name, _, _ in given_spans])
    edges_s = np.array([(start, start + length) for _, start, length in given_spans])
    points = ChangePoints.of_spans(*np.unique(names, return_inverse=True), edges_s, np.zeros(0))
    begin_s = np.array([begin for begin, _ in windows])
    end_s = begin_s + np.array([length for _, length in windows])
    shares = points.state_shares(begin_s, end_s, points.states)
    assert shares.sum(axis=1) == pytest.approx(1.0)
    assert (shares > -1e-9).all()
    # Between two change points the set of open names is the same.
    middles = (points.time_s[1:] + points.time_s[:-1]) / 2
    open_names = [
        frozenset(names[(edges_s[:, 0] < middle_s) & (middle_s < edges_s[:, 1])])
        for middle_s in middles
    ]
    states = points.state[1:-1].tolist()
    for (names_a, state_a), (names_b, state_b) in pairwise(zip(open_names, states, strict=True)):
        assert (names_a == names_b) == (state_a == state_b)


def test_too_many_names_of_spans_are_one_state():
    starts = np.arange(100.0)
    names = [f"kind {i}" for i in range(100)]
    edges_s = np.stack((starts, starts + 0.5), axis=1)
    assert not ChangePoints.of_spans(names, np.arange(100), edges_s, np.zeros(0)).state.any()
