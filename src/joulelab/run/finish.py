"""The end of a job: its record, and what is printed."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from joulelab.carbon.site import costs_here
from joulelab.recording.launcher import current_launch
from joulelab.recording.trace import read_trace
from joulelab.run.measure import Measuring
from joulelab.run.options import Options
from joulelab.run.previous import compare
from joulelab.run.summary import show, summary
from joulelab.runs.job import FINISHED_FILE, read_job, write_record
from joulelab.storage import write_whole, writing


def finish(
    measuring: Measuring, status: int, stop_ns: int, options: Options, descriptor: int | None
) -> None:
    """Writes ``run.json``, then prints the summary and the JSON that was asked for.

    Args:
        measuring: What was measured.
        status: The command's, as :func:`os.waitpid` gives it.
        stop_ns: When it ended, CLOCK_MONOTONIC.
        options: What was asked for.
        descriptor: Where JSON goes, where that was open before.

    Raises:
        UserError: Something cannot be written.
    """
    account, notes = measuring.finish(stop_ns)
    signalled = os.WIFSIGNALED(status)
    duration_s = (stop_ns - measuring.started["start_ns"]) * 1e-9
    record = measuring.started | {
        "ended_unix_s": measuring.started["started_unix_s"] + duration_s,
        "duration_s": duration_s,
        "exit_code": None if signalled else os.WEXITSTATUS(status),
        "signal": os.WTERMSIG(status) if signalled else None,
        "energy": account.energy.to_json(),
        "spans": [span.to_json() for span in account.spans],
        "notes": notes,
    }
    write_record(measuring.directory / FINISHED_FILE, record)
    job = read_job(measuring.directory)
    costs = costs_here(
        job.energy,
        started_unix_s=job.started_unix_s,
        stopped_unix_s=job.ended_unix_s,
        trace=lambda: read_trace(measuring.directory),
    )
    if not options.quiet and _is_first():
        # A terminal that has gone away must not keep the command's end from being this one's.
        with contextlib.suppress(OSError, AttributeError):
            show(summary(job, costs, measuring.previous), sys.stderr)
    if options.json is not None:
        compared = compare(job, measuring.previous)
        last = None if compared is None else compared.to_json()
        result = record | {"costs": costs.to_json(), "last_time": last}
        _write_json(result, options.json, descriptor)


def _is_first() -> bool:
    """Whether it is this process that speaks for a job's processes on this host."""
    launch = current_launch()
    return launch is None or launch.local_rank in (None, 0)


def _write_json(record: dict[str, Any], target: str, descriptor: int | None) -> None:
    data = json.dumps(record, indent=1).encode() + b"\n"
    with writing(target):
        if descriptor is None:
            write_whole(Path(target), data)
        else:
            with open(descriptor, "wb") as stream:  # noqa: PTH123
                stream.write(data)
