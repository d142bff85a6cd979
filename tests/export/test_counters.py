"""Counters of recordings with known power, in the recording's own time."""

import math
import os
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recordings import BEGIN_S, CPU, GPU, Recording

from joulelab.energy.estimator import EnergyEstimator
from joulelab.export.counters import EnergyCounters
from joulelab.export.span_counters import OTHER
from joulelab.recording.trace import read_trace
from joulelab.recording.trace_spans import Window
from joulelab.sensors.simulated import Waveform
from joulelab.watch.follower import TraceFollower

POLLED = replace(GPU, kind="power", update_period_s=0.25, window_s=0.25)


class Followed:
    """A recording that grows, and the counters that follow it."""

    def __init__(self, directory, sources=(GPU, CPU), **options):
        self.recording = Recording(directory, sources, gauges=())
        trace = TraceFollower(directory)
        self.counters = EnergyCounters(trace, round(BEGIN_S * 1e9), **options)

    def go_on(self, recording, since_s):
        """Follow another recording from a time on."""
        self.recording, trace = recording, TraceFollower(recording.directory)
        edge_ns = round((BEGIN_S + since_s) * 1e9)
        self.counters = EnergyCounters(trace, edge_ns, after=self.counters)

    def until(self, elapsed_s, **options):
        self.recording.until(elapsed_s)
        self.counters.update(round((BEGIN_S + elapsed_s) * 1e9), **options)
        return {part.key.component: part for part in self.counters.parts}

    def spans(self):
        return {span.name: span for span in self.counters.spans}


def truth_j(source, start_s, stop_s):
    return source.waveform.energy_j(BEGIN_S + start_s, BEGIN_S + stop_s)


def test_counters_equal_the_energy_of_the_whole_recording(tmp_path):
    followed = Followed(tmp_path)
    for elapsed_s in range(15, 615, 15):
        shown = followed.until(elapsed_s)
    trace = read_trace(tmp_path)
    until_ns = min(int(t_ns[-1]) for t_ns, _ in trace.series)
    (energy,) = EnergyEstimator(trace).energies([Window(round(BEGIN_S * 1e9), until_ns)])
    for name, part in energy.components.items():
        assert shown[name].energy_j == pytest.approx(part.gross_j, rel=1e-5)
        assert shown[name].key.source == part.source
        low_j, high_j = part.interval_j
        assert shown[name].uncertainty == pytest.approx(
            (high_j - low_j) / 2 / part.gross_j, rel=0.05
        )
    assert followed.counters.total_j == pytest.approx(energy.gross_j, rel=1e-5)


@settings(max_examples=6)
@given(pauses=st.lists(st.floats(0.3, 90.0), min_size=3, max_size=12))
def test_counters_never_decrease_and_do_not_depend_on_when_they_are_read(tmp_path_factory, pauses):
    followed, elapsed_s, before = Followed(tmp_path_factory.mktemp("trace")), 2.0, {}
    for pause_s in pauses:
        elapsed_s += pause_s
        shown = followed.until(elapsed_s)
        for name, part in shown.items():
            assert part.energy_j >= before.get(name, 0.0)
            before[name] = part.energy_j
    assert before["gpu:0"] == pytest.approx(truth_j(GPU, 0, elapsed_s), rel=2e-3, abs=12)
    assert before["cpu:0"] == pytest.approx(truth_j(CPU, 0, elapsed_s), rel=2e-3, abs=12)


def test_a_wrapped_counter_goes_on(tmp_path):
    followed = Followed(tmp_path, (replace(CPU, wrap_j=1000.0),))
    for elapsed_s in range(10, 210, 10):
        shown = followed.until(elapsed_s)
    assert shown["cpu:0"].energy_j == pytest.approx(60.0 * 200, rel=1e-3)


