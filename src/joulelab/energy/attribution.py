"""Attribution of a shared machine's energy: which part is the job's, and which GPUs are.

*Net of idle* the energy is divided like use: CPU time; time with a kernel running on a GPU, as the
driver reports it by process; memory in RAM times time. That would be exact if every second of use
drew the same power. It does not, so the interval is as wide as seconds of use differ: if a second
of one process may draw ``r`` times as much as one of another, a job with use ``u`` next to others
with ``o`` caused between ``u / (u + r o)`` and ``u / (u + o / r)`` (:data:`POWER_RATIO`).

*Idle power* serves every user and is caused by none. The estimate divides it like use, too, so that
the parts of all users add up to the whole; the lower bound leaves it out, because it would have
been drawn without the job.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, overload

import numpy as np

from joulelab.arrays import Floats
from joulelab.recording.trace import Trace
from joulelab.sensors.sensor import Quantity
from joulelab.validation import NotNegative

METHODS = {"cpu": "CPU time", "dram": "resident memory", "gpu": "SM utilisation"}
POWER_RATIO = {"cpu": 2.0, "gpu": 2.9}
"""How much more a second of one program's use may draw than one of another's (95 %).

GPU: measured. Of 16 models in training and inference on an H100, watts net of idle per unit of SM
utilisation go from 101 to 441; 95 % of all pairs are within a factor of 2.9.
CPU: a bound of this project, from threads that wait for memory to those that fill vector units."""
NEGLIGIBLE = 0.05  # If the others' part of all use is below this, the job counts as alone.
NEGLIGIBLE_LOAD = {"cpu": 0.05, "gpu": 0.01}
"""Also if the others use less than this part of one hardware thread or of the GPU all the time."""
TICKS_S = 0.03  # Or less than three kernel ticks (USER_HZ, proc(5)) between two samples.
MIN_SAMPLED = 0.5  # If less of a span than this part was sampled, its share is unknown.
SAMPLES_BEYOND = 2.0  # Use is extrapolated by this many samples on either side of the recording.
MAX_NAMED = 5
ROUNDING = 1e-6

NOT_USED = "not used by this job"
ALSO_USED = "other processes also used"
VISIBILITY_HINT = "let the job's processes on a host see each other's GPUs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """The job's part of a component's net energy, 0 to 1."""

    fraction: NotNegative  # The estimate.
    low: NotNegative  # The lower end of its 95 % interval.
    high: NotNegative  # The upper end.
    method: str  # What it was estimated from, for example "CPU time".
    users: tuple[str, ...] = ()  # Other processes that used the component, the busiest first.

    @property
    def is_whole(self) -> bool:
        """Whether the job was alone, or other processes' use was negligible."""
        return self.low == 1


@dataclass(frozen=True)
class Shares(Sequence[Share | None]):
    """The shares of many spans, as columns. Shape: (spans,)."""

    fraction: Floats  # NaN: unknown.
    low: Floats
    high: Floats
    method: str = ""
    users: tuple[str, ...] = ()

    @classmethod
    def unknown(cls, n: int) -> Shares:
        """Return unknown shares of a number of spans."""
        unknown = np.broadcast_to(math.nan, n)
        return cls(unknown, unknown, unknown)

    def __len__(self) -> int:
        return len(self.fraction)

    @overload
    def __getitem__(self, i: int) -> Share | None: ...
    @overload
    def __getitem__(self, i: slice) -> Shares: ...
    def __getitem__(self, i: int | slice) -> Share | Shares | None:
        if isinstance(i, slice):
            return replace(self, fraction=self.fraction[i], low=self.low[i], high=self.high[i])
        if math.isnan(self.fraction[i]):
            return None
        return self._share(float(self.fraction[i]), float(self.low[i]), float(self.high[i]))

    def examples(self) -> list[Share | None]:
        """Return one share of each kind: unknown, the whole, and a part."""
        kind = np.where(np.isnan(self.fraction), 0, np.where(self.low == 1, 1, 2))
        _, first = np.unique(kind, return_index=True)
        return [self[int(np.flatnonzero(kind == kind[i])[-1])] for i in np.sort(first)]

    def combined(self, gross_j: Floats) -> Share | None:
        """Combine the shares by the spans' energies; ``None`` if one is unknown.

        Two users differ in the same way in all spans, so that bounds add up like estimates.
        """
        if np.isnan(self.fraction).any():
            return None
        if np.all(self.low == 1):
            return self[0]
        weights = np.maximum(gross_j, 0.0)
        whole = math.fsum(weights.tolist())
        if whole <= 0:
            weights, whole = np.ones(len(self)), float(len(self))
        return self._share(
            *(
                math.fsum((weights * column).tolist()) / whole
                for column in (self.fraction, self.low, self.high)
            )
        )

    def _share(self, fraction: float, low: float, high: float) -> Share:
        users = () if low == 1 else self.users
        return Share(fraction=fraction, low=low, high=high, method=self.method, users=users)


