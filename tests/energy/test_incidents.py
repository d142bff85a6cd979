"""Incidents during a recording, found in its own readings and events."""

from dataclasses import replace

import numpy as np
import pytest
from energy_parts import make_channel
from hypothesis import given
from hypothesis import strategies as st

from joulelab.energy.energy import Energy, total
from joulelab.energy.estimator import EnergyEstimator
from joulelab.energy.incident import notes_within_spans
from joulelab.energy.incidents import find_incidents
from joulelab.recording.trace import Trace
from joulelab.recording.trace_spans import Window
from joulelab.sensors.host import ClockSensor
from joulelab.sensors.sensor import Gap, Reading

S = 10**9
GPU = make_channel(window_s=0.1)
WALL, BOOT = (replace(one, update_period_s=1.0) for one in ClockSensor().channels)
LOST = {"event": "gap", "channel": 0, "t_ns": 5 * S, "reason": "lost"}


def recording(wall_s=lambda t: 0.0, boot_s=lambda t: 0.0, lost=(), events=()):
    """20 s of 100 W, with clocks that are off by what the functions return."""
    readings = []
    for tick in range(200):
        t_ns = tick * S // 10
        readings.append(Gap(t_ns, 0, "lost") if tick in lost else Reading(t_ns, 0, 100.0))
        if tick % 10 == 0:
            readings.append(Reading(t_ns, 1, 1e9 + wall_s(tick / 10)))
            readings.append(Reading(t_ns, 2, 5.0 + boot_s(tick / 10)))
    return replace(Trace.of([GPU, WALL, BOOT], readings), events=tuple(events))


def notes(trace, start_s, stop_s):
    return EnergyEstimator(trace).energies([Window(round(start_s * S), round(stop_s * S))])[0].notes


def step(by_s):
    return lambda t: by_s if t >= 8 else 0.0


@given(by_s=st.floats(0.1, 1e6).flatmap(lambda x: st.sampled_from([x, -x])))
def test_the_wall_clock_was_set(by_s):
    trace = recording(wall_s=step(by_s))
    [note] = notes(trace, 5, 10)
    assert note.startswith(f"the wall clock was set {'forward' if by_s > 0 else 'back'} by")
    assert notes(trace, 1, 6.9) == notes(trace, 8.1, 15) == ()


@given(rate=st.floats(-500e-6, 500e-6))
def test_a_wall_clock_that_is_slewed_was_not_set(rate):
    assert notes(recording(wall_s=lambda t: rate * t), 1, 19) == ()


@given(slept_s=st.floats(0.1, 1e6))
def test_a_suspend_moves_both_clocks(slept_s):
    [note] = notes(recording(step(slept_s), step(slept_s)), 5, 10)
    assert note.startswith("the machine was suspended for")


def test_a_suspend_during_which_the_wall_clock_was_set():
    assert notes(recording(step(70.0), step(10.0)), 5, 10) == (
        "the machine was suspended for 10.0 s, which is not part of duration and energy",
        "the wall clock was set forward by 1 min",
    )


def test_a_gap_is_noted_with_its_reason_in_the_spans_that_it_affects():
    trace = recording(lost=range(50, 80), events=[LOST])
    expected = ("gpu:0: gap in test (lost)",)
    assert notes(trace, 4, 6) == notes(trace, 7, 7.9) == notes(trace, 1, 19) == expected
    assert notes(trace, 1, 4.9) == notes(trace, 8.1, 12) == ()
    endless = recording(lost=range(50, 200), events=[LOST])
    assert notes(endless, 18, 19) == expected


def test_a_gap_of_a_channel_without_energy_is_not_noted():
    assert notes(recording(events=[LOST | {"channel": 1}]), 1, 19) == ()


@pytest.mark.parametrize("start_s", [15, 25])
def test_the_recording_ended_before_the_span(start_s):
    assert notes(recording(), start_s, 30) == ("the recording ended early",)


def test_times_of_the_gpu_are_unknown_after_a_failure():
    event = {"event": "device_failed", "pid": 1, "t_ns": 5 * S, "reason": "CUDA failed: lost"}
    trace = recording(events=[event])
    assert notes(trace, 1, 4) == ()
    assert notes(trace, 4, 6) == (
        "CUDA failed: lost: from then on, GPU energy uses the span times of the host",
    )


def test_notes_are_merged_printed_and_written():
    trace = recording(wall_s=step(60.0))
    both = total(EnergyEstimator(trace).energies([Window(S, 9 * S), Window(2 * S, 9 * S)]))
    assert both.notes == ("the wall clock was set forward by 1 min",)
    assert str(both).endswith("; the wall clock was set forward by 1 min")
    assert Energy.from_json(both.to_json()).notes == both.notes
    old = both.to_json()
    del old["notes"]
    assert Energy.from_json(old).notes == ()


def test_notes_are_only_those_within_a_span():
    incidents = find_incidents(recording(wall_s=step(60.0)))
    assert len(notes_within_spans(incidents, np.array([(0.0, 10.0)]))) == 1
    assert notes_within_spans(incidents, np.array([(0.0, 5.0)])) == ()


def test_clocks_are_read_as_they_are():
    [wall, boot] = ClockSensor().read()
    assert wall.value > 1e8
    # One clock is read between two readings of the other, which are not quite simultaneous.
    assert boot.value >= -1e-3
    assert boot.value == pytest.approx(ClockSensor().read()[1].value, abs=1e-3)
