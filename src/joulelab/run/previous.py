"""The last job like this one, and how the two compare."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from joulelab.energy.energy import Energy, sensor_of
from joulelab.energy.uncertainty import find_boards, gross_energy
from joulelab.errors import JoulelabError
from joulelab.run.options import slug
from joulelab.runs.job import Job, default_place, read_job
from joulelab.uncertain import Ratio, UncertainValue, ratio

MOST_LOOKED_AT = 50
"""So many older records are looked at before the search is given up."""


def last_like(started: Mapping[str, Any], directory: Path) -> Job | None:
    """The newest finished job of the same name and project; ``None`` when there is none.

    It is looked for in the default place and beside this one.

    Args:
        started: What this job's ``job.json`` says.
        directory: This job's.
    """
    for path in _newest_first(str(started["name"]), directory):
        try:
            job = read_job(path)
        except JoulelabError:
            continue
        same = (job.name, job.project) == (started["name"], started["project"])
        if same and job.finished and not math.isnan(job.energy.gross_j):
            return job
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """A job beside an earlier one.

    Attributes:
        previous: The earlier one.
        energy: The ratio of gross energies.
        duration: The ratio of durations.
        differ: What else is not the same, in words.
    """

    previous: Job
    energy: Ratio
    duration: float
    differ: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "id": self.previous.id,
            "directory": str(self.previous.directory),
            "started_unix_s": self.previous.started_unix_s,
            "energy_ratio": self.energy.value,
            "energy_ratio_low": self.energy.low,
            "energy_ratio_high": self.energy.high,
            "duration_ratio": self.duration,
            "differ": list(self.differ),
        }


def compare(job: Job, previous: Job | None) -> Compared | None:
    """A job beside the last one like it; ``None`` where there is none that compares.

    Those compare of which the same components were read by the same sensors.
    """
    if previous is None or _sensors(job.energy) != _sensors(previous.energy):
        return None
    found = ratio(_gross(job), _gross(previous))
    if found is None:
        return None
    same_machine = job.machine is not None and job.machine == previous.machine
    alike = {
        "other arguments": job.command == previous.command,
        "another machine or other software": same_machine,
        "another end": (job.exit_code, job.signal) == (previous.exit_code, previous.signal),
    }
    return Compared(
        previous=previous,
        energy=found,
        duration=job.duration_s / previous.duration_s,
        differ=tuple(what for what, same in alike.items() if not same),
    )


def _gross(job: Job) -> UncertainValue:
    return gross_energy(job.energy, find_boards(job.machine, job.host, job.energy))


def _sensors(energy: Energy) -> dict[str, str]:
    return {name: sensor_of(part.source) for name, part in energy.components.items()}


def _newest_first(name: str, directory: Path) -> Iterator[Path]:
    """Records that may be of that name, by their names, which begin with their times."""
    found: dict[Path, None] = {}
    for place in (default_place(), directory.parent):
        try:
            entries = [entry for entry in place.iterdir() if entry != directory]
        except OSError:
            continue
        # In the default place names tell; elsewhere anybody chose them.
        likely = [
            one for one in entries if place != default_place() or f"-{slug(name)}-" in one.name
        ]
        found |= dict.fromkeys(likely)
    newest = sorted(found, key=_changed_s, reverse=True)
    yield from newest[:MOST_LOOKED_AT]


def _changed_s(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
