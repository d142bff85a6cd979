"""Starting a command as the shell would have started it.

Imports next to nothing: the command waits for it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from collections.abc import Collection, Mapping, Sequence

from joulelab.errors import UserError

NOT_FOUND, NOT_EXECUTABLE = 127, 126
"""Exit codes of a command that could not be started (POSIX, Shell Command Language, 2.8.2)."""

IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)


class LaunchError(UserError):
    """The command could not be started; it ends as a shell would."""

    def __init__(self, program: str, error: OSError) -> None:
        missing = error.errno in (errno.ENOENT, errno.ENOTDIR)
        self.exit_code = NOT_FOUND if missing else NOT_EXECUTABLE
        if missing:
            super().__init__(f"command not found: {program}")
        else:
            super().__init__(f"cannot run: {program}", why=error.strerror or str(error))


def environment() -> dict[bytes, bytes]:
    """The environment as this process was given it.

    Python adds ``LC_CTYPE`` to its own where no locale is set (PEP 538).
    """
    try:
        with open("/proc/self/environ", "rb") as file:  # noqa: PTH123  (pathlib takes 2 ms)
            entries = file.read().split(b"\0")
    except OSError:
        return dict(os.environb)
    pairs = (entry.partition(b"=") for entry in entries)
    return {name: value for name, equals, value in pairs if equals and name}


def start(command: Sequence[str], environment: Mapping[bytes, bytes], mask: Collection[int]) -> int:
    """Starts a command with everything that this process was given.

    Args:
        command: Program and arguments; the program is looked for as a shell does.
        environment: The command's.
        mask: The signals that it has blocked.

    Returns:
        Its process id.

    Raises:
        LaunchError: It could not be started.
    """
    try:
        return _spawn(command, environment, mask)
    except OSError as error:
        if error.errno != errno.ENOEXEC:
            raise LaunchError(command[0], error) from error
    # A script without a first line that names its interpreter is the shell's (execvp(3)).
    try:
        return _spawn(["/bin/sh", _found(command[0]), *command[1:]], environment, mask)
    except OSError as error:
        raise LaunchError(command[0], error) from error


def let_go() -> None:
    """Closes what was meant for the command, so that only the command holds it open.

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


def _spawn(
    command: Sequence[str], environment: Mapping[bytes, bytes], mask: Collection[int]
) -> int:
    return os.posix_spawnp(
        command[0], list(command), environment, setsigmask=mask, setsigdef=IGNORED_BY_PYTHON
    )


def _found(program: str) -> str:
    from shutil import which  # noqa: PLC0415

    return which(program) or program
