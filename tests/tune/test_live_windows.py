"""Reading the latest steps and epochs of a running loop."""

import json
import math
from functools import partial
from types import SimpleNamespace

import pytest

import joulelab
from joulelab.errors import UserError
from joulelab.sensors.simulated import SimulatedMachine
from joulelab.tune.live_windows import LiveWindows

PID, MS = 1, 10**6
EPOCH, STEP, VALIDATE = "epoch", "step", "validate"


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    directory = tmp_path_factory.mktemp("recording")
    with joulelab.Meter(SimulatedMachine.default(), directory=directory):
        pass
    return directory


@pytest.fixture
def write(recording):
    """Writes events as a program would that runs now, of spans as (name, parent, start, stop)."""
    path = recording / "events.jsonl"
    path.write_text("")

    def append(*spans, first=0, gpu=()):
        rows = [
            (first + i, parent, 0, name, {}, start * MS, None if stop is None else stop * MS)
            for i, (name, parent, start, stop) in enumerate(spans)
        ]
        events = [{"event": "spans", "pid": PID, "rows": rows}]
        if gpu:
            times = [(index, start * MS, stop * MS, 0) for index, start, stop in gpu]
            events.append({"event": "devices", "pid": PID, "rows": times})
        with path.open("a") as file:
            file.writelines(json.dumps(event) + "\n" for event in events)

    return append


@pytest.fixture
def windows(recording, write):
    return LiveWindows(SimpleNamespace(directory=recording), pid=PID)


def times(windows):
    return [(one.start_ns // MS, one.stop_ns // MS, one.chain) for one in windows.units()]


def test_a_step_lasts_until_the_next_one_so_that_waiting_counts(windows, write):
    write((EPOCH, None, 0, None), (STEP, 0, 1, 4), (STEP, 0, 5, 8), (STEP, 0, 9, None))
    assert times(windows) == [(1, 5, 0), (5, 9, 0)]
    assert windows.unit == STEP


def test_a_validation_between_steps_is_no_part_of_them(windows, write):
    write(
        (EPOCH, None, 0, 30), (STEP, 0, 1, 4), (VALIDATE, 0, 5, 9), (STEP, 0, 10, 13),
        (STEP, 0, 14, 17), (EPOCH, None, 31, None), (STEP, 5, 32, 35), (STEP, 5, 36, None),
    )  # fmt: skip
    assert times(windows) == [(1, 4, 0), (10, 14, 1), (14, 17, 1), (32, 36, 2)]


def test_spans_within_a_step_are_parts_of_it(windows, write):
    write((EPOCH, None, 0, None), (STEP, 0, 1, 4), ("forward", 1, 2, 3), (STEP, 0, 5, None))
    assert times(windows) == [(1, 5, 0)]


def test_without_steps_epochs_count_and_a_validation_between_them_does_not(windows, write):
    write(
        (EPOCH, None, 0, 10),
        (VALIDATE, None, 11, 15),
        (EPOCH, None, 16, 26),
        (EPOCH, None, 27, None),
    )
    assert times(windows) == [(0, 10, 0), (16, 27, 1)]
    assert windows.unit == EPOCH


def test_times_are_those_of_the_gpu_and_wait_for_them(windows, write):
    steps = [(STEP, 0, 1, 2), (STEP, 0, 3, 4), (STEP, 0, 5, 6)]
    write((EPOCH, None, 0, None), *steps)
    assert times(windows) == [(1, 3, 0), (3, 5, 0)]
    write((STEP, 0, 7, 8), first=4, gpu=[(1, 11, 18), (2, 20, 28)])
    assert times(windows) == [(11, 20, 0)]
    write((VALIDATE, 0, 9, 10), first=5, gpu=[(3, 30, 38), (4, 40, 48)])
    assert times(windows) == [(11, 20, 0), (20, 30, 0), (30, 40, 0)]


def test_only_units_after_the_beginning_count_also_if_they_were_read_before(windows, write):
    write((EPOCH, None, 0, None), *[(STEP, 0, 2 * i, 2 * i + 1) for i in range(1, 6)])
    assert len(times(windows)) == 4
    windows.begin(6 * MS)
    assert times(windows) == [(6, 8, 0), (8, 10, 0)]


def test_other_processes_and_nothing_at_all_are_no_work(windows, write, recording):
    assert times(windows) == []
    write((EPOCH, None, 0, None), (STEP, 0, 1, 4), (STEP, 0, 5, None))
    assert times(LiveWindows(SimpleNamespace(directory=recording), pid=2)) == []


def test_a_window_that_a_busy_machine_left_without_readings_is_measured_again(
    windows, write, monkeypatch
):
    measured_j = [math.nan, math.nan, 5.0]
    energy = partial(SimpleNamespace, absent={}, components={})
    monkeypatch.setattr(windows, "energy", lambda _: energy(gross_j=measured_j.pop(0)))
    write((EPOCH, None, 0, None), *[(STEP, 0, 2 * i, 2 * i + 1) for i in range(1, 100)])
    found, _ = windows.measure({}, 0, 0.01, pytest.fail)
    assert (found.energy.gross_j, measured_j) == (5.0, [])
    measured_j += [math.nan] * 3
    with pytest.raises(UserError, match="no energy was measured"):
        windows.measure({}, 0, 0.01, pytest.fail)
