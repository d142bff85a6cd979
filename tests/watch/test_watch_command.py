"""The command itself, in a terminal and in a pipe, on a recording that grows."""

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
from unittest.mock import ANY

import pytest

from joulelab import Meter
from joulelab.sensors.simulated import SimulatedMachine

PATIENCE_S = 30.0
STYLE = re.compile(r"\x1b\[[\d;]*m")
COLOUR = re.compile(r"\x1b\[(\d+;)*3\d[;m]")
LEAVES = "\x1b[?1049l"
SHOWS_CURSOR = "\x1b[?25h"


@pytest.fixture(scope="module")
def meter(tmp_path_factory):
    """A recording under way, with an epoch that is open."""
    directory = tmp_path_factory.mktemp("recording")
    with Meter(sensors=SimulatedMachine.default(), directory=directory) as meter:
        with meter.span("epoch", index=0):
            pass
        with meter.span("epoch", index=1, total=4):
            yield meter


def command(*arguments):
    return [sys.executable, "-m", "joulelab", "watch", *map(str, arguments)]


def environment(**more):
    own = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    return own | {"TERM": "xterm-256color", "JOULELAB_SENSORS": "simulated"} | more


def run(*arguments, **more):
    return subprocess.run(
        command(*arguments),
        env=environment(**more),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


class Terminal:
    """The command in a terminal of its own."""

    def __init__(self, *arguments, columns=60, **more):
        self.master, self.slave = pty.openpty()
        self.resize(columns)
        self.modes = termios.tcgetattr(self.slave)
        self.shown = ""
        self.process = subprocess.Popen(
            ["setsid", "--ctty", *command(*arguments)],
            env=environment(**more),
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
        )

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.master)
        os.close(self.slave)

    def resize(self, columns):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))

    def wait_for(self, pattern):
        """Reads until what was shown since the last call, colours aside, has the pattern."""
        deadline_s = time.monotonic() + PATIENCE_S
        while not re.search(pattern, STYLE.sub("", self.shown)):
            assert time.monotonic() < deadline_s, self.shown
            self._drain()
        found, self.shown = self.shown, ""
        return found

    def ends(self):
        """Reads until it has ended; gives its exit code and the last that it wrote."""
        deadline_s = time.monotonic() + PATIENCE_S
        while self.process.poll() is None:
            assert time.monotonic() < deadline_s, self.shown
            self._drain()
        self._drain()
        return self.process.returncode, self.shown

    def _drain(self):
        while select.select([self.master], [], [], 0.05)[0]:
            with contextlib.suppress(OSError):
                self.shown += os.read(self.master, 1 << 16).decode(errors="replace")

    def is_restored(self):
        return termios.tcgetattr(self.slave) == self.modes


def test_q_ends_it_and_the_terminal_is_as_before(meter):
    with Terminal(meter.directory) as terminal:
        shown = terminal.wait_for(r"gpu:0 +[\d.]+ W")
        assert COLOUR.search(shown)
        assert not terminal.is_restored()
        terminal.wait_for(r"epoch 2/4 \d")
        terminal.resize(100)
        os.kill(terminal.process.pid, signal.SIGWINCH)
        terminal.wait_for("full bar")
        os.write(terminal.master, b"q")
        code, last = terminal.ends()
        assert code == 0
        assert LEAVES in last
        assert SHOWS_CURSOR in last
        assert terminal.is_restored()


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_signals_restore_the_terminal(meter, number, code):
    with Terminal(meter.directory, NO_COLOR="1") as terminal:
        shown = terminal.wait_for(r"gpu:0 +[\d.]+ W")
        assert not COLOUR.search(shown)
        os.kill(terminal.process.pid, number)
        ended, last = terminal.ends()
        assert ended == code
        assert LEAVES in last
        assert (": live; " in last) == (code == 0)
        assert terminal.is_restored()


def test_it_can_be_stopped_and_goes_on(meter):
    with Terminal(meter.directory) as terminal:
        terminal.wait_for(r"gpu:0 +[\d.]+ W")
        os.kill(terminal.process.pid, signal.SIGTSTP)
        os.waitpid(terminal.process.pid, os.WUNTRACED)
        assert terminal.is_restored()
        terminal.wait_for(re.escape(LEAVES))
        os.kill(terminal.process.pid, signal.SIGCONT)
        terminal.wait_for(r"gpu:0 +[\d.]+ W")
        os.write(terminal.master, b"q")
        assert terminal.ends()[0] == 0


def test_a_pipe_gets_lines(meter):
    with subprocess.Popen(
        command(meter.directory, "--interval", "0.2"),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        lines = [process.stdout.readline() for _ in range(3)]
        process.stdout.close()
        assert process.wait(PATIENCE_S) == 0
        assert process.stderr.read() == ""
    assert all(": live; " in line and "epoch 2/4" in line for line in lines)


def test_one_frame_as_json(meter):
    before = sorted(path.name for path in meter.directory.iterdir())
    result = run(meter.directory, "--once", "--json")
    assert result.returncode == 0, result.stderr
    view = json.loads(result.stdout)
    assert view["state"] == "live"
    assert view["energy"]["gross_j"] > 0
    assert view["stacks"] == [
        {
            "pid": os.getpid(),
            "spans": [{"name": "epoch", "index": 1, "total": 4, "elapsed_s": ANY}],
        }
    ]
    assert sorted(path.name for path in meter.directory.iterdir()) == before


def test_this_machine_and_the_jobs_on_it(tmp_path):
    home = {"JOULELAB_HOME": str(tmp_path)}
    job = subprocess.Popen(
        [sys.executable, "-m", "joulelab", "run", "--quiet", "--", "sleep", "600"],
        env=environment(**home),
    )
    try:
        deadline_s = time.monotonic() + PATIENCE_S
        while not list(tmp_path.glob("runs/*/run.json")):
            assert time.monotonic() < deadline_s
            time.sleep(0.05)
        (directory,) = tmp_path.glob("runs/*")
        result = run("--once", **home, COLUMNS="200")
        assert result.returncode == 0, result.stderr
        assert "this machine" in result.stdout
        assert f"joulelab watch {directory}" in result.stdout
        result = run(directory, "--once", **home)
        assert "sleep 600" in result.stdout
        assert " live " in result.stdout
    finally:
        job.send_signal(signal.SIGTERM)
        job.wait(PATIENCE_S)
    result = run(directory, **home)
    assert result.returncode == 0
    assert "ended (signal 15)" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nowhere",), "there is no directory nowhere"),
        ((".",), "there is nothing to watch in ."),
        (("--json",), "--once"),
        ((".", "--sensors", "gpu"), "--sensors"),
    ],
)
def test_a_wrong_request_is_one_line(arguments, words, tmp_path):
    result = subprocess.run(
        command(*arguments), env=environment(), cwd=tmp_path, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert result.returncode == 2
    assert words in result.stderr
    assert len(result.stderr.splitlines()) == 1
