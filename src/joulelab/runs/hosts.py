"""Add up the energy of a job of many processes over the hosts that recorded it."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import count, groupby
from operator import attrgetter
from pathlib import Path
from typing import Any, TypedDict

from joulelab.energy.attribution import UNSEEN, bare_uuid
from joulelab.energy.baseline import Baseline
from joulelab.energy.energy import Energy, joined, total
from joulelab.energy.estimator import EnergyEstimator, energy_of_union
from joulelab.energy.window_union import WindowUnion
from joulelab.errors import UserError
from joulelab.format import join_words
from joulelab.recording.launcher import BatchJob, Launch
from joulelab.recording.span_columns import Windows
from joulelab.recording.trace import Trace, read_trace
from joulelab.recording.trace_format import READINGS_FILE, RUN_FILE
from joulelab.recording.trace_schema import read_header
from joulelab.recording.trace_spans import TraceSpan, Window
from joulelab.validation import InvalidData, Nanoseconds, Period, convert, parse_json

_END_OF_TIME_NS = 1 << 62
MANY_HOSTS = 200  # From this number on, processes that share the work pay off.


@dataclass(frozen=True)
class HostRecording:
    """One recording of one host: the readings and the spans of all ranks there, on its clock."""

    directory: Path
    trace: Trace
    baseline: Baseline | None = None
    commands: tuple[Window, ...] = ()
    """When the commands ran that `joulelab run` measured with it."""

    @property
    def host(self) -> str:
        """Name of the host."""
        return str(self.trace.header.get("host", ""))

    @property
    def boot_id(self) -> str:
        """Boot of the host; its clock restarts with each boot."""
        return str(self.trace.header.get("boot_id", ""))

    @property
    def batch_job(self) -> BatchJob | None:
        """The job of a batch system to which it belongs."""
        return self.trace.header.get("job")

    @property
    def gpus(self) -> tuple[str, ...]:
        """UUIDs of the GPUs that it reads."""
        of_components: Mapping[str, Sequence[str]] = self.trace.header.get("gpus") or {}
        return tuple(uuid for uuids in of_components.values() for uuid in uuids)

    @property
    def complements(self) -> bool:
        """Whether it only reads GPUs that another recorder of the job on this host did not see."""
        return bool(self.trace.header.get("complements"))

    @cached_property
    def launches(self) -> tuple[Launch, ...]:
        """The position of each recorded process in the job, as set by the launcher."""
        found = (event.get("launch") for event in self._of_kind("joined"))
        return tuple(dict.fromkeys(launch for launch in found if launch))

    @cached_property
    def spans(self) -> tuple[TraceSpan, ...]:
        """The finished spans of every process, in the order in which they began."""
        return tuple(self.trace.finished_spans)

    @cached_property
    def whole(self) -> Window:
        """From when the first process joined to when the last one left, or the last reading.

        If commands were measured, from when the first one started to when the last one ended.
        """
        if self.commands:
            start_ns = min(command.start_ns for command in self.commands)
            return Window(start_ns, max(command.stop_ns for command in self.commands))
        joined_ns = [int(event["t_ns"]) for event in self._of_kind("joined")]
        left_ns = [int(event["t_ns"]) for event in self._of_kind("left")]
        last_ns = [int(one.t_ns[-1]) for one in self.trace.series if one.t_ns.size]
        start_ns = min(joined_ns, default=int(self.trace.header.get("start_ns", 0)))
        stop_ns = min([max(last_ns, default=start_ns), *([max(left_ns)] if left_ns else [])])
        return Window(start_ns, max(start_ns, stop_ns))

    def windows(self, name: str, **attributes: Any) -> Windows:
        """Return when its processes were in spans of that name with all these attributes."""
        return self.trace.finished_spans.named(name).with_attributes(attributes).windows

    @cached_property
    def estimator(self) -> EnergyEstimator:
        """Computes energies on this host's clock."""
        return EnergyEstimator(self.trace, self.baseline)

    def _of_kind(self, kind: str) -> Iterable[Mapping[str, Any]]:
        return (event for event in self.trace.events if event.get("event") == kind)


