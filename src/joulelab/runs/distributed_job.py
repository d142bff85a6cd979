"""A job's recordings, host by host, and the energies of its spans over all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from joulelab.energy.baseline import Baseline
from joulelab.energy.energy import ComponentEnergy, Energy, total
from joulelab.energy.estimator import EnergyEstimator, Window
from joulelab.energy.union import Times, energy_of_times
from joulelab.recording.launcher import Launch
from joulelab.recording.trace import Trace
from joulelab.recording.trace_spans import TraceSpan, read_spans

END_OF_TIME_NS = 1 << 62
"""No clock comes to it."""


@dataclass(frozen=True)
class HostRecording:
    """One recording of one host.

    Attributes:
        directory: Where its trace is.
        trace: Its readings and the spans of all ranks there, on this host's clock.
        baseline: Idle power of the host.
    """

    directory: Path
    trace: Trace
    baseline: Baseline | None = None

    @property
    def host(self) -> str:
        """The host's name."""
        return str(self.trace.header["host"])

    @property
    def boot_id(self) -> str:
        """Names the time since the host last started: its clock means nothing beyond."""
        return str(self.trace.header["boot_id"])

    @cached_property
    def launches(self) -> tuple[Launch, ...]:
        """The places in the job of the processes that were recorded."""
        told = (event["launch"] for event in self._of_kind("joined") if event["launch"])
        return tuple(dict.fromkeys(Launch(**launch) for launch in told))

    @cached_property
    def spans(self) -> tuple[TraceSpan, ...]:
        """The spans of every process that ended, in the order in which they began."""
        return tuple(span for span in read_spans(self.trace.events) if span.stop_ns is not None)

    @cached_property
    def whole(self) -> Window:
        """From when the first process joined to the last reading, or to when the last one left."""
        joined_ns = [int(event["t_ns"]) for event in self._of_kind("joined")]
        left_ns = [int(event["t_ns"]) for event in self._of_kind("left")]
        last_ns = [int(one.t_ns[-1]) for one in self.trace.series if one.t_ns.size]
        start_ns = min(joined_ns, default=int(self.trace.header["start_ns"]))
        stop_ns = min([max(last_ns, default=start_ns), *([max(left_ns)] if left_ns else [])])
        return Window(start_ns, max(start_ns, stop_ns))

    def windows(self, name: str, **attributes: Any) -> list[Window]:
        """When its processes were in spans of that name that have all these attributes."""
        return [
            span.window
            for span in self.spans
            if span.name == name and attributes.items() <= span.attributes.items()
        ]

    @cached_property
    def accounts(self) -> EnergyEstimator:
        """Works out energies on this host's clock."""
        return EnergyEstimator(self.trace, self.baseline)

    def _of_kind(self, kind: str) -> Iterable[Mapping[str, Any]]:
        return (event for event in self.trace.events if event.get("event") == kind)


