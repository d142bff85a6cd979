"""The entries of a ledger: runs with their site, energy and costs, and the labels of runs."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from joulelab.carbon.costs import Costs
from joulelab.carbon.site import Site, site_file
from joulelab.energy.energy import ComponentEnergy
from joulelab.energy.uncertainty import component_gross, component_own_share, find_boards
from joulelab.errors import JoulelabError, UserError, nearest
from joulelab.recording.trace import read_trace
from joulelab.recording.trace_format import READINGS_FILE
from joulelab.runs import PHASES
from joulelab.runs.pruning import is_alive
from joulelab.runs.record import Run, is_run, read_record, saved_run_directories, write_record
from joulelab.runs.selection import open_runs, select
from joulelab.runs.shared_machine import is_shared
from joulelab.runs.study_runs import LABELS_FILE, LABELS_SCHEMA, is_study, study_labels
from joulelab.storage import write_whole, writing
from joulelab.uncertain import UncertainValue

SITE_FILE = "site.toml"
SAVED_RUNS = ("runs", "jobs")
"""Names of the directories in a home that contain saved runs."""

OnError = Callable[[JoulelabError], None]


@dataclass(frozen=True, eq=False)
class Entry:
    """A run in a ledger."""

    run: Run
    site: Site  # of its electricity
    energy: UncertainValue | None = None  # gross, J; None if nothing was measured
    costs: Costs | None = None  # of that energy
    records: int = 1  # how many equal records it stands for, see joulelab.ledger.records_table

    @property
    def key(self) -> Hashable:
        """Equal for copies of one record."""
        return self.run.name, self.run.id, self.run.host, self.run.started_unix_s

    @property
    def parts(self) -> list[ComponentEnergy]:
        """The measured components."""
        return [
            part for part in self.run.energy.components.values() if not math.isnan(part.gross_j)
        ]

    @cached_property
    def boards(self) -> Mapping[str, Hashable]:
        """The piece of hardware that each component is."""
        return find_boards(self.run.machine, self.run.host, self.run.energy)

    @property
    def is_shared(self) -> bool:
        """Whether other processes are known to have used its machine."""
        return is_shared(self.run.energy)

    def component_energies(
        self, kind: str = "", *, own_share: bool = False
    ) -> list[UncertainValue]:
        """Return the gross energy of each component, J, or of those of a kind such as ``"gpu"``.

        With ``own_share``, it is the run's own share where that is known.
        """
        boards, host = self.boards, self.run.host
        return [
            component_own_share(part, boards[part.component], host)
            if own_share
            else component_gross(part, boards[part.component])
            for part in self.parts
            if kind in ("", part.component.partition(":")[0])
        ]

    def gross_energy(self, *, own_share: bool = False) -> UncertainValue | None:
        """Return what the machine used, or the run's own share of it where that is known, J."""
        parts = self.component_energies(own_share=own_share)
        return UncertainValue.total(parts) if parts else None

    @property
    def carbon(self) -> UncertainValue | None:
        """Grams of CO2-equivalent; ``None`` if unknown."""
        return self._times(math.nan if self.costs is None else self.costs.carbon_g_per_j)

    @property
    def price(self) -> UncertainValue | None:
        """Price in :attr:`currency`; ``None`` if unknown."""
        return self._times(math.nan if self.costs is None else self.costs.price_per_j)

    @property
    def currency(self) -> str | None:
        """Currency of the price; ``None`` without a price."""
        return None if self.price is None or self.costs is None else self.costs.currency

    def _times(self, factor: float) -> UncertainValue | None:
        if self.energy is None or math.isnan(factor):
            return None
        return self.energy.scaled(factor)


def find_entries(
    *paths: str | os.PathLike[str],
    given: Mapping[str, Any],
    on_error: OnError,
    on_read: Callable[[int], None],
) -> list[Entry]:
    """Find all runs in these directories and below, without energy and costs.

    The arguments are those of :func:`joulelab.ledger.ledger.read_ledger`.
    """
    found: list[Entry] = []
    for root in record_directories(paths):
        sites = _Sites(root, given, on_error)

        def read(number: int, before: int = len(found)) -> None:
            on_read(before + number)

        runs = open_runs(root, on_error=on_error, on_read=read)
        found += [Entry(run, sites.of(run.directory)) for run in runs]
    return found


