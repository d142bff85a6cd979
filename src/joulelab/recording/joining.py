"""Whose recorder a process uses: one that is named to it, its job's on this host, or its own."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from joulelab.errors import RecorderError
from joulelab.recording.launcher import Launch, current_launch, host_name
from joulelab.recording.link import JOIN_TIMEOUT_S, START_TIMEOUT_S, RecorderLink
from joulelab.recording.runtime import runtime_directory
from joulelab.recording.trace_format import EVENTS_FILE, READINGS_FILE, boot_id, read_header

ENVIRONMENT = "JOULELAB_RECORDING"
"""The directory to which a recorder writes that processes are to join."""
_LOOK_EVERY_S = 0.01


class Joined(NamedTuple):
    """A recorder, and how this process came to it.

    Attributes:
        link: The line to it.
        failure: Why it is not the one that was to be joined; empty where that is not so.
    """

    link: RecorderLink
    failure: str = ""


def open_link(
    directory: Path | None,
    sensors: Sequence[str] | None,
    interval_s: float | None,
    *,
    own: bool | None = None,
) -> Joined:
    """Joins the recorder that this process should use, or starts it.

    In this order:

    1. The one that writes to ``$JOULELAB_RECORDING``, where neither sensors nor a directory are
       asked for. ``joulelab run`` sets it for the command that it wraps.
    2. In a job of several processes (:func:`joulelab.recording.launcher.current_launch`), the one
       that the job has on this host for these sensors and this pace. Whichever process comes first
       starts it, with its trace in ``directory/<host>/<number>``; it ends when the last of them is
       gone.
    3. One of its own, with its trace in the directory.

    Whatever fails on the way to 3 is told in :attr:`Joined.failure`, and raises nothing.

    Args:
        directory: Where the trace is to be; ``None``: in a temporary place, which the recorder
            removes when it ends.
        sensors: What to read; ``None`` for everything that the process may use.
        interval_s: Read every sensor at least this often; ``None`` for each sensor's own pace. One
            that is joined by 1 keeps its own.
        own: ``True``: start one of its own in any case. ``False``, for a program that wraps
            others: join by 1 also with a directory, and let the directory be read as the recording,
            wherever that is, so that it can be named to others in ``$JOULELAB_RECORDING``.

    Raises:
        UserError: A sensor that was asked for does not exist.
        RecorderError: It did not start.
    """
    found = _found(directory, sensors, interval_s, own)
    if own is False and directory is not None and found.link.directory != directory:
        _point_to(found.link.directory, directory)
    return found


def _found(
    directory: Path | None,
    sensors: Sequence[str] | None,
    interval_s: float | None,
    own: bool | None,
) -> Joined:
    failures: list[str] = []
    named = None if own else os.environ.get(ENVIRONMENT)
    if named and sensors is None and (directory is None or own is False):
        try:
            return Joined(_join_named(Path(named)))
        except RecorderError as error:
            failures.append(f"not joined, with a recorder of its own instead: {error}")
    launch = None if own else current_launch()
    if launch is not None:
        try:
            with _meeting(launch, sensors, interval_s) as place:
                link = _join_at(place) or _start_at(place, directory, sensors, interval_s)
            return Joined(link, "; ".join(failures))
        except (OSError, RecorderError) as error:
            failures.append(f"not with the job's other processes, but alone: {error}")
    return Joined(_own(directory, sensors, interval_s), "; ".join(failures))


def _point_to(recording: Path, directory: Path) -> None:
    """Lets a directory be read as a recording that is elsewhere."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in (READINGS_FILE, EVENTS_FILE):
        with contextlib.suppress(FileExistsError):
            (directory / name).symlink_to(recording.absolute() / name)


