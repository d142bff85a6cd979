"""Spans by name and nesting: counts, total and self energy."""

import math

import numpy as np
import pytest
from energy_parts import make_channel
from hypothesis import given, settings
from hypothesis import strategies as st

from joulelab.energy.estimator import EnergyEstimator
from joulelab.recording.trace import Trace
from joulelab.recording.trace_spans import TraceSpan
from joulelab.runs.span_tree import span_tree
from joulelab.sensors.sensor import Reading

POWER_W = 100.0
S = 10**9
CHANNEL = make_channel("cpu:0", source="simulated.power", window_s=0.1)


def trace_of(*spans):
    """A machine of 100 W that was read for 30 s."""
    readings = [Reading(channel=0, t_ns=i * S // 10, value=POWER_W) for i in range(301)]
    trace = Trace.of([CHANNEL], readings)
    return Trace(trace.channels, trace.series, spans=sorted(spans, key=lambda one: one.start_ns))


def tree_of(*spans):
    trace = trace_of(*spans)
    return span_tree(trace, EnergyEstimator(trace), 0, 30 * S)


def span(name, start_s, stop_s, index, parent=None, pid=1):
    key = None if parent is None else (pid, parent)
    return TraceSpan(name, round(start_s * S), round(stop_s * S), (pid, index), key)


def test_a_parent_has_by_itself_what_its_children_leave():
    nodes = tree_of(
        span("epoch", 1, 5, 0),
        span("data", 1, 2, 1, parent=0),
        span("step", 2, 4, 2, parent=0),
        span("epoch", 5, 9, 3),
        span("step", 5, 8, 4, parent=3),
        span("validate", 9, 10, 5),
        span("data", 9, 9.5, 6, parent=5),
    )
    rows = [(depth, one.name, one.total.count) for node in nodes for depth, one in node.walk()]
    assert rows == [
        (0, "epoch", 2),
        (1, "step", 2),
        (1, "data", 1),
        (0, "validate", 1),
        (1, "data", 1),
    ]
    epoch = nodes[0]
    assert epoch.total.gross_j == pytest.approx(8 * POWER_W)
    assert (epoch.self_s, epoch.mean_s) == pytest.approx((2.0, 4.0))
    assert epoch.self_j == pytest.approx(2 * POWER_W)
    low_j, high_j = epoch.self_interval_j
    assert low_j <= epoch.self_j <= high_j
    assert nodes[1].children[0].self_j == pytest.approx(0.5 * POWER_W)


def test_the_time_of_parallel_processes_counts_once():
    (epoch,) = tree_of(
        span("epoch", 0, 10, 0, pid=1),
        span("epoch", 0, 10, 0, pid=2),
        span("step", 1, 4, 1, parent=0, pid=1),
        span("step", 2, 6, 1, parent=0, pid=2),
    )
    assert (epoch.total.count, epoch.mean_s) == (2, 10.0)
    assert epoch.total.gross_j == pytest.approx(10 * POWER_W)
    assert epoch.children[0].total.gross_j == pytest.approx(5 * POWER_W)
    assert epoch.self_j == pytest.approx(5 * POWER_W)


def test_a_span_within_one_that_has_not_ended_is_an_outermost_one():
    (step,) = tree_of(TraceSpan("epoch", 0, None, (1, 0)), span("step", 1, 2, 1, parent=0))
    assert (step.name, step.total.gross_j) == ("step", pytest.approx(POWER_W))


def test_without_spans_or_readings():
    assert tree_of() == ()
    trace = Trace((), (), spans=[span("epoch", 0, 4, 0), span("step", 1, 2, 1, parent=0)])
    (epoch,) = span_tree(trace, EnergyEstimator(trace), 0, 30 * S)
    assert math.isnan(epoch.self_j)
    assert (epoch.total.duration_s, epoch.self_s) == (4.0, 3.0)
    assert epoch.to_json()["children"][0]["self_j"] is None


@st.composite
def nested_spans(draw):
    """Spans of one thread: each within its parent, without overlap."""
    spans = []

    def fill(start_s, stop_s, parent, depth):
        edges = draw(st.lists(st.floats(start_s, stop_s), max_size=6, unique=True))
        for begin_s, end_s in zip(sorted(edges)[::2], sorted(edges)[1::2], strict=False):
            index = len(spans)
            spans.append(span(draw(st.sampled_from("abc")), begin_s, end_s, index, parent))
            if depth < 3:
                fill(begin_s, end_s, index, depth + 1)

    fill(0.0, 30.0, None, 0)
    return spans


@given(nested_spans())
@settings(deadline=None, max_examples=40)
def test_energy_by_itself_and_of_the_children_adds_up(spans):
    for node in tree_of(*spans):
        for _, one in node.walk():
            parts_j = math.fsum(child.total.gross_j for child in one.children)
            assert one.self_j + parts_j == pytest.approx(one.total.gross_j, rel=1e-9, abs=1e-6)
            parts_s = math.fsum(child.total.duration_s for child in one.children)
            assert one.self_s + parts_s == pytest.approx(one.total.duration_s, abs=1e-6)


def test_many_spans_take_little_time():
    steps = [span("step", i * 1e-4, (i + 1) * 1e-4, i + 1, parent=0) for i in range(20_000)]
    (epoch,) = tree_of(span("epoch", 0, 3, 0), *steps)
    assert epoch.children[0].total.count == 20_000
    assert np.isclose(epoch.self_s, 1.0)
