"""Run and measure a command, and end as it ended.

The command starts immediately and the recorder next to it; the interval covers what was not seen of
the first tenths of a second. So nothing is imported before the command that can wait.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from joulelab.errors import JoulelabError, StoreError, UserError
from joulelab.run.options import Options, parse
from joulelab.run.process import end_as, environment, release_streams, start, take_signals, wait_for
from joulelab.runs import NO_ARGUMENTS, name_of, new_run_id
from joulelab.sensors.interfaces import InterfaceBytes, interfaces_now
from joulelab.storage import file_errors, home, make_private_directories, writing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from joulelab.meter import Meter
    from joulelab.recording.client import RecorderClient
    from joulelab.run.finish import Finish
    from joulelab.runs.tracker_choice import Tracking

RECORDING = b"JOULELAB_RECORDING"
PATIENCE_S = 10.0
"""If a driver hangs, the end of the command does not wait longer than this for it. Sensors that are
read only after the command's end have not measured it."""
NO_RECORDER = "the sensors did not answer"
NO_DESCRIPTION = "a driver did not answer: the record does not describe the machine"
_NICE = 10


def main(arguments: Sequence[str]) -> None:
    """Run ``joulelab run``; return only if the user asked for help."""
    options = parse(arguments)
    if options is not None:
        run(options)


def run(options: Options) -> NoReturn:
    """Run and measure a command, and end this process as the command ended."""
    if options.sensors is not None:
        from joulelab.sensors.discovery import check_names  # noqa: PLC0415

        check_names(options.sensors)
    tracking = _start_tracking(options.trackers)
    if options.no_arguments:
        os.environ[NO_ARGUMENTS] = "1"
    json_descriptor = _open_json(options.json)
    name = options.name or name_of(options.command)
    out = options.out and _out_of_rank(options.out)
    is_new = out is None or not Path(out).is_dir()
    try:
        directory = _make_directory(out, name)
    except StoreError as error:
        if options.out is not None:
            raise
        # The user has not asked for this directory, but for the command.
        _report(f"nothing is measured: {error}")
        pid = start(options.command, environment(), take_signals())
        release_streams()
        end_as(wait_for(pid))
    mask = take_signals()
    try:
        meter, failure = _wait_for_sensors(options, directory) if options.wait else (None, "")
        before = interfaces_now()
        started_unix_s, start_ns = time.time(), time.monotonic_ns()
        variables = environment() | {RECORDING: os.fsencode(directory)}
        if options.no_arguments:
            variables[os.fsencode(NO_ARGUMENTS)] = b"1"
        if tracking is not None:
            # What the command measures itself is part of this record.
            found = tracking.environment(directory.name) | {"JOULELAB_TRACKER": "none"}
            variables |= {os.fsencode(key): os.fsencode(value) for key, value in found.items()}
        pid = start(options.command, variables, mask)
    except JoulelabError:
        if is_new:
            with contextlib.suppress(OSError):
                for path in directory.iterdir():
                    path.unlink()
                directory.rmdir()
        raise
    release_streams()
    measurement = _Measurement(
        options,
        directory,
        meter,
        failure,
        before,
        {"name": name, "pid": pid, "started_unix_s": started_unix_s, "start_ns": start_ns},
    )
    measurement.start()
    status = wait_for(pid)
    stop_ns = time.monotonic_ns()
    try:
        measurement.finish(status, stop_ns, json_descriptor)
    except Exception as error:  # noqa: BLE001  (whatever it is, the command's end is not changed)
        what = error if isinstance(error, JoulelabError) else f"the record is not whole: {error!r}"
        _report(str(what))
    end_as(status)


def _start_tracking(trackers: Sequence[str]) -> Tracking | None:
    """Find the trackers before the command starts, which waits for it only if there are some."""
    if not trackers:
        return None
    from joulelab.runs.tracker_choice import start_tracking  # noqa: PLC0415

    return start_tracking(trackers)


def _report(text: str) -> None:
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stderr.write(f"joulelab: {text}\n")


def _name_broken_meters() -> None:
    """Report wrong entries of the file of meters at the start: a training may take days."""
    if (home() / "sensors.toml").exists():
        from joulelab.sensors.meters.entries import read_entries  # noqa: PLC0415

        for error in read_entries()[1].values():
            _report(str(error))


