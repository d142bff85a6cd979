"""Runs on a machine that other processes used: which ones, who they were, and what it means."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from joulelab.energy.attribution import ALSO_USED
from joulelab.energy.baseline import BUSY_IDLE
from joulelab.energy.energy import Energy
from joulelab.format import count, join_words, sentence
from joulelab.runs.record import Run
from joulelab.runs.study_runs import PLAN_FILE, Study, idle_points

MOST_NAMES = 4

_NOTES = (
    re.compile(rf"{ALSO_USED} (the CPU|gpu:\d+)(.*)"),
    re.compile(r"(the CPU|gpu:\d+) was used by others, too(.*)"),
)
"""Notes of an energy that state what others used, and their users; old records have the second."""

_USER = re.compile(r"[^,: ][^,]* \(pid \d+\)")

EFFECT = (
    "the energies include what the other processes used, and the times are longer where they "
    "competed for the machine; no interval covers this"
)
"""How other processes affect the values of a run."""


def is_shared(energy: Energy) -> bool:
    """Return whether other processes are known to have used what an energy measures.

    What they used is more than negligible (:mod:`joulelab.energy.attribution`).
    """
    return bool(other_users(energy))


def other_users(energy: Energy) -> dict[str, list[str]]:
    """Return what others used, with the names of their programs, from shares and from notes.

    A note is all that is left where a part of the span has no share.
    """
    found: dict[str, list[str]] = {}
    for name, part in energy.components.items():
        if part.share is not None and not part.share.is_whole:
            label = name if name.startswith("gpu") else "the CPU"
            found.setdefault(label, []).extend(map(_program, part.share.users))
    for note in energy.notes:
        for pattern in _NOTES:
            match = pattern.search(note)
            if match is not None and match[1] not in found:
                found[match[1]] = [_program(user) for user in _USER.findall(match[2])]
    return found


def _program(user: str) -> str:
    """Return the name of a program without its process number."""
    return user.rpartition(" (pid ")[0]


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
    """Use of a machine by other processes during several runs."""

    total: int  # Number of runs.
    runs: tuple[str, ...]  # Names of the affected ones.
    components: tuple[str, ...]  # What the others used.
    users: tuple[str, ...]  # Their programs' names, most frequent first; empty if not recorded.

    @classmethod
    def of(cls, energies: Iterable[tuple[str, Energy]]) -> Self | None:
        """Find the affected runs among names and energies; ``None`` if there are none."""
        named = list(energies)
        affected = [(name, energy) for name, energy in named if is_shared(energy)]
        components: dict[str, None] = {}
        users: Counter[str] = Counter()
        for _, energy in affected:
            for label, names in other_users(energy).items():
                components[label] = None
                users.update(list(dict.fromkeys(names)))
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
        who = f" ({_some(self.users)})" if self.users else ""
        others = f"other processes{who} also used {join_words(self.components)}"
        if self.total == 1:
            return f"measured on a busy machine: {others} during the run"
        verb = "was" if len(self.runs) == 1 else "were"
        return f"{len(self.runs)} of {self.total} runs {verb} measured on a busy machine: {others}"

    @property
    def caveat(self) -> str:
        """What happened, and what it does to the values."""
        return f"{self}; {EFFECT}"


def study_caveats(study: Study) -> list[str]:
    """State what other processes or limits did to a study's values, and what to do about it."""
    sharing = Sharing.of_runs(study.cells())
    texts = [] if sharing is None else [str(sharing), EFFECT, _remedy(study, sharing.runs)]
    idle = describe_busy_idle(study)
    caveats = (" ".join(map(sentence, texts)), sentence(idle), sentence(_describe_cut(study)))
    return [caveat for caveat in caveats if caveat]


def _describe_cut(study: Study) -> str:
    """State which phases a limit in seconds cut short; empty if none."""
    cells = study.cells()
    cut = {
        (run.id, f"{run.model} in {phase}")
        for run in cells
        if run.study
        for phase, result in run.study.results.items()
        if not result.complete
    }
    if not cut:
        return ""
    runs = len({run_id for run_id, _ in cut})
    what = _some(tuple(sorted({where for _, where in cut})))
    return (
        f"{runs} of {count(len(cells), 'run')} did less work than planned within the seconds of "
        f"the plan ({what}): compare their energies per sample"
    )


def _remedy(study: Study, runs: tuple[str, ...]) -> str:
    if study.is_imported:
        return "record them again on a quiet machine"
    out = shlex.quote(str(study.directory))
    plan = shlex.quote(str(study.directory / PLAN_FILE))
    command = f"joulelab study {plan} --out {out} --retry-shared"
    return f"on a quiet machine, `{command}` measures again what was affected: {_some(runs)}"


def _some(names: tuple[str, ...]) -> str:
    more = len(names) - MOST_NAMES
    return join_words([*names[:MOST_NAMES], *([f"{more} more"] if more > 0 else [])])


def describe_busy_idle(study: Study) -> str:
    """State in which idle measurements of a study others worked; empty if in none."""
    points = [point for run in study.idles() for point in idle_points(run)]
    busy = [point for point in points if point.busy_w]
    if not busy:
        return ""
    most = max(busy, key=lambda point: max(one.fraction for one in point.load.values()))
    return (
        f"{BUSY_IDLE} in {len(busy)} of "
        f"{count(len(points), 'measurement')} (up to {most.load_text}): net energies may be too "
        "high or too low, and their intervals are wider for it; to be sure, run the study again "
        "in a new directory"
    )
