"""Read records of earlier versions: jobs (``joulelab-job-1``) and study runs (schema 1)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

STARTED_FILE = "job.json"
"""What the first version wrote when a command started; ``run.json`` followed at its end."""


def upgrade(data: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Translate a record of an earlier version, read from ``path``, into this version's schema.

    Raises:
        ValueError: The schema is unknown.
        KeyError: The record lacks something.
    """
    schema = data["schema"]
    if schema == "joulelab-job-1":
        status = "done" if data.get("exit_code") == 0 else "failed"
        return {name: value for name, value in data.items() if name != "joined"} | {
            "kind": "command",
            "model": data["tags"].get("model"),
            "inside": data.get("joined"),
            "status": status if path.name != STARTED_FILE else "unfinished",
        }
    if schema != 1 or data["kind"] not in ("cell", "idle"):
        raise ValueError(f"this version cannot read schema {schema!r}, kind {data.get('kind')!r}")
    started_unix_s, ended_unix_s = data["started_unix_s"], data["stopped_unix_s"]
    is_dated = None not in (started_unix_s, ended_unix_s)
    renamed = {"run_id", "stopped_unix_s", "spans"}
    return {name: value for name, value in data.items() if name not in renamed} | {
        "id": data["run_id"],
        "kind": "study",
        "name": f"{data['study']}/{data['run_id']}",
        "idle": data["kind"] == "idle",
        "model": (data.get("factors") or {}).get("model"),
        "host": data["machine"]["host"],
        "ended_unix_s": ended_unix_s,
        "duration_s": ended_unix_s - started_unix_s if is_dated else None,
        "measured": data["spans"],
        "seed": data.get("seed"),
    }
