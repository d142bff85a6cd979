"""Recordings are found by their recorders' processes."""

import json
import os
import subprocess
import sys

import pytest
from waiting import wait_for

from joulelab import Meter
from joulelab.export.live_recordings import LiveRecordings
from joulelab.sensors.simulated import SimulatedMachine
from joulelab.watch.sources import MachineSource


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    monkeypatch.setenv("JOULELAB_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("JOULELAB_SENSORS", SimulatedMachine.default().spec())


def found(recordings, directories):
    """The recordings in some directories; other programs may record at the same time."""
    return {one.directory: one for one in recordings.scan() if one.directory in directories}


def test_meters_are_found_with_and_without_a_directory(tmp_path):
    recordings = LiveRecordings()
    with Meter(directory=tmp_path / "mine", own_recorder=True) as named:
        with Meter(own_recorder=True) as temporary:
            directories = {named.directory, temporary.directory}
            both = wait_for(lambda: len(one := found(recordings, directories)) == 2 and one)
            assert both[named.directory].name == "mine"
            assert both[named.directory].recorder_pid == named.recorder_pid
            assert both[named.directory].start_ns == named.trace.header["start_ns"]
            assert both[temporary.directory].name.endswith(f"-{os.getpid()}")
        wait_for(lambda: set(found(recordings, directories)) == {named.directory})
    wait_for(lambda: not found(recordings, directories))


def test_a_directory_may_be_relative(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recordings = LiveRecordings()
    with Meter(directory="mine", own_recorder=True):
        wait_for(lambda: found(recordings, {tmp_path / "mine"}))


def test_a_damaged_record_hides_no_recording(tmp_path):
    with Meter(directory=tmp_path / "mine", own_recorder=True) as meter:
        (meter.directory / "run.json").write_text("{")
        wait_for(lambda: found(LiveRecordings(), {meter.directory}))


def test_a_watched_machine_is_no_run():
    with MachineSource() as source:
        recorder = source._recording._directory
        assert recorder not in found(LiveRecordings(), {recorder})


@pytest.mark.parametrize(
    "argument",
    [
        "no JSON",
        "3",
        "{}",
        json.dumps({"directory": 3}),
        json.dumps({"directory": "/missing"}),
        json.dumps({"directory": "/dev\0/null"}),
    ],
)
def test_other_processes_with_such_arguments_are_nothing(argument):
    code = "import sys; print(flush=True); sys.stdin.read()"
    arguments = [sys.executable, "-c", code, "joulelab.recording.recorder", argument]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        pids = {one.recorder_pid for one in LiveRecordings().scan()}
        process.stdin.close()
    assert process.pid not in pids