def test_a_lost_sensor_has_no_series_and_returns_where_it_was(tmp_path):
    lost = replace(POLLED, lost_s=((BEGIN_S + 60, BEGIN_S + 120),))
    followed = Followed(tmp_path, (lost, CPU))
    for elapsed_s in range(5, 75, 5):
        shown = followed.until(elapsed_s)
        if elapsed_s <= 60:
            last_j = shown["gpu:0"].energy_j
    assert set(shown) == {"cpu:0"}
    assert followed.counters.is_up == {"gpu:0": False, "cpu:0": True}
    assert followed.counters.errors["gpu:0", "simulated.power"] > 10
    for elapsed_s in range(75, 205, 5):
        shown = followed.until(elapsed_s)
    assert followed.counters.is_up == {"gpu:0": True, "cpu:0": True}
    # The energy of the minute without readings is unknown, and is not counted.
    expected_j = truth_j(GPU, 0, 60) + truth_j(GPU, 120, 200)
    assert shown["gpu:0"].energy_j == pytest.approx(expected_j, rel=0.01)
    assert shown["gpu:0"].energy_j > last_j
    assert shown["cpu:0"].energy_j == pytest.approx(60 * 200, rel=1e-3)


def test_a_counter_knows_the_energy_of_the_time_without_readings(tmp_path):
    lost = replace(CPU, lost_s=((BEGIN_S + 60, BEGIN_S + 120),))
    followed = Followed(tmp_path, (GPU, lost))
    for elapsed_s in range(5, 205, 5):
        shown = followed.until(elapsed_s)
        assert ("cpu:0" in shown) is not (65 <= elapsed_s < 120)
    assert shown["cpu:0"].energy_j == pytest.approx(60 * 200, rel=1e-3)


def test_counters_go_on_in_another_trace_of_the_same_time(tmp_path):
    followed = Followed(tmp_path / "first")
    for elapsed_s in range(10, 110, 10):
        followed.until(elapsed_s)
    edge_ns = round((BEGIN_S + 95) * 1e9)
    followed.until(105, settle_ns=edge_ns)
    second = Recording(tmp_path / "second", gauges=())
    second.until_s = BEGIN_S + 90
    followed.go_on(second, 95)
    before = followed.counters.total_j
    for elapsed_s in range(106, 200, 10):
        shown = followed.until(elapsed_s)
        assert followed.counters.total_j >= before
        before = followed.counters.total_j
    assert shown["gpu:0"].energy_j == pytest.approx(truth_j(GPU, 0, 196), rel=1e-3)
    assert shown["cpu:0"].energy_j == pytest.approx(60 * 196, rel=1e-3)


def test_a_long_recording_is_read_in_parts_before_anything_is_shown(tmp_path):
    followed = Followed(tmp_path, (CPU,))
    followed.recording.until(2000)
    shown = [followed.until(2000) for _ in range(3)]
    assert [bool(one) for one in shown] == [False, False, True]
    assert shown[-1]["cpu:0"].energy_j == pytest.approx(60 * 2000, rel=1e-4)


def test_spans_count_the_time_in_which_any_is_open(tmp_path):
    followed = Followed(tmp_path, most_span_names=4)
    pid = os.getpid()
    followed.until(10)
    # Two processes are in the same epoch.
    followed.recording.span("epoch", 10, 60, pid=pid)
    followed.recording.span("epoch", 12, 62, pid=pid + 1)
    followed.until(90)
    followed.recording.span("epoch", 91, pid=pid)
    followed.until(111)
    found = followed.spans()["epoch"]
    assert found.finished == 2
    assert found.duration_s == pytest.approx(52 + 20, abs=0.1)
    expected_j = truth_j(GPU, 10, 62) + truth_j(GPU, 91, 111) + 60 * 72
    assert found.energy_j == pytest.approx(expected_j, rel=5e-3)


def test_spans_of_processes_that_are_gone_are_not_open(tmp_path):
    followed = Followed(tmp_path, most_span_names=4)
    followed.until(5)
    followed.recording.span("epoch", 1, pid=2**22 + 1)
    followed.until(20)
    assert followed.spans() == {}


