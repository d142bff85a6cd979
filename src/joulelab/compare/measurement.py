"""One measured run, as comparisons take it, and jobs as such."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from joulelab.energy.energy import Energy
from joulelab.energy.uncertainty import find_boards
from joulelab.findings.words import listed
from joulelab.machine import Gpu, Machine
from joulelab.runs.job import Job

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
        pieces: So many spans of the run were measured, where it is not the whole of it.
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
    pieces: int = 1
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
    else:
        doubts += job.notes
    named = {"name": job.name, "project": job.project, "phase": job.phase}
    return Measurement(
        run=job.id,
        directory=job.directory,
        levels={key: value for key, value in named.items() if value is not None}
        | {f"tag {key}": value for key, value in job.tags.items() if key != SAMPLES_TAG},
        energy=job.energy,
        samples=number_or_nan(job.tags.get(SAMPLES_TAG)),
        started_unix_s=job.started_unix_s,
        boards=find_boards(job.machine, job.host, job.energy),
        block=job.id,
        baseline=side,
        facts={
            "job": {"command": " ".join(job.command)},
            **machine_facts(job.machine, job.host),
            "sensors": sensor_facts(job.energy),
            "settings": {key: str(value) for key, value in sorted(job.settings.items())},
        },
        doubts=tuple(doubts),
    )


def number_or_nan(value: Any) -> float:
    """A number out of a record; NaN where there is none."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def _ended(job: Job) -> str:
    return f"signal was {job.signal}" if job.signal else f"exit code was {job.exit_code}"


def machine_facts(machine: Machine | None, host: str) -> dict[str, dict[str, str]]:
    """What a run's figures depend on of its machine and software."""
    if machine is None:
        return {"machine": {"host": host}, "software": {}}
    hardware = machine.comparable | {"gpus": [_gpu(gpu) for gpu in machine.gpus]}
    software = {"system": machine.os, "kernel": machine.kernel, "python": machine.python}
    return {
        "machine": {"host": host} | {name: _text(value) for name, value in hardware.items()},
        "software": {name: _text(value) for name, value in software.items()} | machine.packages,
    }


def sensor_facts(energy: Energy) -> dict[str, str]:
    """Where a run's figures come from, by component."""
    return {name: f"{part.source} ({part.provenance})" for name, part in energy.components.items()}


def _gpu(gpu: Gpu) -> str:
    memory = "" if gpu.memory_bytes is None else f" {gpu.memory_bytes / 2**30:.0f} GiB"
    return f"{gpu.name}{memory}{' with MIG' if gpu.mig else ''}"


def _text(value: Any) -> str:
    """A value as a person reads it.

    Example:
        >>> _text([350.0, None]), _text([]), _text(16)
        ('350.0 and unknown', 'none', '16')
    """
    if isinstance(value, list):
        return listed([_text(one) for one in value]) or "none"
    return "unknown" if value is None else str(value)
