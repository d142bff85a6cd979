"""What part of a shared machine's energy is the job's, from who used what meanwhile.

*Net of idle* the energy is divided like use: CPU time; time with a kernel running on a GPU, as the
driver tells it by process; memory in RAM times time. That is right where every second of use draws
the same, which it does not, so the interval is as wide as seconds of use differ: where a second of
the one may draw ``r`` times as much as one of the other, a job with use ``u`` beside others with
``o`` did between ``u / (u + r o)`` and ``u / (u + o / r)`` (:data:`DIFFER`).

*The idle part* is drawn for all and by nobody's doing. The estimate divides it like use, too, so
that the parts of all users add up to the whole; the lower bound leaves it out, for it would have
been drawn without the job.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from joulelab.energy.share import Share
from joulelab.recording.trace import Trace
from joulelab.sensors.sensor import Quantity

Floats = NDArray[np.float64]

METHODS = {"cpu": "CPU time", "dram": "resident memory", "gpu": "SM utilisation"}
DIFFER = {"cpu": 2.0, "gpu": 2.9}
"""How much more a second of one program's use may draw than one of another's (95 %).

GPU: measured. Of 16 models in training and inference on an H100, watts net of idle per unit of SM
utilisation go from 101 to 441; 95 % of all pairs are within a factor of 2.9.
CPU: a bound of this project, from threads that wait for memory to those that fill vector units."""
LITTLE = 0.05
"""Others who do less than this part of all use leave the job alone."""
LITTLE_S = {"cpu": 0.05, "gpu": 0.01}
"""And so do those who take less than this of one hardware thread, or of the GPU, all the time."""
TICKS_S = 0.03
"""Or less than three ticks of the kernel's (USER_HZ, proc(5)) from one look to another."""
LEAST_SEEN = 0.5
"""Below this share of a span in which processes were looked at, nothing is said of them."""
LOOKS = 2.0
"""What was seen is taken to go on for so many looks, at their stated pace, before the first and
after the last."""
NAMED = 5
ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class _Fractions:
    """Shares of several spans; NaN where they are not known. Shapes: (spans,)."""

    fraction: Floats
    low: Floats
    high: Floats


