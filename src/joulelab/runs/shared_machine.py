"""Runs on a machine that other processes used: which ones, who they were, and what it means."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from joulelab.energy.baseline import BUSY_IDLE
from joulelab.energy.energy import Energy
from joulelab.format import count, join_words
from joulelab.runs.record import Run
from joulelab.runs.study_runs import Study, idle_points

MOST_USERS = 4

EFFECT = (
    "the energies include what the other processes used, and the times are longer where they "
    "competed for the machine; no interval covers this"
)
"""What sharing does to the values of a run."""


def is_shared(energy: Energy) -> bool:
    """Return whether other processes are known to have used what an energy measures.

    What they used is more than negligible (:mod:`joulelab.energy.attribution`).
    """
    shares = [part.share for part in energy.components.values()]
    return any(share is not None and not share.is_whole for share in shares)


def was_shared(energy: Energy) -> bool | None:
    """Return :func:`is_shared`, or ``None`` if it is unknown for a component and false for all."""
    if is_shared(energy):
        return True
    parts = energy.components.values()
    return False if parts and all(part.share is not None for part in parts) else None


def has_busy_idle(energy: Energy) -> bool:
    """Return whether the idle power of an energy was measured on a busy machine."""
    return any(note.startswith(BUSY_IDLE) for note in energy.notes)


def shared_energies(run: Run) -> list[Energy]:
    """Return the energies of a run, of the whole and of its phases, that others had a part in."""
    phases = run.study.results.values() if run.study else ()
    return [one for one in (run.energy, *(phase.energy for phase in phases)) if is_shared(one)]


@dataclass(frozen=True, slots=True)
class Sharing:
    """What other processes used during several runs.

    Attributes:
        total: Number of runs.
        runs: Names of the affected ones.
        components: What the others used.
        users: Names of their programs, the most frequent first; empty if they were not recorded.
    """

    total: int
    runs: tuple[str, ...]
    components: tuple[str, ...]
    users: tuple[str, ...]

    @classmethod
    def of(cls, energies: Iterable[tuple[str, Energy]]) -> Self | None:
        """Find the affected runs among names and energies; ``None`` if there are none."""
        named = list(energies)
        affected = [(name, energy) for name, energy in named if is_shared(energy)]
        components: dict[str, None] = {}
        users: Counter[str] = Counter()
        for _, energy in affected:
            for name, part in energy.components.items():
                if part.share is not None and not part.share.is_whole:
                    label = name if name.startswith("gpu") else "the CPU"
                    components[label] = None
                    users.update({user.rpartition(" (pid ")[0] for user in part.share.users})
        if not affected:
            return None
        return cls(
            len({name for name, _ in named}),
            tuple(dict.fromkeys(name for name, _ in affected)),
            tuple(components),
            tuple(user for user, _ in users.most_common()),
        )

    @classmethod
    def of_runs(cls, runs: Iterable[Run]) -> Self | None:
        """Find the affected ones of several runs; ``None`` if there are none."""
        return cls.of((run.id, one) for run in runs for one in shared_energies(run) or [run.energy])

    def __str__(self) -> str:
        more = len(self.users) - MOST_USERS
        users = [*self.users[:MOST_USERS], *([f"{more} more"] if more > 0 else [])]
        who = f" ({join_words(users)})" if users else ""
        of = f"{len(self.runs)} of {count(self.total, 'run')}" if self.total > 1 else "the run"
        return (
            f"measured on a busy machine: other processes{who} also used "
            f"{join_words(self.components)} during {of}"
        )


def study_caveats(study: Study) -> list[str]:
    """Return what other processes did to the values of a study; nothing if they were idle."""
    sharing = Sharing.of_runs(study.cells())
    runs = "" if sharing is None else f"{sharing}: {EFFECT}"
    return [text for text in (runs, describe_busy_idle(study)) if text]


def describe_busy_idle(study: Study) -> str:
    """State in which idle measurements of a study others worked; empty if in none."""
    points = [point for run in study.idles() for point in idle_points(run)]
    busy = [point for point in points if point.busy_w]
    if not busy:
        return ""
    most = max(busy, key=lambda point: max(one.fraction for one in point.load.values()))
    return (
        f"{BUSY_IDLE} in {len(busy)} of "
        f"{count(len(points), 'measurement')} (up to {most.load_text}): the intervals of net "
        "energies are wider for it"
    )
