"""One measured run, of a job or of a phase of a study, as comparisons take it."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from joulelab.accounting.energy import Energy
from joulelab.analysis.studies import Baselines, Study, phase_energy, understood
from joulelab.analysis.summary import FACTORS
from joulelab.comparison.figures import boards
from joulelab.jobs.record import Job
from joulelab.machine import Machine
from joulelab.study.store import RunRecord

SAMPLES_TAG = "samples"
"""The tag that says how many samples a job took, so that figures a sample can be compared."""

Facts = Mapping[str, Mapping[str, str]]
"""What a run's figures depend on beside what is compared: by group, by name."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Measurement:
    """One run.

    Attributes:
        run: What it is called.
        directory: Where its record is.
        levels: What it is a measurement of: model, phase and factors, or a job's name and tags.
        energy: What it took.
        samples: How many samples it took; NaN when nobody said.
        started_unix_s: When it began.
        boards: What each component is on.
        block: What it shares an error with.
        baseline: Whose idle power was subtracted.
        facts: See :data:`Facts`.
        doubts: Why it may not be a fair measurement, in words.
    """

    run: str
    directory: Path
    levels: Mapping[str, str]
    energy: Energy
    samples: float
    started_unix_s: float
    boards: Mapping[str, Hashable]
    block: Hashable
    baseline: Hashable
    facts: Facts
    doubts: tuple[str, ...] = field(default=())


def of_job(job: Job, side: str) -> Measurement:
    """A job. Its idle power is taken for an error of its side: which baseline it was is not told.

    Args:
        job: The job.
        side: What tells the side's baseline from the other's.
    """
    doubts = [f"its {_ended(job)}"] if job.finished and job.exit_code != 0 else []
    if not job.finished:
        doubts.append("its end was not recorded")
    named = {"name": job.name, "project": job.project, "phase": job.phase}
    return Measurement(
        run=job.id,
        directory=job.directory,
        levels={key: value for key, value in named.items() if value is not None}
        | {f"tag {key}": value for key, value in job.tags.items() if key != SAMPLES_TAG},
        energy=job.energy,
        samples=_number(job.tags.get(SAMPLES_TAG)),
        started_unix_s=job.started_unix_s,
        boards=boards(job.machine, job.host, job.energy),
        block=job.id,
        baseline=side,
        facts={
            "job": {"command": " ".join(job.command)},
            **_machine_facts(job.machine, job.host),
            "sensors": _sensors(job.energy),
            "settings": {key: str(value) for key, value in sorted(job.settings.items())},
        },
        doubts=tuple(doubts),
    )


def of_study(study: Study) -> Iterator[Measurement]:
    """Each phase of each finished run of a study.

    Raises:
        StoreError: A record lacks what it should have.
    """
    baselines = study.baselines()
    for run in study.cells():
        with understood(run):
            found = [_of_phase(study, run, phase, baselines) for phase in run.data["results"]]
        yield from found


def _of_phase(study: Study, run: RunRecord, phase: str, baselines: Baselines) -> Measurement:
    data = run.data
    energy = phase_energy(run, phase, baselines.around(run))
    machine = Machine.from_json(dict(data["machine"]))
    result = data["results"][phase]
    place = (study.directory.resolve(), data["block"])
    settings = dict(data["settings"].get(phase) or {}) | {"epochs": result.get("epochs")}
    settings |= {"resolved_device": data["factors"].get("resolved_device")}
    settings |= {"data": (data.get("data") or {}).get("name")}
    return Measurement(
        run=f"{run.run_id} ({phase})",
        directory=run.directory,
        levels={"phase": phase}
        | {name: str(data["factors"].get(name)) for name in ("model", *FACTORS)},
        energy=energy,
        samples=_number(result["samples"]),
        started_unix_s=float(data["started_unix_s"]),
        boards=boards(machine, machine.host, energy),
        block=place,
        baseline=place,
        facts={
            **_machine_facts(machine, machine.host),
            "sensors": _sensors(energy),
            "settings": {key: str(value) for key, value in sorted(settings.items())},
        },
    )


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def _ended(job: Job) -> str:
    return f"signal was {job.signal}" if job.signal else f"exit code was {job.exit_code}"


def _machine_facts(machine: Machine | None, host: str) -> dict[str, dict[str, str]]:
    if machine is None:
        return {"machine": {"host": host}, "software": {}}
    return {
        "machine": {"host": host} | {key: _text(item) for key, item in machine.comparable.items()},
        "software": {
            "system": _text(machine.os),
            "kernel": _text(machine.kernel),
            "python": _text(machine.python),
        }
        | machine.packages,
    }


def _sensors(energy: Energy) -> dict[str, str]:
    return {name: f"{part.source} ({part.provenance})" for name, part in energy.components.items()}


def _text(value: Any) -> str:
    """A value as a person reads it.

    Example:
        >>> _text([["RTX 3090", 25769803776, False], [None]]), _text(None)
        ('RTX 3090 25769803776 False, unknown', 'unknown')
    """
    if isinstance(value, list):
        return ", ".join(_words(one) for one in value) or "none"
    return "unknown" if value is None else str(value)


def _words(value: Any) -> str:
    return " ".join(map(_text, value)) if isinstance(value, list) else _text(value)
