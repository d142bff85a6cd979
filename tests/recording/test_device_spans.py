"""Spans on a GPU's clock, with a stand-in for torch.cuda that keeps the device behind the host."""

import sys
import time
import types

import pytest

from joulelab.recording.spans import SpanLog

LAG_NS = 5_000_000


class FakeEvent:
    """A CUDA event of a device that comes to each point LAG_NS after the host queued it."""

    made = 0

    def __init__(self, enable_timing=False):
        assert enable_timing
        FakeEvent.made += 1
        self.device = types.SimpleNamespace(index=0)
        self.at_ns = None

    def record(self, stream=None):
        self.at_ns = time.monotonic_ns() + (0 if stream is not None else LAG_NS)

    def query(self):
        return time.monotonic_ns() >= self.at_ns

    def synchronize(self):
        while not self.query():
            pass

    def elapsed_time(self, other):
        return (other.at_ns - self.at_ns) / 1e6


@pytest.fixture
def cuda(monkeypatch):
    FakeEvent.made = 0
    cuda = types.SimpleNamespace(
        is_initialized=lambda: True,
        is_current_stream_capturing=lambda: False,
        current_device=lambda: 0,
        Stream=object,
        Event=FakeEvent,
    )
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(cuda=cuda))
    return cuda


@pytest.fixture
def log():
    taken = []
    log = SpanLog(lambda line: taken.append(line) or True, lambda span: None)
    log.taken = taken
    yield log
    log.finish()


def test_the_device_window_lies_where_the_device_was(cuda, log):
    span = log.begin("async", {})
    log.end(span)
    start_ns, stop_ns = span.device_window_ns()
    assert start_ns == pytest.approx(span.start_ns + LAG_NS, abs=1_000_000)
    assert stop_ns == pytest.approx(span.stop_ns + LAG_NS, abs=1_000_000)


def test_marking_does_not_wait_for_the_device(cuda, log):
    begin_ns = time.monotonic_ns()
    for _ in range(20):
        log.end(log.begin("step", {}))
    assert not log.spans[-1]._device_stop.reached() or time.monotonic_ns() - begin_ns > LAG_NS


def test_spans_are_handed_over_before_the_device_is_done_and_their_windows_after(cuda, log):
    log.end(log.begin("step", {}))
    log.flush(leave_unresolved=0)
    log.finish()
    kinds = [line.split(b'"')[3].decode() for line in log.taken]
    assert kinds.index("spans") < kinds.index("devices")


def test_events_are_used_again(cuda, log):
    for _ in range(50):
        span = log.begin("step", {})
        log.end(span)
        span.device_window_ns()
    assert FakeEvent.made <= 3 + 2


def test_a_graph_that_is_being_captured_is_left_alone(cuda, log):
    cuda.is_current_stream_capturing = lambda: True
    span = log.begin("capture", {})
    log.end(span)
    assert span.device_window_ns() is None


def test_without_cuda_there_is_no_device_window(monkeypatch, log):
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    span = log.begin("host", {})
    log.end(span)
    assert span.device_window_ns() is None


def test_too_many_unresolved_spans_are_resolved_oldest_first(cuda, log):
    for _ in range(10):
        log.end(log.begin("step", {}))
    log.flush(leave_unresolved=4, wait=True)
    assert [span._device_window_ns is not None for span in log.spans] == [True] * 6 + [False] * 4
