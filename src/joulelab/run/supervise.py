"""Standing between a shell and a command without being noticed.

Every signal that can be is blocked and taken by ``sigwaitinfo``, which says where it came from.
Those from the terminal go to the whole process group, the command among it; those that a process
sent to this one alone are handed on.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

_OWN = {
    signal.SIGKILL,
    signal.SIGSTOP,
    # About what this process itself did.
    signal.SIGABRT,
    signal.SIGBUS,
    signal.SIGFPE,
    signal.SIGILL,
    signal.SIGPIPE,
    signal.SIGSEGV,
    signal.SIGSYS,
    signal.SIGTRAP,
    signal.SIGXCPU,
    signal.SIGXFSZ,
}
TAKEN = signal.valid_signals() - _OWN


def take_signals() -> set[int]:
    """Blocks the signals that are to be handed on.

    Returns:
        The mask that was, and that the command is to have.
    """
    return set(signal.pthread_sigmask(signal.SIG_BLOCK, TAKEN))


def attend(pid: int) -> int:
    """Waits for the end of a command, and hands it the signals that were meant for it.

    When it is stopped this process stops too, as the shell expects.

    Returns:
        Its status, as :func:`os.waitpid` gives it.
    """
    # Where it is ignored the kernel throws the status away. This forgets one that is pending, so
    # the command is looked after before its end is waited for.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    while True:
        found, status = os.waitpid(pid, os.WNOHANG | os.WUNTRACED)
        if found and not os.WIFSTOPPED(status):
            return status
        if found:
            _stop(os.WSTOPSIG(status))
        told = signal.sigwaitinfo(TAKEN)
        if told.si_signo == signal.SIGCONT:
            if _is_stopped(pid):
                _send(pid, signal.SIGCONT)
        elif told.si_code <= 0 and told.si_pid != pid:
            # Codes above 0 are the kernel's own, as the terminal's (sigaction(2)).
            _send(pid, told.si_signo)


def end_as(status: int) -> NoReturn:
    """Ends this process as the command ended: by its exit code, or by its signal.

    Args:
        status: As :func:`attend` gave it.
    """
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stderr.flush()
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if os.WCOREDUMP(status):
            _leave_no_core()
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
        os.kill(os.getpid(), number)
        os._exit(128 + number)
    os._exit(os.WEXITSTATUS(status))


def _stop(number: int) -> None:
    """Stops here until somebody continues this process."""
    # Sent while it is blocked, it is one with the terminal's own that may be pending.
    os.kill(os.getpid(), number)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    signal.pthread_sigmask(signal.SIG_BLOCK, {number})


def _is_stopped(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123
            return file.read().rpartition(b")")[2].split()[0] == b"T"
    except OSError:
        return False


def _send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def _leave_no_core() -> None:
    """The command's core is the one that is wanted, and there it is."""
    import ctypes  # noqa: PLC0415

    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    # PR_SET_DUMPABLE: a core that goes into a pipe knows no limit (core(5)).
    ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)
