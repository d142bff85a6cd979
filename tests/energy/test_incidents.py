"""What happened to a recording, from its own readings and events."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulelab.energy.energy import Energy, total
from joulelab.energy.estimator import EnergyEstimator
from joulelab.energy.incidents import find_incidents, notes_within
from joulelab.recording.trace import Trace
from joulelab.recording.trace_spans import Window
from joulelab.sensors.host import ClockSensor
from joulelab.sensors.sensor import Channel, Gap, Provenance, Quantity, Reading

S = 10**9
GPU = Channel(
    component="gpu:0",
    quantity=Quantity.POWER,
    source="test",
    provenance=Provenance.SIMULATED,
    update_period_s=0.1,
    window_s=0.1,
)
WALL, BOOT = (replace(one, update_period_s=1.0) for one in ClockSensor().channels)


def recording(wall_s=lambda t: 0.0, boot_s=lambda t: 0.0, lost=(), events=()):
    """20 s of 100 W, with clocks that are off by what the functions say."""
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


def test_nothing_happened():
    assert notes(recording(), 1, 19) == ()


@given(by_s=st.floats(0.1, 1e6).flatmap(lambda x: st.sampled_from([x, -x])))
def test_a_wall_clock_that_was_set(by_s):
    trace = recording(wall_s=lambda t: by_s if t >= 8 else 0.0)
    [note] = notes(trace, 5, 10)
    assert note.startswith(f"the wall clock was set {'forward' if by_s > 0 else 'back'} by")
    assert notes(trace, 1, 6.9) == notes(trace, 8.1, 15) == ()


@given(rate=st.floats(-500e-6, 500e-6))
def test_a_wall_clock_that_is_slewed_is_not_set(rate):
    assert notes(recording(wall_s=lambda t: rate * t), 1, 19) == ()


@given(slept_s=st.floats(0.1, 1e6))
def test_a_suspend_moves_both_clocks(slept_s):
    def moved(t):
        return slept_s if t >= 8 else 0.0

    [note] = notes(recording(moved, moved), 5, 10)
    assert note.startswith("the machine was suspended for")


def test_a_suspend_in_which_the_wall_clock_was_set_as_well():
    trace = recording(lambda t: 70.0 * (t >= 8), lambda t: 10.0 * (t >= 8))
    assert [note.split(" by ")[0] for note in notes(trace, 5, 10)] == [
        "the machine was suspended for 10.0 s, which is not part of duration and energy",
        "the wall clock was set forward",
    ]


def test_a_gap_is_told_with_its_reason_to_the_spans_that_it_reaches():
    event = {"event": "gap", "channel": 0, "t_ns": 5 * S, "reason": "lost"}
    trace = recording(lost=range(50, 80), events=[event])
    told = ("gpu:0: gap in test (lost)",)
    assert notes(trace, 4, 6) == notes(trace, 7, 7.9) == notes(trace, 1, 19) == told
    assert notes(trace, 1, 4.9) == notes(trace, 8.1, 12) == ()


def test_a_gap_that_never_ended():
    event = {"event": "gap", "channel": 0, "t_ns": 5 * S, "reason": "lost"}
    trace = recording(lost=range(50, 200), events=[event])
    assert notes(trace, 18, 19) == ("gpu:0: gap in test (lost)",)


def test_a_gap_of_what_gives_no_energy_is_nothing_to_say():
    event = {"event": "gap", "channel": 1, "t_ns": 5 * S, "reason": "lost"}
    assert notes(recording(events=[event]), 1, 19) == ()


def test_a_recording_that_ended_before_the_span():
    assert notes(recording(), 25, 30) == ("the recording ended early",)
    assert notes(recording(), 15, 30) == ("the recording ended early",)


def test_devices_whose_times_could_not_be_told():
    event = {"event": "device_failed", "pid": 1, "t_ns": 5 * S, "reason": "CUDA failed: lost"}
    trace = recording(events=[event])
    assert notes(trace, 1, 4) == ()
    assert notes(trace, 4, 6) == (
        "CUDA failed: lost: from then on, GPU energy uses the span times of the host",
    )


def test_notes_are_kept_added_printed_and_written():
    trace = recording(wall_s=lambda t: 60.0 if t >= 8 else 0.0)
    energies = EnergyEstimator(trace).energies([Window(S, 9 * S), Window(2 * S, 9 * S)])
    both = total(energies)
    assert both.notes == energies[0].notes == ("the wall clock was set forward by 1 min",)
    assert str(both).endswith("; the wall clock was set forward by 1 min")
    assert Energy.from_json(both.to_json()).notes == both.notes
    old = both.to_json()
    del old["notes"]
    assert Energy.from_json(old).notes == ()


def test_many_windows_ask_for_what_happened_once():
    happened = find_incidents(recording(wall_s=lambda t: 60.0 if t >= 8 else 0.0))
    assert len(notes_within(happened, 0, 10)) == 1
    assert notes_within(happened, 0, 5) == ()


def test_clocks_are_compared_as_they_are():
    [wall, boot] = ClockSensor().read()
    assert wall.value > 1e8
    # One clock is read between two looks at the other, which are not quite at once.
    assert boot.value >= -1e-3
    assert boot.value == pytest.approx(ClockSensor().read()[1].value, abs=1e-3)
