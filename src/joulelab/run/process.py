"""Start a command as the shell would have, stand in for it, and end as it ended.

Every signal that can be blocked is, and is taken by ``sigwaitinfo``, which reports where it came
from. The terminal sends its signals to the whole process group, which includes the command; those
that a process sent to this process alone are forwarded.

Imports next to nothing: the command waits for it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from joulelab.errors import UserError

NOT_FOUND, NOT_EXECUTABLE = 127, 126
"""Exit codes of a command that could not be started (POSIX, Shell Command Language, 2.8.2)."""

_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)
_CAUSED_BY_ITSELF = "ABRT BUS FPE ILL PIPE SEGV SYS TRAP XCPU XFSZ"
"""Signals about what this process itself did."""
_FORWARDED = signal.valid_signals() - {
    signal.Signals[f"SIG{name}"] for name in f"KILL STOP {_CAUSED_BY_ITSELF}".split()
}


class LaunchError(UserError):
    """The command could not be started; exit as a shell would."""

    def __init__(self, program: str, error: OSError) -> None:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            self.exit_code = NOT_FOUND
            super().__init__(f"command not found: {program}")
        else:
            self.exit_code = NOT_EXECUTABLE
            super().__init__(f"cannot run: {program}", why=error.strerror or str(error))


def environment() -> dict[bytes, bytes]:
    """Return the environment that this process was given.

    Python adds ``LC_CTYPE`` to its own if no locale is set (PEP 538).
    """
    try:
        entries = Path("/proc/self/environ").read_bytes().split(b"\0")
    except OSError:
        return dict(os.environb)
    pairs = (entry.partition(b"=") for entry in entries)
    return {name: value for name, equals, value in pairs if equals and name}


def take_signals() -> set[int]:
    """Block the signals that are to be forwarded; return the mask for the command."""
    return set(signal.pthread_sigmask(signal.SIG_BLOCK, _FORWARDED))


def start(command: Sequence[str], environment: Mapping[bytes, bytes], mask: Collection[int]) -> int:
    """Start a command with everything that this process was given, and return its process id.

    The program is found as a shell finds it; ``mask`` are the signals that it has blocked.

    Raises:
        LaunchError: It could not be started.
    """
    try:
        return _spawn(command, environment, mask)
    except OSError as error:
        if error.errno != errno.ENOEXEC:
            raise LaunchError(command[0], error) from error
    # A script that does not name its interpreter is run by the shell (execvp(3)).
    try:
        return _spawn(["/bin/sh", _found(command[0]), *command[1:]], environment, mask)
    except OSError as error:
        raise LaunchError(command[0], error) from error


def release_streams() -> None:
    """Close what was meant for the command, so that only the command has it open.

    A pipe that the command closes must be closed. Standard error stays, for the summary.
    """
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in {0, 1} - {nothing}:
        os.dup2(nothing, descriptor, inheritable=False)
    if nothing > 2:
        os.close(nothing)
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208
        with contextlib.suppress(OSError):
            descriptor = int(name)
            if descriptor > 2 and os.get_inheritable(descriptor):
                os.close(descriptor)


def wait_for(pid: int) -> int:
    """Wait for the end of a command, forward its signals, and return its status (`os.waitpid`).

    When the command is stopped this process stops too, as the shell expects.
    """
    # If SIGCHLD is ignored the kernel discards the status. Setting its handler discards a pending
    # one, so the status of the command is asked for before the next signal is waited for.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    while True:
        found, status = os.waitpid(pid, os.WNOHANG | os.WUNTRACED)
        if found and not os.WIFSTOPPED(status):
            return status
        if found:
            _stop(os.WSTOPSIG(status))
        received = signal.sigwaitinfo(_FORWARDED)
        if received.si_signo == signal.SIGCONT:
            if _is_stopped(pid):
                _send(pid, signal.SIGCONT)
        elif received.si_code <= 0 and received.si_pid != pid:
            # Codes above 0 are the kernel's own, such as the terminal's (sigaction(2)).
            _send(pid, received.si_signo)


def end_as(status: int) -> NoReturn:
    """End this process as the command ended: by its exit code, or by its signal."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stderr.flush()
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if os.WCOREDUMP(status):
            _prevent_core_dump()
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
        os.kill(os.getpid(), number)
        os._exit(128 + number)
    os._exit(os.WEXITSTATUS(status))


def _spawn(
    command: Sequence[str], environment: Mapping[bytes, bytes], mask: Collection[int]
) -> int:
    return os.posix_spawnp(
        command[0], list(command), environment, setsigmask=mask, setsigdef=_IGNORED_BY_PYTHON
    )


def _found(program: str) -> str:
    for directory in os.get_exec_path():
        path = Path(directory, program)
        if "/" not in program and os.access(path, os.X_OK):
            return str(path)
    return program


def _stop(number: int) -> None:
    """Stop this process until it is continued."""
    # Sent while it is blocked, it merges with the terminal's own that may be pending.
    os.kill(os.getpid(), number)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    signal.pthread_sigmask(signal.SIG_BLOCK, {number})


def _is_stopped(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] == b"T"
    except OSError:
        return False


def _send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def _prevent_core_dump() -> None:
    """Leave only the command's core dump, which is the one that is wanted."""
    import ctypes  # noqa: PLC0415

    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    # PR_SET_DUMPABLE: a core dump that goes into a pipe ignores the limit (core(5)).
    ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)
