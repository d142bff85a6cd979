"""Read studies for modules that do not use joulelab.runs.study_runs yet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from joulelab.errors import UserError
from joulelab.runs.record import read_record


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A finished run."""

    run_id: str
    directory: Path
    data: Mapping[str, Any]
    problem: str | None

    @property
    def status(self) -> str:
        """Return "done", "failed" or "damaged"."""
        return "damaged" if self.problem else str(self.data["status"])

    @property
    def kind(self) -> str:
        """Return "cell", "idle" or, when damaged, "unknown"."""
        return "unknown" if self.problem else str(self.data["kind"])

    @property
    def duration_s(self) -> float:
        """Return the duration."""
        return float(self.data["stopped_unix_s"]) - float(self.data["started_unix_s"])


def records(directory: Path) -> list[RunRecord]:
    """Read all runs in the first version's schema."""
    entries = sorted(directory.iterdir()) if directory.exists() else []
    return [_record(entry) for entry in entries if entry.is_dir()]


def _record(directory: Path) -> RunRecord:
    problem: str | None = None
    data: dict[str, Any] | None = None
    try:
        data = read_record(directory)
    except UserError as error:
        problem = str(error).replace(f"{directory}/", "")
    if problem is None and data is None:
        problem = "run.json is missing"
    if data is None or problem:
        return RunRecord(directory.name, directory, {}, problem)
    data |= {
        "schema": 1,
        "run_id": data["id"],
        "kind": "idle" if data["idle"] else "cell",
        "stopped_unix_s": data["ended_unix_s"],
        "spans": data["measured"],
    }
    return RunRecord(directory.name, directory, data, None)
