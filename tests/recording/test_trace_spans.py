"""The spans of a trace: one fold for a finished trace and a growing one."""

from collections import deque
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulelab.energy.estimator import EnergyEstimator
from joulelab.recording.trace import TraceReader, read_trace
from joulelab.recording.trace_format import TraceWriter
from joulelab.recording.trace_spans import SpanFold, TraceSpan

PID = 7
NAMES = st.sampled_from(["epoch", "step"])


def row(index, stop_ns=None, name="step", **attributes):
    return [index, None if index == 0 else 0, 1, name, attributes, 1000 * (index + 1), stop_ns]


def spans_event(*rows):
    return {"event": "spans", "pid": PID, "rows": rows}


def devices_event(*rows):
    return {"event": "devices", "pid": PID, "rows": rows}


def folded(events, **options):
    fold = SpanFold(**options)
    for event in events:
        assert fold.add(event)
    return fold


@given(names=st.lists(NAMES, max_size=20), data=st.data())
def test_the_spans_do_not_depend_on_when_their_events_are_read(names, data):
    """Each span has an event when it begins, ends and has its device times, or fewer."""
    events, expected = [], []
    for index, name in enumerate(names):
        stages = data.draw(st.integers(0, 3))
        stop_ns = 10**6 + index if stages > 0 else None
        device = (2000, 3000 + index, 5) if stages > 1 else (None, None, 0)
        events += [spans_event(row(index, name=name))] * (stages != 1)
        events += [spans_event(row(index, stop_ns, name=name))] * (stages > 0)
        events += [devices_event([index, *device])] * (stages > 1)
        parent = None if index == 0 else (PID, 0)
        start_ns = 1000 * (index + 1)
        expected.append(TraceSpan(name, start_ns, stop_ns, (PID, index), parent, 1, {}, *device))
    # Events of different spans are in any order, those of one span in theirs.
    of_span = {}
    for event in events:
        of_span.setdefault(event["rows"][0][0], deque()).append(event)
    owners = data.draw(st.permutations([event["rows"][0][0] for event in events]))
    finished = []
    fold = folded([of_span[owner].popleft() for owner in owners], on_finish=finished.append)
    assert fold.spans() == expected
    assert sorted(fold.open) == sorted(span.key for span in expected if span.stop_ns is None)
    assert sorted(span.key for span in finished) == sorted(
        span.key for span in expected if span.stop_ns is not None
    )
    assert [
        fold.get(span).device_stop_ns for span in sorted(finished, key=lambda one: one.key)
    ] == [span.device_stop_ns for span in expected if span.stop_ns is not None]


def test_only_the_latest_spans_of_each_name_are_kept():
    fold = folded(
        [spans_event(*(row(i, 10**6 + i, name="step" if i else "epoch") for i in range(10)))],
        most_per_name=3,
    )
    assert [span.key[1] for span in fold.spans()] == [0, 7, 8, 9]
    assert fold.finished == {"epoch": 1, "step": 9}
    assert fold.add(devices_event([1, 5, 6, 1])), "of a span that is not kept any more"
    assert [span.key[1] for span in fold.spans()] == [0, 7, 8, 9]


def test_spans_that_began_earlier_are_left_out():
    fold = folded([spans_event(row(0), row(1, 10**6), row(2))], since_ns=2000)
    assert [span.key[1] for span in fold.spans()] == [1, 2]


def test_other_events_are_not_folded():
    assert not SpanFold().add({"event": "gap", "channel": 0})


def test_a_reader_folds_what_is_new(tmp_path):
    writer = TraceWriter(tmp_path, {"channels": [], "absent": []})
    reader = TraceReader(tmp_path)
    writer.event(**spans_event(row(0, phase="train")))
    first = reader.read()
    writer.event(event="left", pid=PID, t_ns=4000)
    writer.event(**spans_event(row(0, 5000, phase="train"), row(1)))
    writer.close()
    second = reader.read()
    assert [span.stop_ns for span in first.spans] == [None], "an earlier trace does not change"
    assert [span.stop_ns for span in second.spans] == [5000, None]
    assert second.finished_spans[0].phase == "train"
    assert [event["event"] for event in second.events] == ["left"]


def test_a_trace_of_the_version_of_november_2026_has_the_same_spans_energies_and_hints():
    trace = read_trace(Path(__file__).with_name("schema_2"))
    assert trace.absent[1].hint == "on Linux on bare metal: sudo modprobe intel_rapl_msr"
    epoch, *steps, unfinished = trace.spans
    assert (epoch.name, epoch.phase, unfinished.stop_ns) == ("epoch", "train", None)
    assert [step.parent for step in steps] == [epoch.key] * 2
    energies = EnergyEstimator(trace).energies([span.window for span in trace.finished_spans])
    assert [energy.gross_j for energy in energies] == pytest.approx(
        [2.831295366593796, 1.4849078497933828, 1.3460880940091622], rel=1e-9
    )
