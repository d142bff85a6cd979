"""The directory of a study: its plan, its finished runs, and what is under way.

::

    STUDY/plan.toml            as run, all defaults written out
    STUDY/runs/<id>/run.json   and the trace; appears whole, by one rename
    STUDY/.partial/<id>-<pid>  what is under way; removed at the next start
    STUDY/.lock                held by the process that runs the study
    STUDY/worker.log           what the worker processes wrote to their standard error
"""

from __future__ import annotations

import json
import math
import os
import shutil
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from joulelab.errors import PlanError, StoreError
from joulelab.storage import Lock, file_errors, sync, write_whole, writing
from joulelab.study.log_plan import RecordedPlan
from joulelab.study.plan import Plan
from joulelab.study.plan_file import parse

SCHEMA = 1
"""Of ``run.json``."""

_OURS = {"plan.toml", "runs", ".partial", ".lock", "worker.log"}


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A finished run as it lies on the disk.

    Attributes:
        run_id: The directory's name.
        directory: Where it is.
        data: What ``run.json`` says; empty when it is damaged.
        problem: Why ``run.json`` cannot be used; ``None`` when it can.
    """

    run_id: str
    directory: Path
    data: Mapping[str, Any]
    problem: str | None

    @property
    def status(self) -> str:
        """``"done"``, ``"failed"`` or ``"damaged"``."""
        return "damaged" if self.problem else str(self.data["status"])

    @property
    def kind(self) -> str:
        """``"cell"``, ``"idle"`` or, when damaged, ``"unknown"``."""
        return "unknown" if self.problem else str(self.data["kind"])

    @property
    def duration_s(self) -> float:
        """From the start of the run's process work to its end, warm-up included."""
        return float(self.data["stopped_unix_s"]) - float(self.data["started_unix_s"])


