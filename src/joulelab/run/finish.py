"""Write the record of a wrapped command, and print what it used."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from joulelab.energy.estimator import EnergyEstimator
from joulelab.layout import write_lines
from joulelab.machine import describe
from joulelab.recording.launcher import current_launch, host_name
from joulelab.run.summary import Summary, previous_run
from joulelab.runs import command_to_save
from joulelab.runs.record import (
    Run,
    measure,
    not_measured,
    open_span_notes,
    tuning_notes,
    write_record,
)
from joulelab.runs.tracker_choice import start_tracking
from joulelab.sensors.host import boot_id
from joulelab.storage import home, home_note, write_whole, writing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from joulelab.meter import Meter
    from joulelab.recording.trace import Trace
    from joulelab.run.options import Options

UNSEEN_SHARE = 0.01
"""Share of the run for whose readings its end does not wait; the interval covers it.

For a run of ten seconds it is the 100 ms between two values of an NVIDIA GPU's energy counter.
"""


class Finish:
    """Prepares the record of a command while it runs, and completes it at its end."""

    def __init__(
        self, options: Options, directory: Path, meter: Meter | None, **known: Any
    ) -> None:
        self._options, self._meter = options, meter
        is_shared = meter is not None and meter.directory != directory
        self._run = Run(
            directory=directory,
            id=directory.name,
            kind="command",
            command=command_to_save(options.command),
            project=options.project,
            phase=options.phase,
            tags=options.tags,
            model=options.tags.get("model"),
            host=host_name(),
            boot_id=boot_id(),
            settings={"sensors": options.sensors, "wait": options.wait},
            baseline=None if meter is None else meter.baseline,
            inside=meter.directory if meter is not None and is_shared else None,
            **known,
        )
        self._previous: Run | None = None

    def prepare(self) -> None:
        """Do everything that takes time and does not need the command's end."""
        self._run = replace(self._run, machine=describe())
        write_record(self._run.directory, self._run.to_json())
        self._previous = previous_run(self._run)

    def end(self, status: int, stop_ns: int, descriptor: int | None, failure: str) -> None:
        """Write the record, then print the summary and the JSON that was asked for.

        Args:
            status: Status of the command, as :func:`os.waitpid` gives it.
            stop_ns: When it ended, CLOCK_MONOTONIC.
            descriptor: Open file for the JSON, if there is one.
            failure: Why it was not recorded; empty if it was.
        """
        meter, start_ns = self._meter, self._run.start_ns or 0
        signalled = os.WIFSIGNALED(status)
        run = self._run.ended(
            stop_ns,
            status="done" if status == 0 else "failed",
            exit_code=None if signalled else os.WEXITSTATUS(status),
            signal=os.WTERMSIG(status) if signalled else None,
            energy=not_measured(failure or "recording had not begun"),
        )
        trace, estimator = None, None
        if meter is not None:
            meter.close(stop_ns - round(UNSEEN_SHARE * (stop_ns - start_ns)))
            trace = meter.trace
            estimator = EnergyEstimator(trace, meter.baseline)
            saved_where = home_note() if home() in run.directory.parents else ""
            notes = (
                failure,
                meter.failure,
                saved_where,
                *_other_hosts(trace, run.directory),
                *open_span_notes(trace, start_ns),
                *tuning_notes(trace, start_ns, stop_ns),
            )
            known = tuple(note for note in notes if note)
            run = replace(run, notes=known, **measure(trace, estimator, start_ns, stop_ns))
        write_record(run.directory, run.to_json())
        self._show(run, trace, estimator, descriptor)
        tracking = start_tracking(self._options.trackers)
        if tracking is None:
            return
        if not self._options.quiet:
            text = f"logging to {', '.join(self._options.trackers)}"
            write_lines([("tracker", text)], sys.stderr)
        for stream in (0, 1):
            os.set_inheritable(stream, True)  # Processes of trackers need open streams.
        for text in tracking.finish(run, trace, estimator):
            write_lines([("tracker", text)], sys.stderr)

    def _show(
        self,
        run: Run,
        trace: Trace | None,
        estimator: EnergyEstimator | None,
        descriptor: int | None,
    ) -> None:
        """Print the summary and the JSON that was asked for."""
        launch = current_launch()
        is_first = launch is None or launch.local_rank in (None, 0)
        is_shown = is_first and not self._options.quiet
        if not is_shown and self._options.json is None:
            return
        summary = Summary.of(run, trace, estimator, self._previous)
        if is_shown:
            # The command's exit code is passed on even if the terminal is gone.
            with contextlib.suppress(OSError, AttributeError):
                write_lines(summary.lines(), sys.stderr)
        if self._options.json is not None:
            _write_json(summary.to_json(), self._options.json, descriptor)


def _other_hosts(trace: Trace, directory: Path) -> Iterator[str]:
    """Say that the energy is that of one of a job's hosts."""
    job = trace.header.get("job")
    if job is not None and len(job.hosts) > 1:
        yield (
            f"this is the energy of {job.host} alone, one of {len(job.hosts)} hosts of Slurm's job "
            f"{job.id}: `joulelab gather` adds up what was recorded on each"
        )


def _write_json(result: dict[str, Any], target: str, descriptor: int | None) -> None:
    data = json.dumps(result, indent=1).encode() + b"\n"
    with writing(target):
        if descriptor is None:
            write_whole(Path(target), data)
        else:
            with open(descriptor, "wb") as stream:  # noqa: PTH123
                stream.write(data)
