"""Run a search on real work, and state what it found, what it cost and when that pays back."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any, Protocol

from joulelab.energy.energy import Energy
from joulelab.errors import JoulelabError
from joulelab.format import count, duration, finite_or_none, join_words, number, quantity
from joulelab.sensors.sensor import Provenance
from joulelab.tune.knobs import knob_title, level_text, settings_text
from joulelab.tune.probes import Knob, Probe, Search, Settings
from joulelab.tune.result import Estimate, FrontPoint, Result

INTERRUPTED = "it was interrupted"


class UnmeasurableError(JoulelabError):
    """These settings cannot be measured; others may be."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A probe, the energy that it was made of, and the time it took with its preparation."""

    probe: Probe
    energy: Energy
    spent_s: float = math.nan


class Workload(Protocol):
    """Real work that can be measured at settings."""

    @property
    def unit(self) -> str:
        """A unit of its work, for example ``"sample"``."""

    @property
    def keeps_work(self) -> bool:
        """Whether the work of probes had to be done anyway."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader should know about its probes, in sentences without a full stop."""

    def measure(self, settings: Settings) -> Measured:
        """Measure a piece of work at some settings.

        Raises:
            UnmeasurableError: It cannot be done at these settings.
            WorkEndedError: There is no more work.
        """


