"""Choose the recorder of a process: one that runs already, its job's, or one of its own."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import time
import warnings
from pathlib import Path

from joulelab.errors import RecorderError, UserError
from joulelab.recording.client import JOIN_TIMEOUT_S, RecorderClient, RecorderOptions
from joulelab.recording.launcher import current_launch, host_name, job_file
from joulelab.recording.trace_format import EVENTS_FILE, READINGS_FILE, RUN_FILE
from joulelab.recording.trace_schema import TraceHeader, read_header
from joulelab.sensors.host import boot_id
from joulelab.storage import make_private_directories, writing

ENVIRONMENT = "JOULELAB_RECORDING"
"""Names the recording that processes are to join."""
POLL_S = 0.01


def open_recorder(
    directory: Path | None,
    options: RecorderOptions,
    *,
    own: bool = False,
    wrapper: bool = False,
    job_directory: Path | None = None,
) -> RecorderClient:
    """Join the recorder that this process should use, or start it.

    In this order:

    1. The recorder of ``$JOULELAB_RECORDING``, if no sensors were requested. ``joulelab run`` sets
       the variable for the command that it wraps. A directory gets links to the recording; in a
       job of several processes ``directory/<host>/<name of the recording>`` does. If it records
       another host, this one gets a recorder with its trace in ``<recording>/<host>/<number>``.
    2. In a job of several processes (:func:`~joulelab.recording.launcher.current_launch`), the
       job's recorder on this host for these options. The first process starts it, with its trace in
       ``directory/<host>/<number>``; it ends with the last process. GPUs that only other
       processes see, as in control groups of Slurm, get a further recorder by one of these.
    3. A recorder of its own, with its trace in the directory (``None``: a temporary one).

    ``own`` skips 1 and 2. A ``wrapper`` of other programs always gets links in the directory
    itself, so that it can name it in ``$JOULELAB_RECORDING``. ``job_directory`` replaces the
    directory in 2.

    Raises:
        UserError: A requested sensor does not exist.
        RecorderError: The recorder did not start. A failure of 1 or 2 does not raise, but is in
            :attr:`RecorderClient.not_joined`.
    """
    failures: list[str] = []
    client = None
    if not own:
        for_job = job_directory or directory
        client = _shared_recorder(directory, for_job, options, failures, wrapper=wrapper)
    if client is None:
        client = RecorderClient.start(None if directory is None else _unused(directory), options)
    client.not_joined = "; ".join(failures)
    if wrapper and directory is not None and client.directory != directory:
        _link(directory, client.directory)
    return client


def _link(directory: Path, recording: Path) -> None:
    """Fill a directory with links to a recording that is elsewhere."""
    with writing(directory):
        make_private_directories(directory)
        for name in (READINGS_FILE, EVENTS_FILE):
            with contextlib.suppress(FileExistsError):
                (directory / name).symlink_to(recording.resolve() / name)


def _shared_recorder(
    directory: Path | None,
    for_job: Path | None,
    options: RecorderOptions,
    failures: list[str],
    *,
    wrapper: bool,
) -> RecorderClient | None:
    named = os.environ.get(ENVIRONMENT)
    launch = current_launch()
    if named and options.sensors is None:
        try:
            client = _join_named(Path(named))
        except _OtherHostError:
            for_job = for_job or Path(named)
            if launch is None:
                return RecorderClient.start(_next_directory(for_job / host_name()), options)
        except RecorderError as error:
            failures.append(f"did not join, recording on its own instead: {error}")
        else:
            if directory is not None and not wrapper:
                name = client.directory.resolve().name
                linked = directory / host_name() / name if launch else _unused(directory, 5)
                _link(linked, client.directory)
                client.directory = linked
            return client
    if launch is not None:
        try:
            with job_file(launch, options.sensors, options.interval_s) as file:
                joined = _join_job(file)
                if joined is not None and for_job is not None:
                    joined.further = _start_for_hidden_gpus(file, for_job, options)
                return joined or _start_for_job(file, for_job, options)
        except (OSError, RecorderError) as error:
            failures.append(f"not recording with the job's other processes, but alone: {error}")
    return None


def _unused(directory: Path, stacklevel: int = 4) -> Path:
    """Return the directory, or a numbered one next to it if it has a recording already."""
    numbered = (f"{directory.resolve().name}-{number}" for number in itertools.count(2))
    others = (directory.resolve().with_name(name) for name in numbered)
    paths = itertools.chain([directory], others)
    found = next(path for path in paths if not (path / READINGS_FILE).exists())
    if found != directory:
        text = f"{directory} has a recording already; this run is saved in {found}"
        warnings.warn(text, stacklevel=stacklevel)
    return found


class _OtherHostError(RecorderError):
    """The named recording is of another host of the job."""


def _is_of_other_host(header: TraceHeader) -> bool:
    """Report whether a recording is of another host, or another node of Slurm on this machine."""
    is_this_machine = header.get("boot_id") == boot_id()
    if header.get("host", host_name()) == host_name():
        return False
    # A shell outside of a job knows its machine by another name than the job's steps.
    return not is_this_machine or header.get("job") is not None


def _join_named(directory: Path) -> RecorderClient:
    """Join a recorder, which may be about to begin."""
    deadline_s = time.monotonic() + JOIN_TIMEOUT_S
    while directory.is_dir() and time.monotonic() < deadline_s:
        # A wrapper's record begins when its recorder has begun, or has failed to.
        is_decided = (directory / RUN_FILE).exists()
        with contextlib.suppress(OSError, ValueError):
            if _is_of_other_host(read_header(directory)):
                raise _OtherHostError(f"the recording in {directory} is of another host")
            break
        if is_decided:
            break
        time.sleep(POLL_S)
    return RecorderClient.join(directory)


def _join_job(file: Path) -> RecorderClient | None:
    """Join the job's first recorder on this host; the file names it in its first line."""
    named = file.read_text().splitlines()
    if named:
        with contextlib.suppress(RecorderError):
            return RecorderClient.join(Path(named[0]))
    return None


