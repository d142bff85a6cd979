"""The user's end of the recorder: starts it or joins it, tells it, and notices when it is gone."""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from joulelab.errors import RecorderError, UserError
from joulelab.recording.connection import Connection, Message
from joulelab.recording.launcher import current_launch
from joulelab.recording.trace_format import boot_id, read_header

START_TIMEOUT_S = 30.0
JOIN_TIMEOUT_S = 5.0
STOP_TIMEOUT_S = 10.0
SYNC_TIMEOUT_S = 5.0
_GONE = "the recorder ended early"


class RecorderLink:
    """A running recorder, as one of the processes sees it that it serves.

    Made by :meth:`start`, :meth:`start_shared` and :meth:`join`.

    Args:
        directory: Where the recorder writes its trace.
        connection: The line to it.
        process: The recorder, where it is this process's own.

    Attributes:
        directory: Where the trace is.
        failure: Why recording ended early; empty when it did not.
        ready_ns: When the recorder said that it records, CLOCK_MONOTONIC.
        pid: The recorder's process.

    Raises:
        UserError: A sensor that was asked for does not exist.
        RecorderError: It does not record; the message says what it said.
    """

    def __init__(
        self,
        directory: Path,
        connection: Connection,
        process: subprocess.Popen[bytes] | None,
        timeout_s: float,
    ) -> None:
        self.directory = directory
        self.failure = ""
        self._connection = connection
        self._process = process
        self._stopped = False
        self._lock = threading.Lock()
        self._owner_pid = os.getpid()
        connection.send({"join": _introduction()})
        first = connection.answer(timeout_s)
        if first is None or "error" in first or len(connection.descriptors) < 2:
            self._abandon()
            if first and first.get("exit_code") == UserError.exit_code:
                raise UserError(first["error"])
            raise RecorderError(
                "the recorder did not start" if process else "the recorder does not answer",
                why=first["error"] if first else _last_words(directory),
            )
        self.ready_ns: int = first["ready"]
        self.pid: int = first["pid"]
        # That end is held, too, so that a write to a recorder that is gone is no SIGPIPE.
        self._marks = connection.descriptors[1]
        descriptors = tuple(connection.descriptors)
        self._finalizer = weakref.finalize(self, _close, connection, descriptors)

    @classmethod
    def start(
        cls,
        directory: Path,
        sensors: Sequence[str] | None,
        interval_s: float | None,
        *,
        temporary: bool = False,
    ) -> Self:
        """A recorder of this process's own, which ends when it is told to.

        Args:
            directory: Where it writes its trace.
            sensors: What to read; ``None`` for everything that the process may use.
            interval_s: Read every sensor at least this often; ``None`` for each sensor's own pace.
            temporary: The recorder removes the directory when it ends.
        """
        return cls._start(directory, sensors, interval_s, temporary=temporary, detached=False)

    @classmethod
    def start_shared(
        cls,
        directory: Path,
        sensors: Sequence[str] | None,
        interval_s: float | None,
        *,
        temporary: bool = False,
    ) -> Self:
        """A recorder for all who join it, which ends when the last of them is gone."""
        return cls._start(directory, sensors, interval_s, temporary=temporary, detached=True)

    @classmethod
    def join(cls, directory: Path) -> Self:
        """The recorder that writes to a directory.

        Raises:
            RecorderError: There is none, or it does not answer.
        """
        try:
            header = read_header(directory)
        except (OSError, ValueError) as error:
            raise RecorderError(f"no recording in {directory}", why=str(error)) from error
        if header.get("boot_id") != boot_id() or not header.get("socket"):
            raise RecorderError(f"the recording in {directory} is another machine's, or over")
        try:
            connection = Connection.to(Path(header["socket"]), JOIN_TIMEOUT_S)
        except OSError as error:
            raise RecorderError(f"the recording in {directory} is over", why=str(error)) from error
        return cls(directory, connection, None, JOIN_TIMEOUT_S)

    @classmethod
    def _start(
        cls,
        directory: Path,
        sensors: Sequence[str] | None,
        interval_s: float | None,
        *,
        temporary: bool,
        detached: bool,
    ) -> Self:
        ours, theirs = socket.socketpair()
        config = {
            "directory": str(directory),
            "sensors": None if sensors is None else list(sensors),
            "interval_s": interval_s,
            "temporary": temporary,
            "detached": detached,
            "connection": theirs.fileno(),
            "parent_pid": os.getpid(),
        }
        with theirs, (directory / "recorder.log").open("wb") as log:
            process = subprocess.Popen(
                # -P: a file of the user's named like a module of ours must not be imported for it.
                [sys.executable, "-P", "-m", "joulelab.recording.recorder", json.dumps(config)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
                env=_environment(all_gpus=detached),
            )
        if detached:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(START_TIMEOUT_S)
        connection = Connection(ours)
        return cls(directory, connection, None if detached else process, START_TIMEOUT_S)

    @property
    def owned(self) -> bool:
        """Whether it is this process that holds the line, and not the parent that forked it."""
        return self._owner_pid == os.getpid()

    @property
    def private(self) -> bool:
        """Whether the recorder is this process's own."""
        return self._process is not None

    @property
    def alive(self) -> bool:
        """Whether the recorder records, or recorded to its proper end."""
        known = self._stopped or self.failure or not self.owned
        if not known and self._ended():
            self.failure = f"{_GONE} ({self._why()})"
        return not self.failure

    def mark(self, line: bytes) -> bool:
        """Hands over one finished line; never waits. False when it could not be taken."""
        try:
            os.write(self._marks, line)
        except BlockingIOError:
            # The workload goes on without its recorder; ``alive`` will say so.
            return not self._connection.open
        except OSError:
            return True
        return True

    def wait_for_room(self, timeout_s: float) -> None:
        """Waits until the recorder can take more marks, or the time is over."""
        poll = select.poll()
        poll.register(self._marks, select.POLLOUT)
        poll.poll(timeout_s * 1e3)

    def sync(self, t_ns: int) -> bool:
        """Waits until the sensors have covered that time, at most a few seconds."""
        if not self.owned:
            return False
        with self._lock:
            if self._stopped or not self.alive or not self._connection.send({"sync": t_ns}):
                return False
            deadline_s = time.monotonic() + SYNC_TIMEOUT_S
            while (left_s := deadline_s - time.monotonic()) > 0:
                answer = self._connection.answer(left_s)
                if answer is None:
                    return False
                if answer.get("synced", -1) >= t_ns:
                    return True
            return False

    def stop(self, t_ns: int) -> None:
        """Ends the recording if it is this process's own, and leaves it otherwise.

        Args:
            t_ns: One's own recorder covers this time first.
        """
        if not self.owned:
            return
        with self._lock:
            if self._stopped:
                return
            alive = self.alive
            self._stopped = True
            if self._process is not None:
                self._end(self._process, t_ns, ask=alive)
            self._finalizer()

    def _end(self, process: subprocess.Popen[bytes], t_ns: int, *, ask: bool) -> None:
        if ask and self._connection.send({"stop": t_ns}):
            _await_end(process)
            if process.poll() is None:
                self.failure = "the recorder did not end when asked to and was killed"
                process.kill()
        if process.wait() != 0 and not self.failure:
            self.failure = f"the recorder failed ({self._why()})"

    def _ended(self) -> bool:
        if self._process is not None:
            return self._process.poll() is not None
        return not self._connection.open

    def _why(self) -> str:
        """Why it ended: as it said, or else as the operating system saw it."""
        returncode = 0 if self._process is None else self._process.returncode
        if returncode < 0:
            return f"killed by signal {-returncode}"
        last: Message | None = {}
        while last is not None and "error" not in last:
            last = self._connection.answer(0.0)
        if last:
            return str(last["error"])
        return f"exit code {returncode}" if self._process else "it was ended or killed"

    def _abandon(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._stopped = True
        _close(self._connection, self._connection.descriptors)


def _await_end(process: subprocess.Popen[bytes]) -> None:
    """Waits for a process's end, and not a moment longer as its own ``wait`` would."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except (AttributeError, OSError):
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_TIMEOUT_S)
        return
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        poll.poll(STOP_TIMEOUT_S * 1e3)
    finally:
        os.close(descriptor)


def _introduction() -> Message:
    """What a recorder is told of this process."""
    launch = current_launch()
    return {
        "pid": os.getpid(),
        "now_ns": time.monotonic_ns(),
        "cuda_visible_devices": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "cuda_device_order": os.environ.get("CUDA_DEVICE_ORDER"),
        "launch": None if launch is None else launch.to_json(),
        "gpus_on_host": os.environ.get("SLURM_GPUS_ON_NODE"),
    }


def _last_words(directory: Path) -> str:
    try:
        text = (directory / "recorder.log").read_text(errors="replace").strip()
    except OSError:
        text = ""
    return text.splitlines()[-1] if text else "it said nothing"


def _environment(*, all_gpus: bool) -> dict[str, str]:
    """The process's own, in which this very package is found.

    Args:
        all_gpus: Without the choice of GPUs, which other processes of the job may make otherwise.
    """
    package_parent = str(Path(__file__).resolve().parents[2])
    path = os.environ.get("PYTHONPATH", "")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, (path, package_parent))),
    }
    if all_gpus:
        environment.pop("CUDA_VISIBLE_DEVICES", None)
    return environment


def _close(connection: Connection, descriptors: Sequence[int]) -> None:
    connection.close()
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)
