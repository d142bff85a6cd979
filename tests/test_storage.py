import errno
import os
import tempfile
from pathlib import Path

import pytest

from joulelab.errors import StoreError
from joulelab.storage import (
    home,
    home_note,
    in_use,
    is_in_use,
    make_private_directories,
    read_whole,
    remove_abandoned,
    write_whole,
    writing,
)


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


def test_ctrl_c_leaves_no_file_behind(tmp_path, monkeypatch):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "figures.csv", b"new")
    assert list(tmp_path.iterdir()) == []


def test_a_link_of_another_user_is_never_followed(tmp_path, monkeypatch):
    """Even if the random name were guessed, the file must be a new one."""
    (tmp_path / "precious").write_bytes(b"mine")
    monkeypatch.setattr(os, "urandom", bytes)
    write_whole(tmp_path / "x.csv", b"new")
    (tmp_path / f".joulelab-{bytes(8).hex()}.partial").symlink_to("precious")
    with pytest.raises(FileExistsError):
        write_whole(tmp_path / "x.csv", b"newer")
    assert (tmp_path / "precious").read_bytes() == b"mine"


def test_private_files_and_directories_are_for_this_user_only(tmp_path):
    before = os.umask(0)
    try:
        make_private_directories(tmp_path / "a" / "b")
        write_whole(tmp_path / "a" / "b" / "run.json", b"{}", private=True)
        write_whole(tmp_path / "a" / "table.csv", b"x")
    finally:
        os.umask(before)
    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in tmp_path.rglob("*")}
    assert modes == {"a": "0o700", "b": "0o700", "run.json": "0o600", "table.csv": "0o666"}


def test_a_pipe_in_the_place_of_a_record_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "run.json")
    for path in (tmp_path / "run.json", tmp_path, Path("/dev/zero")):
        with pytest.raises(OSError, match="not a regular file"):
            read_whole(path)


def test_a_directory_is_in_use_as_long_as_one_of_its_users_is_there(tmp_path):
    assert not is_in_use(tmp_path)
    first, second = in_use(tmp_path), in_use(tmp_path)
    os.close(first)
    assert is_in_use(tmp_path)
    os.close(second)
    assert not is_in_use(tmp_path)


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


@pytest.fixture
def variables(monkeypatch, tmp_path):
    """Sets where data goes, in an empty working directory; the temporary directory is another."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.chdir(tmp_path)

    def set_variables(**values):
        for name in ("JOULELAB_HOME", "XDG_DATA_HOME", "HOME"):
            monkeypatch.delenv(name, raising=False)
        for name, value in values.items():
            monkeypatch.setenv(name, str(value))

    return set_variables


def test_data_goes_where_the_user_says_or_into_the_home_directory(variables, tmp_path):
    variables(HOME=tmp_path / "me")
    assert home() == tmp_path / "me/.local/share/joulelab"
    variables(HOME=tmp_path / "me", XDG_DATA_HOME=tmp_path / "data")
    assert home() == tmp_path / "data/joulelab"
    variables(HOME=tmp_path / "me", JOULELAB_HOME="chosen")
    assert home() == Path("chosen")
    assert home_note() == ""


@pytest.mark.parametrize("kind", ["no home", "home that cannot be written to"])
def test_a_user_without_a_home_gets_a_private_temporary_directory(
    variables, tmp_path, monkeypatch, kind
):
    if kind == "no home":
        variables()
        # As for a user id without an entry in the password file.
        monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    else:
        variables(HOME="/proc/1")
        monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != Path("/proc/1"))
    private = tmp_path / "temporary" / f"joulelab-{os.getuid()}"
    assert home() == private / "home"
    assert private.stat().st_mode & 0o777 == 0o700
    assert "JOULELAB_HOME" in home_note()
    assert not (tmp_path / "~").exists()


def test_a_temporary_directory_that_others_may_use_is_refused(variables, tmp_path, monkeypatch):
    variables()
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    (tmp_path / "temporary" / f"joulelab-{os.getuid()}").mkdir(mode=0o755)
    with pytest.raises(StoreError, match="set JOULELAB_HOME"):
        home()


def test_only_old_temporary_directories_that_no_process_uses_are_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in ("part-old", "part-used", "part-new", "other-old"):
        (tmp_path / name / "study").mkdir(parents=True)
        if not name.endswith("new"):
            os.utime(tmp_path / name, (1e9, 1e9))
    used = in_use(tmp_path / "part-used")
    remove_abandoned("part-")
    os.close(used)
    assert {one.name for one in tmp_path.iterdir()} == {"part-used", "part-new", "other-old"}