def test_many_names_of_spans_become_one(tmp_path):
    followed = Followed(tmp_path, most_span_names=2)
    for k in range(50):
        followed.recording.span(f"step{k}" + "x" * 1000, 1 + k, 2 + k)
    followed.until(60)
    found = followed.spans()
    assert len(found) == 3
    assert found[OTHER].finished == 48
    assert found[OTHER].duration_s == pytest.approx(48)
    assert max(map(len, found)) <= 100


def test_events_and_times_of_spans_that_are_settled_are_forgotten(tmp_path):
    followed = Followed(tmp_path, (CPU,), most_span_names=2)
    for k in range(1, 200):
        followed.recording.span("step", k - 0.9, k - 0.1, pid=os.getpid())
        followed.until(k)
    assert len(followed.counters._spans._ended["step"]) < 60
    assert len(followed.counters._spans.fold.spans()) <= 64
    assert followed.spans()["step"].finished == 199
    assert followed.spans()["step"].duration_s == pytest.approx(0.8 * 199, abs=1)


def test_what_was_counted_remains_when_a_recorder_is_lost(tmp_path):
    followed = Followed(tmp_path / "first", (CPU,))
    followed.until(50)
    followed.counters.lose()
    assert followed.counters.parts == []
    assert followed.counters.is_up == {"cpu:0": False}
    second = Recording(tmp_path / "second", (CPU,), gauges=())
    second.until_s = BEGIN_S + 100
    followed.go_on(second, 100)
    shown = followed.until(110)
    assert shown["cpu:0"].energy_j == pytest.approx(60 * 60, rel=0.01)
    assert not math.isnan(shown["cpu:0"].power_w)


def test_a_recording_that_has_ended_is_counted_to_its_end_however_late(tmp_path):
    followed = Followed(tmp_path, most_span_names=1)
    followed.until(20)
    followed.recording.span("epoch", 1, 32)
    followed.recording.until(33).stop()
    followed.counters.update(round((BEGIN_S + 90) * 1e9))
    assert followed.counters.is_complete
    shown = {part.key.component: part.energy_j for part in followed.counters.parts}
    assert shown["gpu:0"] == pytest.approx(truth_j(GPU, 0, 33), rel=2e-3)
    assert shown["cpu:0"] == pytest.approx(60 * 33, rel=2e-3)
    assert followed.spans()["epoch"].duration_s == pytest.approx(31)


def test_a_counter_that_stands_still_is_not_measured(tmp_path):
    followed = Followed(tmp_path)
    followed.until(40)
    # Its sensor goes on answering with one value.
    stuck = replace(CPU, waveform=Waveform.steps([60.0] * 1040 + [0.0] * 4000, step_s=1.0))
    followed.recording.sources = (GPU, stuck)
    for elapsed_s in range(45, 200, 5):
        shown = followed.until(elapsed_s)
    assert set(shown) == {"gpu:0"}
    assert followed.counters.is_measured == {"gpu:0": True, "cpu:0": False}


def test_a_slow_sensor_without_a_reading_soon_after_boot_is_not_up(tmp_path):
    # It may be silent for longer than the machine has been running.
    silent_s = ((BEGIN_S - 1, BEGIN_S + 60),)
    slow = replace(POLLED, component="dram:0", update_period_s=300.0, lost_s=silent_s)
    followed = Followed(tmp_path, (CPU, slow))
    assert set(followed.until(5)) == {"cpu:0"}
    assert followed.counters.is_up == {"cpu:0": True, "dram:0": False}


def test_events_of_a_sensor_that_never_answers_are_forgotten(tmp_path):
    lost = replace(POLLED, interval_s=1.0, lost_s=((BEGIN_S - 1, BEGIN_S + 3000),))
    followed = Followed(tmp_path, (lost, CPU))
    for elapsed_s in range(100, 1500, 100):
        followed.until(elapsed_s)
    kept_ns = [event["t_ns"] for event in followed.counters._trace._kept_events]
    assert min(kept_ns) > round((BEGIN_S + 1400 - 920) * 1e9)
    assert followed.counters.errors["gpu:0", "simulated.power"] > len(kept_ns)
