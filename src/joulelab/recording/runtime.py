"""A user's private directory for sockets and locks that mean nothing after a restart."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import tempfile
import time
from pathlib import Path

from joulelab.errors import RecorderError

STALE_AFTER_S = 60.0
"""A socket that nobody listens to is not touched before: it may be about to be listened to."""
FORGOTTEN_AFTER_S = 86_400.0
"""A meeting point that nobody has used for so long is removed."""


def runtime_directory() -> Path:
    """``$XDG_RUNTIME_DIR/joulelab``, or one of this user's in the temporary place; it exists.

    Raises:
        RecorderError: What has its name is another's, or open to others.
    """
    given = os.environ.get("XDG_RUNTIME_DIR")
    if given:
        with contextlib.suppress(OSError, RecorderError):
            # As it is passed on to other hosts, where it may not exist.
            return _private(Path(given) / "joulelab")
    try:
        return _private(Path(tempfile.gettempdir()) / f"joulelab-{os.getuid()}")
    except OSError as error:
        raise RecorderError(
            "there is no place for the recorder's socket", why=str(error)
        ) from error


def _private(path: Path) -> Path:
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise RecorderError(
            f"{path} is not this user's alone",
            why="it should be a directory that its owner alone may use",
            hint=f"remove it, or run chmod 700 {path}",
        )
    return path


def sweep(directory: Path) -> None:
    """Removes what recorders and jobs that were killed have left in the runtime directory."""
    now_s = time.time()
    for path in directory.iterdir():
        with contextlib.suppress(OSError):
            age_s = now_s - path.stat().st_mtime
            if path.suffix == ".job" and age_s > FORGOTTEN_AFTER_S:
                _remove_if_free(path)
            elif path.suffix == ".sock" and age_s > STALE_AFTER_S and not _listened_to(path):
                path.unlink()


def _remove_if_free(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
    finally:
        os.close(descriptor)


def _listened_to(path: Path) -> bool:
    import socket  # noqa: PLC0415

    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return False
        except OSError:
            return True
    return True
