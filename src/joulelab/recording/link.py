"""The user's end of the recorder: starts it, tells it, and notices when it is gone."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from joulelab.errors import RecorderError, UserError

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 10.0
SYNC_TIMEOUT_S = 5.0
MARKS_PIPE_BYTES = 1 << 20
ATOMIC_WRITE_BYTES = select.PIPE_BUF


class RecorderLink:
    """A running recorder.

    Args:
        directory: Where it writes its trace.
        sensors: What to read; ``None`` for everything that the process may use.
        interval_s: Read every sensor at least this often; ``None`` for each sensor's own pace.

    Raises:
        UserError: A sensor that was asked for does not exist.
        RecorderError: It did not start; the message says what it said.
    """

    def __init__(
        self, directory: Path, sensors: Sequence[str] | None, interval_s: float | None
    ) -> None:
        self.failure = ""
        self._stopped = False
        self._lock = threading.Lock()
        self._answers = b""
        marks_out, self._marks = os.pipe()
        requests_out, self._requests = os.pipe()
        os.set_blocking(self._marks, False)
        with contextlib.suppress(OSError):
            fcntl.fcntl(self._marks, fcntl.F_SETPIPE_SZ, MARKS_PIPE_BYTES)
        config = {
            "directory": str(directory),
            "sensors": None if sensors is None else list(sensors),
            "interval_s": interval_s,
            "marks": marks_out,
            "requests": requests_out,
            "parent_pid": os.getpid(),
        }
        self._log = (directory / "recorder.log").open("wb")
        self._process = subprocess.Popen(
            # -P: a file of the user's named like a module of ours must not be imported for it.
            [sys.executable, "-P", "-m", "joulelab.recording.recorder", json.dumps(config)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._log,
            pass_fds=(marks_out, requests_out),
            start_new_session=True,
            env=_environment(),
        )
        os.close(marks_out)
        os.close(requests_out)
        self._owner_pid = os.getpid()
        self._finalizer = weakref.finalize(self, _close, self._marks, self._requests)
        first = self._answer(START_TIMEOUT_S)
        if first is None or "error" in first:
            self._process.kill()
            self._end()
            if first and first.get("exit_code") == UserError.exit_code:
                raise UserError(first["error"])
            raise RecorderError(
                "the recorder did not start",
                why=first["error"] if first else self._last_words(directory),
            )
        self.ready_ns: int = first["ready"]

    @property
    def pid(self) -> int:
        """The recorder's process."""
        return self._process.pid

    @property
    def owned(self) -> bool:
        """Whether it is this process's own, and not that of the parent that forked it."""
        return self._owner_pid == os.getpid()

    @property
    def alive(self) -> bool:
        """Whether the recorder records, or recorded to its proper end."""
        known = self._stopped or self.failure or not self.owned
        if not known and self._process.poll() is not None:
            self.failure = f"the recorder ended early ({self._why()})"
        return not self.failure

    def mark(self, line: bytes) -> bool:
        """Hands over one finished line; never waits. False when it could not be taken."""
        try:
            os.write(self._marks, line)
        except BlockingIOError:
            return False
        except OSError:
            # The recorder is gone. The workload goes on; ``alive`` will say so.
            return True
        return True

    def wait_for_room(self, timeout_s: float) -> None:
        """Waits until the recorder can take more marks, or the time is over."""
        select.select([], [self._marks], [], timeout_s)

    def sync(self, t_ns: int) -> bool:
        """Waits until the sensors have covered that time, at most a few seconds."""
        if not self.owned:
            return False
        with self._lock:
            if not self.alive or not self._ask(sync=t_ns):
                return False
            deadline_s = time.monotonic() + SYNC_TIMEOUT_S
            while (left_s := deadline_s - time.monotonic()) > 0:
                answer = self._answer(left_s)
                if answer is None:
                    return False
                if answer.get("synced", -1) >= t_ns:
                    return True
            return False

    def stop(self) -> None:
        """Lets it cover the time until now, and ends it."""
        if not self.owned:
            return
        with self._lock:
            if self._stopped:
                return
            if self.alive and self._ask(stop=time.monotonic_ns()):
                try:
                    self._process.wait(STOP_TIMEOUT_S)
                except subprocess.TimeoutExpired:
                    self.failure = "the recorder did not end when asked to and was killed"
                    self._process.kill()
            if self._process.wait() != 0 and not self.failure:
                self.failure = f"the recorder failed ({self._why()})"
            self._end()

    def _end(self) -> None:
        self._process.wait()
        self._stopped = True
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._log.close()
        self._finalizer()

    def _ask(self, **request: int) -> bool:
        try:
            os.write(self._requests, json.dumps(request).encode() + b"\n")
        except OSError:
            return False
        return True

    def _answer(self, timeout_s: float) -> dict[str, Any] | None:
        """The recorder's next line, or nothing when it is silent or gone."""
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        deadline_s = time.monotonic() + timeout_s
        while b"\n" not in self._answers:
            left_s = deadline_s - time.monotonic()
            ready, _, _ = select.select([descriptor], [], [], max(0.0, left_s))
            data = os.read(descriptor, ATOMIC_WRITE_BYTES) if ready else b""
            if not data:
                return None
            self._answers += data
        line, _, self._answers = self._answers.partition(b"\n")
        answer = json.loads(line)
        assert isinstance(answer, dict)
        return answer

    def _why(self) -> str:
        """Why it ended: as it said, or else as the operating system saw it."""
        returncode = self._process.returncode
        if returncode < 0:
            return f"killed by signal {-returncode}"
        last: dict[str, Any] | None = {}
        while last is not None and "error" not in last:
            last = self._answer(0.0)
        return str(last["error"]) if last else f"exit code {returncode}"

    def _last_words(self, directory: Path) -> str:
        text = (directory / "recorder.log").read_text(errors="replace").strip()
        return text.splitlines()[-1] if text else "it said nothing"


def _environment() -> dict[str, str]:
    """The process's own, in which this very package is found."""
    package_parent = str(Path(__file__).resolve().parents[2])
    path = os.environ.get("PYTHONPATH", "")
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, (path, package_parent))),
    }


def _close(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
