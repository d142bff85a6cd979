import errno
import os

import pytest

from joulelab.errors import StoreError
from joulelab.storage import write_whole, writing


def test_a_file_appears_whole_and_leaves_no_other_file(tmp_path):
    path = tmp_path / "figures.csv"
    write_whole(path, b"old")
    write_whole(path, b"new")
    assert path.read_bytes() == b"new"
    assert [one.name for one in tmp_path.iterdir()] == ["figures.csv"]


def test_what_was_there_stays_when_writing_fails(tmp_path, monkeypatch):
    path = tmp_path / "figures.csv"
    write_whole(path, b"old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert [one.name for one in tmp_path.iterdir()] == ["figures.csv"]


def test_a_pipe_is_written_to_and_not_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_whole(pipe, b"figures")
        assert os.read(reader, 100) == b"figures"
    finally:
        os.close(reader)
    assert pipe.is_fifo()


def test_errors_of_the_system_are_one_line_with_a_hint():
    with pytest.raises(StoreError) as caught, writing("/x"):
        raise PermissionError(errno.EACCES, "Permission denied")
    assert str(caught.value) == (
        "cannot write /x: Permission denied; give yourself access, or choose another path"
    )