def combine_shares(shares: Sequence[Share | None], gross_j: Sequence[float]) -> Share | None:
    """Combine the shares of several spans by their energies; see :meth:`Shares.combined`."""
    known = [share for share in shares if share is not None]
    if len(known) < len(shares):
        return None
    columns = ((share.fraction, share.low, share.high) for share in known)
    users = tuple(dict.fromkeys(user for share in known for user in share.users))
    fraction, low, high = np.array(list(columns)).T
    return Shares(fraction, low, high, known[0].method, users).combined(np.array(gross_j))


class Attribution:
    """The job's share of each component, if :mod:`joulelab.sensors.sharing` recorded its use."""

    def __init__(self, trace: Trace) -> None:
        self._use: dict[str, _UseCounters] = {}
        self._reasons: dict[str, str] = {}
        for component, (use, job_use) in _use_channels(trace).items():
            counters = _UseCounters.of(trace, use, job_use)
            if counters is not None:
                self._use[component] = counters
            for event in trace.events:
                if event.get("event") == "gap" and event.get("channel") == use:
                    self._reasons[component] = str(event["reason"])
        self._others = other_processes(trace)

    def shares(self, component: str, times_s: Floats) -> Shares:
        """Return the job's share, if known, for each start and stop. Shape: (spans, 2)."""
        kind = component.partition(":")[0]
        if kind == "dram":
            found = self._by_memory(times_s)
        else:
            found = self._by_use(_recorded_as(component), times_s)
        if found is None:
            return Shares.unknown(len(times_s))
        users = self._others.get(_recorded_as(component))
        return Shares(*found, METHODS[kind], users.names[:MAX_NAMED] if users else ())

    def use(self, component: str, times_s: Floats) -> Used | None:
        """Return the use of a component in each span, if it was recorded. Shape: (spans, 2)."""
        counters = self._use.get(_recorded_as(component))
        return None if counters is None else counters.within(times_s)

    def note(self, component: str, share: Share | None) -> str:
        """Describe a component's other users in the recording, or why its share is unknown."""
        name = _recorded_as(component)
        if name == "dram" or (share is not None and share.fraction == 1):
            return ""
        label = "the CPU" if name == "cpu" else name
        if share is not None:
            users = self._others.get(name)
            return f"{ALSO_USED} {label}{f': {users}' if users else ''}"
        reason = self._reasons.get(name)
        if reason is None and name in self._use:
            reason = "processes were sampled in too little of the span"
        return f"{label}: this job's share is unknown: {reason}" if reason else ""

    def _by_use(self, name: str, times_s: Floats) -> tuple[Floats, Floats, Floats] | None:
        """Return fractions (NaN: unknown), lower and upper ends. Shapes: (spans,) each."""
        if name not in self._use:
            return None
        kind = name.partition(":")[0]
        ratio = POWER_RATIO[kind]
        used = self._use[name].within(times_s)
        job_s, others_s, unseen = used.job_s, used.all_s - used.job_s, used.unseen
        load = np.maximum(
            NEGLIGIBLE_LOAD[kind], (TICKS_S if kind == "cpu" else 0.0) / used.sampled_over_s
        )
        alone = (others_s <= NEGLIGIBLE * used.all_s) | (others_s <= load * used.known_s)
        job_s = np.where(alone, 1.0, job_s)
        others_s = np.where(alone, 0.0, others_s)
        fraction = job_s / (job_s + others_s)
        low = job_s / (job_s + ratio * others_s) * (1 - unseen)
        high = job_s / (job_s + others_s / ratio) * (1 - unseen) + unseen
        fraction[unseen > 1 - MIN_SAMPLED] = np.nan
        return fraction, low, high

    def _by_memory(self, times_s: Floats) -> tuple[Floats, Floats, Floats] | None:
        """Like :meth:`_by_use`, by memory in RAM; the work on it draws as much power."""
        by_time = self._by_use("cpu", times_s)
        if by_time is None or "dram" not in self._use:
            return None
        fraction, low, high = by_time
        used = self._use["dram"].within(times_s)
        resident = used.job_s / np.maximum(used.all_s, np.finfo(float).tiny)
        # A job that works alone causes all of the memory's energy, whatever else is in it.
        fraction = np.where((low == 1) | np.isnan(fraction), fraction, resident)
        return fraction, np.minimum(low, fraction), np.maximum(high, fraction)


