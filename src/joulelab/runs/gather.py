"""Finds a job's recordings, and what is missing among them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path

from joulelab.energy.baseline import Baseline
from joulelab.errors import UserError
from joulelab.recording.format import READINGS_FILE
from joulelab.recording.launcher import Launch
from joulelab.recording.trace import read_trace
from joulelab.runs.distributed_job import DistributedJob, HostRecording


def gather(
    directory: str | os.PathLike[str], baselines: Mapping[str, Baseline] | None = None
) -> DistributedJob:
    """One account of all that the processes of a job recorded below a directory.

    Every host writes there, as ``Meter(directory=DIR)`` does on each rank; where hosts share no
    file system, copy what they wrote into one directory.

    Args:
        directory: Holds ``<host>/<number>`` for each recording.
        baselines: Idle power by host, for net energies.

    Raises:
        UserError: There is no recording.
        TraceError: One of them cannot be read.
    """
    baselines = baselines or {}
    # A program that wrapped a rank left links to the recording that it joined.
    places = sorted({path.resolve().parent for path in Path(directory).rglob(READINGS_FILE)})
    traces = [(place, read_trace(place)) for place in places]
    if not traces:
        raise UserError(
            f"no recording in {directory}",
            why="no trace is below it",
            hint="give the directory that was given to Meter(directory=...)",
        )
    recordings = [
        HostRecording(place, trace, baselines.get(str(trace.header["host"])))
        for place, trace in traces
    ]
    recordings.sort(key=lambda one: (one.host, float(one.trace.header["start_unix_s"])))
    return DistributedJob(tuple(recordings), tuple(_missing(recordings)))


def _missing(recordings: Sequence[HostRecording]) -> Iterable[str]:
    """In words, the ranks and hosts of each start of the job that left no recording."""
    launches = sorted(
        dict.fromkeys(launch for one in recordings for launch in one.launches), key=_job
    )
    for _, group in groupby(launches, key=_job):
        several = list(group)
        sizes = [launch.world_size for launch in several if launch.world_size is not None]
        seen = {launch.rank for launch in several}
        ranks = [rank for rank in range(max(sizes, default=0)) if rank not in seen]
        if None not in seen and ranks:
            yield f"without {_numbered('rank', ranks)} of {max(sizes)}, which left no recording"
        counts = [launch.nodes for launch in several if launch.nodes is not None]
        nodes = {launch.node for launch in several}
        absent = [node for node in range(max(counts, default=0)) if node not in nodes]
        if None not in nodes and absent:
            yield f"without {_numbered('host', absent)} of {max(counts)}, which left no recording"


def _job(launch: Launch) -> tuple[str, str]:
    return launch.launcher, launch.job


def _numbered(what: str, numbers: Sequence[int]) -> str:
    """As ``"ranks 2 to 3 and 7"``.

    Example:
        >>> _numbered("rank", [2, 3, 7]), _numbered("host", [1])
        ('ranks 2 to 3 and 7', 'host 1')
    """
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    texts = [f"{run[0]} to {run[-1]}" if len(run) > 1 else str(run[0]) for run in runs]
    text = " and ".join(filter(None, (", ".join(texts[:-1]), texts[-1])))
    return f"{what}{'s' if len(numbers) > 1 else ''} {text}"