@dataclass(frozen=True)
class DistributedJob:
    """A job on one host or several.

    Each host's energy is computed on its own clock and only energies are added, so clocks may
    differ.
    """

    # In order of host names; several for a host on which the job restarted.
    recordings: tuple[HostRecording, ...]
    # Ranks and hosts that left no recording. Energies do not include them.
    missing: tuple[str, ...] = ()

    @property
    def hosts(self) -> dict[str, list[HostRecording]]:
        """The recordings of each host, in order of time; a reboot counts as another host."""
        boots: dict[str, list[str]] = {}
        found: dict[str, list[HostRecording]] = {}
        for one in self.recordings:
            known = boots.setdefault(one.host, [])
            if one.boot_id not in known:
                known.append(one.boot_id)
            again = known.index(one.boot_id)
            found.setdefault(f"{one.host}#{again + 1}" if again else one.host, []).append(one)
        return found

    @property
    def doubled(self) -> tuple[str, ...]:
        """Warnings about names of one machine (containers of it), whose energy counts twice."""
        return tuple(_doubled(self.recordings))

    @property
    def ranks(self) -> tuple[int, ...]:
        """The ranks that were recorded."""
        found = {launch.rank for one in self.recordings for launch in one.launches}
        return tuple(sorted(rank for rank in found if rank is not None))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of finished spans, in the order in which they appear."""
        found = (one.trace.finished_spans.positions() for one in self.recordings)
        return tuple(dict.fromkeys(name for names in found for name in names))

    @property
    def total(self) -> Energy:
        """Energy of the whole job, on each host from the first process's start to the end."""
        return self._sum(self.totals)

    @property
    def totals(self) -> dict[str, Energy]:
        """The same for each host."""
        return {
            host: _host_energy(recordings, [one.whole for one in recordings])
            for host, recordings in self.hosts.items()
        }

    def energy(self, name: str, **attributes: Any) -> Energy:
        """Compute the energy of the time in which at least one rank was in such a span.

        Components are named with their hosts, for example ``"gpu:0@node1"``; the duration is that
        of the host on which it was longest.

        Args:
            name: Name of the spans.
            **attributes: Attributes that the spans must have, for example ``index=3``.

        Raises:
            ValueError: There is no such span.
        """
        such = f"{name!r}{f' with {attributes}' if attributes else ''}"
        windows = [one.windows(name, **attributes) for one in self.recordings]
        energy = self.energy_within(windows, f"has no span {such}")
        if energy is None:
            known = ", ".join(self.names) or "none"
            raise ValueError(f"no span {such} on any host; known: {known}")
        return energy

    def energy_within(self, windows: Sequence[Sequence[Window]], without: str) -> Energy | None:
        """Compute the energy within windows on each recording's clock, each moment once.

        Args:
            windows: Those of each recording, in the order of :attr:`recordings`.
            without: What a note says of a host without any, for example ``"has no epoch"``.

        Returns:
            ``None`` if there is no window.
        """
        energies = self.energies_within(windows)
        notes = [f"{host} {without}" for host in self.hosts if host not in energies]
        return self._sum(energies, notes) if energies else None

    def energies_within(self, windows: Sequence[Sequence[Window]]) -> dict[str, Energy]:
        """Compute the same for each host that has such windows."""
        of_recording = {
            id(one): Windows.of(some) for one, some in zip(self.recordings, windows, strict=True)
        }
        energies: dict[str, Energy] = {}
        for host, recordings in self.hosts.items():
            joined = Windows.joined([of_recording[id(one)] for one in recordings])
            if len(joined):
                energies[host] = _host_energy(recordings, joined)
        return energies

    def _sum(self, energies: Mapping[str, Energy], without: Sequence[str] = ()) -> Energy:
        return sum_hosts(energies, (*without, *self.missing, *self.doubled))


def sum_hosts(energies: Mapping[str, Energy], notes: Sequence[str]) -> Energy:
    """Add up hosts. A component that was not measured on a host is absent there."""
    named = [energy.with_suffix(f"@{host}") for host, energy in energies.items()]
    of_hosts = [f"{host}: {note}" for host, energy in energies.items() for note in energy.notes]
    return replace(joined(named), notes=(*of_hosts, *notes))


