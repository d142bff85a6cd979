"""The line between a program and a recorder, and what comes of nonsense on it."""

import os
import socket
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import joulelab
from joulelab.errors import RecorderError
from joulelab.recording import runtime
from joulelab.recording.connection import Connection, address
from joulelab.recording.link import RecorderLink
from joulelab.recording.trace_format import read_header


@pytest.fixture
def pair():
    ends = [Connection(end) for end in socket.socketpair()]
    yield ends
    for end in ends:
        end.close()


@pytest.fixture
def meter(tmp_path, monkeypatch):
    monkeypatch.setenv("JOULELAB_HOME", str(tmp_path / "home"))
    with joulelab.Meter(sensors=["simulated"], directory=tmp_path / "run") as meter:
        yield meter


values = st.none() | st.booleans() | st.integers() | st.text()


@given(messages=st.lists(st.dictionaries(st.text(), values, max_size=3), max_size=5))
def test_messages_come_whole_and_in_order(messages):
    ours, theirs = (Connection(end) for end in socket.socketpair())
    try:
        assert all(ours.send(message) for message in messages)
        assert [theirs.answer(5.0) for _ in messages] == messages
        assert theirs.answer(0.0) is None
    finally:
        ours.close()
        theirs.close()


def test_descriptors_come_with_a_message(pair):
    ours, theirs = pair
    end, other = os.pipe()
    assert ours.send({"here": 2}, (end, other))
    assert theirs.answer(5.0) == {"here": 2}
    os.write(theirs.descriptors[1], b"x")
    assert os.read(end, 1) == b"x"
    for descriptor in (end, other, *theirs.descriptors):
        os.close(descriptor)


def test_an_end_that_is_gone_is_noticed_and_no_signal(pair):
    ours, theirs = pair
    assert ours.open
    theirs.close()
    assert not ours.open
    assert not ours.send({"still": "there"})
    assert ours.receive() is None


def test_who_does_not_listen_is_not_waited_for(pair):
    ours, _ = pair
    while ours.send({"much": "x" * 10_000}):
        pass
    assert ours.open


@pytest.mark.parametrize("nonsense", [b"\xff\n", b"5\n", b"[]\n", b"{\n"])
def test_nonsense_is_the_end(nonsense):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.send(nonsense)
        assert Connection(theirs).receive() is None


@pytest.mark.parametrize(
    "said",
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
        b"",
    ],
)
def test_a_recorder_goes_on_whatever_it_is_told(meter, said):
    path = read_header(meter.directory)["socket"]
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.connect(path)
        stranger.send(said)
        with meter.span("work") as span:
            pass
        assert span.energy.gross_j >= 0
    assert meter.alive


def test_only_the_user_can_reach_the_recorder(meter):
    path = Path(read_header(meter.directory)["socket"])
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_a_recording_that_is_over_cannot_be_joined(meter):
    meter.close()
    with pytest.raises(RecorderError, match="is over"):
        RecorderLink.join(meter.directory)


def test_a_long_path_is_an_address_too(tmp_path):
    place = tmp_path / ("long" * 30)
    place.mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        with address(place / "socket") as name:
            listener.bind(name)
        listener.listen()
        Connection.to(place / "socket", 1.0).close()


def test_what_the_dead_left_is_swept_and_the_living_is_not(tmp_path):
    old_s = time.time() - 10 * runtime.FORGOTTEN_AFTER_S
    names = ["dead.sock", "young.sock", "old.job", "young.job"]
    for name in names:
        if name.endswith("sock"):
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(str(tmp_path / name))
        else:
            (tmp_path / name).touch()
    with socket.socket(socket.AF_UNIX) as living:
        living.bind(str(tmp_path / "living.sock"))
        living.listen()
        for name in ("dead.sock", "living.sock", "old.job"):
            os.utime(tmp_path / name, (old_s, old_s))
        runtime.sweep(tmp_path)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"young.sock", "living.sock", "young.job"}