class _Measurement(threading.Thread):
    """Starts the recorder next to the command, and prepares what its end will need."""

    def __init__(
        self,
        options: Options,
        directory: Path,
        meter: Meter | None,
        failure: str,
        before: InterfaceBytes,
        known: Mapping[str, Any],
    ) -> None:
        super().__init__(name="joulelab-run", daemon=True)
        self._options, self._directory, self._known = options, directory, known
        self._meter = meter
        self._failure = failure
        self._before = before
        self._finish: Finish | None = None

    def run(self) -> None:
        """Never raise: the command comes first."""
        for step in (self._record, _name_broken_meters, self._prepare):
            try:
                step()
            except Exception as error:  # noqa: BLE001  (whatever it is, the command goes on)
                self._failure = self._failure or _reason(error)

    def _record(self) -> None:
        is_decided = self._meter is not None or self._failure
        recorder = None
        if not is_decided:
            recorder = _recorder(self._options, self._directory, self._before)
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        if recorder is not None:
            self._meter = _meter(recorder)

    def _prepare(self) -> None:
        self._finish = self._new_finish()
        self._finish.prepare()

    def _new_finish(self) -> Finish:
        from joulelab.run.finish import Finish  # noqa: PLC0415

        return Finish(self._options, self._directory, self._meter, **self._known)

    def finish(self, status: int, stop_ns: int, json_descriptor: int | None) -> None:
        """Write the record and print the summary and the JSON that was asked for."""
        self.join(PATIENCE_S)
        failure = self._failure
        if self.is_alive():
            failure = NO_RECORDER if self._meter is None else NO_DESCRIPTION
        finish = self._finish or self._new_finish()
        finish.end(status, stop_ns, json_descriptor, failure)


def _wait_for_sensors(options: Options, directory: Path) -> tuple[Meter | None, str]:
    """Return a meter that reads the sensors, or why there is none: the command runs all the same.

    Raises:
        UserError: A requested sensor does not exist.
    """
    try:
        return _meter(_recorder(options, directory, interfaces_now())), ""
    except Exception as error:
        if isinstance(error, UserError) and not isinstance(error, StoreError):
            raise
        return None, _reason(error)


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, JoulelabError) else f"{type(error).__name__}: {error}"


def _recorder(options: Options, directory: Path, before: InterfaceBytes) -> RecorderClient:
    from joulelab.recording.client import RecorderOptions  # noqa: PLC0415
    from joulelab.recording.recorder_choice import open_recorder  # noqa: PLC0415

    return open_recorder(
        directory,
        RecorderOptions(options.sensors, None, before),
        wrapper=True,
        job_directory=None if options.out is None else Path(options.out).absolute(),
    )


def _meter(recorder: RecorderClient) -> Meter:
    # It imports NumPy, for which the recorder need not wait.
    from joulelab.meter import Meter  # noqa: PLC0415

    return Meter(recorder=recorder)


def _open_json(target: str | None) -> int | None:
    """Open where the JSON goes if that exists already: standard output, a pipe, a device."""
    if target is None:
        return None
    with writing(target):
        if target in ("-", "/dev/stdout"):
            return os.dup(1)
        if Path(target).exists() and not Path(target).is_file():
            return os.open(target, os.O_WRONLY)
    parent = Path(target).parent
    if not os.access(parent, os.W_OK):
        raise UserError(f"cannot write {target}", why=f"{parent} cannot be written to")
    return None


def _out_of_rank(out: str) -> str:
    """Return the directory of this rank's record: in a job of several processes, below ``out``."""
    from joulelab.recording.launcher import current_launch, host_name  # noqa: PLC0415

    launch = current_launch()
    if launch is None:
        return out
    rank = f"process-{os.getpid()}" if launch.rank is None else f"rank-{launch.rank}"
    of_host = Path(out, host_name())
    # A job that starts again, or has several steps, has the same ranks again.
    names = chain([rank], (f"{rank}-{again}" for again in count(2)))
    return str(next(of_host / name for name in names if not (of_host / name).exists()))


def _make_directory(out: str | None, name: str) -> Path:
    directory = Path(out) if out is not None else home() / "runs" / new_run_id(name)
    directory = directory.absolute()
    with file_errors(f"cannot make {directory}"):
        make_private_directories(directory)
        if any(directory.iterdir()):
            raise UserError(f"{directory} is not empty", hint="choose another directory with --out")
    return directory