class Shares:
    """The job's share of each component, in any spans of a trace.

    Args:
        trace: With the channels of :mod:`joulelab.sensors.sharing`. Without them nothing is known.

    Example:
        >>> from joulelab.sensors.sensor import Channel, Provenance, Reading
        >>> channels = [Channel(component="cpu", quantity=quantity, source="proc.cpu_time",
        ...     provenance=Provenance.MEASURED, update_period_s=1.0)
        ...     for quantity in (Quantity.USE, Quantity.JOB_USE)]
        >>> trace = Trace.of(channels, [Reading(t * 10**9, k, t * (1.0 if k else 1.5))
        ...     for t in range(10) for k in (0, 1)])
        >>> Shares(trace).of("cpu:0", np.array([[2.0, 5.0]]))[0].fraction
        0.6666666666666666
    """

    def __init__(self, trace: Trace) -> None:
        self._counters: dict[str, _Counters] = {}
        self._reasons: dict[str, str] = {}
        for component, (use, job_use) in _pairs(trace).items():
            counters = _Counters.of(trace, use, job_use)
            if counters is not None:
                self._counters[component] = counters
            told = [
                str(event["reason"])
                for event in trace.events
                if event.get("event") == "gap" and event.get("channel") == use
            ]
            if told:
                self._reasons[component] = told[-1]
        self._others = _others(trace)

    def of(self, component: str, times_s: Floats) -> list[Share | None]:
        """The job's share of a component's net energy in each span; ``None``: it is not known.

        Args:
            component: As ``"cpu:0"``.
            times_s: Starts and stops, CLOCK_MONOTONIC. Shape: (spans, 2).
        """
        kind = component.partition(":")[0]
        if kind == "dram":
            found = self._of_memory(times_s)
        else:
            found = self._by_use(_name(component), times_s)
        if found is None:
            return [None] * len(times_s)
        return _each(found, METHODS[kind])

    def note(self, component: str, share: Share | None) -> str:
        """What is to be said of a component's other users; empty where there is nothing.

        Names are those of the whole recording, so that it is one text for all its spans.
        """
        name = _name(component)
        if name == "dram" or (share is not None and share.fraction == 1):
            return ""
        shown = "the CPU" if name == "cpu" else name
        if share is not None:
            others = self._others.get(name, "processes that were not seen")
            return f"{shown} was used by others, too: {others}"
        reason = self._reasons.get(name)
        if reason is None and name in self._counters:
            reason = "processes were looked at in too little of the span"
        return f"{shown}: this job's share cannot be told: {reason}" if reason else ""

    def _by_use(self, name: str, times_s: Floats) -> _Fractions | None:
        counters = self._counters.get(name)
        if counters is None:
            return None
        kind = name.partition(":")[0]
        differ = DIFFER[kind]
        used = counters.within(times_s)
        others_s, unseen = used.all_s - used.job_s, used.unseen
        little = np.maximum(LITTLE_S[kind], (TICKS_S if kind == "cpu" else 0.0) / used.looked_s)
        alone = (others_s <= LITTLE * used.all_s) | (others_s <= little * used.told_s)
        job_s = np.where(alone, 1.0, used.job_s)
        others_s = np.where(alone, 0.0, others_s)
        fraction = job_s / (job_s + others_s)
        low = job_s / (job_s + differ * others_s) * (1 - unseen)
        high = job_s / (job_s + others_s / differ) * (1 - unseen) + unseen
        fraction[unseen > 1 - LEAST_SEEN] = np.nan
        return _Fractions(fraction, low, high)

    def _of_memory(self, times_s: Floats) -> _Fractions | None:
        """By memory in RAM; what draws is as much the work on it: the interval spans both."""
        by_time = self._by_use("cpu", times_s)
        memory = self._counters.get("dram")
        if by_time is None or memory is None:
            return None
        used = memory.within(times_s)
        resident = used.job_s / np.maximum(used.all_s, np.finfo(float).tiny)
        # Who is alone at work is alone with the memory's energy, whatever else lies in it.
        alone = by_time.low == 1
        fraction = np.where(alone | np.isnan(by_time.fraction), by_time.fraction, resident)
        return _Fractions(
            fraction, np.minimum(by_time.low, fraction), np.maximum(by_time.high, fraction)
        )


@dataclass(frozen=True, slots=True)
class _Used:
    """What was used in several spans. Shapes: (spans,).

    Attributes:
        all_s: By all.
        job_s: By the job.
        told_s: In which time, as far as it could be told.
        looked_s: From the last look before the span to the first after it.
        unseen: The part of the span of which nothing could be told, 0 to 1.
    """

    all_s: Floats
    job_s: Floats
    told_s: Floats
    looked_s: Floats
    unseen: Floats


