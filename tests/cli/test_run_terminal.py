"""``joulelab run`` on a real terminal, under a shell with job control."""

import contextlib
import fcntl
import os
import pty
import select
import signal
import sys
import termios
import textwrap
import time

import pytest

from joulelab.runs.selection import open_runs


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """Another home, and a simulated machine."""
    monkeypatch.setenv("JOULELAB_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("JOULELAB_SENSORS", "simulated")
    monkeypatch.delenv("JOULELAB_RECORDING", raising=False)


class Terminal:
    """A session of a shell with job control on another terminal."""

    def __init__(self, *command):
        self.pid, self.master = pty.fork()
        if self.pid == 0:
            os.execvp(command[0], command)
        self.seen = b""

    def expect(self, text, timeout_s=30):
        """Wait until the terminal shows a text, and drop everything before it."""
        deadline_s = time.monotonic() + timeout_s
        while text not in self.seen:
            ready, _, _ = select.select([self.master], [], [], deadline_s - time.monotonic())
            assert ready, f"{text!r} did not come: {self.seen!r}"
            try:
                self.seen += os.read(self.master, 4096)
            except OSError as error:
                raise AssertionError(f"{text!r} did not come: {self.seen!r}") from error
        before, _, self.seen = self.seen.partition(text)
        return before

    def type(self, data):
        os.write(self.master, data)

    def close(self):
        os.close(self.master)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


@pytest.fixture
def shell():
    terminal = Terminal("bash", "--norc", "--noprofile", "-i")
    terminal.type(b"PS1='[$?]prompt> '\n")
    terminal.expect(b"[0]prompt> ")
    yield terminal
    terminal.close()


def script(tmp_path, code):
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(code))
    return f"{sys.executable} -m joulelab run --quiet -- {sys.executable} {path}\n".encode()


def test_the_terminal_belongs_to_the_command(shell, tmp_path):
    code = """
        import os, sys
        print([os.isatty(fd) for fd in (0, 1, 2)], os.get_terminal_size(0).columns,
              os.tcgetpgrp(0) == os.getpgrp(), "got " + input())
    """
    fcntl.ioctl(shell.master, termios.TIOCSWINSZ, b"\x28\x00\x7b\x00\x00\x00\x00\x00")
    shell.type(script(tmp_path, code))
    shell.type(b"hello\n")
    shell.expect(b"[True, True, True] 123 True got hello")
    shell.expect(b"[0]prompt> ")


def test_ctrl_c_reaches_the_command_once(shell, tmp_path):
    code = """
        import signal, time
        seen = []
        signal.signal(signal.SIGINT, lambda *_: seen.append(1))
        print("rea" + "dy", flush=True)
        while not seen:
            time.sleep(0.01)
        time.sleep(0.3)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        print("seen", len(seen), flush=True)
        time.sleep(60)
    """
    shell.type(script(tmp_path, code))
    shell.expect(b"ready")
    shell.type(b"\x03")
    shell.expect(b"seen 1")
    shell.type(b"\x03")
    shell.expect(b"[130]prompt> ")
    (job,) = open_runs()
    assert job.signal == signal.SIGINT


def test_ctrl_z_and_fg_stop_and_continue_both(shell, tmp_path):
    code = """
        import time
        print("rea" + "dy", flush=True)
        print("got " + input(), flush=True)
    """
    shell.type(script(tmp_path, code))
    shell.expect(b"ready")
    shell.type(b"\x1a")
    shell.expect(b"Stopped")
    shell.expect(b"prompt> ")
    shell.type(b"fg\n")
    shell.expect(b"joulelab run")
    shell.type(b"hello\n")
    shell.expect(b"got hello")
    shell.expect(b"[0]prompt> ")
