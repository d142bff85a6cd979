"""The program's end of a recorder: starts or joins it, sends it spans, and notices its end."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Self

from joulelab.errors import RecorderError, UserError
from joulelab.recording.connections import Descriptor, Message, MessageSocket
from joulelab.recording.launcher import current_launch
from joulelab.recording.trace_format import ATOMIC_WRITE_BYTES, EVENTS_FILE, TEMPORARY
from joulelab.recording.trace_schema import read_header
from joulelab.sensors.host import boot_id
from joulelab.sensors.interfaces import InterfaceBytes, interfaces_now
from joulelab.storage import in_use, make_private_directories, private_opener

START_TIMEOUT_S = 40.0
"""Longer than it takes to leave out a driver that hangs (``nvml_binding.ANSWER_S``)."""
JOIN_TIMEOUT_S = 5.0
STOP_TIMEOUT_S = 10.0
SYNC_TIMEOUT_S = 5.0
KILL_TIMEOUT_S = 2.0
"""A process that hangs in a driver does not end when it is killed."""
PIPE_READ = 1 << 16


class RecorderOptions(NamedTuple):
    """Sensors to record, and how often."""

    sensors: Sequence[str] | None  # The sensors to read; ``None``: all that the process may use.
    interval_s: float | None  # How often at least.
    before: InterfaceBytes | None = None  # What interfaces had counted at first; default: now.


class RecorderClient:
    """A running recorder, as one of the measured processes sees it; see `start` and `join`.

    Attributes:
        directory: Where the trace is.
        failure: Why recording ended early; empty if it did not.
        not_joined: Why it is not the recorder that should have been joined; empty if it is.
        further: A recorder of GPUs that this one does not see; it ends with its last process.
        pid: The recorder's process.
    """

    def __init__(
        self,
        directory: Path,
        connection: MessageSocket,
        process: subprocess.Popen[bytes] | None,
        timeout_s: float,
    ) -> None:
        self.directory = directory
        self.failure = self.not_joined = ""
        self.further: RecorderClient | None = None
        self._connection = connection
        self._process = process
        self._last: Message = {}
        self._stopped = False
        self._lock = threading.RLock()
        self._owner_pid = os.getpid()
        connection.send({"join": _introduction()})
        first = connection.answer(timeout_s)
        if first is None or "error" in first or len(connection.descriptors) < 2:
            self._abandon()
            if first and first.get("exit_code") == UserError.exit_code:
                raise UserError(first["error"])
            raise RecorderError(
                "the recorder did not start" if process else "the recorder does not answer",
                why=first["error"] if first else _last_log_line(directory),
            )
        self.pid: int = first["pid"]
        self._events_path = directory.absolute() / EVENTS_FILE
        self._events: Descriptor | None = None
        self._has_rest = False
        # The pipe's other end stays open, too, so that writing after the recorder's end is no
        # SIGPIPE.
        self._pipe = connection.descriptors[1]
        self._descriptors = [*connection.descriptors, Descriptor(in_use(directory))]
        self._finalizer = weakref.finalize(self, _close, connection, self._descriptors)

    @classmethod
    def start(
        cls,
        directory: Path | None,
        options: RecorderOptions,
        *,
        shared: bool = False,
        gpus_read: Sequence[str] | None = None,
    ) -> Self:
        """Start a recorder; without a directory in a temporary one, which it removes when it ends.

        A shared one ends with the last process that joined, any other on request. With
        ``gpus_read`` it reads only GPUs that are not among these UUIDs.

        Raises:
            UserError: A requested sensor does not exist.
            RecorderError: It does not record; the message includes its reason.
        """
        if not hasattr(os, "pidfd_open"):
            raise RecorderError(
                "recordings need Linux 5.3 or newer",
                why="the recorder watches processes through pidfd_open",
                hint="measure on Linux; other commands read its recordings anywhere",
            )
        path = Path(tempfile.mkdtemp(prefix=TEMPORARY)) if directory is None else directory
        make_private_directories(path)
        try:
            return cls._start(
                path, options, temporary=directory is None, shared=shared, gpus_read=gpus_read
            )
        except BaseException:
            if directory is None:
                shutil.rmtree(path, ignore_errors=True)
            raise

    @classmethod
    def _start(
        cls,
        directory: Path,
        options: RecorderOptions,
        *,
        temporary: bool,
        shared: bool,
        gpus_read: Sequence[str] | None,
    ) -> Self:
        ours, theirs = socket.socketpair()
        config = {
            "directory": str(directory),
            "sensors": None if options.sensors is None else list(options.sensors),
            "interval_s": options.interval_s,
            "gpus_read": gpus_read,
            "temporary": temporary,
            "detached": shared,
            "connection": theirs.fileno(),
            "network": options.before or interfaces_now(),
            "parent_pid": os.getpid(),
        }
        with theirs, open(directory / "recorder.log", "wb", opener=private_opener) as log:
            process = subprocess.Popen(
                # -P: never import a file of the user's that is named like one of our modules.
                [sys.executable, "-P", "-m", "joulelab.recording.recorder", json.dumps(config)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
                env=_environment(all_gpus=shared),
            )
        if shared:
            # It forks: the recorder is not a child of a process that it may outlive.
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(START_TIMEOUT_S)
        return cls(directory, MessageSocket(ours), None if shared else process, START_TIMEOUT_S)

    @classmethod
    def join(cls, directory: Path) -> Self:
        """Join the recorder that writes to a directory.

        Raises:
            RecorderError: There is none, or it does not answer.
        """
        try:
            header = read_header(directory)
        except (OSError, ValueError) as error:
            raise RecorderError(f"no recording in {directory}", why=str(error)) from error
        address = header.get("socket")
        if header.get("boot_id") != boot_id() or not address:
            raise RecorderError(f"the recording in {directory} has ended, or is on another machine")
        try:
            connection = MessageSocket.connect(Path(address), JOIN_TIMEOUT_S)
        except OSError as error:
            raise RecorderError(
                f"the recording in {directory} has ended", why=str(error)
            ) from error
        return cls(directory, connection, None, JOIN_TIMEOUT_S)

    @property
    def owned(self) -> bool:
        """Whether this process opened the connection, and not the parent that forked it."""
        return self._owner_pid == os.getpid()

    @property
    def private(self) -> bool:
        """Whether the recorder is this process's own."""
        return self._process is not None

    @property
    def alive(self) -> bool:
        """Whether the recorder records, or recorded until its proper end."""
        known = self._stopped or self.failure or not self.owned
        if not known and self._has_ended():
            self._fail()
        return not self.failure

    def send_lines(self, lines: Sequence[bytes]) -> int:
        """Add lines to the trace. Return how many were taken; the others may be sent again.

        A thread of the program's own appends them to the file: that needs no recorder that is
        awake, and one call for any number of lines. A forked child calls this from its own thread,
        which must not wait for a disk. It uses the recorder's pipe, unless that is full.
        """
        taken = 0 if self.owned else self._write_to_pipe(lines)
        return taken + self._append(lines[taken:])

    def _write_to_pipe(self, lines: Sequence[bytes]) -> int:
        for taken, line in enumerate(lines):
            if len(line) > ATOMIC_WRITE_BYTES or not self._pipe.is_intact:
                return taken
            try:
                os.write(self._pipe.number, line)
            except OSError:
                return taken
        return len(lines)

    def _append(self, lines: Sequence[bytes]) -> int:
        if not lines or self._has_finished():
            return 0
        # What follows the rest of a line that did not fit on the disk is a line of its own.
        separator = b"\n" if self._has_rest else b""
        data = separator + b"".join(lines)
        try:
            if self._events is None or not self._events.is_intact:
                flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC
                self._events = Descriptor(os.open(self._events_path, flags))
                self._descriptors.append(self._events)
            written = os.write(self._events.number, data)
        except OSError:
            return 0
        self._has_rest = written < len(data)
        lengths = itertools.accumulate(map(len, lines), initial=len(separator))
        return max(0, bisect_right(list(lengths), written) - 1)

    def _has_finished(self) -> bool:
        """Report whether the trace is complete: nothing may be added any more."""
        if self._stopped or self._connection.open:
            return self._stopped
        if not self.owned:
            # The parent has received why, unless the program closed the connection itself.
            return self._connection.is_intact
        with self._lock:
            self._receive_last(0.0)
        return self._process is None and "stopped" in self._last

    def sync(self, t_ns: int) -> bool:
        """Wait until the sensors have covered a time, at most a few seconds."""
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

    def stop(self, t_ns: int) -> bool:
        """Leave the recorder; one of this process's own covers this time and ends.

        Returns:
            Whether the recorder failed, and lines that it had not taken are in the trace only now.
        """
        if not self.owned:
            return False
        if self.further is not None:
            self.further.stop(t_ns)
        with self._lock:
            if self._stopped:
                return False
            alive = self.alive
            rest = b""
            if self._process is not None:
                self._end(self._process, t_ns, request=alive)
                rest = self._rest_of_pipe() if self.failure else b""
            saved = bool(rest and self._append([rest]))
            self._stopped = True
            self._finalizer()
        return saved

    def _rest_of_pipe(self) -> bytes:
        """Return the lines of forked children that a recorder left in the pipe when it ended."""
        found, read_end = b"", self._connection.descriptors[0]
        with contextlib.suppress(BlockingIOError, OSError):
            while read_end.is_intact and (data := os.read(read_end.number, PIPE_READ)):
                found += data
        return found

    def _end(self, process: subprocess.Popen[bytes], t_ns: int, *, request: bool) -> None:
        if request and self._connection.send({"stop": t_ns}):
            # Its last message comes right before its exit. ``Popen.wait`` alone would poll.
            self._receive_last(STOP_TIMEOUT_S)
        try:
            process.wait(0 if self._connection.open and not self._last else STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.failure = "the recorder did not end on request and was killed"
            _kill(process)
        if process.poll() != 0 and not self.failure:
            self._fail()

    def _fail(self) -> None:
        self.failure = f"the recorder ended early ({self._reason()})"

    def _has_ended(self) -> bool:
        if self._process is not None:
            return self._process.poll() is not None
        return not self._connection.open

    def _reason(self) -> str:
        returncode = 0 if self._process is None else self._process.returncode
        if returncode < 0:
            return f"killed by signal {-returncode}"
        self._receive_last(0.0)
        if "error" in self._last:
            return str(self._last["error"])
        return f"exit code {returncode}" if self._process else "it was ended or killed"

    def _receive_last(self, timeout_s: float) -> None:
        deadline_s = time.monotonic() + timeout_s
        while not self._last:
            message = self._connection.answer(max(0.0, deadline_s - time.monotonic()))
            if message is None:
                return
            if "error" in message or "stopped" in message:
                self._last = message

    def _abandon(self) -> None:
        if self._process is not None:
            _kill(self._process)
        self._stopped = True
        _close(self._connection, self._connection.descriptors)


def _kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(KILL_TIMEOUT_S)


def _introduction() -> Message:
    """Describe this process to the recorder."""
    launch = current_launch()
    return {
        "pid": os.getpid(),
        "now_ns": time.monotonic_ns(),
        "cuda_visible_devices": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "cuda_device_order": os.environ.get("CUDA_DEVICE_ORDER"),
        "launch": None if launch is None else launch.to_json(),
        "gpus_on_host": os.environ.get("SLURM_GPUS_ON_NODE"),
    }


def _last_log_line(directory: Path) -> str:
    try:
        text = (directory / "recorder.log").read_text(errors="replace").strip()
    except OSError:
        text = ""
    return text.splitlines()[-1] if text else "it gave no reason"


def _environment(*, all_gpus: bool) -> dict[str, str]:
    """Return the recorder's environment: this one with this package; with all GPUs if shared."""
    package_parent = str(Path(__file__).resolve().parents[2])
    path = os.environ.get("PYTHONPATH", "")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, (path, package_parent))),
    }
    if all_gpus:
        environment.pop("CUDA_VISIBLE_DEVICES", None)
    return environment


def _close(connection: MessageSocket, descriptors: Sequence[Descriptor]) -> None:
    connection.close()
    for descriptor in descriptors:
        descriptor.close()
