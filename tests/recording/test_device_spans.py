"""Spans on a GPU's clock, with a stand-in for torch.cuda whose device lags behind the host."""

import json
import os
import time
import warnings

import pytest
from fake_cuda import LAG_NS, FakeCuda
from hypothesis import given
from hypothesis import strategies as st

from joulelab.recording import device_clock, spans
from joulelab.recording.device_clock import Reference, event_time
from joulelab.recording.spans import Span, SpanLog


@pytest.fixture
def cuda(monkeypatch):
    return FakeCuda().install(monkeypatch)


@pytest.fixture
def make_log(monkeypatch):
    """Logs whose thread never wakes up, so that the test decides what happens when."""
    monkeypatch.setattr("joulelab.recording.spans.FLUSH_INTERVAL_S", 3600)
    logs = []

    def make():
        taken = []
        log = SpanLog(lambda lines: taken.extend(lines) or len(lines), lambda span: None)
        log.taken = taken
        logs.append(log)
        return log

    yield make
    for log in logs:
        log.finish()


@pytest.fixture
def log(cuda, make_log):
    return make_log()


def wait_between_events():
    """Wait longer than two events may be apart and still be one."""
    until_ns = time.monotonic_ns() + 2 * device_clock.SHARED_WITHIN_NS
    while time.monotonic_ns() < until_ns:
        pass


def begin(log, name):
    return Span(log, name, {}).__enter__()


def span_of(log, name="step"):
    span = begin(log, name)
    wait_between_events()
    span.end()
    wait_between_events()
    return span


def rows(log, kind):
    return [row for line in log.taken if kind in line for row in json.loads(line)["rows"]]


def test_the_device_window_is_on_the_devices_clock(log):
    span = span_of(log)
    window = span.device_window()
    assert window.start_ns == pytest.approx(span.start_ns + LAG_NS, abs=1_000_000)
    assert window.stop_ns == pytest.approx(span.stop_ns + LAG_NS, abs=1_000_000)
    assert 0 < window.uncertainty_ns < 10_000_000


def test_spans_do_not_wait_for_the_device(cuda, log):
    cuda.lag_ns = 10**12
    for _ in range(20):
        span_of(log)
    assert all(event.time is None for event in log.device._unresolved)
    cuda.lag_ns = 0
    log.device._unresolved.clear()


def test_the_end_of_a_span_and_the_start_of_the_next_are_one_event(cuda, log, monkeypatch):
    monkeypatch.setattr(device_clock, "SHARED_WITHIN_NS", 10**9)
    for _ in range(10):
        begin(log, "step").end()
    assert cuda.recorded == 1
    first, *_, last = (span.device_window() for span in log.spans())
    assert first == last


def test_edges_with_time_for_work_between_them_are_two_events(cuda, log):
    for _ in range(10):
        span_of(log)
    assert cuda.recorded == 20


def test_edges_on_two_streams_are_two_events(cuda, log, monkeypatch):
    monkeypatch.setattr(device_clock, "SHARED_WITHIN_NS", 10**9)
    span = begin(log, "step")
    cuda.raw = 7
    span.end()
    assert cuda.recorded == 2


def test_spans_are_sent_before_the_device_finishes_and_their_windows_after(log):
    span = span_of(log)
    log.flush(leave_unresolved=0)
    log.finish()
    kinds = [json.loads(line)["event"] for line in log.taken]
    assert kinds.index("spans") < kinds.index("devices")
    assert rows(log, b'"devices"') == [[span.index, *span.device_window()]]


def test_events_are_reused(cuda, log):
    for _ in range(50):
        span_of(log).device_window()
    # Two at a time, and three for each reference.
    references = len(log.device._references[0])
    assert cuda.events <= 2 + 3 * references


def test_events_are_free_again_soon_at_one_call_each(cuda, log):
    cuda.lag_ns = 0
    for _ in range(3):
        for _ in range(50):
            span_of(log)
        before = cuda.queries, cuda.distances
        log.record_reference()
        assert cuda.queries - before[0] == 1
        assert cuda.distances - before[1] == 100
    # Those of the first round, and three for the reference.
    assert cuda.events == 100 + 3
    assert all(span.device_window() is not None for span in log.spans())
    assert cuda.distances == 3 * 100


def test_collecting_events_leaves_those_that_the_device_has_not_reached(cuda, log):
    reached = span_of(log)
    cuda.lag_ns = 10**12
    late = span_of(log)
    while not reached._device_stop.event.is_reached():
        pass
    log.record_reference()
    assert [one.near is not None for one in (reached._device_stop, late._device_start)] == [
        True, False,
    ]  # fmt: skip
    log.device._unresolved.clear()


def test_an_error_while_collecting_ends_the_recording_of_events(cuda, log, monkeypatch):
    cuda.lag_ns = 0
    span_of(log)
    monkeypatch.setattr(log.device, "_reached", lambda _: True)
    monkeypatch.setattr(log.device, "_new_reference", pytest.fail)
    cuda.error = "CUDA error: an illegal memory access was encountered"
    log.device._references[0] = [Reference(log.device._uncollected[0].event, 0, 1.0)]
    log.device.collect()
    assert "illegal memory access" in log.device.failure
    assert span_of(log).device_window() is None


def test_no_event_is_recorded_while_a_graph_is_captured(cuda, log):
    cuda.capturing = True
    assert span_of(log, "capture").device_window() is None
    assert cuda.recorded == 0


def test_without_cuda_there_is_no_device_window(cuda, make_log):
    cuda.started = False
    assert span_of(make_log(), "host").device_window() is None