def gather(
    directory: str | os.PathLike[str],
    baselines: Mapping[str, Baseline] | None = None,
    batch_job: str | None = None,
) -> DistributedJob:
    """Gather all that the processes of a job recorded below a directory.

    Every host writes there, as ``Meter(directory=DIR)`` does on each rank. If hosts share no file
    system, copy what they wrote into one directory.

    Args:
        directory: Contains ``<host>/<number>`` for each recording.
        baselines: Idle power by host, for net energies.
        batch_job: Only recordings of this job of a batch system, for example Slurm's ``"4711"``.

    Raises:
        UserError: There is no recording, or none of that job.
        TraceError: A recording cannot be read.
    """
    recordings = [
        one.open((baselines or {}).get(one.host)) for one in _find(Path(directory), batch_job)
    ]
    launches = [launch for one in recordings for launch in one.launches]
    missing = _missing([one.batch_job for one in recordings], launches)
    return DistributedJob(tuple(recordings), tuple(missing))


@dataclass(frozen=True)
class JobEnergies:
    """The energies of a job, without its recordings."""

    hosts: Mapping[str, Sequence[Path]]  # Directories of the recordings of each host.
    ranks: tuple[int, ...]  # The ranks that were recorded.
    batch_jobs: Mapping[str, Sequence[str | None]]  # Recorded steps of each job of a batch system.
    missing: tuple[str, ...]  # As of :class:`DistributedJob`.
    doubled: tuple[str, ...]  # Likewise.
    total: Energy  # Likewise.
    spans: Mapping[str, Energy]  # Energy while at least one rank was in a span of each name.


def add_up(
    directory: str | os.PathLike[str], batch_job: str | None = None, processes: int = 1
) -> JobEnergies:
    """Compute the energies of a job host by host, so that memory does not grow with their data.

    Args:
        directory: As of :func:`gather`.
        batch_job: Likewise.
        processes: Number of processes that share the work if there are many hosts.

    Raises:
        UserError: There is no recording, or none of that job.
        TraceError: A recording cannot be read.
    """
    found = _find(Path(directory), batch_job)
    of_host = [list(group) for _, group in groupby(found, key=attrgetter("host"))]
    if processes > 1 and len(of_host) >= MANY_HOSTS:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, mp_context=context) as pool:
            parts = list(pool.map(_add_up_host, of_host, chunksize=16))
    else:
        parts = [_add_up_host(one) for one in of_host]
    launches = [launch for part in parts for launch in part.launches]
    jobs = [one.header.get("job") for one in found]
    missing, doubled = tuple(_missing(jobs, launches)), tuple(_doubled(found))
    hosts = {host: paths for part in parts for host, paths in part.directories.items()}
    spans: dict[str, Energy] = {}
    for name in dict.fromkeys(name for part in parts for name in part.spans):
        energies = {h: e for part in parts for h, e in part.spans.get(name, {}).items()}
        without = [f"{host} has no span {name!r}" for host in hosts if host not in energies]
        spans[name] = sum_hosts(energies, (*without, *missing, *doubled))
    steps: dict[str, dict[str | None, None]] = {}
    for job in jobs:
        if job is not None:
            steps.setdefault(job.id, {})[job.step] = None
    return JobEnergies(
        hosts=hosts,
        ranks=tuple(sorted({one.rank for one in launches if one.rank is not None})),
        batch_jobs={name: list(some) for name, some in steps.items()},
        missing=missing,
        doubled=doubled,
        total=sum_hosts(
            {h: e for part in parts for h, e in part.totals.items()}, (*missing, *doubled)
        ),
        spans=spans,
    )


@dataclass(frozen=True)
class _Found:
    """A recording that has not been read yet, and the commands that were measured with it."""

    directory: Path
    header: Mapping[str, Any]
    commands: tuple[Window, ...]

    @property
    def host(self) -> str:
        return str(self.header.get("host", ""))

    @property
    def boot_id(self) -> str:
        return str(self.header.get("boot_id", ""))

    def open(self, baseline: Baseline | None = None) -> HostRecording:
        """Read it."""
        return HostRecording(self.directory, read_trace(self.directory), baseline, self.commands)