@dataclass(frozen=True, slots=True)
class _Counters:
    """What was used since the recording began, at each look. Shapes: (looks,).

    Attributes:
        t_s: CLOCK_MONOTONIC; at least two.
        all_s: By all.
        job_s: By the job.
        told_s: For how long it could be told.
        pace_s: Looks are that far apart, or less.
    """

    t_s: Floats
    all_s: Floats
    job_s: Floats
    told_s: Floats
    pace_s: float

    @classmethod
    def of(cls, trace: Trace, use: int, job_use: int) -> _Counters | None:
        """From two channels; ``None`` where there are too few looks."""
        everybody, job = trace.series[use], trace.series[job_use]
        count = min(everybody.t_ns.size, job.t_ns.size)
        told = np.isfinite(everybody.value[:count]) & np.isfinite(job.value[:count])
        if told.sum() < 2:
            return None
        t_s = np.asarray(everybody.t_ns[:count] * 1e-9, dtype=np.float64)
        all_s, job_s = (
            np.maximum.accumulate(np.where(told, one.value[:count], 0.0))
            for one in (everybody, job)
        )
        since_last_s = np.diff(t_s, prepend=t_s[0])
        told_s = np.cumsum(np.where(told, since_last_s, 0.0))
        stated = (event["pace_s"] for event in trace.events if event.get("event") == "looks")
        pace_s = max(stated, default=trace.channels[use].update_period_s)
        return cls(t_s, all_s, job_s, told_s, pace_s)

    def within(self, times_s: Floats) -> _Used:
        """What all and the job used in each span.

        Use is even from one look to the next. What lies beyond the looks is as the time between
        the two that are nearest.

        Args:
            times_s: Starts and stops. Shape: (spans, 2).
        """
        start, stop = times_s[:, 0], times_s[:, 1]
        first, last = self.t_s[0], self.t_s[-1]
        near = LOOKS * self.pace_s
        missed = np.maximum(0, np.minimum(stop, first - near) - start)
        missed += np.maximum(0, stop - np.maximum(start, last + near))
        unseen = missed / np.maximum(stop - start, np.finfo(float).tiny)
        begin, end = np.clip(start, first, last), np.clip(stop, first, last)
        before = np.clip(np.searchsorted(self.t_s, begin, side="right") - 1, 0, self.t_s.size - 2)
        after = np.maximum(np.searchsorted(self.t_s, end, side="left"), before + 1)
        outside = begin == end
        begin = np.where(outside, self.t_s[before], begin)
        end = np.where(outside, self.t_s[after], end)
        all_s, job_s, told_s = (
            np.interp(end, self.t_s, values) - np.interp(begin, self.t_s, values)
            for values in (self.all_s, self.job_s, self.told_s)
        )
        untold = 1 - (1 - np.minimum(unseen, 1)) * told_s / (end - begin)
        return _Used(
            all_s,
            job_s,
            told_s,
            self.t_s[after] - self.t_s[before],
            # What rounding leaves of nothing is nothing.
            np.where(untold < ROUNDING, 0.0, untold),
        )


def _each(found: _Fractions, method: str) -> list[Share | None]:
    """A share for each span; those of spans in which the job was alone are one and the same."""
    whole = Share.whole(method)
    shares: list[Share | None] = []
    for fraction, low, high in zip(
        found.fraction.tolist(), found.low.tolist(), found.high.tolist(), strict=True
    ):
        if math.isnan(fraction):
            shares.append(None)
        elif low == 1:
            shares.append(whole)
        else:
            shares.append(Share(fraction=fraction, low=low, high=high, method=method))
    return shares


def _name(component: str) -> str:
    """The component by which use is recorded: processors and memory are one."""
    kind = component.partition(":")[0]
    return kind if kind in ("cpu", "dram") else component


def _pairs(trace: Trace) -> dict[str, tuple[int, int]]:
    """The channels of use and of the job's use, by component."""
    found: dict[str, dict[Quantity, int]] = {}
    for i, channel in enumerate(trace.channels):
        known = channel.component.partition(":")[0] in METHODS
        if known and channel.quantity in (Quantity.USE, Quantity.JOB_USE):
            found.setdefault(channel.component, {})[channel.quantity] = i
    return {
        name: (pair[Quantity.USE], pair[Quantity.JOB_USE])
        for name, pair in found.items()
        if len(pair) == 2
    }


def _others(trace: Trace) -> dict[str, str]:
    """By component: who used it beside the job, who did most first."""
    used: dict[str, dict[str, float]] = {}
    unnamed: dict[str, int] = {}
    for event in trace.events:
        if event.get("event") == "others":
            component = event["component"]
            unnamed[component] = max(unnamed.get(component, 0), event["more"])
            names = used.setdefault(component, {})
            for pid, name, used_s in event["used"]:
                shown = f"{name} (pid {pid})"
                names[shown] = names.get(shown, 0.0) + used_s
    said = {}
    for component, names in used.items():
        first = sorted(names, key=lambda name: -names[name])[:NAMED]
        more = len(names) - len(first) + unnamed[component]
        said[component] = ", ".join(first) + (f" and {more} more" if more else "")
    return said