def record_directories(paths: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """Return the directories that paths and names of saved runs stand for."""
    found = [] if paths else saved_run_directories()
    for path in map(Path, paths):
        found += [path] if path.is_dir() else [run.directory for run in select(str(path))]
    return found


def price_entries(
    entries: Iterable[Entry], on_error: OnError, *, own_share: bool = False
) -> list[Entry]:
    """Compute the energy and the costs of entries; report each error of an intensity once."""
    priced = []
    reported: set[str] = set()
    for entry in entries:
        energy = entry.gross_energy(own_share=own_share)
        costs = None
        if energy is not None:
            try:
                costs = _costs(entry, energy)
            except JoulelabError as error:
                if str(error) not in reported:
                    reported.add(str(error))
                    on_error(error)
        priced.append(replace(entry, energy=energy, costs=costs))
    return priced


def label_run(
    directory: Path,
    *,
    project: str | None,
    phase: str | None,
    tags: Mapping[str, str],
    remove: Iterable[str] = (),
) -> None:
    """Set the project and phase (unless ``None``) of a run or a study; set and remove a run's tags.

    Raises:
        UserError: It cannot have them, is still running, or lacks a tag that is to be removed.
    """
    if phase is not None and phase not in PHASES:
        raise UserError(f"no phase {phase!r}", hint=nearest(phase, PHASES))
    labels = {
        name: value for name, value in (("project", project), ("phase", phase)) if value is not None
    }
    if is_study(directory):
        if tags or remove:
            raise UserError(f"{directory} is a study", why="only runs have tags")
        _label_study(directory, labels)
        return
    data = read_record(directory) if is_run(directory) else None
    if data is None:
        raise UserError(f"{directory} is neither a run nor a study", hint="name its directory")
    if data["kind"] == "study":
        raise UserError(f"{directory} is a run of a study", hint="label the whole study")
    if data["status"] == "unfinished" and is_alive(data["host"], data.get("pid")):
        raise UserError(
            f"{directory} is still running",
            why="its record is written at its end",
            hint="label it then, or pass --project and --phase to joulelab run",
        )
    known = dict(data.get("tags") or {})
    for key in remove:
        if key not in known:
            raise UserError(f"{directory} has no tag {key!r}", hint=nearest(key, known))
        del known[key]
    write_record(directory, data | labels | {"tags": known | dict(tags)})


def _label_study(directory: Path, labels: Mapping[str, str]) -> None:
    project, phase = study_labels(directory)
    data = {"schema": LABELS_SCHEMA, "project": project, "phase": phase, **labels}
    path = directory / LABELS_FILE
    with writing(path):
        write_whole(path, json.dumps(data, indent=1).encode() + b"\n")


def _costs(entry: Entry, energy: UncertainValue) -> Costs:
    run = entry.run
    is_recorded = (run.directory / READINGS_FILE).is_file()
    return entry.site.costs(
        energy.value,
        energy.interval,
        started_unix_s=run.started_unix_s,
        stopped_unix_s=run.ended_unix_s,
        trace=partial(read_trace, run.directory) if is_recorded else None,
    )


class _Sites:
    """The site of each record: as given, else from a file above it, else this machine's.

    Records that were copied from another machine bring their ``site.toml`` with them. It is looked
    up from a record up to the directory that was asked for, and in a home for its saved runs.
    """

    def __init__(self, root: Path, given: Mapping[str, Any], on_error: OnError) -> None:
        root = root.resolve()
        self._top = root.parent if root.name in SAVED_RUNS else root
        self._given, self._on_error = given, on_error
        self._sites: dict[Path | None, Site] = {}

    def of(self, directory: Path) -> Site:
        """Return where the electricity of a record came from."""
        file = self._file(directory.resolve())
        if file not in self._sites:
            self._sites[file] = self._read(file)
        return self._sites[file]

    def _file(self, directory: Path) -> Path | None:
        for parent in (directory, *directory.parents):
            file = parent / SITE_FILE
            if file.is_file():
                return None if file == site_file().resolve() else file
            if parent == self._top:
                break
        return None

    def _read(self, file: Path | None) -> Site:
        if file is None:
            return Site.configured(**self._given)
        try:
            return Site.configured(file=file, **self._given)
        except UserError as error:
            self._on_error(error)
            return Site(**{name: value for name, value in self._given.items() if value is not None})
