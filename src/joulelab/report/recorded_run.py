"""A run with its recordings, for its page: a run of one recording, or a job of several."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path

import numpy as np

from joulelab.carbon.site import local_costs
from joulelab.energy.energy import Energy, joined, sensor_of
from joulelab.energy.uncertainty import Boards, find_boards
from joulelab.errors import TraceError, UserError
from joulelab.recording.span_columns import SpanColumns, Windows
from joulelab.recording.trace_format import READINGS_FILE
from joulelab.run.saved_summary import epoch_groups, read_summary
from joulelab.run.summary import Epoch, Summary
from joulelab.runs.hosts import DistributedJob, HostRecording, gather
from joulelab.runs.record import Run, SpanTotal, is_recording, is_run, read_run, sum_of_known
from joulelab.runs.selection import saved_run
from joulelab.runs.span_tree import SpanNode, run_extent, run_trace, span_tree
from joulelab.runs.stored_records import Status
from joulelab.runs.study_runs import is_study
from joulelab.validation import MOST_NS

_NS = 1e-9


@dataclass(frozen=True)
class RecordedRun:
    """A run and the recordings that its energies come from."""

    summary: Summary  # What is known of it. For a job, of all its hosts and ranks.
    recordings: tuple[HostRecording, ...] = ()  # None if its readings are gone.
    job: DistributedJob | None = None  # The job, if it is one.
    parts: tuple[Run, ...] = ()  # The runs of a job's recordings.
    problem: str = ""  # Why the readings cannot be read; empty if they can.

    @property
    def run(self) -> Run:
        """The run; for a job, one that stands for all its hosts and ranks."""
        return self.summary.run

    @cached_property
    def spans(self) -> list[SpanColumns]:
        """The finished spans of the run in each recording."""
        found = []
        for one in self.recordings:
            start_ns, stop_ns = (0, MOST_NS) if self.job is not None else run_extent(self.run)
            found.append(SpanColumns.of(one.trace.spans).within(start_ns, stop_ns))
        return found

    def window_ns(self, recording: HostRecording) -> tuple[int, int]:
        """Return the start and end of the run on a recording's clock."""
        start_ns, stop_ns = recording.whole.start_ns, recording.whole.stop_ns
        if self.job is not None:
            return start_ns, stop_ns
        if self.run.start_ns is not None and math.isfinite(self.run.duration_s):
            return run_extent(self.run)
        # Without readings, it lasted at least until its last span.
        ends_ns = (span.stop_ns for span in recording.spans if span.stop_ns is not None)
        return start_ns, max(stop_ns, *ends_ns, start_ns)

    def time_s(self, recording: HostRecording) -> tuple[float, float]:
        """Return the start and end of the run on a recording, from the start of the run.

        The clocks of several hosts are related by their wall-clock times.
        """
        start_ns, stop_ns = self.window_ns(recording)
        start_s = 0.0
        if self.job is not None:
            start_s = _started_unix_s(recording) - self.run.started_unix_s
        return start_s, start_s + (stop_ns - start_ns) * _NS

    @property
    def duration_s(self) -> float:
        """Time from the start of the run to the end of its last recording."""
        return max(self.time_s(one)[1] for one in self.recordings)

    def sources(self, recording: HostRecording) -> dict[str, str]:
        """Return the sensor from which each component's energy on a recording comes."""
        suffix = "" if self.job is None else f"@{_host(self.job, recording)}"
        return {
            name.removesuffix(suffix): sensor_of(part.source)
            for name, part in self.run.energy.components.items()
            if name.endswith(suffix)
        }

    @property
    def boards(self) -> Boards:
        """The hardware of each component."""
        if self.job is not None:
            return {name: name for name in self.run.energy.components}
        return find_boards(self.run.machine, self.run.host, self.run.energy)


def open_recorded(name_or_path: str | os.PathLike[str]) -> RecordedRun:
    """Open a run, or a job whose processes recorded below a directory, with its recordings.

    Raises:
        UserError: There is no such run, or its record is damaged.
        TraceError: The run is unfinished and its trace is damaged.
    """
    path = Path(name_or_path)
    if path.is_dir() and not is_run(path) and not is_recording(path):
        holds_runs = is_study(path) or any(path.rglob(READINGS_FILE))
        if holds_runs or saved_run(str(name_or_path)) is None:
            return _job(path)
    summary = read_summary(name_or_path)
    try:
        trace = run_trace(summary.run)
    except TraceError as error:
        return RecordedRun(summary, problem=str(error))
    if trace is None:
        return RecordedRun(summary, problem=f"there is no trace in {summary.run.directory}")
    recording = HostRecording(summary.run.directory, trace, summary.run.baseline)
    return RecordedRun(summary, (recording,))