def _join_named(directory: Path) -> RecorderLink:
    """Joins, and waits for a recorder that is about to begin."""
    deadline_s = time.monotonic() + JOIN_TIMEOUT_S
    while not _has_header(directory):
        if not directory.is_dir() or time.monotonic() > deadline_s:
            break
        time.sleep(_LOOK_EVERY_S)
    return RecorderLink.join(directory)


def _has_header(directory: Path) -> bool:
    """Whether the recorder has begun; a header that is half written is not there yet."""
    try:
        return bool(read_header(directory))
    except (OSError, ValueError):
        return False


def _own(
    directory: Path | None, sensors: Sequence[str] | None, interval_s: float | None
) -> RecorderLink:
    place = None if directory is None else _unused(directory)
    with _place_for_trace(place) as trace:
        return RecorderLink.start(trace, sensors, interval_s, temporary=directory is None)


def _unused(directory: Path) -> Path:
    """Return the directory, or a numbered one next to it if it has a recording already."""
    found, number = directory, 1
    while (found / READINGS_FILE).exists():
        number += 1
        found = directory.resolve().with_name(f"{directory.resolve().name}-{number}")
    if number > 1:
        text = f"{directory} has a recording already; this run is saved in {found}"
        warnings.warn(text, stacklevel=6)
    return found


@contextlib.contextmanager
def _place_for_trace(directory: Path | None) -> Iterator[Path]:
    """The directory, or a temporary one, which is removed when nothing was begun in it."""
    place = Path(tempfile.mkdtemp(prefix="joulelab-")) if directory is None else directory
    place.mkdir(parents=True, exist_ok=True)
    try:
        yield place
    except BaseException:
        if directory is None:
            shutil.rmtree(place, ignore_errors=True)
        raise


# Where the processes of a job meet: a file that names the directory of their recording. Who holds
# its lock may start one; a lock is gone with its process, however that ends. What the file says is
# believed only as far as somebody answers there, so that what a dead job left refuses nothing.


@contextlib.contextmanager
def _meeting(
    launch: Launch, sensors: Sequence[str] | None, interval_s: float | None
) -> Iterator[Path]:
    """The meeting point of a job on this host, held by this process alone."""
    parts = (
        boot_id(),
        host_name(),
        launch.launcher,
        launch.job,
        launch.agent,
        sensors if sensors is None else list(sensors),
        os.environ.get("JOULELAB_SENSORS", "") if sensors is None else "",
        interval_s,
    )
    key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
    path = runtime_directory() / f"{key}.job"
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            if _locked(descriptor, deadline_s) and _same_file(path, descriptor):
                yield path
                return
        finally:
            # Not by closing alone: a child that was forked meanwhile has it open, too.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)
        if time.monotonic() > deadline_s:
            raise RecorderError("another process of the job keeps the others from its recorder")


def _locked(descriptor: int, deadline_s: float) -> bool:
    while True:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        if time.monotonic() > deadline_s:
            return False
        time.sleep(_LOOK_EVERY_S)


def _same_file(path: Path, descriptor: int) -> bool:
    """Whether the file was not removed since it was opened."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _join_at(place: Path) -> RecorderLink | None:
    named = place.read_text()
    if not named:
        return None
    with contextlib.suppress(RecorderError):
        return RecorderLink.join(Path(named))
    return None


def _start_at(
    place: Path,
    directory: Path | None,
    sensors: Sequence[str] | None,
    interval_s: float | None,
) -> RecorderLink:
    own = None if directory is None else _next_directory(directory / host_name())
    with _place_for_trace(own) as trace:
        link = RecorderLink.start_shared(trace, sensors, interval_s, temporary=directory is None)
    place.write_text(str(trace.absolute()))
    return link


def _next_directory(of_host: Path) -> Path:
    """A directory for one more recording of this host, as after an elastic restart."""
    of_host.mkdir(parents=True, exist_ok=True)
    number = 0
    while True:
        try:
            (of_host / str(number)).mkdir()
        except FileExistsError:
            number += 1
        else:
            return of_host / str(number)
