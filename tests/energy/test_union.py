"""Times that several processes share count once."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulelab.energy.estimator import EnergyEstimator, WindowUnion, energy_of_union, merge_ranges
from joulelab.recording.trace import Trace
from joulelab.recording.trace_spans import Window
from joulelab.sensors.sensor import Channel, Provenance, Quantity, Reading

S = 10**9


def constant(component, power_w):
    channel = Channel(
        component=component,
        quantity=Quantity.ENERGY,
        source="counter",
        provenance=Provenance.SIMULATED,
        update_period_s=0.1,
    )
    return channel, power_w


@pytest.fixture(scope="module")
def accounts():
    channels = [constant("gpu:0", 300.0), constant("cpu:0", 50.0)]
    readings = [
        Reading(i * S // 10, position, power_w * i / 10)
        for i in range(1001)
        for position, (_, power_w) in enumerate(channels)
    ]
    return EnergyEstimator(Trace.of([channel for channel, _ in channels], readings))


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 20)), max_size=12))
def test_a_union_has_each_time_once(pairs):
    intervals = [(start, start + length) for start, length in pairs]
    found = merge_ranges(intervals).tolist()
    inside = {t for a, b in intervals for t in range(a, b)}
    assert {t for a, b in found for t in range(a, b)} == inside
    assert sum(b - a for a, b in found) == len(inside)
    assert all(before[1] < after[0] for before, after in pairwise(found))


@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 20)), min_size=1, max_size=8),
    st.lists(st.integers(0, 80), max_size=4),
)
def test_parts_of_a_time_make_the_whole(pairs, cuts):
    times = WindowUnion.of([Window(start, start + length) for start, length in pairs])
    edges = [0, *sorted(cuts), 100]
    parts = [times.within(start, stop) for start, stop in pairwise(edges)]
    lengths = [int((part.host[:, 1] - part.host[:, 0]).sum()) for part in parts if part]
    assert sum(lengths) == (times.host[:, 1] - times.host[:, 0]).sum()
    assert lengths


def test_ranks_in_one_epoch_at_one_time_count_it_once(accounts):
    energy = energy_of_union(
        accounts, WindowUnion.of([Window(10 * S, 20 * S), Window(12 * S, 22 * S)])
    )
    assert energy.duration_s == pytest.approx(12.0)
    assert energy.components["gpu:0"].gross_j == pytest.approx(3600.0)
    assert energy.components["cpu:0"].gross_j == pytest.approx(600.0)


def test_gpus_are_accounted_where_their_work_was(accounts):
    windows = [
        Window(10 * S, 20 * S, 11 * S, 23 * S, 1000),
        Window(12 * S, 22 * S),
    ]
    energy = energy_of_union(accounts, WindowUnion.of(windows))
    assert energy.components["gpu:0"].gross_j == pytest.approx(300.0 * 12)
    assert energy.components["cpu:0"].gross_j == pytest.approx(50.0 * 12)
    assert energy.components["gpu:0"].duration_s == pytest.approx(12.0)
    assert energy.duration_s == pytest.approx(12.0)
