"""What a ledger adds up: jobs, and the runs of studies."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from joulelab.carbon.site import Site, site_file
from joulelab.energy.energy import ComponentEnergy, Energy
from joulelab.energy.uncertainty import component_gross, component_own_share
from joulelab.errors import JoulelabError, UserError
from joulelab.ledger.tags import study_tags
from joulelab.runs.job import Job, default_place, is_job, read_job
from joulelab.runs.whole_spans import WHOLE_SPANS
from joulelab.uncertain import UncertainValue

RUN_FILE = "run.json"
PLAN_FILE = "plan.toml"
SITE_FILE = "site.toml"

Complain = Callable[[JoulelabError], None]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Entry:
    """Something that took energy. ``None`` and NaN where nobody knows.

    Attributes:
        key: Equal in copies of one record.
        kind: ``"job"`` or ``"study run"``.
        name: Of the job, or of the study and its run.
        project: What it belongs to.
        phase: Of the project's life.
        model: That was trained or asked.
        command: Its program and arguments; the study's name for a run of it.
        host: Where it ran.
        directory: Where its record is.
        started_unix_s: When it began.
        ended_unix_s: When it ended.
        duration_s: How long it took.
        unfinished: Whether its end was not recorded.
        parts: The energy of each component, one or several spans of it.
        boards: What each component is on.
        site: Of the electricity that it took.
    """

    key: Hashable
    kind: str
    name: str
    project: str | None
    phase: str | None
    model: str | None
    command: str
    host: str
    directory: Path
    started_unix_s: float
    ended_unix_s: float
    duration_s: float
    unfinished: bool
    parts: tuple[ComponentEnergy, ...]
    boards: Mapping[str, Hashable]
    site: Site

    @property
    def energy(self) -> UncertainValue | None:
        """Gross, of all that the machine drew, J; ``None`` when nothing was measured."""
        return self._total(component_gross)

    @property
    def own_energy(self) -> UncertainValue | None:
        """Its own part of that where it is known, an estimate, J."""
        return self._total(component_own_share)

    @property
    def is_shared(self) -> bool:
        """Whether others are known to have used its machine."""
        return any(part.share is not None and not part.share.is_whole for part in self.parts)

    def _total(
        self, amount: Callable[[ComponentEnergy, Hashable], UncertainValue]
    ) -> UncertainValue | None:
        known = [part for part in self.parts if not math.isnan(part.gross_j)]
        if not known:
            return None
        return UncertainValue.total(
            amount(part, self.boards.get(part.component, self.host)) for part in known
        )


def find_entries(
    *paths: str | os.PathLike[str], given: Mapping[str, Any], complain: Complain
) -> list[Entry]:
    """The jobs and studies in these directories and all below them.

    Args:
        *paths: Jobs, studies, or directories that hold some; none: where jobs are kept.
        given: What is said of the site, before anything that is kept.
        complain: Is told of a record that cannot be read, which is then left out.

    Raises:
        UserError: There is no such directory.
    """
    found: list[Entry] = []
    for root in paths or _default_places():
        if not Path(root).is_dir():
            raise UserError(
                f"there is no directory {root}", hint="give jobs, studies, or where they lie"
            )
        sites = _Sites(Path(root), given, complain)
        for directory, below, files in os.walk(root):
            below.sort()
            path = Path(directory)
            try:
                if is_job(path):
                    below.clear()
                    found.append(_of_job(read_job(path), sites.of(path)))
                elif PLAN_FILE in files and "runs" in below:
                    below.clear()
                    found.extend(_of_study(path, sites.of(path), complain))
            except JoulelabError as error:
                complain(error)
    return found


def _default_places() -> Sequence[Path]:
    return [default_place()] if default_place().is_dir() else []


def _of_job(job: Job, site: Site) -> Entry:
    machine = job.machine
    return Entry(
        key=(job.id, job.host, job.started_unix_s),
        kind="job",
        name=job.name,
        project=job.project,
        phase=job.phase,
        model=job.tags.get("model"),
        command=" ".join(job.command),
        host=job.host,
        directory=job.directory,
        started_unix_s=job.started_unix_s,
        ended_unix_s=job.ended_unix_s,
        duration_s=job.duration_s,
        unfinished=not job.finished,
        parts=tuple(job.energy.components.values()),
        boards={} if machine is None else boards_of(machine.to_json()),
        site=site,
    )


def _of_study(directory: Path, site: Site, complain: Complain) -> Iterator[Entry]:
    project, phase = study_tags(directory)
    for path in sorted((directory / "runs").glob(f"*/{RUN_FILE}")):
        try:
            yield _of_run(path, project, phase, site)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            complain(UserError(f"{path} is damaged", why=f"{type(error).__name__}: {error}"))


def _of_run(path: Path, project: str | None, phase: str | None, site: Site) -> Entry:
    run = json.loads(path.read_bytes())
    machine = run["machine"]
    started, stopped = (_number(run[name]) for name in ("started_unix_s", "stopped_unix_s"))
    energies = [
        Energy.from_json(span["energy"])
        for span in run["spans"]
        if span["name"] in WHOLE_SPANS and span["energy"] is not None
    ]
    return Entry(
        key=(run["study"], run["run_id"], machine["host"], started),
        kind="study run",
        name=f"{run['study']}/{run['run_id']}",
        project=project,
        phase=phase,
        model=(run.get("factors") or {}).get("model"),
        command=str(run["study"]),
        host=machine["host"],
        directory=path.parent,
        started_unix_s=started,
        ended_unix_s=stopped,
        duration_s=stopped - started,
        unfinished=False,
        parts=tuple(part for energy in energies for part in energy.components.values()),
        boards=boards_of(machine),
        site=site,
    )


def boards_of(machine: Mapping[str, Any]) -> dict[str, Hashable]:
    """Each GPU's UUID, from what a record says of its machine."""
    return {f"gpu:{gpu['index']}": gpu["uuid"] for gpu in machine["gpus"] if gpu["uuid"]}


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


class _Sites:
    """The site of each record: as given, else as kept beside or above it, else as configured here.

    Records copied from another machine bring their ``site.toml`` with them. It is looked for from a
    record up to the directory that was asked for, and where that is a home's ``jobs``, in the home.
    """

    def __init__(self, root: Path, given: Mapping[str, Any], complain: Complain) -> None:
        root = root.resolve()
        self._top = root.parent if root.name == default_place().name else root
        self._given, self._complain = given, complain
        self._known: dict[Path | None, Site] = {}

    def of(self, directory: Path) -> Site:
        """Where the electricity of a record came from."""
        file = self._file(directory.resolve())
        if file not in self._known:
            self._known[file] = self._read(file)
        return self._known[file]

    def _file(self, directory: Path) -> Path | None:
        for place in (directory, *directory.parents):
            file = place / SITE_FILE
            if file.is_file():
                return None if file == site_file().resolve() else file
            if place == self._top:
                break
        return None

    def _read(self, file: Path | None) -> Site:
        if file is None:
            return Site.configured(**self._given)
        try:
            return Site.configured(file=file, **self._given)
        except UserError as error:
            self._complain(error)
            return Site(**{name: value for name, value in self._given.items() if value is not None})
