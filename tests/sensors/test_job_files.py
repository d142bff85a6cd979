"""What the processes of a job read and write."""

import os
import subprocess
import sys

import pytest

from joulelab.sensors.job_files import JobFiles, parse_io
from joulelab.sensors.processes import Process, read_processes

READ_BYTES = 5_000_000


def process(pid, parent, started=100):
    return Process(pid, "a", parent, pid, 1, 0.0, 0.0, started, 0)


@pytest.fixture
def write_io(tmp_path):
    def write(**read_by_pid):
        for pid, read in read_by_pid.items():
            path = tmp_path / pid.removeprefix("p") / "io"
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"rchar: {read}\nwchar: 0\nread_bytes: 0\nwrite_bytes: 0\n")

    return write


def test_process_counts_from_its_start_or_from_when_it_is_seen(tmp_path, write_io):
    files = JobFiles(since=50, recorder_pid=9, proc=tmp_path)
    write_io(p1=1000, p2=200, p9=5000)
    members = {1: process(1, 0, started=10), 2: process(2, 1), 9: process(9, 1)}
    files.update(members)
    assert files.total.read == 200
    write_io(p1=1030, p2=204, p9=9000)
    files.update(members)
    assert files.total.read == 200 + 30 + 4


def test_ended_child_counts_once(tmp_path, write_io):
    files = JobFiles(since=50, recorder_pid=9, proc=tmp_path)
    write_io(p1=1000, p2=200)
    files.update({1: process(1, 0, started=10), 2: process(2, 1)})
    # The child reads another 50 and ends; its parent, which waited for it, reads 7.
    write_io(p1=1000 + 250 + 7)
    (tmp_path / "2/io").unlink()
    files.update({1: process(1, 0, started=10), 2: process(2, 1)})
    assert files.total.read == 250 + 7


def test_unreadable_counters_are_errors(tmp_path, write_io):
    files = JobFiles(since=0, recorder_pid=9, proc=tmp_path)
    write_io(p1=10)
    (tmp_path / "1/io").write_text("rchar: 5\n")
    with pytest.raises(ValueError, match="does not count"):
        files.update({1: process(1, 0)})
    (tmp_path / "1/io").unlink()
    (tmp_path / "1/io").mkdir()
    with pytest.raises(IsADirectoryError):
        files.update({1: process(1, 0)})


def test_real_program_and_its_child(tmp_path):
    data = tmp_path / "data"
    data.write_bytes(bytes(READ_BYTES))
    code = f"import sys; sys.stdin.readline(); open({str(data)!r}, 'rb').read(); print(flush=True)"
    code += "; sys.stdin.readline()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        members = {pid: one for pid, one in read_processes().items() if pid == child.pid}
        own = members[child.pid].started
        files = JobFiles(since=own + 1, recorder_pid=os.getpid())
        files.update(members)
        child.stdin.write("go\n")
        child.stdin.flush()
        child.stdout.readline()
        files.update(members)
        child.stdin.write("end\n")
        child.stdin.flush()
    assert files.total.read == pytest.approx(READ_BYTES, rel=0.01)


def test_io_is_parsed():
    with pytest.raises(KeyError):
        parse_io(b"rchar: 1\n")