class WorkEndedError(JoulelabError):
    """The work ended before the search did."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Settings that cannot be measured, and why."""

    settings: Settings
    reason: str

    def __str__(self) -> str:
        return f"{settings_text(self.settings)}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a search on real work found and cost."""

    result: Result  # Its result.
    unit: str  # A unit of work.
    measured: tuple[Measured, ...]  # The probes in their order.
    left_out: tuple[LeftOut, ...]  # Settings that cannot be measured.
    ended_early: str  # Why the search is not complete; empty if it is.
    cost_s: float  # Time that it took; NaN if the work of the probes had to be done anyway.
    cost_j: float  # Energy that it took; beyond the baseline's if the work had to be done anyway.
    notes: tuple[str, ...]  # What a reader should know, in sentences without a full stop.

    @property
    def baseline(self) -> Probe:
        """The means over the probes of the baseline."""
        probes = [one.probe for one in self.measured]
        return mean_probe([one for one in probes if one.settings == self.result.baseline])

    @property
    def is_better(self) -> bool:
        """Whether settings other than the baseline were chosen."""
        return self.result.settings != self.result.baseline

    @property
    def pays_back_after(self) -> float:
        """Units of work whose saving is the search's cost; NaN if nothing is saved."""
        saving_j = self.result.saving.value * self.baseline.energy_j
        if not (self.is_better and saving_j > 0):
            return math.nan
        return max(self.cost_j, 0.0) / saving_j

    @property
    def pays_back_s(self) -> float:
        """Time of that work at the chosen settings."""
        duration_s = (1 + self.result.slowdown.value) * self.baseline.duration_s
        return self.pays_back_after * duration_s

    def cost_text(self) -> str:
        """State what the search cost and when that pays back, in one sentence."""
        if math.isnan(self.cost_s):
            if self.cost_j <= 0:
                return "The search cost nothing: its probes did work that had to be done"
            text = f"The search took {quantity(self.cost_j, 'J')} more than the baseline would have"
        else:
            text = f"The search took {duration(self.cost_s)} and about {quantity(self.cost_j, 'J')}"
        if math.isnan(self.pays_back_after):
            return text
        units = number(self.pays_back_after)
        return f"{text}, and pays back after {units} {self.unit}s ({duration(self.pays_back_s)})"

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each probe, in their order: a table for ``joulelab tune --replay``."""
        return [
            {
                **one.probe.settings,
                "duration_s": one.probe.duration_s,
                "energy_j": one.probe.energy_j,
                "repeat": index,
            }
            for index, one in enumerate(self.measured)
        ]

    def to_json(self) -> dict[str, Any]:
        """Convert to the dictionary that ``joulelab tune --json`` prints."""
        data: dict[str, Any] = finite_or_none(
            self.result.to_json()
            | {
                "unit": self.unit,
                "left_out": [
                    {"settings": dict(one.settings), "reason": one.reason} for one in self.left_out
                ],
                "ended_early": self.ended_early,
                "cost_s": self.cost_s,
                "cost_j": self.cost_j,
                "pays_back_after": self.pays_back_after,
                "pays_back_s": self.pays_back_s,
                "notes": list(self.notes),
            }
        )
        return data


class Display(Protocol):
    """Shows a search while it runs."""

    def begin(self, settings: Settings) -> None:
        """Show that these settings are measured now."""

    def measured(self, probe: Probe, best: Result | None) -> None:
        """Show a probe, and the best settings so far once the baseline is known."""

    def left_out(self, what: LeftOut) -> None:
        """Show that settings cannot be measured."""


class BaselineSearch:
    """Measures the baseline once, and lists what a search would try."""

    def __init__(self, knobs: Sequence[Knob]) -> None:
        self._baseline = {knob.name: knob.baseline for knob in knobs}
        levels = []
        for knob in knobs:
            texts = [level_text(knob.name, level) for level in knob.levels]
            levels.append(f"{knob_title(knob.name)} {join_words(texts, 'or')}")
        self._reason = f"this was a dry run, and a search would try {', and '.join(levels)}"
        self._probe: Probe | None = None

    def next(self) -> Settings | None:
        """Return the baseline once."""
        return self._baseline if self._probe is None else None

    def add(self, probe: Probe) -> None:
        """Take its measurement."""
        self._probe = probe

    def leave_out(self, settings: Settings) -> None:
        """Do nothing: without the baseline there is no search."""

    def result(self) -> Result:
        """Return the baseline."""
        assert self._probe is not None
        same = Estimate(0.0, 0.0, 0.0)
        time, energy = (
            Estimate(one, one, one) for one in (self._probe.duration_s, self._probe.energy_j)
        )
        front = (FrontPoint(self._baseline, time, energy),)
        return Result(self._baseline, self._baseline, same, same, 1, front, self._reason)


def tune(
    search: Search,
    baseline: Settings,
    workload: Workload,
    display: Display,
    clock: Callable[[], float] = time.monotonic,
) -> Outcome:
    """Measure what a search proposes until it is over.

    An interrupt (Ctrl-C) or the end of the work ends the search early.

    Raises:
        JoulelabError: The baseline cannot be measured, or no energy is measured.
        KeyboardInterrupt: It was interrupted before the baseline was measured.
    """
    measured: list[Measured] = []
    left_out: list[LeftOut] = []
    ended_early = ""
    has_baseline = False
    began_s = clock()
    try:
        while (settings := search.next()) is not None:
            display.begin(settings)
            since_s = clock()
            try:
                found = workload.measure(settings)
            except UnmeasurableError as error:
                left_out.append(LeftOut(dict(settings), str(error)))
                if settings == baseline:
                    break
                display.left_out(left_out[-1])
                search.leave_out(settings)
                continue
            search.add(found.probe)
            # A run that was already over was found by the first call.
            spent_s = max(clock() - since_s, found.energy.duration_s)
            measured.append(replace(found, spent_s=spent_s))
            has_baseline = has_baseline or settings == baseline
            display.measured(found.probe, search.result() if has_baseline else None)
    except KeyboardInterrupt:
        ended_early = INTERRUPTED
    except WorkEndedError as error:
        ended_early = str(error)
    if not has_baseline and ended_early == INTERRUPTED:
        raise KeyboardInterrupt
    if not has_baseline:
        why = left_out[-1].reason if left_out else ended_early
        raise JoulelabError(f"cannot measure the baseline, {settings_text(baseline)}", why=why)
    outcome = Outcome(
        result=search.result(),
        unit=workload.unit,
        measured=tuple(measured),
        left_out=tuple(left_out),
        ended_early=ended_early,
        cost_s=math.nan if workload.keeps_work else max(clock() - began_s, _spent_s(measured)),
        cost_j=math.nan,
        notes=(*_energy_notes(measured), *workload.notes),
    )
    return replace(outcome, cost_j=_cost_j(outcome, keeps_work=workload.keeps_work))


def mean_probe(probes: Sequence[Probe]) -> Probe:
    """Return the mean time and energy over probes of the same settings."""
    return Probe(
        settings=probes[0].settings,
        duration_s=fmean(one.duration_s for one in probes),
        energy_j=fmean(one.energy_j for one in probes),
        work=math.fsum(one.work for one in probes),
    )


def _spent_s(measured: Sequence[Measured]) -> float:
    return math.fsum(one.spent_s for one in measured)


def _cost_j(outcome: Outcome, *, keeps_work: bool) -> float:
    if keeps_work:
        base_j = outcome.baseline.energy_j
        probes = (one.probe for one in outcome.measured)
        return math.fsum((one.energy_j - base_j) * one.work for one in probes)
    # What a probe needs besides its steady steps is taken to draw as much power.
    return math.fsum(one.energy.mean_power_w * one.spent_s for one in outcome.measured)


def _energy_notes(measured: Sequence[Measured]) -> Iterator[str]:
    kinds = {one.energy.provenance for one in measured} - {Provenance.MEASURED}
    if kinds:
        yield f"the energy is {join_words(sorted(kinds))}, not measured"
    absent = {name: why for one in measured for name, why in one.energy.absent.items()}
    for name, why in absent.items():
        yield f"without {name}: {why}"
    notes = Counter(_without_details(note) for one in measured for note in one.energy.notes)
    for note, n in notes.items():
        yield f"{note}, in {n} of {count(len(measured), 'probe')}"


def _without_details(note: str) -> str:
    """Leave out what differs from probe to probe.

    Example:
        >>> _without_details("other processes also used the CPU: python (pid 7)")
        'other processes also used the CPU'
        >>> _without_details("gpu:0: this job's share is unknown: the driver names no process")
        "this job's share is unknown (gpu:0)"
    """
    first, *rest = note.split(": ")
    return f"{rest[0]} ({first})" if rest and ":" in first else first