class Store:
    """A study's directory. :meth:`open` reads one; :meth:`create` also writes.

    Attributes:
        directory: Where it is.
        plan: The study's plan.
    """

    def __init__(
        self, directory: Path, plan: Plan | RecordedPlan, lock: Lock | None = None
    ) -> None:
        self.directory, self.plan, self._lock = directory, plan, lock

    @classmethod
    def open(cls, directory: str | Path) -> Self:
        """An existing study, to read.

        Raises:
            StoreError: It is none, or cannot be read.
        """
        path = Path(directory)
        plan = _stored_plan(path)
        if plan is None:
            raise StoreError(f"{path} is no study", why="it has no plan.toml")
        return cls(path, plan)

    @classmethod
    def create(cls, directory: str | Path, plan: Plan | RecordedPlan) -> Self:
        """A new study, or one of the same plan to go on with; locked until :meth:`close`.

        What killed processes left under way is removed.

        Raises:
            StoreError: The directory holds something else, another plan, another process runs
                the study, or it cannot be written.
        """
        path = Path(directory)
        with file_errors(f"cannot make {path}"):
            path.mkdir(parents=True, exist_ok=True)
            foreign = sorted(entry.name for entry in path.iterdir() if not _is_ours(entry.name))
        if foreign and not (path / "plan.toml").exists():
            raise StoreError(
                f"{path} is no study, and not empty",
                why=f"it holds {foreign[0]}",
                hint="choose another directory with --out",
            )
        store = cls(path, plan, Lock(path / ".lock"))
        try:
            store._prepare()
        except BaseException:
            store.close()
            raise
        return store

    def _prepare(self) -> None:
        existing = _stored_plan(self.directory)
        if existing is not None and existing != self.plan:
            raise StoreError(
                f"{self.directory} holds another plan",
                why=_differences(existing, self.plan),
                hint="choose another directory with --out",
            )
        with file_errors(f"cannot write {self.directory}"):
            (self.directory / "runs").mkdir(exist_ok=True)
            partial = self.directory / ".partial"
            if partial.exists():
                shutil.rmtree(partial)
            partial.mkdir()
        if existing is None:
            with writing(self.directory / "plan.toml"):
                write_whole(self.directory / "plan.toml", self.plan.to_toml().encode())

    def close(self) -> None:
        """Releases the lock."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def begin(self, run_id: str) -> Path:
        """An empty directory for a run under way.

        Raises:
            StoreError: It cannot be made.
        """
        path = self.directory / ".partial" / f"{run_id}-{os.getpid()}"
        with file_errors(f"cannot make {path}"):
            if path.exists():
                shutil.rmtree(path)
            path.mkdir()
        return path

    def finish(self, partial: Path, run: Mapping[str, Any]) -> Path:
        """Writes ``run.json`` and puts the run in its place, whole or not at all.

        Args:
            partial: What :meth:`begin` gave.
            run: The record; ``run["run_id"]`` names the directory. Numbers that are not finite
                are written as null.

        Raises:
            StoreError: It cannot be written; the study is as before.
        """
        final = self.directory / "runs" / str(run["run_id"])
        text = json.dumps(plain(run), allow_nan=False, indent=1)
        with writing(partial / "run.json"):
            write_whole(partial / "run.json", f"{text}\n".encode())
        with file_errors(f"cannot write {final}"):
            for path in partial.rglob("*"):
                sync(path)
            sync(partial)
            partial.rename(final)
            sync(final.parent)
        return final

    def discard(self, run_id: str) -> None:
        """Removes a finished run, so that it is run again."""
        path = self.directory / "runs" / run_id
        aside = self.directory / ".partial" / f"{run_id}-discarded"
        with file_errors(f"cannot remove {path}"):
            path.rename(aside)
            shutil.rmtree(aside)

    def runs(self) -> list[RunRecord]:
        """All finished runs by name; a damaged one has its :attr:`RunRecord.problem`.

        Raises:
            StoreError: The directory cannot be read.
        """
        return list(_records(self.directory / "runs"))


def _is_ours(name: str) -> bool:
    return name in _OURS or name.startswith(".plan.toml.")


def _records(directory: Path) -> Iterator[RunRecord]:
    with file_errors(f"cannot read {directory}"):
        entries = sorted(directory.iterdir()) if directory.exists() else []
    for entry in entries:
        if entry.is_dir():
            yield _record(entry)


def _record(directory: Path) -> RunRecord:
    path = directory / "run.json"
    data: Any = {}
    problem: str | None
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        problem = "run.json is missing"
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        problem = f"run.json is not JSON: {error}"
    except OSError as error:
        problem = f"run.json cannot be read: {error.strerror}"
    else:
        problem = _what_is_wrong(data, directory.name)
    return RunRecord(directory.name, directory, {} if problem else data, problem)


def _what_is_wrong(data: Any, run_id: str) -> str | None:
    if not isinstance(data, dict):
        return "run.json is no object"
    if data.get("schema") != SCHEMA:
        return f"run.json has schema {data.get('schema')!r}; this version reads {SCHEMA}"
    if data.get("run_id") != run_id:
        return f"run.json is of run {data.get('run_id')!r}"
    if data.get("kind") not in ("cell", "idle") or data.get("status") not in ("done", "failed"):
        return "run.json has no kind or no status"
    return None


def _stored_plan(directory: Path) -> Plan | RecordedPlan | None:
    path = directory / "plan.toml"
    with file_errors(f"cannot read {path}"):
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
    try:
        return parse(tomllib.loads(text), str(path))
    except (tomllib.TOMLDecodeError, PlanError) as error:
        raise StoreError(
            f"{path} is damaged", why=str(error), hint="choose another directory"
        ) from None


def _differences(stored: Plan | RecordedPlan, wanted: Plan | RecordedPlan) -> str:
    there, here = _flat(stored.to_dict()), _flat(wanted.to_dict())
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


def plain(value: Any) -> Any:
    """The same with numbers that are not finite as ``None``, as JSON needs it.

    Example:
        >>> plain({"loss": math.nan, "spans": (1, 2.5)})
        {'loss': None, 'spans': [1, 2.5]}
    """
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
