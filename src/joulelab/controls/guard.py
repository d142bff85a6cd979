"""The guard: restores what was found if the process that borrowed controls does not.

It is a process in a session of its own, and ignores the signals that end a terminal or a job. It
waits until its parent restores everything itself (``done``) or ends in any way.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from joulelab.controls.machine_controls import find_controls
from joulelab.controls.saved_state import SavedState, restore
from joulelab.errors import ControlError, JoulelabError
from joulelab.validation import Count, Pid, decode

START_TIMEOUT_S = 30.0
END_TIMEOUT_S = 10.0
TRIES = 5
RETRY_S = 1.0
READY, DONE = b"ready\n", b"done\n"
IGNORED = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)


@dataclass(frozen=True, slots=True)
class Task:
    """What a guard needs to know."""

    states: tuple[SavedState, ...]  # What was found on each device; the files are not relied on.
    locks: tuple[Count, ...]  # Descriptors of lock files: a device is locked until it is restored.
    connection: Count  # Descriptor of the socket to the parent.
    parent: Pid  # Its pid.
    own_values: dict[str, list[float]]  # What JouleLab has already set, by the control's name.


class Guard:
    """A guard, as the process that started it sees it.

    Raises:
        ControlError: It does not start.
    """

    def __init__(
        self,
        states: Collection[SavedState],
        locks: Collection[int],
        own_values: Mapping[str, Collection[float]],
    ) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._socket, theirs = socket.socketpair()
        task = Task(
            states=tuple(states),
            locks=tuple(locks),
            connection=theirs.fileno(),
            parent=os.getpid(),
            own_values={name: list(values) for name, values in own_values.items()},
        )
        package_parent = str(Path(__file__).resolve().parents[2])
        path = os.environ.get("PYTHONPATH", "")
        try:
            with theirs:
                self._process = subprocess.Popen(
                    # -P: never import a file of the user's that is named like one of our modules.
                    [sys.executable, "-P", "-m", __name__, json.dumps(asdict(task))],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(), *locks),
                    start_new_session=True,
                    env=os.environ
                    | {"PYTHONPATH": os.pathsep.join(filter(None, (path, package_parent)))},
                )
            self._socket.settimeout(START_TIMEOUT_S)
            answer = self._socket.recv(len(READY))
        except OSError as error:
            raise self._failure(str(error)) from error
        if answer != READY:
            raise self._failure("it ended")

    def _failure(self, reason: str) -> ControlError:
        self._socket.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        return ControlError(
            "cannot change limits and clocks safely",
            why=f"the guard process, which restores them, does not start: {reason}",
            hint="check that this machine has memory and processes to spare",
        )

    def announce(self, name: str, value: float) -> bool:
        """State what is going to be set. Return false if the guard has ended."""
        return self._send(f"set {name} {value!r}\n".encode())

    def dismiss(self) -> None:
        """Let the guard end without restoring anything, or forget one that has ended."""
        assert self._process is not None
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(END_TIMEOUT_S if self._send(DONE) else 0)
        self._socket.close()

    def _send(self, message: bytes) -> bool:
        try:
            return self._socket.send(message, socket.MSG_NOSIGNAL) == len(message)
        except OSError:
            return False


def main() -> None:
    """Guard what the task in the only argument states."""
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    task = decode(sys.argv[1], Task)
    connection = socket.socket(fileno=task.connection)
    find_controls(all_gpus=True)  # Fails now if it ever does, and keeps the driver loaded.
    with suppress(OSError):  # The parent may have ended already.
        connection.sendall(READY)
    if _wait_for_parent(task, connection):
        return
    for i in range(TRIES):
        if i:
            time.sleep(RETRY_S)
        if _restore(task):
            break
    for lock in task.locks:
        # Closing it is not enough: children that the parent forked have it open, too.
        fcntl.flock(lock, fcntl.LOCK_UN)


def _wait_for_parent(task: Task, connection: socket.socket) -> bool:
    """Collect the values that are set. Return true if the parent has restored everything itself."""
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    # Children that the parent forks have its end of the socket, too, and may outlive it.
    with suppress(OSError):
        poll.register(os.pidfd_open(task.parent), select.POLLIN)
    longest_ms = None if os.getppid() == task.parent else 0
    received = b""
    while True:
        ready = {descriptor for descriptor, _ in poll.poll(longest_ms)}
        # What the parent announced before it ended comes first.
        data = connection.recv(1 << 16) if connection.fileno() in ready else b""
        if not data:
            return False
        *lines, received = (received + data).split(b"\n")
        for line in lines:
            if line + b"\n" == DONE:
                return True
            _, name, value = line.decode().split()
            values = task.own_values.setdefault(name, [])
            if float(value) not in values:
                values.append(float(value))


def _restore(task: Task) -> bool:
    """Restore all devices. What cannot be restored keeps its state file for the next start."""
    whole = True
    for state in task.states:
        try:
            restore(state, task.own_values)
        except JoulelabError:
            whole = False
    return whole


if __name__ == "__main__":
    main()
