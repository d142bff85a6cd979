"""``joulelab run``: a command is started, measured, and ended as it ended.

The command is started at once and the recorder beside it; what was not seen of the first tenths
of a second is in the interval. So nothing is imported before that can wait.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time

from joulelab.errors import JoulelabError, UserError
from joulelab.run.options import Options, name_of, slug
from joulelab.run.spawn import environment, let_go, start
from joulelab.run.supervise import attend, end_as, take_signals
from joulelab.storage import home, writing

TYPE_CHECKING = False  # Importing typing takes 3 ms, for which a command would wait.
if TYPE_CHECKING:
    from typing import NoReturn

    from joulelab.meter import Meter

RECORDING = b"JOULELAB_RECORDING"


def run(options: Options) -> NoReturn:
    """Runs and measures a command, and ends this process as the command ended.

    Raises:
        UserError: The command cannot be started, or there is no place for its record.
    """
    if options.sensors is not None:
        from joulelab.sensors.discovery import check_names  # noqa: PLC0415

        check_names(options.sensors)
    result = _result_descriptor(options.json)
    name = options.name or name_of(options.command)
    given_place = options.out is not None and os.path.isdir(options.out)  # noqa: PTH112
    directory = _place(options.out, name)
    mask = take_signals()
    try:
        meter = _meter(options, directory) if options.wait else None
        started_unix_s, start_ns = time.time(), time.monotonic_ns()
        given = environment() | {RECORDING: os.fsencode(directory)}
        pid = start(options.command, given, mask)
    except JoulelabError:
        if not given_place:
            _remove(directory)
        raise
    let_go()

    from joulelab.run.measure import Measuring  # noqa: PLC0415

    measuring = Measuring(
        directory,
        {
            "id": os.path.basename(directory),  # noqa: PTH119
            "command": options.command,
            "name": name,
            "project": options.project,
            "phase": options.phase,
            "tags": options.tags,
            "host": os.uname().nodename,
            "machine": None,
            "settings": {"sensors": options.sensors, "wait": options.wait},
            "started_unix_s": started_unix_s,
            "start_ns": start_ns,
            "pid": pid,
            "baseline": None,
            "joined": None,
        },
        meter,
    )
    measuring.start()
    status = attend(pid)
    stop_ns = time.monotonic_ns()
    try:
        from joulelab.run.finish import finish  # noqa: PLC0415

        finish(measuring, status, stop_ns, options, result)
    except Exception as error:  # noqa: BLE001  (whatever it is, the command's end is not changed)
        what = error if isinstance(error, JoulelabError) else f"the record is not whole: {error!r}"
        with contextlib.suppress(OSError, ValueError, AttributeError):
            sys.stderr.write(f"joulelab: {what}\n")
    end_as(status)


def _result_descriptor(target: str | None) -> int | None:
    """Where the JSON goes if that is open already: standard output, a pipe, a device."""
    if target is None:
        return None
    with writing(target):
        if target in ("-", "/dev/stdout"):
            return os.dup(1)
        if os.path.exists(target) and not os.path.isfile(target):  # noqa: PTH110, PTH113
            return os.open(target, os.O_WRONLY)
    parent = os.path.dirname(target) or "."  # noqa: PTH120
    if not os.access(parent, os.W_OK):
        raise UserError(f"cannot write {target}", why=f"{parent} is no directory to write to")
    return None


def _place(out: str | None, name: str) -> str:
    """An empty directory for the record."""
    if out is not None:
        directory = out
    else:
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        directory = f"{home()}/jobs/{stamp}-{slug(name)}-{os.urandom(2).hex()}"
    directory = os.path.abspath(directory)  # noqa: PTH100
    try:
        os.makedirs(directory, exist_ok=True)  # noqa: PTH103
        if os.listdir(directory):  # noqa: PTH208
            raise UserError(f"{directory} is not empty", hint="choose another directory with --out")
    except OSError as error:
        raise UserError(
            f"cannot make {directory}",
            why=error.strerror or str(error),
            hint="choose another directory with --out",
        ) from error
    return directory


def _meter(options: Options, directory: str) -> Meter:
    from joulelab.meter import Meter  # noqa: PLC0415

    return Meter(options.sensors, directory=directory, own_recorder=False)


def _remove(directory: str) -> None:
    """What was made for a command that did not start."""
    import shutil  # noqa: PLC0415

    shutil.rmtree(directory, ignore_errors=True)
