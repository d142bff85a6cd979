"""The connection between a program and a recorder, also with invalid messages on it."""

import json
import os
import socket
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import joulelab
from joulelab.errors import RecorderError
from joulelab.recording import connections
from joulelab.recording.client import RecorderClient
from joulelab.recording.connections import MessageSocket, address
from joulelab.recording.trace_schema import read_header


@pytest.fixture
def pair():
    ends = [MessageSocket(end) for end in socket.socketpair()]
    yield ends
    for end in ends:
        end.close()


@pytest.fixture(scope="module")
def meter(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        directory = tmp_path_factory.mktemp("recording")
        patch.setenv("JOULELAB_HOME", str(directory / "home"))
        with joulelab.Meter(sensors=["simulated"], directory=directory / "run") as meter:
            yield meter


values = st.none() | st.booleans() | st.integers() | st.text()


@given(messages=st.lists(st.dictionaries(st.text(), values, max_size=3), max_size=5))
@settings(max_examples=50)
def test_messages_arrive_whole_and_in_order(messages):
    ours, theirs = (MessageSocket(end) for end in socket.socketpair())
    try:
        assert all(ours.send(message) for message in messages)
        assert [theirs.answer(5.0) for _ in messages] == messages
        assert theirs.answer(0.0) is None
    finally:
        ours.close()
        theirs.close()


def test_file_descriptors_arrive_with_a_message(pair):
    ours, theirs = pair
    end, other = os.pipe()
    assert ours.send({"pipe": 2}, (end, other))
    assert theirs.answer(5.0) == {"pipe": 2}
    assert not any(os.get_inheritable(one.number) for one in theirs.descriptors)
    os.write(theirs.descriptors[1].number, b"x")
    assert os.read(end, 1) == b"x"
    for descriptor in (end, other):
        os.close(descriptor)
    for descriptor in theirs.descriptors:
        descriptor.close()


def test_the_end_of_the_other_side_is_noticed_without_a_signal(pair):
    ours, theirs = pair
    assert ours.open
    theirs.close()
    assert not ours.open
    assert not ours.send({"still": "there"})
    assert ours.receive() is None


def test_sending_does_not_wait_for_a_side_that_does_not_read(pair):
    ours, _ = pair
    while ours.send({"much": "x" * 10_000}):
        pass
    assert ours.open


@pytest.mark.parametrize("invalid", [b"\xff\n", b"5\n", b"[]\n", b"{\n"])
def test_an_invalid_message_ends_the_connection(invalid):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.send(invalid)
        assert MessageSocket(theirs).receive() is None


@pytest.mark.parametrize(
    "message",
    [
        b"nonsense\n",
        b'{"join": {}}\n',
        b'{"join": 5}\n',
        b'{"what": 1}\n',
        b'{"stop": 0}\n',
        b'{"sync": "now"}\n',
        b'{"sync": 9000000000000000000}\n',
        b'{"join": {"pid": 1, "now_ns": 0, "cuda_visible_devices": null, '
        b'"cuda_device_order": null}}\n',
        b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n",
        b'{"join": {"pid": 1e999, "now_ns": NaN}}\n',
        b"x" * 200_000,
        b"",
    ],
    ids=lambda message: message[:20],
)
def test_a_recorder_survives_every_message(meter, message):
    path = read_header(meter.directory)["socket"]
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.connect(path)
        stranger.send(message)
        with meter.span("work") as span:
            pass
        assert span.energy.gross_j >= 0
    assert meter.alive


def test_a_later_version_may_say_more_when_it_joins(meter):
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.connect(read_header(meter.directory)["socket"])
        own = {"pid": 1, "now_ns": time.monotonic_ns(), "launch": None, "gpus_on_host": None}
        own |= {"cuda_visible_devices": None, "cuda_device_order": None}
        strange = {"event": "stop", "gpus": 5, "t_ns": "now"}
        stranger.send(json.dumps({"join": own | strange}).encode() + b"\n")
        assert b"ready" in stranger.recv(4096)
    with meter.span("work") as span:
        pass
    assert span.energy.gross_j >= 0
    assert meter.alive
    (joined,) = [event for event in meter.trace.events if event["event"] == "joined"]
    assert joined["pid"] == 1
    assert joined["gpus"] in (None, [])


def test_strange_requests_are_logged(meter):
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.connect(read_header(meter.directory)["socket"])
        stranger.send(b'{"join": {"pid": "x"}}\n')
        assert b"another version" in stranger.recv(4096)
    log = (meter.directory / "recorder.log").read_text()
    assert f"ignored a request of process {os.getpid()}: Expected int, got str" in log


def test_only_the_user_can_reach_the_recorder(meter):
    path = Path(read_header(meter.directory)["socket"])
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_a_recording_that_has_ended_cannot_be_joined(tmp_path, monkeypatch):
    monkeypatch.setenv("JOULELAB_HOME", str(tmp_path / "home"))
    with joulelab.Meter(sensors=["simulated"], directory=tmp_path / "run", record=False) as meter:
        pass
    with pytest.raises(RecorderError, match="has ended"):
        RecorderClient.join(meter.directory)


def test_a_long_path_is_an_address_too(tmp_path):
    directory = tmp_path / ("long" * 30)
    directory.mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        with address(directory / "socket") as name:
            listener.bind(name)
        listener.listen()
        MessageSocket.connect(directory / "socket", 1.0).close()


def test_files_of_killed_recorders_are_removed_and_those_in_use_are_not(tmp_path):
    old_s = time.time() - 10 * connections.UNUSED_AFTER_S
    for name in ("dead.sock", "young.sock"):
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(tmp_path / name))
    for name in ("old.job", "young.job"):
        (tmp_path / name).touch()
    with socket.socket(socket.AF_UNIX) as living:
        living.bind(str(tmp_path / "living.sock"))
        living.listen()
        for name in ("dead.sock", "living.sock", "old.job"):
            os.utime(tmp_path / name, (old_s, old_s))
        connections.remove_stale(tmp_path)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"young.sock", "living.sock", "young.job"}


def test_processes_join_although_another_user_has_taken_the_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("JOULELAB_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    taken = tmp_path / f"joulelab-{os.getuid()}"
    taken.mkdir()
    # Like a directory of another user's, one that others may use is not private.
    taken.chmod(0o777)
    with joulelab.Meter(sensors=["simulated"], directory=tmp_path / "run", record=False) as meter:
        path = Path(read_header(meter.directory)["socket"])
        assert path.parent.stat().st_mode & 0o777 == 0o700
        joined = RecorderClient.join(meter.directory)
        assert joined.pid == meter.recorder_pid
        joined.stop(time.monotonic_ns())
        with meter.span("work") as span:
            pass
    assert any(f"{taken} is not private" in note for note in span.energy.notes)
    assert not path.parent.exists()