def _job(directory: Path) -> RecordedRun:
    """Gather a job and summarize the run that stands for it."""
    job = _gathered(directory)
    parts = tuple(read_run(one.directory) for one in job.recordings)
    with_baselines = (
        replace(one, baseline=run.baseline) for one, run in zip(job.recordings, parts, strict=True)
    )
    job = replace(job, recordings=tuple(with_baselines))
    total, first, is_alone = job.total, parts[0], len(job.hosts) == 1
    ends_s = [
        _started_unix_s(one) + (one.whole.stop_ns - one.whole.start_ns) * _NS
        for one in job.recordings
    ]
    run = replace(
        first,
        directory=directory,
        id=directory.resolve().name,
        name=directory.resolve().name,
        host=", ".join(job.hosts),
        machine=first.machine if is_alone else None,
        boot_id=first.boot_id if is_alone else "",
        pid=None,
        started_unix_s=min(map(_started_unix_s, job.recordings)),
        ended_unix_s=max(ends_s),
        duration_s=total.duration_s,
        start_ns=None,
        status=_status(parts),
        failure=next((one.failure for one in parts if one.failure), None),
        energy=total,
        spans=tuple(_totals(job)),
        baseline=None,
        inside=None,
        notes=tuple(dict.fromkeys(note for one in parts for note in one.notes)),
    )
    costs = local_costs(
        total,
        started_unix_s=run.started_unix_s,
        stopped_unix_s=run.ended_unix_s,
        trace=lambda: job.recordings[0].trace,
    )
    trees = [
        (_host(job, one), span_tree(one.trace, one.estimator, 0, MOST_NS)) for one in job.recordings
    ]
    summary = Summary(
        run=run, costs=costs, tree=_merged(trees), epochs=tuple(_epochs(job)), is_saved=True
    )
    return RecordedRun(summary, job.recordings, job, parts)


def _gathered(directory: Path) -> DistributedJob:
    """Gather the recordings below a directory, which must be of one job."""
    if is_study(directory):
        raise UserError(
            f"{directory} is a study", hint=f"name one of its runs, {directory}/runs/ID"
        )
    why = "it has no run.json, plan.toml or trace"
    if any(directory.rglob(READINGS_FILE)):
        job = gather(directory)
        if all(one.launches for one in job.recordings):
            return job
        why = "it contains recordings that no launcher such as torchrun started together"
    raise UserError(
        f"{directory} is neither a run nor a study",
        why=why,
        hint="name the directory of one run or study, the name of a saved run, or latest",
    )


def _totals(job: DistributedJob) -> Iterator[SpanTotal]:
    for name in job.names:
        count = sum(span.name == name for one in job.recordings for span in one.spans)
        yield SpanTotal.of(name, count, job.energy(name))


def _epochs(job: DistributedJob) -> Iterator[Epoch]:
    """Measure the epochs of a job; those of several ranks count once."""
    groups = [epoch_groups(one.trace.finished_spans) for one in job.recordings]
    none = Windows.of(())
    for phase, index in dict.fromkeys(chain.from_iterable(groups)):
        found = (one.get((phase, index)) for one in groups)
        windows = [none if spans is None else spans.windows for spans in found]
        energy = job.energy_within(windows, "has no such epoch")
        if energy is not None:
            yield Epoch(phase, index, energy, None)


def _merged(trees: Sequence[tuple[str, tuple[SpanNode, ...]]]) -> tuple[SpanNode, ...]:
    """Add up the trees of several recordings, whose errors are independent."""
    if len(trees) == 1:
        return trees[0][1]
    by_name: dict[str, list[tuple[str, SpanNode]]] = {}
    for host, tree in trees:
        for node in tree:
            by_name.setdefault(node.name, []).append((host, node))
    merged = [_merged_node(nodes) for nodes in by_name.values()]
    return tuple(sorted(merged, key=lambda one: -np.nan_to_num(one.total.gross_j)))


def _merged_node(nodes: Sequence[tuple[str, SpanNode]]) -> SpanNode:
    totals = [node.total for _, node in nodes]
    count = sum(one.count for one in totals)
    gross_j = math.fsum(one.gross_j for one in totals)
    total = SpanTotal(
        name=totals[0].name,
        count=count,
        duration_s=max(one.duration_s for one in totals),
        gross_j=gross_j,
        low_j=max(gross_j - math.hypot(*(one.gross_j - one.low_j for one in totals)), 0.0),
        high_j=gross_j + math.hypot(*(one.high_j - one.gross_j for one in totals)),
        net_j=math.fsum(one.net_j for one in totals),
    )
    own = _sum_over_hosts([(host, node.own) for host, node in nodes if node.own is not None])
    return SpanNode(
        name=total.name,
        total=total,
        mean_s=math.fsum(node.mean_s * node.total.count for _, node in nodes) / count,
        self_j=own.gross_j,
        self_interval_j=own.interval_j,
        self_s=own.duration_s,
        own=own,
        children=_merged([(host, node.children) for host, node in nodes]),
    )


def _sum_over_hosts(energies: Sequence[tuple[str, Energy]]) -> Energy:
    by_host: dict[str, list[Energy]] = {}
    for host, energy in energies:
        by_host.setdefault(host, []).append(energy)
    sums = [sum_of_known(parts).with_suffix(f"@{host}") for host, parts in by_host.items()]
    return joined(sums) if sums else Energy(duration_s=math.nan)


def _status(parts: Sequence[Run]) -> Status:
    statuses = {one.status for one in parts}
    if "failed" in statuses:
        return "failed"
    return "unfinished" if "unfinished" in statuses else "done"


def _started_unix_s(recording: HostRecording) -> float:
    header = recording.trace.header
    started_s = float(header.get("start_unix_s", math.nan))
    return started_s + (recording.whole.start_ns - int(header.get("start_ns", 0))) * _NS


def _host(job: DistributedJob, recording: HostRecording) -> str:
    """Return the name by which a job's energies have the host of a recording."""
    return next(host for host, all_of in job.hosts.items() if recording in all_of)