class Used(NamedTuple):
    """Use in several spans. Shapes: (spans,)."""

    all_s: Floats  # By all processes.
    job_s: Floats  # By the job.
    known_s: Floats  # Time for which use is known.
    sampled_over_s: Floats  # From the last sample before the span to the first after it.
    unseen: Floats  # Part of the span for which use is unknown, 0 to 1.


class _UseCounters(NamedTuple):
    """Use since the recording began, at each sample. Shapes: (samples,), at least two."""

    t_s: Floats  # CLOCK_MONOTONIC
    all_s: Floats  # By all processes.
    job_s: Floats  # By the job.
    known_s: Floats  # Time for which use is known.
    pace_s: float  # Samples are this far apart, or less.

    @classmethod
    def of(cls, trace: Trace, use: int, job_use: int) -> _UseCounters | None:
        """Read two channels; ``None`` if there are too few samples."""
        everyone, job = trace.series[use], trace.series[job_use]
        count = min(everyone.t_ns.size, job.t_ns.size)
        known = np.isfinite(everyone.value[:count]) & np.isfinite(job.value[:count])
        if known.sum() < 2:
            return None
        t_s = np.asarray(everyone.t_ns[:count] * 1e-9, dtype=np.float64)
        all_s, job_s = (
            np.maximum.accumulate(np.where(known, one.value[:count], 0.0))
            for one in (everyone, job)
        )
        known_s = np.cumsum(np.where(known, np.diff(t_s, prepend=t_s[0]), 0.0))
        stated = (event["pace_s"] for event in trace.events if event.get("event") == "looks")
        pace_s = max(stated, default=trace.channels[use].update_period_s)
        return cls(t_s, all_s, job_s, known_s, pace_s)

    def within(self, times_s: Floats) -> Used:
        """Return the use in each span: even between samples, extrapolated from the nearest two."""
        start, stop = times_s[:, 0], times_s[:, 1]
        first, last = self.t_s[0], self.t_s[-1]
        near = SAMPLES_BEYOND * self.pace_s
        missed = np.maximum(0, np.minimum(stop, first - near) - start)
        missed += np.maximum(0, stop - np.maximum(start, last + near))
        unseen = missed / np.maximum(stop - start, np.finfo(float).tiny)
        begin, end = np.clip(start, first, last), np.clip(stop, first, last)
        before = np.clip(np.searchsorted(self.t_s, begin, side="right") - 1, 0, self.t_s.size - 2)
        after = np.maximum(np.searchsorted(self.t_s, end, side="left"), before + 1)
        outside = begin == end
        begin = np.where(outside, self.t_s[before], begin)
        end = np.where(outside, self.t_s[after], end)
        all_s, job_s, known_s = (
            np.interp(end, self.t_s, values) - np.interp(begin, self.t_s, values)
            for values in (self.all_s, self.job_s, self.known_s)
        )
        unknown = 1 - (1 - np.minimum(unseen, 1)) * known_s / (end - begin)
        sampled_over_s = self.t_s[after] - self.t_s[before]
        unknown = np.where(unknown < ROUNDING, 0.0, unknown)
        return Used(all_s, job_s, known_s, sampled_over_s, unknown)


def _recorded_as(component: str) -> str:
    """Return the component by which use is recorded: processors and memory are one each."""
    kind = component.partition(":")[0]
    return kind if kind in ("cpu", "dram") else component


def _use_channels(trace: Trace) -> dict[str, tuple[int, int]]:
    """Return the channels of everyone's use and of the job's, by component."""
    found: dict[str, dict[Quantity, int]] = {}
    use, job_use = Quantity.USE, Quantity.JOB_USE
    for i, channel in enumerate(trace.channels):
        known = channel.component.partition(":")[0] in METHODS
        if known and channel.quantity in (use, job_use):
            found.setdefault(channel.component, {})[channel.quantity] = i
    return {name: (one[use], one[job_use]) for name, one in found.items() if len(one) == 2}


class Users(NamedTuple):
    """Other processes that used a component, the busiest first, and how many are not named."""

    names: tuple[str, ...]
    unnamed: int

    def __str__(self) -> str:
        more = len(self.names[MAX_NAMED:]) + self.unnamed
        return ", ".join(self.names[:MAX_NAMED]) + (f" and {more} more" if more else "")