@dataclass(frozen=True)
class _HostPart:
    """What one host contributes to a job; a reboot counts as another host."""

    directories: Mapping[str, Sequence[Path]]
    launches: Sequence[Launch]
    totals: Mapping[str, Energy]
    spans: Mapping[str, Mapping[str, Energy]]


def _find(directory: Path, batch_job: str | None) -> list[_Found]:
    """Find the recordings of a job, in order of hosts and time."""
    # A wrapped rank left links to the recording that it joined.
    commands: dict[Path, list[Window]] = {}
    for path in sorted(directory.rglob(READINGS_FILE)):
        commands.setdefault(path.resolve().parent, []).extend(_commands(path.parent))
    if not commands:
        raise UserError(
            f"no recording in {directory}",
            why="there is no trace below it",
            hint="give the directory that was given to Meter(directory=...)",
        )
    found = [_Found(path, _header(path), tuple(commands[path])) for path in sorted(commands)]
    if batch_job is not None:
        jobs = [(one, one.header.get("job")) for one in found]
        ids = dict.fromkeys(job.id for _, job in jobs if job is not None)
        found = [one for one, job in jobs if job is not None and job.id == batch_job]
        if not found:
            raise UserError(
                f"no recording of job {batch_job!r} in {directory}",
                why=f"there are recordings of {join_words([*ids]) or 'no job of Slurm'}",
            )
    return sorted(found, key=lambda one: (one.host, float(one.header.get("start_unix_s", 0.0))))


def _header(directory: Path) -> Mapping[str, Any]:
    try:
        return read_header(directory)
    except (OSError, ValueError):
        # The error of the reader of whole traces says what to do.
        return read_trace(directory).header


def _add_up_host(found: Sequence[_Found]) -> _HostPart:
    job = DistributedJob(tuple(one.open() for one in found))
    spans = {
        name: job.energies_within([one.windows(name) for one in job.recordings])
        for name in job.names
    }
    launches = [launch for one in job.recordings for launch in one.launches]
    directories = {host: [one.directory for one in some] for host, some in job.hosts.items()}
    return _HostPart(directories, launches, job.totals, spans)


def _doubled(recordings: Iterable[HostRecording | _Found]) -> Iterator[str]:
    """Warn about names of one machine (containers of it), whose energy counts twice."""
    names: dict[str, dict[str, None]] = {}
    for one in recordings:
        names.setdefault(one.boot_id, {})[one.host] = None
    for boot, hosts in names.items():
        if boot and len(hosts) > 1:
            yield f"{join_words(list(hosts))} are one machine: what both recorded counts twice"


class _Extent(TypedDict):
    """The fields of a record that are read here."""

    kind: str
    start_ns: Nanoseconds | None
    duration_s: Period | None


def _commands(directory: Path) -> Iterator[Window]:
    """Return when the command of a record ran, if it has ended."""
    try:
        record = convert(parse_json((directory / RUN_FILE).read_bytes()), _Extent)
    except (OSError, InvalidData):
        return
    start_ns, duration_s = record["start_ns"], record["duration_s"]
    if record["kind"] == "command" and start_ns is not None and duration_s is not None:
        yield Window(start_ns, start_ns + round(duration_s * 1e9))


