"""Read records of earlier versions: jobs (``joulelab-job-1``) and study runs (schema 1)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

STARTED_FILE = "job.json"
"""What the first version wrote when a command started; ``run.json`` followed at its end."""

JOB_SCHEMA = "joulelab-job-1"
STUDY_SCHEMA = 1

_STUDY_NAMES = (
    *("block", "order", "repeat", "phases", "characteristics", "data", "results", "epochs"),
    *("settings", "status", "failure", "boot_id", "machine", "started_unix_s"),
)


def is_old(data: Mapping[str, Any]) -> bool:
    """Report whether some JSON is a record of an earlier version."""
    schema = data.get("schema")
    return schema == JOB_SCHEMA or (schema == STUDY_SCHEMA and "run_id" in data)


def upgrade(data: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Translate a record of an earlier version into this version's schema.

    Args:
        data: Content of ``path``.
        path: ``run.json`` or ``job.json``.

    Raises:
        ValueError: The schema is unknown.
        KeyError: The record lacks something.
    """
    schema = data["schema"]
    if schema == JOB_SCHEMA:
        return _of_job(data, is_finished=path.name != STARTED_FILE)
    if is_old(data):
        return _of_study_run(data)
    raise ValueError(f"this version cannot read its schema, {schema!r}")


def _of_job(data: Mapping[str, Any], *, is_finished: bool) -> dict[str, Any]:
    started: dict[str, Any] = {
        name: data[name]
        for name in (
            *("id", "command", "name", "project", "phase", "tags", "host", "machine", "settings"),
            "started_unix_s",
        )
    }
    started |= {
        "kind": "command",
        "model": data["tags"].get("model"),
        "factors": {},
        "boot_id": None,
        "failure": None,
        "inside": data.get("joined"),
        **{name: data.get(name) for name in ("pid", "start_ns", "baseline")},
    }
    names = ("ended_unix_s", "duration_s", "exit_code", "signal", "energy")
    if not is_finished:
        return started | dict.fromkeys(names) | {"spans": [], "notes": [], "status": "unfinished"}
    ended = {name: data[name] for name in (*names, "spans", "notes")}
    return started | ended | {"status": "done" if data["exit_code"] == 0 else "failed"}


def _of_study_run(data: Mapping[str, Any]) -> dict[str, Any]:
    started_unix_s, ended_unix_s = data["started_unix_s"], data["stopped_unix_s"]
    known = None not in (started_unix_s, ended_unix_s)
    if data["kind"] not in ("cell", "idle") or data["status"] not in ("done", "failed"):
        raise ValueError(f"its kind is {data['kind']!r} and its status {data['status']!r}")
    factors = dict(data.get("factors") or {})
    return {name: data.get(name) for name in _STUDY_NAMES} | {
        "id": data["run_id"],
        "kind": "study",
        "name": f"{data['study']}/{data['run_id']}",
        "study": data["study"],
        "idle": data["kind"] == "idle",
        "command": (),
        "tags": {},
        "model": factors.get("model"),
        "factors": factors,
        "host": data["machine"]["host"],
        "ended_unix_s": ended_unix_s,
        "duration_s": ended_unix_s - started_unix_s if known else None,
        "measured": data["spans"],
        "notes": [],
        "seed": data.get("seed"),
        **dict.fromkeys(
            ("project", "phase", "pid", "start_ns", "exit_code", "signal", "baseline", "inside")
        ),
    }
