"""The program's end of a recorder that has not begun, or does not end."""

import os
import signal
import subprocess

import pytest

from joulelab.errors import RecorderError
from joulelab.recording import client, recorder_choice
from joulelab.recording.client import RecorderOptions
from joulelab.recording.recorder_choice import open_recorder

OPTIONS = RecorderOptions(["simulated"], None)


def test_a_recorder_that_failed_before_it_began_is_not_waited_for(tmp_path, monkeypatch):
    """The wrapper begins its record once its recorder has begun, or has failed to."""
    (tmp_path / "run.json").touch()
    monkeypatch.setenv(recorder_choice.ENVIRONMENT, str(tmp_path))
    monkeypatch.setattr(recorder_choice, "JOIN_TIMEOUT_S", 1e9)
    recorder = open_recorder(None, RecorderOptions(None, None))
    assert recorder.not_joined.startswith("did not join, recording on its own instead")
    assert recorder.private
    recorder.stop(0)


@pytest.fixture
def lasting(monkeypatch):
    """Let no process end when it is killed, as in a driver that hangs."""
    started = []
    start = subprocess.Popen.__init__

    def remember(process, *arguments, **keywords):
        start(process, *arguments, **keywords)
        started.append(process)

    monkeypatch.setattr(subprocess.Popen, "__init__", remember)
    monkeypatch.setattr(subprocess.Popen, "kill", lambda process: None)
    monkeypatch.setattr(client, "KILL_TIMEOUT_S", 0.05)
    yield started
    for process in started:
        process.send_signal(signal.SIGKILL)
        process.wait()


def test_a_recorder_that_neither_starts_nor_ends_is_not_waited_for(lasting, tmp_path, monkeypatch):
    monkeypatch.setattr(client, "START_TIMEOUT_S", 0.0)
    with pytest.raises(RecorderError, match="did not start"):
        open_recorder(tmp_path, OPTIONS, own=True)
    assert lasting


def test_a_recorder_that_does_not_end_is_a_failure(lasting, monkeypatch):
    recorder = open_recorder(None, OPTIONS, own=True)
    monkeypatch.setattr(client, "STOP_TIMEOUT_S", 0.0)
    [process] = lasting
    process.send_signal(signal.SIGSTOP)
    recorder.stop(0)
    assert recorder.failure == "the recorder did not end on request and was killed"


def test_a_recorder_that_is_killed_as_it_is_asked_to_end_ended_early(monkeypatch):
    recorder = open_recorder(None, OPTIONS, own=True)
    pid = recorder.pid
    send = client.MessageSocket.send

    def kill_and_send(connection, message):
        os.kill(pid, signal.SIGKILL)
        return send(connection, message)

    monkeypatch.setattr(client.MessageSocket, "send", kill_and_send)
    recorder.stop(0)
    assert recorder.failure == "the recorder ended early (killed by signal 9)"