def _host_energy(recordings: Sequence[HostRecording], windows: Sequence[Window]) -> Energy:
    """Compute the energy of a host: each moment once, and each device from one recording."""
    first = [one for one in recordings if not one.complements]
    if not first or len(first) == len(recordings):
        return _energy(recordings, windows)
    energy = _energy(first, windows)
    further: dict[tuple[str, ...], list[HostRecording]] = {}
    for one in recordings:
        if one.complements:
            further.setdefault(one.gpus, []).append(one)
    components, absent, notes = dict(energy.components), dict(energy.absent), [*energy.notes]
    # Where control groups hide GPUs, each process sees its own as number 0.
    numbers = (f"gpu:{number}" for number in count())
    unused = (name for name in numbers if name not in {*components, *absent})
    for uuids, group in further.items():
        other = _energy(group, windows)
        # How many are unseen depends on all recordings.
        other = replace(other, absent={k: v for k, v in other.absent.items() if k != UNSEEN})
        names = {name: next(unused) for name in (*other.components, *other.absent)}
        for name, part in other.components.items():
            components[names[name]] = replace(part, component=names[name])
        absent |= {names[name]: why for name, why in other.absent.items()}
        notes += [note for note in other.notes if note not in notes]
        read = {bare_uuid(uuid) for uuid in uuids}
        absent = {name: why for name, why in absent.items() if bare_uuid(name[4:]) not in read}
    if len({uuid for one in recordings for uuid in one.gpus}) >= _allotted(recordings):
        absent.pop(UNSEEN, None)
    return replace(energy, components=components, absent=absent, notes=tuple(notes))


def _allotted(recordings: Sequence[HostRecording]) -> int:
    """Return how many GPUs Slurm gave the job on a host."""
    events = (event for one in recordings for event in one.trace.events)
    texts = (str(event.get("gpus_on_host")) for event in events if event.get("event") == "joined")
    return max((int(text) for text in texts if text.isdecimal()), default=0)


def _energy(recordings: Sequence[HostRecording], windows: Sequence[Window]) -> Energy:
    """Compute the energy of a host in these windows, each moment once and from one recording.

    Where recordings overlap, because processes did not find each other, the first one is used.
    """
    times = WindowUnion.of(windows)
    owners: list[tuple[int, HostRecording]] = []
    covered_ns = 0
    for one in recordings:
        if one.whole.stop_ns > covered_ns or not owners:
            owners.append((max(one.whole.start_ns, covered_ns) if owners else 0, one))
            covered_ns = one.whole.stop_ns
    ends_ns = [*(begin_ns for begin_ns, _ in owners[1:]), _END_OF_TIME_NS]
    energies: list[Energy] = []
    for (begin_ns, one), end_ns in zip(owners, ends_ns, strict=True):
        own = times.within(begin_ns, end_ns)
        if own is not None:
            energies.append(energy_of_union(one.estimator, own))
    return total(energies)


def _missing(jobs: Sequence[BatchJob | None], launched: Sequence[Launch]) -> Iterator[str]:
    """Describe the ranks and hosts of each start of the job that left no recording."""
    hosts: dict[BatchJob, dict[str, None]] = {}
    for job in jobs:
        if job is not None and job.hosts:
            # Steps and hosts of a job differ in nothing else.
            hosts.setdefault(replace(job, step=None, host=""), {})[job.host] = None
    for job, recorded in hosts.items():
        absent_hosts = [host for host in job.hosts if host not in recorded]
        if absent_hosts:
            yield (
                f"no recording of {join_words(absent_hosts)} "
                f"({len(job.hosts)} hosts in Slurm's job {job.id})"
            )
    launches = dict.fromkeys(launched)
    of_job = attrgetter("launcher", "job")
    for (launcher, _), group in groupby(sorted(launches, key=of_job), key=of_job):
        several = list(group)
        for what, sizes, numbers in (
            ("rank", [one.world_size for one in several], {one.rank for one in several}),
            ("host", [one.nodes for one in several], {one.node for one in several}),
        ):
            size = max((one for one in sizes if one is not None), default=0)
            absent = [number for number in range(size) if number not in numbers]
            is_named = what == "host" and launcher == "slurm" and hosts
            if None not in numbers and absent and not is_named:
                yield f"no recording of {_numbered(what, absent)} (of {size})"


def _numbered(what: str, numbers: Sequence[int]) -> str:
    """Name numbered things.

    Example:
        >>> _numbered("rank", [2, 3, 7]), _numbered("host", [1])
        ('ranks 2 to 3 and 7', 'host 1')
    """
    stretches = groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0])
    found = [[number for _, number in stretch] for _, stretch in stretches]
    texts = [f"{one[0]} to {one[-1]}" if len(one) > 1 else str(one[0]) for one in found]
    return f"{what}{'s' if len(numbers) > 1 else ''} {join_words(texts)}"
