"""Measuring a command while it runs: all that need not happen before it starts."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from joulelab.errors import JoulelabError
from joulelab.runs.job import SCHEMA, STARTED_FILE, Job, write_record

if TYPE_CHECKING:
    from joulelab.meter import Meter
    from joulelab.runs.job_energy import JobAccount

UNSEEN_SHARE = 0.01
"""Of a command's time; its end is not held up for so little of it, which is in the interval.

Of ten seconds it is the 100 ms between two values of an NVIDIA GPU's counter."""

PATIENCE_S = 60.0
"""A driver that hangs keeps nobody from the end of a command for longer."""

NICE = 10
"""What can wait gives way to the command."""


class Measuring(threading.Thread):
    """Starts the recorder beside a command, and gets ready what its end will need.

    Args:
        directory: The job's.
        started: What is known of it.
        meter: What already records it; ``None``: it is started beside the command.

    Attributes:
        directory: The job's.
        started: What ``job.json`` says.
        failure: Why nothing is recorded; empty while it is.
        previous: The last job like this one.
    """

    def __init__(self, directory: str, started: Mapping[str, Any], meter: Meter | None) -> None:
        super().__init__(name="joulelab-run", daemon=True)
        self.directory = Path(directory)
        self.started = {"schema": SCHEMA, **started}
        self.failure = ""
        self.previous: Job | None = None
        self._meter = meter

    def run(self) -> None:
        """Never raises: the command comes first."""
        try:
            self._begin()
        except JoulelabError as error:
            self.failure = str(error)
        except Exception as error:  # noqa: BLE001  (whatever it is, the command goes on)
            self.failure = f"{type(error).__name__}: {error}"

    def _begin(self) -> None:
        from joulelab.meter import Meter  # noqa: PLC0415

        write_record(self.directory / STARTED_FILE, self.started)
        if self._meter is None:
            sensors = self.started["settings"]["sensors"]
            self._meter = Meter(sensors, directory=self.directory, own_recorder=False)
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
        self._prepare(self._meter)

    def _prepare(self, meter: Meter) -> None:
        """Everything that takes time and does not need the command's end."""
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        from joulelab.machine import describe  # noqa: PLC0415
        from joulelab.run import finish  # noqa: F401, PLC0415
        from joulelab.run.previous import last_like  # noqa: PLC0415
        from joulelab.runs import job_energy as account  # noqa: F401, PLC0415

        self.started["machine"] = describe().to_json()
        if meter.directory != self.directory:
            self.started["joined"] = str(meter.directory)
        if meter.baseline is not None:
            self.started["baseline"] = [point.to_json() for point in meter.baseline.points]
        write_record(self.directory / STARTED_FILE, self.started)
        self.previous = last_like(self.started, self.directory)

    def finish(self, stop_ns: int) -> tuple[JobAccount, list[str]]:
        """The job's energy and spans, and what is to be said of the measurement.

        Args:
            stop_ns: When the command ended, CLOCK_MONOTONIC.
        """
        self.join(PATIENCE_S)
        from joulelab.recording.trace import TraceReader  # noqa: PLC0415
        from joulelab.runs.job_energy import account, nothing  # noqa: PLC0415

        if self.is_alive() or self._meter is None:
            return nothing(self.failure or "recording had not begun"), []
        meter, start_ns = self._meter, self.started["start_ns"]
        meter.close(stop_ns - round(UNSEEN_SHARE * (stop_ns - start_ns)))
        trace = TraceReader(meter.directory).read()
        found = account(trace, start_ns, stop_ns, meter.baseline)
        return found, [note for note in (self.failure, meter.failure) if note]
