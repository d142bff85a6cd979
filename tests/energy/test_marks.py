"""Splitting a sensor's intervals where the program says that something changed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulelab.energy.signal.change_points import split_at_change_points


def split(powers, marks, usable=None):
    edges = np.arange(len(powers) + 1, dtype=float)
    power = np.array(powers, dtype=float)
    usable = np.ones(len(powers), dtype=bool) if usable is None else np.array(usable)
    return split_at_change_points(edges, power, usable, np.array(marks, dtype=float))


@given(
    st.lists(st.floats(0, 1000), min_size=1, max_size=12),
    st.lists(st.floats(0.0, 12.0), max_size=20, unique=True),
)
def test_every_interval_keeps_its_energy_and_no_power_is_negative(powers, marks):
    parts = split(powers, sorted(marks))
    energy = np.bincount(parts.interval, np.diff(parts.edges) * parts.power, len(powers))
    assert energy == pytest.approx(np.array(powers), abs=1e-6)
    assert (parts.power >= 0).all()
    assert (np.diff(parts.edges) > 0).all()


def test_a_step_at_a_mark_is_found():
    parts = split([100, 100, 250, 500, 500], [2.625])
    assert parts.power[2:4] == pytest.approx([100, 500])


def test_a_burst_within_one_interval_gets_its_joules():
    parts = split([100, 100, 400, 100, 100], [2.2, 2.8])
    assert parts.power[2:5] == pytest.approx([100, 600, 100], rel=0.02)


def test_a_mark_where_nothing_changed_changes_nothing():
    parts = split([300, 300, 300], [1.3])
    assert parts.power == pytest.approx([300] * 4)


def test_a_step_at_an_intervals_edge_is_not_moved_to_a_mark():
    parts = split([420, 420, 420, 120, 120], [2.3])
    assert parts.power[2:4] == pytest.approx([420, 420])
    parts = split([420, 420, 420, 120, 120], [2.3, 2.6])
    assert parts.power[2:5] == pytest.approx([420, 420, 420])


def test_a_mark_that_does_not_explain_the_mean_is_not_believed():
    parts = split([100, 100, 250, 500, 500], [2.05])
    assert parts.power[2:4] == pytest.approx([250, 250])


def test_gaps_are_neither_split_nor_believed():
    parts = split([100, 100, 250, 500, 500], [2.625], usable=[True, True, False, True, True])
    assert parts.power.tolist() == [100, 100, 250, 500, 500]


def test_spans_closer_than_the_sensor_looks_share_by_time():
    parts = split([300, 420, 310], np.linspace(0.05, 2.95, 59))
    for interval, power in enumerate([300, 420, 310]):
        assert parts.power[parts.interval == interval] == pytest.approx(power)
