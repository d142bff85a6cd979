"""Where JouleLab keeps what it learns about a machine, and how a file appears whole."""

from __future__ import annotations

import os
from pathlib import Path

ENVIRONMENT = "JOULELAB_HOME"


def home() -> Path:
    """``$JOULELAB_HOME``, or ``joulelab`` in the user's data directory. It may not exist yet."""
    chosen = os.environ.get(ENVIRONMENT)
    if chosen:
        return Path(chosen)
    data = os.environ.get("XDG_DATA_HOME")
    return (Path(data) if data else Path.home() / ".local" / "share") / "joulelab"


def write_whole(path: Path, data: bytes) -> None:
    """Writes a file that is seen whole or not at all, also after a power failure.

    A pipe or a device, as ``/dev/stdout``, is written to and never replaced.

    Raises:
        OSError: The directory cannot be written to, or the disk is full. Nothing is left behind.
    """
    if path.exists() and not path.is_file():
        path.write_bytes(data)
        return
    aside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with aside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError:
        aside.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
