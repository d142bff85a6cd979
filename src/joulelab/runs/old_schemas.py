"""Read records of earlier versions: jobs (``joulelab-job-1``) and study runs (schema 1)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

STARTED_FILE = "job.json"
"""What the first version wrote when a command started; ``run.json`` followed at its end."""

JOB_SCHEMA = "joulelab-job-1"
STUDY_SCHEMA = 1


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
    status = "unfinished"
    if is_finished:
        status = "done" if data["exit_code"] == 0 else "failed"
    known = {name: value for name, value in data.items() if name not in ("schema", "joined")}
    return known | {
        "kind": "command",
        "model": data["tags"].get("model"),
        "inside": data.get("joined"),
        "status": status,
    }


def _of_study_run(data: Mapping[str, Any]) -> dict[str, Any]:
    if data["kind"] not in ("cell", "idle"):
        raise ValueError(f"its kind is {data['kind']!r}")
    renamed = {"schema", "run_id", "kind", "stopped_unix_s", "spans"}
    started_unix_s, ended_unix_s = data["started_unix_s"], data["stopped_unix_s"]
    is_dated = None not in (started_unix_s, ended_unix_s)
    factors = data.get("factors") or {}
    return {name: value for name, value in data.items() if name not in renamed} | {
        "id": data["run_id"],
        "kind": "study",
        "name": f"{data['study']}/{data['run_id']}",
        "idle": data["kind"] == "idle",
        "model": factors.get("model"),
        "factors": factors,
        "host": data["machine"]["host"],
        "ended_unix_s": ended_unix_s,
        "duration_s": ended_unix_s - started_unix_s if is_dated else None,
        "measured": data["spans"],
        "seed": data.get("seed"),
    }
