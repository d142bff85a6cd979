"""The last job like this one, and how the two compare."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from joulelab.accounting.energy import COVERAGE_FACTOR, ComponentEnergy, Energy, sensor_of
from joulelab.errors import JoulelabError
from joulelab.jobs.options import slug
from joulelab.jobs.record import Job, default_place, read_job

MOST_LOOKED_AT = 50
"""So many older records are looked at before the search is given up."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """One energy over another.

    Attributes:
        value: This over the other.
        low: Lower end of the 95 % interval by the sensors' uncertainties.
        high: Its upper end.
    """

    value: float
    low: float
    high: float


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


def ratio(mine: Energy, other: Energy, *, same_boards: bool) -> Ratio | None:
    """The ratio of two gross energies; ``None`` where other components or sensors were read.

    To first order (GUM 5.1.2) of ln(ΣE/ΣE'): edges are independent. Gain and offset are one error
    in both where the boards are the same, and then only the difference of what they do counts.

    Args:
        mine: The numerator.
        other: The denominator.
        same_boards: Whether the same sensors gave both.

    Example:
        >>> from joulelab.sensors.sensor import Provenance
        >>> def joules(gross_j):
        ...     return Energy(duration_s=1.0, components={"gpu:0": ComponentEnergy(
        ...         component="gpu:0", source="nvml.samples", provenance=Provenance.MEASURED,
        ...         duration_s=1.0, gross_j=gross_j, gain_uncertainty=0.05)})
        >>> found = ratio(joules(110.0), joules(100.0), same_boards=True)
        >>> round(found.value, 3), round(found.low, 3), round(found.high, 3)
        (1.1, 1.1, 1.1)
    """
    if _sensors(mine) != _sensors(other) or not (mine.gross_j > 0 and other.gross_j > 0):
        return None
    variance = 0.0
    for name, part in mine.components.items():
        a, b = _relative(part, mine.gross_j), _relative(other.components[name], other.gross_j)
        variance += a.edge**2 + b.edge**2
        if same_boards:
            variance += (a.gain - b.gain) ** 2 + (a.offset - b.offset) ** 2
        else:
            variance += a.gain**2 + b.gain**2 + a.offset**2 + b.offset**2
    value = mine.gross_j / other.gross_j
    factor = math.exp(COVERAGE_FACTOR * math.sqrt(variance))
    return Ratio(value, value / factor, value * factor)


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
    """A job beside the last one like it; ``None`` where there is none that compares."""
    if previous is None:
        return None
    same_machine = job.machine is not None and job.machine == previous.machine
    found = ratio(job.energy, previous.energy, same_boards=same_machine)
    if found is None:
        return None
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


@dataclass(frozen=True, slots=True)
class _Relative:
    """What each of a component's errors does to the total, relative standard uncertainty."""

    edge: float
    gain: float
    offset: float


def _relative(part: ComponentEnergy, total_j: float) -> _Relative:
    return _Relative(
        part.edge_uncertainty_j / total_j,
        part.gain_uncertainty * part.gross_j / total_j,
        part.offset_uncertainty_w * part.duration_s / total_j,
    )


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