def _start_for_job(file: Path, directory: Path | None, options: RecorderOptions) -> RecorderClient:
    own = None if directory is None else _next_directory(directory / host_name())
    client = RecorderClient.start(own, options, shared=True)
    file.write_text(str(client.directory.absolute()))
    return client


def _start_for_hidden_gpus(
    file: Path, directory: Path, options: RecorderOptions
) -> RecorderClient | None:
    """Start a recorder for GPUs that this process sees and the job's other recorders do not.

    It lives as long as a process that joined it. There is none if they read all of Slurm's GPUs.
    """
    allotted = os.environ.get("SLURM_GPUS_ON_NODE", "")
    is_default = options.sensors is None and "JOULELAB_SENSORS" not in os.environ
    if not allotted.isdecimal() or not (is_default or "gpu" in (options.sensors or ())):
        return None
    read: list[str] = []
    for path in file.read_text().splitlines():
        with contextlib.suppress(OSError, ValueError):
            of_components = read_header(Path(path)).get("gpus", {})
            read += [uuid for uuids in of_components.values() for uuid in uuids]
    if len(read) >= int(allotted):
        return None
    own = _next_directory(directory / host_name())
    try:
        gpus = RecorderOptions(["gpu"], options.interval_s)
        client = RecorderClient.start(own, gpus, shared=True, gpus_read=read)
    except (RecorderError, UserError):
        # It sees none that is not read already, or the driver does not answer.
        shutil.rmtree(own, ignore_errors=True)
        return None
    with file.open("a") as names:
        names.write(f"\n{client.directory.absolute()}")
    return client


def _next_directory(of_host: Path) -> Path:
    """Make a directory for one more recording of this host, as after an elastic restart."""
    make_private_directories(of_host)
    number = 0
    while True:
        with contextlib.suppress(FileExistsError):
            (of_host / str(number)).mkdir(mode=0o700)
            return of_host / str(number)
        number += 1