@dataclass(frozen=True)
class DistributedJob:
    """A job on one host or several.

    Each host's recordings are accounted by its own clock, and only energies are added up: clocks
    that differ do not matter.

    Attributes:
        recordings: In order of hosts' names; several of one host where the job was started again.
        missing: What should be there and is not, in words: ranks or hosts that left no recording.
            Energies are without them.
    """

    recordings: tuple[HostRecording, ...]
    missing: tuple[str, ...] = field(default=())

    @property
    def hosts(self) -> dict[str, list[HostRecording]]:
        """The recordings of each host, in order of time. One that was started again is another."""
        boots: dict[str, list[str]] = {}
        for one in self.recordings:
            known = boots.setdefault(one.host, [])
            if one.boot_id not in known:
                known.append(one.boot_id)
        found: dict[str, list[HostRecording]] = {}
        for one in self.recordings:
            again = boots[one.host].index(one.boot_id)
            found.setdefault(f"{one.host}#{again + 1}" if again else one.host, []).append(one)
        return found

    @property
    def doubled(self) -> tuple[str, ...]:
        """In words, hosts that are one machine, as containers of it: its energies count twice."""
        names: dict[str, dict[str, None]] = {}
        for one in self.recordings:
            names.setdefault(one.boot_id, {})[one.host] = None
        return tuple(
            f"{' and '.join(hosts)} are one machine, and what both recorded of it counts twice"
            for boot_id, hosts in names.items()
            if boot_id and len(hosts) > 1
        )

    @property
    def ranks(self) -> tuple[int, ...]:
        """The ranks that were recorded."""
        told = {launch.rank for one in self.recordings for launch in one.launches}
        return tuple(sorted(rank for rank in told if rank is not None))

    @property
    def names(self) -> tuple[str, ...]:
        """The names of spans that ended, in the order in which they appear."""
        return tuple(dict.fromkeys(span.name for one in self.recordings for span in one.spans))

    @property
    def total(self) -> Energy:
        """The energy of the whole job, on each host from its first process's start to the end."""
        return self._sum(
            {
                host: _energy(recordings, [one.whole for one in recordings])
                for host, recordings in self.hosts.items()
            }
        )

    def energy(self, name: str, **attributes: Any) -> Energy:
        """The energy of the time in which at least one rank was in such a span, over all hosts.

        Components are named with their hosts, as ``"gpu:0@node1"``; the length is that of the host
        on which it was longest.

        Args:
            name: The spans'.
            **attributes: Those that the spans must have, as ``index=3``.

        Raises:
            ValueError: There is no such span.
        """
        energies: dict[str, Energy] = {}
        without: list[str] = []
        for host, recordings in self.hosts.items():
            windows = [window for one in recordings for window in one.windows(name, **attributes)]
            if windows:
                energies[host] = _energy(recordings, windows)
            else:
                without.append(f"{host} has no span {name!r}{_such(attributes)}")
        if not energies:
            known = ", ".join(self.names) or "none"
            raise ValueError(f"no span {name!r}{_such(attributes)} on any host; known: {known}")
        return self._sum(energies, without)

    def _sum(self, energies: Mapping[str, Energy], without: Sequence[str] = ()) -> Energy:
        """The sum over hosts. A component that was not measured on a host is absent there."""
        components: dict[str, ComponentEnergy] = {}
        absent: dict[str, str] = {}
        notes: list[str] = []
        for host, energy in energies.items():
            components |= {f"{name}@{host}": part for name, part in energy.components.items()}
            absent |= {f"{name}@{host}": why for name, why in energy.absent.items()}
            notes += [f"{host}: {note}" for note in energy.notes]
        return Energy(
            duration_s=max(energy.duration_s for energy in energies.values()),
            components=components,
            absent=absent,
            notes=(*notes, *without, *self.missing, *self.doubled),
        )


def _energy(recordings: Sequence[HostRecording], windows: Sequence[Window]) -> Energy:
    """The energy of a host in these windows, each time once and by one recording.

    Args:
        recordings: Of one clock, in order of time. Where two were made at once, as by processes
            that did not find each other, the one that began first has it.
        windows: On that clock; at least one.
    """
    times = Times.of(windows)
    owners: list[tuple[int, HostRecording]] = []
    covered_ns = 0
    for one in recordings:
        if one.whole.stop_ns > covered_ns or not owners:
            owners.append((max(one.whole.start_ns, covered_ns) if owners else 0, one))
            covered_ns = one.whole.stop_ns
    ends_ns = [*(begin_ns for begin_ns, _ in owners[1:]), END_OF_TIME_NS]
    energies: list[Energy] = []
    for (begin_ns, one), end_ns in zip(owners, ends_ns, strict=True):
        own = times.within(begin_ns, end_ns)
        if own is not None:
            energies.append(energy_of_times(one.accounts, own))
    return total(energies)


def _such(attributes: Mapping[str, Any]) -> str:
    return f" with {dict(attributes)}" if attributes else ""
