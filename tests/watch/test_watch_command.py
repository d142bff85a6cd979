"""``joulelab watch`` in a terminal, in a pipe and once, on a recording that grows."""

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
import warnings
from unittest.mock import ANY

import pytest

from joulelab import Meter
from joulelab.cli.app import main
from joulelab.sensors.simulated import SimulatedMachine

PATIENCE_S = 120.0
STYLE = re.compile(r"\x1b\[[\d;]*m")
COLOUR = re.compile(r"\x1b\[(\d+;)*3\d[;m]")
LEAVES = "\x1b[?1049l"
SHOWS_CURSOR = "\x1b[?25h"
POWER = r"gpu:0 +[\d.]+ W"


@pytest.fixture(scope="module")
def meter(tmp_path_factory):
    """A recording with an open epoch."""
    directory = tmp_path_factory.mktemp("recording")
    with Meter(sensors=SimulatedMachine.default(), directory=directory) as meter:
        with meter.span("epoch", index=0):
            pass
        with meter.span("epoch", index=1, total=4):
            yield meter


def fork(arguments, terminal, **environment):
    """Start the command in a fork of this process, which has imported everything it needs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # this process has threads
        pid = os.fork()
    if pid:
        return pid
    with contextlib.suppress(BaseException):
        os.setsid()
        fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
        for number in (0, 1, 2):
            os.dup2(terminal, number)
        sys.stdin, sys.stdout = open(0), open(1, "w")  # noqa: SIM115
        sys.stderr = open(2, "w")  # noqa: SIM115
        for name in ("COLUMNS", "LINES"):
            os.environ.pop(name, None)
        os.environ |= {"TERM": "xterm-256color", **environment}
        try:
            main(["watch", *map(str, arguments)])
        except SystemExit as ended:
            sys.stdout.flush()
            os._exit(ended.code or 0)
    os._exit(99)


class Terminal:
    """The command in a terminal of its own."""

    def __init__(self, *arguments, columns=60, **environment):
        self.master, self.slave = pty.openpty()
        self.resize(columns)
        self.modes = termios.tcgetattr(self.slave)
        self.shown = ""
        self.pid = fork(arguments, self.slave, **environment)
        self.status = None

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        if self.status is None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.master)
        os.close(self.slave)

    def resize(self, columns):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))

    def wait_for(self, pattern):
        """Reads until the new output has the pattern, colours aside."""
        deadline_s = time.monotonic() + PATIENCE_S
        while not re.search(pattern, STYLE.sub("", self.shown)):
            assert time.monotonic() < deadline_s, self.shown
            self._drain()
        found, self.shown = self.shown, ""
        return found

    def ends(self):
        """Reads until the command has ended; returns its exit code and its last output."""
        deadline_s = time.monotonic() + PATIENCE_S
        while not (ended := os.waitpid(self.pid, os.WNOHANG))[0]:
            assert time.monotonic() < deadline_s, self.shown
            self._drain()
        self.status = os.waitstatus_to_exitcode(ended[1])
        self._drain()
        return self.status, self.shown

    def _drain(self):
        while select.select([self.master], [], [], 0.05)[0]:
            with contextlib.suppress(OSError):
                self.shown += os.read(self.master, 1 << 16).decode(errors="replace")

    def is_restored(self):
        return termios.tcgetattr(self.slave) == self.modes


def test_it_can_be_resized_suspended_and_quit(meter):
    with Terminal(meter.directory) as terminal:
        assert COLOUR.search(terminal.wait_for(POWER))
        assert not terminal.is_restored()
        terminal.wait_for(r"epoch 2/4 \d")
        terminal.resize(100)
        terminal.wait_for("full bar")
        os.kill(terminal.pid, signal.SIGTSTP)
        os.waitpid(terminal.pid, os.WUNTRACED)
        assert terminal.is_restored()
        terminal.wait_for(re.escape(LEAVES))
        os.kill(terminal.pid, signal.SIGCONT)
        terminal.wait_for(POWER)
        assert not terminal.is_restored()
        os.write(terminal.master, b"q")
        code, last = terminal.ends()
        assert code == 0
        assert LEAVES in last
        assert SHOWS_CURSOR in last
        assert ": live; " in last
        assert terminal.is_restored()


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_signals_restore_the_terminal(meter, number, code):
    with Terminal(meter.directory, NO_COLOR="1") as terminal:
        assert not COLOUR.search(terminal.wait_for(POWER))
        os.kill(terminal.pid, number)
        ended, last = terminal.ends()
        assert ended == code
        assert LEAVES in last
        assert (": live; " in last) == (code == 0)
        assert terminal.is_restored()


def test_a_pipe_gets_lines(meter):
    command = [sys.executable, "-m", "joulelab", "watch", meter.directory, "--interval", "0.2"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        lines = [process.stdout.readline() for _ in range(3)]
        process.stdout.close()
        assert process.wait(PATIENCE_S) == 0
        assert process.stderr.read() == ""
    assert all(": live; " in line and "epoch 2/4" in line for line in lines)


def test_one_frame_as_json(meter, printed):
    before = sorted(path.name for path in meter.directory.iterdir())
    out = printed("watch", meter.directory, "--once", "--json")
    view = json.loads(out)
    assert view["state"] == "live"
    assert view["energy"]["gross_j"] > 0
    assert view["stacks"] == [
        {
            "pid": os.getpid(),
            "spans": [{"name": "epoch", "index": 1, "total": 4, "elapsed_s": ANY}],
        }
    ]
    assert sorted(path.name for path in meter.directory.iterdir()) == before


def test_this_machine_and_the_runs_on_it(tmp_path, printed, monkeypatch):
    monkeypatch.setenv("JOULELAB_HOME", str(tmp_path))
    monkeypatch.setenv("JOULELAB_SENSORS", "simulated")
    monkeypatch.setenv("COLUMNS", "200")
    process = subprocess.Popen(
        [sys.executable, "-m", "joulelab", "run", "--quiet", "--", "sleep", "600"]
    )
    try:
        deadline_s = time.monotonic() + PATIENCE_S
        while not list(tmp_path.glob("runs/*/run.json")):
            assert time.monotonic() < deadline_s
            time.sleep(0.05)
        (directory,) = tmp_path.glob("runs/*")
        out = printed("watch", "--once")
        assert "this machine" in out
        assert f"joulelab watch {directory}" in out
        out = printed("watch", directory, "--once")
        assert "sleep 600" in out
        assert " live " in out
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE_S)
    out = printed("watch", directory)
    assert "ended (signal 15)" in out


def test_a_saved_run_is_watched_by_its_name_and_a_job_by_its_directory(
    tmp_path, printed, monkeypatch
):
    monkeypatch.setenv("JOULELAB_HOME", str(tmp_path / "home"))
    for directory in (tmp_path / "home/runs/one", tmp_path / "job/host-a/0"):
        with (
            Meter(sensors=SimulatedMachine.default(), directory=directory) as meter,
            meter.span("epoch"),
        ):
            pass
    name = json.loads((tmp_path / "home/runs/one/run.json").read_text())["name"]
    for given in (name, "latest", tmp_path / "job"):
        out = printed("watch", given, "--once", "--json")
        assert [one["name"] for one in json.loads(out)["ended"]] == ["epoch"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere",), "there is no 'nowhere': no file, and no saved run of that name"),
        ((".",), "there is nothing to watch in ."),
        (("--json",), "--once"),
        ((".", "--sensors", "gpu"), "--sensors"),
    ],
)
def test_a_wrong_request_is_one_line(arguments, message, tmp_path, refused, monkeypatch):
    monkeypatch.setenv("JOULELAB_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert message in refused("watch", *arguments)