def other_processes(
    trace: Trace, start_ns: float = -math.inf, stop_ns: float = math.inf, *, worked: bool = True
) -> dict[str, Users]:
    """Name the other processes that used each component between two times, CLOCK_MONOTONIC.

    If they ``worked`` is false, name those that have a context on a GPU and did nothing.
    """
    used: dict[str, dict[str, float]] = {}
    unnamed: dict[str, int] = {}
    for event in trace.events:
        if event.get("event") != "others":
            continue
        if event.get("since_ns", start_ns) <= stop_ns and event["t_ns"] >= start_ns:
            component = event["component"]
            for pid, name, used_s in event["used"]:
                if (used_s > 0) is worked:
                    unnamed[component] = max(unnamed.get(component, 0), event["more"])
                    names, label = used.setdefault(component, {}), f"{name} (pid {pid})"
                    names[label] = names.get(label, 0.0) + used_s
    return {
        component: Users(tuple(sorted(names, key=lambda name: -names[name])), unnamed[component])
        for component, names in used.items()
    }


UNSEEN = "gpu:unseen"
"""Stands for GPUs that Slurm gave the job on a host and that its recorder does not see."""


@dataclass(slots=True)
class _Process:
    """A process of the job, as it was recorded."""

    rank: int | None
    visible: list[str] | None  # Components that it may use, as CUDA counts them, if known.
    gpus_on_host: int  # How many Slurm gave the job on this host; 0 if unknown.
    contexts: dict[int, str | None] = field(default_factory=dict)  # CUDA's indices and UUIDs.
    present: bool = True  # It has not left the recording.


def foreign_gpus(trace: Trace) -> dict[str, str]:
    """Return the GPUs that are not counted, with the reason: not the job's, or not recorded.

    A process uses the GPUs on which PyTorch reports a CUDA context. One that reports none may use
    all that it sees, as long as it is there, or as long as no other process of its rank reports
    any. Without a job in the trace every GPU counts. Keys are components; for a GPU that the
    recorder does not see, its UUID or index.
    """
    recorded: Mapping[str, list[str]] = trace.header.get("gpus") or {}
    processes = _processes(trace) if recorded else []
    if not processes:
        return {}
    components = {bare_uuid(uuid): name for name, uuids in recorded.items() for uuid in uuids}
    reporting = {process.rank for process in processes if process.contexts}
    used: set[str] = set()
    reasons: dict[str, str] = {}
    for process in processes:
        for index, uuid in process.contexts.items():
            component = _component(components, process, index, uuid)
            if component is None:
                reasons[f"gpu:{uuid or index}"] = (
                    f"used by rank {process.rank}, but invisible to the recorder, which another "
                    f"process of the job started; {VISIBILITY_HINT}"
                )
            else:
                used.add(component)
        # A program that wraps a process of the job has its rank.
        silent = process.rank not in reporting and not process.contexts
        if silent and (process.present or not reporting):
            used.update(recorded if process.visible is None else process.visible)
    allotted = max(process.gpus_on_host for process in processes)
    if allotted > len(recorded) and not reasons:
        reasons[UNSEEN] = (
            f"the job has {allotted} GPUs on this host, but the recorder sees only "
            f"{len(recorded)}; {VISIBILITY_HINT}"
        )
    return reasons | {name: NOT_USED for name in recorded if name not in used}


def _processes(trace: Trace) -> list[_Process]:
    """Return the job's processes, in the order in which they joined."""
    found: list[_Process] = []
    latest: dict[int, _Process] = {}
    for event in trace.events:
        kind, pid = event.get("event"), event.get("pid")
        if kind == "joined" and event.get("launch"):
            launch, allotted = event["launch"], event.get("gpus_on_host") or ""
            rank = launch.local_rank if launch.rank is None else launch.rank
            process = _Process(
                rank=rank,
                visible=event.get("gpus"),
                gpus_on_host=int(allotted) if allotted.isdecimal() else 0,
            )
            found.append(process)
            latest[event["pid"]] = process
        elif pid in latest and kind == "cuda":
            latest[pid].contexts |= dict(event["gpus"])
        elif pid in latest and kind == "left":
            latest[pid].present = False
    return found


def _component(
    components: Mapping[str, str], process: _Process, index: int, uuid: str | None
) -> str | None:
    """Find a GPU's component by its UUID or, where PyTorch gives none, by CUDA's index."""
    if uuid is not None:
        return components.get(bare_uuid(uuid))
    visible = process.visible or []
    return visible[index] if index < len(visible) else None


def bare_uuid(uuid: str) -> str:
    """Return a UUID's digits alone: NVML and PyTorch write the rest differently."""
    return uuid.removeprefix("GPU-").removeprefix("MIG-").replace("-", "").lower()
