"""Write the directory of a study; :mod:`joulelab.runs.study_runs` reads it.

::

    STUDY/plan.toml            the plan, all defaults written out
    STUDY/runs/<id>/run.json   the record, and the trace; appears whole, by one rename
    STUDY/.partial/<id>-<pid>  the run that is being measured; removed at the next start
    STUDY/.lock                locked by the process that runs the study
    STUDY/worker.log           standard error of the worker processes
"""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import tomli_w

from joulelab.errors import StoreError
from joulelab.format import finite_or_none
from joulelab.runs.record import Run, read_run, run_of_record, write_record
from joulelab.runs.study_runs import PLAN_FILE
from joulelab.storage import (
    Lock,
    file_errors,
    is_partial,
    make_private_directories,
    read_whole,
    sync,
    write_whole,
    writing,
)
from joulelab.validation import parse_toml

FLEET = ".fleet"
_ENTRIES = {PLAN_FILE, "runs", ".partial", ".lock", "worker.log", FLEET}


class StudyStore:
    """A study's directory, locked for writing; use as a context manager.

    Args:
        directory: New or empty, or a study of the same plan to continue. What killed processes
            left in it is removed.
        plan: The plan, as :meth:`joulelab.study.plan.Plan.to_dict` returns it.

    Raises:
        StoreError: The directory contains something else or another plan, another process runs
            the study, or it cannot be written.
    """

    def __init__(self, directory: Path, plan: Mapping[str, Any]) -> None:
        self.directory = directory
        self._partial = directory / ".partial"
        with file_errors(f"cannot make {directory}"):
            make_private_directories(directory)
            foreign = sorted({entry.name for entry in directory.iterdir()} - _ENTRIES)
        # A study that was killed before its plan was complete has part of one.
        foreign = [name for name in foreign if not is_partial(name)]
        if foreign and not (directory / PLAN_FILE).exists():
            raise StoreError(
                f"{directory} is not a study, and not empty",
                why=f"it contains {foreign[0]}",
                hint="choose another directory with --out",
            )
        self._lock = Lock(directory / ".lock")
        try:
            self._prepare(plan)
        except BaseException:
            self._lock.release()
            raise

    def _prepare(self, plan: Mapping[str, Any]) -> None:
        stored = _stored_plan(self.directory / PLAN_FILE)
        if stored not in (None, plan):
            raise StoreError(
                f"{self.directory} has another plan",
                why=_differences(stored or {}, plan),
                hint="choose another directory with --out",
            )
        with file_errors(f"cannot write {self.directory}"):
            (self.directory / "runs").mkdir(exist_ok=True)
            if self._partial.exists():
                shutil.rmtree(self._partial)
            self._partial.mkdir()
            if stored is None:
                text = tomli_w.dumps(plan)
                write_whole(self.directory / PLAN_FILE, text.encode(), private=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def begin(self, run_id: str) -> Path:
        """Make an empty directory for a run."""
        path = self._partial / f"{run_id}-{os.getpid()}"
        with file_errors(f"cannot make {path}"):
            if path.exists():
                shutil.rmtree(path)
            path.mkdir()
        return path

    def finish(self, partial: Path, record: Mapping[str, Any]) -> Run:
        """Write ``run.json`` and move the run to its directory, whole or not at all.

        Raises:
            StoreError: It cannot be written; the study is as before.
        """
        final = self.directory / "runs" / str(record["id"])
        run = run_of_record(final, finite_or_none(record))
        write_record(partial, run.to_json() | finite_or_none(record))
        _move(partial, final)
        return run

    def adopt(self, run_id: str, packed: bytes) -> Run:
        """Store a run that another host measured, whole or not at all.

        Args:
            run_id: Name of the run.
            packed: Its directory, as :func:`pack_run` returns it.

        Raises:
            StoreError: It cannot be written.
            UserError: It is not the record of that run.
        """
        final = self.directory / "runs" / run_id
        if final.exists():  # A signal may come between storing a run and noting that it is stored.
            return read_run(final)
        partial = self.begin(run_id)
        with writing(partial), tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            archive.extractall(partial, filter="data")
        run = read_run(partial)
        if run.id != run_id:
            raise StoreError(f"cannot store {run_id}", why=f"it is the record of {run.id}")
        _move(partial, final)
        return replace(run, directory=final)

    def discard(self, run_id: str) -> None:
        """Remove a finished run, so that it is run again."""
        path, aside = self.directory / "runs" / run_id, self._partial / f"{run_id}-discarded"
        with file_errors(f"cannot remove {path}"):
            path.rename(aside)
            shutil.rmtree(aside)


def pack_run(directory: Path) -> bytes:
    """Pack the directory of a run into bytes, for :meth:`StudyStore.adopt`."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        archive.add(directory, arcname=".")
    return packed.getvalue()


def _move(partial: Path, final: Path) -> None:
    with writing(final):
        for path in partial.rglob("*"):
            sync(path)
        sync(partial)
        partial.rename(final)
        sync(final.parent)


def _stored_plan(path: Path) -> dict[str, Any] | None:
    with file_errors(f"cannot read {path}"):
        try:
            return parse_toml(read_whole(path))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise StoreError(
                f"{path} is damaged", why=str(error), hint="choose another directory"
            ) from None


def _differences(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    there, here = _flat(stored), _flat(wanted)
    keys = [key for key in there | here if there.get(key) != here.get(key)]
    parts = [f"{key} is {there.get(key)!r} there and {here.get(key)!r} here" for key in keys[:3]]
    if len(keys) > len(parts):
        parts.append(f"and {len(keys) - len(parts)} more")
    return ", ".join(parts)


def _flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