def test_a_span_in_which_cuda_starts_ends_when_the_device_finishes(cuda, make_log):
    cuda.started = False
    log = make_log()
    span = begin(log, "first")
    cuda.started = True
    span.end()
    window = span.device_window()
    assert window.start_ns == span.start_ns
    assert window.stop_ns == pytest.approx(span.stop_ns + LAG_NS, abs=1_000_000)


def test_the_first_span_after_the_start_of_cuda_is_on_the_device(cuda, make_log):
    cuda.started = False
    log = make_log()
    cuda.started = True
    span = span_of(log)
    window = span.device_window()
    assert window.start_ns == pytest.approx(span.start_ns + LAG_NS, abs=1_000_000)
    assert window.stop_ns == pytest.approx(span.stop_ns + LAG_NS, abs=1_000_000)


def test_too_many_unresolved_events_are_resolved_oldest_first(log):
    for _ in range(10):
        span_of(log)
    log.flush(leave_unresolved=8, wait=True)
    assert [span._device_window is not None for span in log.spans()] == [True] * 6 + [False] * 4
    assert [row[0] for row in rows(log, b'"devices"')] == [0, 1, 2, 3, 4, 5]


def test_old_events_are_resolved_however_few(log, monkeypatch):
    span = span_of(log)
    monkeypatch.setattr(device_clock, "UNRESOLVED_FOR_NS", 0)
    log.flush(wait=True)
    assert span._device_window is not None


def test_a_failure_of_cuda_does_not_reach_the_program(cuda, log):
    good = span_of(log)
    good_window = good.device_window()
    cuda.error = "CUDA error: device-side assert triggered\nCompile with ..."
    bad = span_of(log)
    log.record_reference()
    assert log.flush(leave_unresolved=0, wait=True)
    assert bad.device_window() is None
    assert good.device_window() == good_window
    assert bad.stop_ns > bad.start_ns
    reported = [json.loads(line) for line in log.taken if b"device_failed" in line]
    assert [event["reason"] for event in reported] == [
        "CUDA failed: CUDA error: device-side assert triggered"
    ]


def test_cuda_fails_while_events_wait(cuda, log):
    span = span_of(log)
    cuda.error = "CUDA error: an illegal memory access was encountered"
    assert log.flush(leave_unresolved=0, wait=True)
    assert span.device_window() is None


def test_a_forked_child_does_not_use_its_parents_cuda(cuda, log):
    span = begin(log, "outer")
    with warnings.catch_warnings():
        # Python 3.12 warns of forking in a process with threads, which is what is tested.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            cuda.started, cuda.error = False, "Cannot re-initialize CUDA in forked subprocess"
            begin(log, "inner").end()
            span.end()
            names = [row[3] for row in rows(log, b'"spans"')]
            os._exit(0 if names == ["inner"] else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    span.end()


class Point:
    """A CUDA event at a time of the device's clock."""

    def __init__(self, device_ns):
        self.device_ns = device_ns

    def elapsed_time(self, other):
        return (other.device_ns - self.device_ns) / 1e6


@given(
    drift=st.floats(-3e-4, 3e-4),
    share=st.floats(-1, 3),
    error_ns=st.tuples(st.floats(-1e4, 1e4), st.floats(-1e4, 1e4)),
)
def test_two_references_give_the_drift(drift, share, error_ns):
    host_ns = [10**12, 10**12 + 10**10, 10**12 + round(share * 10**10)]
    points = [Point((t_ns - 5 * 10**11) * (1 + drift)) for t_ns in host_ns]
    near, other = (
        Reference(point, t_ns + round(off_ns), abs(off_ns))
        for point, t_ns, off_ns in zip(points, host_ns, error_ns, strict=False)
    )
    x_ns = points[0].elapsed_time(points[2]) * 1e6
    found = event_time(x_ns, near, [other])
    # The largest effect of both errors, and of 0.3 per mille of drift on it.
    worst_ns = abs(1 - share) * abs(error_ns[0]) + abs(share) * abs(error_ns[1])
    assert abs(found.t_ns - host_ns[2]) <= 1.001 * worst_ns + 10
    assert found.uncertainty_ns >= worst_ns / 2**0.5 * 0.999


def test_with_one_reference_the_drift_is_unknown():
    near = Reference(Point(0), 10**12, 5000.0)
    now, later = (event_time(x_ns, near, []) for x_ns in (0, 10**9))
    assert now.t_ns == 10**12
    assert now.uncertainty_ns == pytest.approx(5100, abs=100)
    assert later.uncertainty_ns == pytest.approx(device_clock.DRIFT_UNCERTAINTY * 1e9, rel=0.01)


def test_references_are_recorded_when_they_are_due(cuda, log, monkeypatch):
    log.record_reference()
    assert log.device._references == {}
    span_of(log)
    log.record_reference()
    log.record_reference()
    assert len(log.device._references[0]) == 1
    monkeypatch.setattr(device_clock, "REFERENCE_INTERVAL_NS", 0)
    log.record_reference()
    assert len(log.device._references[0]) == 2


def test_pytorch_calls_when_the_program_starts_cuda(make_log):
    torch = pytest.importorskip("torch")
    if torch.cuda.is_initialized():
        pytest.skip("CUDA has started already")
    make_log()
    queued = [call for call, _ in torch.cuda._queued_calls]
    assert spans._notice_cuda in queued


def test_stored_spans_have_their_device_windows(cuda, make_log):
    cuda.started = False
    log = make_log()
    first = begin(log, "first")
    cuda.started = True
    first.end()
    made = [first, *(span_of(log) for _ in range(3))]
    log.flush(leave_unresolved=0, wait=True)
    again = log.spans()
    assert not any(one is other for one, other in zip(again, made, strict=True))
    assert [span.device_window() for span in again] == [span.device_window() for span in made]
    assert None not in [span.device_window() for span in made]
