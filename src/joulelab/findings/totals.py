"""What a study cost on each machine: energy with its interval, and time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from joulelab.energy.energy import Energy
from joulelab.energy.nesting import Enclosure
from joulelab.energy.uncertainty import METRICS, find_boards, metric_value
from joulelab.machine import Machine
from joulelab.runs.record import Run, sum_of_known
from joulelab.runs.study_runs import Study
from joulelab.uncertain import UncertainValue


@dataclass(frozen=True, slots=True)
class Total:
    """The finished runs of a study on one machine, and what their phases used in total."""

    study: Study  # The study.
    machine: Machine | None  # Its machine; ``None`` if it was not recorded.
    runs: tuple[Run, ...]  # The finished runs.
    gross: UncertainValue  # Gross energy of all phases whose energy is known, J; NaN without any.
    net: UncertainValue  # Net energy, J; NaN unless it is known of each of them.
    duration_s: float  # Length of all phases.
    phases: dict[str, tuple[float, float]]  # Gross energy in J and length in s of each phase.
    sources: frozenset[tuple[str, str]]  # Provenance of each component, for example ``"measured"``.
    enclosures: tuple[Enclosure, ...] = ()  # Meters around the components, with their parts.


def study_totals(study: Study) -> list[Total]:
    """Add up the phases of the finished runs of a study, one kind of machine after another.

    Gains and offsets of a sensor are one error of all runs, and so is idle power.
    """
    machines: dict[str | None, list[Run]] = {}
    for run in study.cells():
        key = None if run.machine is None else run.machine.identity
        machines.setdefault(key, []).append(run)
    return [_total(study, runs) for runs in machines.values()]


def _total(study: Study, runs: Sequence[Run]) -> Total:
    energies = [
        (run, phase, result.energy)
        for run in runs
        if run.study is not None
        for phase, result in run.study.results.items()
    ]
    measured = [(run, energy) for run, _, energy in energies if not math.isnan(energy.gross_j)]
    phases: dict[str, tuple[float, float]] = {}
    for _, phase, energy in energies:
        gross_j, duration_s = phases.get(phase, (0.0, 0.0))
        phases[phase] = gross_j + energy.gross_j, duration_s + energy.duration_s
    return Total(
        study=study,
        machine=runs[0].machine,
        runs=tuple(runs),
        gross=_sum("gross_j", measured),
        net=_sum("net_j", measured),
        duration_s=math.fsum(energy.duration_s for *_, energy in energies),
        phases=phases,
        sources=frozenset(
            (part.component, str(part.provenance))
            for _, energy in measured
            for part in energy.components.values()
        ),
        enclosures=tuple(sum_of_known(energy for _, energy in measured).enclosures),
    )


def _sum(metric: str, energies: Sequence[tuple[Run, Energy]]) -> UncertainValue:
    if not energies:
        return UncertainValue(math.nan)
    return UncertainValue.total(
        metric_value(
            METRICS[metric],
            energy,
            find_boards(run.machine, run.host, energy),
            frozenset(energy.components),
        )
        for run, energy in energies
    )
